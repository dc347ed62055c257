//! Rules of `[[route.…]]`: read as they are written, refused with the rule and the key.

use super::*;
use crate::route::{Heard, Outcome, Publish, Said};

/// The examples of routes.md.
pub(super) const EXAMPLES: &str = r#"
[[route.from_ilink]]
name = "power"
from = "user/413/text"
match = '(?i)^(?<dev>lamp|fan) (?<v>on|off)$'
topic = "cmnd/${dev}/POWER"
payload = "${v|upper}"

[[route.from_ilink]]
name = "heater"
from = "group/4cdad356-85b4-008627/413"
match = '^暖气(?<v>开|关)$'
map.v = { "开" = "ON", "关" = "OFF" }
topic = "cmnd/heater/POWER"
payload = "${v}"
max_age = "30s"

[[route.from_ilink]]
name = "dim"
from = "topic/home/lamp"
topic = "zigbee2mqtt/lamp/set"
payload = '{"brightness":${json:/level}}'

[[route.to_ilink]]
name = "power-state"
subscribe = "stat/+/POWER"
to = "user/413/text"
payload = "${1}: ${payload}"
on_change = true

[[route.to_ilink]]
name = "temp"
subscribe = "tele/+/SENSOR"
to = "topic/home/${1}/temp"
payload = "${json:/AM2301/Temperature}"
keep = "latest"
ttl = "1h"
min_interval = "5m"

[[route.from_ilink]]
name = "light"
from = "user/413/text"
topic = "cmnd/light/POWER"
reply = "light: ${payload}"
help = "light on | off"

[[route.to_ilink]]
name = "heat"
subscribe = "tele/+/SENSOR"
to = "user/413/text"
value = "${json:/AM2301/Temperature}"
above = 30
below = -1.5e1
hysteresis = 0.5
for = "5m"
round = 1

[[route.otherwise]]
from = "user/413/text"
reply = """
Say:
${help}"""

[[route.otherwise]]
from = "user/+/text"
any_sender = true
reply = "what?"
max_rate = "1/h"
"#;

#[test]
fn the_contracts_examples_are_read() {
    let config = load(EXAMPLES).unwrap();
    let group = "group/4cdad356-85b4-008627/413";
    let said = Said { recv: group, payload: "暖气关".as_bytes(), from_uid: Some("413"), time: None };
    let mut fired = Vec::new();
    config.routes.from_ilink(&said, |_, outcome| fired.push(outcome));
    let (topic, payload) = ("cmnd/heater/POWER".to_owned(), b"OFF".to_vec());
    assert_eq!(fired, [Outcome::Fires(Publish { topic, payload, reply: None })]);
    let mut calls = 0;
    config.routes.to_ilink(&Heard { topic: "stat/x/POWER", payload: b"ON", time: 0 }, |_, _| calls += 1);
    assert_eq!(calls, 1);
    let rule = config.routes.to_routes()[1].rule();
    assert_eq!(rule.ttl, Some(std::time::Duration::from_hours(1)));
}

#[test]
fn what_check_prints_reads_back_as_the_same() {
    let config = load(EXAMPLES).unwrap();
    let printed = config.describe();
    let routes = printed.find("[[route.").map(|at| printed[at..].to_owned()).unwrap();
    let again = load(&routes).unwrap();
    let rules = |config: &Config| {
        let from: Vec<_> = config.routes.from_routes().iter().map(|route| route.rule().clone()).collect();
        let otherwise: Vec<_> = config.routes.otherwise_routes().iter().map(|route| route.rule().clone()).collect();
        let to: Vec<_> = config.routes.to_routes().iter().map(|route| route.rule().clone()).collect();
        (from, otherwise, to)
    };
    assert_eq!(rules(&again), rules(&config));
}

