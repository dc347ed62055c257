//! Sending a push to a callback: tries, their limit, and what came of them (§2.2, §4).

use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::Value;

use super::records::{Outcome, PushRecord, Try, millis};
use super::simulator::Simulator;
use crate::cloud::http;
use crate::os::clock;

/// An answer longer than this is cut: only its beginning is of interest.
const MAX_ANSWER: usize = 64 << 10;
/// How much of an answer is shown.
const SHOWN_ANSWER: usize = 200;

impl Simulator {
    /// Makes the tries of push `id`, noting each in the journal; says what came of it.
    pub(super) async fn deliver(&self, mut record: PushRecord) -> PushRecord {
        let url = self.world().accounts.callback(&record.to_uid).cloned();
        let Some(url) = url else {
            record.outcome = Outcome::NotRegistered;
            self.note(&record);
            return record;
        };
        let options = self.options();
        let mut outcome = Outcome::Unanswered;
        for _ in 0..options.tries {
            let body = record.body.get().to_owned();
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
            let made = attempt(self.http().post(url.as_str(), headers, body), options.answer_limit).await;
            outcome = made.outcome();
            record.tries.push(made);
            self.note(&record);
            let again = match outcome {
                Outcome::Unanswered => true,
                Outcome::ErrorStatus => options.retry_on_error,
                _ => false,
            };
            if !again {
                break;
            }
        }
        record.outcome = outcome;
        tracing::debug!(push.id = record.id, to_uid = %record.to_uid, tries = record.tries.len(), ?outcome, "pushed");
        self.note(&record);
        record
    }

    fn note(&self, record: &PushRecord) {
        if let Some(entry) = self.journal().pushes.entry(record.id) {
            entry.outcome = record.outcome;
            entry.tries.clone_from(&record.tries);
        }
    }
}

async fn attempt(exchange: impl Future<Output = Result<http::Answer, http::Error>>, limit: Duration) -> Try {
    let at = clock::rfc3339(clock::wall_now_ms());
    let started = Instant::now();
    let answered = answer(exchange, limit).await;
    let took_ms = millis(started.elapsed());
    match answered {
        Ok((status, body)) => Try {
            at,
            took_ms,
            status: Some(status.as_u16()),
            code: serde_json::from_slice(&body).ok().and_then(|answer: Value| answer.get("code")?.as_i64()),
            answer: Some(String::from_utf8_lossy(&body).chars().take(SHOWN_ANSWER).collect()),
            error: None,
        },
        Err(error) => Try { at, took_ms, status: None, code: None, answer: None, error: Some(error) },
    }
}

/// The status and the body (cut at 64 KiB) that a callback answers within `limit`, else why there is none.
pub(super) async fn answer(
    exchange: impl Future<Output = Result<http::Answer, http::Error>>,
    limit: Duration,
) -> Result<(StatusCode, Vec<u8>), String> {
    let whole = async {
        let answer = exchange.await?;
        let status = answer.status;
        match answer.read(MAX_ANSWER).await {
            (body, Ok(()) | Err(http::Cut::TooLong(_))) => Ok((status, body)),
            (_, Err(http::Cut::Broken(error))) => Err(error),
        }
    };
    match tokio::time::timeout(limit, whole).await {
        Ok(Err(http::Error::TimedOut)) | Err(_) => Err(format!("no answer within {} ms", millis(limit))),
        Ok(answered) => answered.map_err(|error| error.texts().collect::<Vec<_>>().join(": ")),
    }
}
