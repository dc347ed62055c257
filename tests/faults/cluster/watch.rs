//! Who leads, as etcd says it, asked again and again; and when etcd itself stands still.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::world::NAMES;
use crate::records::{Life, Recorder, Records, SECOND, Time};
use crate::support::bridge::UID;
use crate::support::http::{Answer, http};

const EVERY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_millis(500);
/// An answer that comes later than this after the last one: etcd stood still meanwhile.
const STILL: Time = SECOND / 2;

/// Notes each leadership as a life, until `stop`.
pub(crate) async fn watch(etcds: Vec<u16>, recorder: Arc<Recorder>, stop: CancellationToken) {
    let http = http();
    let (mut turn, mut last, mut revision) = (0, 0, None);
    while stop.run_until_cancelled(sleep(EVERY)).await.is_some() {
        let url = format!("http://127.0.0.1:{}/v3/kv/txn", etcds[turn % etcds.len()]);
        // A write: it is answered when a majority has it on disk.
        let Some(leader) = ask(http.post(url)).await else {
            turn += 1;
            continue;
        };
        let now = recorder.now();
        let mut records = recorder.lock();
        if now - last > STILL && last > 0 {
            records.hiccups.push((last, now));
        }
        let found = leader.as_ref().map(|(_, revision)| revision.clone());
        if found != revision {
            begin(&mut records, leader.map(|(member, _)| member), last, now);
            revision = found;
        }
        last = now;
    }
}

/// The one before has ended. The new one may have begun at any time since `last`.
fn begin(records: &mut Records, member: Option<usize>, last: Time, now: Time) {
    if let Some(life) = records.lives.last_mut() {
        life.ended.get_or_insert(now);
    }
    if let Some(member) = member {
        records.lives.push(Life { member, started: last, ..Life::default() });
    }
}

/// Member and revision of the leader's key, if it is there. None: no answer.
async fn ask(request: reqwest::RequestBuilder) -> Option<Option<(usize, String)>> {
    let key = STANDARD.encode(format!("/ilink2mqtt/{UID}/leader"));
    let transaction = json!({"success": [
        {"request_put": {"key": STANDARD.encode("/faults/watch"), "value": ""}},
        {"request_range": {"key": key}},
    ]});
    let answer = Answer::try_of(request.json(&transaction).timeout(PATIENCE)).await.ok()?;
    if answer.status != 200 {
        return None;
    }
    let answer: Value = serde_json::from_str(&answer.body).ok()?;
    let Some(found) = answer.pointer("/responses/1/response_range/kvs/0") else { return Some(None) };
    let value: Value = serde_json::from_slice(&STANDARD.decode(found["value"].as_str()?).ok()?).ok()?;
    let member = NAMES.iter().position(|name| value["name"] == *name)?;
    Some(Some((member, found["create_revision"].as_str()?.to_owned())))
}
