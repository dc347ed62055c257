//! Floods: to one receiver, to very many, of results, with a slow service, with a subscriber that does not read.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Storm, scaled};
use crate::support::bridge::text_push;
use crate::support::client::{Message, Out};

fn text(uid: &str, text: &impl ToString) -> Out {
    Out::new(&format!("ilink/send/user/{uid}/text"), text.to_string())
}

fn is_result_of(uid: &str) -> impl Fn(&Message) -> bool + use<> {
    let topic = format!("ilink/result/send/user/{uid}/text");
    move |message| message.topic == topic
}

#[tokio::test]
async fn to_one_receiver_delays_no_other() {
    let mut storm = Storm::ready("flood to one receiver", |bridge| bridge).await;
    let n = scaled(500);
    storm.device.send_all((0..n).map(|i| text("flooded", &i))).await;
    // Each in turn, so that it meets the flood wherever that has come to.
    let mut behind = Vec::new();
    for _ in 0..10 {
        let before = storm.client.all(is_result_of("flooded")).len();
        let good = storm.good();
        storm.device.send(good).await;
        storm.good_are_done().await;
        behind.push(storm.client.all(is_result_of("flooded")).len() - before);
    }
    println!("results of the flood before that of another command, each time: {behind:?}");
    let results = storm.results("results of the flood", n, is_result_of("flooded")).await;
    assert!(results.iter().all(|result| result.json()["status"] == "ok"));
    storm.executed_in_order("flooded", n).await;
    storm.is_over(n).await;
    assert_eq!(storm.client.all(is_result_of("flooded")).len(), n);
}

// The service stands still until all are there, and takes one call at a time: lanes in turn decide who is next, whatever the
// machine's load.
#[tokio::test]
async fn lanes_are_taken_in_turn_when_the_service_is_slow() {
    let mut storm = Storm::ready("slow service", |bridge| {
        bridge.with_toml("outbound.concurrency", "1").with("ilink.timeout", "5m")
    })
    .await;
    let n = scaled(300);
    storm.sim.pause();
    storm.device.send_all((0..n).map(|i| text("flooded", &i))).await;
    let goods: Vec<Out> = (0..20).map(|_| storm.good()).collect();
    storm.device.send_all(goods).await;
    storm.bridge.waiting("outbound", n + 20).await;
    storm.sim.resume();
    storm.good_are_done().await;
    // In turn: between the first and the last of the others, the flood got one turn for each.
    let calls = storm.sim.calls("send_msg").await;
    let good = |(at, call): (usize, &crate::support::sim::Call)| (call.body["accept_uid"] == "good").then_some(at);
    let turns: Vec<usize> = calls.iter().enumerate().filter_map(good).collect();
    assert!(turns[0] <= 1 && turns[19] <= 2 * 20, "{turns:?}");
    storm.results("results of the flood", n, is_result_of("flooded")).await;
    storm.executed_in_order("flooded", n).await;
    storm.is_over(n).await;
}

#[tokio::test]
async fn of_results_lets_pushes_through() {
    let mut storm = Storm::ready("result storm", |bridge| bridge).await;
    // A subscriber of the results that never reads.
    let _deaf = deaf_subscriber(storm.broker.port()).await;
    let n = scaled(3000);
    let mut longest = std::time::Duration::ZERO;
    let mut pushed = 0;
    let mut open: usize = n;
    while open > 0 {
        let part = open.min(600);
        open -= part;
        // Large results: the topic is echoed in them.
        let topic = format!("ilink/send/user/{}/nothing", "u".repeat(500));
        storm.device.send_all((0..part).map(|_| Out::new(&topic, "x"))).await;
        pushed += 1;
        let (begun, words) = (Instant::now(), format!("push {pushed}"));
        storm.bridge.push(&text_push("413", &words)).await;
        storm.client.expect_text("ilink/recv/user/413/text", &words).await;
        longest = longest.max(begun.elapsed());
    }
    println!("the longest way of a push through the storm: {longest:?}");
    let topic = format!("ilink/result/send/user/{}/nothing", "u".repeat(500));
    storm.results("rejections", n, |message| message.topic == topic).await;
    storm.is_over(n).await;
    assert_eq!(storm.status().await.counter("commands_rejected"), n as u64);
}

/// Subscribes to all results at QoS 1, and never reads again.
async fn deaf_subscriber(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // MQTT 3.1.1 CONNECT (clean, keep alive 0, client id "deaf"), SUBSCRIBE 1 "ilink/result/#" QoS 1.
    let mut bytes = vec![0x10, 16, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 4, b'd', b'e', b'a', b'f'];
    bytes.extend([0x82, 5 + 14, 0, 1, 0, 14]);
    bytes.extend(b"ilink/result/#");
    bytes.push(1);
    stream.write_all(&bytes).await.unwrap();
    stream
}

