//! Values, as they are written in a file and in the environment.

use std::time::Duration;

use figment::value::Dict;
use ipnet::IpNet;

use super::super::values::{Given, Setting, Size, quoted};
use crate::protocol::{Qos, Subject, Uid};

fn untyped<T: Setting>(text: &str) -> Result<T, String> {
    T::read(&Given::Untyped(text))
}

fn typed<T: Setting>(toml: &str) -> Result<T, String> {
    let table: Dict = toml::from_str(&format!("it = {toml}")).unwrap();
    T::read(&Given::Typed(&table["it"]))
}

#[test]
fn durations() {
    for (text, seconds) in [("5s", 5), ("2m", 120), ("1h 30m", 5400), ("0", 0), ("0s", 0)] {
        assert_eq!(untyped(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    assert_eq!(typed("0"), Ok(Duration::ZERO));
    assert_eq!(typed("\"90s\""), Ok(Duration::from_secs(90)));
    for wrong in ["10", "\"10\"", "1.5", "\"\"", "\"soon\"", "\"-5s\"", "true", "[]"] {
        assert!(typed::<Duration>(wrong).is_err(), "{wrong}");
    }
    assert_eq!(Duration::from_mins(5).show(), "\"5m\"");
}

#[test]
fn sizes() {
    for (text, bytes) in
        [("512MiB", 512 << 20), ("1 MiB", 1 << 20), ("256KiB", 256 << 10), ("10MB", 10_000_000), ("7B", 7), ("42", 42)]
    {
        assert_eq!(untyped(text), Ok(Size(bytes)), "{text}");
        assert_eq!(typed(&quoted(text)), Ok(Size(bytes)), "{text}");
    }
    assert_eq!(typed("1048576"), Ok(Size(1 << 20)));
    for wrong in ["", "MiB", "1M", "1.5MiB", "-1", "99999999999GiB", "1MiBs"] {
        assert!(untyped::<Size>(wrong).is_err(), "{wrong}");
    }
    assert_eq!([Size(1 << 20).show(), Size(1500).show(), Size(0).show()], ["\"1MiB\"", "\"1500B\"", "\"0B\""]);
}

#[test]
fn in_files_types_are_tomls_and_in_the_environment_the_keys() {
    assert_eq!(untyped("true"), Ok(true));
    assert_eq!(untyped("true"), Ok("true".to_owned()));
    assert_eq!(untyped("414"), Ok("414".to_owned()));
    assert_eq!(untyped("414"), Ok(414_i64));
    assert!(typed::<bool>("\"true\"").is_err() && typed::<i64>("\"8\"").is_err());
    assert!(typed::<String>("414").is_err() && typed::<i64>("1.0").is_err());
}

#[test]
fn ids_may_be_numbers() {
    assert_eq!(typed("414"), Ok("414".parse::<Uid>().unwrap()));
    assert_eq!(untyped("0414"), Ok("0414".parse::<Uid>().unwrap()));
    assert!(untyped::<Uid>("").is_err() && typed::<Uid>("4.5").is_err());
}

#[test]
fn lists_are_toml_arrays_in_the_environment_too() {
    assert_eq!(untyped("[\"a\", \"b\"]"), Ok(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(untyped::<Vec<String>>(""), Ok(vec![]));
    assert_eq!(untyped::<Vec<Uid>>("[413, \"414\"]").unwrap().len(), 2);
    for wrong in ["a", "a,b", "\"a\"", "[\"a\"]\nmore = 1", "[\"a\""] {
        assert!(untyped::<Vec<String>>(wrong).is_err(), "{wrong}");
    }
    let error = untyped::<Vec<IpNet>>("[\"10.0.0.0/8\", \"ten\"]").unwrap_err();
    assert!(error.starts_with("entry 2, \"ten\": it must be a network"), "{error}");
}

#[test]
fn networks_may_be_addresses() {
    assert_eq!(untyped("192.0.2.1"), Ok("192.0.2.1/32".parse::<IpNet>().unwrap()));
}

#[test]
fn subscriptions() {
    let read = typed::<Vec<(Subject, Qos)>>("[{ subject = \"a/b\" }, { subject = \"c\", qos = 2 }]").unwrap();
    assert_eq!(read.show(), "[{ subject = \"a/b\", qos = 1 }, { subject = \"c\", qos = 2 }]");
    for wrong in
        ["{ qos = 1 }", "{ subject = \"a/#\" }", "{ subject = \"a\", qos = 3 }", "{ subject = \"a\", x = 1 }", "\"a\""]
    {
        assert!(typed::<(Subject, Qos)>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_shown_is_toml() {
    let text = "a \"b\" \\ \n \u{1}";
    assert_eq!(typed::<String>(&quoted(text)), Ok(text.to_owned()));
}

#[test]
fn long_values_are_clipped_in_errors() {
    assert!(Given::Untyped(&"ü".repeat(500)).show().chars().count() < 100);
}

/// Names that are not ASCII are looked up in their ASCII form: the tables for that are a choice in Cargo.toml.
#[test]
fn names_in_other_scripts() {
    for (written, ascii) in [("例子.cn", "xn--fsqu00a.cn"), ("BÜCHER.example", "xn--bcher-kva.example")] {
        let url: url::Url = format!("https://{written}/ilink").parse().unwrap();
        assert_eq!(url.host_str(), Some(ascii));
    }
}
