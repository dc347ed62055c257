//! Topics and payloads that mean nothing, at full speed.

use std::collections::BTreeMap;

use crate::support::bridge::Bridge;
use crate::support::client::{Message, Out};
use crate::support::random::Random;

use super::{Storm, scaled};

/// How many levels a topic may have for Mosquitto, less one.
const SLASHES: usize = 200;

/// Where the results of those nasty topics begin that do mean something.
const STRANGE: [&str; 2] = ["ilink/result/send/topic//", "ilink/result/send/topic/$SYS/x"];

/// Topics after the base, each of them nasty in its own way.
fn nasty_topics() -> Vec<String> {
    let long = "x".repeat(65_535 - "ilink/send/user//text".len());
    let mut topics: Vec<String> = [
        "send",
        "send/",
        "send//",
        "send/user",
        "send/user/",
        "send/user//text",
        "send/user/413",
        "send/user/413/txt",
        "send/user/413/text/",
        "send/user/413//text",
        "send/user/%/text",
        "send/user/%4/text",
        "send/user/%zz/text",
        "send/user/%ff%fe/text",
        "send/user/%00/text",
        "send/user/%c3%28/text",
        "send/group",
        "send/group/",
        "send/group/a/b",
        "send/topic",
        "send/topic/",
        "send/topic/%23",
        "send/topic/a/%2B",
        "send/topic/$SYS/x",
        "send/recv/user/1/text",
        "call",
        "call/",
        "call//",
        "call/send_msg",
        "call/send_msg/text/",
        "call/set_config/register",
        "call/get_access_token",
        "call/ham_group/list/",
        "call/self_test",
        "call/self_test/",
        "call/self_test/a/b",
        "by//send",
        "by//call/x",
        "by/c/send",
        "by/%zz/send/user/1",
        "by/send/send/send",
        "by/c/call/self_test/x",
        "by/c/send/user/%/text",
        "by/ /call/ ",
    ]
    .map(str::to_owned)
    .into();
    topics.push(format!("send/topic{}", "/".repeat(SLASHES - 2)));
    topics.push(format!("send/user{}", "/b".repeat(SLASHES - 2)));
    topics.push(format!("by/c/call{}", "/".repeat(SLASHES - 3)));
    topics.push(format!("send/{long}"));
    topics.push(format!("by/c/send/user/{}", "%".repeat(60_000)));
    topics
}

