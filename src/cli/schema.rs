//! `ilink2mqtt schema`: JSON Schemas of the configuration and of what the bridge publishes, for editors and programs.
//!
//! The documents are the files of `deploy/schema/`. They are written by hand, one line per key; the tests check the
//! configuration's reader and real messages against them. Only the `AsyncAPI` document is assembled here, because it includes the
//! others.

use clap::{Args, ValueEnum};
use serde_json::Value;

/// Arguments of `schema`.
#[derive(Debug, Args)]
pub struct Schema {
    /// What to describe
    #[arg(value_enum)]
    pub document: Document,
}

/// What there is a schema of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Document {
    /// config.toml (JSON Schema)
    Config,
    /// The messages on event/… (JSON Schema)
    Event,
    /// The results of commands (JSON Schema)
    Result,
    /// The messages on bridge/health (JSON Schema)
    Health,
    /// All topics with their messages.
    #[value(help = "All topics with their messages (AsyncAPI 3)")]
    Asyncapi,
}

const CONFIG: &str = include_str!("../../deploy/schema/config.json");
const EVENT: &str = include_str!("../../deploy/schema/event.json");
const RESULT: &str = include_str!("../../deploy/schema/result.json");
const HEALTH: &str = include_str!("../../deploy/schema/health.json");
/// Without the schemas of the three.
const TOPICS: &str = include_str!("asyncapi.json");

impl Document {
    /// The document.
    ///
    /// # Errors
    /// If this program was built with a broken one.
    pub fn text(self) -> serde_json::Result<String> {
        match self {
            Self::Config => Ok(CONFIG.to_owned()),
            Self::Event => Ok(EVENT.to_owned()),
            Self::Result => Ok(RESULT.to_owned()),
            Self::Health => Ok(HEALTH.to_owned()),
            Self::Asyncapi => asyncapi(),
        }
    }
}

/// The topics, with the schemas of what is JSON.
fn asyncapi() -> serde_json::Result<String> {
    let mut topics: Value = serde_json::from_str(TOPICS)?;
    let mut schemas = serde_json::Map::new();
    for (name, text) in [("event", EVENT), ("result", RESULT), ("health", HEALTH)] {
        let mut schema: Value = serde_json::from_str(text)?;
        if let Some(keys) = schema.as_object_mut() {
            // They are for a document of its own.
            keys.retain(|key, _| !key.starts_with('$'));
        }
        schemas.insert(name.to_owned(), schema);
    }
    if let Some(components) = topics.get_mut("components").and_then(Value::as_object_mut) {
        components.insert("schemas".to_owned(), schemas.into());
    }
    Ok(serde_json::to_string_pretty(&topics)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(document: Document) -> Value {
        serde_json::from_str(&document.text().unwrap()).unwrap()
    }

    #[test]
    fn what_is_printed_is_what_is_shipped() {
        let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/schema");
        for document in Document::value_variants() {
            let name = document.to_possible_value().unwrap().get_name().to_owned();
            let file = std::fs::read_to_string(shipped.join(format!("{name}.json"))).unwrap_or_default();
            let refresh = format!("refresh it: ilink2mqtt schema {name} > deploy/schema/{name}.json");
            assert!(document.text().unwrap() == file, "deploy/schema/{name}.json is another; {refresh}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(keys) => {
                    found.extend(keys.get("$ref").and_then(Value::as_str));
                    keys.values().for_each(|value| references(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        for document in Document::value_variants() {
            let json = json(*document);
            let mut found = Vec::new();
            references(&json, &mut found);
            for reference in found {
                let pointer = reference.strip_prefix('#').unwrap_or_default();
                assert!(!pointer.is_empty() && json.pointer(pointer).is_some(), "{document:?}: {reference}");
            }
        }
    }

    #[test]
    fn the_channels_are_the_topics_of_the_documents() {
        let topics = json(Document::Asyncapi);
        assert_eq!(topics["asyncapi"], "3.0.0");
        let addresses: Vec<_> =
            topics["channels"].as_object().unwrap().values().map(|channel| &channel["address"]).collect();
        let documented = include_str!("../../deploy/docs/topics.md");
        for address in addresses {
            // The tree, as the documents name it.
            let rest = address.as_str().unwrap().strip_prefix("{base}/").unwrap();
            let tree = rest.split(['{']).next().unwrap();
            assert!(documented.contains(&format!("ilink/{tree}")), "{address}");
        }
    }
}
