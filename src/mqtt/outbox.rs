//! The publications that the link holds, from their hand-over to their outcome, across connections. Each is a *job*.
//!
//! A job is either *waiting* or *in flight* (sent on this connection, and not acknowledged). When the connection is lost, all
//! jobs in flight wait again, in their original order. Pure bookkeeping: no I/O, no clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::sync::oneshot;

use super::delivery::Delivery;
use super::publisher::{Handed, Handling};
use super::wire::{LAST_PUBLISH_ID, WINDOW};
use crate::local::Publication;

/// The most jobs: one full window in flight, and another ready to follow.
const JOBS: usize = 2 * WINDOW as usize;
/// A job that was in flight when so many connections were lost quickly is suspected of causing that. While there is a suspect,
/// jobs are sent one at a time.
const SUSPECT_AFTER: u8 = 3;

/// A job's place in the order of sending: by rank, then by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(Rank, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Rank {
    Link,
    Standing,
    Caller,
}

impl Key {
    /// Whether the link made the job for this connection.
    pub(super) fn is_links_own(self) -> bool {
        self.0 == Rank::Link
    }
}

/// Who wants the publication, and is told its outcome.
#[derive(Debug)]
pub(super) enum Origin {
    /// A caller, through a [`Completion`](super::Completion). Only these jobs outlive a connection; the link makes its own
    /// again.
    Caller(oneshot::Sender<Delivery>),
    /// Our own [retained state](super::standing), with its version.
    Standing(u64),
    /// The self-test.
    Probe,
    /// At a stop: `bridge/state` = `offline`, as the last will says it, and then what else must not go on standing.
    Offline { is_will: bool },
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) publication: Publication,
    pub(super) origin: Origin,
    /// Higher for each later job.
    pub(super) order: u64,
    pub(super) handling: Handling,
    losses: u8,
}

