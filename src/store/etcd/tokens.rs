//! Tokens: what is asked of them, and how a transaction changes them.
//!
//! A token is a key that is put with a row, unless it is there already, and removed by whoever takes it. Its version is the
//! revision that put it. Each change is a transaction within the transaction, so that many that wait still go together, and one
//! whose condition does not hold keeps none of the others back.

use std::time::Duration;

use bytes::Bytes;

use super::client::{Client, EACH};
use super::error::EtcdError;
use super::rows::number;
use super::wire::{Compare, KeyValue, Lease, Number, Put, Range, Step, Transaction};
use crate::os::clock::boot_now;
use crate::store::request::Reply;
use crate::store::types::{AppendError, Once, SpoolError, Token, row_size};

/// A token that nobody takes goes with its lease. Each lease is used for a while, and outlives that by more.
const LEASE_LIVES: Duration = Duration::from_mins(5);
const LEASE_USED: Duration = Duration::from_mins(1);

/// What is asked of a token, and who waits.
#[derive(Debug)]
pub(super) enum TokenOp {
    /// A row of the inbound queue, if its token is new.
    Append { data: Bytes, token: Token, reply: Reply<Once, AppendError> },
    /// The token is put, or removed, if it is as it is thought to be.
    Change { name: [u8; 32], version: u64, value: Option<Bytes>, reply: Reply<bool> },
}

impl TokenOp {
    pub(super) fn name(&self) -> &[u8; 32] {
        match self {
            Self::Append { token, .. } => &token.name,
            Self::Change { name, .. } => name,
        }
    }

    /// By how much its row counts.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Append { data, .. } => row_size(data),
            Self::Change { .. } => 0,
        }
    }

    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Append { data, token, .. } => data.len() + token.value.len(),
            Self::Change { value, .. } => value.as_ref().map_or(0, Bytes::len),
        }
    }

    /// Its transaction was carried out in this revision. The row's place is none if there was no room for it.
    pub(super) fn done(self, verdict: Verdict, revision: u64, row: Option<u8>) {
        match self {
            Self::Append { reply, .. } => reply.send(match (verdict, row) {
                (Ok(()), Some(place)) => Ok(Once::Stored { row: number(revision, place), version: revision }),
                (Ok(()), None) => Err(AppendError::Full),
                (Err(Some(there)), _) => Ok(Once::Known { version: there.mod_revision.0, value: there.value.0 }),
                (Err(None), _) => Err(SpoolError::Unwritable("the token went away meanwhile".to_owned()).into()),
            }),
            Self::Change { reply, .. } => reply.send(Ok(verdict.is_ok())),
        }
    }

    pub(super) fn refused(self, error: SpoolError) {
        match self {
            Self::Append { reply, .. } => reply.send(Err(error.into())),
            Self::Change { reply, .. } => reply.send(Err(error)),
        }
    }
}

/// Whether a token was as it was thought to be; if not, what was there.
pub(super) type Verdict = Result<(), Option<KeyValue>>;

/// What a transaction makes of a token, if that is of this version (0: there is none).
#[derive(Debug, Clone)]
pub(super) struct TokenChange {
    pub(super) key: String,
    pub(super) version: u64,
    /// None: it is removed.
    pub(super) value: Option<Bytes>,
    /// What is put with it.
    pub(super) row: Option<(String, Bytes)>,
    /// If it is of another version, it is read.
    pub(super) reads: bool,
}

impl TokenChange {
    pub(super) fn step(&self, lease: u64) -> Step {
        let token = match &self.value {
            Some(value) => {
                Step::Put(Put { key: self.key.clone().into(), value: value.clone().into(), lease: Number(lease) })
            }
            None => Step::delete(self.key.clone()),
        };
        let row = self.row.iter().map(|(key, data)| Step::put(key.clone(), data.clone()));
        Step::If(Transaction {
            compare: vec![Compare::changed(self.key.clone(), self.version)],
            success: std::iter::once(token).chain(row).collect(),
            failure: self.reads.then(|| Step::get(self.key.clone())).into_iter().collect(),
        })
    }

    /// The question how it stood in a revision.
    pub(super) fn question(&self, revision: u64) -> Step {
        Step::Range(Range { key: self.key.clone().into(), revision: Number(revision), ..Range::default() })
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
            let (asked, until) = (Number(LEASE_LIVES.as_secs()), boot_now() + LEASE_USED);
            let question = Lease { id: Number(0), ttl: asked };
            let granted: Lease = client.ask("/v3/lease/grant", &question, EACH).await.map_err(|failed| failed.error)?;
            *self = Self { id: granted.id.0, until };
        }
        Ok(self.id)
    }
}
