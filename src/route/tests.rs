//! The examples of routes.md, what start refuses, and what holds for every message.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::local::filter::matches;
use crate::protocol::Call;

fn base() -> Base {
    "ilink".parse().unwrap()
}

fn compile(from: Vec<FromRule>, to: Vec<ToRule>, base: &Base) -> Result<Routes, Vec<RouteError>> {
    Routes::compile(RuleSet { from, to, ..RuleSet::default() }, base, &Arc::default())
}

fn from(name: &str, from: &str, topic: &str) -> FromRule {
    FromRule {
        name: name.to_owned(),
        from: from.to_owned(),
        pattern: None,
        map: Maps::new(),
        topic: topic.to_owned(),
        payload: PAYLOAD.to_owned(),
        max_age: None,
        any_sender: false,
        max_rate: Rate::default(),
        reply: None,
        help: None,
    }
}

fn to(name: &str, subscribe: &str, to: &str) -> ToRule {
    ToRule {
        name: name.to_owned(),
        subscribe: subscribe.to_owned(),
        pattern: None,
        map: Maps::new(),
        to: to.to_owned(),
        payload: PAYLOAD.to_owned(),
        value: None,
        above: None,
        below: None,
        hysteresis: None,
        hold: None,
        round: None,
        on_change: false,
        keep: Keep::All,
        ttl: None,
        min_interval: None,
        retained: false,
        max_rate: Rate::default(),
    }
}

fn map(source: &str, words: &[(&str, &str)]) -> Maps {
    let table = words.iter().map(|(word, becomes)| ((*word).to_owned(), (*becomes).to_owned())).collect();
    Maps::from([(source.to_owned(), table)])
}

/// The first five of routes.md.
fn examples() -> Routes {
    let power = FromRule {
        pattern: Some("(?i)^(?<dev>lamp|fan) (?<v>on|off)$".to_owned()),
        payload: "${v|upper}".to_owned(),
        ..from("power", "user/413/text", "cmnd/${dev}/POWER")
    };
    let heater = FromRule {
        pattern: Some("^暖气(?<v>开|关)$".to_owned()),
        map: map("v", &[("开", "ON"), ("关", "OFF")]),
        payload: "${v}".to_owned(),
        max_age: Some(Duration::from_secs(30)),
        ..from("heater", "group/4cdad356-85b4-008627/413", "cmnd/heater/POWER")
    };
    let dim = FromRule {
        payload: r#"{"brightness":${json:/level}}"#.to_owned(),
        ..from("dim", "topic/home/lamp", "zigbee2mqtt/lamp/set")
    };
    let power_state = ToRule {
        payload: "${1}: ${payload}".to_owned(),
        on_change: true,
        ..to("power-state", "stat/+/POWER", "user/413/text")
    };
    let temp = ToRule {
        payload: "${json:/AM2301/Temperature}".to_owned(),
        keep: Keep::Latest,
        ..to("temp", "tele/+/SENSOR", "topic/home/${1}/temp")
    };
    compile(vec![power, heater, dim], vec![power_state, temp], &base()).unwrap()
}

fn said(routes: &Routes, recv: &str, payload: &[u8]) -> Vec<(usize, Outcome<Publish>)> {
    let mut all = Vec::new();
    routes
        .from_ilink(&Said { recv, payload, from_uid: Some("413"), time: Some(7) }, |n, outcome| all.push((n, outcome)));
    all
}

fn heard(routes: &Routes, topic: &str, payload: &[u8]) -> Vec<(usize, Outcome<Call>)> {
    let mut all = Vec::new();
    routes.to_ilink(&Heard { topic, payload, time: 7 }, |n, outcome| all.push((n, outcome.map(|told| told.call))));
    all
}

fn publish(topic: &str, payload: &str) -> Outcome<Publish> {
    Outcome::Fires(Publish { topic: topic.to_owned(), payload: payload.into(), reply: None })
}

