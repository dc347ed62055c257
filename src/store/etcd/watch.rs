//! What changes in etcd, as it changes: a stream of JSON lines.

use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::client::Client;
use super::endpoint::Endpoint;
use super::error::{EtcdError, said};
use super::wire::{Blob, Event, Message, Number, WatchCreate, WatchRequest, Watched};

/// The longest line: with `fragment`, one change at most.
const LINE_MOST: usize = 64 * 1024 * 1024;

/// The changes of a range of keys.
#[derive(Debug)]
pub(super) struct Watch {
    body: Incoming,
    read: BytesMut,
    /// So much of `read` has no end of a line.
    searched: usize,
    /// Where it comes from.
    pub(super) endpoint: usize,
    at: Arc<Endpoint>,
}

/// Of changes, only that a key is gone.
pub(super) const DELETES: &[&str] = &["NOPUT"];

impl Watch {
    /// Watches what happens in the revisions from `from` on to the keys from `key` to `end`, or to `key` alone. `filters` is
    /// empty for everything, or [`DELETES`].
    pub(super) async fn open(
        client: &Client,
        key: &str,
        end: Vec<u8>,
        from: u64,
        filters: &'static [&'static str],
    ) -> Result<Self, EtcdError> {
        let create_request = WatchCreate {
            key: Blob::from(key.to_owned()),
            range_end: Blob::from(end),
            start_revision: Number(from),
            filters,
            fragment: true,
        };
        let endpoint = client.current();
        let opened = client.stream(endpoint, "/v3/watch", &WatchRequest { create_request }).await;
        let body = opened.inspect_err(|error| {
            if error.is_of_this_endpoint() {
                client.leave(endpoint);
            }
        })?;
        let at = Arc::clone(client.endpoint(endpoint)?);
        Ok(Self { body, read: BytesMut::new(), searched: 0, endpoint, at })
    }

    /// The next changes; none when it has only just begun. Cancel-safe: what has been read of a line is kept.
    pub(super) async fn next(&mut self) -> Result<Vec<Event>, EtcdError> {
        loop {
            if let Some(line) = self.line() {
                return changes(&self.at, &line);
            }
            let broken = |why: String| EtcdError::Unanswered { at: "the watch".to_owned(), cause: why };
            match self.body.frame().await {
                None => return Err(broken("the stream has ended".to_owned())),
                Some(Err(error)) => return Err(broken(error.to_string())),
                Some(Ok(frame)) => self.read.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            }
            if self.read.len() > LINE_MOST {
                return Err(broken("a line has no end".to_owned()));
            }
        }
    }

    fn line(&mut self) -> Option<BytesMut> {
        let new = self.read.get(self.searched..)?;
        let Some(at) = new.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.read.len();
            return None;
        };
        let line = self.read.split_to(self.searched + at);
        self.read.advance(1);
        self.searched = 0;
        Some(line)
    }
}

fn changes(at: &Endpoint, line: &[u8]) -> Result<Vec<Event>, EtcdError> {
    let message: Message<Watched> =
        serde_json::from_slice(line).map_err(|error| EtcdError::Refused(format!("a watch cannot be read: {error}")))?;
    if let Some(fault) = message.error {
        return Err(said(fault.message, fault.grpc_code));
    }
    let watched = message.result.unwrap_or_default();
    at.accept(watched.header)?;
    if watched.compact_revision.0 > 0 {
        return Err(EtcdError::Compacted);
    }
    if watched.canceled {
        return Err(said(watched.cancel_reason, 0));
    }
    Ok(watched.events)
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::Ours;
    use super::*;

    #[test]
    fn a_watch_that_ends_says_why() {
        let at = Endpoint::new(&"http://a:2379".parse().unwrap(), &Ours::default()).unwrap();
        let changes = |line: &[u8]| changes(&at, line);
        assert_eq!(changes(br#"{"result":{"header":{},"created":true}}"#).unwrap().len(), 0);
        let compacted = br#"{"result":{"header":{},"canceled":true,"compact_revision":"7"}}"#;
        assert_eq!(changes(compacted).unwrap_err(), EtcdError::Compacted);
        let gone = br#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader","http_status":"Service Unavailable"}}"#;
        assert!(matches!(changes(gone).unwrap_err(), EtcdError::NoMajority(_)));
        assert!(matches!(changes(b"<html>").unwrap_err(), EtcdError::Refused(_)));
    }
}