#[tokio::test]
async fn while_the_service_is_away_ends_in_queue_full() {
    let mut storm = Storm::ready("queue full", |bridge| bridge.with("spool.max_bytes", "1MiB")).await;
    storm.sim.kill();
    let n = scaled(2000);
    storm.device.send_all((0..n).map(|i| text(&format!("u{}", i % 50), &format!("{i:0900}")))).await;
    let full = |message: &Message| message.json()["name"] == "queue_full";
    storm.client.gather("full queues", 1, |m| m.topic.starts_with("ilink/result/") && full(m)).await;
    // The other direction has a queue of its own.
    storm.bridge.push(&text_push("413", "meanwhile")).await;
    storm.client.expect_text("ilink/recv/user/413/text", "meanwhile").await;
    storm.sim.restart().await;
    storm.session().await;
    let results = storm.results("results", n, |message| message.topic.starts_with("ilink/result/")).await;
    let refused = results.iter().filter(|message| full(message)).count();
    let done = results.iter().filter(|message| message.json()["status"] == "ok").count();
    println!("{done} done, {refused} refused");
    assert_eq!(done + refused, n);
    assert!(done > 500 && refused > 0);
    let state = storm.sim.state().await;
    let mut last: HashMap<String, i64> = HashMap::new();
    let mut executed = 0;
    for call in state["calls"].as_array().unwrap().iter().filter(|call| call["path"] == "send_msg") {
        // The service that has forgotten our token refuses the first ones, and executes nothing of them.
        if call["code"] != 0 {
            continue;
        }
        executed += 1;
        let number: i64 = decoded(&call["body"]["content"]).parse().unwrap();
        let before = last.insert(call["body"]["accept_uid"].to_string(), number);
        assert!(before.is_none_or(|before| before < number), "{number} after {before:?}");
    }
    // It remembers the last thousand.
    assert_eq!(executed, done.min(1000));
    storm.is_over(n).await;
    assert_eq!(storm.status().await.counter("commands_rejected"), refused as u64);
}

fn decoded(content: &Value) -> String {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(content.as_str().unwrap()).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn to_very_many_receivers_expires_at_once() {
    let mut storm = Storm::ready("mass expiry", |bridge| bridge).await;
    storm.sim.kill();
    let n = scaled(3000);
    let command = |i| {
        let call = json!({"accept_uid": i, "content": "x", "ttl": 1, "ref": i});
        Out::new("ilink/call/send_msg/text", call.to_string())
    };
    storm.device.send_all((0..n).map(command)).await;
    let results = storm.results("expiries", n, |message| message.topic == "ilink/result/call/send_msg/text").await;
    let mut refs: Vec<u64> = results
        .iter()
        .map(Message::json)
        .map(|result| {
            assert!(["expired", "uncertain"].iter().any(|status| result["status"] == *status), "{result}");
            result["ref"].as_u64().unwrap()
        })
        .collect();
    refs.sort_unstable();
    assert_eq!(refs, (0..n as u64).collect::<Vec<_>>());
    storm.sim.restart().await;
    storm.session().await;
    storm.is_over(n).await;
}

#[tokio::test]
async fn at_qos_0_loses_only_qos_0() {
    let mut storm = Storm::ready("QoS 0 flood", |bridge| bridge).await;
    let n = scaled(5000);
    let mut outs: Vec<Out> = Vec::new();
    for i in 0..n {
        if i % 300 == 0 {
            outs.push(storm.good());
        }
        // One in ten is taken and executed, the others are refused: that is faster.
        outs.push(if i % 10 == 0 { text("flooded", &i).qos0() } else { text("flooded", &"").qos0() });
    }
    storm.device.send_all(outs).await;
    storm.is_over(n).await;
    // The last results may still be on their way from the broker.
    storm.client.settle().await;
    let status = storm.status().await;
    let dropped = status.counter("commands_dropped");
    let results = storm.client.all(is_result_of("flooded"));
    println!("{} answered, {dropped} dropped", results.len());
    assert_eq!(results.len() as u64 + dropped, n as u64, "each answered or dropped");
    let executed: Vec<usize> = storm.executed("flooded").await.iter().map(|text| text.parse().unwrap()).collect();
    assert!(executed.is_sorted());
    let done = results.iter().filter(|result| result.json()["status"] == "ok").count();
    assert_eq!(status.counter("commands_ok"), (done + n / 300 + 1 + usize::from(!n.is_multiple_of(300))) as u64);
}
