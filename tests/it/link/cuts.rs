//! A network that cuts connections in the middle of packets, with a real Mosquitto behind it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ilink2mqtt::local::Publication;
use ilink2mqtt::mqtt::Protocol;

use super::{Random, Tested, acked, config};
use crate::support::client::Client;
use crate::support::mosquitto::Mosquitto;
use crate::support::proxy::Proxy;

const MESSAGES: usize = 4000;

/// Publishes through cut connections; returns what a subscriber got, in its order.
async fn publish_all(protocol: Protocol) -> Vec<usize> {
    let broker = Mosquitto::start("");
    let watcher = Client::connect(&broker).await;
    watcher.subscribe("ilink/recv/#").await;
    let quiet = Arc::new(AtomicBool::new(false));
    let (calm, mut random) = (Arc::clone(&quiet), Random::new(0x5EED_1234_5678_9ABC));
    let proxy = Proxy::start(broker.port(), move || {
        let life = 200 + random.below::<u64>(30_000);
        (!calm.load(Ordering::Relaxed)).then_some(life)
    })
    .await;
    let mut settings = config(proxy.port());
    settings.protocol = protocol;
    let tested = Tested::start(settings);

    let publisher = tested.link.publisher.clone();
    let mut completions = Vec::with_capacity(MESSAGES);
    for n in 0..MESSAGES {
        let publication = Publication::raw("ilink/recv/user/1/text".to_owned(), format!("{n:08}").repeat(8));
        completions.push(publisher.publish(publication).await);
    }
    for (at, completion) in completions.into_iter().enumerate() {
        let delivery = completion.await;
        assert!(acked(&delivery), "{at}: {delivery:?}");
    }
    assert!(proxy.connections() >= 20, "only {} connections", proxy.connections());
    quiet.store(true, Ordering::Relaxed);
    watcher.settle().await;
    let got = watcher.all(|m| m.topic == "ilink/recv/user/1/text");
    got.iter().map(|m| m.text()[..8].parse().unwrap()).collect()
}

fn check(got: &[usize]) {
    let distinct: HashSet<usize> = got.iter().copied().collect();
    assert_eq!(distinct.len(), MESSAGES, "every acknowledged message arrived");
    let duplicates = got.len() - distinct.len();
    assert!(duplicates < MESSAGES, "{duplicates} duplicates");
    // A repeat starts over with the oldest one that was not acknowledged: first copies come in order.
    let mut seen = HashSet::new();
    let firsts: Vec<usize> = got.iter().copied().filter(|n| seen.insert(*n)).collect();
    assert!(firsts.is_sorted());
}

#[tokio::test]
async fn no_message_is_lost_and_the_order_is_kept() {
    check(&publish_all(Protocol::V5).await);
}

#[tokio::test]
async fn nor_with_mqtt_3_1_1() {
    check(&publish_all(Protocol::V311).await);
}

#[tokio::test]
async fn no_acknowledged_command_is_lost_either() {
    const COMMANDS: usize = 1000;
    let broker = Mosquitto::start("");
    let mut random = Random::new(0x00C0_FFEE);
    let proxy = Proxy::start(broker.port(), move || Some(2000 + random.below::<u64>(20_000))).await;
    let mut tested = Tested::up(config(proxy.port())).await;
    let device = Client::connect(&broker).await;
    let sending = async {
        for n in 0..COMMANDS {
            device.publish(&format!("ilink/send/user/{n}/text"), [b'x'; 50]).await;
        }
    };
    let publisher = tested.link.publisher.clone();
    let receiving = async {
        let mut got = HashSet::new();
        let mut last: Option<(u64, u16, String)> = None;
        while got.len() < COMMANDS {
            let command = tested.command().await;
            if let Some((connection, pkid, topic)) = &last {
                // What came twice on one connection under one packet id would be a token that acknowledges another message.
                assert!(*connection != command.connection || *pkid != command.pkid || *topic != command.topic);
            }
            last = Some((command.connection, command.pkid, command.topic.clone()));
            got.insert(command.topic);
            publisher.ack(command.ack.unwrap());
        }
    };
    tokio::join!(sending, receiving);
    assert!(proxy.connections() >= 5, "only {} connections", proxy.connections());
    assert_eq!(tested.sessions_lost(), 0);
}
