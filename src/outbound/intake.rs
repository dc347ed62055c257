//! The way into the queue to iLink: a command goes in if the queue has room for another of its client's.

use std::sync::Arc;

use tracing::warn;

use super::shares::{Client, Shares};
use crate::local::Base;
use crate::observe::counters::Counters;
use crate::observe::log::{Seldom, clipped};
use crate::store::{AppendError, Key, Queue, SpoolError, Store};

/// The way in.
#[derive(Debug)]
pub struct Intake {
    /// The base topic.
    pub base: Base,
    /// Where commands go.
    pub spool: Arc<dyn Store>,
    /// How much of the queue each client holds.
    pub shares: Arc<Shares>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// For saying that a client has its share.
    pub told: Seldom,
}

/// Why a command was not made durable.
pub(super) enum NotStored {
    /// There is no room for it, or not for this client, for this reason.
    NoRoom(String),
    /// It is larger than the spool takes.
    TooLarge(String),
    /// The spool failed.
    Failed(SpoolError),
}

impl Intake {
    /// Makes a command durable, if its client has room for it.
    pub(super) async fn append(&self, topic: &str, row: Vec<u8>, key: Option<Key>) -> Result<(u64, Client), NotStored> {
        let client = self.shares.client(&self.base, topic);
        let Some(place) = self.shares.ask(client, row.len()) else {
            if self.told.may() {
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
            Err(AppendError::Spool(failed @ SpoolError::Failed(_))) => Err(NotStored::Failed(failed)),
            Err(AppendError::Full) => {
                Err(NotStored::NoRoom("the bridge's queue to iLink is full: send it again later".to_owned()))
            }
            Err(AppendError::Spool(refused @ SpoolError::Unwritable(_))) => Err(NotStored::NoRoom(refused.to_string())),
            Err(AppendError::Spool(refused @ SpoolError::TooLarge(_))) => Err(NotStored::TooLarge(refused.to_string())),
        }
    }
}
