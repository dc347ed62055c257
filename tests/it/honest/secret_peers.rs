//! Peers that fail and repeat what they were told: brokers, proxies, services that cannot be reached.

use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectReturnCode, Disconnect, DisconnectProperties, DisconnectReasonCode, Login, Packet,
};

use super::canary::{self, PASSWORD, PATH, PROXY_PASSWORD, SECRETKEY};
use crate::support::bridge::{Bridge, base64};
use crate::support::deserted::Deserted;
use crate::support::mosquitto::Mosquitto;
use crate::support::scripted_broker::{ScriptedBroker, limits};
use crate::support::scripted_cloud::{Behaviour, ScriptedCloud};
use crate::support::sim::Sim;

fn bridge(broker: &str, api: &str) -> Bridge {
    // The broker of its own is never asked.
    let any = Mosquitto::start("");
    Bridge::new(&any, &Sim::absent(&[]))
        .with("mqtt.broker", broker)
        .with("mqtt.username", "bridge")
        .with("mqtt.password", PASSWORD)
        .with("ilink.api", api)
        .with("ilink.secretkey", SECRETKEY)
        .with("callback.path_secret", PATH)
        .with("log.level", "trace")
}

#[tokio::test]
async fn a_broker_that_repeats_the_password() {
    let broker = ScriptedBroker::bind().await;
    let nobody = Deserted::new();
    let mut bridge = bridge(&format!("mqtt://127.0.0.1:{}", broker.port()), &nobody.url("http"));
    bridge.spawn();
    let said = || Some(format!("the password {PASSWORD} is wrong, {}", base64(PASSWORD.as_bytes())));
    let refusal = |code| {
        let properties = limits();
        Packet::ConnAck(ConnAck {
            session_present: false,
            code,
            properties: Some(rumqttc::v5::mqttbytes::v5::ConnAckProperties { reason_string: said(), ..properties }),
        })
    };
    let farewell = |reason_code| {
        let properties = DisconnectProperties {
            session_expiry_interval: None,
            reason_string: said(),
            user_properties: vec![("password".to_owned(), PASSWORD.to_owned())],
            server_reference: Some(PASSWORD.to_owned()),
        };
        Packet::Disconnect(Disconnect { reason_code, properties: Some(properties) })
    };
    for (packet, told) in [
        (refusal(ConnectReturnCode::BadUserNamePassword), "check mqtt.username and mqtt.password"),
        (refusal(ConnectReturnCode::Banned), "this client is banned there"),
    ] {
        let mut peer = broker.tcp().await;
        peer.read().await.expect("a CONNECT");
        peer.send(packet).await;
        bridge.logged(told).await;
    }
    for (packet, told) in [
        (farewell(DisconnectReasonCode::NotAuthorized), "it no longer authorises us"),
        (farewell(DisconnectReasonCode::MessageRateTooHigh), "disconnected us: message rate too high"),
        (
            // What only a client sends, our own CONNECT for one: libraries log packets that they do not expect.
            Packet::Connect(
                Connect { keep_alive: 5, client_id: PASSWORD.to_owned(), clean_start: true, properties: None },
                None,
                Some(Login { username: "bridge".to_owned(), password: PASSWORD.to_owned() }),
            ),
            "broke the MQTT protocol",
        ),
    ] {
        let mut peer = broker.accept(false, limits()).await.0;
        peer.send(packet).await;
        bridge.logged(told).await;
    }
    let ready = bridge.admin("readyz").await;
    canary::none("readiness", &ready.body);
    canary::none("status", &bridge.verb(&["status"]).await.text);
    bridge.kill();
    canary::none("the log", &bridge.log());
}

#[tokio::test]
async fn services_and_proxies_that_cannot_be_reached() {
    let refusing = ScriptedCloud::start_with(|seen| {
        let said = format!("{} {} {}", seen.line, seen.headers, seen.body);
        Behaviour::response("407 Proxy Authentication Required", &format!("X-Said: {PROXY_PASSWORD}\r\n"), said)
    })
    .await;
    let with_user = |url: &str| url.replace("://", &format!("://canary:{PROXY_PASSWORD}@"));
    let proxy = with_user(refusing.api.as_str());
    let nobody = Deserted::new();
    let gone = with_user(&nobody.url("http"));
    let unknown = format!("http://canary:{PROXY_PASSWORD}@does-not-exist.invalid:3128");
    for (api, proxy, says) in [
        (nobody.url("http"), None, "refuses connections: is ilink.api right"),
        ("http://does-not-exist.invalid".to_owned(), None, "cannot be resolved (DNS): check ilink.api"),
        ("http://api.example".to_owned(), Some(&proxy), "ilink.proxy wants a user and a password"),
        ("https://api.example".to_owned(), Some(&proxy), "does not connect to api.example:443"),
        ("http://api.example".to_owned(), Some(&gone), "refuses connections: is ilink.proxy right"),
        ("http://api.example".to_owned(), Some(&unknown), "cannot be resolved (DNS): check ilink.proxy"),
    ] {
        let mut bridge = bridge(&nobody.url("mqtt"), &api);
        if let Some(proxy) = proxy {
            bridge = bridge.with("ilink.proxy", proxy);
        }
        for verb in [&["query"][..], &["register"], &["unregister"], &["check"]] {
            let done = bridge.verb(verb).await;
            if verb != ["check"] {
                assert_eq!(done.code, Some(69), "{api} {proxy:?} {verb:?}: {done:?}");
                assert!(done.text.contains(says), "{api} {proxy:?}: {}", done.text);
            }
            canary::no_secret("a verb", &done.text);
            canary::none("a verb", &done.text.replace("canary:********", ""));
        }
        bridge.spawn();
        bridge.logged(says).await;
        canary::none("status", &bridge.verb(&["status"]).await.text);
        bridge.kill();
        canary::none("the log", &bridge.log());
    }
}
