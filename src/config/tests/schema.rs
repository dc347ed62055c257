//! `deploy/schema/config.json` has the keys that the reader knows, no others, and their defaults. Whoever adds a key adds a line
//! there.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::config::reader::{Effective, Place as From};
use crate::config::route;

/// Their defaults follow from other keys.
const DEPENDENT: [&str; 5] =
    ["mqtt.client_id", "mqtt.response_topics", "mqtt.session_expiry", "cluster.prefix", "cluster.member"];

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../deploy/schema/config.json")).unwrap()
}

/// The schema's keys and their schemas; a table that the reader reads as a whole is one.
fn keys<'s>(schema: &'s Value, known: &BTreeSet<String>, before: &str, found: &mut Vec<(String, &'s Value)>) {
    for (name, schema) in schema["properties"].as_object().unwrap() {
        let key = format!("{before}{name}");
        if schema["properties"].is_object() && !known.contains(&key) {
            keys(schema, known, &format!("{key}."), found);
        } else {
            found.push((key, schema));
        }
    }
}

#[test]
fn it_has_the_keys_of_the_reader() {
    let (schema, config) = (schema(), load("").unwrap());
    let mut found = Vec::new();
    keys(&schema, &config.known, "", &mut found);
    let found: BTreeSet<String> = found.into_iter().map(|(key, _)| key).collect();
    let missing: Vec<_> = config.known.difference(&found).collect();
    assert!(missing.is_empty(), "deploy/schema/config.json lacks {missing:?}: add a line to its section");
    let unknown: Vec<_> = found.difference(&config.known).collect();
    assert!(unknown.is_empty(), "the reader knows none of {unknown:?}");
}

#[test]
fn it_has_the_keys_of_the_routes() {
    let schema = schema();
    for (kind, known) in route::keys() {
        let properties = schema["$defs"][kind]["properties"].as_object().unwrap_or_else(|| panic!("$defs.{kind}"));
        let (found, known): (BTreeSet<&str>, BTreeSet<&str>) =
            (properties.keys().map(String::as_str).collect(), known.into_iter().collect());
        assert_eq!(found, known, "deploy/schema/config.json, $defs.{kind}");
        assert_eq!(schema["properties"]["route"]["properties"][kind]["items"]["$ref"], format!("#/$defs/{kind}"));
    }
}

#[test]
fn it_has_the_defaults() {
    let (schema, config) = (schema(), load("").unwrap());
    let mut found = Vec::new();
    keys(&schema, &config.known, "", &mut found);
    for entry in config.entries.iter().filter(|entry| entry.place == From::Default) {
        let (_, schema) = found.iter().find(|(key, _)| *key == entry.key).unwrap();
        match &entry.value {
            Effective::Shown(_) if DEPENDENT.contains(&entry.key.as_str()) => {
                assert!(schema.get("default").is_none(), "{}", entry.key);
            }
            Effective::Shown(value) => {
                let value: Value = toml::from_str(&format!("it = {value}")).unwrap();
                // A URL is shown with the path that it has without one.
                let (said, is) = (schema["default"].to_string(), value["it"].to_string().replace("/\"", "\""));
                assert_eq!(said, is, "{}", entry.key);
            }
            _ => assert!(schema.get("default").is_none(), "{} has none", entry.key),
        }
    }
}

#[test]
fn every_key_says_what_it_is() {
    let (schema, config) = (schema(), load("").unwrap());
    let mut found = Vec::new();
    keys(&schema, &config.known, "", &mut found);
    for (key, schema) in found {
        assert!(schema["description"].as_str().is_some_and(|text| text.ends_with('.')), "{key}");
    }
}

/// Adds every `pattern` of a schema.
fn patterns<'s>(schema: &'s Value, found: &mut Vec<&'s str>) {
    if let Some(keys) = schema.as_object() {
        found.extend(keys.get("pattern").and_then(Value::as_str));
        keys.values().for_each(|schema| patterns(schema, found));
    }
    schema.as_array().into_iter().flatten().for_each(|schema| patterns(schema, found));
}

/// JSON Schema's are ECMA-262's, and Python's validators use `re`: what only one of them knows is of no use.
#[test]
fn its_patterns_are_everybodys() {
    let schema = schema();
    let mut found = Vec::new();
    patterns(&schema, &mut found);
    assert!(found.len() > 10, "{found:?}");
    for pattern in found {
        let special = ["\\p", "\\P", "\\u", "\\A", "\\z", "\\Z", "(?"];
        assert!(!special.iter().any(|special| pattern.contains(special)), "{pattern}");
        regex::Regex::new(pattern).unwrap();
    }
}

#[test]
fn it_is_as_wide_as_the_reader() {
    let schema = schema();
    let pattern = |pointer: &str| {
        let pattern = schema.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer}"));
        regex::Regex::new(pattern).unwrap()
    };
    let routed = |rate: &str| {
        format!("[[route.to_ilink]]\nname = 'a'\nsubscribe = 'b'\nto = 'user/1/text'\nmax_rate = '{rate}'")
    };
    let (duration, size) = (pattern("/$defs/duration/anyOf/0/pattern"), pattern("/$defs/size/anyOf/0/pattern"));
    let (rate, name) = (pattern("/$defs/rate/anyOf/0/pattern"), pattern("/properties/names/propertyNames/pattern"));
    for (pattern, toml, good, bad) in [
        (
            &duration,
            &(|text: &str| format!("outbound.ttl = '{text}'")) as &dyn Fn(&str) -> String,
            &["5s", "1.5h", "1h 30m", "1h30m", " 2 min ", "1 0s", "0.5 days 1. 25h", "90000000µs"][..],
            &["", "5", "1.h", ".5h", "1,5h", "h", "1h 5", "-1s"][..],
        ),
        (
            &size,
            &|text: &str| format!("outbound.max_content = '{text}'"),
            &["1024", "256KiB", "256 kib", " 1\tMB ", "10Mb", "4096b"],
            &["", "KiB", "1.5MiB", "1 lot", "1TB", "1K", "-1"],
        ),
        (&rate, &routed, &["0", "30/m", " +30 / m ", "1/s", "2/\th"], &["", "30", "0 ", "/m", "30/d", "30/m/m"]),
        (
            &name,
            &|text: &str| format!("names.'{text}' = '1'"),
            &["ann", "张三", "a.b-c_D9", "é", "x⁵"],
            &["", "a b", "a/b", "@ann", "a+", "#", "a%", "a\"", "[a]", "a^", "{a}", "~", "a\\"],
        ),
    ] {
        for text in good {
            assert!(load(&toml(text)).is_ok(), "the reader refuses {text:?}");
            assert!(pattern.is_match(text), "the schema refuses {text:?}");
        }
        for text in bad {
            assert!(load(&toml(text)).is_err() && !pattern.is_match(text), "{text:?}");
        }
    }
}