/// Payloads for JSON calls that no call takes.
fn nasty_payloads() -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = [
        "",
        " ",
        "null",
        "1",
        "[]",
        "\"x\"",
        "{",
        "}",
        "{}}",
        "{\"a\":}",
        "{'a':1}",
        "\u{feff}{}",
        "{\"accept_uid\":\"1\"}",
        r#"{"accept_uid":"1","content":""}"#,
        r#"{"accept_uid":"","content":"x"}"#,
        r#"{"accept_uid":1.5,"content":"x"}"#,
        r#"{"accept_uid":"\u0000","content":"x"}"#,
        r#"{"accept_uid":"1","content":{"a":1}}"#,
        r#"{"accept_uid":"1","content":"x","content":"y"}"#,
        r#"{"accept_uid":"1","content":"x","colour":"red"}"#,
        r#"{"accept_uid":"1","content":"x","ref":null}"#,
        r#"{"accept_uid":"1","content":"x","ref":[1]}"#,
        r#"{"accept_uid":"1","content":"x","ref":{"a":{}}}"#,
        r#"{"accept_uid":"1","content":"x","ref":true}"#,
        r#"{"accept_uid":"1","content":"x","ref":"\ud800"}"#,
        r#"{"accept_uid":"1","content":"x","ttl":0}"#,
        r#"{"accept_uid":"1","content":"x","ttl":-1}"#,
        r#"{"accept_uid":"1","content":"x","ttl":1.5}"#,
        r#"{"accept_uid":"1","content":"x","ttl":1e9}"#,
        r#"{"accept_uid":"1","content":"x","ttl":"60"}"#,
        r#"{"accept_uid":"1","content":"x","ttl":2592001}"#,
        r#"{"accept_uid":"1","content":"x","ttl":18446744073709551616}"#,
        r#"{"accept_uid":"1","content":"x","encoding":"hex"}"#,
        r#"{"accept_uid":"1","content":"!","encoding":"base64"}"#,
    ]
    .map(|json| json.as_bytes().to_vec())
    .into();
    payloads.push(b"\xff\xfe\x00".to_vec());
    payloads.push(b"{\"accept_uid\":\"1\",\"content\":\"\xff\"}".to_vec());
    payloads.push(vec![0; 5000]);
    payloads.push(vec![b'['; 100_000]);
    payloads.push([b"{\"a\":".repeat(50_000), b"1".to_vec(), vec![b'}'; 50_000]].concat());
    payloads.push(format!(r#"{{"accept_uid":"1","content":"x","ref":"{}"}}"#, "r".repeat(257)).into_bytes());
    payloads.push(format!(r#"{{"{}":1}}"#, "k\\n".repeat(100_000)).into_bytes());
    payloads.push(format!("{{{}}}", vec![r#""a":1"#; 50_000].join(",")).into_bytes());
    payloads
}

/// `n` bad messages, the nasty ones first, then random ones near those that mean something.
fn bad_messages(n: usize, random: &mut Random) -> Vec<Out> {
    const LEVELS: [&str; 18] = [
        "send",
        "call",
        "by",
        "user",
        "group",
        "topic",
        "text",
        "file",
        "send_msg",
        "ham_group",
        "list",
        "",
        "%",
        "%4",
        "%zz",
        "%ff",
        "%00",
        "x",
    ];
    let nasty = nasty_payloads();
    let mut outs: Vec<Out> = nasty_topics().iter().map(|topic| Out::new(&format!("ilink/{topic}"), "{}")).collect();
    outs.extend(nasty.iter().map(|payload| Out::new("ilink/call/send_msg/text", payload)));
    let small: Vec<_> = nasty.iter().filter(|payload| payload.len() < 1000).collect();
    while outs.len() < n {
        let head = ["send", "call", "by/c/send", "by/c/call", "by//send"][random.below::<usize>(5)];
        let levels: Vec<&str> =
            (0..random.below::<usize>(5)).map(|_| LEVELS[random.below::<usize>(LEVELS.len() as u64)]).collect();
        let topic = format!("ilink/{head}/{}", levels.join("/"));
        let out = match random.below::<u8>(3) {
            // Random bytes, on a topic that takes no bytes.
            0 => Out::new(
                "ilink/call/ham_group/create",
                (0..random.below::<u64>(40)).map(|_| random.below::<u8>(255)).collect::<Vec<_>>(),
            ),
            1 => Out::new("ilink/call/send_msg/text", small[random.below::<usize>(small.len() as u64)]),
            // Empty, so that a topic that happens to mean something takes it no better.
            _ if topic.ends_with("ham_group/list") => continue,
            _ => Out::new(&topic, ""),
        };
        // QoS 0 only among the first, where no backlog can make the bridge drop it.
        outs.push(match random.below::<u8>(8) {
            0 | 1 if outs.len() < 1000 => out.qos0(),
            2 => out.qos2(),
            _ => out,
        });
    }
    outs
}

/// Where the result of a command on this topic is heard: verbatim, or cut after a level where brokers take no more.
fn result_topic(topic: &str) -> String {
    let rest = topic.strip_prefix("ilink/").unwrap();
    let result = match rest.strip_prefix("by/").and_then(|rest| rest.split_once('/')) {
        Some((client, command)) => format!("ilink/by/{client}/result/{command}"),
        None => format!("ilink/result/{rest}"),
    };
    let mut levels: Vec<&str> = result.split('/').collect();
    levels.truncate(SLASHES + 1);
    while levels.join("/").len() > 65_535 {
        levels.pop();
    }
    levels.join("/")
}

async fn storm(name: &'static str, protocol: &str) {
    let mut storm = Storm::ready(name, |bridge: Bridge| bridge.with("mqtt.protocol", protocol)).await;
    let mut random = Random::new(0x5EED_0001);
    let bad = bad_messages(scaled(1500), &mut random);
    let n = bad.len();
    let mut expected: BTreeMap<String, usize> = BTreeMap::new();
    for out in &bad {
        *expected.entry(result_topic(out.topic())).or_default() += 1;
    }
    let mut outs = Vec::new();
    for (i, out) in bad.into_iter().enumerate() {
        if i % 100 == 0 {
            outs.push(storm.good());
        }
        outs.push(out);
    }
    storm.device.send_all(outs).await;
    let is_result = |message: &Message| {
        let good = message.topic.starts_with("ilink/by/good/");
        !good
            && (message.topic.starts_with("ilink/result")
                || (message.topic.contains("/result") && !message.topic.contains("/ack/")))
    };
    let results = storm.results("results of bad messages", n, is_result).await;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut strange = 0;
    let mut ids = std::collections::HashSet::new();
    for result in &results {
        let json = result.json();
        let name = json["name"].as_str().unwrap();
        match json["status"].as_str() {
            Some("rejected") => assert!(["bad_topic", "bad_payload"].contains(&name), "{json}"),
            // Strange, and allowed: iLink has its own mind on subjects.
            Some("ok") if STRANGE.iter().any(|start| result.topic.starts_with(start)) => strange += 1,
            _ => panic!("{json} on {:.200}", result.topic),
        }
        assert!(json["message"].as_str().unwrap().len() < 600, "{json}");
        assert!(ids.insert(json["id"].to_string()), "{json}");
        *seen.entry(result.topic.clone()).or_default() += 1;
    }
    let differ: Vec<_> =
        expected.iter().filter(|(topic, n)| seen.get(*topic) != Some(n)).map(|(t, n)| (t, n, seen.get(t))).collect();
    assert!(differ.is_empty() && seen.len() == expected.len(), "topic, expected, seen: {differ:.300?}");
    assert_eq!(strange, STRANGE.len());
    storm.is_over(n).await;
    assert_eq!(storm.status().await.counter("commands_rejected"), (n - strange) as u64);
    assert_eq!(storm.status().await.waiting("set aside"), 0);
    // Nothing of it reached the service, and nothing came twice.
    assert_eq!(storm.client.all(is_result).len(), n);
    let state = storm.sim.state().await;
    let calls = state["calls"].as_array().unwrap().iter();
    assert!(calls.clone().all(|call| call["path"] != "ham_group"), "{state}");
    assert!(calls.filter(|call| call["path"] == "send_msg").all(|call| call["body"]["accept_uid"] == "good"));
}

#[tokio::test]
async fn on_mqtt_5() {
    storm("malformed, MQTT 5", "5").await;
}

#[tokio::test]
async fn on_mqtt_3() {
    storm("malformed, MQTT 3.1.1", "3.1.1").await;
}
