//! Results on their way from the spool to the broker.

use std::sync::Arc;
use std::time::Duration;

use ilink2mqtt::delivery::lanes::Patience;
use ilink2mqtt::delivery::refused::{BusyBoard, SetAside};
use ilink2mqtt::local::{CommandResult, Publication};
use ilink2mqtt::os::clock::Stamp;
use ilink2mqtt::outbound::record::{Record, ReplyTo, StoredResult};
use ilink2mqtt::outbound::results::Results;
use ilink2mqtt::outbound::shares::Shares;
use ilink2mqtt::store::sqlite::Spool;
use ilink2mqtt::store::{Append as _, Limits, Queue};
use rumqttc::v5::mqttbytes::v5::PubAckReason;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::{Tested, config};
use crate::support::deserted::Deserted;
use crate::support::scripted_broker::ScriptedBroker;

#[tokio::test]
async fn are_published_in_the_order_in_which_they_are_ready() {
    const COUNT: u32 = 600;
    let away = Deserted::new();
    let settings = config(away.port());
    let base = settings.base.clone();
    let tested = Tested::start(settings);
    // While the broker is away the link's queue is full, and results wait for room in it: all of them wake at once.
    let fill = (0..100).map(|_| tested.link.publisher.publish(Publication::raw("fill".to_owned(), "x")));
    let _fill = futures_util::future::join_all(fill).await;
    let dir = TempDir::new().unwrap();
    let limits = Limits { inbound: 1 << 30, outbound: 1 << 30, set_aside: 1 << 20 };
    let (spool, _) = Spool::open(dir.path(), limits).unwrap();
    let reply_to = ReplyTo {
        topic: "ilink/send/user/1/text".to_owned(),
        response_topic: Some("ilink/reply/x".to_owned()),
        correlation_data: None,
    };
    // All at once, more than the link has room for.
    let (ready, numbers) = mpsc::unbounded_channel();
    for number in 0..COUNT {
        let json = CommandResult::expired(Ulid::nil(), None, None, "", number, 0).to_json();
        let row = Record::Result(StoredResult { at: Stamp::now(), reply_to: reply_to.clone(), json });
        ready.send(spool.append(Queue::Outbound, row.encode().into(), None).await.unwrap()).unwrap();
    }
    let set_aside = SetAside::new(spool.clone(), Arc::default());
    let busy = BusyBoard::new("results", Arc::default());
    let results = Results {
        base,
        spool: spool.clone(),
        publisher: tested.link.publisher.clone(),
        set_aside,
        busy,
        patience: Patience::default(),
        shares: Arc::new(Shares::of(1000, 1_000_000)),
    };
    let running = tokio::spawn(results.run(numbers, CancellationToken::new()));
    // Time for some to wait; how many they are does not matter.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let broker = ScriptedBroker::come(away);
    let mut peer = broker.up().await;
    let mut published = Vec::new();
    while published.len() < COUNT as usize {
        let publish = peer.publish().await.expect("the link stays connected");
        peer.ack(publish.pkid, PubAckReason::Success).await;
        if !publish.topic.starts_with(b"ilink/result/") {
            continue;
        }
        let result: Value = serde_json::from_slice(&publish.payload).unwrap();
        published.push(result["attempts"].as_u64().unwrap());
    }
    assert!(published.iter().copied().eq(0..u64::from(COUNT)), "{published:?}");
    running.abort();
}