#[test]
fn the_examples_from_ilink() {
    let routes = examples();
    assert_eq!(said(&routes, "user/413/text", b"Lamp On"), [(0, publish("cmnd/Lamp/POWER", "ON"))]);
    assert_eq!(said(&routes, "user/413/text", b"good morning"), [(0, Outcome::NoMatch)]);
    assert_eq!(said(&routes, "user/413/text", b"\xff"), [(0, Outcome::NoMatch)]);
    assert_eq!(said(&routes, "user/412/text", b"lamp on"), []);
    let group = "group/4cdad356-85b4-008627/413";
    assert_eq!(said(&routes, group, "暖气开".as_bytes()), [(1, publish("cmnd/heater/POWER", "ON"))]);
    assert_eq!(
        said(&routes, "topic/home/lamp", br#"{"level":120}"#),
        [(2, publish("zigbee2mqtt/lamp/set", r#"{"brightness":120}"#))]
    );
    assert!(matches!(&said(&routes, "topic/home/lamp", b"{}")[..], [(2, Outcome::Missing(_))]));
}

#[test]
fn the_examples_to_ilink() {
    let routes = examples();
    let text = Call::SendText { to: "413".parse().unwrap(), content: b"lamp: ON".to_vec() };
    assert_eq!(heard(&routes, "stat/lamp/POWER", b"ON"), [(0, Outcome::Fires(text))]);
    let sensor = br#"{"Time":"2026-11-23T07:00:00","AM2301":{"Temperature":21.5,"Humidity":54.7},"TempUnit":"C"}"#;
    let call = Call::Publish { subject: "home/hall/temp".parse().unwrap(), content: b"21.5".to_vec() };
    assert_eq!(heard(&routes, "tele/hall/SENSOR", sensor), [(1, Outcome::Fires(call))]);
    assert!(matches!(&heard(&routes, "tele/hall/SENSOR", b"")[..], [(1, Outcome::Missing(_))]));
    assert_eq!(heard(&routes, "stat/lamp/RESULT", b"{}"), []);
    assert_eq!(routes.subscriptions(), ["stat/+/POWER", "tele/+/SENSOR"]);
}

#[test]
fn ids_pass_whatever_they_hold() {
    let rule = to("r", "x/+", "user/${1}/text");
    let routes = compile(vec![], vec![rule], &base()).unwrap();
    let [(0, Outcome::Fires(Call::SendText { to, .. }))] = &heard(&routes, "x/a%2Fb", b"m")[..] else { panic!() };
    assert_eq!(to.as_str(), "a%2Fb");
    let rule = FromRule { any_sender: true, ..from("r", "user/+/text", "x/${1}/y") };
    let routes = compile(vec![rule], vec![], &base()).unwrap();
    assert_eq!(said(&routes, "user/a%2Fb%2B/text", b"m"), [(0, publish("x/a%2Fb%2B/y", "m"))]);
}

/// The errors of rules, which must name the rule and say this.
#[track_caller]
fn refused(from: Vec<FromRule>, to: Vec<ToRule>, says: &[&str]) {
    let errors = compile(from, to, &base()).unwrap_err();
    let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(says.iter().all(|what| text.contains(what)), "{says:?} in:\n{text}");
}

#[test]
fn what_start_refuses() {
    let good = || from("good", "user/413/text", "cmnd/x");
    for (rule, says) in [
        (from("", "user/413/text", "cmnd/x"), &["route.from_ilink 2:", "name"][..]),
        (from("a/b", "user/413/text", "cmnd/x"), &["name", "letters"]),
        (good(), &["route.from_ilink 2 (\"good\")", "route.from_ilink 1 (\"good\") has the same name"]),
        (from("r", "user/+/text", "cmnd/x"), &["route.from_ilink 2 (\"r\")", "any_sender"]),
        (from("r", "user/413/text", ""), &["topic: it is empty"]),
        (from("r", "user/413/text", "${payload}/x"), &["topic", "fixed text"]),
        (from("r", "user/413/text", "$SYS/x"), &["topic", "broker's own"]),
        (from("r", "user/413/text", "ilink/recv/x"), &["topic", "touches the bridge's own topics, ilink/#"]),
        (from("r", "user/413/text", "ilink"), &["topic", "touches the bridge's own topics"]),
        (from("r", "user/413/text", "cmnd/${dev}"), &["topic", "${dev}", "(?<dev>…)"]),
        (FromRule { pattern: Some("(".to_owned()), ..from("r", "user/413/text", "x") }, &["match", "unclosed group"]),
        (
            FromRule { pattern: Some("(?<time>a)".to_owned()), ..from("r", "user/413/text", "x") },
            &["match", "(?<time>…)"],
        ),
        (FromRule { pattern: Some("\\w{1000}{1000}".to_owned()), ..from("r", "user/413/text", "x") }, &["too large"]),
        (FromRule { map: map("w", &[]), ..from("r", "user/413/text", "x") }, &["map.w", "${w}"]),
    ] {
        refused(vec![good(), rule], vec![], says);
    }
    for (rule, says) in [
        (to("r", "", "user/413/text"), &["route.to_ilink 1 (\"r\")", "subscribe: it is empty"][..]),
        (to("r", "a/#/b", "user/413/text"), &["subscribe", "filter"]),
        (to("r", "$SYS/#", "user/413/text"), &["subscribe", "broker's own"]),
        (to("r", "#", "user/413/text"), &["subscribe", "touches the bridge's own topics, ilink/#"]),
        (to("r", "+/x", "user/413/text"), &["touches"]),
        (to("r", "ilink/event/#", "user/413/text"), &["touches"]),
        (to("r", "stat/+", ""), &["to: it is empty"]),
        (to("r", "stat/+", "user/413"), &["to = \"user/413\"", "send/user/<uid>/text"]),
        (to("r", "stat/+", "send/user/413/text"), &["to = ", "raw topics are"]),
        (to("r", "stat/+", "user/${2}/text"), &["to: ${2}", "1 wildcards"]),
        (to("r", "stat/+", "topic/a/%zz"), &["to", "hex"]),
        (ToRule { payload: String::new(), ..to("r", "stat/+", "user/1/text") }, &["payload"]),
        (ToRule { payload: "${from_uid}".to_owned(), ..to("r", "stat/+", "user/1/text") }, &["payload", "from_uid"]),
    ] {
        refused(vec![], vec![rule], says);
    }
}

#[test]
fn loops_are_refused_with_both_rules_named() {
    let says = ["route.from_ilink 1 (\"out\")", "cmnd/${1}/POWER", "route.to_ilink 2 (\"in\")", "+", "loop"];
    let out = from("out", "topic/+", "cmnd/${1}/POWER");
    let fine = to("fine", "stat/+", "user/1/text");
    refused(vec![out.clone()], vec![fine.clone(), to("in", "cmnd/+/+", "user/1/text")], &says);
    refused(vec![out.clone()], vec![fine.clone(), to("in", "cmnd/lamp/POWER", "user/1/text")], &["loop"]);
    compile(vec![out], vec![fine, to("in", "cmnd/+/RESULT", "user/1/text")], &base()).unwrap();
}

#[test]
fn a_wider_subscription_must_not_touch_the_base() {
    let base = "home/ilink".parse().unwrap();
    let rules = vec![to("a", "+/x", "user/1/text"), to("b", "home/+/#", "user/1/text")];
    assert!(compile(vec![], rules, &base).unwrap_err()[0].to_string().contains("touches"));
    let rules = vec![to("a", "+/x", "user/1/text"), to("b", "other/+", "user/1/text")];
    let errors = compile(vec![], rules, &base).unwrap_err();
    assert!(errors[0].to_string().contains("subscribed to as +/+"), "{errors:?}");
}

#[test]
fn a_thousand_routes_find_theirs() {
    let rules = (0..1000)
        .map(|n| FromRule {
            pattern: Some(format!("(?i)^lamp{n} (?<v>on|off)$")),
            payload: "${v|upper}".to_owned(),
            ..from(
                &format!("r{n}"),
                if n % 2 == 0 { "user/413/text" } else { "topic/home/lamp" },
                &format!("cmnd/lamp{n}"),
            )
        })
        .collect();
    let routes = compile(rules, vec![], &base()).unwrap();
    let all = said(&routes, "user/413/text", b"LAMP500 off");
    assert_eq!(all.len(), 500);
    assert_eq!(all[0], (500, publish("cmnd/lamp500", "OFF")));
}

/// Text that means something somewhere: in templates, topics, JSON or patterns.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "(?s).{0,12}",
        "[/+#$%{}\"\\\\\0\n\u{fffe}aA1|:]{0,12}",
        Just("ilink/send/user/1/text".to_owned()),
        Just("../../ilink".to_owned()),
    ]
}

fn template() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        hostile(),
        Just("${payload}".to_owned()),
        Just("${payload|json}".to_owned()),
        Just("${1}".to_owned()),
        Just("${v|upper}".to_owned()),
        Just("${json:/a|lower}".to_owned()),
        Just("${json:}".to_owned()),
        Just("${from_uid}".to_owned()),
        Just("/".to_owned()),
        Just("x".to_owned()),
    ];
    proptest::collection::vec(part, 0..5).prop_map(|parts| parts.concat())
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        hostile().prop_map(String::into_bytes),
        hostile().prop_map(|text| serde_json::json!({ "a": text }).to_string().into_bytes()),
        proptest::collection::vec(any::<u8>(), 0..12),
    ]
}

