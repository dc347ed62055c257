//! Results that the broker does not take at once: each topic's wait for their turn, and others go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rumqttc::v5::mqttbytes::v5::PubAckReason;
use serde_json::{Value, json};

use crate::support::bridge::Bridge;
use crate::support::eventually;
use crate::support::reacting_broker::{Copy, ReactingBroker, Reaction};
use crate::support::scripted_broker::ScriptedBroker;
use crate::support::sim::Sim;

/// Results of messages, and of publishes to a topic of iLink's.
const MESSAGES: &str = "ilink/result/call/send_msg/text";
const TOPICS: &str = "ilink/result/call/ham_topic/publish";

/// Three commands whose results go to each of them; all messages are to one receiver, so that they are made in order.
const COMMANDS: [(&str, &str); 6] = [
    ("ilink/call/send_msg/text", r#"{"accept_uid":"413","content":"x","ref":1}"#),
    ("ilink/call/ham_topic/publish", r#"{"subject":"home/lamp","content":"on","ref":1}"#),
    ("ilink/call/send_msg/text", r#"{"accept_uid":"413","content":"x","ref":2}"#),
    ("ilink/call/ham_topic/publish", r#"{"subject":"home/lamp","content":"off","ref":2}"#),
    ("ilink/call/send_msg/text", r#"{"accept_uid":"413","content":"x","ref":3}"#),
    ("ilink/call/ham_topic/publish", r#"{"subject":"home/lamp","content":"on","ref":3}"#),
];

fn json_of(copy: &Copy) -> Value {
    serde_json::from_str(&copy.payload).unwrap()
}

/// The `ref` of each result on this topic, in the order in which the broker took them.
fn refs(taken: &[Copy], topic: &str) -> Vec<u64> {
    taken.iter().filter(|copy| copy.topic == topic).map(|copy| json_of(copy)["ref"].as_u64().unwrap()).collect()
}

/// The last copy of each, in order.
fn last(mut refs: Vec<u64>) -> Vec<u64> {
    refs.reverse();
    let mut last = Vec::new();
    for number in refs {
        if !last.contains(&number) {
            last.insert(0, number);
        }
    }
    last
}

/// A broker that has these commands for the bridge, and a bridge at it.
async fn world(
    commands: &[(&str, &str)],
    react: impl FnMut(&Copy) -> Reaction + Send + 'static,
) -> (ReactingBroker, Sim, Bridge) {
    let broker = ReactingBroker::start_with(ScriptedBroker::bind().await, commands, react);
    let sim = Sim::start(&[]).await;
    let mut bridge = Bridge::at(&broker.url(), &sim);
    bridge.spawn();
    (broker, sim, bridge)
}

async fn health(bridge: &Bridge) -> Option<Value> {
    let status: Value = serde_json::from_str(&bridge.verb(&["status", "--json"]).await.stdout).ok()?;
    Some(status["health"].clone())
}

#[tokio::test]
async fn one_that_is_refused_for_now_waits_with_its_topic_alone() {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let (broker, _sim, bridge) = world(&COMMANDS, move |copy| {
        let refused = copy.topic == MESSAGES && !is_well.load(Ordering::Relaxed);
        if refused { Reaction::Refuse(PubAckReason::QuotaExceeded) } else { Reaction::Take }
    })
    .await;
    let taken = broker.until_taken("the others", |taken| refs(taken, TOPICS).len() == 3).await;
    assert_eq!((refs(&taken, TOPICS), refs(&taken, MESSAGES)), (vec![1, 2, 3], vec![]));
    let health_of = eventually("all of them to wait", async || {
        health(&bridge).await.filter(|health| health["queues"]["outbound"]["depth"] == 3)
    })
    .await;
    let busy = &health_of["broker"]["busy"][0];
    assert_eq!(
        (&busy["what"], &busy["kind"], &busy["lanes"]),
        (&json!("results"), &json!("busy"), &json!(1)),
        "{busy}"
    );
    well.store(true, Ordering::Relaxed);
    let taken = broker.until_taken("the rest", |taken| refs(taken, MESSAGES).len() >= 3).await;
    assert_eq!(refs(&taken, MESSAGES), [1, 2, 3]);
    eventually("nothing to wait", async || {
        let health = health(&bridge).await?;
        (health["queues"]["outbound"]["depth"] == 0 && health["broker"]["busy"] == json!([])).then_some(())
    })
    .await;
    let taken = broker.taken();
    assert_eq!((refs(&taken.borrow(), TOPICS), refs(&taken.borrow(), MESSAGES)), (vec![1, 2, 3], vec![1, 2, 3]));
}

#[tokio::test]
async fn those_of_one_topic_stay_in_order_when_one_is_refused_once() {
    for reason in
        [PubAckReason::UnspecifiedError, PubAckReason::ImplementationSpecificError, PubAckReason::QuotaExceeded]
    {
        let mut refused = 0;
        let (broker, _sim, bridge) = world(&COMMANDS, move |copy| {
            refused += usize::from(copy.topic == MESSAGES);
            let first = copy.topic == MESSAGES && refused == 1;
            if first { Reaction::Refuse(reason) } else { Reaction::Take }
        })
        .await;
        let complete = |taken: &Vec<Copy>| last(refs(taken, MESSAGES)) == [1, 2, 3];
        broker.until_taken("all in order", complete).await;
        eventually("nothing to wait", async || {
            (health(&bridge).await?["queues"]["outbound"]["depth"] == 0).then_some(())
        })
        .await;
        let taken = broker.taken();
        assert!(complete(&taken.borrow()), "{:?}", refs(&taken.borrow(), MESSAGES));
        assert_eq!(last(refs(&taken.borrow(), TOPICS)), [1, 2, 3]);
    }
}

#[tokio::test]
async fn that_of_a_rejected_command_comes_later_also_after_a_crash() {
    const REJECTED: &str = "ilink/result/send/user/413/text";
    let (well, refusals) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (is_well, refused) = (Arc::clone(&well), Arc::clone(&refusals));
    // An empty payload is no message. What comes behind it is acknowledged and answered all the same.
    let commands = [("ilink/send/user/413/text", ""), COMMANDS[0], COMMANDS[2]];
    let (broker, _sim, mut bridge) = world(&commands, move |copy| {
        if copy.topic == REJECTED && !is_well.load(Ordering::Relaxed) {
            refused.fetch_add(1, Ordering::Relaxed);
            return Reaction::Refuse(PubAckReason::UnspecifiedError);
        }
        Reaction::Take
    })
    .await;
    broker.until_taken("the others", |taken| refs(taken, MESSAGES).len() == 2).await;
    let all_acked = |acked: &[u16]| acked == [1, 2, 3];
    broker.until_acked("all three commands, in order", all_acked).await;
    let more_than = |number| refusals.load(Ordering::Relaxed) > number;
    eventually("it to be tried again", async || more_than(1).then_some(())).await;
    bridge.kill();
    bridge.spawn();
    let before = refusals.load(Ordering::Relaxed);
    eventually("it to be tried by the next run", async || more_than(before).then_some(())).await;
    well.store(true, Ordering::Relaxed);
    let of_it = |taken: &[Copy]| taken.iter().filter(|copy| copy.topic == REJECTED).map(json_of).collect::<Vec<_>>();
    let taken = broker.until_taken("it", |taken| !of_it(taken).is_empty()).await;
    let result = &of_it(&taken)[0];
    assert_eq!((&result["status"], &result["name"]), (&json!("rejected"), &json!("bad_payload")), "{result}");
    eventually("nothing to wait", async || (health(&bridge).await?["queues"]["outbound"]["depth"] == 0).then_some(()))
        .await;
    assert_eq!(of_it(&broker.taken().borrow()).len(), 1, "it comes once");
    let counters = health(&bridge).await.unwrap()["counters"].clone();
    assert_eq!(counters["publishes_set_aside"], 0, "{counters}");
}
