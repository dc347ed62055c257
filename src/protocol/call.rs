//! The calls of §5 and what each sends; the calls of §3 and §5.1, by which the session lives, are in [`account`](super::account).
//!
//! A [`Call`] is what a device or an operator asks for; [`Call::request`] turns it into the path and the body that the
//! manual's *tables* prescribe. The manual's samples are wrong in places and are not followed. Posting the request,
//! repeating it and waiting for the reply happen elsewhere.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::account::{Account, Request, body};
use super::content;
use super::ids::{GroupId, Subject, Uid};

/// Something iLink can be asked to do on behalf of the registered account.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Send a text message to a user (§5.2).
    SendText {
        /// The receiver.
        to: Uid,
        /// The text's bytes.
        content: Vec<u8>,
    },
    /// Send a file message to a user (§5.2); what a file is, the manual does not say.
    SendFile {
        /// The receiver.
        to: Uid,
        /// The bytes.
        content: Vec<u8>,
    },
    /// Send a message to a group (§5.3).
    SendGroup {
        /// The receiver.
        group: GroupId,
        /// The bytes.
        content: Vec<u8>,
    },
    /// Publish to a topic's subscribers (§5.14).
    Publish {
        /// The topic.
        subject: Subject,
        /// The bytes.
        content: Vec<u8>,
    },
    /// Subscribe to a topic (§5.13).
    SubscribeTopic {
        /// The topic.
        subject: Subject,
        /// The quality of service towards us.
        qos: Qos,
    },
    /// Unsubscribe from a topic (§5.13).
    UnsubscribeTopic {
        /// The topic.
        subject: Subject,
    },
    /// Create a group (§5.4); its id is in the reply.
    CreateGroup {
        /// The name that people see.
        name: String,
        /// The users to pull in beside ourselves.
        members: Vec<Uid>,
    },
    /// Delete a group (§5.5).
    DeleteGroup {
        /// The group.
        group: GroupId,
    },
    /// List the groups we are in (§5.6).
    ListGroups,
    /// Add members to a group (§5.7).
    AddMembers {
        /// The group.
        group: GroupId,
        /// Whom to add.
        members: Vec<Uid>,
    },
    /// Remove members from a group (§5.8).
    RemoveMembers {
        /// The group.
        group: GroupId,
        /// Whom to remove.
        members: Vec<Uid>,
    },
    /// List the members of a group, without ourselves (§5.9).
    GroupMembers {
        /// The group.
        group: GroupId,
    },
    /// Ask which users are online (§5.10).
    UserStates {
        /// The users.
        uids: Vec<Uid>,
    },
    /// Subscribe to users' coming and going (§5.11).
    SubscribePresence {
        /// The users.
        uids: Vec<Uid>,
    },
    /// Unsubscribe from users' coming and going (§5.11).
    UnsubscribePresence {
        /// The users.
        uids: Vec<Uid>,
    },
    /// Register a new user (§5.12).
    AddUser {
        /// The name to log in with.
        username: String,
        /// The name that people see.
        nickname: String,
    },
}

/// The quality of service of a topic subscription (§5.13), MQTT's three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Qos {
    /// 0.
    AtMostOnce,
    /// 1.
    #[default]
    AtLeastOnce,
    /// 2.
    ExactlyOnce,
}

/// A quality of service is 0, 1 or 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("qos must be 0, 1 or 2")]
pub struct BadQos;

impl TryFrom<u8> for Qos {
    type Error = BadQos;

    fn try_from(level: u8) -> Result<Self, BadQos> {
        match level {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            _ => Err(BadQos),
        }
    }
}

impl From<Qos> for u8 {
    fn from(qos: Qos) -> Self {
        match qos {
            Qos::AtMostOnce => 0,
            Qos::AtLeastOnce => 1,
            Qos::ExactlyOnce => 2,
        }
    }
}

/// Whom a call reaches: calls to one receiver are kept in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Receiver {
    /// A user.
    User(Uid),
    /// A group, also as the object of group management.
    Group(GroupId),
    /// A topic.
    Subject(Subject),
}

impl Receiver {
    /// Its id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::User(uid) => uid.as_str(),
            Self::Group(group) => group.as_str(),
            Self::Subject(subject) => subject.as_str(),
        }
    }
}

impl Call {
    /// Every [`Self::name`].
    pub const NAMES: [&'static str; 16] = [
        "send_msg/text",
        "send_msg/file",
        "send_msg/group",
        "ham_topic/publish",
        "ham_topic/subscribe",
        "ham_topic/unsubscribe",
        "ham_group/create",
        "ham_group/delete",
        "ham_group/members",
        "ham_group/list",
        "ham_group/add_members",
        "ham_group/remove_members",
        "ham_user/states",
        "ham_user/subscribe",
        "ham_user/unsubscribe",
        "ham_add_user",
    ];

