//! `callback.allow` and `callback.trusted_proxies`, from outside.

use serde_json::json;

use super::attackers::{Caller, exchange};
use super::{World, rejected};
use crate::support::bridge::{Bridge, SECRET, text_push};
use crate::support::eventually;
use crate::support::http::Answer;

/// The proxy of these tests, and iLink as the configurations name it.
const PROXY: Caller = Caller(std::net::Ipv4Addr::new(127, 0, 0, 80));
const LISTS: (&str, &str) =
    (r#"["127.0.0.2/32", "198.51.100.0/24", "2001:db8::/32"]"#, r#"["127.0.0.80/32", "10.0.0.0/8"]"#);

/// A bridge that cannot be called by the simulator, and so is never ready; but it listens.
async fn guarded(configure: impl FnOnce(Bridge) -> Bridge) -> World {
    let (allow, proxies) = LISTS;
    let mut world = World::prepared(&[], |bridge| {
        configure(bridge.with_toml("callback.allow", allow).with_toml("callback.trusted_proxies", proxies))
    })
    .await;
    world.bridge.spawn();
    world.bridge.wait_listening().await;
    world
}

/// The status of a push from `caller` with these header lines.
async fn status(world: &World, caller: Caller, headers: &str) -> u16 {
    let body = text_push("413", headers).to_string();
    let length = body.len();
    let request = format!(
        "POST /{SECRET} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    let mut stream = caller.connect(world.bridge.callback_port()).await.unwrap();
    let answer = exchange(&mut stream, request.as_bytes(), b"").await;
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{headers}: {answer:?}"))
}

#[tokio::test]
async fn a_handshake_that_is_not_allowed_is_the_cause() {
    let world = guarded(|bridge| bridge).await;
    eventually("the cause", async || {
        let status = world.bridge.verb(&["status"]).await.stdout;
        status.contains("its GET came from 127.0.0.1, which callback.allow does not have").then_some(())
    })
    .await;
}

#[tokio::test]
async fn whom_the_lists_name_is_heard() {
    let world = guarded(|bridge| bridge).await;
    let mut refused = 0;
    for (caller, headers, expected) in [
        // Directly: who it is, whatever it claims to be.
        (Caller::ILINK, "", 200),
        (Caller::ILINK, "X-Forwarded-For: 203.0.113.1\r\n", 200),
        (Caller::STRANGER, "", 403),
        (Caller::STRANGER, "X-Forwarded-For: 127.0.0.2\r\n", 403),
        (Caller::STRANGER, "X-Forwarded-For: 198.51.100.7, 127.0.0.80\r\nX-Real-IP: 127.0.0.2\r\n", 403),
        // Through the proxy: the last that is not one of ours.
        (PROXY, "X-Forwarded-For: 198.51.100.7\r\n", 200),
        (PROXY, "x-forwarded-FOR:198.51.100.7\r\n", 200),
        (PROXY, "X-Forwarded-For: 203.0.113.1\r\n", 403),
        (PROXY, "X-Forwarded-For: 198.51.100.7, 203.0.113.1\r\n", 403),
        (PROXY, "X-Forwarded-For: 203.0.113.1, 198.51.100.7\r\n", 200),
        (PROXY, "X-Forwarded-For: 198.51.100.7, 10.1.2.3\r\n", 200),
        (PROXY, "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-For: 203.0.113.1\r\n", 403),
        (PROXY, "X-Forwarded-For: 203.0.113.1\r\nX-Forwarded-For: 198.51.100.7\r\n", 200),
        (PROXY, "X-Forwarded-For: 203.0.113.1, 198.51.100.7\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n", 200),
        (PROXY, "X-Forwarded-For: 198.51.100.7:4711\r\n", 200),
        (PROXY, "X-Forwarded-For: 2001:db8::7\r\n", 200),
        (PROXY, "X-Forwarded-For: [2001:db8::7]\r\n", 200),
        (PROXY, "X-Forwarded-For: [2001:db8::7]:4711\r\n", 200),
        (PROXY, "X-Forwarded-For: [2001:db9::7]:4711\r\n", 403),
        (PROXY, "X-Forwarded-For: ::ffff:198.51.100.7\r\n", 200),
        (PROXY, "X-Forwarded-For: ::ffff:203.0.113.1\r\n", 403),
        (PROXY, "X-Forwarded-For: 198.51.100.7,,\r\n", 200),
        // What cannot be read is nobody; nor is the proxy itself on the list.
        (PROXY, "X-Forwarded-For: unknown\r\n", 403),
        (PROXY, "X-Forwarded-For: 198.51.100.7, unknown\r\n", 403),
        (PROXY, "X-Forwarded-For: 198.51.100.7;\r\n", 403),
        (PROXY, "X-Forwarded-For: \u{fc}\r\n", 403),
        (PROXY, "X-Forwarded-For: \u{fc}, 198.51.100.7\r\n", 200),
        (PROXY, "X-Forwarded-For:\r\n", 403),
        (PROXY, "", 403),
    ] {
        assert_eq!(status(&world, caller, headers).await, expected, "{caller:?} {headers:?}");
        refused += u64::from(expected == 403);
    }
    // And the simulator's handshake, whose address is not on the list.
    let counted = rejected(&world, "address").await;
    assert!(counted >= refused, "{counted} of {refused}");
    // The path tells nothing to who is refused.
    let elsewhere = Answer::of(crate::support::http::http().get(world.bridge.callback_at("/elsewhere"))).await;
    assert_eq!(elsewhere.status, 403);
}

#[tokio::test]
async fn a_proxy_on_the_list_does_not_vouch_for_everybody() {
    let world = guarded(|bridge| bridge.with_toml("callback.allow", r#"["127.0.0.80/32", "198.51.100.0/24"]"#)).await;
    for (headers, expected) in [
        ("", 200),
        ("X-Forwarded-For: 198.51.100.7\r\n", 200),
        ("X-Forwarded-For: 203.0.113.1\r\n", 403),
        ("X-Forwarded-For: unknown\r\n", 403),
        ("X-Forwarded-For: \u{fc}\r\n", 403),
        ("X-Forwarded-For: 127.0.0.80, 203.0.113.1\r\n", 403),
    ] {
        assert_eq!(status(&world, PROXY, headers).await, expected, "{headers:?}");
    }
}

#[tokio::test]
async fn a_dual_stack_listener_sees_ipv4_as_ipv4() {
    let world = guarded(|bridge| {
        let listen = format!("[::]:{}", bridge.callback_port());
        bridge
            .with("callback.listen", &listen)
            .with_toml("callback.allow", r#"["::ffff:127.0.0.2/128", "198.51.100.0/24"]"#)
    })
    .await;
    assert_eq!(status(&world, Caller::ILINK, "").await, 200);
    assert_eq!(status(&world, Caller::STRANGER, "").await, 403);
    assert_eq!(status(&world, PROXY, "X-Forwarded-For: 198.51.100.7\r\n").await, 200);
    let mut v6 = tokio::net::TcpStream::connect(("::1", world.bridge.callback_port())).await.expect("IPv6 on loopback");
    let answer = exchange(&mut v6, format!("GET /{SECRET} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes(), b"").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn the_lists_hold_over_tls_too() {
    use crate::support::pki::Authority;

    let pki = Authority::new("the test's authority");
    let tls = |bridge: Bridge| {
        bridge
            .with_callback_over_tls(&pki)
            .with_toml("callback.allow", r#"["127.0.0.1/32"]"#)
            .with_toml("callback.trusted_proxies", r#"["127.0.0.80/32"]"#)
    };
    let world = World::ready_with(tls).await;
    assert_eq!(world.sim.push(&json!({"from_uid": "413", "text": "from the list"})).await.status, 200);
    world.client.expect_text("ilink/recv/user/413/text", "from the list").await;
    let client = |source: Caller| {
        reqwest::Client::builder()
            .local_address(std::net::IpAddr::from(source.0))
            .tls_danger_accept_invalid_certs(true)
            .no_proxy()
            .build()
            .unwrap()
    };
    let url = format!("https://127.0.0.1:{}/{SECRET}", world.bridge.callback_port());
    for (caller, forwarded, expected) in
        [(Caller::STRANGER, "127.0.0.1", 403), (PROXY, "127.0.0.1", 200), (PROXY, "203.0.113.1", 403)]
    {
        let push = text_push("413", &format!("{caller:?} {forwarded}"));
        let request = client(caller).post(&url).header("X-Forwarded-For", forwarded).json(&push);
        assert_eq!(Answer::of(request).await.status, expected, "{caller:?} {forwarded}");
    }
}

#[tokio::test]
async fn those_not_on_the_list_crowd_nobody_out() {
    use super::attackers::{Attackers, From, Habit};

    let _alone = super::attackers::alone().await;
    let world = guarded(|bridge| bridge.with_open_files(256).with("log.level", "info")).await;
    // They connect as the list's own would, and sit there.
    let port = world.bridge.callback_port();
    let mut first = Caller::ILINK.connect(port).await.unwrap();
    let attackers = Attackers::start(port, 400, From::Many, &[Habit::silent()]);
    attackers.connected(400).await;
    let push =
        crate::support::http::raw_post(&format!("/{SECRET}"), text_push("413", "patient").to_string().as_bytes());
    let answer = exchange(&mut first, &push, b"{\"code\":0}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "it was the oldest of all, and not a stranger: {answer:?}");
}
