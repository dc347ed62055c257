//! Each configuration against a golden one, and against the keys that Home Assistant documents.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// All components have these ("MQTT discovery", "Availability", "Entity").
const COMMON: [&str; 20] = [
    "availability",
    "availability_mode",
    "availability_template",
    "availability_topic",
    "default_entity_id",
    "device",
    "enabled_by_default",
    "encoding",
    "entity_category",
    "entity_picture",
    "icon",
    "json_attributes_template",
    "json_attributes_topic",
    "name",
    "origin",
    "payload_available",
    "payload_not_available",
    "platform",
    "qos",
    "unique_id",
];
/// And each of those that are used has these, the first of them required.
const OWN: [(&str, &[&str]); 5] = [
    (
        "binary_sensor",
        &[
            "state_topic",
            "device_class",
            "expire_after",
            "force_update",
            "off_delay",
            "payload_off",
            "payload_on",
            "value_template",
        ],
    ),
    ("image", &["image_topic", "content_type", "image_encoding", "url_template", "url_topic"]),
    ("event", &["state_topic", "device_class", "event_types", "value_template"]),
    ("notify", &["command_topic", "command_template", "retain"]),
    (
        "sensor",
        &[
            "state_topic",
            "device_class",
            "expire_after",
            "force_update",
            "last_reset_value_template",
            "options",
            "state_class",
            "suggested_display_precision",
            "unit_of_measurement",
            "value_template",
        ],
    ),
];
const DEVICE: [&str; 12] = [
    "configuration_url",
    "connections",
    "hw_version",
    "identifiers",
    "manufacturer",
    "model",
    "model_id",
    "name",
    "serial_number",
    "suggested_area",
    "sw_version",
    "via_device",
];
const ORIGIN: [&str; 3] = ["name", "support_url", "sw_version"];

fn uid(text: &str) -> Uid {
    text.parse().unwrap()
}

fn named(id: Receiver, name: &str) -> Contact {
    Contact { id, name: name.to_owned() }
}

fn discovery() -> Discovery {
    let contact = |id: &str, name: &str| named(Receiver::User(uid(id)), name);
    Discovery {
        prefix: "homeassistant".parse().unwrap(),
        base: "home/ilink".parse().unwrap(),
        uid: uid("414"),
        contacts: vec![
            contact("413", "Ann"),
            contact("a/b_ü", "张三"),
            named(Receiver::Group("4cdad356-85b4-008627".parse().unwrap()), "Family"),
            named(Receiver::Subject("home/lamp".parse().unwrap()), "Lamp"),
        ],
        output: Output::Both,
        names: Names::default(),
        cluster: true,
    }
}

fn presence() -> [Uid; 3] {
    ["500", "413", "a/b_ü"].map(uid)
}

/// By topic.
fn entities(discovery: &Discovery) -> BTreeMap<String, Value> {
    let entities = discovery.entities(&presence());
    assert!(entities.iter().all(|entity| entity.retain && entity.deadline.is_none()));
    entities.into_iter().map(|entity| (entity.topic, serde_json::from_slice(&entity.payload).unwrap())).collect()
}

/// The golden file is what `tests/homeassistant/run` gives to Home Assistant's own code.
#[test]
fn they_are_the_golden_ones() {
    let golden = include_str!("../../../tests/homeassistant/entities.json");
    let golden: BTreeMap<String, Value> =
        serde_json::from_str(&golden.replace("VERSION", env!("CARGO_PKG_VERSION"))).unwrap();
    let entities = entities(&discovery());
    let shown = serde_json::to_string_pretty(&entities).unwrap().replace(env!("CARGO_PKG_VERSION"), "VERSION");
    assert_eq!(entities, golden, "if that is meant, the file is to be:\n{shown}");
}

