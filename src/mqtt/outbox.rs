//! Every publication the link owns, from its hand-over to its end, across connections.
//!
//! A job is in exactly one place: *waiting*, or *in flight* (by packet id). Losing the connection moves those in flight back to
//! waiting, in the order they first had. Pure bookkeeping: no I/O, no clock.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::sync::oneshot;

use super::delivery::Delivery;
use super::publisher::{Handed, Handling};
use super::wire::{LAST_PUBLISH_ID, WINDOW};
use crate::local::Publication;

/// Jobs held at most: one window in flight and one that is ready to follow.
const JOBS: usize = 2 * WINDOW as usize;
/// In flight across so many quick losses, a job is suspected of causing them: from then on one is sent at a time.
const SUSPECT_AFTER: u8 = 3;

/// The order of sending: by rank, then by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(Rank, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Rank {
    Link,
    Standing,
    Caller,
}

impl Key {
    /// Whether the link made it for this connection.
    pub(super) fn is_links_own(self) -> bool {
        self.0 == Rank::Link
    }
}

/// Who wants the publication, and so who hears of its end.
#[derive(Debug)]
pub(super) enum Origin {
    /// A [`Completion`](super::Completion). Only these outlive a connection; the link makes its own anew.
    Caller(oneshot::Sender<Delivery>),
    /// What should [stand](super::standing), with its version.
    Standing(u64),
    /// The self-test.
    Probe,
    /// The farewell.
    Offline,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) publication: Publication,
    pub(super) origin: Origin,
    /// Grows from job to job.
    pub(super) order: u64,
    pub(super) handling: Handling,
    losses: u8,
}

/// What losing a connection did.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Jobs that were in flight and will be sent again.
    pub(super) requeued: u64,
    /// The job at which it ended, taken out: a suspect, sent alone. Whether that is its fault is for others to say.
    pub(super) ended_at: Option<Job>,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    jobs: BTreeMap<Key, Job>,
    waiting: BTreeSet<Key>,
    by_pkid: HashMap<u16, Key>,
    /// The packet id given last on this connection.
    last_pkid: u16,
    next: u64,
    suspects: bool,
}

impl Outbox {
    pub(super) fn add(&mut self, publication: Publication, origin: Origin) {
        self.insert(publication, origin, Handling::default());
    }

    /// Takes over what a caller handed to the link.
    pub(super) fn add_handed(&mut self, Handed { publication, handling, done }: Handed) {
        self.insert(publication, Origin::Caller(done), handling);
    }

    fn insert(&mut self, publication: Publication, origin: Origin, handling: Handling) {
        let rank = match origin {
            Origin::Caller(_) => Rank::Caller,
            Origin::Standing(_) => Rank::Standing,
            Origin::Probe | Origin::Offline => Rank::Link,
        };
        let key = Key(rank, self.next);
        let order = self.next;
        self.next += 1;
        let losses = if handling.alone { SUSPECT_AFTER } else { 0 };
        self.suspects |= handling.alone;
        self.jobs.insert(key, Job { publication, origin, order, handling, losses });
        self.waiting.insert(key);
    }

    pub(super) fn has_room(&self) -> bool {
        self.jobs.len() < JOBS
    }

    /// In flight: what fills the window.
    pub(super) fn outstanding(&self) -> usize {
        self.by_pkid.len()
    }

    /// The topics of what stands there that are in flight.
    pub(super) fn standing_in_flight(&self) -> Vec<String> {
        let standing = self.by_pkid.values().filter(|key| key.0 == Rank::Standing);
        standing.filter_map(|key| self.jobs.get(key)).map(|job| job.publication.topic.clone()).collect()
    }

    /// Whether one of the jobs is suspected of killing connections.
    pub(super) fn has_suspects(&self) -> bool {
        self.suspects
    }

    /// The next job to send.
    pub(super) fn first_waiting(&self) -> Option<(Key, &Job)> {
        let key = self.waiting.first()?;
        self.jobs.get(key).map(|job| (*key, job))
    }

