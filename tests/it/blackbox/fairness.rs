//! What one client floods with is no other client's wait, and takes no other client's room.

use super::world::World;
use crate::support::bridge::Bridge;
use crate::support::client::Out;

#[tokio::test]
async fn a_flood_of_one_client_delays_no_other() {
    const FLOOD: usize = 60;

    // To a receiver of its own each, and all to the receiver of the other client's command.
    for (each, to) in [(true, "other"), (false, "owner")] {
        let configure = |bridge: Bridge| bridge.with_toml("outbound.concurrency", "1").with("ilink.timeout", "5m");
        let world = World::ready_with(configure).await;
        // The service stands still until all of it is there, so that their order is nothing of the machine's doing.
        world.sim.pause();
        let receiver = |n| if each { format!("r{n}") } else { "owner".to_owned() };
        let flood = (0..FLOOD).map(|n| Out::new(&format!("ilink/by/flooder/send/user/{}/text", receiver(n)), "x"));
        world.client.send_all(flood).await;
        world.client.publish(&format!("ilink/by/alarm/send/user/{to}/file"), "fire").await;
        world.bridge.waiting("outbound", FLOOD + 1).await;
        world.sim.resume();
        world.client.expect(&format!("ilink/by/alarm/result/send/user/{to}/file")).await;
        let calls = world.sim.calls("send_msg").await;
        let position = calls.iter().position(|call| call.body["msg_type"] == 2).unwrap();
        let most = if each { 2 } else { 8 };
        assert!(position <= most, "position {position} of {}", calls.len());
    }
}

#[tokio::test]
async fn one_client_leaves_room_in_the_queue_for_others() {
    let mut world = World::ready_with(|bridge| bridge.with("spool.max_bytes", "64KiB")).await;
    world.sim.kill();
    let payload = "x".repeat(1000);
    let flood = (0..60).map(|n| Out::new(&format!("ilink/by/flooder/send/user/{n}/text"), &payload));
    world.client.send_all(flood).await;
    let refusals = "ilink/by/flooder/result/";
    let refused = world.client.expect_where("a refusal", |message| message.topic.starts_with(refusals)).await.json();
    assert_eq!(refused["name"], "queue_full", "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("share"), "{refused}");
    world.bridge.logged("a client fills its share of the outbound queue").await;
    world.client.publish("ilink/by/alarm/send/user/413/text", &payload).await;
    world.client.publish("ilink/send/user/413/text", &payload).await;
    world.sim.restart().await;
    for topic in ["ilink/by/alarm/result/send/user/413/text", "ilink/result/send/user/413/text"] {
        let result = world.client.expect(topic).await.json();
        assert_eq!(result["status"], "ok", "{result}");
    }
    // What the flooder held is given back once it is delivered.
    world.bridge.waiting("outbound", 0).await;
    world.client.publish("ilink/by/flooder/send/user/again/text", &payload).await;
    let again = world.client.expect("ilink/by/flooder/result/send/user/again/text").await.json();
    assert_eq!(again["status"], "ok", "{again}");
}
