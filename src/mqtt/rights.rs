//! Tries out what the broker allows us to do (`check --connect`), on a separate connection.
//!
//! The connection has its own client id and session, and publishes nothing retained. It does not disturb a bridge that is
//! running: that one recognises the probe and ignores it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};

use super::account::AccountCheck;
use super::config::{LinkConfig, Protocol, StartError};
use super::delivery::Ack;
use super::delivery::Refusal;
use super::dialer::Dialer;
use super::explanations::{Failure, History};
use super::packets::{Event, Subscription, Version};
use super::refused;
use super::v5::V5;
use super::v311::V311;
use super::wire::{LAST_PUBLISH_ID, Wire};
use crate::local::{Publication, filter};

/// The limit for everything: TCP, TLS, CONNACK and all answers.
const LIMIT: Duration = Duration::from_secs(15);
/// The limit for our probe to come back, once all answers are there.
const HEARD_LIMIT: Duration = Duration::from_secs(5);
/// The limit for the broker to close the connection after our DISCONNECT.
const FAREWELL: Duration = Duration::from_secs(1);
/// The expiry of what is published: nobody can use it later.
const EXPIRY_S: u32 = 2;

/// What to try out.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Filters of the topics the bridge publishes to.
    pub writes: Vec<String>,
    /// Filters the bridge subscribes to.
    pub reads: Vec<String>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Rights {
    /// For each filter of `writes`.
    pub writes: Vec<(String, Verdict)>,
    /// For each filter of `reads`.
    pub reads: Vec<(String, Verdict)>,
    /// Whether our probe on a command topic came back; none if it could not be published.
    pub heard: Option<bool>,
    /// The uid of another account, if its bridge is online under our base topic.
    pub other: Option<String>,
}

/// What was found for one filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is allowed.
    Granted,
    /// It is not allowed; the remedy.
    Refused(String),
    /// The broker did not tell; the reason.
    Unknown(String),
}

/// Why nothing could be tried out.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// The configuration can never work.
    #[error(transparent)]
    Start(#[from] StartError),
    /// There was no connection; the explanation with the remedy.
    #[error("{0}")]
    NoConnection(String),
}

/// Tries out what a bridge of this configuration needs, with the client id `client_id`. The topics to publish to contain
/// `random`.
///
/// # Errors
/// If the configuration can never work, or there is no connection.
pub async fn try_out(
    config: LinkConfig,
    client_id: String,
    random: &str,
    wanted: Wanted,
) -> Result<Rights, RightsError> {
    let base = config.base.clone();
    let config = LinkConfig {
        client_id,
        session_expiry: 0,
        persistent_session: false,
        expect_session: false,
        // Not the bridge's own last will: the bridge may be online.
        will: Publication::raw(base.bridge(random), ""),
        farewell: Vec::new(),
        birth: Vec::new(),
        ..config
    };
    let protocol = config.protocol;
    let dialer = Arc::new(Dialer::new(config)?);
    dialer.leaves_session.store(true, std::sync::atomic::Ordering::Relaxed);
    let trial = Trial::new(&dialer, random, wanted);
    let tried = match protocol {
        Protocol::V5 => trial.run::<V5>(&dialer).await,
        Protocol::V311 => trial.run::<V311>(&dialer).await,
    };
    tried.map_err(RightsError::NoConnection)
}

struct Trial {
    wanted: Wanted,
    /// The topic tried for each of `writes`.
    topics: Vec<String>,
    self_test: String,
    account: AccountCheck,
    own_uid: crate::protocol::Uid,
    rights: Rights,
    /// How many publishes the broker takes at once.
    window: usize,
    /// The next of `topics` to try.
    next: usize,
    under_way: HashMap<u16, usize>,
    verdicts: Vec<Option<Verdict>>,
    granted: Option<Vec<bool>>,
    stood: bool,
    after_refusal: bool,
}

impl Trial {
    fn new(dialer: &Dialer, random: &str, wanted: Wanted) -> Self {
        let base = &dialer.config.base;
        let topics: Vec<String> = wanted.writes.iter().map(|filter| example(filter, random)).collect();
        Self {
            verdicts: vec![None; topics.len()],
            topics,
            self_test: base.self_test(random),
            account: AccountCheck::new(base),
            own_uid: dialer.config.own_uid.clone(),
            wanted,
            rights: Rights::default(),
            window: 1,
            next: 0,
            under_way: HashMap::new(),
            granted: None,
            stood: false,
            after_refusal: false,
        }
    }

    async fn run<V: Version>(mut self, dialer: &Arc<Dialer>) -> Result<Rights, String> {
        let mut wire = Wire::<V>::open(dialer);
        let until = Instant::now() + LIMIT;
        let mut heard_until = None;
        let why = loop {
            if self.all_answered() {
                let hears = self.rights.heard == Some(false) && self.hears_itself();
                let limit = *heard_until.get_or_insert_with(|| Instant::now() + HEARD_LIMIT);
                if !hears || limit <= Instant::now() {
                    break None;
                }
            }
            let event = match timeout_at(heard_until.unwrap_or(until), wire.poll()).await {
                Ok(Ok(event)) => event,
                Ok(Err(failure)) => break Some(self.explain(dialer, &failure)),
                Err(_) if heard_until.is_some() => break None,
                Err(_) => break Some(self.explain(dialer, &dialer.explain().no_answer())),
            };
            if let Err(failure) = self.handle(event, &mut wire, dialer) {
                break Some(self.explain(dialer, &failure));
            }
        };
        match why {
            Some(cause) if !self.stood => return Err(cause),
            _ => {}
        }
        if why.is_none() {
            wire.disconnect();
            // Until the DISCONNECT is written, and the broker closes the connection.
            let _ = timeout(FAREWELL, async { while wire.poll().await.is_ok() {} }).await;
        }
        Ok(self.rights(dialer.config.protocol, why))
    }

