//! Tells the broker's redelivery of a stored command from a new command.
//!
//! A broker delivers a command again, with DUP set, if it has not got a PUBACK for it. It is the same command if the session is
//! the same, and if packet id and bytes are those of a command that an earlier connection stored. Anything else is new: two
//! "toggle" are two.
//!
//! A *key* is the packet id and the digest of a stored command. Keys live as long as the MQTT session, also across a restart of
//! the bridge, but not longer than the broker needs them. Once the broker is known to have our PUBACK, it may use the packet id
//! for another command with the same bytes. If the first delivery of that one is lost, it also arrives with DUP set, and must
//! not be taken for the old one.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest as _, Sha256};

use crate::mqtt::{Incoming, Settled};

/// SHA-256 of a command's bytes.
pub type Digest = [u8; 32];

/// Where a message arrived: its connection (0 for one of an earlier run), and its number on that connection.
type Place = (u64, u64);

struct Known {
    digest: Digest,
    /// The connection that delivered it first; 0 for one of an earlier run.
    connection: u64,
    /// Where it arrived last, and will be acknowledged.
    place: Place,
    fate: Fate,
}

/// What became of a command.
enum Fate {
    Stored,
    /// It was refused by the result with this id. A redelivery is refused again, with the same id. Not kept across a restart.
    Refused([u8; 16]),
}

/// The commands of the present MQTT session and of the one before, whose messages may still wait to be handled.
#[derive(Default)]
pub struct Redelivery {
    present: Session,
    before: Session,
}

/// The commands of one session: the last one of each packet id, until the broker is done with it.
#[derive(Default)]
struct Session {
    /// Its first connection.
    began: u64,
    known: HashMap<u16, Known>,
    /// Their packet ids, by where they arrived last.
    places: BTreeMap<Place, u16>,
}

impl Session {
    fn put(&mut self, pkid: u16, known: Known) {
        self.places.insert(known.place, pkid);
        if let Some(older) = self.known.insert(pkid, known) {
            self.places.remove(&older.place);
        }
    }

    fn remove(&mut self, pkid: u16) -> bool {
        let known = self.known.remove(&pkid);
        known.is_some_and(|known| self.places.remove(&known.place).is_some())
    }
}

impl Redelivery {
    /// Starts with the keys that the spool has kept from an earlier run.
    #[must_use]
    pub fn new(kept: Vec<(u16, Digest)>) -> Self {
        let mut present = Session::default();
        for (pkid, digest) in kept {
            let place = (0, u64::from(pkid));
            present.put(pkid, Known { digest, connection: 0, place, fate: Fate::Stored });
        }
        Self { present, ..Self::default() }
    }

    /// The session of a connection. A connection before both sessions is counted to the older one; it is of no interest any
    /// more.
    fn session_mut(&mut self, connection: u64) -> &mut Session {
        if connection >= self.present.began { &mut self.present } else { &mut self.before }
    }

    /// Whether an earlier connection of this session has stored this very command.
    #[must_use]
    pub fn is_stored(&mut self, message: &Incoming, digest: &Digest) -> bool {
        if !message.dup || message.qos != 1 || !message.session_present {
            return false;
        }
        let (pkid, place) = (message.pkid, place(message));
        let session = self.session_mut(message.connection);
        let Some(known) = session.known.get_mut(&pkid) else { return false };
        let stored =
            matches!(known.fate, Fate::Stored) && known.digest == *digest && known.connection != message.connection;
        if stored {
            // It will be acknowledged once more, on this connection.
            session.places.remove(&std::mem::replace(&mut known.place, place));
            session.places.insert(place, pkid);
        }
        stored
    }

    /// A message that is no redelivery arrived: the broker is done with the last command of its packet id. Returns true if the
    /// spool still has a key of that one.
    #[must_use]
    pub fn is_used_again(&mut self, message: &Incoming) -> bool {
        let in_present = message.connection >= self.present.began;
        let session = self.session_mut(message.connection);
        let was_stored = session.known.get(&message.pkid).is_some_and(|known| matches!(known.fate, Fate::Stored));
        message.qos == 1 && was_stored && session.remove(message.pkid) && in_present
    }

