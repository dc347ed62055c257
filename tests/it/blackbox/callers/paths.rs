//! Who does not know the secret learns nothing about it, however often and however near it is asked for.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use super::attackers::{Caller, exchange};
use super::{World, push_from, rejected, still_works};
use crate::support::bridge::{SECRET, text_push};
use crate::support::http::raw_post;

/// The answer to a push to `path`, whole but for the date.
async fn answer_at(port: u16, path: &str) -> String {
    let mut stream = Caller::STRANGER.connect(port).await.unwrap();
    let push = raw_post(path, text_push("413", &format!("to {path}")).to_string().as_bytes());
    // An answer that does not end the connection would be waited for in vain: the test's own request ends it.
    let closing = String::from_utf8(push).unwrap().replace("Host: bridge", "Host: bridge\r\nConnection: close");
    let answer = exchange(&mut stream, closing.as_bytes(), b"").await;
    answer.lines().filter(|line| !line.starts_with("date:")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn guesses_near_and_far_are_answered_alike() {
    let world = World::ready_with(|bridge| bridge.with("log.level", "info")).await;
    let port = world.bridge.callback_port();
    let before = world.bridge.log().lines().count();
    let hex = |n: usize| char::from(b"0123456789abcdef"[n % 16]);
    let mut guesses: Vec<String> = Vec::new();
    for n in 0..SECRET.len() {
        // Right up to the n-th letter, wrong there, cut off there.
        let mut near: Vec<char> = SECRET.chars().collect();
        near[n] = hex(n + 1);
        guesses.push(format!("/{}", near.iter().collect::<String>()));
        guesses.push(format!("/{}", &SECRET[..n]));
        guesses
            .extend((0..16).map(|m| format!("/{}{}", &SECRET[..n], hex(m).to_string().repeat(SECRET.len() - n - 1))));
    }
    guesses.extend(
        [SECRET.to_uppercase(), SECRET.repeat(2), format!("{SECRET}0"), format!("0{SECRET}")].map(|g| format!("/{g}")),
    );
    let count = guesses.len();
    let (mut answers, mut asking) = (BTreeSet::new(), JoinSet::new());
    for guess in guesses {
        if asking.len() >= 32 {
            answers.insert(asking.join_next().await.unwrap().unwrap());
        }
        asking.spawn(async move { answer_at(port, &guess).await });
    }
    while let Some(answer) = asking.join_next().await {
        answers.insert(answer.unwrap());
    }
    assert_eq!(answers.len(), 1, "{answers:#?}");
    assert!(answers.first().unwrap().starts_with("HTTP/1.1 404"), "{answers:?}");
    assert_eq!(rejected(&world, "path").await, count as u64);
    push_from(&world, Caller::ILINK, "the right one").await;
    world.client.expect_text("ilink/recv/user/413/text", "the right one").await;
    world.client.expect("ilink/event/text").await;
    world.client.settle().await;
    assert_eq!(world.client.all(|message| message.topic == "ilink/event/text").len(), 1);
    let said = world.bridge.log().lines().count() - before;
    assert!(said < 5, "{count} guesses, {said} lines");
}

#[tokio::test]
async fn detours_to_the_secret() {
    let world = World::ready().await;
    let first = format!("%{:02X}", SECRET.as_bytes()[0]);
    for (path, status) in [
        // The last segment that is not empty is what counts.
        (format!("/a/../{SECRET}"), 200),
        (format!("/./{SECRET}"), 200),
        (format!("///{SECRET}///"), 200),
        (format!("/{SECRET}/{SECRET}"), 200),
        (format!("/{SECRET}?{SECRET}/x"), 200),
        (format!("/{SECRET}/."), 404),
        (format!("/{SECRET}/.."), 404),
        (format!("/{SECRET}/x/.."), 404),
        // As it is registered, and no other way.
        (format!("/{first}{}", &SECRET[1..]), 404),
        (format!("/{SECRET}%2F"), 404),
        (format!("/%2F{SECRET}"), 404),
        (format!("/{SECRET}%00"), 404),
        (format!("/{SECRET};a=b"), 404),
        (format!("/{SECRET}%3Fx"), 404),
        (format!("/x\\{SECRET}"), 404),
        (format!("/?/{SECRET}"), 404),
        (format!("/x?a={SECRET}"), 404),
    ] {
        let answer = answer_at(world.bridge.callback_port(), &path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    still_works(&world).await;
    assert!(!world.bridge.log().contains(SECRET), "the path was logged");
}
