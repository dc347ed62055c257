//! Each result code of the manual has its reaction.

use serde_json::{Value, json};

use super::world::World;
use crate::support::deserted::Deserted;
use crate::support::eventually;
use crate::support::sim::Call;

async fn send(world: &World, payload: &str) -> Value {
    world.client.publish("ilink/call/send_msg/text", payload).await;
    world.client.expect("ilink/result/call/send_msg/text").await.json()
}

const COMMAND: &str = r#"{"accept_uid":"413","content":"x"}"#;
/// Waits for a session long enough for a first call on a busy machine, and less long than any pause that the session makes.
const IMPATIENT: &str = r#"{"accept_uid":"413","content":"x","ttl":6}"#;

/// The reason the bridge gives for the state of the cloud.
async fn cause(world: &World, state: &str) -> String {
    world.client.expect_text("ilink/bridge/cloud", state).await;
    let health = world.client.expect_json("ilink/bridge/health", |health| health["cloud"]["state"] == state).await;
    health["cloud"]["cause"].as_str().expect("a cause").to_owned()
}

/// How many tokens the service has issued, once there is one: a bridge is ready before.
async fn tokens(world: &World) -> u64 {
    eventually("a token", async || world.sim.state().await["tokens_issued"].as_u64().filter(|issued| *issued >= 1))
        .await
}

/// The registrations among the calls of `set_config`.
fn registrations(calls: &[Call]) -> usize {
    calls.iter().filter(|call| call.body["action_type"] == 0).count()
}

#[tokio::test]
async fn permanent_codes_are_the_result() {
    let world = World::ready().await;
    for (code, name) in [
        (1001, "unknown_uid"),
        (1010, "invalid_parameter"),
        (1011, "subscription_limit"),
        (1012, "invalid_operation"),
        (1013, "no_such_group"),
        (1014, "forbidden"),
        (7, "unlisted_code"),
        (4711, "unlisted_code"),
        (-1, "unlisted_code"),
    ] {
        world.sim.answer_code("send_msg", code, 1).await;
        let result = send(&world, COMMAND).await;
        assert_eq!(
            (&result["status"], &result["code"], &result["name"], &result["attempts"]),
            (&json!("error"), &json!(code), &json!(name), &json!(1)),
            "{result}"
        );
    }
    // None of them is anyone else's business.
    assert_eq!(send(&world, COMMAND).await["status"], json!("ok"));
    assert_eq!(world.bridge.admin("readyz").await.status, 200);
}

#[tokio::test]
async fn transient_codes_are_tried_again() {
    let world = World::ready().await;
    for code in [1016, 1017] {
        world.sim.answer_code("send_msg", code, 2).await;
        let result = send(&world, COMMAND).await;
        assert_eq!((&result["status"], &result["attempts"]), (&json!("ok"), &json!(3)), "{code}: {result}");
    }
    world.sim.answer_code("send_msg", 1016, 0).await;
    let result = send(&world, IMPATIENT).await;
    assert_eq!(result["status"], json!("expired"), "{result}");
    let says = result["message"].as_str().unwrap();
    assert!(says.contains("1016") && !says.contains("tried again"), "it is over: {says}");
}

#[tokio::test]
async fn an_invalid_token_is_replaced_once() {
    let world = World::ready().await;
    let before = tokens(&world).await;
    world.sim.expire().await;
    let result = send(&world, COMMAND).await;
    assert_eq!(result["status"], json!("ok"), "{result}");
    assert_eq!(tokens(&world).await, before + 1);
    for (n, code) in [1008, 1015, 1003].into_iter().enumerate() {
        world.sim.answer_code("send_msg", code, 1).await;
        let result = send(&world, COMMAND).await;
        assert_eq!(result["status"], json!("ok"), "{code}: {result}");
        assert_eq!(tokens(&world).await, before + 2 + n as u64, "{code}");
    }
}

#[tokio::test]
async fn a_token_is_fetched_once_for_all_that_need_it() {
    let world = World::ready().await;
    let before = tokens(&world).await;
    world.sim.expire().await;
    for n in 0..20 {
        world.client.publish(&format!("ilink/send/user/{n}/text"), "x").await;
    }
    let good = |calls: &[Call]| calls.iter().filter(|call| call.code == Some(0)).count() == 20;
    world.sim.calls_until("send_msg", "20 good calls", good).await;
    assert_eq!(tokens(&world).await, before + 1);
}

