//! Publications that a broker refuses, for now or for good, or that outlive their use.

use std::time::Duration;

use ilink2mqtt::local::Publication;
use ilink2mqtt::mqtt::{Delivery, Handling, NotNow};
use ilink2mqtt::os::clock::boot_now;
use rumqttc::v5::mqttbytes::v5::{ConnAckProperties, PubAckReason};

use super::{Tested, acked, config, refused};
use crate::support::deserted::Deserted;
use crate::support::scripted_broker::{ScriptedBroker, limits};

async fn publish(tested: &Tested, topic: &str) -> ilink2mqtt::mqtt::Completion {
    tested.link.publisher.publish(Publication::raw(topic.to_owned(), "x")).await
}

#[tokio::test]
async fn a_refusal_for_now_is_the_callers_to_try_again_and_holds_nothing_else_up() {
    let broker = ScriptedBroker::bind().await;
    let tested = Tested::start(config(broker.port()));
    let (mut peer, _) = broker.accept(false, ConnAckProperties { receive_max: Some(2), ..limits() }).await;
    peer.up().await;
    let full = publish(&tested, "full").await;
    let after = publish(&tested, "after").await;
    let odd = publish(&tested, "odd").await;
    let serving = tokio::spawn(async move {
        let mut topics = Vec::new();
        while let Some(publish) = peer.publish().await {
            let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
            let reason = match topic.as_str() {
                "full" => PubAckReason::QuotaExceeded,
                "odd" => PubAckReason::ImplementationSpecificError,
                _ => PubAckReason::Success,
            };
            topics.push(topic);
            peer.ack(publish.pkid, reason).await;
        }
        topics
    });
    let busy = (full, "busy: quota exceeded", NotNow::Busy);
    for (completion, says, how) in [busy, (odd, "implementation specific error", NotNow::Refused)] {
        match completion.await {
            Delivery::ForNow(why) => assert!(why.cause.contains(says) && why.how == how, "{why:?}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(acked(&after.await));
    assert_eq!(tested.connects(), 1);
    tested.stop().await;
    assert_eq!(serving.await.unwrap(), ["full", "after", "odd"], "the link tries none of them again");
}

#[tokio::test]
async fn what_was_withdrawn_before_it_was_sent_is_not_sent() {
    let away = Deserted::new();
    let tested = Tested::start(config(away.port()));
    let (kept, wanted_back) = (Handling::withdrawable(), Handling::withdrawable());
    let mut completions = Vec::new();
    for (topic, handling) in [("a", &kept), ("b", &wanted_back), ("c", &kept)] {
        let publication = Publication::raw(topic.to_owned(), "x");
        completions.push(tested.link.publisher.publish_as(publication, handling.clone()).await);
    }
    wanted_back.withdraw();
    let mut peer = ScriptedBroker::come(away).up().await;
    let serving = tokio::spawn(async move {
        let mut topics = Vec::new();
        while let Some(publish) = peer.publish().await {
            topics.push(publish.topic.clone());
            peer.ack(publish.pkid, PubAckReason::Success).await;
        }
        topics
    });
    let fates = futures_util::future::join_all(completions).await;
    assert!(acked(&fates[0]) && acked(&fates[2]));
    assert_eq!(fates[1], Delivery::Withdrawn);
    tested.stop().await;
    assert_eq!(serving.await.unwrap(), ["a", "c"]);
}

#[tokio::test]
async fn refusals_for_good_name_the_remedy_and_hold_nothing_up() {
    let broker = ScriptedBroker::bind().await;
    let tested = Tested::start(config(broker.port()));
    let mut peer = broker.up().await;
    let serving = tokio::spawn(async move {
        while let Some(publish) = peer.publish().await {
            let reason = match &publish.topic[..] {
                b"ilink/recv/denied" => PubAckReason::NotAuthorized,
                b"ilink/recv/name" => PubAckReason::TopicNameInvalid,
                b"ilink/recv/format" => PubAckReason::PayloadFormatInvalid,
                _ => PubAckReason::Success,
            };
            peer.ack(publish.pkid, reason).await;
        }
    });
    let denied = refused(tested.publish("ilink/recv/denied", "x").await);
    assert_eq!(denied.remedy, "the broker's ACL needs: topic write ilink/recv/#");
    assert!(refused(tested.publish("ilink/recv/name", "x").await).reason.contains("topic name invalid"));
    assert!(refused(tested.publish("ilink/recv/format", "x").await).reason.contains("payload format invalid"));
    assert!(acked(&tested.publish("ilink/recv/fine", "x").await));
    tested.stop().await;
    serving.await.unwrap();
}

#[tokio::test]
async fn a_message_that_connections_end_at_is_found_and_handed_back() {
    let broker = ScriptedBroker::bind().await;
    let tested = Tested::start(config(broker.port()));
    let mut completions = Vec::new();
    for n in 0..40 {
        let topic = if n == 20 { "poison".to_owned() } else { format!("a/{n}") };
        completions.push(publish(&tested, &topic).await);
    }
    let serving = tokio::spawn(async move {
        let mut connections = 0;
        'connections: loop {
            let mut peer = broker.up().await;
            connections += 1;
            // Reads ahead before it acknowledges, as real brokers do: the innocent are in flight with the guilty.
            while let Some(publish) = peer.publish().await {
                if &publish.topic[..] == b"poison" {
                    continue 'connections;
                }
                if &publish.topic[..] == b"last" {
                    peer.ack(publish.pkid, PubAckReason::Success).await;
                    return connections;
                }
                peer.ack(publish.pkid, PubAckReason::Success).await;
            }
        }
    });
    for (n, completion) in completions.into_iter().enumerate() {
        let delivery = completion.await;
        if n == 20 {
            let Delivery::ForNow(why) = delivery else { panic!("{delivery:?}") };
            assert!(why.how == NotNow::Fatal && why.cause.contains("ends the connection"), "{why:?}");
        } else {
            assert!(acked(&delivery), "{n}: {delivery:?}");
        }
    }
    assert!(acked(&tested.publish("last", "x").await));
    assert_eq!(serving.await.unwrap(), 5, "three losses in company, one alone, and then peace");
}

#[tokio::test]
async fn a_message_is_not_sent_again_after_its_deadline() {
    let broker = ScriptedBroker::bind().await;
    let tested = Tested::start(config(broker.port()));
    let mut peer = broker.up().await;
    let deadline = boot_now() + Duration::from_secs(8);
    let command = Publication { deadline: Some(deadline), ..Publication::raw("command".to_owned(), "ON") };
    let completion = tested.link.publisher.publish(command.clone()).await;
    let sent = peer.publish().await.unwrap();
    assert!(matches!(sent.properties.unwrap().message_expiry_interval, Some(1..=8)));
    // Un-acknowledged, and the connection is lost; the next one comes after the deadline.
    drop(peer);
    let connecting = broker.tcp().await;
    tokio::time::sleep(deadline.saturating_sub(boot_now())).await;
    assert!(boot_now() >= deadline);
    drop(connecting);
    let mut peer = broker.up().await;
    assert_eq!(completion.await, Delivery::Expired);
    assert_eq!(tested.send(command).await, Delivery::Expired);
    let after = publish(&tested, "after").await;
    let next = peer.publish().await.unwrap();
    assert_eq!(&next.topic[..], b"after");
    peer.ack(next.pkid, PubAckReason::Success).await;
    assert!(acked(&after.await));
}

#[tokio::test]
async fn pubacks_may_come_in_any_order() {
    const MESSAGES: usize = 500;
    let broker = ScriptedBroker::bind().await;
    let tested = Tested::start(config(broker.port()));
    let mut peer = broker.up().await;
    let publisher = tested.link.publisher.clone();
    let publishing = tokio::spawn(async move {
        for completion in futures_util::future::join_all(
            (0..MESSAGES).map(|_| async { publisher.publish(Publication::raw("a".to_owned(), "x")).await.await }),
        )
        .await
        {
            assert!(acked(&completion));
        }
    });
    // The first waits until all the others are through, and these are acknowledged in pairs, the later one first.
    let first = peer.publish().await.unwrap();
    let mut taken = 1;
    while taken < MESSAGES {
        let one = peer.publish().await.unwrap();
        taken += 1;
        if taken < MESSAGES {
            let two = peer.publish().await.unwrap();
            taken += 1;
            peer.ack(two.pkid, PubAckReason::Success).await;
        }
        peer.ack(one.pkid, PubAckReason::Success).await;
    }
    peer.ack(first.pkid, PubAckReason::Success).await;
    tokio::time::timeout(crate::support::DEADLINE, publishing).await.expect("all are acknowledged").unwrap();
    assert_eq!(tested.connects(), 1);
}

#[tokio::test]
async fn publishers_wait_for_room_and_end_with_the_link() {
    let deserted = Deserted::new();
    let tested = Tested::start(config(deserted.port()));
    let publisher = tested.link.publisher.clone();
    let (counting, mut counted) = tokio::sync::watch::channel(0_usize);
    let producing = tokio::spawn(async move {
        let mut completions = Vec::new();
        for _ in 0..1000 {
            completions.push(publisher.publish(Publication::raw("a".to_owned(), "x")).await);
            counting.send_replace(completions.len());
        }
        completions
    });
    // Without a broker the queue fills, and then the producer waits.
    counted.wait_for(|count| *count == 100).await.unwrap();
    tested.stop().await;
    for completion in producing.await.unwrap() {
        assert_eq!(completion.await, Delivery::Closed);
    }
    assert_eq!(*counted.borrow(), 1000);
}
