//! `/events`: the status page's sections as server-sent events, each sent when it changes.
//!
//! Each stream is a task that looks a few times a second, however fast messages pass, and a channel of one event that the
//! connection reads. A client that reads too slowly is disconnected. Every stream ends after a while, so that those of clients
//! that vanished do not pile up; the page reconnects by itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use secrecy::SecretString;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::language::Language;
use super::page::{SECTIONS, sections};
use crate::operate::status::{Overview, Report, Reports};
use crate::os::tasks;

/// Between two looks, at least and at most.
const NOT_BEFORE: Duration = Duration::from_millis(300);
const AT_LATEST: Duration = Duration::from_secs(2);
/// A peer that has not taken an event after this does not read.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stream lasts.
const LIFE: Duration = Duration::from_mins(10);
/// So long after its end the page opens another.
const AGAIN: Duration = Duration::from_secs(1);
/// So often something is sent, for proxies that end what is silent.
const ALIVE: Duration = Duration::from_secs(15);

/// The peer does not read, or has gone.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Slow,
    Gone,
}

/// A stream, until `stop`. It holds `permit` while it lives; `cut` ends its connection.
pub(super) fn events(
    mut reports: Reports,
    word: Option<SecretString>,
    language: Language,
    permit: OwnedSemaphorePermit,
    stop: CancellationToken,
    cut: CancellationToken,
) -> Response {
    let (to_peer, from_task) = mpsc::channel(1);
    let telling = tokio::spawn(async move {
        let _permit = permit;
        let report = Arc::clone(&reports.borrow_and_update());
        // Cancel-safe: what is dropped only looks.
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(LIFE) => return,
            // The page opens another one, which looks at the new report.
            Ok(()) = reports.changed() => return,
            ended = tell(&report, word.as_ref(), language, &to_peer) => ended,
        };
        if ended == Ended::Slow {
            cut.cancel();
        }
    });
    let events = stream::unfold((from_task, telling), async |(mut from_task, telling)| {
        let Some(event) = from_task.recv().await else {
            // With a fault, so does the connection.
            telling.await.unwrap_or_else(tasks::fault);
            return None;
        };
        Some((Ok::<Event, Infallible>(event), (from_task, telling)))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)).into_response()
}

/// Sends each section, and again whenever it has changed.
async fn tell(
    report: &Report,
    word: Option<&SecretString>,
    language: Language,
    to_peer: &mpsc::Sender<Event>,
) -> Ended {
    let (mut passed, mut cloud) = (report.counters.activity.changed(), report.cloud.clone());
    let (mut link, mut writable) = (report.link.clone(), report.spool.writable());
    let mut told = [const { String::new() }; SECTIONS];
    let mut tick = interval(AT_LATEST);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // All arms only observe.
        tokio::select! {
            () = to_peer.closed() => return Ended::Gone,
            _ = tick.tick() => {}
            Ok(()) = passed.changed() => {}
            Ok(()) = cloud.changed() => {}
            Ok(()) = link.changed() => {}
            Ok(()) = writable.changed() => {}
        }
        passed.mark_unchanged();
        cloud.mark_unchanged();
        link.mark_unchanged();
        writable.mark_unchanged();
        let now = sections(&Overview::of(report).await, word, language);
        for (told, (id, html)) in told.iter_mut().zip(now) {
            if *told == html {
                continue;
            }
            let event =
                Event::default().event("section").retry(AGAIN).data(json!({"id": id, "html": html}).to_string());
            *told = html;
            if let Err(ended) = send(to_peer, event).await {
                return ended;
            }
        }
        sleep(NOT_BEFORE).await;
    }
}

async fn send(to_peer: &mpsc::Sender<Event>, event: Event) -> Result<(), Ended> {
    match timeout(PATIENCE, to_peer.send(event)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Ended::Gone),
        Err(_) => Err(Ended::Slow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_is_slow_and_one_that_left_is_gone() {
        let (to_peer, from_task) = mpsc::channel(1);
        assert_eq!(send(&to_peer, Event::default()).await, Ok(()));
        assert_eq!(send(&to_peer, Event::default()).await, Err(Ended::Slow));
        drop(from_task);
        assert_eq!(send(&to_peer, Event::default()).await, Err(Ended::Gone));
    }
}
