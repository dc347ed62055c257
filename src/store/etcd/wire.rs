//! The messages of etcd's JSON gateway: 64-bit numbers are strings, bytes are base64, what is zero or empty is left out.

use std::fmt;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Blob(pub(super) Bytes);

impl<T: Into<Bytes>> From<T> for Blob {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Blob {
    /// Their number: they may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(&self.0, &STANDARD))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Blob, E> {
                STANDARD.decode(text).map(Blob::from).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A 64-bit number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Number(pub(super) u64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Times to live may be below zero: over.
        if text.starts_with('-') {
            return Ok(Self(0));
        }
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &Number) -> bool {
    number.0 == 0
}

fn is_empty(blob: &Blob) -> bool {
    blob.0.is_empty()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Put {
    pub(super) key: Blob,
    pub(super) value: Blob,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) lease: Number,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Range {
    pub(super) key: Blob,
    #[serde(rename = "range_end", skip_serializing_if = "is_empty")]
    pub(super) end: Blob,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) limit: Number,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) revision: Number,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) keys_only: bool,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Delete {
    pub(super) key: Blob,
    #[serde(rename = "range_end", skip_serializing_if = "is_empty")]
    pub(super) end: Blob,
}

/// One step of a transaction.
#[derive(Debug, Clone, Serialize)]
pub(super) enum Step {
    #[serde(rename = "request_put")]
    Put(Put),
    #[serde(rename = "request_range")]
    Range(Range),
    #[serde(rename = "request_delete_range")]
    Delete(Delete),
}

impl Step {
    pub(super) fn put(key: String, value: impl Into<Bytes>) -> Self {
        Self::Put(Put { key: key.into(), value: value.into().into(), lease: Number(0) })
    }

    pub(super) fn get(key: String) -> Self {
        Self::Range(Range { key: key.into(), ..Range::default() })
    }

    pub(super) fn delete(key: String) -> Self {
        Self::Delete(Delete { key: key.into(), end: Blob::default() })
    }
}

/// A condition of a transaction: the revision in which a key was made or changed last, or the lease under which it is; 0: it is
/// not there.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "target")]
pub(super) enum Compare {
    #[serde(rename = "CREATE")]
    Created { key: Blob, create_revision: Number },
    #[serde(rename = "MOD")]
    Changed { key: Blob, mod_revision: Number },
    #[serde(rename = "LEASE")]
    Under { key: Blob, lease: Number },
}

impl Compare {
    pub(super) fn created(key: String, revision: u64) -> Self {
        Self::Created { key: key.into(), create_revision: Number(revision) }
    }

    pub(super) fn changed(key: String, revision: u64) -> Self {
        Self::Changed { key: key.into(), mod_revision: Number(revision) }
    }