    fn handle<V: Version>(&mut self, event: Event, wire: &mut Wire<V>, dialer: &Dialer) -> Result<(), Failure> {
        match event {
            Event::Connected(accepted) => {
                if let Some(failure) = accepted.unusable(dialer.explain()) {
                    return Err(failure);
                }
                self.stood = true;
                self.window = usize::from(accepted.receive_maximum.min(LAST_PUBLISH_ID));
                let reads: Vec<_> =
                    self.wanted.reads.iter().map(|filter| (filter.clone(), Subscription::Look)).collect();
                wire.subscribe(&reads);
            }
            Event::Subscribed(granted) => {
                self.granted = Some(granted);
                self.publish(wire);
            }
            Event::Acked(pkid, ack) => {
                self.acked(pkid, ack, dialer);
                self.publish(wire);
            }
            Event::Message(message) if message.topic == self.self_test => self.rights.heard = Some(true),
            Event::Message(message) => self.account.note(&message.topic, &message.payload),
            Event::Ended(failure) => return Err(failure),
            Event::Written
            | Event::PingSent(_)
            | Event::PingAnswered(_)
            | Event::Unreadable(_)
            | Event::Unsubscribed
            | Event::Other => {}
        }
        Ok(())
    }

    fn publish<V: Version>(&mut self, wire: &mut Wire<V>) {
        let free = (1..=LAST_PUBLISH_ID).filter(|pkid| !self.under_way.contains_key(pkid));
        let room = self.window.saturating_sub(self.under_way.len());
        let tries: Vec<_> = free.take(room).zip(self.topics.iter().enumerate().skip(self.next)).collect();
        for (pkid, (at, topic)) in tries {
            let probe = Publication { topic: topic.clone(), payload: Bytes::new(), ..Publication::default() };
            wire.publish(pkid, &probe, Some(EXPIRY_S));
            self.under_way.insert(pkid, at);
            self.next = at + 1;
        }
    }

    fn acked(&mut self, pkid: u16, ack: Ack, dialer: &Dialer) {
        let Some(at) = self.under_way.remove(&pkid) else { return };
        let topic = self.topics.get(at).map(String::as_str).unwrap_or_default();
        let verdict = match ack {
            Ack::Done { .. } => {
                if topic == self.self_test {
                    self.rights.heard = self.rights.heard.or(Some(false));
                }
                Verdict::Granted
            }
            Ack::QuotaExceeded => Verdict::Unknown("its quota is exceeded".to_owned()),
            Ack::Failed(why) => Verdict::Unknown(why.to_owned()),
            ack => {
                let Refusal { remedy, .. } = refused::refusal(&dialer.config.base, topic, ack);
                self.after_refusal = true;
                Verdict::Refused(remedy)
            }
        };
        if let Some(slot) = self.verdicts.get_mut(at) {
            *slot = Some(verdict);
        }
    }

    fn all_answered(&self) -> bool {
        self.granted.is_some() && self.verdicts.iter().all(Option::is_some)
    }

    /// Whether a subscription covers our own probe.
    fn hears_itself(&self) -> bool {
        self.wanted.reads.iter().any(|filter| filter::matches(filter, &self.self_test))
    }

    fn explain(&self, dialer: &Dialer, failure: &Failure) -> String {
        let history = History { stood: self.stood, quick_losses: 0, after_refusal: self.after_refusal };
        dialer.explain().failure(failure, &history)
    }

    fn rights(mut self, protocol: Protocol, why: Option<String>) -> Rights {
        let unknown = why.unwrap_or_else(|| "no answer".to_owned());
        let granted = self.granted.unwrap_or_default();
        let mut granted = granted.into_iter();
        self.rights.reads = self
            .wanted
            .reads
            .into_iter()
            .map(|filter| {
                let verdict = match granted.next() {
                    Some(true) => Verdict::Granted,
                    Some(false) => Verdict::Refused(refused::read_lines(std::slice::from_ref(&filter))),
                    None => Verdict::Unknown(unknown.clone()),
                };
                (filter, verdict)
            })
            .collect();
        let silent = || Verdict::Unknown("MQTT 3.1.1 does not tell".to_owned());
        self.rights.writes = self
            .wanted
            .writes
            .into_iter()
            .zip(self.verdicts)
            .map(|(filter, verdict)| {
                let verdict = match verdict {
                    // 3.1.1 acknowledges also a publish that the ACL drops.
                    Some(Verdict::Granted) if protocol == Protocol::V311 => silent(),
                    Some(verdict) => verdict,
                    None => Verdict::Unknown(unknown.clone()),
                };
                (filter, verdict)
            })
            .collect();
        self.rights.other = self.account.other(&self.own_uid);
        self.rights
    }
}

/// A topic that matches a filter, with `random` in the place of `+`. `#` becomes two levels, so that subscribers to one level,
/// as to `event/+`, do not receive it.
fn example(filter: &str, random: &str) -> String {
    let many = format!("{random}/{random}");
    let levels = filter.split('/').map(|level| match level {
        "+" => random,
        "#" => &many,
        level => level,
    });
    levels.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_is_one_of_the_filters_topics() {
        for filter in ["ilink/recv/#", "ilink/by/+/result/#", "ilink/call/self_test/+", "a/b", "#"] {
            let topic = example(filter, "r");
            assert!(filter::matches(filter, &topic) && !topic.contains(['+', '#']), "{topic}");
        }
        assert!(!filter::matches("ilink/event/+", &example("ilink/event/#", "r")));
    }
}
