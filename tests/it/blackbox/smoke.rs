//! The one thing that everything else builds on: a push becomes a message, a message becomes a call.

use serde_json::json;

use super::world::World;
use crate::support::bridge::{UID, base64, text_push};

#[tokio::test]
async fn a_push_becomes_a_publish_and_a_publish_becomes_a_call() {
    let world = World::ready().await;

    world.bridge.push(&text_push("413", "hello")).await;
    world.client.expect_text("ilink/recv/user/413/text", "hello").await;

    world.client.publish("ilink/send/user/413/text", "hi there").await;
    let result = world.client.expect("ilink/result/send/user/413/text").await.json();
    assert_eq!((result["status"].as_str(), result["code"].as_i64()), (Some("ok"), Some(0)), "{result}");
    let calls = world.sim.calls("send_msg").await;
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(
        calls[0].body,
        json!({"send_uid": UID, "accept_uid": "413", "msg_type": 1, "content": base64(b"hi there")})
    );
}
