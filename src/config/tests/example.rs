//! `config.example.toml` is the reference of keys: it must not fall behind.

use super::*;

const EXAMPLE: &str = include_str!("../../../config.example.toml");

/// The keys and their values, as `describe` has them.
fn described(config: &Config) -> Vec<String> {
    let text = config.describe();
    text.lines().map(|line| line.split("  # ").next().unwrap().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[test]
fn its_values_are_the_built_in_defaults() {
    assert_eq!(described(&load(EXAMPLE).unwrap()), described(&load("").unwrap()));
}

#[test]
fn it_has_every_key() {
    let mut section = "";
    let mut keys = Vec::new();
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
        } else if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") {
            keys.push(if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") });
        }
    }
    let config = load("").unwrap();
    for entry in &config.entries {
        assert!(keys.contains(&entry.key), "{} is not in the example", entry.key);
    }
    for secret in [
        "ilink.secretkey",
        "callback.token",
        "callback.path_secret",
        "mqtt.password",
        "admin.token",
        "cluster.password",
    ] {
        assert!(keys.contains(&format!("{secret}_file")), "{secret}_file is not in the example");
    }
}

#[test]
fn what_it_has_commented_out_is_right_too() {
    let place = Place::new("");
    let file = place.put("file", "abcdefghijklmnopqrstuvwxyz").display().to_string();
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let uncommented = line.strip_prefix("# ").filter(|line| {
            line.starts_with("[[")
                || line
                    .split_once(" = ")
                    .is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase() || b"_.".contains(&b)))
        });
        let line = match uncommented {
            // One of the two.
            Some(key) if key.contains("_file = ") => continue,
            Some(key) if key.starts_with("tls.") => key.replace("\"\"", &format!("\"{file}\"")),
            Some(key) if key.starts_with("proxy") => key.replace("\"\"", "\"http://proxy:3128\""),
            Some(key) if key.starts_with("[[") => key.to_owned(),
            Some(key) => key.replace("\"\"", "\"abcdefghijklmnopqrstuvwxyz\""),
            None => line.replace("mqtt://", "mqtts://"),
        };
        text.push_str(&line);
        text.push('\n');
    }
    place.put("config.toml", &text);
    let config = place.load(&[]).unwrap();
    assert!(!config.describe().contains("is not set"), "{}", config.describe());
    // Every key of a route is there.
    let described = config.describe();
    let (_, routes) = described.split_once("[[route.").unwrap();
    for key in routes.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
        assert!(EXAMPLE.contains(&format!("# {key} = ")) || key == "map", "{key} is not in the example");
    }
}
