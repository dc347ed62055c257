//! Peers that leave, half leave, or do not listen.

use tokio::io::AsyncWriteExt;

use super::attackers::{Caller, exchange};
use super::{World, still_works};
use crate::support::bridge::{SECRET, text_push};
use crate::support::eventually;
use crate::support::http::raw_post;

fn push(text: &str) -> Vec<u8> {
    raw_post(&format!("/{SECRET}"), text_push("413", text).to_string().as_bytes())
}

/// Waits until the bridge holds no connection of the test's any more.
async fn all_are_gone(world: &mut World, before: usize) {
    eventually("the connections to be gone", async || {
        (world.bridge.process().open_files() <= before + 8).then_some(())
    })
    .await;
}

#[tokio::test]
async fn peers_that_reset_anywhere() {
    let mut world = World::ready_with(|bridge| bridge.with("log.level", "info")).await;
    still_works(&world).await;
    let before = world.bridge.process().open_files();
    let lines = world.bridge.log().lines().count();
    let whole = push("cut short");
    let head = whole.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    for end in (0..whole.len()).chain([head, head + 4, whole.len()]) {
        let mut stream = Caller::ILINK.connect(world.bridge.callback_port()).await.unwrap();
        stream.write_all(&whole[..end]).await.unwrap();
        stream.set_zero_linger().unwrap();
    }
    all_are_gone(&mut world, before).await;
    still_works(&world).await;
    // What was whole may have been stored, though nobody was there to be told: that is one message, tried three times.
    let stored =
        world.client.all(|message| message.topic == "ilink/event/text" && message.json()["content"] == "cut short");
    assert!(stored.len() <= 1, "{stored:?}");
    let said = world.bridge.log().lines().count() - lines;
    assert!(said < 5, "{said} lines:\n{}", world.bridge.log());
}

#[tokio::test]
async fn peers_that_close_their_half() {
    let mut world = World::ready().await;
    let before = world.bridge.process().open_files();
    let whole = push("half closed");
    for request in [&whole[..], &whole[..whole.len() - 1], &whole[..20], b""] {
        let mut stream = Caller::ILINK.connect(world.bridge.callback_port()).await.unwrap();
        stream.write_all(request).await.unwrap();
        stream.shutdown().await.unwrap();
        // With or without an answer, it ends.
        let answer = exchange(&mut stream, b"", b"").await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1"), "{answer}");
    }
    all_are_gone(&mut world, before).await;
    still_works(&world).await;
}

#[tokio::test]
async fn peers_that_never_read_their_answers() {
    let mut world = World::ready_with(|bridge| bridge.with("log.level", "info").with_open_files(256)).await;
    let before = world.bridge.process().memory();
    // Strangers and somebody with the secret, each with more answers to come than its socket takes.
    let stranger = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10_000);
    let friend = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    let friend = [&push("unread").repeat(200)[..], &friend].concat();
    let mut deaf = Vec::new();
    for n in 0..200 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1024).unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], world.bridge.callback_port()));
        let stream = socket.connect(address).await.unwrap();
        // As much as it takes without waiting.
        let _ = stream.try_write(if n % 10 == 0 { &friend } else { &stranger });
        deaf.push(stream);
    }
    still_works(&world).await;
    let grown = world.bridge.process().memory().saturating_sub(before);
    assert!(grown < 100 * 1024, "{grown} KiB for answers that nobody reads");
    drop(deaf);
    still_works(&world).await;
}