#[tokio::test]
async fn a_second_session_failure_waits() {
    for code in [1008, 1015, 1007, 1003] {
        let world = World::ready().await;
        world.sim.answer_code("send_msg", code, 0).await;
        let result = send(&world, IMPATIENT).await;
        assert_eq!(result["status"], json!("expired"), "{code}: {result}");
        assert!(!cause(&world, "degraded").await.is_empty());
        assert_eq!(world.sim.calls("send_msg").await.len(), 2, "{code}: one refresh, one repeat, then a pause");
    }
}

#[tokio::test]
async fn a_forgotten_registration_is_made_again() {
    let world = World::ready().await;
    assert_eq!(registrations(&world.sim.calls("set_config").await), 1);
    world.sim.forget().await;
    let result = send(&world, COMMAND).await;
    assert_eq!(result["status"], json!("ok"), "{result}");
    assert_eq!(registrations(&world.sim.calls("set_config").await), 2);
    // And pushes come again.
    assert_eq!(world.sim.push(&json!({"from_uid": "413", "text": "back"})).await.status, 200);
    world.client.expect_text("ilink/recv/user/413/text", "back").await;
}

#[tokio::test]
async fn a_conflict_pauses_everything() {
    let world = World::ready().await;
    world.sim.answer_code("send_msg", 1002, 1).await;
    let result = send(&world, IMPATIENT).await;
    assert_eq!(result["status"], json!("expired"), "{result}");
    assert!(cause(&world, "degraded").await.contains("elsewhere"), "the cause names what to look for");
    assert_eq!(world.sim.calls("send_msg").await.len(), 1, "no call for at least 30 s");
    // Pushes are not affected.
    world.bridge.push(&crate::support::bridge::text_push("413", "still")).await;
    world.client.expect_text("ilink/recv/user/413/text", "still").await;
}

#[tokio::test]
async fn bad_credentials_stop_the_calls() {
    let mut world = World::prepared(&[], |bridge| bridge.with("ilink.secretkey", "not-the-right-secret")).await;
    world.bridge.spawn();
    let cause = cause(&world, "auth_error").await;
    assert!(cause.contains("secretkey") || cause.contains("SecretKey"), "what to mend: {cause}");
    assert!(!world.bridge.log().contains("not-the-right-secret"), "a secret in the log");
    let ready = world.bridge.admin("readyz").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    let calls = world.sim.calls("set_config").await.len() + world.sim.calls("get_access_token").await.len();
    assert!(calls <= 3, "{calls} calls in a moment");
    // The process stays, pushes are taken, commands wait.
    world.bridge.push(&crate::support::bridge::text_push("413", "still")).await;
    world.client.expect_text("ilink/recv/user/413/text", "still").await;
    assert_eq!(send(&world, IMPATIENT).await["status"], json!("expired"));
}

#[tokio::test]
async fn fatal_answers_to_the_registration() {
    for (code, state) in [(1000, "auth_error"), (1001, "auth_error"), (1005, "auth_error"), (1002, "degraded")] {
        let mut world = World::prepared(&[], |bridge| bridge).await;
        world.sim.answer_code("set_config", code, 0).await;
        world.bridge.spawn();
        let cause = cause(&world, state).await;
        if code == 1005 {
            assert!(cause.contains(&format!("127.0.0.1:{}", world.bridge.callback_port())), "names the URL: {cause}");
            assert!(!cause.contains(crate::support::bridge::SECRET), "names its secret: {cause}");
        }
        let calls = world.sim.calls("set_config").await.len();
        assert!(calls <= 3, "{code}: {calls} calls in a moment");
    }
}

#[tokio::test]
async fn a_set_config_quota_stops_only_set_config() {
    let mut world = World::ready().await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    let before = world.sim.calls("set_config").await.len();
    world.sim.answer_code("set_config", 1004, 0).await;
    world.bridge.spawn();
    let result = send(&world, COMMAND).await;
    assert_eq!(result["status"], json!("ok"), "everything else goes on: {result}");
    assert_eq!(world.sim.calls("set_config").await.len(), before + 1);
}

