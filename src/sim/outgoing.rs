//! The bodies of pushes, as §4 lists their fields.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::protocol::Uid;

/// A push that arose, for one receiver.
pub(super) struct Outgoing {
    pub(super) to: Uid,
    pub(super) body: Box<RawValue>,
}

/// A message (§4.1, §4.2, §4.4); `group_id` is the group, or the subject of a topic.
#[derive(Serialize, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) from_uid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) group_id: Option<&'a str>,
    pub(super) create_time: u64,
    pub(super) msg_type: u8,
    pub(super) content: &'a str,
}

impl Message<'_> {
    pub(super) fn to(self, to: &Uid) -> Option<Outgoing> {
        #[derive(Serialize)]
        struct Addressed<'a> {
            to_uid: &'a Uid,
            #[serde(flatten)]
            message: Message<'a>,
        }
        body(to, &Addressed { to_uid: to, message: self })
    }
}

/// A user came or went (§4.3).
pub(super) fn presence(from: &Uid, to: &Uid, online: bool, time: u64) -> Option<Outgoing> {
    #[derive(Serialize)]
    struct Presence<'a> {
        from_uid: &'a Uid,
        to_uid: &'a Uid,
        msg_type: u8,
        time: u64,
        r#type: u8,
    }
    body(to, &Presence { from_uid: from, to_uid: to, msg_type: 4, time, r#type: u8::from(online) })
}

/// `None` cannot happen: these structures have string keys only.
fn body(to: &Uid, body: &impl Serialize) -> Option<Outgoing> {
    to_raw_value(body).ok().map(|body| Outgoing { to: to.clone(), body })
}
