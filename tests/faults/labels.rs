//! The numbers that the load puts into messages, by which each is known again wherever it passes.
//!
//! A push or a command of lane 3 with number 17 has the content `p3:17` or `c3:17`, perhaps followed by a space and padding.

use base64::Engine as _;
use serde_json::Value;

/// The label in a message's bytes; none if it is none of ours.
pub(crate) fn of_bytes(bytes: &[u8]) -> Option<String> {
    let first = bytes.split(|byte| *byte == b' ').next()?;
    let text = std::str::from_utf8(first).ok()?;
    let (lane, number) = text.split_once(':')?;
    let is_ours = matches!(lane.split_at_checked(1), Some(("p" | "c", digits)) if digits.parse::<u32>().is_ok());
    (is_ours && number.parse::<u64>().is_ok()).then(|| text.to_owned())
}

/// The label in base64.
pub(crate) fn of_base64(text: &str) -> Option<String> {
    of_bytes(&base64::engine::general_purpose::STANDARD.decode(text).ok()?)
}

/// The label of a push as iLink sends it, or of the bridge's envelope of it, which both have these fields.
pub(crate) fn of_push(json: &Value) -> Option<String> {
    match json["content"].as_str() {
        Some(content) if json["encoding"] == "utf8" => of_bytes(content.as_bytes()),
        Some(content) => of_base64(content),
        // Presence has no content: its sender and its time are its label.
        None => {
            let lane = json["from_uid"].as_str()?.strip_prefix("presence-")?;
            Some(format!("p{lane}:{}", json["time"].as_u64()?))
        }
    }
}

/// The label of a command, by its payload: of a raw one its content, of a JSON call its `ref`.
pub(crate) fn of_command(payload: &[u8]) -> Option<String> {
    of_bytes(payload).or_else(|| of_bytes(serde_json::from_slice::<Value>(payload).ok()?["ref"].as_str()?.as_bytes()))
}

/// The label of a call to iLink, by its body: in the content, or in the name of a group to create.
pub(crate) fn of_call(body: &Value) -> Option<String> {
    match body["content"].as_str() {
        Some(content) => of_base64(content),
        None => of_bytes(body["group_name"].as_str()?.as_bytes()),
    }
}

/// Lane and number.
pub(crate) fn number(label: &str) -> Option<(usize, u64)> {
    let (lane, number) = label.split_once(':')?;
    Some((lane.get(1..)?.parse().ok()?, number.parse().ok()?))
}
