//! A message for the local broker, complete and independent of any MQTT library.
//!
//! This room and those above it decide what is published. The MQTT adapter sends it at QoS 1, and leaves out what MQTT 3.1.1
//! does not have.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// The content type of envelopes and results.
pub const JSON: &str = "application/json";
/// The content type of raw content that is UTF-8.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// The content type of any other raw content.
pub const BYTES: &str = "application/octet-stream";

/// One message to publish at QoS 1.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Publication {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Bytes,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// MQTT 5: the payload's media type.
    pub content_type: Option<&'static str>,
    /// MQTT 5: payload format indicator 1, the payload is UTF-8.
    pub utf8: bool,
    /// MQTT 5: user properties, in order.
    pub user_properties: Arc<[(&'static str, String)]>,
    /// MQTT 5: what the requester correlates the answer by.
    pub correlation_data: Option<Bytes>,
    /// The boot-time instant after which it must not be sent any more; what
    /// is left until then is the MQTT 5 message expiry.
    pub deadline: Option<Duration>,
}

impl Publication {
    /// A JSON document, not retained.
    #[must_use]
    pub fn json(topic: String, payload: Vec<u8>) -> Self {
        Self { topic, payload: payload.into(), content_type: Some(JSON), utf8: true, ..Self::default() }
    }

    /// Raw content, not retained; whether it is text is told by its bytes.
    #[must_use]
    pub fn raw(topic: String, payload: impl Into<Bytes>) -> Self {
        let payload = payload.into();
        let utf8 = std::str::from_utf8(&payload).is_ok();
        let content_type = Some(if utf8 { TEXT } else { BYTES });
        Self { topic, payload, content_type, utf8, ..Self::default() }
    }

    /// No fewer bytes than its packet has, in either version of MQTT; cheap to say.
    #[must_use]
    pub fn packet_size_at_most(&self) -> usize {
        // Fixed header, length of the topic, packet id, length of the properties, payload format, expiry.
        const FIXED: usize = 5 + 2 + 2 + 4 + 2 + 5;
        // A property's number and the lengths of its one or two strings.
        const STRING: usize = 3;
        const PAIR: usize = 5;
        let pairs = self.user_properties.iter().map(|(key, value)| PAIR + key.len() + value.len());
        FIXED
            + self.topic.len()
            + self.payload.len()
            + self.content_type.map_or(0, |content_type| STRING + content_type.len())
            + self.correlation_data.as_ref().map_or(0, |data| STRING + data.len())
            + pairs.sum::<usize>()
    }

    /// The same, retained.
    #[must_use]
    pub fn retained(self) -> Self {
        Self { retain: true, ..self }
    }
}

/// Shows the payload's length only: content appears in no log.
impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publication")
            .field("topic", &self.topic)
            .field("len", &self.payload.len())
            .field("retain", &self.retain)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_content_is_text_if_it_can_be() {
        let text = Publication::raw("t".to_owned(), "开灯".as_bytes());
        assert_eq!((text.content_type, text.utf8), (Some(TEXT), true));
        let bytes = Publication::raw("t".to_owned(), vec![0xff]).retained();
        assert_eq!((bytes.content_type, bytes.utf8, bytes.retain), (Some(BYTES), false, true));
        assert!(!format!("{text:?}").contains("开灯"));
    }
}
