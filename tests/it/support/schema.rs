//! A JSON Schema validator for what the schemas of `deploy/schema/` use, and nothing more: a keyword that it does not know
//! fails the test, so that none goes unchecked. (The crates that know all of JSON Schema are 36 crates more to build.)

use std::collections::HashMap;
use std::path::Path;
use std::sync::{LazyLock, Mutex};

use regex::Regex;
use serde_json::Value;

use super::client::Message;

/// Keywords that say nothing of what is valid.
const ANNOTATIONS: [&str; 8] =
    ["$schema", "$id", "$defs", "title", "description", "default", "examples", "contentEncoding"];

/// A schema, read once.
pub(crate) struct Schema {
    name: String,
    root: Value,
}

impl Schema {
    /// The shipped one of this name.
    pub(crate) fn shipped(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("deploy/schema/{name}.json"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::of(name, serde_json::from_str(&text).expect("a JSON document"))
    }

    fn of(name: &str, root: Value) -> Self {
        Self { name: name.to_owned(), root }
    }

    /// Of which it is.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What is wrong with a value, and where.
    pub(crate) fn errors(&self, value: &Value) -> Vec<String> {
        let mut errors = Vec::new();
        self.check(&self.root, value, "", &mut errors);
        errors
    }

    /// The same; and a key that the schema does not have is an error, although it allows it for later versions.
    pub(crate) fn strict_errors(&self, value: &Value) -> Vec<String> {
        let mut errors = self.errors(value);
        self.unknown(&self.root, value, "", &mut errors);
        errors
    }

    fn unknown(&self, schema: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
        if let (Some(known), Some(object)) = (schema["properties"].as_object(), value.as_object()) {
            for (key, value) in object {
                match known.get(key) {
                    Some(schema) => self.unknown(schema, value, &format!("{at}/{key}"), errors),
                    None if schema.get("additionalProperties").is_none() => {
                        errors.push(format!("{at}/{key}: deploy/schema/{}.json does not have it", self.name));
                    }
                    None => {}
                }
            }
        }
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
        let Some(keywords) = schema.as_object() else {
            assert!(schema.is_boolean(), "{schema}");
            if schema == false {
                errors.push(format!("{at}: nothing is allowed here"));
            }
            return;
        };
        for (keyword, wanted) in keywords {
            let holds = match keyword.as_str() {
                "$ref" => {
                    let pointer =
                        wanted.as_str().and_then(|reference| reference.strip_prefix('#')).expect("a local one");
                    self.check(self.root.pointer(pointer).expect("it leads somewhere"), value, at, errors);
                    true
                }
                "allOf" => {
                    each(wanted).for_each(|schema| self.check(schema, value, at, errors));
                    true
                }
                "if" => {
                    if self.holds(wanted, value) {
                        self.check(&schema["then"], value, at, errors);
                    }
                    true
                }
                "then" => true,
                "anyOf" => each(wanted).any(|schema| self.holds(schema, value)),
                "not" => !self.holds(wanted, value),
                "properties" | "required" | "additionalProperties" => {
                    self.check_object(keyword, schema, value, at, errors);
                    true
                }
                "propertyNames" => {
                    for key in value.as_object().into_iter().flat_map(|object| object.keys()) {
                        self.check(wanted, &Value::from(key.as_str()), &format!("{at}/{key}"), errors);
                    }
                    true
                }
                "items" => {
                    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(wanted, item, &format!("{at}/{n}"), errors);
                    }
                    true
                }
                annotation if ANNOTATIONS.contains(&annotation) => true,
                _ => is_kept(keyword, wanted, value),
            };
            if !holds {
                errors.push(format!("{at}: {keyword} is {wanted}, and there is {value}"));
            }
        }
    }

    fn check_object(&self, keyword: &str, schema: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
        let Some(object) = value.as_object() else { return };
        let wanted = &schema[keyword];
        match keyword {
            "required" => {
                let missing = each(wanted).filter_map(Value::as_str).filter(|key| !object.contains_key(*key));
                errors.extend(missing.map(|key| format!("{at}: {key} is missing")));
            }
            "properties" => {
                for (key, schema) in wanted.as_object().expect("a table") {
                    if let Some(value) = object.get(key) {
                        self.check(schema, value, &format!("{at}/{key}"), errors);
                    }
                }
            }
            _ => {
                for (key, value) in object.iter().filter(|(key, _)| schema["properties"].get(key).is_none()) {
                    self.check(wanted, value, &format!("{at}/{key}"), errors);
                }
            }
        }
    }

    fn holds(&self, schema: &Value, value: &Value) -> bool {
        let mut errors = Vec::new();
        self.check(schema, value, "", &mut errors);
        errors.is_empty()
    }
}

/// The schema of what the bridge publishes on this topic, if it has one.
pub(crate) fn schema_of(topic: &str) -> Option<&'static Schema> {
    static ALL: LazyLock<[Schema; 3]> = LazyLock::new(|| ["event", "result", "health"].map(Schema::shipped));
    let [event, result, health] = &*ALL;
    let mut levels = topic.rsplit('/');
    let (last, before) = (levels.next(), levels.next());
    match (last, before) {
        (Some("health"), Some("bridge")) => Some(health),
        (Some("text" | "file" | "group" | "topic" | "presence" | "other"), Some("event")) => Some(event),
        _ => topic.split('/').any(|level| level == "result").then_some(result),
    }
}

