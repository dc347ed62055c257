//! The operator's commands, beside a running daemon and without one.

use serde_json::{Value, json};

use super::world::World;
use crate::support::bridge::{Bridge, SECRET, text_push};
use crate::support::process::finish;
use crate::support::sim::Sim;

/// The first JSON value that a command printed to standard output.
fn printed(stdout: &str) -> Value {
    let json = stdout.find('{').map_or_else(|| panic!("no JSON in {stdout:?}"), |at| &stdout[at..]);
    serde_json::Deserializer::from_str(json).into_iter().next().unwrap().unwrap_or_else(|e| panic!("{e}: {stdout:?}"))
}

async fn registered(world: &World) -> bool {
    !world.sim.state().await["registrations"].as_array().unwrap().is_empty()
}

#[tokio::test]
async fn call() {
    let mut world = World::ready().await;
    // Ready is whoever is registered; the access token comes a moment later.
    world.client.expect_text("ilink/bridge/cloud", "online").await;
    for running in [true, false] {
        if !running {
            assert_eq!(world.bridge.stop().await.code(), Some(0));
        }
        let before = world.sim.calls("send_msg").await.len();
        let done = world.bridge.verb(&["call", "send_msg/text", r#"{"accept_uid":"413","content":"x"}"#]).await;
        assert_eq!(done.code, Some(0), "running {running}: {done:?}");
        let result = printed(&done.stdout);
        assert_eq!((&result["name"], &result["code"]), (&json!("ok"), &json!(0)), "{result}");
        assert_eq!(world.sim.calls("send_msg").await.len(), before + 1);

        let done = world.bridge.verb(&["call", "ham_group/list"]).await;
        assert_eq!(printed(&done.stdout)["data"]["group_list"], json!([]), "running {running}: {done:?}");

        // An operator may use every call.
        let done = world.bridge.verb(&["call", "ham_add_user", r#"{"username":"u","nickname":"n"}"#]).await;
        assert_eq!(printed(&done.stdout)["name"], json!("ok"), "running {running}: {done:?}");

        let done = world.bridge.verb(&["call", "ham_group/delete", r#"{"group_id":"none"}"#]).await;
        assert_ne!(done.code, Some(0), "running {running}: {done:?}");
        assert!(done.text.contains("no_such_group"), "{done:?}");

        for arguments in [
            &["call", "send_msg/shout", "{}"][..],
            &["call", "send_msg/text", "not json"],
            &["call", "send_msg/text", r#"{"accept_uid":"413","contnet":"x"}"#],
        ] {
            let done = world.bridge.verb(arguments).await;
            assert_eq!(done.code, Some(64), "running {running}: {arguments:?} {done:?}");
        }
    }
}

#[tokio::test]
async fn query_register_and_unregister() {
    let mut world = World::ready().await;
    for running in [true, false] {
        if !running {
            assert_eq!(world.bridge.stop().await.code(), Some(0));
        }
        let done = world.bridge.verb(&["query"]).await;
        assert_eq!(done.code, Some(0), "running {running}: {done:?}");

        let done = world.bridge.verb(&["unregister"]).await;
        assert_eq!(done.code, Some(0), "running {running}: {done:?}");
        assert!(!registered(&world).await);
        if running {
            world.client.expect_text("ilink/bridge/cloud", "unregistered").await;
            assert_eq!(world.bridge.admin("readyz").await.status, 503);
        }
        let done = world.bridge.verb(&["query"]).await;
        assert!(done.text.contains("1007") || done.text.contains("not_registered"), "running {running}: {done:?}");

        // The service calls back during this: without a daemon the command itself must serve the callback.
        let done = world.bridge.verb(&["register"]).await;
        assert_eq!(done.code, Some(0), "running {running}: {done:?}");
        assert!(registered(&world).await);
        if running {
            world.bridge.wait_ready().await;
        }
    }
}

/// iLink ties a uid to one address, and ours has changed since the token was granted.
#[tokio::test]
async fn a_verb_from_another_address_fetches_a_new_token_and_tries_again() {
    let mut world = World::ready().await;
    world.client.expect_text("ilink/bridge/cloud", "online").await;
    for (running, verb) in [(true, "query"), (false, "query"), (false, "register"), (false, "unregister")] {
        if !running && verb == "query" {
            assert_eq!(world.bridge.stop().await.code(), Some(0));
        }
        let [calls, tokens] = [world.sim.calls("set_config").await, world.sim.calls("get_access_token").await];
        world.sim.answer_code("set_config", 1003, 1).await;
        let done = world.bridge.verb(&[verb]).await;
        assert_eq!(done.code, Some(0), "running {running}: {verb}: {done:?}");
        assert_eq!(world.sim.calls("set_config").await.len(), calls.len() + 2, "running {running}: {verb}");
        assert_eq!(world.sim.calls("get_access_token").await.len(), tokens.len() + 1, "running {running}: {verb}");
    }
    // Refused again: that is the answer.
    world.sim.answer_code("set_config", 1003, 2).await;
    let done = world.bridge.verb(&["query"]).await;
    assert!(done.code == Some(1) && done.text.contains("ip_mismatch"), "{done:?}");
}

#[tokio::test]
async fn an_explicit_unregister_lasts() {
    let mut world = World::ready().await;
    assert_eq!(world.bridge.verb(&["unregister"]).await.code, Some(0));
    world.client.expect_text("ilink/bridge/cloud", "unregistered").await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.bridge.spawn();
    world.client.expect_text("ilink/bridge/cloud", "unregistered").await;
    world.client.publish("ilink/call/send_msg/text", r#"{"accept_uid":"1","content":"x","ttl":1}"#).await;
    let result = world.client.expect("ilink/result/call/send_msg/text").await.json();
    assert_eq!(result["status"], json!("expired"), "{result}");
    assert!(!registered(&world).await);
    assert_eq!(world.bridge.verb(&["register"]).await.code, Some(0));
    world.bridge.wait_ready().await;
}

#[tokio::test]
async fn an_unregister_of_what_is_gone_already_lasts_too() {
    let mut world = World::ready().await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.sim.forget().await;
    let done = world.bridge.verb(&["unregister"]).await;
    assert!(done.text.contains("not_registered"), "{done:?}");
    world.bridge.spawn();
    world.client.expect_text("ilink/bridge/cloud", "unregistered").await;
    assert!(!registered(&world).await);
}

#[tokio::test]
async fn a_new_secret() {
    let mut world = World::prepared(&[], |bridge| bridge.without("callback.path_secret")).await;
    world.bridge.start().await;
    let url = async |world: &World| world.bridge.verb(&["callback-url"]).await.stdout.trim().to_owned();
    let old = url(&world).await;
    let done = world.bridge.verb(&["register", "--new-secret"]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let new = url(&world).await;
    assert_ne!(old, new);
    assert_eq!(world.sim.state().await["registrations"][0]["url"], json!(new));
    let old_path = old.rsplit_once('/').unwrap().1;
    assert_eq!(world.bridge.request(reqwest::Method::POST, &format!("/{old_path}")).await.status, 404);
    assert_eq!(world.sim.push(&json!({"from_uid": "413", "text": "x"})).await.status, 200);
    world.client.expect("ilink/recv/user/413/text").await;
}

#[tokio::test]
async fn callback_url_prints_the_secret_on_purpose() {
    let mut world = World::ready().await;
    assert_eq!(world.bridge.verb(&["callback-url"]).await.stdout.trim(), world.bridge.callback());
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    assert_eq!(world.bridge.verb(&["callback-url"]).await.stdout.trim(), world.bridge.callback());
}

#[tokio::test]
async fn status() {
    let mut world = World::ready().await;
    // Ready means registered; the first token may come a moment later.
    let done = crate::support::eventually("status to show the cloud online", async || {
        let done = world.bridge.verb(&["status"]).await;
        assert_eq!(done.code, Some(0), "{done:?}");
        done.stdout.contains("online").then_some(done)
    })
    .await;
    assert!(!done.text.contains(SECRET), "{done:?}");
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    let done = world.bridge.verb(&["status"]).await;
    assert!(done.stdout.contains("not running"), "{done:?}");
}

/// What a container engine asks: a restart helps only against what is wrong with the process itself.
#[tokio::test]
async fn health_is_the_process_s_own() {
    let mut world = World::ready().await;
    let healthy = ["status", "--healthy"];
    let done = world.bridge.verb(&healthy).await;
    assert_eq!((done.code, done.stdout.trim()), (Some(0), "all loops make progress"), "{done:?}");
    world.sim.kill();
    world.broker.kill();
    crate::support::eventually("readiness to be over", async || {
        (world.bridge.admin("readyz").await.status == 503).then_some(())
    })
    .await;
    assert_eq!(world.bridge.verb(&healthy).await.code, Some(0));
    // One that cannot be asked is not healthy; its lock is not waited for.
    let socket = world.bridge.state_dir().join("control.sock");
    std::fs::rename(&socket, world.bridge.dir().join("away")).unwrap();
    let done = world.bridge.verb(&healthy).await;
    assert!(done.code == Some(69) && done.text.contains("no bridge"), "{done:?}");
    std::fs::rename(world.bridge.dir().join("away"), &socket).unwrap();
    assert_eq!(world.bridge.verb(&healthy).await.code, Some(0));
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    assert_eq!(world.bridge.verb(&healthy).await.code, Some(69));
}

#[tokio::test]
async fn without_a_daemon_the_verbs_take_the_lock() {
    let world = World::ready().await;
    // A daemon that cannot be talked to still holds the lock.
    std::fs::remove_file(world.bridge.state_dir().join("control.sock")).unwrap();
    let done = world.bridge.verb(&["query"]).await;
    assert_eq!(done.code, Some(73), "{done:?}");
    world.bridge.push(&text_push("413", "x")).await;
    world.client.expect("ilink/recv/user/413/text").await;
}

#[tokio::test]
async fn of_a_call_that_a_daemon_does_not_answer_nobody_knows() {
    let bridge = Bridge::at("mqtt://127.0.0.1:1", &Sim::absent(&[]));
    std::fs::create_dir_all(bridge.state_dir()).unwrap();
    let daemon = tokio::net::UnixListener::bind(bridge.state_dir().join("control.sock")).unwrap();
    let ask = async |args: &[&str]| tokio::join!(bridge.verb(args), async { drop(daemon.accept().await.unwrap()) }).0;
    let done = ask(&["call", "ham_group/list", "{}"]).await;
    assert!(done.code == Some(69) && done.text.contains("may or may not have been executed"), "{done:?}");
    let done = ask(&["query"]).await;
    assert!(done.code == Some(70) && done.text.contains("did not answer"), "{done:?}");
}

#[tokio::test]
async fn version_and_help() {
    let done = finish(["--version"], &[]).await;
    assert_eq!((done.code, done.stdout.contains(env!("CARGO_PKG_VERSION"))), (Some(0), true), "{done:?}");
    let done = finish(["--help"], &[]).await;
    assert_eq!(done.code, Some(0));
    for verb in ["run", "check", "status", "call", "register", "unregister", "query", "callback-url", "sim", "demo"] {
        assert!(done.stdout.contains(verb), "{verb}: {}", done.stdout);
    }
}