#[test]
fn mistakes_name_the_rule_the_key_and_the_file() {
    let from = "[[route.from_ilink]]\nname = \"lamp\"\nfrom = \"user/413/text\"\ntopic = \"x\"\n";
    let to = "[[route.to_ilink]]\nname = \"state\"\nsubscribe = \"stat/+\"\nto = \"user/413/text\"\n";
    let otherwise = |from: &str, reply: &str| format!("[[route.otherwise]]\nfrom = \"{from}\"\nreply = \"{reply}\"\n");
    for (toml, says) in [
        ("[[route.from_ilnk]]\nname = \"a\"".to_owned(), &["no key route.from_ilnk", "route.from_ilink"][..]),
        ("[route.from_ilink]\nname = \"a\"".to_owned(), &["route.from_ilink", "[[route.from_ilink]]"]),
        ("route = 1".to_owned(), &["route", "[[route.to_ilink]]"]),
        ("[[route.from_ilink]]\n".to_owned(), &["route.from_ilink 1: name is not set", "topic is not set"]),
        (format!("{from}topik = 1"), &["route.from_ilink 1 (\"lamp\"): topik", "did you mean topic?"]),
        (
            format!("{from}on_change = true"),
            &["(\"lamp\"): on_change", "did you mean [[route.to_ilink]], which has it?"],
        ),
        (format!("{to}{from}max_aeg = \"1s\""), &["route.from_ilink 1 (\"lamp\"): max_aeg", "max_age"]),
        (format!("{from}max_age = \"soon\""), &["(\"lamp\"): max_age = \"soon\"", "duration"]),
        (format!("{from}max_rate = \"many\""), &["(\"lamp\"): max_rate", "30/m"]),
        (format!("{from}map = 1"), &["(\"lamp\"): map = 1", "map.v"]),
        (format!("{from}match = \"(\""), &["(\"lamp\"): match: ", "unclosed group"]),
        (format!("{to}keep = \"newest\""), &["route.to_ilink 1 (\"state\"): keep", "\"latest\""]),
        (format!("{to}ttl = \"0s\""), &["(\"state\"): ttl", "between"]),
        (format!("{to}above = \"30\""), &["(\"state\"): above = \"30\"", "a number"]),
        (format!("{to}above = nan"), &["(\"state\"): above", "a number"]),
        (format!("{to}below = -inf"), &["(\"state\"): below", "a number"]),
        (format!("{to}above = 1\nbelow = 1"), &["(\"state\"): below", "less than above"]),
        (format!("{to}hysteresis = 1"), &["(\"state\"): hysteresis", "above or below"]),
        (format!("{to}above = 1\nhysteresis = -1"), &["(\"state\"): hysteresis", "negative"]),
        (format!("{to}for = \"5m\""), &["(\"state\"): for", "above or below"]),
        (format!("{to}round = 1.5"), &["(\"state\"): round"]),
        (format!("{to}round = 10"), &["(\"state\"): round", "0 to 9"]),
        (format!("{to}payload = \"${{value}}\""), &["(\"state\"): payload: ${value} is for", "above"]),
        (format!("{to}round = 1\nvalue = \"${{value}}\""), &["(\"state\"): value"]),
        (format!("{to}round = 1\nmatch = '(?<value>.)'"), &["(\"state\"): match", "another value"]),
        (format!("{to}any_sender = true"), &["(\"state\"): any_sender"]),
        (format!("{to}on_change = 1"), &["(\"state\"): on_change = 1", "true or false"]),
        (format!("{from}reply = \"${{v}}\""), &["(\"lamp\"): reply: there is no value ${v}"]),
        (format!("{from}reply = \"${{help}}\""), &["(\"lamp\"): reply: ${help} is for", "[[route.otherwise]]"]),
        (format!("{from}help = \"\""), &["(\"lamp\"): reply and help"]),
        ("[[route.otherwise]]\nfrom = \"user/413/text\"".to_owned(), &["route.otherwise 1: reply is not set"]),
        (otherwise("user/+/text", "x"), &["route.otherwise 1 (\"otherwise\"): from", "any_sender"]),
        (otherwise("413", "x"), &["(\"otherwise\"): from", "user/<uid>/text"]),
        (otherwise("user/413/text", ""), &["(\"otherwise\"): reply", "empty"]),
        (otherwise("user/413/text", "${halp}"), &["(\"otherwise\"): reply", "did you mean ${help}?"]),
        (otherwise("user/413/text", "x") + "match = \"x\"", &["route.otherwise 1: match"]),
        ("[[route.otherwize]]\nname = \"a\"".to_owned(), &["no key route.otherwize", "route.otherwise"]),
        (format!("{from}{from}"), &["route.from_ilink 2 (\"lamp\")", "same name"]),
        (format!("{to}[mqtt]\nbase_topic = \"stat\""), &["(\"state\"): subscribe", "stat/#"]),
    ] {
        let error = load(&toml).unwrap_err().to_string();
        for what in says.iter().chain(&["config.toml"]) {
            assert!(error.contains(what), "{what} in:\n{error}");
        }
    }
}

#[test]
fn other_mistakes_are_told_with_them() {
    let error = load("[[route.from_ilink]]\nname = \"a\"\n[mqtt]\nbase_topic = \"#\"").unwrap_err();
    assert_eq!(error.problems.len(), 3, "{error}");
}