#[tokio::test]
async fn a_token_quota_waits() {
    let mut world = World::prepared(&[], |bridge| bridge).await;
    world.sim.answer_code("get_access_token", 1009, 0).await;
    world.bridge.spawn();
    assert!(!cause(&world, "degraded").await.is_empty());
    assert_eq!(send(&world, IMPATIENT).await["status"], json!("expired"));
    assert_eq!(world.sim.calls("get_access_token").await.len(), 1, "no other for ten minutes");
}

#[tokio::test]
async fn a_living_token_survives_a_restart() {
    let mut world = World::ready().await;
    let kept = world.bridge.state_dir().join("token.json");
    eventually("a token to be kept", async || kept.exists().then_some(())).await;
    let before = tokens(&world).await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.bridge.start().await;
    assert_eq!(send(&world, COMMAND).await["status"], json!("ok"));
    assert_eq!(tokens(&world).await, before, "asking too often is 1009");
    assert_eq!(registrations(&world.sim.calls("set_config").await), 1, "set_config is not to be called often");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    let mut world = World::prepared(&["--expires-in", "10"], |bridge| bridge).await;
    world.bridge.start().await;
    eventually("a second token", async || (world.sim.state().await["tokens_issued"].as_u64() >= Some(2)).then_some(()))
        .await;
    // Nobody asked for anything meanwhile: no call was refused for it.
    assert_eq!(send(&world, COMMAND).await["attempts"], json!(1));
}

#[tokio::test]
async fn an_unreachable_callback_is_explained() {
    let nowhere = Deserted::new();
    let mut world = World::prepared(&[], |bridge| bridge.with("callback.public_url", &nowhere.url("http"))).await;
    world.bridge.spawn();
    let health = world
        .client
        .expect_json("ilink/bridge/health", |health| {
            health["cloud"]["cause"].as_str().is_some_and(|cause| cause.contains("1006"))
        })
        .await;
    let cause = health["cloud"]["cause"].as_str().unwrap();
    assert!(cause.contains("no GET"), "what the bridge saw of the handshake: {cause}");
    assert_eq!(world.bridge.admin("readyz").await.status, 503);
}

#[tokio::test]
async fn one_command_that_is_always_refused_holds_no_other_up() {
    let world = World::ready().await;
    let before = tokens(&world).await;
    world.sim.answer_code("ham_group", 1008, 0).await;
    world.client.publish("ilink/call/ham_group/list", r#"{"ttl":600}"#).await;
    world.sim.calls_until("ham_group", "the refused call and its repeat", |calls| calls.len() == 2).await;
    for _ in 0..5 {
        let result = send(&world, IMPATIENT).await;
        assert_eq!((&result["status"], &result["attempts"]), (&json!("ok"), &json!(1)), "{result}");
    }
    world.client.expect_text("ilink/bridge/cloud", "online").await;
    assert_eq!(world.sim.calls("ham_group").await.len(), 2, "it alone waits");
    assert!(tokens(&world).await <= before + 2);
}

#[tokio::test]
async fn a_restart_while_only_set_config_fails_holds_no_command_back() {
    let mut world = World::ready().await;
    assert_eq!(send(&world, COMMAND).await["status"], json!("ok"));
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.sim.fault(&json!({"path": "set_config", "mode": "status", "times": 0})).await;
    world.bridge.spawn();
    let result = send(&world, IMPATIENT).await;
    assert_eq!(result["status"], json!("ok"), "{result}");
    assert!(cause(&world, "degraded").await.contains("HTTP status 500"));
    assert_eq!(send(&world, IMPATIENT).await["status"], json!("ok"));
}

#[tokio::test]
async fn a_lost_message_and_a_broken_ham_user_stop_no_other_message() {
    let world = World::ready().await;
    assert_eq!(send(&world, COMMAND).await["status"], json!("ok"));
    world.sim.fault(&json!({"path": "ham_user", "mode": "status", "times": 0})).await;
    world.sim.fault(&json!({"path": "send_msg", "mode": "drop"})).await;
    world.client.publish("ilink/send/user/414/text", "lost once").await;
    world.sim.calls_until("send_msg", "the lost one", |calls| calls.len() >= 2).await;
    for _ in 0..5 {
        let result = send(&world, IMPATIENT).await;
        assert_eq!((&result["status"], &result["attempts"]), (&json!("ok"), &json!(1)), "{result}");
    }
    let result = world.client.expect("ilink/result/send/user/414/text").await.json();
    assert_eq!(result["status"], json!("ok"), "{result}");
}