    pub(super) fn under(key: String, lease: u64) -> Self {
        Self::Under { key: key.into(), lease: Number(lease) }
    }
}

#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Transaction {
    pub(super) compare: Vec<Compare>,
    pub(super) success: Vec<Step>,
    pub(super) failure: Vec<Step>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Header {
    #[serde(default)]
    pub(super) cluster_id: Number,
    #[serde(default)]
    pub(super) revision: Number,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct KeyValue {
    pub(super) key: Blob,
    #[serde(default)]
    pub(super) create_revision: Number,
    #[serde(default)]
    pub(super) mod_revision: Number,
    #[serde(default)]
    pub(super) version: Number,
    #[serde(default)]
    pub(super) value: Blob,
    #[serde(default)]
    pub(super) lease: Number,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Found {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) kvs: Vec<KeyValue>,
    #[serde(default)]
    pub(super) more: bool,
}

#[derive(Debug, Default, Deserialize)]
struct Outcome {
    #[serde(default)]
    response_range: Option<Found>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Carried {
    #[serde(default)]
    pub(super) header: Header,
    /// Whether the conditions held.
    #[serde(default)]
    pub(super) succeeded: bool,
    #[serde(default)]
    responses: Vec<Outcome>,
}

impl Carried {
    /// What the steps that read found, in their order.
    pub(super) fn found(self) -> impl Iterator<Item = Vec<KeyValue>> {
        self.responses.into_iter().filter_map(|outcome| outcome.response_range).map(|found| found.kvs)
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Lease {
    #[serde(default, skip_serializing)]
    pub(super) header: Header,
    #[serde(default, rename = "ID", skip_serializing_if = "is_zero")]
    pub(super) id: Number,
    #[serde(default, rename = "TTL", skip_serializing_if = "is_zero")]
    pub(super) ttl: Number,
}

impl Lease {
    pub(super) fn question(id: u64, ttl: u64) -> Self {
        Self { header: Header::default(), id: Number(id), ttl: Number(ttl) }
    }
}

/// One message of an answer that is a stream.
#[derive(Debug, Deserialize)]
pub(super) struct Message<T> {
    pub(super) result: Option<T>,
    #[serde(default)]
    pub(super) error: Option<Fault>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Fault {
    #[serde(default)]
    pub(super) message: String,
    #[serde(default)]
    pub(super) grpc_code: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct WatchRequest {
    pub(super) create_request: WatchCreate,
}

#[derive(Debug, Serialize)]
pub(super) struct WatchCreate {
    pub(super) key: Blob,
    #[serde(skip_serializing_if = "is_empty")]
    pub(super) range_end: Blob,
    pub(super) start_revision: Number,
    pub(super) filters: &'static [&'static str],
    /// Large answers come in parts.
    pub(super) fragment: bool,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Watched {
    #[serde(default)]
    pub(super) header: Header,
    #[serde(default)]
    pub(super) canceled: bool,
    #[serde(default)]
    pub(super) compact_revision: Number,
    #[serde(default)]
    pub(super) cancel_reason: String,
    #[serde(default)]
    pub(super) events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Event {
    /// Left out where it is a put.
    #[serde(default, rename = "type")]
    what: Option<String>,
    pub(super) kv: KeyValue,
}

impl Event {
    pub(super) fn is_put(&self) -> bool {
        self.what.as_deref().is_none_or(|what| what == "PUT")
    }
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Version {
    #[serde(default)]
    pub(super) etcdserver: String,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    pub(super) header: Header,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Health {
    #[serde(default)]
    pub(super) health: String,
}

#[derive(Serialize)]
pub(super) struct Login<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

#[derive(Default, Deserialize)]
pub(super) struct Token {
    #[serde(default)]
    pub(super) token: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_the_gateway_reads_them() {
        let transaction = Transaction {
            compare: vec![Compare::created("k".to_owned(), 7)],
            success: vec![Step::put("k".to_owned(), "v"), Step::delete("d".to_owned())],
            failure: vec![Step::get("k".to_owned())],
        };
        assert_eq!(
            serde_json::to_string(&transaction).unwrap(),
            r#"{"compare":[{"target":"CREATE","key":"aw==","create_revision":"7"}],"success":[{"request_put":{"key":"aw==","value":"dg=="}},{"request_delete_range":{"key":"ZA=="}}],"failure":[{"request_range":{"key":"aw=="}}]}"#
        );
    }

    #[test]
    fn what_is_left_out_of_an_answer_is_zero() {
        let answer = r#"{"header":{"cluster_id":"324952591200643719","revision":"2"},
            "responses":[{"response_put":{}},{"response_range":{"kvs":[{"key":"aw==","create_revision":"2"}],"count":"1"}}]}"#;
        let carried: Carried = serde_json::from_str(answer).unwrap();
        assert!(!carried.succeeded && carried.header.revision == Number(2));
        let found: Vec<_> = carried.found().flatten().collect();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].create_revision, found[0].lease, found[0].value.0.len()), (Number(2), Number(0), 0));
        let gone: Message<Lease> = serde_json::from_str(r#"{"result":{"header":{},"ID":"12345"}}"#).unwrap();
        assert_eq!(gone.result.unwrap().ttl, Number(0));
        let event: Event = serde_json::from_str(r#"{"type":"DELETE","kv":{"key":"aw==","mod_revision":"3"}}"#).unwrap();
        assert!(!event.is_put());
    }
}
