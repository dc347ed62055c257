//! MQTT discovery for Home Assistant: one retained configuration per entity.
//!
//! Each has its own topic, `<prefix>/<component>/<node>/<object>/config`. Every version of Home Assistant reads that form, and
//! an empty payload removes one entity alone. All entities belong to one device, and are unavailable while the bridge is. Their
//! states come from topics that exist anyway; only these configurations and the contacts' last pictures are there for Home
//! Assistant alone.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::envelope::Output;
use super::names::Names;
use super::publication::Publication;
use super::topics::Base;
use crate::protocol::{Kind, Receiver, Uid};

/// What messages may fire the event entity: those that can be orders. Presence has sensors.
const EVENTS: [Kind; 4] = [Kind::Text, Kind::File, Kind::Group, Kind::Topic];

/// The states of `bridge/cloud`.
const CLOUD: [&str; 5] = ["online", "degraded", "auth_error", "unregistered", "offline"];

/// Somebody to whom Home Assistant can send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// Who, or where.
    pub id: Receiver,
    /// What people call them.
    pub name: String,
}

impl Contact {
    /// Who it is, if it is a user.
    #[must_use]
    pub fn uid(&self) -> Option<&Uid> {
        match &self.id {
            Receiver::User(uid) => Some(uid),
            _ => None,
        }
    }
}

/// What Home Assistant is told.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// `homeassistant.discovery_prefix`.
    pub prefix: Base,
    /// `mqtt.base_topic`.
    pub base: Base,
    /// Ours.
    pub uid: Uid,
    /// `homeassistant.contacts`.
    pub contacts: Vec<Contact>,
    /// Which forms of a message are published.
    pub output: Output,
    /// What ids are called.
    pub names: Names,
    /// Whether the bridge is a member of a cluster.
    pub cluster: bool,
}

impl Discovery {
    /// Where Home Assistant says `online` when it has started.
    #[must_use]
    pub fn birth_topic(&self) -> String {
        format!("{}/status", self.prefix.as_str())
    }

    /// All topics that are published to.
    #[must_use]
    pub fn filter(&self) -> String {
        format!("{}/+/{}/+/config", self.prefix.as_str(), self.node())
    }

