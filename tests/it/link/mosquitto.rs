//! The link and a real Mosquitto: what passes, its authorisation, its session, its last words.

use std::time::Duration;

use ilink2mqtt::local::Publication;
use ilink2mqtt::mqtt::{Delivery, LinkConfig, Protocol, Subscriptions};
use ilink2mqtt::os::clock::boot_now;

use super::{Tested, acked, config, refused};
use crate::support::client::{Client, Out};
use crate::support::deserted::Deserted;
use crate::support::mosquitto::Mosquitto;

#[tokio::test]
async fn publications_arrive_with_their_properties_and_commands_with_theirs() {
    let broker = Mosquitto::start("");
    let device = Client::connect(&broker).await;
    device.subscribe("ilink/recv/#").await;
    let mut tested = Tested::up(config(broker.port())).await;

    let publication = Publication {
        user_properties: [("id", "01A".to_owned()), ("kind", "text".to_owned())].into(),
        correlation_data: Some("c".into()),
        deadline: Some(boot_now() + Duration::from_secs(100)),
        ..Publication::raw("ilink/recv/user/413/text".to_owned(), "开灯")
    };
    assert_eq!(tested.send(publication).await, Delivery::Acked { no_subscribers: false });
    let message = device.expect("ilink/recv/user/413/text").await;
    assert_eq!(message.text(), "开灯");
    assert_eq!((message.user("id"), message.user("kind")), (Some("01A"), Some("text")));
    let properties = message.properties;
    assert_eq!(properties.content_type.as_deref(), Some("text/plain; charset=utf-8"));
    assert_eq!(properties.payload_format_indicator, Some(1));
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"c"[..]));
    assert!((90..=100).contains(&properties.message_expiry_interval.unwrap()));
    assert_eq!(tested.publish("ilink/nobody/listens", "").await, Delivery::Acked { no_subscribers: true });

    let out = Out::new("ilink/call/ham_group/list", "{}").respond_to("ilink/reply/1", b"42").expires_in(60);
    device.send(out.retained()).await;
    let command = tested.command().await;
    assert_eq!((command.topic.as_str(), &command.payload[..]), ("ilink/call/ham_group/list", &b"{}"[..]));
    assert_eq!((command.qos, command.dup), (1, false));
    assert!(command.retain, "MQTT 5 subscriptions keep the flag of what was published as retained");
    assert_eq!(command.response_topic.as_deref(), Some("ilink/reply/1"));
    assert_eq!(command.correlation_data.as_deref(), Some(&b"42"[..]));
    assert!(command.message_expiry.is_some_and(|left| left <= 60));
    tested.link.publisher.ack(command.ack.unwrap());
    device.send(Out::new("ilink/send/user/413/text", "x").qos0()).await;
    let command = tested.command().await;
    assert!(command.ack.is_none() && command.qos == 0 && command.pkid == 0);
    assert_eq!(tested.connects(), 1);
    tested.stop().await;
}

#[tokio::test]
async fn mqtt_3_1_1_serves_as_well_without_properties() {
    let broker = Mosquitto::start("");
    let device = Client::connect(&broker).await;
    device.subscribe("ilink/recv/#").await;
    let mut tested = Tested::up(mqtt_config(&broker, Protocol::V311)).await;
    assert!(acked(&tested.publish("ilink/recv/group/1/2", "x").await));
    assert_eq!(device.expect("ilink/recv/group/1/2").await.text(), "x");
    device.publish("ilink/send/group/1", "y").await;
    let command = tested.command().await;
    assert_eq!(&command.payload[..], b"y");
    tested.link.publisher.ack(command.ack.unwrap());
    let large = vec![b'x'; 100_000];
    assert!(acked(&tested.publish("ilink/recv/group/1/2", &large).await));
    device.publish("ilink/send/group/1", &large).await;
    assert_eq!(tested.command().await.payload.len(), large.len());
    assert_eq!(tested.connects(), 1);
}

fn mqtt_config(broker: &Mosquitto, protocol: Protocol) -> ilink2mqtt::mqtt::LinkConfig {
    ilink2mqtt::mqtt::LinkConfig { protocol, ..config(broker.port()) }
}

/// An ACL file for anonymous clients; everything that is not allowed is denied.
fn with_acl(lines: &str, more: &str) -> (Mosquitto, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    let broker = Mosquitto::start(&format!("acl_file {}\n{more}", file.path().display()));
    (broker, file)
}

#[tokio::test]
async fn commands_that_the_acl_drops_silently_are_found_out() {
    let (broker, _file) = with_acl("topic write ilink/#\ntopic read ilink/bridge/#\n", "");
    let mut settings = config(broker.port());
    settings.timing.self_test_limit = Duration::from_millis(200);
    let mut tested = Tested::start(settings);
    let state = tested.until(|state| state.subscriptions == Subscriptions::SilentlyDenied).await;
    assert!(state.connected);
    assert!(acked(&tested.publish("ilink/recv/user/1/text", "x").await), "the other direction works on");
}

