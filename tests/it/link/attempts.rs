//! Attempts that fail: how often they are made, and what is said about them.

use std::time::{Duration, Instant};

use ilink2mqtt::local::Publication;
use ilink2mqtt::mqtt::{LinkConfig, Protocol};
use rumqttc::v5::mqttbytes::v5::{ConnAck, ConnAckProperties, ConnectReturnCode, Packet};
use secrecy::SecretString;
use tokio::time::timeout;

use super::{Tested, config};
use crate::support::deserted::Deserted;
use crate::support::mosquitto::Mosquitto;
use crate::support::scripted_broker::{ScriptedBroker, limits};

/// Why the link does not get connected, with the host and port left out.
async fn cause(settings: LinkConfig) -> String {
    let address = format!("127.0.0.1:{}", settings.broker.port().unwrap_or_default());
    let mut tested = Tested::start(settings);
    let state = tested.until(|state| state.generation >= 2).await;
    assert!(!state.connected);
    state.cause.unwrap().replace(&address, "BROKER")
}

#[tokio::test]
async fn causes_are_told_in_plain_words() {
    let with = |port: u16, change: fn(&mut LinkConfig)| {
        let mut settings = config(port);
        change(&mut settings);
        settings
    };
    let deserted = Deserted::new();
    let nobody = cause(config(deserted.port())).await;
    assert_eq!(nobody, "BROKER refuses the connection: is the broker running, is mqtt.broker its address?");

    let name = with(1, |c| c.broker = "mqtt://no-such-host.invalid".parse().unwrap());
    let name = cause(name).await;
    assert!(name.starts_with("the name of no-such-host.invalid:1883 cannot be resolved: check mqtt.broker"), "{name}");

    let mut passwords = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut passwords, b"me:$7$101$AAAA$AAAA\n").unwrap();
    let closed = Mosquitto::start(&format!("allow_anonymous false\npassword_file {}", passwords.path().display()));
    let anonymous = cause(config(closed.port())).await;
    assert_eq!(anonymous, "BROKER does not authorise the connection: it wants mqtt.username and mqtt.password");
    for protocol in [Protocol::V5, Protocol::V311] {
        let mut wrong = with(closed.port(), |c| c.credentials = Some(("me".into(), SecretString::from("wrong"))));
        wrong.protocol = protocol;
        let wrong = cause(wrong).await;
        assert!(wrong.contains("check mqtt.username and mqtt.password") && !wrong.contains("wrong"), "{wrong}");
    }
}

#[tokio::test]
async fn what_a_connack_refuses_is_told_too() {
    let old = ConnectReturnCode::UnsupportedProtocolVersion;
    let no_qos = ConnAckProperties { max_qos: Some(0), ..limits() };
    let no_retain = ConnAckProperties { retain_available: Some(0), ..limits() };
    for (code, properties, expected) in [
        (old, limits(), "set mqtt.protocol = \"3.1.1\""),
        (ConnectReturnCode::ClientIdentifierNotValid, limits(), "rejects the client identifier `ilink2mqtt-414`"),
        (ConnectReturnCode::BadUserNamePassword, limits(), "check mqtt.username"),
        (ConnectReturnCode::ServerBusy, limits(), "unavailable or busy"),
        (ConnectReturnCode::Banned, limits(), "banned there"),
        (ConnectReturnCode::QuotaExceeded, limits(), "quota exceeded; look for the reason in the broker's log"),
        (ConnectReturnCode::Success, no_qos, "QoS 0 only"),
        (ConnectReturnCode::Success, no_retain, "does not support retained messages"),
    ] {
        let broker = ScriptedBroker::bind().await;
        let mut tested = Tested::start(config(broker.port()));
        let mut peer = broker.tcp().await;
        peer.read().await.unwrap();
        peer.send(Packet::ConnAck(ConnAck { session_present: false, code, properties: Some(properties) })).await;
        let state = tested.until(|state| state.generation >= 2).await;
        let cause = state.cause.unwrap();
        assert!(cause.contains(expected), "{cause}");
    }
}

#[tokio::test]
async fn attempts_become_rarer_also_when_each_is_accepted_at_first() {
    let broker = ScriptedBroker::bind().await;
    let mut settings = config(broker.port());
    settings.timing.backoff_min = Duration::from_millis(40);
    settings.timing.backoff_max = Duration::from_mins(1);
    let mut tested = Tested::start(settings);
    let began = Instant::now();
    for _ in 0..7 {
        // A CONNACK, the subscriptions, and then the end: two clients with one client id do this to each other.
        drop(broker.up().await);
    }
    // After 40, 80, 160, 320, 640, 1280 ms, each at most halved by chance; without a back-off it is no time at all.
    assert!(began.elapsed() >= Duration::from_millis(1260), "{:?}", began.elapsed());
    let state = tested.until(|state| !state.connected).await;
    let cause = state.cause.unwrap();
    assert!(cause.contains("another client uses the client id `ilink2mqtt-414`"), "{cause}");
}

#[tokio::test]
async fn two_clients_with_one_client_id_do_not_storm_the_broker() {
    let broker = Mosquitto::start("");
    let settings = || {
        let mut settings = config(broker.port());
        settings.timing.backoff_min = Duration::from_millis(40);
        settings.timing.backoff_max = Duration::from_mins(1);
        settings
    };
    let (mut one, mut two) = (Tested::start(settings()), Tested::start(settings()));
    // What is measured is what happens within this time, and it should be little.
    let storm = async { tokio::join!(one.until(|s| s.generation > 10), two.until(|s| s.generation > 10)) };
    assert!(timeout(Duration::from_secs(3), storm).await.is_err(), "more than 10 attempts each in 3 s");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_broker_that_is_away() {
    let deserted = Deserted::new();
    let mut settings = config(deserted.port());
    settings.timing.stop_limit = Duration::from_mins(5);
    // A stop has its deadline.
    Tested::start(settings).stop().await;

    // Nor long for one that answers nothing.
    let broker = ScriptedBroker::bind().await;
    let mut settings = config(broker.port());
    settings.timing.stop_limit = Duration::from_millis(200);
    let mut tested = Tested::start(settings);
    let peer = broker.up().await;
    tested.until(|state| state.connected).await;
    tested.stop().await;
    drop(peer);
}

#[tokio::test]
async fn where_offline_has_no_place_the_will_says_it() {
    const DISCONNECT: [u8; 2] = [0xE0, 0];
    for (receive_max, disconnects) in [(1, false), (2, true)] {
        let broker = ScriptedBroker::bind().await;
        let mut settings = config(broker.port());
        settings.timing.stop_limit = Duration::from_millis(500);
        let tested = Tested::start(settings);
        let properties = ConnAckProperties { receive_max: Some(receive_max), ..limits() };
        let (mut peer, _) = broker.accept(false, properties).await;
        peer.up().await;
        let _waiting = tested.link.publisher.publish(Publication::raw("a".to_owned(), "x")).await;
        // It takes the only place, because it is not acknowledged.
        assert!(peer.publish().await.is_some());
        let ((), rest) = tokio::join!(tested.stop(), peer.rest());
        assert_eq!(rest.ends_with(&DISCONNECT), disconnects, "{rest:?}");
    }
}