    /// The configuration of every entity; `presence` are the users whose presence iLink tells us.
    #[must_use]
    pub fn entities<'a>(&self, presence: impl IntoIterator<Item = &'a Uid>) -> Vec<Publication> {
        let mut entities = vec![self.connectivity(), self.cloud()];
        entities.extend(self.cluster.then(|| self.leader()));
        for (queue, what) in [("inbound", "Inbound"), ("outbound", "Outbound"), ("set_aside", "Set aside")] {
            entities.extend([self.depth(queue, what), self.age(queue, what)]);
        }
        let presence: BTreeMap<&str, &Uid> = presence.into_iter().map(|uid| (uid.as_str(), uid)).collect();
        entities.extend(presence.into_values().map(|uid| self.presence(uid)));
        entities.extend(self.contacts.iter().map(|contact| self.notify(contact)));
        let users = self.contacts.iter().filter_map(|contact| Some((contact.uid()?, &contact.name)));
        entities.extend(users.map(|(uid, name)| self.picture(uid, name)));
        if self.output != Output::Raw {
            entities.push(self.message());
        }
        entities
    }

    /// The topics of the contacts' last pictures: retained, and to be cleared when they are contacts no more.
    pub fn pictures(&self) -> impl Iterator<Item = String> {
        self.contacts.iter().filter_map(Contact::uid).map(|uid| self.base.picture(uid))
    }

    fn connectivity(&self) -> Publication {
        let keys = json!({
            "state_topic": self.base.bridge("cloud"),
            "value_template": "{{ 'ON' if value == 'online' else 'OFF' }}",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
        });
        self.entity("binary_sensor", "cloud", "iLink", keys)
    }

    fn cloud(&self) -> Publication {
        let keys = json!({
            "state_topic": self.base.bridge("cloud"),
            "device_class": "enum",
            "options": CLOUD,
            "json_attributes_topic": self.base.bridge("health"),
            "json_attributes_template": "{{ {'cause': value_json.cloud.cause, 'since': value_json.cloud.since} | tojson }}",
            "entity_category": "diagnostic",
        });
        self.entity("sensor", "cloud_state", "iLink state", keys)
    }

    fn leader(&self) -> Publication {
        let keys = json!({
            "state_topic": self.base.bridge("cluster"),
            "value_template": "{{ value_json.leader }}",
            "json_attributes_topic": self.base.bridge("cluster"),
            "json_attributes_template": "{{ {'members': value_json.members, 'etcd': value_json.etcd} | tojson }}",
            "entity_category": "diagnostic",
        });
        self.entity("sensor", "leader", "Leader", keys)
    }

    fn depth(&self, queue: &str, what: &str) -> Publication {
        let keys = json!({
            "state_topic": self.base.bridge("health"),
            "value_template": format!("{{{{ value_json.queues.{queue}.depth }}}}"),
            "unit_of_measurement": "messages",
            "state_class": "measurement",
            "entity_category": "diagnostic",
        });
        self.entity("sensor", &format!("{queue}_depth"), &format!("{what} waiting"), keys)
    }

    fn age(&self, queue: &str, what: &str) -> Publication {
        let keys = json!({
            "state_topic": self.base.bridge("health"),
            // An empty queue has no oldest message.
            "value_template": format!("{{{{ value_json.queues.{queue}.oldest_s | default(0, true) }}}}"),
            "device_class": "duration",
            "unit_of_measurement": "s",
            "state_class": "measurement",
            "entity_category": "diagnostic",
        });
        self.entity("sensor", &format!("{queue}_age"), &format!("{what} oldest"), keys)
    }

    fn presence(&self, uid: &Uid) -> Publication {
        let keys = json!({
            "state_topic": self.base.presence(uid),
            "payload_on": "online",
            "payload_off": "offline",
            "device_class": "connectivity",
        });
        let contact =
            self.contacts.iter().find(|contact| contact.uid() == Some(uid)).map(|contact| contact.name.as_str());
        let name = contact.or_else(|| self.names.of_user(uid)).unwrap_or(uid.as_str());
        self.entity("binary_sensor", &format!("presence_{}", word(uid.as_str())), &format!("{name} online"), keys)
    }

    fn notify(&self, contact: &Contact) -> Publication {
        // What comes first tells groups and subjects from uids of the same characters.
        let (command_topic, object) = match &contact.id {
            Receiver::User(uid) => (self.base.send_text(uid), "notify"),
            Receiver::Group(group) => (self.base.send_group(group), "group_notify"),
            Receiver::Subject(subject) => (self.base.send_topic(subject), "topic_notify"),
        };
        let keys = json!({
            "command_topic": command_topic,
            "qos": 1,
            // A retained command is never executed.
            "retain": false,
        });
        self.entity("notify", &format!("{object}_{}", word(contact.id.as_str())), &contact.name, keys)
    }

    fn picture(&self, uid: &Uid, name: &str) -> Publication {
        let keys = json!({ "image_topic": self.base.picture(uid), "qos": 1 });
        self.entity("image", &format!("picture_{}", word(uid.as_str())), &format!("Last picture of {name}"), keys)
    }

    /// An automation takes an event for an order, as a device takes a raw message: one that came too late, or from somebody who
    /// may not, is none.
    fn message(&self) -> Publication {
        let kinds = EVENTS.map(Kind::as_str);
        let template = format!(
            "{{% if value_json.kind in {kinds:?} and not value_json.late | default(false) and not value_json.not_allowed | \
             default(false) %}}{{{{ dict(value_json, event_type=value_json.kind) | tojson }}}}{{% endif %}}"
        );
        let keys = json!({
            "state_topic": self.base.events(),
            "event_types": kinds,
            "value_template": template,
            "qos": 1,
        });
        self.entity("event", "message", "Message", keys)
    }

    /// What all have, and the keys of this one.
    fn entity(&self, component: &str, object: &str, name: &str, keys: Value) -> Publication {
        let node = self.node();
        let mut config = Map::new();
        if let Value::Object(keys) = keys {
            config.extend(keys);
        }
        let common = json!({
            "name": name,
            "unique_id": format!("{node}_{object}"),
            "availability_topic": self.base.bridge("state"),
            "payload_available": "online",
            "payload_not_available": "offline",
            "device": {
                "identifiers": [node],
                "name": format!("iLink {}", self.uid),
                "manufacturer": "iLink",
                "model": env!("CARGO_PKG_NAME"),
                "sw_version": env!("CARGO_PKG_VERSION"),
            },
            "origin": { "name": env!("CARGO_PKG_NAME"), "sw_version": env!("CARGO_PKG_VERSION") },
        });
        if let Value::Object(common) = common {
            config.extend(common);
        }
        let topic = format!("{}/{component}/{node}/{object}/config", self.prefix.as_str());
        Publication::json(topic, Value::Object(config).to_string().into_bytes()).retained()
    }

    /// Tells our device and its entities from those of other accounts, for as long as the uid is ours.
    fn node(&self) -> String {
        format!("{}_{}", env!("CARGO_PKG_NAME"), word(self.uid.as_str()))
    }
}

/// An id of the characters that Home Assistant takes in a discovery topic, no two of which become the same.
fn word(id: &str) -> String {
    let mut word = String::new();
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            word.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(word, "_{byte:02X}");
        }
    }
    word
}

#[cfg(test)]
mod tests;
