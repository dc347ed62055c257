//! The control endpoints under `/sim/`, and pushes made by request.
//!
//! | endpoint | body | answer |
//! |---|---|---|
//! | `POST /sim/push` | a push, sent verbatim (any JSON object), or `{"from_uid","text"}` with or without `to_uid` | 200 and the push with its `outcome` and `tries`, once that is known; 409 when it has no receiver |
//! | `POST /sim/fault` | `{"path","mode","code","delay_s","retry_after_s","times"}` | 200 `{}` |
//! | `POST /sim/expire` | – | ends all access tokens: `{"expired":1}` |
//! | `POST /sim/forget` | – | forgets all registrations, tells nobody: `{"forgotten":1}` |
//! | `GET /sim/state` | – | the latest calls, handshakes and pushes, and what is remembered |
//!
//! A push goes to the callback of `?to=<uid>`, else of the body's `to_uid`, else to the only one registered; so `?to=` sends
//! a body that names somebody else. Its `outcome` is `answered` (2xx, whatever the code), `error_status` or `unanswered`.
//!
//! A fault's `path` is one of the seven names, or `*` for all of them; `mode` is `code` (answers `code`), `drop` (reads the
//! call and closes the connection), `hang` (never answers), `status` (answers the HTTP status in `code`, by default 500),
//! `garbage` (200 and no JSON), `gateway` (a page with the status in `code`, by default 503, and `Retry-After` if there is a
//! `retry_after_s`), `redirect` (302), `delay` (executes the call at once, answers `delay_s` later), an odd answer, or `clear`
//! (ends the faults of that path, or all).
//!
//! Odd answers are given to calls that were executed: `string_code` (`"0"`), `integral_code` (`0.0`), `bom` (a byte order mark
//! before the object), `nul` (one behind it), `gzip`, `gbk` (a string in it), `deep` (100,000 brackets), `page` (no JSON),
//! `cut_short`, `long` (30 MB) and `endless`.
//!
//! Only `delay` and the odd answers execute the call. All modes but `delay` first wait for `delay_s`. A fault applies to `times`
//! calls (by default 1; 0: until cleared). If several apply, the oldest goes first.
//!
//! A request from a web page (it has an `Origin`) is refused: a page that somebody happens to visit must not be able to push to
//! a callback.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::fault::{Faults, Order};
use super::records::{CallRecord, Handshake, Log, Message, Outgoing, PushRecord};
use super::simulator::Simulator;
use super::world::{Groups, Subscriptions};
use crate::os::clock;
use crate::protocol::{self, Push, Uid, content};

/// Why a push that was ordered is not made.
#[derive(Debug, thiserror::Error)]
pub enum PushRefused {
    /// The body is neither a JSON object nor the short form.
    #[error("{0}")]
    BadBody(String),
    /// Nobody has registered a callback.
    #[error("no callback is registered")]
    NobodyRegistered,
    /// The one who was named has not.
    #[error("{0} has no callback registered")]
    NotRegistered(Uid),
    /// Several have, and none was named.
    #[error("several callbacks are registered: name one as \"to_uid\" in the body or as ?to=<uid>")]
    SeveralRegistered,
    /// The service stops.
    #[error("the service is stopping")]
    Stopping,
}

/// The short form of a push: a text message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Short {
    from_uid: Uid,
    text: String,
    to_uid: Option<Uid>,
}

/// What `GET /sim/state` shows.
#[derive(Serialize)]
struct State<'a> {
    calls: &'a Log<CallRecord>,
    calls_total: u64,
    handshakes: &'a Log<Handshake>,
    handshakes_total: u64,
    pushes: &'a Log<PushRecord>,
    pushes_total: u64,
    tokens_issued: u64,
    registrations: Vec<Registration<'a>>,
    online: &'a BTreeMap<Uid, bool>,
    users: &'a BTreeMap<String, Uid>,
    groups: &'a Groups,
    subscriptions: &'a Subscriptions,
    faults: &'a Faults,
}

#[derive(Serialize)]
struct Registration<'a> {
    uid: &'a Uid,
    url: &'a str,
}

impl Simulator {
    /// Pushes `body` and waits for what comes of it. The body is a push, sent verbatim, or the short form
    /// `{"from_uid","text"}`. It goes to the callback of `to`, else of the body's `to_uid`, else to the only one registered.
    /// A presence body also changes what `ham_user` answers about its `from_uid`. The push is finished even if the caller
    /// stops waiting.
    ///
    /// # Errors
    /// When the body cannot be pushed or its receiver cannot be told.
    pub async fn push(&self, body: &[u8], to: Option<&Uid>) -> Result<PushRecord, PushRefused> {
        let push = self.ordered(body, to)?;
        let record = self.record(push);
        let service = self.clone();
        let delivery = self.spawn(async move { service.deliver(record).await });
        delivery.await.ok().flatten().ok_or(PushRefused::Stopping)
    }

