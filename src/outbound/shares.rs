//! Limits each client's *share* of the outbound queue, in rows and in bytes: half of it while another client has commands in
//! it, otherwise three quarters. So a client that floods the queue leaves room for those that come later, because what was
//! accepted cannot be taken back.
//!
//! A command counts from its acceptance until its result is delivered. `by/<client>` in the topic names the client. All
//! commands without such a name, those of routes included, count as one client.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Mutex;

use tokio::sync::watch;

use crate::local::Base;
use crate::os::lock;

/// A client: a hash of the level after `by/`; none for all commands without it. It is a hash because names may be long, and a
/// flood may bring many of them.
pub type Client = Option<u64>;

/// The shares of all clients.
#[derive(Debug)]
pub struct Shares {
    /// How many rows and bytes the queue may hold.
    rows: u64,
    bytes: u64,
    names: RandomState,
    held: Mutex<Held>,
    /// Whether all rows of earlier runs are counted.
    all_found: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Held {
    /// How many rows and bytes each client has.
    clients: HashMap<Client, (u64, u64)>,
    /// For each row, the client in whose share it counts, and its bytes.
    rows: HashMap<u64, (Client, u32)>,
}

/// Room for a row that is being stored. It is given back when this is dropped without [`Place::keep`].
#[derive(Debug)]
pub struct Place<'a> {
    shares: &'a Shares,
    client: Client,
    bytes: u32,
    kept: bool,
}

impl Shares {
    /// The shares of a queue that may hold so many rows and bytes.
    #[must_use]
    pub fn of(rows: u64, bytes: u64) -> Self {
        Self { rows, bytes, names: RandomState::new(), held: Mutex::default(), all_found: watch::Sender::new(false) }
    }

    /// The client that a command's topic names.
    #[must_use]
    pub fn client(&self, base: &Base, command_topic: &str) -> Client {
        base.client(command_topic).map(|name| self.names.hash_one(name))
    }

    /// Takes room for a row of `bytes`. None if the client fills its share.
    pub fn ask(&self, client: Client, bytes: usize) -> Option<Place<'_>> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut held = lock(&self.held);
        let (rows, in_all) = held.clients.get(&client).copied().unwrap_or_default();
        let (rows, in_all) = (rows + 1, in_all + u64::from(bytes));
        let others = held.clients.len() > usize::from(rows > 1);
        let beyond = |has: u64, all: u64| has.saturating_mul(4) > all.saturating_mul(if others { 2 } else { 3 });
        // Every client may have one row of any size; the queue itself may refuse it.
        if rows > 1 && (beyond(rows, self.rows) || beyond(in_all, self.bytes)) {
            return None;
        }
        held.clients.insert(client, (rows, in_all));
        drop(held);
        Some(Place { shares: self, client, bytes, kept: false })
    }

    /// Counts a row that an earlier run accepted.
    pub fn found(&self, client: Client, bytes: usize, seq: u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut held = lock(&self.held);
        let (rows, in_all) = held.clients.entry(client).or_default();
        (*rows, *in_all) = (*rows + 1, *in_all + u64::from(bytes));
        held.rows.insert(seq, (client, bytes));
    }

    /// All rows of earlier runs have been counted.
    pub fn all_found(&self) {
        self.all_found.send_replace(true);
    }

    /// Whether they have.
    pub(super) fn are_all_found(&self) -> bool {
        *self.all_found.borrow()
    }

    /// Resolves when they have.
    pub(super) async fn counted(&self) {
        // The sender lives as long as `self`.
        let _ = self.all_found.subscribe().wait_for(|all| *all).await;
    }

    /// A row has left the queue.
    pub fn gone(&self, seq: u64) {
        let mut held = lock(&self.held);
        if let Some((client, bytes)) = held.rows.remove(&seq) {
            held.free(client, bytes);
        }
    }
}

impl Held {
    fn free(&mut self, client: Client, bytes: u32) {
        let Entry::Occupied(mut held) = self.clients.entry(client) else { return };
        let (rows, in_all) = held.get_mut();
        (*rows, *in_all) = (*rows - 1, *in_all - u64::from(bytes));
        if *rows == 0 {
            held.remove();
        }
    }
}

impl Place<'_> {
    /// The row is stored under this number.
    pub fn keep(mut self, seq: u64) {
        self.kept = true;
        lock(&self.shares.held).rows.insert(seq, (self.client, self.bytes));
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.kept {
            lock(&self.shares.held).free(self.client, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Client = Some(1);
    const B: Client = Some(2);

    #[test]
    fn one_client_gets_half_and_alone_three_quarters() {
        let shares = Shares::of(12, 1000);
        for seq in 1..=9 {
            shares.ask(None, 10).unwrap().keep(seq);
        }
        assert!(shares.ask(None, 10).is_none(), "the last quarter is for others");
        for seq in 10..=12 {
            shares.ask(A, 150).unwrap().keep(seq);
        }
        assert!(shares.ask(A, 51).is_none(), "more than half of the bytes");
        assert!(shares.ask(A, 50).is_some());
        for seq in 1..=4 {
            assert!(shares.ask(None, 10).is_none(), "there is somebody else now");
            shares.gone(seq);
            shares.gone(seq);
        }
        shares.ask(None, 10).unwrap().keep(13);
        assert!(shares.ask(None, 10).is_none());
    }

    #[test]
    fn who_names_nobody_is_one_client_and_names_are_told_apart() {
        let (shares, base) = (Shares::of(2, 2), "ilink".parse().unwrap());
        let client = |topic| shares.client(&base, topic);
        assert_eq!(client("ilink/send/user/1/text"), None);
        assert_eq!((client("ilink/call/x"), client("ilink/route/r/stat/x")), (None, None));
        assert_eq!(client("ilink/by/a/send/user/1/text"), client("ilink/by/a/call/x"));
        assert!(client("ilink/by/a/call/x") != client("ilink/by/b/call/x") && client("ilink/by/a/call/x").is_some());
    }

    #[test]
    fn what_was_not_stored_is_given_back_and_nothing_is_left_behind() {
        let shares = Shares::of(4, 100);
        drop(shares.ask(A, 50).unwrap());
        shares.ask(A, 50).unwrap().keep(7);
        assert!(shares.ask(A, 26).is_none());
        shares.gone(7);
        assert!(shares.ask(A, 90).is_some(), "the first row is for the queue to judge");
        shares.found(B, 70, 3);
        shares.found(B, 70, 4);
        assert!(shares.ask(B, 0).is_none(), "more than half, from before");
        shares.gone(3);
        shares.gone(4);
        let held = lock(&shares.held);
        assert!(held.clients.is_empty() && held.rows.is_empty());
    }
}