#[tokio::test]
async fn a_probe_that_the_acl_refuses_verifies_nothing() {
    let (broker, _file) = with_acl("topic read ilink/#\ntopic write ilink/bridge/#\n", "max_queued_messages 1000");
    let mut tested = Tested::start(config(broker.port()));
    let state = tested.until(|state| matches!(state.subscriptions, Subscriptions::Unverified(_))).await;
    assert!(format!("{:?}", state.subscriptions).contains("not authorized"), "{state:?}");
    let refusal = refused(tested.publish("ilink/recv/user/1/text", "x").await);
    assert_eq!(refusal.remedy, "the broker's ACL needs: topic write ilink/recv/#");
    assert_eq!(tested.connects(), 1);
}

/// With this setting Mosquitto 2.0.11 closes the connection after each PUBACK that refuses.
#[tokio::test]
async fn a_broker_that_closes_after_a_refusal_costs_no_innocent_message() {
    let (broker, _file) = with_acl("topic read #\ntopic write ilink/recv/user/#\n", "max_queued_messages 0");
    let watcher = Client::connect(&broker).await;
    watcher.subscribe("ilink/recv/#").await;
    let tested = Tested::start(config(broker.port()));
    let mut completions = Vec::new();
    for n in 0..100 {
        let kind = if n % 25 == 7 { "group" } else { "user" };
        let publication = Publication::raw(format!("ilink/recv/{kind}/{n}"), "x");
        completions.push((n, tested.link.publisher.publish(publication).await));
    }
    for (n, completion) in completions {
        let delivery = completion.await;
        if n % 25 == 7 {
            assert_eq!(refused(delivery).remedy, "the broker's ACL needs: topic write ilink/recv/#");
        } else {
            assert!(acked(&delivery), "{n}: {delivery:?}");
            watcher.expect(&format!("ilink/recv/user/{n}")).await;
        }
    }
}

#[tokio::test]
async fn what_the_broker_cannot_take_is_refused_without_losing_the_connection() {
    let broker = Mosquitto::start("max_packet_size 2000");
    let mut settings = config(broker.port());
    settings.max_packet = 2000;
    let tested = Tested::up(settings).await;
    let refusal = refused(tested.publish("ilink/recv/a", vec![0; 2000]).await);
    assert!(refusal.reason.contains("the broker takes 2000"), "{refusal:?}");
    for topic in ["a/".repeat(201), "a/+".to_owned(), "a\u{7}".to_owned(), String::new()] {
        refused(tested.publish(&topic, "x").await);
    }
    for topic in ["a/".repeat(200), "a//".to_owned(), "开/🦀".to_owned()] {
        assert!(acked(&tested.publish(&topic, "x").await), "{topic}");
    }
    let overhead = 1 + 2 + 2 + "ilink/recv/a".len() + 2 + 1 + 1 + 2 + "application/octet-stream".len() + 2;
    let fits = vec![0xff; 2000 - overhead];
    assert!(acked(&tested.publish("ilink/recv/a", fits).await));
    assert_eq!(tested.connects(), 1);
}

#[tokio::test]
async fn a_message_over_the_brokers_limit_is_refused_alone() {
    let broker = Mosquitto::start("message_size_limit 2000");
    let tested = Tested::up(config(broker.port())).await;
    let watcher = Client::connect(&broker).await;
    watcher.subscribe("ilink/recv/#").await;
    for n in 0..6 {
        let refusal = refused(tested.publish("ilink/recv/user/1/text", vec![b'x'; 3000]).await);
        assert!(refusal.reason.contains("packet too large"), "{refusal:?}");
        assert!(refusal.remedy.contains("message_size_limit"), "{refusal:?}");
        assert!(acked(&tested.publish(&format!("ilink/recv/user/{n}/text"), vec![b'x'; 2000]).await));
        watcher.expect(&format!("ilink/recv/user/{n}/text")).await;
    }
    assert_eq!(tested.connects(), 1);
}

