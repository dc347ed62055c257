//! Making commands durable: in the queue, if it has room for another of this client's.

use std::sync::Arc;

use tracing::{debug, warn};

use super::accept::{Accept, Fate};
use super::deliver::Accepted;
use super::record::{Command, Record};
use super::shares::Client;
use crate::local::{Reason, Rejection};
use crate::mqtt::AckToken;
use crate::observe::log::clipped;
use crate::store::{Key, Queue, SpoolError};

/// Why a command was not made durable.
pub(super) enum NotStored {
    /// There is no room for it, or not for this client, for this reason.
    NoRoom(String),
    /// The spool failed.
    Failed(SpoolError),
}

impl Accept {
    pub(super) async fn store(self: Arc<Self>, command: Command, key: Option<Key>, ack: Option<AckToken>) -> Fate {
        let (id, lane, deadline) = (command.id, command.call.receiver(), command.deadline());
        let (reply_to, reference) = (command.reply_to.clone(), command.reference.clone());
        let Ok(row) = Record::Command(command).encode() else { return Fate::Acknowledged(None) };
        match self.append(&reply_to.topic, row, key).await {
            Ok((seq, client)) => {
                debug!(seq, topic = reply_to.topic, "stored a command");
                Fate::Stored(Accepted { seq, client, lane, deadline, latest: None }, ack)
            }
            Err(NotStored::Failed(failed)) => Fate::Failed(failed),
            Err(NotStored::NoRoom(why)) => {
                let rejection = Rejection::new(Reason::QueueFull, why, reference);
                Fate::Refused(Box::pin(self.refuse(id, reply_to, rejection, ack)))
            }
        }
    }

    /// Makes a command durable, if its client has room for it.
    pub(super) async fn append(&self, topic: &str, row: Vec<u8>, key: Option<Key>) -> Result<(u64, Client), NotStored> {
        let client = self.shares.client(&self.config.base, topic);
        let Some(place) = self.shares.ask(client, row.len()) else {
            if self.share_told.may() {
                warn!(
                    command = clipped(topic),
                    "a client fills its share of the outbound queue: its commands are refused until iLink takes what waits; others' are taken"
                );
            }
            let why = "this client's commands fill its share of the bridge's queue to iLink: send it again later";
            return Err(NotStored::NoRoom(why.to_owned()));
        };
        match self.spool.append(Queue::Outbound, row.into(), key).await {
            Ok(seq) => {
                place.keep(seq);
                self.counters.commands_stored.add();
                Ok((seq, client))
            }
            Err(failed @ SpoolError::Failed(_)) => Err(NotStored::Failed(failed)),
            Err(SpoolError::Full) => {
                Err(NotStored::NoRoom("the bridge's queue to iLink is full: send it again later".to_owned()))
            }
            Err(other) => Err(NotStored::NoRoom(other.to_string())),
        }
    }
}