    /// Whether the farewell was not sent yet.
    pub(super) fn farewell_waits(&self) -> bool {
        let mut own = self.waiting.iter().take_while(|key| key.is_links_own()).filter_map(|key| self.jobs.get(key));
        own.any(|job| matches!(job.origin, Origin::Offline))
    }

    /// Takes a waiting job out.
    pub(super) fn take(&mut self, key: Key) -> Option<Job> {
        self.waiting.remove(&key);
        let job = self.jobs.remove(&key);
        self.look_for_suspects();
        job
    }

    fn look_for_suspects(&mut self) {
        self.suspects = self.suspects && self.jobs.values().any(Job::is_suspect);
    }

    /// A waiting job is sent: its packet id, the next in turn. Nothing is sent if that is in flight still: the broker acknowledged
    /// all that came after it, and the reset that follows sends it again.
    pub(super) fn sent(&mut self, key: Key) -> Result<(u16, &Job), String> {
        let pkid = self.last_pkid % LAST_PUBLISH_ID + 1;
        let (Entry::Vacant(place), Some(job)) = (self.by_pkid.entry(pkid), self.jobs.get(&key)) else {
            return Err(format!("it did not acknowledge packet {pkid} in its turn"));
        };
        place.insert(key);
        self.waiting.remove(&key);
        self.last_pkid = pkid;
        Ok((pkid, job))
    }

    /// The job that a PUBACK is for, taken out.
    pub(super) fn acked(&mut self, pkid: u16) -> Option<Job> {
        let key = self.by_pkid.remove(&pkid)?;
        let job = self.jobs.remove(&key)?;
        self.look_for_suspects();
        Some(job)
    }

    /// The connection has gone. `blame`: it went so soon that what was in flight may have caused it.
    pub(super) fn lost(&mut self, blame: bool) -> Lost {
        let in_flight: Vec<Key> = self.by_pkid.drain().map(|(_, key)| key).collect();
        let mut lost = Lost::default();
        for key in &in_flight {
            if let Some(job) = self.jobs.get_mut(key) {
                if blame && in_flight.len() == 1 && job.is_suspect() && key.0 == Rank::Caller {
                    lost.ended_at = self.jobs.remove(key);
                    continue;
                }
                job.losses = job.losses.saturating_add(u8::from(blame));
                lost.requeued += 1;
            }
        }
        self.waiting.extend(in_flight);
        self.last_pkid = 0;
        // The link makes its own messages anew on every connection.
        self.jobs.retain(|key, _| key.0 == Rank::Caller);
        self.waiting.retain(|key| self.jobs.contains_key(key));
        self.suspects = self.jobs.values().any(Job::is_suspect);
        lost
    }
}

