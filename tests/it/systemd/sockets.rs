//! Listening sockets that outlive the process: an upgrade refuses nobody.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use crate::blackbox::world::World;
use crate::support::bridge::{Bridge, text_push};
use crate::support::http::{Answer, http};
use crate::support::sim::Sim;

fn listening() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[tokio::test]
async fn an_upgrade_under_load_drops_no_push() {
    const PUSHERS: usize = 8;
    let mut world = World::prepared(&[], |bridge| bridge.with_socket("callback", listening())).await;
    world.bridge.start().await;
    let (url, stop, answered) =
        (world.bridge.callback(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut pushers = JoinSet::new();
    for pusher in 0..PUSHERS {
        let (url, stop, answered) = (url.clone(), Arc::clone(&stop), Arc::clone(&answered));
        pushers.spawn(async move {
            let (http, mut texts, mut slowest) = (http(), Vec::new(), Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                let text = format!("{pusher} {}", texts.len());
                let began = Instant::now();
                // Not one is refused, cut or answered otherwise: no retry could hide it.
                let answer = Answer::of(http.post(&url).json(&text_push(&pusher.to_string(), &text))).await;
                assert_eq!((answer.status, answer.json()), (200, json!({"code": 0})), "{text}");
                slowest = slowest.max(began.elapsed());
                texts.push((pusher.to_string(), text));
                answered.fetch_add(1, Ordering::Relaxed);
            }
            (texts, slowest)
        });
    }
    let more = async |what: &str| {
        let before = answered.load(Ordering::Relaxed);
        crate::support::eventually(what, async || {
            (answered.load(Ordering::Relaxed) > before + 5 * PUSHERS).then_some(())
        })
        .await;
    };
    more("pushes before").await;
    for _ in 0..3 {
        assert_eq!(world.bridge.stop().await.code(), Some(0));
        // Here nobody accepts: connections wait in the socket.
        world.bridge.spawn();
        more("pushes after the upgrade").await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut texts, mut slowest) = (Vec::new(), Duration::ZERO);
    while let Some(pushed) = pushers.join_next().await {
        let (pushed, slow) = pushed.unwrap();
        texts.extend(pushed);
        slowest = slowest.max(slow);
    }
    world.bridge.wait_ready().await;
    world
        .client
        .until("every push", |all| {
            let seen: std::collections::HashSet<_> =
                all.iter().map(|message| (message.topic.as_str(), message.payload.as_ref())).collect();
            texts
                .iter()
                .all(|(from, text)| seen.contains(&(format!("ilink/recv/user/{from}/text").as_str(), text.as_bytes())))
        })
        .await;
    println!("{} pushes over 3 upgrades, all answered 0 and delivered; the slowest waited {slowest:?}", texts.len());
}

#[tokio::test]
async fn a_push_that_comes_while_no_bridge_runs_waits_for_it() {
    let mut world = World::prepared(&[], |bridge| bridge.with_socket("ilink2mqtt.socket", listening())).await;
    let (url, push) = (world.bridge.callback(), text_push("413", "early"));
    let pushing = tokio::spawn(async move { Answer::of(http().post(url).json(&push)).await });
    world.bridge.start().await;
    let answer = pushing.await.unwrap();
    assert_eq!((answer.status, answer.json()), (200, json!({"code": 0})));
    world.client.expect_text("ilink/recv/user/413/text", "early").await;
    world.bridge.logged("listening on a socket of the service manager's, not on callback.listen").await;
}

#[tokio::test]
async fn the_admin_listener_may_be_handed_over_too() {
    let mut world = World::prepared(&[], |bridge| bridge.with_socket("admin", listening())).await;
    world.bridge.start().await;
    assert_eq!(world.bridge.admin("healthz").await.status, 200);
    world.bridge.push(&text_push("413", "x")).await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    // Off loopback it needs a token, wherever the socket comes from.
    let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
    let mut bridge = Bridge::new(&world.broker, &world.sim).with_socket("admin", everywhere);
    bridge.spawn();
    assert_eq!(bridge.process().ended().await.code(), Some(64), "{}", bridge.log());
    assert!(bridge.log().contains("admin.token"), "{}", bridge.log());
}

#[tokio::test]
async fn sockets_that_are_not_meant_or_cannot_be_used() {
    let bridge = || Bridge::at("mqtt://127.0.0.1:1", &Sim::absent(&[]));
    // Another process's: not looked at.
    let stray = [("LISTEN_PID", "1"), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "callback")];
    let mut alone = stray.iter().fold(bridge(), |bridge, (name, value)| bridge.with_env(name, value));
    alone.spawn();
    alone.wait_listening().await;
    assert_eq!(alone.stop().await.code(), Some(0));
    // Names that say nothing of what they are for.
    let mut unknown = bridge().with_socket("callback:callback", listening()).with_env("LISTEN_FDS", "2");
    unknown.spawn();
    assert_eq!(unknown.process().ended().await.code(), Some(64));
    assert!(unknown.log().contains("FileDescriptorName=callback"), "{}", unknown.log());
}
