//! Checks whether another iLink account already uses our base topic. Two bridges under one base topic would answer each other's
//! commands and mix their messages.
//!
//! The retained messages `bridge/info` and `bridge/state` tell. They are read on every connection, before the link subscribes
//! to commands or publishes anything.

use crate::local::Base;
use crate::observe::log::clipped;
use crate::protocol::Uid;

/// One such check: what `bridge/info` and `bridge/state` said so far.
#[derive(Debug)]
pub(super) struct AccountCheck {
    info_topic: String,
    state_topic: String,
    uid: Option<String>,
    online: bool,
    /// For each SUBACK, whether the subscription was granted.
    granted: Vec<bool>,
}

impl AccountCheck {
    pub(super) fn new(base: &Base) -> Self {
        let (info_topic, state_topic) = (base.bridge("info"), base.bridge("state"));
        Self { info_topic, state_topic, uid: None, online: false, granted: Vec::new() }
    }

    pub(super) fn topics(&self) -> [String; 2] {
        [self.info_topic.clone(), self.state_topic.clone()]
    }

    /// Notes a SUBACK. Returns whether it was the last one.
    pub(super) fn answered(&mut self, granted: bool) -> bool {
        self.granted.push(granted);
        self.granted.len() >= self.topics().len()
    }

    /// Whether no subscription was granted.
    pub(super) fn is_denied(&self) -> bool {
        !self.granted.contains(&true)
    }

    pub(super) fn is_about(&self, topic: &str) -> bool {
        topic == self.info_topic || topic == self.state_topic
    }

    pub(super) fn note(&mut self, topic: &str, payload: &[u8]) {
        if topic == self.state_topic {
            self.online = payload == b"online";
        } else if topic == self.info_topic {
            let info: Option<serde_json::Value> = serde_json::from_slice(payload).ok();
            self.uid = match info.as_ref().and_then(|info| info.get("uid")) {
                Some(serde_json::Value::String(uid)) => Some(uid.clone()),
                Some(serde_json::Value::Number(uid)) => Some(uid.to_string()),
                _ => None,
            };
        }
    }

    /// The uid of the other account, if one is online. It is escaped for display, because any client may have written it. An
    /// info that cannot be read names nobody and is no conflict.
    pub(super) fn other(&self, own: &Uid) -> Option<String> {
        let uid = self.uid.as_deref().filter(|uid| self.online && *uid != own.as_str())?;
        Some(clipped(uid).escape_debug().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_is_another_uid_that_is_online() {
        let base: Base = "ilink".parse().unwrap();
        let own: Uid = "414".parse().unwrap();
        for (info, state, other) in [
            (r#"{"uid":"413"}"#, "online", Some("413")),
            (r#"{"uid":413}"#, "online", Some("413")),
            (r#"{"uid":"4\u001b[2J\n"}"#, "online", Some(r"4\u{1b}[2J\n")),
            (r#"{"uid":"413"}"#, "offline", None),
            (r#"{"uid":"413"}"#, "", None),
            (r#"{"uid":"414"}"#, "online", None),
            (r#"{"uid":414}"#, "online", None),
            ("{}", "online", None),
            ("no json", "online", None),
        ] {
            let mut check = AccountCheck::new(&base);
            check.note("ilink/bridge/info", info.as_bytes());
            check.note("ilink/bridge/state", state.as_bytes());
            check.note("ilink/other", b"offline");
            assert_eq!(check.other(&own).as_deref(), other, "{info} {state}");
        }
    }
}
