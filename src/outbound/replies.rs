//! The answers of routes: each becomes a command like those that routes make of devices' publishes.
//!
//! An answer is durable before the message that it answers is completed. What cannot be stored is counted as failed, told on the
//! route's result topic, and holds nothing up.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tracing::debug;
use ulid::Ulid;

use super::deliver::Accepted;
use super::intake::{Intake, NotStored};
use super::record::{Command, Record, ReplyTo, StoredResult};
use super::storing::Overdue;
use crate::delivery::{Answers, Reply};
use crate::local::{CommandResult, Reason, Rejection};
use crate::mqtt::Publisher;
use crate::os::clock::Stamp;
use crate::store::{AppendError, Queue, SpoolError};

/// Makes answers durable.
pub struct Replies {
    /// The way into the queue.
    pub intake: Arc<Intake>,
    /// `outbound.ttl`.
    pub ttl: Duration,
    /// `outbound.max_content`, in bytes.
    pub max_content: usize,
    /// Told of every durable command.
    pub accepted: mpsc::UnboundedSender<Accepted>,
    /// Told of every durable result.
    pub results: mpsc::UnboundedSender<u64>,
    /// Publishes the results for which the queue has no room.
    pub publisher: Publisher,
}

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").finish_non_exhaustive()
    }
}

impl Answers for Replies {
    fn answer(&self, reply: Reply) -> BoxFuture<'_, bool> {
        self.store(reply).boxed()
    }
}

impl Replies {
    async fn store(&self, Reply { id, recv, call, route }: Reply) -> bool {
        let topic = self.intake.base.route_origin(&route.name, &recv);
        let reply_to = ReplyTo::only(topic.clone());
        let tell = async |result: CommandResult| {
            route.counters.failed.add();
            debug!(route = route.name, why = result.message, "the answer of a route was not stored");
            self.tell(&reply_to, &result).await
        };
        let refuse = async |reason, why: String| tell(self.rejected(id, Rejection::new(reason, why, None))).await;
        let size = call.content().map_or(0, <[u8]>::len);
        if size > self.max_content {
            let why = format!("the reply has {size} bytes, outbound.max_content allows {}", self.max_content);
            return refuse(Reason::TooLarge, why).await;
        }
        let lane = call.receiver();
        let command = Command::new(id, Stamp::now(), self.ttl, reply_to.clone(), call);
        let (deadline, overdue) = (command.deadline(), Overdue::of(&command));
        match self.intake.append(&topic, Record::Command(command).encode(), None, deadline).await {
            Ok((seq, client)) => {
                debug!(seq, route = route.name, "stored the answer of a route");
                let _ = self.accepted.send(Accepted { seq, client, lane, deadline, latest: None });
                true
            }
            Err(NotStored::Refused(reason, why)) => refuse(reason, why).await,
            Err(NotStored::Late(cause)) => tell(overdue.result(&cause, &self.intake.counters)).await,
            Err(NotStored::Failed(_)) => false,
        }
    }

    fn rejected(&self, id: [u8; 16], rejection: Rejection) -> CommandResult {
        let counters = &self.intake.counters;
        counters.commands_rejected.add();
        counters.series.command_rejected(rejection.reason);
        CommandResult::rejected(Ulid::from_bytes(id), rejection, 0)
    }

    /// Tells that an answer is not given. The result goes the way of all results; if there is no room for it either, it is
    /// published at once, and nobody waits for the broker.
    async fn tell(&self, reply_to: &ReplyTo, result: &CommandResult) -> bool {
        match self.intake.spool.append(Queue::Outbound, StoredResult::row(reply_to, result), None).await {
            Ok(seq) => {
                let _ = self.results.send(seq);
                true
            }
            Err(AppendError::Spool(SpoolError::Failed(_))) => false,
            Err(_) => {
                for publication in reply_to.publications(&self.intake.base, result) {
                    drop(self.publisher.publish(publication).await);
                }
                true
            }
        }
    }
}
