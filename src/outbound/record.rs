//! A row of the outbound queue, and its bytes.
//!
//! A row is a command until its outcome is known. Then one commit replaces it by its result, so that a known success is never
//! sent again.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::delivery::codec;
use crate::local::{Base, CommandResult, Publication, Reference, Status};
use crate::os::clock::{self, Stamp};
use crate::protocol::Call;

/// What a row holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// A command that was accepted.
    Command(Command),
    /// Its result, to be published.
    Result(StoredResult),
}

/// An accepted command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The id its result will have.
    pub id: [u8; 16],
    /// When it was accepted.
    pub at: Stamp,
    /// How long after that it may still be sent.
    pub ttl: Duration,
    /// The requester's `ref`.
    pub reference: Option<Reference>,
    /// Where the result goes.
    pub reply_to: ReplyTo,
    /// What to call.
    pub call: Call,
    /// How many attempts were made, with the one that is under way.
    pub attempts: u32,
    /// How many of them iLink has quite possibly executed: each may have made a copy.
    pub unknown: u32,
    /// What is known of their outcome.
    pub mark: Mark,
}

/// What is known of the attempts at a command. It is durable before the request leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    /// iLink has certainly not executed it.
    Unsent,
    /// An attempt is under way, or its outcome is unknown; the command may be tried again.
    Ambiguous,
    /// An attempt is under way, or its outcome is unknown; the command must not be tried again.
    Sent,
}

/// Where a result goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyTo {
    /// The command's topic, or for a route's command the one that [`Base::route_origin`] makes; the result topics follow
    /// from it.
    pub topic: String,
    /// MQTT 5 Response Topic, if it is an allowed one.
    pub response_topic: Option<String>,
    /// MQTT 5 Correlation Data.
    pub correlation_data: Option<Vec<u8>>,
}

/// A result to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredResult {
    /// When the command was accepted.
    pub at: Stamp,
    /// Where to.
    pub reply_to: ReplyTo,
    /// The result's JSON.
    pub json: Vec<u8>,
}

impl Record {
    /// The bytes of the row.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The record in a row's bytes.
    ///
    /// # Errors
    /// If another version of the bridge wrote it, or the bytes are damaged.
    pub fn decode(data: &[u8]) -> Result<Self, postcard::Error> {
        codec::decode(data)
    }
}

impl StoredResult {
    /// The row of a result that was not in the spool.
    #[must_use]
    pub fn row(reply_to: &ReplyTo, result: &CommandResult) -> Bytes {
        let stored = Self { at: Stamp::now(), reply_to: reply_to.clone(), json: result.to_json() };
        Record::Result(stored).encode().into()
    }
}

impl Command {
    /// A command that was not attempted yet.
    #[must_use]
    pub fn new(id: [u8; 16], at: Stamp, ttl: Duration, reply_to: ReplyTo, call: Call) -> Self {
        Self { id, at, ttl, reference: None, reply_to, call, attempts: 0, unknown: 0, mark: Mark::Unsent }
    }

    /// The boot-time instant after which it must not be sent.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.at.plus(self.ttl)
    }

    /// Is it too late to send it?
    #[must_use]
    pub fn has_expired(&self) -> bool {
        self.at.age() >= self.ttl
    }

    /// Milliseconds since it was accepted.
    #[must_use]
    pub fn elapsed_ms(&self) -> u64 {
        clock::millis(self.at.age())
    }
}

impl ReplyTo {
    /// To the topics that follow from the command's, and nowhere else.
    #[must_use]
    pub fn only(topic: String) -> Self {
        Self { topic, response_topic: None, correlation_data: None }
    }

    /// The publishes that carry `result` there.
    #[must_use]
    pub fn publications(&self, base: &Base, result: &CommandResult) -> Vec<Publication> {
        if let Some((route, _)) = base.origin_of_route(&self.topic) {
            // The device does not know iLink and waits for no result. Failures are published, because people want to know of
            // them.
            let failed = result.status != Status::Ok;
            return failed.then(|| Publication::json(base.route_result(route), result.to_json())).into_iter().collect();
        }
        let response = self.response_topic.clone().map(|topic| (topic, self.correlation_data.clone().map(Bytes::from)));
        base.result(&self.topic).map(|topics| result.publications(topics, response)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command {
            id: [7; 16],
            at: Stamp::now(),
            ttl: Duration::from_mins(5),
            reference: None,
            reply_to: ReplyTo {
                topic: "ilink/send/user/414/text".to_owned(),
                response_topic: Some("ilink/reply/a".to_owned()),
                correlation_data: Some(vec![0, 255]),
            },
            call: Call::SendText { to: "414".parse().unwrap(), content: b"hello".to_vec() },
            attempts: 2,
            unknown: 1,
            mark: Mark::Ambiguous,
        }
    }

    #[test]
    fn rows_read_back_as_they_were_written() {
        let row = Record::Command(command());
        assert_eq!(Record::decode(&row.encode()).unwrap(), row);
        let row = Record::Result(StoredResult { at: Stamp::now(), reply_to: command().reply_to, json: b"{}".to_vec() });
        assert_eq!(Record::decode(&row.encode()).unwrap(), row);
    }

    #[test]
    fn rows_are_read_by_later_versions() {
        let row = b"\x01\x00\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x07\x82\xd5\xd9\xa1\xaf\xe1\x9b\xf6-\xb8\xfb\xe2\x02\x98\xed\xc8\x8b\xa34\xac\x02\x00\x00\x18ilink/send/user/414/text\x01\rilink/reply/a\x01\x02\x00\xff\x00\x03414\x05hello\x02\x01\x01";
        let Record::Command(read) = Record::decode(row).unwrap() else { panic!() };
        assert_eq!(read, Command { at: read.at, ..command() });
        assert_eq!(Record::Command(read).encode(), row);
        let row = b"\x01\x01\x82\xd5\xd9\xa1\xaf\xe1\x9b\xf6-\xb8\xfb\xe2\x02\x98\xed\xc8\x8b\xa34\x18ilink/send/user/414/text\x01\rilink/reply/a\x01\x02\x00\xff\x02{}";
        let Record::Result(read) = Record::decode(row).unwrap() else { panic!() };
        assert_eq!((&read.reply_to, &read.json[..]), (&command().reply_to, &b"{}"[..]));
        assert_eq!(Record::Result(read).encode(), row);
    }

    #[test]
    fn a_command_expires_at_its_ttl() {
        assert!(!command().has_expired());
        assert!(Command { ttl: Duration::ZERO, ..command() }.has_expired());
    }
}
