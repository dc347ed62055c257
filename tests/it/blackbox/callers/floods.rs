//! As much as callers can send: bad requests, and good ones.

use std::time::{Duration, Instant};

use reqwest::Method;
use tokio::task::JoinSet;

use super::attackers::{Caller, exchange};
use super::{World, in_time, push_from, rejected, still_works};
use crate::support::bridge::{SECRET, text_push};
use crate::support::http::{Answer, http, raw_post};

#[tokio::test]
async fn a_flood_of_refusals_does_not_flood_the_log() {
    const EACH: usize = 100;
    let marker = "this-must-not-be-logged";
    let world = World::ready_with(|bridge| {
        bridge.with("log.level", "info").with("callback.max_body", "4KiB").with_toml("callback.strict_to_uid", "true")
    })
    .await;
    let lines = world.bridge.log().lines().count();
    let (url, too_large) = (world.bridge.callback(), format!("{{\"a\":\"{}\"}}", marker.repeat(1000)));
    let forged = format!("{url}?signature={marker}&timestamp=1&echostr=x");
    let mut for_another = text_push("413", marker);
    for_another["to_uid"] = marker.into();
    let refusals = [
        ("path", 404, http().post(world.bridge.callback_at(&format!("/{marker}"))).body("{}")),
        ("method", 405, http().request(Method::DELETE, &url)),
        ("parameters", 400, http().get(format!("{url}?{marker}"))),
        ("signature", 403, http().get(forged)),
        ("size", 413, http().post(&url).body(too_large)),
        ("json", 200, http().post(&url).body(format!("[\"{marker}\"]"))),
        ("uid", 403, http().post(&url).json(&for_another)),
    ];
    for (reason, status, request) in refusals {
        let before = rejected(&world, reason).await;
        let mut all = JoinSet::new();
        for _ in 0..EACH {
            all.spawn(Answer::try_of(request.try_clone().unwrap()));
        }
        while let Some(answer) = all.join_next().await {
            assert_eq!(answer.unwrap().expect("an answer").status, status, "{reason}");
        }
        assert_eq!(rejected(&world, reason).await - before, EACH as u64, "{reason}");
    }
    still_works(&world).await;
    let log = world.bridge.log();
    let said = log.lines().count() - lines;
    assert!(said <= 14, "{said} lines for 7 kinds:\n{log}");
    assert!(!log.contains(marker) && !log.contains(SECRET), "{log}");
}

#[tokio::test]
async fn nothing_of_a_request_is_ever_logged() {
    let marker = "this-must-not-be-logged";
    let world = World::ready_with(|bridge| bridge.with("log.level", "trace")).await;
    let port = world.bridge.callback_port();
    for request in [
        format!("GET /{marker}?{marker} HTTP/1.1\r\nHost: {marker}\r\n\r\n"),
        format!("GET /{SECRET}?{marker} HTTP/1.1\r\nHost: {marker}\r\nConnection: close\r\n\r\n"),
        format!("{marker} /{SECRET} HTTP/1.1\r\nHost: {marker}\r\nX: {marker}\r\nConnection: close\r\n\r\n"),
        format!("{marker}\r\n\r\n"),
        format!("POST /{SECRET} HTTP/1.1\r\nHost: x\r\n{marker}\r\n\r\n"),
        format!("POST /{SECRET} HTTP/1.1\r\nContent-Length: {marker}\r\n\r\n"),
        format!("POST /{SECRET} HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{marker}\r\n"),
        String::from_utf8(raw_post(&format!("/{SECRET}"), format!("{{\"content\":{marker}}}").as_bytes()))
            .unwrap()
            .replace("Host:", "Connection: close\r\nHost:"),
    ] {
        let mut stream = Caller::STRANGER.connect(port).await.unwrap();
        exchange(&mut stream, request.as_bytes(), b"").await;
    }
    push_from(&world, Caller::ILINK, marker).await;
    world.client.expect_text("ilink/recv/user/413/text", marker).await;
    let log = world.bridge.log();
    assert!(!log.contains(marker) && !log.contains(SECRET), "{log}");
}

#[tokio::test]
async fn a_flood_of_pushes_delays_no_other() {
    let _alone = super::attackers::alone().await;
    let world = World::ready_with(|bridge| bridge.with("log.level", "info")).await;
    let port = world.bridge.callback_port();
    let mut floods = JoinSet::new();
    for flood in 0..16 {
        floods.spawn(async move {
            let mut stream = Caller::STRANGER.connect(port).await.unwrap();
            for n in 0.. {
                let push = text_push("666", &format!("flood {flood} {n}")).to_string();
                let request = raw_post(&format!("/{SECRET}"), push.as_bytes());
                let answer = exchange(&mut stream, &request, b"{\"code\":0}").await;
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            }
        });
    }
    let (round, took) = in_time("a flood of pushes", async |round| {
        let mut took = Vec::new();
        for n in 0..50 {
            took.push(push_from(&world, Caller::ILINK, &format!("between {round}.{n}")).await);
        }
        took
    })
    .await;
    floods.abort_all();
    eprintln!("pushes during a flood of pushes: median {:?}, slowest {:?}", took[25], took[49]);
    world.client.expect_text("ilink/recv/user/413/text", &format!("between {round}.49")).await;
}

#[tokio::test]
async fn only_so_many_wait_for_a_full_spool() {
    // 256 of them are held.
    const ALL: usize = 320;
    let _alone = super::attackers::alone().await;
    let mut world = World::ready_with(|bridge| bridge.with("spool.max_bytes", "1MiB").with("log.level", "info")).await;
    world.broker.stop();
    // Coarsely, then up to the last KiB.
    for size in [100_000, 1000] {
        let text = "x".repeat(size);
        for n in 0.. {
            assert!(n < 200, "the cap does not hold");
            if world.bridge.try_post(&text_push("413", &format!("{n} {text}"))).await.is_none() {
                break;
            }
        }
    }
    let text = "x".repeat(2000);
    let before = world.bridge.process().memory();
    let port = world.bridge.callback_port();
    // Who is held is held for 6 s; on a busy machine who is not may have to wait as long, but not every time.
    let mut seen = Vec::new();
    while !seen.iter().any(|(waited, at_once)| *waited > 0 && *at_once > 0) {
        assert!(seen.len() < 5, "waited, and did not: {seen:?}");
        let mut all = JoinSet::new();
        let began = Instant::now();
        for n in 0..ALL {
            let push = text_push("413", &format!("waiting {} {n} {text}", seen.len())).to_string();
            let request = raw_post(&format!("/{SECRET}"), push.as_bytes());
            all.spawn(async move {
                let mut stream = Caller::ILINK.connect(port).await.unwrap();
                let answer = exchange(&mut stream, &request, b"\r\n\r\n").await;
                (began.elapsed(), answer)
            });
        }
        let (mut waited, mut at_once) = (0, 0);
        while let Some(ended) = all.join_next().await {
            let (took, answer) = ended.unwrap();
            assert_eq!(answer, "", "a push that cannot be stored is answered");
            *if took < Duration::from_secs(6) { &mut at_once } else { &mut waited } += 1;
        }
        seen.push((waited, at_once));
    }
    let memory = world.bridge.process().memory();
    eprintln!("full spool: waited and did not: {seen:?}; memory {before} KiB, then {memory} KiB");
    world.broker.restart();
    world.client.expect_where("the first push", |message| message.topic == "ilink/recv/user/413/text").await;
}