#[tokio::test]
async fn another_account_on_the_base_topic_is_left_alone() {
    let broker = Mosquitto::start("");
    let other = Client::connect(&broker).await;
    other.send(Out::new("ilink/bridge/info", r#"{"uid":"413"}"#).retained()).await;
    other.send(Out::new("ilink/bridge/state", "online").retained()).await;
    let watcher = Client::connect(&broker).await;
    watcher.subscribe("ilink/#").await;

    let mut tested = Tested::start(config(broker.port()));
    let state = tested.until(|state| state.conflict.is_some()).await;
    assert_eq!(state.conflict.as_deref(), Some("413"));
    assert!(!state.connected && state.cause.unwrap().contains("uid 413"));
    // It looks again, several times: still the other's.
    tested.until(|state| state.generation >= 3).await;
    other.publish("ilink/send/user/1/text", "not for us").await;
    other.send(Out::new("ilink/bridge/state", "offline").retained()).await;
    tested.until(|state| state.subscriptions == Subscriptions::Granted && state.conflict.is_none()).await;

    other.publish("ilink/marker", "").await;
    watcher.expect("ilink/marker").await;
    let states: Vec<String> =
        watcher.all(|m| m.topic == "ilink/bridge/state").iter().map(|m| m.text().to_owned()).collect();
    assert_eq!(states, ["online", "offline", "online"], "the look neither published nor fired the will");
    assert!(tested.waiting().is_none());
}

#[tokio::test]
async fn the_last_word_is_offline_at_a_clean_stop_and_at_a_kill() {
    let broker = Mosquitto::start("");
    let watcher = Client::connect(&broker).await;
    watcher.subscribe("ilink/bridge/state").await;
    let tested = Tested::up(config(broker.port())).await;
    assert_eq!(watcher.expect("ilink/bridge/state").await.text(), "online");
    let pending = tested.link.publisher.clone();
    tested.stop().await;
    assert_eq!(watcher.expect("ilink/bridge/state").await.text(), "offline");
    assert_eq!(pending.publish(Publication::raw("a".to_owned(), "x")).await.await, Delivery::Closed);

    let tested = Tested::up(config(broker.port())).await;
    assert_eq!(watcher.expect("ilink/bridge/state").await.text(), "online");
    tested.kill().await;
    assert_eq!(watcher.expect("ilink/bridge/state").await.text(), "offline");
    assert_eq!(watcher.all(|m| m.topic == "ilink/bridge/state").len(), 4);
}

#[tokio::test]
async fn commands_wait_in_the_session_of_an_absent_bridge() {
    let mut broker = Mosquitto::start("");
    let device = Client::connect(&broker).await;
    let mut tested = Tested::up(config(broker.port())).await;
    device.publish("ilink/send/user/1/text", "first").await;
    let first = tested.command().await;
    assert!(!first.session_present);
    tested.stop().await;

    device.publish("ilink/send/user/1/text", "second").await;
    let mut tested = Tested::up(ilink2mqtt::mqtt::LinkConfig { expect_session: true, ..config(broker.port()) }).await;
    let again = tested.command().await;
    assert_eq!((&again.payload[..], again.dup, again.session_present), (&b"first"[..], true, true));
    assert_eq!(again.pkid, first.pkid);
    tested.link.publisher.ack(again.ack.unwrap());
    let second = tested.command().await;
    assert_eq!((&second.payload[..], second.dup), (&b"second"[..], false));
    tested.link.publisher.ack(second.ack.unwrap());
    assert_eq!(tested.sessions_lost(), 0);

    // A broker that forgot: killed before it saved anything.
    let before = tested.link.state.borrow().generation;
    broker.kill();
    std::fs::remove_file(broker.dir().join("mosquitto.db")).ok();
    broker.restart();
    let state = tested.until(|state| state.generation > before && state.subscriptions == Subscriptions::Granted).await;
    assert_eq!(state.session_began, state.generation);
    assert_eq!(tested.sessions_lost(), 1);
}

#[tokio::test]
async fn standing_state_is_the_newest_and_comes_again_with_every_connection() {
    let mut broker = Mosquitto::start("persistence false");
    let tested = &mut Tested::start(config(broker.port()));
    let health = |n: u32| Publication::raw("ilink/bridge/health".to_owned(), n.to_string()).retained();
    for n in 0..1000 {
        tested.link.publisher.set_state(health(n));
    }
    tested.until(|state| state.subscriptions == Subscriptions::Granted).await;
    let watcher = Client::connect(&broker).await;
    watcher.subscribe("ilink/bridge/#").await;
    watcher.expect_text("ilink/bridge/health", "999").await;
    tested.link.publisher.set_state(health(1000));
    watcher.expect_text("ilink/bridge/health", "1000").await;
    drop(watcher);
    broker.kill();
    broker.restart();
    let watcher = Client::connect(&broker).await;
    watcher.subscribe("ilink/bridge/#").await;
    watcher.expect_text("ilink/bridge/health", "1000").await;
    watcher.expect_text("ilink/bridge/state", "online").await;
}

#[tokio::test]
async fn the_addresses_of_a_broker_are_tried_in_turn() {
    let nobody = Deserted::new();
    let (mut one, other) = (Mosquitto::start(""), Mosquitto::start(""));
    let brokers = [one.url(), other.url()].map(|url| url.parse().unwrap());
    let tested = Tested::up(LinkConfig { other_brokers: brokers.to_vec(), ..config(nobody.port()) }).await;
    assert_eq!(tested.publish("a", "1").await, Delivery::Acked { no_subscribers: true });
    let device = Client::connect(&other).await;
    device.subscribe("a").await;
    one.kill();
    // The one that is left, whoever's turn it was.
    assert_eq!(tested.publish("a", "2").await, Delivery::Acked { no_subscribers: false });
    assert_eq!(device.expect("a").await.text(), "2");
}