    /// The public name: the vendor's path and, where the path has several calls, which of them.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SendText { .. } => "send_msg/text",
            Self::SendFile { .. } => "send_msg/file",
            Self::SendGroup { .. } => "send_msg/group",
            Self::Publish { .. } => "ham_topic/publish",
            Self::SubscribeTopic { .. } => "ham_topic/subscribe",
            Self::UnsubscribeTopic { .. } => "ham_topic/unsubscribe",
            Self::CreateGroup { .. } => "ham_group/create",
            Self::DeleteGroup { .. } => "ham_group/delete",
            Self::ListGroups => "ham_group/list",
            Self::AddMembers { .. } => "ham_group/add_members",
            Self::RemoveMembers { .. } => "ham_group/remove_members",
            Self::GroupMembers { .. } => "ham_group/members",
            Self::UserStates { .. } => "ham_user/states",
            Self::SubscribePresence { .. } => "ham_user/subscribe",
            Self::UnsubscribePresence { .. } => "ham_user/unsubscribe",
            Self::AddUser { .. } => "ham_add_user",
        }
    }

    /// The receiver; none for calls about ourselves or about several users.
    #[must_use]
    pub fn receiver(&self) -> Option<Receiver> {
        match self {
            Self::SendText { to, .. } | Self::SendFile { to, .. } => Some(Receiver::User(to.clone())),
            Self::SendGroup { group, .. }
            | Self::DeleteGroup { group }
            | Self::AddMembers { group, .. }
            | Self::RemoveMembers { group, .. }
            | Self::GroupMembers { group } => Some(Receiver::Group(group.clone())),
            Self::Publish { subject, .. }
            | Self::SubscribeTopic { subject, .. }
            | Self::UnsubscribeTopic { subject } => Some(Receiver::Subject(subject.clone())),
            Self::CreateGroup { .. }
            | Self::ListGroups
            | Self::UserStates { .. }
            | Self::SubscribePresence { .. }
            | Self::UnsubscribePresence { .. }
            | Self::AddUser { .. } => None,
        }
    }

    /// Whether a second execution would make a second thing that nobody asked for, so that the call is never repeated once
    /// it may have been executed.
    #[must_use]
    pub const fn never_repeat(&self) -> bool {
        matches!(self, Self::CreateGroup { .. } | Self::AddUser { .. })
    }

    /// The content of a message that is sent or published.
    #[must_use]
    pub fn content(&self) -> Option<&[u8]> {
        match self {
            Self::SendText { content, .. }
            | Self::SendFile { content, .. }
            | Self::SendGroup { content, .. }
            | Self::Publish { content, .. } => Some(content),
            _ => None,
        }
    }

    /// What to post: exactly the fields of the manual's table for this call.
    #[must_use]
    pub fn request(&self, account: &Account) -> Request {
        let me = &account.uid;
        let body = match self {
            Self::SendText { to, content } => {
                body! {"send_uid": me, "accept_uid": to, "msg_type": 1, "content": content::encode(content)}
            }
            Self::SendFile { to, content } => {
                body! {"send_uid": me, "accept_uid": to, "msg_type": 2, "content": content::encode(content)}
            }
            // §5.3's sample has msg_type 1, its table 3.
            Self::SendGroup { group, content } => {
                body! {"send_uid": me, "group_id": group, "msg_type": 3, "content": content::encode(content)}
            }
            Self::Publish { subject, content } => {
                body! {"send_uid": me, "action_type": 2, "subject": subject, "content": content::encode(content)}
            }
            Self::SubscribeTopic { subject, qos } => {
                body! {"send_uid": me, "action_type": 1, "subject": subject, "qos": qos, "type": 1}
            }
            Self::UnsubscribeTopic { subject } => {
                body! {"send_uid": me, "action_type": 1, "subject": subject, "type": 0}
            }
            Self::CreateGroup { name, members } => {
                body! {"send_uid": me, "group_name": name, "action_type": 1, "uid_list": members}
            }
            Self::DeleteGroup { group } => body! {"send_uid": me, "group_id": group, "action_type": 2},
            // §5.6's sample has action_type 2 and a group_id: that deletes the group (§5.5).
            Self::ListGroups => body! {"send_uid": me, "action_type": 3},
            Self::AddMembers { group, members } => {
                body! {"send_uid": me, "group_id": group, "action_type": 4, "uid_list": members}
            }
            Self::RemoveMembers { group, members } => {
                body! {"send_uid": me, "group_id": group, "action_type": 5, "uid_list": members}
            }
            Self::GroupMembers { group } => body! {"send_uid": me, "group_id": group, "action_type": 6},
            Self::UserStates { uids } => body! {"send_uid": me, "action_type": 1, "uid_list": uids},
            // §5.11's table has action_type 2 and its sample 7, hence the account's setting.
            Self::SubscribePresence { uids } => {
                body! {"send_uid": me, "action_type": account.presence_action, "uid_list": uids, "type": 1}
            }
            Self::UnsubscribePresence { uids } => {
                body! {"send_uid": me, "action_type": account.presence_action, "uid_list": uids, "type": 0}
            }
            Self::AddUser { username, nickname } => body! {"username": username, "nickname": nickname},
        };
        // The name begins with the vendor's path.
        let path = self.name().split('/').next().unwrap_or_default();
        match self {
            Self::AddUser { .. } => account.keyed_request(path, body),
            _ => Request { path, body, with_token: true },
        }
    }
}

/// Shows the name, the receiver and the content's length: neither content nor people's names appear in a log.
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct(self.name());
        if let Some(receiver) = self.receiver() {
            shown.field("receiver", &receiver);
        }
        if let Some(content) = self.content() {
            shown.field("content_len", &content.len());
        }
        shown.finish()
    }
}