impl Job {
    fn is_suspect(&self) -> bool {
        self.losses >= SUSPECT_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(topics: &[&str]) -> Outbox {
        let mut outbox = Outbox::default();
        for topic in topics {
            outbox.add(Publication::raw((*topic).to_owned(), ""), Origin::Caller(oneshot::channel().0));
        }
        outbox
    }

    /// Sends up to `n` waiting jobs; returns their topics.
    fn send(outbox: &mut Outbox, n: u16) -> Vec<String> {
        (1..=n)
            .map_while(|_| {
                let (key, _) = outbox.first_waiting()?;
                let (_, job) = outbox.sent(key).unwrap();
                Some(job.publication.topic.clone())
            })
            .collect()
    }

    /// Takes the acknowledgement of the job with this topic.
    fn ack(outbox: &mut Outbox, topic: &str) {
        let topics = outbox.by_pkid.iter().map(|(pkid, key)| (*pkid, outbox.jobs[key].publication.topic.as_str()));
        let (pkid, _) = topics.into_iter().find(|(_, found)| *found == topic).unwrap();
        outbox.acked(pkid).unwrap();
    }

    #[test]
    fn what_was_lost_is_sent_again_in_its_first_order() {
        let mut outbox = outbox(&["a", "b", "c", "d"]);
        assert_eq!(send(&mut outbox, 3), ["a", "b", "c"]);
        assert_eq!(outbox.acked(2).unwrap().publication.topic, "b");
        assert!(outbox.acked(2).is_none());
        assert_eq!(outbox.lost(false).requeued, 2);
        assert_eq!(outbox.outstanding(), 0);
        assert!(outbox.acked(1).is_none(), "an acknowledgement of an earlier connection means nothing");
        assert_eq!(send(&mut outbox, 9), ["a", "c", "d"]);
    }

    #[test]
    fn a_packet_id_in_flight_is_not_used_twice_and_neither_job_is_lost() {
        let mut outbox = outbox(&["a", "b"]);
        assert_eq!(send(&mut outbox, 1), ["a"]);
        outbox.last_pkid = LAST_PUBLISH_ID;
        let (key, _) = outbox.first_waiting().unwrap();
        outbox.sent(key).unwrap_err();
        outbox.lost(true);
        assert_eq!(send(&mut outbox, 9), ["a", "b"]);
    }

    #[test]
    fn packet_ids_go_round() {
        let mut outbox = outbox(&["a"]);
        for round in 0..3 {
            for expected in 1..=LAST_PUBLISH_ID {
                let (key, _) = outbox.first_waiting().unwrap();
                assert_eq!(outbox.sent(key).unwrap().0, expected, "round {round}");
                outbox.acked(expected).unwrap();
                outbox.add(Publication::raw("a".to_owned(), ""), Origin::Caller(oneshot::channel().0));
            }
        }
    }

    #[test]
    fn the_links_own_go_first_and_do_not_outlive_a_connection() {
        let mut outbox = outbox(&["a"]);
        outbox.add(Publication::raw("standing".to_owned(), ""), Origin::Standing(1));
        outbox.add(Publication::raw("probe".to_owned(), ""), Origin::Probe);
        assert_eq!(send(&mut outbox, 9), ["probe", "standing", "a"]);
        outbox.lost(false);
        assert_eq!(send(&mut outbox, 9), ["a"]);
    }

    #[test]
    fn a_suspect_that_a_connection_ends_at_is_handed_back() {
        let mut outbox = outbox(&["a", "poison", "c"]);
        for _ in 0..SUSPECT_AFTER {
            assert!(!outbox.has_suspects());
            send(&mut outbox, 9);
            assert!(outbox.lost(true).ended_at.is_none());
        }
        assert!(outbox.has_suspects());
        assert_eq!(send(&mut outbox, 1), ["a"]);
        ack(&mut outbox, "a");
        assert_eq!(send(&mut outbox, 1), ["poison"]);
        let ended_at = outbox.lost(true).ended_at.unwrap();
        assert_eq!(ended_at.publication.topic, "poison");
        assert_eq!(send(&mut outbox, 1), ["c"]);
        ack(&mut outbox, "c");
        assert!(!outbox.has_suspects());
    }

    #[test]
    fn what_is_to_be_sent_alone_is_a_suspect_from_the_start() {
        let mut outbox = outbox(&["a"]);
        let handling = Handling::default().alone(true);
        let publication = Publication::raw("poison".to_owned(), "");
        outbox.add_handed(Handed { publication, handling, done: oneshot::channel().0 });
        assert!(outbox.has_suspects());
        assert_eq!(send(&mut outbox, 1), ["a"]);
        ack(&mut outbox, "a");
        assert_eq!(send(&mut outbox, 1), ["poison"]);
        assert!(outbox.lost(true).ended_at.is_some());
        assert!(!outbox.has_suspects());
    }

    #[test]
    fn losses_without_blame_condemn_nothing() {
        let mut outbox = outbox(&["a"]);
        for _ in 0..20 {
            send(&mut outbox, 1);
            assert!(outbox.lost(false).ended_at.is_none());
        }
        assert!(!outbox.has_suspects());
    }
}
