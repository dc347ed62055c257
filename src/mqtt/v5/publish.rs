//! Writes a PUBLISH of MQTT 5, byte for byte as the codec would.

use bytes::{BufMut as _, BytesMut};

use super::super::explanations::Failure;
use super::super::packets::LARGEST_PACKET;
use crate::local::Publication;

const PUBLISH_AT_QOS_1: u8 = 0x32;
const PAYLOAD_FORMAT: u8 = 0x01;
const EXPIRY: u8 = 0x02;
const CONTENT_TYPE: u8 = 0x03;
const CORRELATION_DATA: u8 = 0x09;
const USER_PROPERTY: u8 = 0x26;
/// A property's number and the lengths of its one or two strings.
const STRING: usize = 3;
const PAIR: usize = 5;

pub(super) fn write(
    pkid: u16,
    p: &Publication,
    expiry: Option<u32>,
    largest: usize,
    out: &mut BytesMut,
) -> Result<(), Failure> {
    let properties = properties_length(p, expiry);
    let rest = 2 + p.topic.len() + 2 + length_of_length(properties) + properties + p.payload.len();
    let size = 1 + length_of_length(rest) + rest;
    if size > largest.min(LARGEST_PACKET) {
        return Err(Failure::Protocol(format!("a packet of {size} bytes is too large")));
    }
    out.reserve(size);
    out.put_u8(PUBLISH_AT_QOS_1 | u8::from(p.retain));
    put_length(out, rest);
    put_string(out, p.topic.as_bytes())?;
    out.put_u16(pkid);
    put_length(out, properties);
    if p.utf8 {
        out.put_slice(&[PAYLOAD_FORMAT, 1]);
    }
    if let Some(expiry) = expiry {
        out.put_u8(EXPIRY);
        out.put_u32(expiry);
    }
    if let Some(data) = &p.correlation_data {
        out.put_u8(CORRELATION_DATA);
        put_string(out, data)?;
    }
    for (key, value) in &*p.user_properties {
        out.put_u8(USER_PROPERTY);
        put_string(out, key.as_bytes())?;
        put_string(out, value.as_bytes())?;
    }
    if let Some(content_type) = p.content_type {
        out.put_u8(CONTENT_TYPE);
        put_string(out, content_type.as_bytes())?;
    }
    out.put_slice(&p.payload);
    Ok(())
}

fn properties_length(p: &Publication, expiry: Option<u32>) -> usize {
    let pairs = p.user_properties.iter().map(|(key, value)| PAIR + key.len() + value.len());
    2 * usize::from(p.utf8)
        + 5 * usize::from(expiry.is_some())
        + p.correlation_data.as_ref().map_or(0, |data| STRING + data.len())
        + pairs.sum::<usize>()
        + p.content_type.map_or(0, |content_type| STRING + content_type.len())
}

/// How many bytes a length takes: seven bits each.
fn length_of_length(length: usize) -> usize {
    match length {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

fn put_length(out: &mut BytesMut, mut length: usize) {
    loop {
        let more = length >= 0x80;
        let [seven_bits, ..] = length.to_le_bytes();
        out.put_u8((seven_bits & 0x7f) | if more { 0x80 } else { 0 });
        length >>= 7;
        if !more {
            return;
        }
    }
}

/// What is longer is refused before it comes here (`validate`).
fn put_string(out: &mut BytesMut, string: &[u8]) -> Result<(), Failure> {
    let length = u16::try_from(string.len()).map_err(|_| Failure::Protocol("a string is too long".to_owned()))?;
    out.put_u16(length);
    out.put_slice(string);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::{LARGEST_PACKET, V5, Version as _};
    use super::*;

    proptest! {
        #[test]
        fn it_is_what_the_codec_writes(
            topic in "(?s).{1,300}", size in prop_oneof![0_usize..300, 16_000_usize..17_000, 2_096_800_usize..2_097_300],
            retain: bool, utf8: bool, typed: bool, pairs in proptest::collection::vec("(?s).{0,200}", 0..6),
            correlation in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50)),
            expiry in proptest::option::of(any::<u32>()), pkid in 1..=u16::MAX,
        ) {
            let user_properties: Arc<[_]> = pairs.into_iter().map(|value| ("key", value)).collect();
            let publication = Publication {
                topic, payload: vec![7; size].into(), retain, content_type: typed.then_some("text/plain"), utf8,
                user_properties, correlation_data: correlation.map(Into::into), deadline: None,
            };
            let packet = V5::publish(pkid, &publication, expiry);
            let (mut ours, mut codecs) = (BytesMut::new(), BytesMut::new());
            prop_assert!(write(pkid, &publication, expiry, LARGEST_PACKET, &mut ours).is_ok());
            prop_assert!(V5::write(&packet, LARGEST_PACKET, &mut codecs).is_ok());
            prop_assert!(ours == codecs);
            let size = ours.len();
            prop_assert!(write(pkid, &publication, expiry, size, &mut ours).is_ok());
            prop_assert!(write(pkid, &publication, expiry, size - 1, &mut ours).is_err());
        }
    }
}