fn filter_of_devices() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof![Just("x"), Just("+"), Just("y"), Just("cmnd")], 1..4)
        .prop_map(|levels| levels.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    // Rules that are taken never publish to what is subscribed, to our own topics, or where no client may.
    #[test]
    fn no_output_is_ever_heard(
        topic in template(),
        payload in template(),
        pattern in prop_oneof![Just("^(?<v>.*)$"), Just("(?s)(?<v>.*)"), Just("(?<v>x)?")],
        subscribe in filter_of_devices(),
        message in message(),
        id in hostile().prop_filter("an id", |id| !id.is_empty()),
    ) {
        let rule = FromRule {
            pattern: Some(pattern.to_owned()),
            payload,
            any_sender: true,
            ..from("r", "user/+/text", &format!("cmnd{topic}"))
        };
        let Ok(routes) = compile(vec![rule], vec![to("in", &subscribe, "user/1/text")], &base()) else {
            return Ok(());
        };
        let recv = format!("user/{}/text", crate::local::escape::escape_id(&id));
        let template = routes.from_routes()[0].output();
        for (_, outcome) in said(&routes, &recv, &message) {
            if let Outcome::Fires(Publish { topic, .. }) = outcome {
                prop_assert!(!matches(&subscribe, &topic), "{topic}");
                prop_assert!(!matches("ilink/#", &topic) && !topic.starts_with('$'), "{topic}");
                prop_assert!(!topic.contains(['+', '#']) && !topic.contains(crate::local::escape::is_unsendable));
                prop_assert!(matches(&template, &topic), "{topic} is not of {template}");
            }
        }
    }

    // A value in JSON, with the filter for it, is one JSON value whatever it holds.
    #[test]
    fn json_holds(message in message()) {
        for payload in [r#"{"is":${payload|json}}"#, r#"{"is":${json:/a|json}}"#] {
            let rule = FromRule { payload: payload.to_owned(), ..from("r", "topic/t", "x") };
            let routes = compile(vec![rule], vec![], &base()).unwrap();
            for (_, outcome) in said(&routes, "topic/t", &message) {
                if let Outcome::Fires(Publish { payload, .. }) = outcome {
                    let read: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&payload).unwrap();
                    prop_assert_eq!(read.keys().collect::<Vec<_>>(), ["is"]);
                }
            }
        }
    }

    #[test]
    fn no_template_and_no_message_panics(
        to_template in template(),
        payload in template(),
        topic in "([^+#\0/]{0,5}/){0,3}[^+#\0/]{0,5}",
        message in message(),
    ) {
        let rule = ToRule {
            pattern: Some("(?s)(?<v>.)?".to_owned()),
            payload,
            ..to("r", "x/+/#", &to_template)
        };
        if let Ok(routes) = compile(vec![], vec![rule], &base()) {
            for (_, outcome) in heard(&routes, &format!("x/{topic}"), &message) {
                if let Outcome::Fires(call) = outcome {
                    prop_assert!(call.receiver().is_some());
                }
            }
        }
    }
}