/// What losing a connection did.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Jobs that were in flight and will be sent again.
    pub(super) requeued: u64,
    /// The job that was in flight alone, as a suspect, when the connection ended. It is taken out; the caller decides whether
    /// it is to blame.
    pub(super) ended_at: Option<Job>,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Boxed: the map moves its values about.
    jobs: BTreeMap<Key, Box<Job>>,
    waiting: BTreeSet<Key>,
    /// Packet id and job, in the order of sending: the first has waited longest for its PUBACK.
    in_flight: BTreeMap<u64, (u16, Key)>,
    /// Its place in `in_flight`, by packet id.
    by_pkid: HashMap<u16, u64>,
    /// The packet id given last on this connection.
    last_pkid: u16,
    /// The next place in `in_flight`.
    sending: u64,
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
            Origin::Probe | Origin::Offline { .. } => Rank::Link,
        };
        let key = Key(rank, self.next);
        let order = self.next;
        self.next += 1;
        let losses = if handling.alone { SUSPECT_AFTER } else { 0 };
        self.suspects |= handling.alone;
        self.jobs.insert(key, Box::new(Job { publication, origin, order, handling, losses }));
        self.waiting.insert(key);
    }

    pub(super) fn has_room(&self) -> bool {
        self.jobs.len() < JOBS
    }

    /// How many jobs are in flight.
    pub(super) fn outstanding(&self) -> usize {
        self.by_pkid.len()
    }

    /// The topics of our own retained state that are in flight.
    pub(super) fn standing_in_flight(&self) -> Vec<String> {
        let standing = self.in_flight.values().filter(|(_, key)| key.0 == Rank::Standing);
        standing.filter_map(|(_, key)| self.jobs.get(key)).map(|job| job.publication.topic.clone()).collect()
    }

    /// Whether a job is suspected of ending connections.
    pub(super) fn has_suspects(&self) -> bool {
        self.suspects
    }

    /// The next job to send.
    pub(super) fn first_waiting(&self) -> Option<(Key, &Job)> {
        let key = self.waiting.first()?;
        self.jobs.get(key).map(|job| (*key, &**job))
    }

    /// Whether `offline` is not sent yet. The last will can say nothing else.
    pub(super) fn farewell_waits(&self) -> bool {
        let mut own = self.waiting.iter().take_while(|key| key.is_links_own()).filter_map(|key| self.jobs.get(key));
        own.any(|job| matches!(job.origin, Origin::Offline { is_will: true }))
    }

    /// Whether all that is said at a stop has its outcome.
    pub(super) fn has_said_farewell(&self) -> bool {
        let mut own = self.jobs.iter().take_while(|(key, _)| key.is_links_own());
        !own.any(|(_, job)| matches!(job.origin, Origin::Offline { .. }))
    }

    /// Takes a waiting job out.
    pub(super) fn take(&mut self, key: Key) -> Option<Job> {
        self.waiting.remove(&key);
        let job = self.jobs.remove(&key).map(|job| *job);
        self.look_for_suspects();
        job
    }

    fn look_for_suspects(&mut self) {
        self.suspects = self.suspects && self.jobs.values().any(|job| job.is_suspect());
    }

    /// Marks a waiting job as sent, and returns its packet id. None if all packet ids are in flight: then it goes on waiting.
    pub(super) fn sent(&mut self, key: Key) -> Option<(u16, &Job)> {
        // Packet ids go round and pass over those in flight: brokers may acknowledge in any order.
        let mut in_turn = (self.last_pkid + 1..=LAST_PUBLISH_ID).chain(1..=self.last_pkid);
        let pkid = in_turn.find(|pkid| !self.by_pkid.contains_key(pkid))?;
        let job = self.jobs.get(&key)?;
        self.waiting.remove(&key);
        self.in_flight.insert(self.sending, (pkid, key));
        self.by_pkid.insert(pkid, self.sending);
        self.sending += 1;
        self.last_pkid = pkid;
        Some((pkid, job))
    }

    /// The packet id that has waited longest for its PUBACK.
    pub(super) fn oldest_in_flight(&self) -> Option<u16> {
        self.in_flight.first_key_value().map(|(_, (pkid, _))| *pkid)
    }

    /// The job that a PUBACK is for, taken out.
    pub(super) fn acked(&mut self, pkid: u16) -> Option<Job> {
        let sending = self.by_pkid.remove(&pkid)?;
        let (_, key) = self.in_flight.remove(&sending)?;
        let job = self.jobs.remove(&key)?;
        self.look_for_suspects();
        Some(*job)
    }

    /// The connection was lost. `blame`: it was lost so soon that a job in flight may be the cause.
    pub(super) fn lost(&mut self, blame: bool) -> Lost {
        let in_flight: Vec<Key> = std::mem::take(&mut self.in_flight).into_values().map(|(_, key)| key).collect();
        self.by_pkid.clear();
        let mut lost = Lost::default();
        for key in &in_flight {
            if let Some(job) = self.jobs.get_mut(key) {
                if blame && in_flight.len() == 1 && job.is_suspect() && key.0 == Rank::Caller {
                    lost.ended_at = self.jobs.remove(key).map(|job| *job);
                    continue;
                }
                job.losses = job.losses.saturating_add(u8::from(blame));
                lost.requeued += 1;
            }
        }
        self.waiting.extend(in_flight);
        self.last_pkid = 0;
        // The link makes its own jobs again on every connection.
        self.jobs.retain(|key, _| key.0 == Rank::Caller);
        self.waiting.retain(|key| self.jobs.contains_key(key));
        self.suspects = self.jobs.values().any(|job| job.is_suspect());
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
        let mut in_flight = outbox.in_flight.values();
        let (pkid, _) = *in_flight.find(|(_, key)| outbox.jobs[key].publication.topic == topic).unwrap();
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
    fn packet_ids_in_flight_are_passed_over() {
        let mut outbox = outbox(&["a", "b", "c"]);
        assert_eq!(send(&mut outbox, 2), ["a", "b"]);
        outbox.last_pkid = LAST_PUBLISH_ID;
        let (key, _) = outbox.first_waiting().unwrap();
        assert_eq!(outbox.sent(key).unwrap().0, 3);
        assert_eq!(outbox.oldest_in_flight(), Some(1));
        outbox.acked(2).unwrap();
        assert_eq!(outbox.oldest_in_flight(), Some(1));
        outbox.acked(1).unwrap();
        assert_eq!(outbox.oldest_in_flight(), Some(3));
    }

    #[test]
    fn nothing_is_sent_while_all_packet_ids_are_in_flight() {
        let mut outbox = outbox(&vec!["a"; usize::from(LAST_PUBLISH_ID) + 1]);
        assert_eq!(send(&mut outbox, LAST_PUBLISH_ID).len(), usize::from(LAST_PUBLISH_ID));
        let (key, _) = outbox.first_waiting().unwrap();
        assert!(outbox.sent(key).is_none());
        outbox.acked(50).unwrap();
        assert_eq!(outbox.sent(key).unwrap().0, 50);
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
