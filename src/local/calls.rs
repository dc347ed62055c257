//! The JSON calls: their names, the fields of each, and the call they make.
//!
//! One table, so that what is documented as allowed is what is read. `ref`, `ttl` and permissions are
//! [`command`](super::command)'s.

use super::fields::{Fault, Fields};
use crate::protocol::{Call, Qos, Subject};

/// A call that can be made of JSON.
pub(super) struct JsonCall {
    /// The fields it has, beside those every call has.
    pub fields: &'static [&'static str],
    /// Makes the call of its fields, with at most so many bytes of content.
    pub read: fn(&Fields, usize) -> Result<Call, Fault>,
}

/// The call named `name`, if there is one.
pub(super) fn json_call(name: &str) -> Option<JsonCall> {
    let call = |fields, read| Some(JsonCall { fields, read });
    match name {
        "send_msg/text" => call(&["accept_uid", "content", "encoding"], |fields, max| {
            Ok(Call::SendText { to: fields.id("accept_uid")?, content: fields.content(max)? })
        }),
        "send_msg/file" => call(&["accept_uid", "content", "encoding"], |fields, max| {
            Ok(Call::SendFile { to: fields.id("accept_uid")?, content: fields.content(max)? })
        }),
        "send_msg/group" => call(&["group_id", "content", "encoding"], |fields, max| {
            Ok(Call::SendGroup { group: fields.id("group_id")?, content: fields.content(max)? })
        }),
        "ham_topic/publish" => call(&["subject", "content", "encoding"], |fields, max| {
            Ok(Call::Publish { subject: subject(fields)?, content: fields.content(max)? })
        }),
        "ham_topic/subscribe" => call(&["subject", "qos"], |fields, _| {
            Ok(Call::SubscribeTopic { subject: subject(fields)?, qos: qos(fields)? })
        }),
        "ham_topic/unsubscribe" => {
            call(&["subject"], |fields, _| Ok(Call::UnsubscribeTopic { subject: subject(fields)? }))
        }
        "ham_group/create" => call(&["group_name", "uid_list"], |fields, _| {
            Ok(Call::CreateGroup { name: fields.text("group_name")?, members: fields.ids("uid_list")? })
        }),
        "ham_group/delete" => call(&["group_id"], |fields, _| Ok(Call::DeleteGroup { group: fields.id("group_id")? })),
        "ham_group/list" => call(&[], |_, _| Ok(Call::ListGroups)),
        "ham_group/add_members" => call(&["group_id", "uid_list"], |fields, _| {
            Ok(Call::AddMembers { group: fields.id("group_id")?, members: fields.ids("uid_list")? })
        }),
        "ham_group/remove_members" => call(&["group_id", "uid_list"], |fields, _| {
            Ok(Call::RemoveMembers { group: fields.id("group_id")?, members: fields.ids("uid_list")? })
        }),
        "ham_group/members" => {
            call(&["group_id"], |fields, _| Ok(Call::GroupMembers { group: fields.id("group_id")? }))
        }
        "ham_user/states" => call(&["uid_list"], |fields, _| Ok(Call::UserStates { uids: fields.ids("uid_list")? })),
        "ham_user/subscribe" => {
            call(&["uid_list"], |fields, _| Ok(Call::SubscribePresence { uids: fields.ids("uid_list")? }))
        }
        "ham_user/unsubscribe" => {
            call(&["uid_list"], |fields, _| Ok(Call::UnsubscribePresence { uids: fields.ids("uid_list")? }))
        }
        "ham_add_user" => call(&["username", "nickname"], |fields, _| {
            Ok(Call::AddUser { username: fields.text("username")?, nickname: fields.text("nickname")? })
        }),
        _ => None,
    }
}

/// A subject that iLink lets us use.
fn subject(fields: &Fields) -> Result<Subject, Fault> {
    let subject: Subject = fields.id("subject")?;
    if subject.is_publishable() { Ok(subject) } else { Err(Fault::Payload("subject must not hold # or +".to_owned())) }
}

fn qos(fields: &Fields) -> Result<Qos, Fault> {
    Ok(match fields.integer("qos", 0..=2)? {
        Some(0) => Qos::AtMostOnce,
        Some(2) => Qos::ExactlyOnce,
        _ => Qos::AtLeastOnce,
    })
}