#[test]
fn they_have_documented_keys_alone() {
    let known = |object: &Value, keys: &[&str], what: &str| {
        for key in object.as_object().unwrap().keys() {
            assert!(keys.contains(&key.as_str()), "{what}: {key}");
        }
    };
    let mut unique = BTreeSet::new();
    for (topic, config) in entities(&discovery()) {
        let [prefix, component, node, object, last] = topic.split('/').collect::<Vec<_>>()[..] else {
            panic!("{topic}");
        };
        assert_eq!((prefix, node, last), ("homeassistant", "ilink2mqtt_414", "config"));
        // Home Assistant takes no other characters.
        assert!(object.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')), "{topic}");
        let (_, own) = OWN.iter().find(|(name, _)| *name == component).unwrap();
        known(&config, &[&COMMON[..], own].concat(), &topic);
        known(&config["device"], &DEVICE, &topic);
        known(&config["origin"], &ORIGIN, &topic);
        assert!(config[own[0]].is_string(), "{topic}: {} is required", own[0]);
        assert_eq!(config["device"]["identifiers"], json!(["ilink2mqtt_414"]));
        assert_eq!(config["availability_topic"], "home/ilink/bridge/state");
        assert!(unique.insert(config["unique_id"].as_str().unwrap().to_owned()), "{topic}: unique_id");
    }
    assert_eq!(unique.len(), 2 + 1 + 6 + 3 + 4 + 2 + 1);
}

#[test]
fn without_envelopes_there_is_no_event_entity() {
    let is_event = |topic: &String| topic.starts_with("homeassistant/event/");
    assert!(entities(&discovery()).keys().any(is_event));
    assert!(entities(&Discovery { output: Output::Json, ..discovery() }).keys().any(is_event));
    assert!(!entities(&Discovery { output: Output::Raw, ..discovery() }).keys().any(is_event));
}

#[test]
fn a_bridge_that_is_alone_has_no_leader() {
    let is_leader = |topic: &String| topic.contains("/leader/");
    assert!(entities(&discovery()).keys().any(is_leader));
    assert!(!entities(&Discovery { cluster: false, ..discovery() }).keys().any(is_leader));
}

#[test]
fn topics_are_the_bridges_own() {
    let all = entities(&Discovery { prefix: "ha/x".parse().unwrap(), ..discovery() });
    let filter = "ha/x/+/ilink2mqtt_414/+/config";
    assert!(all.keys().all(|topic| crate::local::filter::matches(filter, topic)));
    let notify = &all["ha/x/notify/ilink2mqtt_414/notify_a_2Fb_5F_C3_BC/config"];
    assert_eq!(notify["command_topic"], "home/ilink/send/user/a%2Fb_ü/text");
    assert_eq!(notify["name"], "张三");
    let group = &all["ha/x/notify/ilink2mqtt_414/group_notify_4cdad356-85b4-008627/config"];
    assert_eq!(group["command_topic"], "home/ilink/send/group/4cdad356-85b4-008627");
    let subject = &all["ha/x/notify/ilink2mqtt_414/topic_notify_home_2Flamp/config"];
    assert_eq!(subject["command_topic"], "home/ilink/send/topic/home/lamp");
    let picture = &all["ha/x/image/ilink2mqtt_414/picture_a_2Fb_5F_C3_BC/config"];
    assert_eq!(picture["image_topic"], "home/ilink/picture/a%2Fb_ü");
    assert!(!all.contains_key("ha/x/image/ilink2mqtt_414/picture_home_2Flamp/config"));
    let presence = &all["ha/x/binary_sensor/ilink2mqtt_414/presence_a_2Fb_5F_C3_BC/config"];
    assert_eq!(presence["state_topic"], "home/ilink/presence/a%2Fb_ü");
}

proptest! {
    #[test]
    fn no_two_uids_are_one_entity(one in "[a-c_%/é5F]{1,6}", other in "[a-c_%/é5F]{1,6}") {
        prop_assert_eq!(word(&one) == word(&other), one == other);
    }
}

#[test]
fn presence_goes_by_the_contacts_name_then_by_the_bridges() {
    let mut names = Names::default();
    names.add("bob", Receiver::User(uid("500"))).unwrap();
    names.add("mum", Receiver::User(uid("413"))).unwrap();
    let all = entities(&Discovery { names, ..discovery() });
    let called = |object: &str| {
        let (_, config) = all.iter().find(|(topic, _)| topic.contains(object)).unwrap();
        config["name"].as_str().unwrap().to_owned()
    };
    assert_eq!(called("presence_500"), "bob online");
    assert_eq!(called("presence_413"), "Ann online");
}
