//! Faults, the state, the listener.

use std::time::Duration;

use axum::http::Method;
use ilink2mqtt::protocol::Reply;
use ilink2mqtt::sim::{Options, serve};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::harness::{Callback, HANDSHAKE_TOKEN, PATIENCE, Service, options};

#[tokio::test]
async fn faults_meet_the_calls_they_were_ordered_for() {
    let service = Service::start(options()).await;
    let mut hook = Callback::start().await;
    let alice = service.register("1", &hook).await;
    let message = json!({"accept_uid": "1", "msg_type": 1, "content": "AA=="});
    let path = format!("send_msg?access_token={}", alice.token);
    let mut body = message.clone();
    body["send_uid"] = json!("1");

    service.fault(&json!({"path": "send_msg", "mode": "code", "code": 1016, "times": 2})).await;
    assert_eq!(alice.code("ham_group", json!({"action_type": 3})).await, 0);
    assert_eq!(alice.code("send_msg", message.clone()).await, 1016);
    assert_eq!(alice.code("send_msg", message.clone()).await, 1016);

    service.fault(&json!({"path": "send_msg", "mode": "drop"})).await;
    let dropped = service.send(&path, body.to_string()).await.unwrap_err();
    assert!(!dropped.is_timeout() && !dropped.is_connect(), "{dropped:?}");

    service.fault(&json!({"path": "send_msg", "mode": "status", "code": 502})).await;
    assert_eq!(service.send(&path, body.to_string()).await.unwrap().status(), 502);
    service.fault(&json!({"path": "send_msg", "mode": "status"})).await;
    assert_eq!(service.send(&path, body.to_string()).await.unwrap().status(), 500);

    service.fault(&json!({"path": "send_msg", "mode": "garbage"})).await;
    let garbage = service.send(&path, body.to_string()).await.unwrap();
    assert!(garbage.status() == 200 && serde_json::from_slice::<Value>(&garbage.bytes().await.unwrap()).is_err());
    hook.assert_quiet();

    // A delayed call is executed at once: its push is there while its answer is not.
    service.fault(&json!({"path": "send_msg", "mode": "delay", "delay_s": 600})).await;
    let mut late = tokio::spawn(service.client.post(format!("{}/{path}", service.base)).body(body.to_string()).send());
    hook.push().await;
    assert!(!late.is_finished());
    late.abort();
    (&mut late).await.unwrap_err();

    service.fault(&json!({"mode": "hang", "times": 0})).await;
    let url = format!("{}/{path}", service.base);
    let hung = service.client.post(url).body(body.to_string()).timeout(Duration::from_secs(1)).send().await;
    assert!(hung.unwrap_err().is_timeout());
    service.fault(&json!({"mode": "clear"})).await;
    assert_eq!(alice.code("send_msg", message).await, 0);
    hook.push().await;
    hook.assert_quiet();

    assert_eq!(service.post("sim/fault", &json!({"path": "nowhere", "mode": "drop"})).await.0, 400);
    assert_eq!(service.post("sim/fault", &json!({"path": "send_msg", "mode": "drop", "often": 2})).await.0, 400);
    let state = service.state().await;
    let faults: Vec<&Value> = state["calls"].as_array().unwrap().iter().filter_map(|call| call.get("fault")).collect();
    assert_eq!(faults, ["code", "code", "drop", "status", "status", "garbage", "delay", "hang"]);
}

