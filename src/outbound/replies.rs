//! The answers of routes: each becomes a command like those that routes make of devices' publishes.
//!
//! An answer is durable before the message that it answers is completed. What cannot be stored is counted as failed, and holds
//! nothing up.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tracing::debug;

use super::deliver::Accepted;
use super::intake::{Intake, NotStored};
use super::record::{Command, Mark, Record, ReplyTo};
use crate::delivery::{Answers, Reply};
use crate::os::clock::Stamp;

/// Makes answers durable.
#[derive(Debug)]
pub struct Replies {
    /// The way into the queue.
    pub intake: Arc<Intake>,
    /// `outbound.ttl`.
    pub ttl: Duration,
    /// `outbound.max_content`, in bytes.
    pub max_content: usize,
    /// Told of every durable command.
    pub accepted: mpsc::UnboundedSender<Accepted>,
}

impl Answers for Replies {
    fn answer(&self, reply: Reply) -> BoxFuture<'_, bool> {
        self.store(reply).boxed()
    }
}

impl Replies {
    async fn store(&self, Reply { id, recv, call, route }: Reply) -> bool {
        let failed = |why: &str| {
            route.counters.failed.add();
            debug!(route = route.name, why, "the answer of a route was not stored");
            true
        };
        if call.content().is_some_and(|content| content.len() > self.max_content) {
            return failed("it is larger than outbound.max_content");
        }
        let topic = self.intake.base.route_origin(&route.name, &recv);
        let reply_to = ReplyTo { topic: topic.clone(), response_topic: None, correlation_data: None };
        let (at, ttl, lane) = (Stamp::now(), self.ttl, call.receiver());
        let (attempts, unknown, mark) = (0, 0, Mark::Unsent);
        let command = Command { id, at, ttl, reference: None, reply_to, call, attempts, unknown, mark };
        let deadline = command.deadline();
        let Ok(row) = Record::Command(command).encode() else { return failed("it cannot be written") };
        match self.intake.append(&topic, row, None).await {
            Ok((seq, client)) => {
                debug!(seq, route = route.name, "stored the answer of a route");
                let _ = self.accepted.send(Accepted { seq, client, lane, deadline, latest: None });
                true
            }
            Err(NotStored::NoRoom(why) | NotStored::TooLarge(why)) => failed(&why),
            Err(NotStored::Failed(_)) => false,
        }
    }
}