    /// Everything that `GET /sim/state` shows, as JSON.
    #[must_use]
    pub fn state(&self) -> String {
        let (world, journal, faults) = (self.world(), self.journal(), self.faults());
        let accounts = &world.accounts;
        let registrations = accounts.registered().map(|(uid, url)| Registration { uid, url: url.as_str() });
        text(&State {
            calls: &journal.calls,
            calls_total: journal.calls.total(),
            handshakes: &journal.handshakes,
            handshakes_total: journal.handshakes.total(),
            pushes: &journal.pushes,
            pushes_total: journal.pushes.total(),
            tokens_issued: accounts.issued(),
            registrations: registrations.collect(),
            online: accounts.online(),
            users: accounts.users(),
            groups: &world.groups,
            subscriptions: &world.subscriptions,
            faults: &faults,
        })
    }

    /// Answers a control endpoint.
    pub(super) async fn control(&self, path: &str, body: &[u8], to: Option<String>) -> (StatusCode, String) {
        match path {
            "sim/push" => {
                let to = to.and_then(|to| Uid::try_from(to).ok());
                match self.push(body, to.as_ref()).await {
                    Ok(record) => (StatusCode::OK, text(&record)),
                    Err(refused @ PushRefused::BadBody(_)) => (StatusCode::BAD_REQUEST, error(&refused.to_string())),
                    Err(refused) => (StatusCode::CONFLICT, error(&refused.to_string())),
                }
            }
            "sim/fault" => match serde_json::from_slice::<Order>(body) {
                Ok(order) => match self.faults().order(&order) {
                    Ok(()) => (StatusCode::OK, "{}".to_owned()),
                    Err(wrong) => (StatusCode::BAD_REQUEST, error(&wrong)),
                },
                Err(wrong) => (StatusCode::BAD_REQUEST, error(&format!("not a fault: {wrong}"))),
            },
            "sim/expire" => {
                (StatusCode::OK, json!({"expired": self.world().accounts.expire(Instant::now())}).to_string())
            }
            "sim/forget" => (StatusCode::OK, json!({"forgotten": self.world().accounts.forget()}).to_string()),
            _ => (StatusCode::OK, self.state()),
        }
    }

    /// The push that `body` orders.
    fn ordered(&self, body: &[u8], to: Option<&Uid>) -> Result<Outgoing, PushRefused> {
        let keys: BTreeMap<String, &RawValue> = serde_json::from_slice(body)
            .map_err(|error| PushRefused::BadBody(format!("not a JSON object: {error}")))?;
        if keys.contains_key("text") && !keys.contains_key("content") {
            let short: Short =
                serde_json::from_slice(body).map_err(|error| PushRefused::BadBody(format!("not a push: {error}")))?;
            let receiver = self.receiver(to, short.to_uid.as_ref())?;
            let encoded = content::encode(short.text.as_bytes());
            let message = Message {
                from_uid: short.from_uid.as_str(),
                group_id: None,
                create_time: clock::wall_now_ms() / 1000,
                msg_type: 1,
                content: &encoded,
            };
            let addressed = message.to(short.to_uid.as_ref().unwrap_or(&receiver));
            let push = addressed.ok_or_else(|| PushRefused::BadBody("not a push".to_owned()))?;
            return Ok(Outgoing { to: receiver, ..push });
        }
        let text = std::str::from_utf8(body).map_err(|error| PushRefused::BadBody(error.to_string()))?;
        let raw = RawValue::from_string(text.trim().to_owned());
        let body = raw.map_err(|error| PushRefused::BadBody(error.to_string()))?;
        // A body that cannot be read as a push may still be sent: how the callback takes it is what is being tried.
        let decoded = Push::decode(text.as_bytes()).ok();
        let receiver = self.receiver(to, decoded.as_ref().and_then(|push| push.to_uid.as_ref()))?;
        if let Some(Push { message: protocol::Message::Presence { from, online, .. }, .. }) = decoded {
            self.world().accounts.set_online(from, online);
        }
        Ok(Outgoing { to: receiver, body })
    }

    fn receiver(&self, ordered: Option<&Uid>, named: Option<&Uid>) -> Result<Uid, PushRefused> {
        let world = self.world();
        if let Some(uid) = ordered.or(named) {
            let registered = world.accounts.callback(uid).is_some();
            return if registered { Ok(uid.clone()) } else { Err(PushRefused::NotRegistered(uid.clone())) };
        }
        let mut all = world.accounts.registered().map(|(uid, _)| uid.clone());
        match (all.next(), all.next()) {
            (None, _) => Err(PushRefused::NobodyRegistered),
            (Some(uid), None) => Ok(uid),
            (Some(_), Some(_)) => Err(PushRefused::SeveralRegistered),
        }
    }
}

fn error(what: &str) -> String {
    json!({ "error": what }).to_string()
}

/// Not by way of `Value`, which could not hold every push that may be tried: deep nesting, numbers out of range.
fn text(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).unwrap_or_else(|wrong| error(&wrong.to_string()))
}
