//! Members that stop: together, in the middle of a hand-over, without etcd, or before they have begun.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::{Members, leads};
use crate::support::bridge::Bridge;
use crate::support::client::{Client, Out};
use crate::support::deserted::Deserted;
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::mosquitto::Mosquitto;
use crate::support::sim::Sim;

#[tokio::test]
async fn when_all_stop_together_the_last_one_says_offline() {
    // Whoever is told first: the one that leads, or the one that it takes for its successor.
    for first in [0, 1] {
        let mut members = Members::ready(2).await;
        members.client.expect_text("ilink/bridge/state", "online").await;
        for member in [first, 1 - first] {
            members.bridges[member].signal(Signal::TERM);
        }
        for bridge in &mut members.bridges {
            assert_eq!(bridge.process().ended().await.code(), Some(0));
        }
        members.client.settle().await;
        let states = members.client.all(|message| message.topic == "ilink/bridge/state");
        let last = states.last().expect("it was online");
        assert!(last.text() == "offline" && last.retain, "{states:?}");
        // Nor does any of them stand there as the leader.
        let told = members.client.all(|message| message.topic == "ilink/bridge/cluster");
        let last = told.last().expect("somebody led");
        let nobody = json!({"leader": null, "members": [], "etcd": {"healthy": 0, "of": 1}});
        assert!(last.json() == nobody && last.retain, "{told:?}");
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_the_end_of_a_hand_over() {
    let mut members = Members::ready(2).await;
    members.sim.pause();
    members.client.publish("ilink/send/user/413/text", "waits").await;
    members.bridges[0].waiting("outbound", 1).await;
    let leader = &members.bridges[0];
    let (asked, ()) = tokio::join!(leader.verb(&["step-down"]), async {
        leader.logged("this member hands the leadership over").await;
        leader.signal(Signal::TERM);
    });
    assert_eq!(asked.code, Some(69), "{asked:?}");
    assert!(asked.text.contains("stopping"), "{asked:?}");
    assert_eq!(members.bridges[0].process().ended().await.code(), Some(0));
    leads(&members.bridges[1]).await;
    members.sim.resume();
    let result = members.client.expect_json("ilink/result/send/user/413/text", |_| true).await;
    assert_eq!(result["name"], "ok", "{result}");
}

#[tokio::test]
async fn a_stop_comes_to_its_end_without_etcd() {
    let (etcd, mut broker, sim) = (Etcd::start().await, Mosquitto::start(""), Sim::start(&[]).await);
    let mut bridge = Bridge::new(&broker, &sim)
        .with_toml("cluster.endpoints", &json!([etcd.url()]).to_string())
        // The leadership outlasts the test.
        .with("cluster.takeover", "60s");
    bridge.start().await;
    leads(&bridge).await;
    etcd.pause();
    // The broker has forgotten the session, and that can be written down nowhere.
    broker.kill();
    broker.restart();
    let client = Client::connect(&broker).await;
    client.send(Out::new("ilink/send/user/413/text", "waits").retained()).await;
    let sent = "Sending PUBLISH to ilink2mqtt-414 (d0, q1, r1";
    eventually("the message to be sent", async || broker.log().contains(sent).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(bridge.stop().await.code(), Some(0), "{}", bridge.log());
}

#[tokio::test]
async fn a_wrong_file_is_found_at_the_start_and_not_when_a_member_is_to_lead() {
    let (nobody, sim) = (Deserted::new(), Sim::absent(&[]));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, b"no certificate\n").unwrap();
    let member = |key: &str, broker: &str, api: &str| {
        Bridge::at(broker, &sim)
            .with_toml("cluster.endpoints", &json!([format!("http://127.0.0.1:{}", nobody.port())]).to_string())
            .with("ilink.api", api)
            .with(key, file.path().to_str().unwrap())
    };
    for (key, broker, api) in [
        ("mqtt.tls.ca", "mqtts://127.0.0.1:1", "http://127.0.0.1:1"),
        ("ilink.tls.ca", "mqtt://127.0.0.1:1", "https://127.0.0.1:1"),
    ] {
        let mut member = member(key, broker, api);
        member.spawn();
        assert_eq!(member.process().ended().await.code(), Some(64), "{}", member.log());
        assert!(member.log().contains(key), "{}", member.log());
    }
}