    /// The id of the result with which a command is refused: `new`, unless this very command was refused before.
    pub fn refusal_id(&mut self, message: &Incoming, digest: Digest, new: [u8; 16]) -> [u8; 16] {
        if message.qos == 0 {
            return new;
        }
        let session = self.session_mut(message.connection);
        let id = match session.known.get(&message.pkid) {
            Some(Known { digest: known, fate: Fate::Refused(id), .. })
                if *known == digest && message.dup && message.session_present =>
            {
                *id
            }
            _ => new,
        };
        let (connection, place) = (message.connection, place(message));
        session.put(message.pkid, Known { digest, connection, place, fate: Fate::Refused(id) });
        id
    }

    /// Notes that a command is being stored.
    pub fn note(&mut self, message: &Incoming, digest: Digest) {
        let known = Known { digest, connection: message.connection, place: place(message), fate: Fate::Stored };
        self.session_mut(message.connection).put(message.pkid, known);
    }

    /// The broker is done with these messages: it will not deliver them again. Returns the packet ids whose keys the spool can
    /// forget.
    pub fn settled(&mut self, settled: Settled) -> Vec<u16> {
        let Settled { connection, up_to } = settled;
        let in_present = connection >= self.present.began;
        let session = self.session_mut(connection);
        let done: Vec<u16> =
            session.places.range((connection, 0)..=(connection, up_to)).map(|(_, pkid)| *pkid).collect();
        let stored = |pkid: &u16| session.known.get(pkid).is_some_and(|known| matches!(known.fate, Fate::Stored));
        let keys = done.iter().copied().filter(stored).collect();
        for pkid in done {
            session.remove(pkid);
        }
        if in_present { keys } else { Vec::new() }
    }

    /// The session was lost, and a new one began with connection `began`. The keys of the lost session are only valid for
    /// messages that it had delivered before. Returns false if that was known.
    pub fn lost(&mut self, began: u64) -> bool {
        let is_new = began != self.present.began;
        if is_new {
            self.before = std::mem::replace(&mut self.present, Session { began, ..Session::default() });
        }
        is_new
    }
}

fn place(message: &Incoming) -> Place {
    (message.connection, message.arrival)
}

