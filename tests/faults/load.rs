//! The load: lanes of numbered pushes, as iLink sends them, and lanes of numbered commands, as devices do.
//!
//! A lane sends one after the other: its order is what must be kept.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::doors::Doors;
use crate::peer::Peer;
use crate::records::{Command, Push, Recorder, Try};
use crate::support::bridge::{TIME, UID, base64};
use crate::support::http::Answer;

/// iLink's patience with an answer, and its tries.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const TRIES: usize = 3;

/// Lanes of pushes, by their number.
pub(crate) const PUSH_LANES: usize = 10;
pub(crate) const PRESENCE: usize = 6;
/// Always the same bytes: there the count is kept, not each message.
pub(crate) const IDENTICAL: usize = 7;
/// The simulated service's own pushes.
pub(crate) const BY_SERVICE: usize = 8;
const LARGE: usize = 9;

/// Lanes of commands, by their number.
pub(crate) const COMMAND_LANES: usize = 12;
/// Calls that must not be repeated.
pub(crate) const CREATE: usize = 8;
/// Commands that expire soon.
pub(crate) const SHORT: usize = 9;
pub(crate) const SHORT_TTL_S: u64 = 2;
/// Commands that are to be refused.
pub(crate) const BAD: usize = 10;
/// Calls without a receiver or a content to know them by.
pub(crate) const STATES: usize = 11;

/// Commands without a result, at most, where faults are: a broker with very many that wait writes its file and does little else,
/// and on a busy machine they would become ever more.
const WITHOUT_RESULT: usize = 2000;

/// Where the load goes.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) recorder: Arc<Recorder>,
    /// The callback, by way of its proxy.
    pub(crate) doors: Doors,
    /// The simulated service itself.
    pub(crate) service: String,
    pub(crate) broker: u16,
    /// A group that exists.
    pub(crate) group: String,
    /// Between two pushes, and two commands, of a lane.
    pub(crate) push_every: Duration,
    pub(crate) command_every: Duration,
    /// So many commands are sent before that, as fast as they are taken.
    pub(crate) at_once: usize,
    pub(crate) stop: CancellationToken,
}

impl Load {
    /// Starts all lanes.
    pub(crate) fn start(&self) -> TaskTracker {
        let lanes = TaskTracker::new();
        for lane in 0..PUSH_LANES {
            lanes.spawn(self.clone().push_lane(lane));
        }
        for lane in 0..COMMAND_LANES {
            lanes.spawn(self.clone().command_lane(lane));
        }
        lanes.close();
        lanes
    }

    async fn push_lane(self, lane: usize) {
        let http = crate::support::http::http();
        let mut pace = tokio::time::interval(self.push_every);
        // A lane that waited for an outage does not catch up in a burst.
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for number in 0.. {
            if self.stop.run_until_cancelled(pace.tick()).await.is_none() {
                return;
            }
            let (label, body) = push(lane, number);
            if lane == BY_SERVICE {
                self.push_by_service(&http, label, lane, body).await;
            } else {
                self.push(&http, label, lane, &body).await;
            }
        }
    }

    /// Pushes as iLink does: again only if there was no answer at all.
    async fn push(&self, http: &reqwest::Client, label: String, lane: usize, body: &Value) {
        let body = Bytes::from(body.to_string());
        let push = {
            let mut records = self.recorder.lock();
            records.pushes.push(Push { label, lane, ..Push::default() });
            records.pushes.len() - 1
        };
        let mut failed = None;
        for made in 0..TRIES {
            let at = self.recorder.now();
            let door = self.doors.pick(at, failed);
            self.recorder.lock().pushes[push].tries.push(Try { member: door, at, ended: at, ..Try::default() });
            let request = http
                .post(self.doors.url(door))
                .header("content-type", "application/json")
                .header("x-try", format!("{push}.{made}"))
                .body(body.clone())
                .timeout(ANSWER_LIMIT);
            let answer = Answer::try_of(request).await.ok();
            let answer = answer.map(|answer| {
                let json: Value = serde_json::from_str(&answer.body).unwrap_or_default();
                (answer.status, json["code"].as_i64())
            });
            let ended = self.recorder.now();
            let mut records = self.recorder.lock();
            let made = &mut records.pushes[push].tries[made];
            (made.ended, made.answer) = (ended, answer);
            if answer.is_some() {
                return;
            }
            drop(records);
            self.doors.failed(door, ended);
            failed = Some(door);
        }
    }

    async fn push_by_service(&self, http: &reqwest::Client, label: String, lane: usize, body: Value) {
        let at = self.recorder.now();
        let request = http.post(format!("{}/sim/push?to={UID}", self.service)).json(&body);
        let Ok(answer) = Answer::try_of(request).await else {
            return self.recorder.incident("the simulated service did not answer /sim/push");
        };
        // 409: it has forgotten the registration, and pushes nothing.
        if answer.status != 200 {
            return;
        }
        let ended = self.recorder.now();
        let tries = answer.json()["tries"].as_array().cloned().unwrap_or_default();
        // Its balancer passes each try to the next member.
        let members = self.doors.count();
        let made = |(number, made): (usize, &Value)| {
            let status = made["status"].as_u64().and_then(|status| u16::try_from(status).ok());
            let answer = status.map(|status| (status, made["code"].as_i64()));
            Try { member: number % members, at, ended, answer, may_be_answered: true }
        };
        let tries = tries.iter().enumerate().map(made).collect();
        self.recorder.lock().pushes.push(Push { label, lane, tries });
    }

