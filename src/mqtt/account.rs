//! Whether another account already uses our base topic: two would answer each other's commands and mix their messages.
//!
//! Told by the retained messages under `bridge/`, looked at before anything is subscribed or published on a connection.

use crate::local::Base;
use crate::observe::log::clipped;
use crate::protocol::Uid;

/// The look at `bridge/info` and `bridge/state`.
#[derive(Debug)]
pub(super) struct AccountCheck {
    info_topic: String,
    state_topic: String,
    uid: Option<String>,
    online: bool,
    /// The SUBACK of each topic: whether we may look.
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

    /// A SUBACK; whether it was the last of them.
    pub(super) fn answered(&mut self, granted: bool) -> bool {
        self.granted.push(granted);
        self.granted.len() >= self.topics().len()
    }

    /// Whether none was granted.
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

    /// The other account, if there is one, as it is shown to people: anybody may have written it. A broken info names nobody:
    /// then there is no conflict that we know of.
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
