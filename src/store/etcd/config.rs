//! How etcd is reached, and what is kept there under which names.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::SecretString;
use url::Url;

use crate::os::tls::ClientFiles;
use crate::store::types::{Limits, Queue};

/// How etcd is reached, and who asks.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// `http://` or `https://`, each a member of the one etcd; tried in turn.
    pub endpoints: Vec<Url>,
    /// Everything is kept below `<prefix>/`.
    pub prefix: String,
    /// This bridge's name, one of a kind below the prefix.
    pub member: String,
    /// User and password, where etcd wants them.
    pub login: Option<(String, SecretString)>,
    /// What etcd's certificates are held against, and what is shown to it.
    pub tls: ClientFiles,
    /// How long a silent leader is waited for.
    pub takeover: Duration,
    /// What the queues may hold.
    pub limits: Limits,
}

/// The names of what is kept.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn below(prefix: &str) -> Self {
        Self { prefix: prefix.trim_end_matches('/').to_owned() }
    }

    fn name(&self, folder: &str, name: &str) -> String {
        format!("{}/{folder}/{name}", self.prefix)
    }

    /// With which all names begin.
    pub(super) fn root(&self) -> String {
        format!("{}/", self.prefix)
    }

    /// Of who tries whether it may write.
    pub(super) fn trial(&self, name: &str) -> String {
        self.name("trial", name)
    }

    /// Who leads. Put with the leader's lease, so that it goes with it.
    pub(super) fn leader(&self) -> String {
        format!("{}/leader", self.prefix)
    }

    /// Every member, each with its lease.
    pub(super) fn members(&self) -> String {
        self.name("member", "")
    }

    pub(super) fn member(&self, name: &str) -> String {
        self.name("member", name)
    }

    /// A small value that all members share.
    pub(super) fn file(&self, name: &str) -> String {
        self.name("file", name)
    }

    /// What the last transaction of each writer was.
    pub(super) fn writers(&self) -> String {
        self.name("writer", "")
    }

    pub(super) fn writer(&self, name: &str) -> String {
        self.name("writer", name)
    }

    /// How much the queues hold, by the leader.
    pub(super) fn stats(&self) -> String {
        format!("{}/stats", self.prefix)
    }

    /// The rows of all queues.
    pub(super) fn queues(&self) -> String {
        self.name("queue", "")
    }

    pub(super) fn queue(&self, queue: Queue) -> String {
        self.name(
            "queue",
            match queue {
                Queue::Inbound => "in/",
                Queue::Outbound => "out/",
                Queue::SetAside => "aside/",
            },
        )
    }

    /// Which rows of a store that is taken over have come.
    pub(super) fn adopted(&self, name: &str) -> String {
        self.name("adopted", name)
    }

    pub(super) fn redeliveries(&self) -> String {
        self.name("key", "")
    }

    pub(super) fn redelivery(&self, pkid: u16) -> String {
        self.name("key", &format!("{pkid:05}"))
    }

    pub(super) fn token(&self, name: &[u8]) -> String {
        self.name("token", &URL_SAFE_NO_PAD.encode(name))
    }

    pub(super) fn notes(&self) -> String {
        self.name("note", "")
    }

    pub(super) fn note(&self, key: &str) -> String {
        self.name("note", key)
    }
}

/// The end of the range of the keys that begin with `prefix`.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_ends_before_the_next() {
        assert_eq!(end_of("/a/in/"), b"/a/in0");
        assert_eq!(end_of("\u{7f}"), [0x80]);
        let keys = Keys::below("/ilink2mqtt/413/");
        assert_eq!(keys.queue(Queue::Inbound), "/ilink2mqtt/413/queue/in/");
        assert!(keys.queue(Queue::SetAside).starts_with(&keys.queues()));
        assert_eq!(keys.redelivery(7), "/ilink2mqtt/413/key/00007");
    }
}
