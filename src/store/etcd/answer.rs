//! What every answer of etcd has: a header that tells whose it is.

use serde::Deserialize as _;
use serde_json::Value;

use super::wire::{Carried, Found, Header, Lease, Message};

/// An answer.
pub(super) trait Answer {
    fn header(&self) -> Header;
}

impl Answer for Found {
    fn header(&self) -> Header {
        self.header
    }
}

impl Answer for Carried {
    fn header(&self) -> Header {
        self.header
    }
}

impl Answer for Lease {
    fn header(&self) -> Header {
        self.header
    }
}

impl<T: Answer> Answer for Message<T> {
    fn header(&self) -> Header {
        self.result.as_ref().map(Answer::header).unwrap_or_default()
    }
}

impl Answer for Value {
    fn header(&self) -> Header {
        self.get("header").and_then(|header| Header::deserialize(header).ok()).unwrap_or_default()
    }
}
