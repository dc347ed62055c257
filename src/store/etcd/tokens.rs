//! Tokens: what is asked of them, and how a transaction changes them.
//!
//! A token is a key that is put with a row, or alone, if it is as it is thought to be. Its version is the revision that put it.
//! What many ask for goes together, on all of their conditions. If one does not hold, nothing is carried out: who asked for that
//! is answered, and the rest goes again. That is rare; a nested transaction for each token would cost etcd nearly twice the time.

use std::time::Duration;

use bytes::Bytes;

use super::client::{Client, EACH};
use super::error::EtcdError;
use super::rows::number;
use super::wire::{Compare, KeyValue, Lease, Number, Put, Step};
use crate::os::clock::boot_now;
use crate::store::request::{Op, Reply};
use crate::store::types::{AppendError, Once, Queue, SpoolError, Token, row_size};

/// A token that nobody ends goes with its lease. Each lease is used for a while, and outlives that by more.
const LEASE_LIVES: Duration = Duration::from_mins(5);
const LEASE_USED: Duration = Duration::from_mins(1);

/// What must not be carried out after a certain moment is begun only while so much time is left: what goes with it would have to
/// go again.
pub(super) const ENOUGH: Duration = Duration::from_millis(900);

/// What is asked of a token, and who waits.
#[derive(Debug)]
pub(super) enum TokenOp {
    /// A row of the inbound queue is put with it, not after that moment of the boot-time clock.
    Append { data: Bytes, token: Token, until: Duration, reply: Reply<Once, AppendError> },
    /// It is put alone.
    Put { token: Token, reply: Reply<Option<u64>> },
    /// It is emptied, if it is still of this version. Nobody waits.
    End { name: [u8; 32], version: u64 },
}

impl TokenOp {
    pub(super) fn name(&self) -> &[u8; 32] {
        match self {
            Self::Append { token, .. } | Self::Put { token, .. } => &token.name,
            Self::End { name, .. } => name,
        }
    }

    /// After which moment of the boot-time clock it must not be carried out.
    pub(super) fn until(&self) -> Duration {
        match self {
            Self::Append { until, .. } => *until,
            Self::Put { .. } | Self::End { .. } => Duration::MAX,
        }
    }

    /// By how much its row counts.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Append { data, .. } => row_size(data),
            Self::Put { .. } | Self::End { .. } => 0,
        }
    }

    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Append { data, token, .. } => data.len() + token.value.len(),
            Self::Put { token, .. } => token.value.len(),
            Self::End { .. } => 0,
        }
    }

    /// It was carried out in this revision. The row's place is none if there was no room for it.
    pub(super) fn done(self, revision: u64, row: Option<u8>) {
        match self {
            Self::Append { reply, .. } => reply.send(match row {
                Some(place) => Ok(Once::Stored { row: number(revision, place), version: revision }),
                None => Err(AppendError::Full),
            }),
            Self::Put { reply, .. } => reply.send(Ok(Some(revision))),
            Self::End { .. } => {}
        }
    }

    /// The token was not as it was thought to be, but like this.
    pub(super) fn known(self, there: Option<KeyValue>) {
        match self {
            Self::Append { reply, .. } => {
                let (version, value) = there.map(|there| (there.mod_revision.0, there.value.0)).unwrap_or_default();
                reply.send(Ok(Once::Known { version, value }));
            }
            Self::Put { reply, .. } => reply.send(Ok(None)),
            Self::End { .. } => {}
        }
    }

    /// Its time is over. Only a row's ever is.
    pub(super) fn late(self) {
        if let Self::Append { reply, .. } = self {
            reply.send(Ok(Once::Late));
        }
    }

    pub(super) fn refused(self, error: SpoolError) {
        match self {
            Self::Append { reply, .. } => reply.send(Err(error.into())),
            Self::Put { reply, .. } => reply.send(Err(error)),
            Self::End { .. } => {}
        }
    }
}

/// What a handle asks of its keeper, and who waits: what every store can do, or what is done with tokens.
#[derive(Debug)]
pub(super) enum Asked {
    Plain(Op),
    Token(TokenOp),
}

impl From<Op> for Asked {
    fn from(op: Op) -> Self {
        Self::Plain(op)
    }
}

impl From<TokenOp> for Asked {
    fn from(op: TokenOp) -> Self {
        Self::Token(op)
    }
}

impl Asked {
    /// About how many bytes it brings into a transaction.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Plain(op) => op.weight(),
            Self::Token(op) => op.weight(),
        }
    }

    /// Whether it adds a row to the queue to iLink.
    pub(super) fn goes_to_ilink(&self) -> bool {
        matches!(self, Self::Plain(op) if op.adds().is_some_and(|(queue, _)| queue == Queue::Outbound))
    }

    /// It was not stored.
    pub(super) fn refused(self, error: SpoolError) {
        match self {
            Self::Plain(op) => op.refused(error),
            Self::Token(op) => op.refused(error),
        }
    }
}

/// Whether a token was as it was thought to be; if not, what was there.
pub(super) type Verdict = Result<(), Option<KeyValue>>;

/// What a transaction makes of a token, on the condition that it is of this version (0: there is none).
#[derive(Debug)]
pub(super) struct TokenChange {
    pub(super) key: String,
    pub(super) version: u64,
    /// None: it is only looked at.
    pub(super) value: Option<Bytes>,
}

impl TokenChange {
    pub(super) fn condition(&self) -> Compare {
        Compare::changed(self.key.clone(), self.version)
    }

    pub(super) fn step(&self, lease: u64) -> Option<Step> {
        let put =
            |value: &Bytes| Put { key: self.key.clone().into(), value: value.clone().into(), lease: Number(lease) };
        self.value.as_ref().map(put).map(Step::Put)
    }

    /// The question what is there.
    pub(super) fn question(&self) -> Step {
        Step::get(self.key.clone())
    }

    /// The verdict on a token that stood so.
    pub(super) fn judge(&self, there: Option<KeyValue>) -> Verdict {
        let version = there.as_ref().map_or(0, |there| there.mod_revision.0);
        if version == self.version { Ok(()) } else { Err(there) }
    }
}

/// The lease under which tokens are put.
#[derive(Debug, Default)]
pub(super) struct TokenLease {
    id: u64,
    until: Duration,
}

impl TokenLease {
    /// Its id; a new one's if need be.
    pub(super) async fn get(&mut self, client: &Client) -> Result<u64, EtcdError> {
        if boot_now() >= self.until {
            let (question, until) = (Lease::question(0, LEASE_LIVES.as_secs()), boot_now() + LEASE_USED);
            let granted: Lease = client.ask("/v3/lease/grant", &question, EACH).await?;
            *self = Self { id: granted.id.0, until };
        }
        Ok(self.id)
    }
}