#[tokio::test]
async fn an_odd_answer_is_given_to_a_call_that_was_executed() {
    let service = Service::start(options()).await;
    let mut hook = Callback::start().await;
    let alice = service.register("1", &hook).await;
    let path = format!("send_msg?access_token={}", alice.token);
    let body = json!({"send_uid": "1", "accept_uid": "1", "msg_type": 1, "content": "AA=="}).to_string();
    for mode in ["string_code", "integral_code", "bom", "nul", "gzip", "gbk", "deep", "page", "cut_short", "long"] {
        service.fault(&json!({"path": "send_msg", "mode": mode})).await;
        let answer = service.send(&path, body.clone()).await.unwrap();
        assert_eq!(answer.status(), 200, "{mode}");
        let answer = answer.bytes().await;
        hook.push().await;
        let Ok(answer) = answer else {
            assert_eq!(mode, "cut_short");
            continue;
        };
        let reply = Reply::decode(&answer).map(|reply| reply.code.value()).ok();
        assert_eq!(reply, (mode != "page").then_some(0), "{mode}");
        assert!(serde_json::from_slice::<Value>(&answer).ok() != Some(json!({"code": 0})), "{mode} is not odd");
    }
    service.fault(&json!({"path": "send_msg", "mode": "endless"})).await;
    let mut endless = service.send(&path, body.clone()).await.unwrap();
    for _ in 0..3 {
        assert!(endless.chunk().await.unwrap().is_some());
    }
    hook.push().await;

    service.fault(&json!({"path": "send_msg", "mode": "gateway", "code": 502, "retry_after_s": 7})).await;
    let gateway = service.send(&path, body.clone()).await.unwrap();
    assert_eq!((gateway.status().as_u16(), gateway.headers()["retry-after"].to_str().unwrap()), (502, "7"));
    service.fault(&json!({"path": "send_msg", "mode": "redirect"})).await;
    let redirect = service.send(&path, body).await.unwrap();
    assert!(redirect.status() == 302 && redirect.headers().contains_key("location"));
    hook.assert_quiet();
}

#[tokio::test]
async fn the_state_shows_calls_without_their_secrets() {
    let service = Service::start(options()).await;
    let hook = Callback::start().await;
    let alice = service.register("1", &hook).await;
    alice.code("ham_group", json!({"action_type": 3})).await;
    service.send("set_config", "{\"secretkey\":\"S3cret\"").await.unwrap();
    let state = service.state().await;
    let text = state.to_string();
    assert!(!text.contains("S3cret") && !text.contains(&alice.token) && !text.contains(HANDSHAKE_TOKEN), "{text}");
    let calls = state["calls"].as_array().unwrap();
    assert_eq!(
        calls.iter().map(|call| call["path"].as_str().unwrap()).collect::<Vec<_>>(),
        ["set_config", "get_access_token", "ham_group", "set_config"]
    );
    assert_eq!((&calls[2]["with_token"], &calls[2]["code"]), (&json!(true), &json!(0)));
    assert_eq!(state["registrations"][0], json!({"uid": "1", "url": hook.url}));
}

#[tokio::test]
async fn paths_and_methods_are_checked() {
    let service = Service::start(options()).await;
    for (method, path, status) in [
        (Method::GET, "send_msg", 405),
        (Method::POST, "sim/state", 405),
        (Method::GET, "sim/push", 405),
        (Method::POST, "", 404),
        (Method::POST, "set_config/more", 404),
    ] {
        let url = format!("{}/{path}", service.base);
        assert_eq!(service.client.request(method, url).send().await.unwrap().status(), status, "{path}");
    }
    let from_a_page =
        service.client.post(format!("{}/sim/expire", service.base)).header("origin", "http://example.org");
    assert_eq!(from_a_page.send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn it_listens_to_this_machine_only_unless_told_and_stops_when_told() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = serve(listener, options(), CancellationToken::new()).await.unwrap_err();
    assert!(refused.to_string().contains("--allow-remote"), "{refused}");
    let listener = TcpListener::bind(std::net::SocketAddr::from(([0, 0, 0, 0], 0))).await.unwrap();
    let stopped = CancellationToken::new();
    stopped.cancel();
    serve(listener, Options { allow_remote: true, ..options() }, stopped).await.unwrap();

    // What is under way is cut.
    let service = Service::start(options()).await;
    service.fault(&json!({"mode": "hang"})).await;
    let (sent, ()) = tokio::join!(service.send("send_msg", "{}"), async {
        while service.state().await["calls_total"] == 0 {
            tokio::task::yield_now().await;
        }
        service.shutdown.cancel();
    });
    assert!(sent.is_err());
    tokio::time::timeout(PATIENCE, service.task).await.expect("it stops").unwrap().unwrap();
}
