//! How ids, topics, networks and lists are read and shown; implements [`Setting`] for each.

use figment::value::{Dict, Value};
use ipnet::IpNet;

use super::values::{Given, Setting, quoted};
use crate::local::names::is_name;
use crate::local::{Base, Contact, Output};
use crate::protocol::{Qos, Receiver, Subject, Uid};

impl Setting for Uid {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        given
            .text_or_digits()
            .filter(|uid| !uid.chars().any(char::is_control))
            .and_then(|uid| Self::try_from(uid).ok())
            .ok_or_else(|| "it must be a uid: a string or a number, not empty".to_owned())
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

impl Setting for Base {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        let text = given.text().ok_or("it must be a string")?;
        text.parse().map_err(|error: crate::local::BadBase| error.to_string())
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

impl Setting for Output {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        given
            .text()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| "it must be \"both\", \"raw\" or \"json\"".to_owned())
    }

    fn show(&self) -> String {
        quoted(match self {
            Self::Both => "both",
            Self::Raw => "raw",
            Self::Json => "json",
        })
    }
}

impl Setting for IpNet {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        given
            .text()
            .and_then(|text| text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(Self::from)))
            .ok_or_else(|| "it must be a network, such as \"192.0.2.0/24\", or an address".to_owned())
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        let wanted = || "it must be a TOML array, such as [\"a\", \"b\"]".to_owned();
        let parsed;
        let elements = match given {
            Given::Untyped(text) if text.trim().is_empty() => return Ok(Self::new()),
            Given::Untyped(text) => {
                parsed = toml::from_str::<Dict>(&format!("it = {text}")).map_err(|_| wanted())?;
                // More than one key: the text went on after the array.
                parsed.get("it").filter(|_| parsed.len() == 1).and_then(Value::as_array)
            }
            Given::Typed(value) => value.as_array(),
        };
        let elements = elements.ok_or_else(wanted)?.iter().enumerate();
        elements
            .map(|(n, element)| {
                let element = Given::Typed(element);
                T::read(&element).map_err(|wanted| format!("entry {}, {}: {wanted}", n + 1, element.show()))
            })
            .collect()
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(Setting::show).collect::<Vec<_>>().join(", "))
    }
}

/// One of `ilink.subscribe.topics`.
impl Setting for (Subject, Qos) {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        let wanted =
            || "it must be { subject = \"…\", qos = 0, 1 or 2 (default 1) }, the subject without # and +".to_owned();
        let table = table(given, &["subject", "qos"]).ok_or_else(wanted)?;
        let subject = table.get("subject").and_then(Value::as_str).and_then(|subject| subject.parse::<Subject>().ok());
        let qos = match table.get("qos") {
            None => Some(Qos::default()),
            Some(qos) => Given::Typed(qos)
                .integer()
                .and_then(|qos| u8::try_from(qos).ok())
                .and_then(|qos| Qos::try_from(qos).ok()),
        };
        subject.filter(Subject::is_publishable).zip(qos).ok_or_else(wanted)
    }

    fn show(&self) -> String {
        format!("{{ subject = {}, qos = {} }}", quoted(self.0.as_str()), u8::from(self.1))
    }
}

impl Setting for Contact {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        let wanted = || {
            "it must be { uid = \"…\", name = \"…\" }, or the same with group or subject instead of uid; with one of [names], \
             such as \"@ann\", name may be left out"
                .to_owned()
        };
        let table = table(given, &["uid", "group", "subject", "name"]).ok_or_else(wanted)?;
        let named = table.get("name");
        let table = Some(table).filter(|table| table.len() == 1 + usize::from(named.is_some())).ok_or_else(wanted)?;
        let text = |key: &str| Given::Typed(table.get(key)?).text_or_digits();
        let user = || Uid::read(&Given::Typed(table.get("uid")?)).ok().map(Receiver::User);
        let group = || text("group")?.parse().ok().map(Receiver::Group);
        let subject = || text("subject")?.parse().ok().filter(Subject::is_publishable).map(Receiver::Subject);
        let id = user().or_else(group).or_else(subject).ok_or_else(wanted)?;
        let name = match named {
            Some(name) => name.as_str().filter(|name| !name.trim().is_empty()),
            None => id.as_str().strip_prefix('@').filter(|name| is_name(name)),
        };
        let name = name.map(str::to_owned).ok_or_else(wanted)?;
        Ok(Self { id, name })
    }

    fn show(&self) -> String {
        let key = match &self.id {
            Receiver::User(_) => "uid",
            Receiver::Group(_) => "group",
            Receiver::Subject(_) => "subject",
        };
        format!("{{ {key} = {}, name = {} }}", quoted(self.id.as_str()), quoted(&self.name))
    }
}

fn table<'a>(given: &Given<'a>, keys: &[&str]) -> Option<&'a Dict> {
    let Given::Typed(value) = given else { return None };
    value.as_dict().filter(|table| table.keys().all(|key| keys.contains(&key.as_str())))
}
