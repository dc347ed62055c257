//! Requests with random damage, and random bytes: whatever they do, the listener lives and the next push is answered.

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::task::JoinSet;

use super::attackers::{Caller, exchange};
use super::{World, push_from, still_works};
use crate::support::bridge::{SECRET, text_push};
use crate::support::http::raw_post;

const ROUNDS: usize = 20;
const AT_ONCE: usize = 40;

/// What can be done to a request's bytes.
#[derive(Debug, Clone)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize, usize),
    Cut(prop::sample::Index),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let end = |at: usize, size: usize, bytes: &[u8]| (at + size).min(bytes.len());
        match self {
            Self::Flip(at, with) => {
                let at = at.index(bytes.len());
                bytes[at] ^= with;
            }
            Self::Insert(at, more) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Remove(at, size) => {
                let at = at.index(bytes.len());
                bytes.drain(at..end(at, *size, bytes));
            }
            Self::Repeat(at, size, times) => {
                let at = at.index(bytes.len());
                let part = bytes[at..end(at, *size, bytes)].repeat(*times);
                bytes.splice(at..at, part);
            }
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    let tokens = prop::sample::select(vec![
        "\r\n",
        "\n",
        "\r",
        "\0",
        " ",
        ":",
        ",",
        "\r\n\r\n",
        "0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 7\r\n",
        "Expect: 100-continue\r\n",
        "Connection: keep-alive\r\n",
        "HTTP/1.0",
        "%",
        "{",
        "\"",
        "\\u",
        "[",
    ]);
    prop_oneof![
        (at(), 1..=255_u8).prop_map(|(at, with)| Damage::Flip(at, with)),
        (at(), tokens).prop_map(|(at, token)| Damage::Insert(at, token.as_bytes().to_vec())),
        (at(), prop::collection::vec(any::<u8>(), 1..50)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        (at(), 1..80_usize).prop_map(|(at, size)| Damage::Remove(at, size)),
        (at(), 1..40_usize, 1..400_usize).prop_map(|(at, size, times)| Damage::Repeat(at, size, times)),
        at().prop_map(Damage::Cut),
    ]
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let body = text_push("999", "damaged").to_string();
    let path = format!("/{SECRET}");
    let push = raw_post(&path, body.as_bytes());
    let chunked = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\nX: y\r\n\r\n",
        body.len()
    );
    let handshake = format!("GET {path}?signature=00&timestamp=1&echostr=x HTTP/1.1\r\nHost: x\r\n\r\n");
    let stranger = raw_post("/x", body.as_bytes());
    let whole =
        prop::sample::select(vec![push.repeat(2), push, chunked.into_bytes(), handshake.into_bytes(), stranger]);
    let damaged = (whole, prop::collection::vec(damage(), 1..6)).prop_map(|(mut bytes, damages)| {
        for damage in &damages {
            damage.apply(&mut bytes);
        }
        bytes
    });
    prop_oneof![9 => damaged, 1 => prop::collection::vec(any::<u8>(), 0..3000)]
}

#[tokio::test]
async fn damaged_requests_never_end_the_listener() {
    let mut world = World::ready_with(|bridge| bridge.with("log.level", "info")).await;
    let before = world.bridge.process().open_files();
    let port = world.bridge.callback_port();
    // The same requests every time.
    let mut runner = TestRunner::deterministic();
    let requests = request();
    for round in 0..ROUNDS {
        let mut all = JoinSet::new();
        for _ in 0..AT_ONCE {
            let bytes = requests.new_tree(&mut runner).unwrap().current();
            all.spawn(async move {
                let mut stream = Caller::STRANGER.connect(port).await.unwrap();
                // Many are waited for by the bridge in vain; those leave soon.
                let _ = tokio::time::timeout(Duration::from_millis(300), exchange(&mut stream, &bytes, b"")).await;
            });
        }
        push_from(&world, Caller::ILINK, &format!("round {round}")).await;
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
        }
        assert!(world.bridge.process().is_running(), "round {round}");
    }
    still_works(&world).await;
    let files = crate::support::eventually("the connections to be gone", async || {
        let files = world.bridge.process().open_files();
        (files <= before + 8).then_some(files)
    });
    files.await;
    let log = world.bridge.log();
    assert!(!log.contains("panicked") && !log.contains(SECRET), "{log}");
    assert!(log.lines().count() < 60, "{log}");
}
