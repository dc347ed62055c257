//! Tells the broker's redelivery of a stored command from a new command.
//!
//! A broker delivers a command again, with DUP set, when it has seen no PUBACK for it. It is the same command if the session
//! is the one it was delivered in and packet id and bytes are those of a command that an earlier connection stored. Anything
//! else is new: two "toggle" are two. The keys live as long as the MQTT session, also across a restart of the bridge.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use crate::mqtt::Incoming;

/// SHA-256 of a command's bytes.
pub type Digest = [u8; 32];

struct Known {
    digest: Digest,
    /// The connection that delivered it; 0 for one of an earlier run.
    connection: u64,
}

/// The commands of the present MQTT session, and of the one before: what that had delivered may still wait here.
#[derive(Default)]
pub struct Redelivery {
    present: Session,
    before: Session,
}

/// The commands of one session, the last of each packet id.
#[derive(Default)]
struct Session {
    /// Its first connection.
    began: u64,
    stored: HashMap<u16, Known>,
    /// Refused ones and their results' ids: a redelivery is refused again, under the same id. Not kept across a restart.
    refused: HashMap<u16, (Digest, [u8; 16])>,
}

impl Redelivery {
    /// What the spool kept of an earlier run.
    #[must_use]
    pub fn new(kept: Vec<(u16, Digest)>) -> Self {
        let known = |(pkid, digest)| (pkid, Known { digest, connection: 0 });
        let present = Session { stored: kept.into_iter().map(known).collect(), ..Session::default() };
        Self { present, ..Self::default() }
    }

    /// The session of a connection. One before both is of no interest any more, and counts as the older.
    fn session(&self, connection: u64) -> &Session {
        if connection >= self.present.began { &self.present } else { &self.before }
    }

    fn session_mut(&mut self, connection: u64) -> &mut Session {
        if connection >= self.present.began { &mut self.present } else { &mut self.before }
    }

    /// Was this very command stored by an earlier connection of this session?
    #[must_use]
    pub fn is_stored(&self, message: &Incoming, digest: &Digest) -> bool {
        message.dup
            && message.qos == 1
            && message.session_present
            && self
                .session(message.connection)
                .stored
                .get(&message.pkid)
                .is_some_and(|known| known.digest == *digest && known.connection != message.connection)
    }

    /// The id of the result by which a command is refused: `new`, unless this very one was refused before.
    pub fn refusal_id(&mut self, message: &Incoming, digest: Digest, new: [u8; 16]) -> [u8; 16] {
        if message.qos == 0 {
            return new;
        }
        let session = self.session_mut(message.connection);
        session.stored.remove(&message.pkid);
        let again = session.refused.get(&message.pkid).filter(|(known, _)| *known == digest && message.dup);
        let id = again.filter(|_| message.session_present).map_or(new, |(_, id)| *id);
        session.refused.insert(message.pkid, (digest, id));
        id
    }

    /// A command of this packet id is being stored.
    pub fn note(&mut self, message: &Incoming, digest: Digest) {
        let session = self.session_mut(message.connection);
        session.refused.remove(&message.pkid);
        session.stored.insert(message.pkid, Known { digest, connection: message.connection });
    }

    /// The session is lost, and a new one began with connection `began`. The packet ids of the lost one mean nothing any
    /// more, but to what it had delivered before.
    pub fn lost(&mut self, began: u64) {
        if began != self.present.began {
            self.before = std::mem::replace(&mut self.present, Session { began, ..Session::default() });
        }
    }
}

/// The digest of everything a redelivery repeats: all but the packet id, DUP, and the expiry, which the broker counts down.
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
            retain: false,
            dup,
            pkid,
            connection,
            session_present: connection > 1,
            message_expiry: Some(60),
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
            content_type: None,
            ack: None,
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
        let redelivery = Redelivery::new(vec![(7, digest(&message(7, 1, false)))]);
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
}