    async fn command_lane(self, lane: usize) {
        let mut pace = tokio::time::interval(self.command_every);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut peer: Option<Peer> = None;
        for number in 0.. {
            let at_once = self.recorder.lock().commands.len() < self.at_once;
            if at_once && self.stop.is_cancelled() {
                return;
            }
            if !at_once && self.stop.run_until_cancelled(pace.tick()).await.is_none() {
                return;
            }
            if peer.is_none() {
                peer = Peer::connect(self.broker, &format!("faults-{lane}"), None).await.map(|(peer, _)| peer);
            }
            if self.at_once == 0 && self.recorder.lock().without_result() >= WITHOUT_RESULT {
                continue;
            }
            let Some(connected) = &mut peer else { continue };
            if self.command(connected, lane, number).await.is_none() {
                // Nobody knows whether the broker has it: what becomes of it is accounted for, not demanded.
                peer = None;
            }
        }
    }

    async fn command(&self, peer: &mut Peer, lane: usize, number: u64) -> Option<()> {
        let (label, topic, payload) = self.command_of(lane, number);
        let raw = !topic.contains("/call/");
        let properties = PublishProperties {
            response_topic: raw.then(|| "ilink/reply/faults".to_owned()),
            correlation_data: raw.then(|| Bytes::from(label.clone())),
            ..no_properties()
        };
        let command = {
            let mut records = self.recorder.lock();
            let sent = self.recorder.now();
            records.commands.push(Command { label, lane, sent, taken: false });
            records.commands.len() - 1
        };
        peer.publish(&topic, &payload, properties).await?;
        self.recorder.lock().commands[command].taken = true;
        Some(())
    }

    fn command_of(&self, lane: usize, number: u64) -> (String, String, Vec<u8>) {
        let label = format!("c{lane}:{number}");
        let raw = |topic: String| (label.clone(), topic, label.clone().into_bytes());
        let call = |name: &str, mut fields: Value| {
            fields["ref"] = json!(label);
            (label.clone(), format!("ilink/{name}"), fields.to_string().into_bytes())
        };
        let text = |uid: &str| json!({"accept_uid": uid, "content": label});
        match lane {
            0 | 1 => raw(format!("ilink/send/user/60{lane}/text")),
            2 => call("call/send_msg/text", text("602")),
            // Raw and JSON share the lane of one uid.
            3 if number.is_multiple_of(2) => raw("ilink/send/user/603/text".to_owned()),
            3 => call("call/send_msg/text", text("603")),
            4 => raw("ilink/send/user/604/file".to_owned()),
            5 => raw(format!("ilink/send/group/{}", self.group)),
            6 => raw("ilink/send/topic/home/lamp".to_owned()),
            7 => call("by/dev/call/send_msg/text", text("607")),
            CREATE => call("call/ham_group/create", json!({"group_name": label, "uid_list": ["608"]})),
            SHORT => {
                let fields = json!({"accept_uid": "609", "content": label, "ttl": SHORT_TTL_S});
                call("call/send_msg/text", fields)
            }
            BAD => call("call/send_msg/text", json!({"accept_uid": "610", "content": label, "colour": "red"})),
            _ => call("call/ham_user/states", json!({"uid_list": ["601", "602"]})),
        }
    }
}

fn no_properties() -> PublishProperties {
    PublishProperties::default()
}

/// A push's label and body.
fn push(lane: usize, number: u64) -> (String, Value) {
    let label = format!("p{lane}:{}", if lane == IDENTICAL { 0 } else { number });
    let from = format!("50{lane}");
    let of = |msg_type: i64, content: &str| json!({"to_uid": UID, "from_uid": from, "msg_type": msg_type, "content": base64(content.as_bytes()), "create_time": TIME});
    let with = |mut body: Value, key: &str, value: &str| {
        body[key] = json!(value);
        body
    };
    let body = match lane {
        3 => of(2, &label),
        4 => with(of(3, &label), "group_id", "4cdad356-85b4-008627"),
        5 => with(of(4, &label), "group_id", "home/door"),
        PRESENCE => {
            let state = json!({
                "to_uid": UID, "from_uid": format!("presence-{lane}"), "msg_type": 4, "type": number % 2,
                "time": number,
            });
            return (label, state);
        }
        // Larger than what one write of the proxy carries, so that cuts fall into it.
        LARGE => of(1, &format!("{label} {}", "x".repeat(20_000 + usize::try_from(number % 7).unwrap_or(0) * 5000))),
        _ => of(1, &label),
    };
    (label, body)
}
