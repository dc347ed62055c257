//! The JSON calls: their names, their fields, and how each is read.
//!
//! One table serves both the documentation and the reader, so they cannot differ. Reading is strict: anything unknown is
//! refused, so no typo goes unnoticed. A byte order mark before the object and a NUL after it are skipped; editors and C
//! strings leave those. Errors name the field and what is allowed, and never contain content. `ref`, `ttl` and permissions are
//! handled in [`command`](super::command).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::names::{Nameable, Names};
use crate::protocol::{Call, Qos, Subject, lenient};

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

/// What is wrong with the fields.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Payload(String),
    TooLarge(String),
}

impl Fault {
    fn field(name: &str, allowed: &str) -> Self {
        Self::Payload(format!("{name} must be {allowed}"))
    }
}

/// The members of one JSON object in their order, and the names that ids in them may have.
pub(super) struct Fields<'a> {
    members: Vec<(String, &'a RawValue)>,
    names: Option<&'a Names>,
}

impl<'a> Fields<'a> {
    pub(super) fn parse(json: &'a [u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(lenient::trimmed(json))
            .map_err(|_| Fault::Payload("the payload is not UTF-8".to_owned()))?;
        if text.is_empty() {
            return Err(Fault::Payload("the payload is empty; it must be a JSON object".to_owned()));
        }
        // The parser's own message may quote the payload.
        serde_json::from_str(text).map_err(|error| {
            Fault::Payload(match error.classify() {
                Category::Data => "the payload must be a JSON object".to_owned(),
                _ => format!("the payload is not JSON (line {}, column {})", error.line(), error.column()),
            })
        })
    }

    /// The same, where ids may be names.
    pub(super) fn naming(self, names: &'a Names) -> Self {
        Self { names: Some(names), ..self }
    }

    /// Whether there are only fields of `allowed`, each once.
    pub(super) fn expect_only(&self, allowed: &[&str]) -> Result<(), Fault> {
        for (position, (name, _)) in self.members.iter().enumerate() {
            if !allowed.contains(&name.as_str()) {
                let all = allowed.join(", ");
                return Err(Fault::Payload(format!("unknown field {}; allowed are {all}", shown(name))));
            }
            // Few comparisons: an unknown or second field ends the loop.
            if self.members.iter().take(position).any(|(earlier, _)| earlier == name) {
                return Err(Fault::Payload(format!("the field {name} is there twice")));
            }
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.members.iter().find(|(field, _)| field == name).map(|(_, value)| *value)
    }

    /// A non-empty string.
    pub(super) fn text(&self, name: &str) -> Result<String, Fault> {
        self.get(name)
            .and_then(string)
            .filter(|text| !text.is_empty())
            .ok_or_else(|| Fault::field(name, "a non-empty string"))
    }

    /// An id: a non-empty string, which may be a name, or an integer, which stands for its digits.
    pub(super) fn id<T: Nameable>(&self, name: &str) -> Result<T, Fault> {
        let wanted = || Fault::field(name, "an id: a non-empty string without NUL, or an integer");
        self.read_id(name, self.get(name).ok_or_else(wanted)?).unwrap_or_else(|| Err(wanted()))
    }

    /// A non-empty array of ids.
    pub(super) fn ids<T: Nameable>(&self, name: &str) -> Result<Vec<T>, Fault> {
        let wanted = || Fault::field(name, "a non-empty array of ids (non-empty strings or integers)");
        let raw = self.get(name).and_then(|raw| serde_json::from_str::<Vec<&RawValue>>(raw.get()).ok());
        let raw = raw.filter(|raw| !raw.is_empty()).ok_or_else(wanted)?;
        raw.into_iter().map(|raw| self.read_id(name, raw).unwrap_or_else(|| Err(wanted()))).collect()
    }

    /// The id in a value; none if it is no id.
    fn read_id<T: Nameable>(&self, field: &str, raw: &RawValue) -> Option<Result<T, Fault>> {
        let text = id_text(raw)?;
        match self.names.and_then(|names| names.named(&text)) {
            Some(named) => Some(named.map_err(|what| Fault::Payload(format!("{field}: {what}")))),
            None => T::try_from(text).ok().map(Ok),
        }
    }

    /// An integer within `range`, if the field is there.
    pub(super) fn integer(&self, name: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>, Fault> {
        let Some(raw) = self.get(name) else { return Ok(None) };
        match serde_json::from_str(raw.get()) {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(Fault::field(name, &format!("an integer from {} to {}", range.start(), range.end()))),
        }
    }

    /// `content`, decoded as `encoding` says, of at least one and at most `max` bytes. A number or a boolean counts as its JSON
    /// text.
    pub(super) fn content(&self, max: usize) -> Result<Vec<u8>, Fault> {
        let written = |raw| string(raw).or_else(|| number(raw).or_else(|| boolean(raw)).map(str::to_owned));
        let text = self
            .get("content")
            .and_then(written)
            .filter(|text| !text.is_empty())
            .ok_or_else(|| Fault::field("content", "a non-empty string, a number or a boolean"))?;
        let encoding = match self.get("encoding") {
            Some(raw) => string(raw),
            None => Some("utf8".to_owned()),
        };
        let bytes = match encoding.as_deref() {
            Some("utf8") => text.into_bytes(),
            Some("base64") => STANDARD.decode(text).map_err(|_| {
                Fault::field("content", "base64 in the standard alphabet, padded (or leave out encoding)")
            })?,
            _ => return Err(Fault::field("encoding", "\"utf8\" or \"base64\"")),
        };
        if bytes.len() > max { Err(too_large(bytes.len(), max)) } else { Ok(bytes) }
    }

    /// The JSON text of `name` if it is a string or a number of at most `max` bytes (of the string itself, not of its
    /// escapes), if the field is there.
    pub(super) fn scalar(&self, name: &str, max: usize) -> Result<Option<&'a str>, Fault> {
        let mut found = self.members.iter().filter(|(field, _)| field == name);
        let Some((_, raw)) = found.next() else { return Ok(None) };
        let length = string(raw).map(|text| text.len()).or_else(|| number(raw).map(str::len));
        if length.is_some_and(|length| length <= max) && found.next().is_none() {
            Ok(Some(raw.get()))
        } else {
            Err(Fault::field(name, &format!("one string or number of at most {max} bytes")))
        }
    }
}

/// The refusal of `len` bytes of content.
pub(super) fn too_large(len: usize, max: usize) -> Fault {
    Fault::TooLarge(format!("the content has {len} bytes; outbound.max_content allows {max}"))
}

/// `text` quoted, and cut where it is long: for messages that people read.
pub(super) fn shown(text: &str) -> String {
    const MAX: usize = 60;
    let cut: String = text.chars().take(MAX).collect();
    if cut.len() == text.len() { format!("{cut:?}") } else { format!("{cut:?}…") }
}

fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

fn number(raw: &RawValue) -> Option<&str> {
    raw.get().starts_with(|c: char| c == '-' || c.is_ascii_digit()).then(|| raw.get())
}

fn boolean(raw: &RawValue) -> Option<&str> {
    matches!(raw.get(), "true" | "false").then(|| raw.get())
}

fn id_text(raw: &RawValue) -> Option<String> {
    let integer = || number(raw).filter(|text| !text.contains(['.', 'e', 'E'])).map(str::to_owned);
    // NUL is refused as it is in a topic.
    string(raw).filter(|text| !text.contains('\0')).or_else(integer)
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Fields { members: fields, names: None })
    }
}