/// Of one client's messages so many are looked at: floods are of one kind.
const LOOKED_AT: usize = 300;

/// Holds what the bridge published against its schemas; what others publish says nothing of its type.
pub(crate) fn check(inbox: &Mutex<Vec<(Message, bool)>>) {
    let Some(inbox) = inbox.lock().ok().filter(|_| !std::thread::panicking()) else { return };
    let is_json = |message: &&Message| message.properties.content_type.as_deref() == Some("application/json");
    for message in inbox.iter().map(|(message, _)| message).filter(is_json).take(LOOKED_AT) {
        // A push that is kept as it came may nest deeper than serde_json reads, or have an escape that is no Unicode.
        if message.topic.ends_with("/event/other") && serde_json::from_slice::<Value>(&message.payload).is_err() {
            continue;
        }
        if let Some(schema) = schema_of(&message.topic) {
            assert_eq!(schema.strict_errors(&message.json()), [""; 0], "{} {}", message.topic, message.text());
        }
    }
}

fn each(array: &Value) -> impl Iterator<Item = &Value> {
    array.as_array().expect("an array").iter()
}

/// Keywords that say something of a single value.
fn is_kept(keyword: &str, wanted: &Value, value: &Value) -> bool {
    let number = |value: &Value| value.as_f64();
    match keyword {
        "type" => {
            let is = |name: &Value| is_of_type(value, name.as_str().expect("a type's name"));
            wanted.as_array().map_or_else(|| is(wanted), |names| names.iter().any(is))
        }
        "const" => value == wanted,
        "enum" => each(wanted).any(|one| one == value),
        "pattern" => {
            static READ: LazyLock<Mutex<HashMap<String, Regex>>> = LazyLock::new(Mutex::default);
            let pattern = wanted.as_str().expect("a pattern");
            let mut read = READ.lock().unwrap();
            let regex = read.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).expect("a pattern"));
            value.as_str().is_none_or(|text| regex.is_match(text))
        }
        "minLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 >= wanted.as_u64().unwrap()),
        "minProperties" => value.as_object().is_none_or(|keys| keys.len() as u64 >= wanted.as_u64().unwrap()),
        "maxProperties" => value.as_object().is_none_or(|keys| keys.len() as u64 <= wanted.as_u64().unwrap()),
        "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= wanted.as_u64().unwrap()),
        "minimum" => number(value).is_none_or(|number| number >= wanted.as_f64().unwrap()),
        "maximum" => number(value).is_none_or(|number| number <= wanted.as_f64().unwrap()),
        "format" => {
            assert_eq!(wanted, "date-time");
            value.as_str().is_none_or(|text| humantime::parse_rfc3339(text).is_ok())
        }
        other => panic!("this validator does not know {other}"),
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("{other} is no type"),
    }
}

#[test]
fn it_finds_what_is_wrong() {
    use serde_json::json;

    let schema = Schema::of(
        "test",
        json!({
            "type": "object", "required": ["a"], "$defs": {"small": {"maximum": 3}},
            "properties": {
                "a": {"enum": [1, 2, "x"]}, "b": {"type": ["string", "null"], "pattern": "^x", "minLength": 2},
                "c": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/small"}},
                "d": {"anyOf": [{"const": true}, {"type": "integer"}], "minimum": 1},
                "e": {"type": "object", "additionalProperties": {"type": "boolean"}},
                "f": {"not": {"required": ["g"]}, "properties": {"g": {}}, "additionalProperties": false},
                "h": {"format": "date-time"}
            },
            "allOf": [{"if": {"properties": {"a": {"const": 1}}, "required": ["a"]}, "then": {"required": ["b"]}}]
        }),
    );
    for right in [
        json!({"a": 2}),
        json!({"a": 1, "b": "xy"}),
        json!({"a": "x", "b": null, "c": [1, 3], "d": true, "e": {"k": false}, "f": {}, "h": "2026-01-02T03:04:05.678Z"}),
        json!({"a": 2, "d": 1}),
    ] {
        assert_eq!(schema.strict_errors(&right), [""; 0], "{right}");
    }
    for wrong in [
        json!([]),
        json!({}),
        json!({"a": 3}),
        json!({"a": 1}),
        json!({"a": 2, "b": "yy"}),
        json!({"a": 2, "b": "x"}),
        json!({"a": 2, "b": 1}),
        json!({"a": 2, "c": []}),
        json!({"a": 2, "c": [4]}),
        json!({"a": 2, "d": false}),
        json!({"a": 2, "d": 0}),
        json!({"a": 2, "d": 1.5}),
        json!({"a": 2, "e": {"k": 1}}),
        json!({"a": 2, "f": {"g": 1}}),
        json!({"a": 2, "f": {"i": 1}}),
        json!({"a": 2, "h": "yesterday"}),
    ] {
        assert!(!schema.errors(&wrong).is_empty(), "{wrong}");
    }
    let later = json!({"a": 2, "z": 1});
    assert!(schema.errors(&later).is_empty() && schema.strict_errors(&later).len() == 1);
}