/// The digest of everything that is the same in a redelivery. Left out are the packet id, DUP, and the expiry, which the broker
/// counts down.
#[must_use]
pub fn digest(message: &Incoming) -> Digest {
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    field(message.topic.as_bytes());
    field(&message.payload);
    field(&[u8::from(message.retain)]);
    for optional in [
        message.response_topic.as_deref().map(str::as_bytes),
        message.correlation_data.as_deref(),
        message.content_type.as_deref().map(str::as_bytes),
    ] {
        field(&[u8::from(optional.is_some())]);
        field(optional.unwrap_or_default());
    }
    for (name, value) in &message.user_properties {
        field(name.as_bytes());
        field(value.as_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(pkid: u16, connection: u64, dup: bool) -> Incoming {
        Incoming {
            topic: "ilink/send/user/414/text".to_owned(),
            payload: b"toggle".as_slice().into(),
            qos: 1,
            dup,
            pkid,
            connection,
            arrival: u64::from(pkid),
            session_present: connection > 1,
            message_expiry: Some(60),
            ..Incoming::default()
        }
    }

    #[test]
    fn only_the_broker_saying_so_makes_a_redelivery() {
        let mut redelivery = Redelivery::new(vec![]);
        let first = message(7, 1, false);
        let digest = digest(&first);
        redelivery.note(&first, digest);
        assert!(redelivery.is_stored(&message(7, 2, true), &digest));
        assert!(!redelivery.is_stored(&message(7, 2, false), &digest), "no DUP: two toggles are two");
        assert!(!redelivery.is_stored(&message(8, 2, true), &digest), "another packet id");
        assert!(!redelivery.is_stored(&message(7, 1, true), &digest), "the same connection");
        let new_session = Incoming { session_present: false, ..message(7, 2, true) };
        assert!(!redelivery.is_stored(&new_session, &digest));
        redelivery.lost(3);
        assert!(!redelivery.is_stored(&message(7, 3, true), &digest));
    }

    #[test]
    fn what_a_lost_session_had_delivered_again_is_still_known_as_its_own() {
        let mut redelivery = Redelivery::new(vec![]);
        let first = message(7, 1, false);
        let digest = digest(&first);
        redelivery.note(&first, digest);
        // It waited to be looked at while the session was lost, in one go with this first delivery of another.
        redelivery.lost(3);
        redelivery.lost(3);
        assert!(redelivery.is_stored(&message(7, 2, true), &digest));
        redelivery.note(&message(8, 1, false), digest);
        assert!(redelivery.is_stored(&message(8, 2, true), &digest));
        assert!(!redelivery.is_stored(&message(8, 4, true), &digest), "a packet id of the new session");
    }

    #[test]
    fn an_earlier_runs_command_is_known_and_its_expiry_does_not_matter() {
        let again = message(7, 2, true);
        let mut redelivery = Redelivery::new(vec![(7, digest(&message(7, 1, false)))]);
        assert!(redelivery.is_stored(&again, &digest(&Incoming { message_expiry: Some(3), ..message(7, 2, true) })));
        let other = Incoming { payload: b"on".as_slice().into(), ..message(7, 2, true) };
        assert!(!redelivery.is_stored(&other, &digest(&other)));
    }

    #[test]
    fn a_refused_command_is_refused_again_under_the_same_id() {
        let mut redelivery = Redelivery::new(vec![]);
        let first = message(7, 1, false);
        let digest = digest(&first);
        assert_eq!(redelivery.refusal_id(&first, digest, [1; 16]), [1; 16]);
        assert_eq!(redelivery.refusal_id(&message(7, 2, true), digest, [2; 16]), [1; 16]);
        assert_eq!(redelivery.refusal_id(&message(7, 2, false), digest, [3; 16]), [3; 16]);
    }

    #[test]
    fn what_the_broker_is_done_with_is_no_redelivery_any_more() {
        let mut redelivery = Redelivery::new(vec![]);
        let digest = digest(&message(7, 1, false));
        for pkid in [6, 7, 8] {
            redelivery.note(&message(pkid, 1, false), digest);
        }
        redelivery.refusal_id(&message(5, 1, false), digest, [5; 16]);
        assert_eq!(redelivery.settled(Settled { connection: 1, up_to: 7 }), [6, 7]);
        assert!(!redelivery.is_stored(&message(7, 2, true), &digest), "another toggle, whose first delivery was lost");
        assert_eq!(redelivery.refusal_id(&message(5, 2, true), digest, [9; 16]), [9; 16]);
        assert!(redelivery.is_stored(&message(8, 2, true), &digest));
        // It came again and was acknowledged again, there.
        assert_eq!(redelivery.settled(Settled { connection: 1, up_to: 8 }), [0; 0]);
        assert!(
            redelivery.is_stored(&message(8, 2, true), &digest) && redelivery.is_stored(&message(8, 3, true), &digest)
        );
        assert_eq!(redelivery.settled(Settled { connection: 3, up_to: 8 }), [8]);
    }

    #[test]
    fn a_packet_id_that_is_used_again_is_judged_by_its_last_message() {
        let mut redelivery = Redelivery::new(vec![]);
        let digest = digest(&message(7, 1, false));
        redelivery.note(&message(7, 1, false), digest);
        // The next one of the same packet id and bytes, before anything tells that the first is settled.
        let next = Incoming { arrival: 20, ..message(7, 1, false) };
        assert!(!redelivery.is_stored(&next, &digest) && redelivery.is_used_again(&next));
        redelivery.note(&next, digest);
        assert_eq!(redelivery.settled(Settled { connection: 1, up_to: 19 }), [0; 0]);
        assert!(redelivery.is_stored(&message(7, 2, true), &digest));
        assert!(!redelivery.is_used_again(&message(9, 2, false)), "nobody had it");
        assert!(redelivery.is_used_again(&message(7, 3, false)), "be it one that is not stored");
        assert!(!redelivery.is_stored(&message(7, 4, true), &digest));
    }

    #[test]
    fn the_spool_forgets_no_key_of_a_session_for_what_another_did() {
        let mut redelivery = Redelivery::new(vec![]);
        let digest = digest(&message(7, 1, false));
        redelivery.note(&message(7, 1, false), digest);
        redelivery.lost(2);
        redelivery.note(&message(7, 2, false), digest);
        assert_eq!(redelivery.settled(Settled { connection: 1, up_to: 7 }), [0; 0]);
        assert!(redelivery.is_stored(&message(7, 3, true), &digest));
        assert_eq!(redelivery.settled(Settled { connection: 3, up_to: 7 }), [7]);
    }
}
