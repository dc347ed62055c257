//! Tries, order and receivers of pushes.

use std::time::Duration;

use axum::http::StatusCode;
use ilink2mqtt::protocol::Receiver;
use ilink2mqtt::sim::{Options, Outcome, Simulator};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::harness::{Behaviour, Callback, Service, options};

#[tokio::test]
async fn only_unanswered_pushes_are_tried_again() {
    let service = Service::start(Options { answer_limit: Duration::from_secs(3), ..options() }).await;
    let mut hook = Callback::start().await;
    service.register("1", &hook).await;
    let order = json!({"from_uid": "413", "text": "hello"});

    hook.next_answers([Behaviour::Hang]);
    let (_, record) = service.post("sim/push", &order).await;
    assert_eq!(record["outcome"], "answered");
    assert_eq!(record["tries"].as_array().unwrap().len(), 2);
    assert!(record["tries"][0]["error"].is_string() && record["tries"][1]["code"] == 0, "{record}");
    assert_eq!(hook.raw().await, hook.raw().await);

    hook.next_answers([Behaviour::Hang, Behaviour::Hang, Behaviour::Hang]);
    let (_, record) = service.post("sim/push", &order).await;
    assert_eq!((&record["outcome"], record["tries"].as_array().unwrap().len()), (&json!("unanswered"), 3));
    for _ in 0..3 {
        hook.raw().await;
    }

    hook.next_answers([Behaviour::Answer(StatusCode::SERVICE_UNAVAILABLE, "busy")]);
    let (_, record) = service.post("sim/push", &order).await;
    assert_eq!((&record["outcome"], record["tries"].as_array().unwrap().len()), (&json!("error_status"), 1));
    assert_eq!((&record["tries"][0]["status"], &record["tries"][0]["answer"]), (&json!(503), &json!("busy")));

    hook.next_answers([Behaviour::Answer(StatusCode::OK, "")]);
    let (_, record) = service.post("sim/push", &order).await;
    assert_eq!((&record["outcome"], record["tries"].as_array().unwrap().len()), (&json!("answered"), 1));
    let state = service.state().await;
    assert_eq!(state["pushes"].as_array().unwrap().len(), 4);
    assert_eq!(state["pushes"][1]["tries"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn error_statuses_too_when_that_is_asked_for() {
    let service = Service::start(Options { retry_on_error: true, ..options() }).await;
    let hook = Callback::start().await;
    service.register("1", &hook).await;
    let busy = || Behaviour::Answer(StatusCode::SERVICE_UNAVAILABLE, "busy");
    hook.next_answers([busy(), busy()]);
    let (_, record) = service.post("sim/push", &json!({"from_uid": "413", "text": "hello"})).await;
    assert_eq!((&record["outcome"], record["tries"].as_array().unwrap().len()), (&json!("answered"), 3));
}

#[tokio::test]
async fn what_follows_from_calls_is_pushed_in_order_even_past_a_slow_one() {
    let service = Service::start(Options { answer_limit: Duration::from_secs(3), ..options() }).await;
    let mut hook = Callback::start().await;
    let alice = service.register("1", &hook).await;
    hook.next_answers([Behaviour::Hang]);
    for content in ["MQ==", "Mg==", "Mw=="] {
        assert_eq!(alice.code("send_msg", json!({"accept_uid": "1", "msg_type": 1, "content": content})).await, 0);
    }
    for content in ["MQ==", "MQ==", "Mg==", "Mw=="] {
        assert_eq!(hook.push().await["content"], content);
    }
}

#[tokio::test]
async fn ordered_pushes_go_verbatim_to_whom_they_name() {
    let service = Service::start(options()).await;
    let (mut hook, mut other) = (Callback::start().await, Callback::start().await);
    let short = json!({"from_uid": "413", "text": "你好"});
    assert_eq!(service.post("sim/push", &short).await.0, 409);
    service.register("1", &hook).await;
    let (status, record) = service.post("sim/push", &short).await;
    assert_eq!((status, &record["to_uid"]), (200, &json!("1")));
    let push = hook.push().await;
    assert_eq!((&push["content"], &push["to_uid"], &push["msg_type"]), (&json!("5L2g5aW9"), &json!("1"), &json!(1)));

    // Not a push at all, with the spaces and the nesting it came with.
    let nested = format!("{{ \"deep\" : {}1{} , \"big\": 1e999 }}", "[".repeat(500), "]".repeat(500));
    assert_eq!(service.send("sim/push", nested.clone()).await.unwrap().status(), 200);
    assert_eq!(hook.raw().await, nested.as_bytes());
    let state = service.client.get(format!("{}/sim/state", service.base)).send().await.unwrap();
    assert!(state.status() == 200 && state.text().await.unwrap().contains("1e999"));

    service.register("2", &other).await;
    assert_eq!(service.post("sim/push", &short).await.0, 409);
    assert_eq!(service.post("sim/push", &json!({"from_uid": "413", "text": "x", "to_uid": "2"})).await.0, 200);
    assert_eq!(other.push().await["to_uid"], "2");
    let foreign = json!({"from_uid": "413", "to_uid": "999", "create_time": 1, "msg_type": 1, "content": "eA=="});
    assert_eq!(service.post("sim/push", &foreign).await.0, 409);
    assert_eq!(service.post("sim/push?to=2", &foreign).await.0, 200);
    assert_eq!(other.push().await, foreign);
    for bad in [json!([]), json!("x"), json!({"text": "no sender"})] {
        assert_eq!(service.post("sim/push", &bad).await.0, 400, "{bad}");
    }
    hook.assert_quiet();
}

#[tokio::test]
async fn a_receiver_that_never_answers_holds_a_bounded_number() {
    let service = Service::start(Options { answer_limit: Duration::from_mins(10), ..options() }).await;
    let mut hook = Callback::start().await;
    let alice = service.register("1", &hook).await;
    hook.next_answers([Behaviour::Hang]);
    let message = json!({"accept_uid": "1", "msg_type": 1, "content": "AA=="});
    alice.code("send_msg", message.clone()).await;
    hook.push().await;
    for _ in 0..1001 {
        assert_eq!(alice.code("send_msg", message.clone()).await, 0);
    }
    let state = service.state().await;
    let pushes = state["pushes"].as_array().unwrap();
    let full = pushes.iter().filter(|push| push["outcome"] == "queue_full").count();
    assert_eq!((pushes.len(), full, &state["pushes_total"]), (1000, 1, &json!(1002)));
}

/// As the demonstration uses it.
#[tokio::test]
async fn a_contact_in_the_same_process_hears_and_answers() {
    let simulator = Simulator::new(options()).unwrap();
    let (listener, mut sent) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), simulator.sent());
    let base = format!("http://{}", listener.local_addr().unwrap());
    let served = simulator.clone();
    tokio::spawn(async move { served.serve(listener, CancellationToken::new()).await });
    let service = Service::at(base);
    let mut hook = Callback::start().await;
    let alice = service.register("1", &hook).await;
    alice.code("send_msg", json!({"accept_uid": "413", "msg_type": 1, "content": "aGVsbG8="})).await;
    let heard = sent.recv().await.unwrap();
    assert_eq!((heard.to, heard.content.as_slice()), (Receiver::User("413".parse().unwrap()), b"hello".as_slice()));
    let echo = json!({"from_uid": "413", "text": "hello"}).to_string();
    let record = simulator.push(echo.as_bytes(), Some(&heard.from)).await.unwrap();
    assert_eq!((record.outcome, record.tries.len()), (Outcome::Answered, 1));
    assert_eq!(hook.push().await["content"], "aGVsbG8=");
}
