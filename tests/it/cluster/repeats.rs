//! Repeats across members: a push that was stored and not answered is one message wherever it is sent again (where nobody can
//! tell whether it was answered, a copy of the same id), and the same bytes after an answer are another.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;

use super::Members;
use crate::support::bridge::{SECRET, text_push};
use crate::support::eventually;
use crate::support::http::{raw_connection, raw_post};
use crate::support::proxy::Proxy;

const TOPIC: &str = "ilink/recv/user/413/text";

/// `a` leads. `b` reaches etcd by way of something that can keep the answers to itself.
async fn ready() -> (Members, Proxy) {
    let mut members = Members::ready(1).await;
    let proxy = Proxy::start(members.etcd.port(), || None).await;
    members.join("b", &format!("http://127.0.0.1:{}", proxy.port())).await;
    stores(&members, "b has begun").await;
    (members, proxy)
}

/// Waits until `b` stores pushes, and knows it.
async fn stores(members: &Members, text: &str) {
    let push = text_push("413", text);
    eventually("b stores", async || members.bridges[1].try_post(&push).await).await;
}

/// What etcd says is heard again.
async fn heard_again(members: &Members, proxy: &Proxy, text: &str) {
    proxy.mute(false);
    proxy.cut();
    stores(members, text).await;
}

/// A push to `b` that is stored, and delivered, and that `b` does not know to be stored: so it cannot answer.
async fn unanswered(members: &Members, proxy: &Proxy, push: &Value, text: &str) -> TcpStream {
    // What follows the answer before this has been heard: nothing is on its way.
    tokio::time::sleep(Duration::from_millis(300)).await;
    proxy.mute(true);
    let request = raw_post(&format!("/{SECRET}"), push.to_string().as_bytes());
    let connection = raw_connection(members.bridges[1].callback_port(), &request).await;
    members.client.expect_text(TOPIC, text).await;
    connection
}

/// Counts the messages with this text by their ids, once all that were stored so far have been delivered.
async fn count(members: &Members, text: &str) -> usize {
    let end = format!("after {text}: {}", ulid::Ulid::generate());
    members.bridges[0].push(&text_push("413", &end)).await;
    members.client.expect_text(TOPIC, &end).await;
    let all = members.client.all(|message| message.topic == TOPIC && message.text() == text);
    all.iter().map(|message| message.user("id")).collect::<BTreeSet<_>>().len()
}

#[tokio::test]
async fn a_try_that_got_no_answer_at_one_member_is_a_repeat_at_another() {
    let (members, proxy) = ready().await;
    let push = text_push("413", "on");
    drop(unanswered(&members, &proxy, &push, "on").await);
    members.bridges[0].push(&push).await;
    assert_eq!(count(&members, "on").await, 1);
    // It was answered there.
    members.bridges[0].push(&push).await;
    assert_eq!(count(&members, "on").await, 2);
    // And back: what neither answers is the same message for both.
    heard_again(&members, &proxy, "b is back").await;
    let push = text_push("413", "off");
    drop(unanswered(&members, &proxy, &push, "off").await);
    heard_again(&members, &proxy, "b is back again").await;
    members.bridges[1].push(&push).await;
    assert_eq!(count(&members, "off").await, 1);
}

#[tokio::test]
async fn after_an_answer_at_one_member_the_same_bytes_are_new_at_another() {
    let members = Members::ready(2).await;
    let push = text_push("413", "on");
    for member in [0, 1, 1, 0, 1] {
        members.bridges[member].push(&push).await;
    }
    assert_eq!(count(&members, "on").await, 5);
}

#[tokio::test]
async fn a_push_that_a_killed_member_had_stored_has_one_id_at_another() {
    let (mut members, proxy) = ready().await;
    let push = text_push("413", "on");
    let _connection = unanswered(&members, &proxy, &push, "on").await;
    members.bridges[1].kill();
    members.bridges[0].push(&push).await;
    assert_eq!(count(&members, "on").await, 1);
}

#[tokio::test]
async fn a_push_that_was_stored_and_not_answered_has_one_id_after_all_were_killed() {
    let (mut members, proxy) = ready().await;
    let push = text_push("413", "on");
    let _connection = unanswered(&members, &proxy, &push, "on").await;
    for bridge in &mut members.bridges {
        bridge.kill();
    }
    members.bridges[0].start().await;
    members.bridges[0].push(&push).await;
    assert_eq!(count(&members, "on").await, 1);
}