#[test]
fn a_rule_reads_its_number() {
    let rule = ToRule {
        value: Some("${json:/t}".to_owned()),
        payload: "${value} of ${1}".to_owned(),
        above: Some(30.0),
        round: Some(1),
        ..to("r", "tele/+", "user/1/text")
    };
    let routes = compile(vec![], vec![rule.clone()], &base()).unwrap();
    let told = |routes: &Routes, payload: &str| {
        let mut all = Vec::new();
        let heard = Heard { topic: "tele/a", payload: payload.as_bytes(), time: 7 };
        routes.to_ilink(&heard, |_, outcome| {
            all.push(
                outcome.map(|told| (told.value, String::from_utf8(told.call.content().unwrap().to_vec()).unwrap())),
            );
        });
        all
    };
    // Whether it crosses is for those to say who know where it was.
    for (payload, value, text) in [
        (r#"{"t":31.26}"#, 31.26, "31.3 of a"),
        (r#"{"t":"31.26"}"#, 31.26, "31.3 of a"),
        (r#"{"t":3}"#, 3.0, "3.0 of a"),
        (r#"{"t":-0.01}"#, -0.01, "0.0 of a"),
    ] {
        assert_eq!(told(&routes, payload), [Outcome::Fires((Some(value), text.to_owned()))], "{payload}");
    }
    for payload in [
        "{}",
        "31",
        "",
        "no json",
        r#"{"t":null}"#,
        r#"{"t":true}"#,
        r#"{"t":"21,5"}"#,
        r#"{"t":"NaN"}"#,
        r#"{"t":1e999}"#,
        r#"{"t":[1]}"#,
        r#"{"t":""}"#,
    ] {
        assert!(matches!(&told(&routes, payload)[..], [Outcome::Missing(_)]), "{payload}");
    }
    let plain = ToRule { value: None, round: None, payload: VALUE.to_owned(), ..rule };
    let routes = compile(vec![], vec![plain], &base()).unwrap();
    assert_eq!(told(&routes, " 31.260\n"), [Outcome::Fires((Some(31.26), "31.260".to_owned()))]);
    assert!(matches!(&told(&routes, "\u{ff10}")[..], [Outcome::Missing(_)]));
}
