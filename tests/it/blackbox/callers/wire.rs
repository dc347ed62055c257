//! Bytes that are not quite HTTP, and requests hidden in others.

use serde_json::json;
use tokio::task::JoinSet;

use super::attackers::{Caller, exchange};
use super::{World, push_from, rejected, still_works};
use crate::support::bridge::{SECRET, text_push};
use crate::support::http::raw_post;
use crate::support::{DEADLINE, eventually};

/// What must come back first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Status(u16),
    /// Nothing, or a refusal; the connection ends.
    Refused,
}

use Expect::{Refused, Status};

/// A push that must never be taken for one.
fn smuggled() -> String {
    String::from_utf8(raw_post(&format!("/{SECRET}"), text_push("413", "smuggled").to_string().as_bytes())).unwrap()
}

/// A POST to the secret path with these header lines and this body.
fn post(headers: &str, body: &str) -> String {
    format!("POST /{SECRET} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n{body}")
}

/// Sends each request on a connection of its own, all at once; each must be answered as expected, and closed.
async fn expect_all(world: &World, requests: Vec<(String, Expect)>) {
    let port = world.bridge.callback_port();
    let mut all = JoinSet::new();
    for (request, expect) in requests {
        all.spawn(async move {
            let mut stream = Caller::STRANGER.connect(port).await.unwrap();
            let answer = exchange(&mut stream, request.as_bytes(), b"");
            let answer = tokio::time::timeout(DEADLINE, answer).await;
            let answer = answer.unwrap_or_else(|_| panic!("not closed: {request:.200?}"));
            let status = answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
            let fits = match expect {
                Status(wanted) => status == Some(wanted),
                Refused => status.is_none_or(|status: u16| (400..500).contains(&status)) && answer.len() < 1000,
            };
            assert!(fits, "{request:.200?}: expected {expect:?}: {answer:?}");
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
}

async fn nothing_was_smuggled(world: &World) {
    still_works(world).await;
    let smuggled = world.client.all(|message| String::from_utf8_lossy(&message.payload).contains("smuggled"));
    assert!(smuggled.is_empty(), "{smuggled:?}");
    assert!(!world.bridge.log().contains(SECRET), "the secret was logged");
}

#[tokio::test]
async fn what_is_not_http() {
    let world = World::ready().await;
    let mut requests: Vec<(String, Expect)> = [
        // HTTP/0.9, 2, and what never was.
        &format!("GET /{SECRET}\r\n\r\n"),
        &format!("POST /{SECRET} HTTP/2.0\r\n\r\n{{}}"),
        &format!("POST /{SECRET} HTTP/9.9\r\n\r\n{{}}"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        // TLS on the plain port, other protocols, nothing at all.
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "EHLO mail.example\r\n",
        "\u{10}\u{c}\0\u{4}MQTT\u{4}\u{2}\0<\0\0",
        "{\"from_uid\":\"413\"}\r\n\r\n",
        "\0\0\0\0\0\0\0\0",
        "   / HTTP/1.1\r\n\r\n",
        "GET  HTTP/1.1\r\n\r\n",
        // Header lines that are none.
        &post(" folded: x\r\n", "{}"),
        &post("A: b\r\n obsolete folding\r\n", "{}"),
        &post("Content-Length : 2\r\n", "{}"),
        &post("A\0B: c\r\n", "{}"),
        &post("A: b\0c\r\n", "{}"),
        &post("A: b\rContent-Length: 2\r\n", "{}"),
        &post("no colon\r\n", "{}"),
        &post(": no name\r\n", "{}"),
        "GET /a b HTTP/1.1\r\n\r\n",
        "GET /\u{7f}\u{1} HTTP/1.1\r\n\r\n",
    ]
    .map(|request| (request.to_owned(), Refused))
    .into();
    let malformed = requests.len();
    // Too much of it.
    let many = (0..200).fold(String::new(), |lines, n| lines + &format!("X-{n}: y\r\n"));
    requests.extend([
        (post(&format!("X: {}\r\n", "y".repeat(40_000)), "{}"), Status(431)),
        (post(&many, "{}"), Status(431)),
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(200_000)), Status(431)),
        (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(10_000)), Status(404)),
        (format!("GET /?{} HTTP/1.1\r\nHost: x\r\n\r\n", "x&".repeat(5000)), Status(404)),
    ]);
    // Unusual, and allowed.
    let whole = text_push("413", "whole").to_string();
    let length = format!("Content-Length: {}\r\n", whole.len());
    requests.extend([
        (post(&length, &whole).replace("HTTP/1.1", "HTTP/1.0"), Status(200)),
        (post(&length, &whole).replace(&format!("/{SECRET}"), &format!("http://elsewhere/{SECRET}")), Status(200)),
        (post(&length, &whole).replace("\r\n", "\n"), Status(200)),
        (post(&format!("{length}Upgrade: h2c, websocket\r\n"), &whole), Status(200)),
        (post(&format!("{length}Expect: 100-continue\r\n"), &whole), Status(100)),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), Status(404)),
        ("CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), Status(404)),
        (format!("CONNECT /{SECRET} HTTP/1.1\r\nHost: x\r\n\r\n"), Refused),
        (format!("HEAD /{SECRET} HTTP/1.1\r\nHost: x\r\n\r\n"), Status(405)),
        (format!("TRACE /{SECRET} HTTP/1.1\r\nHost: x\r\nMax-Forwards: 0\r\n\r\n"), Status(405)),
        // Refused without the body being asked for.
        ("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n".to_owned(), Status(404)),
    ]);
    expect_all(&world, requests).await;
    still_works(&world).await;
    let counted = rejected(&world, "malformed").await;
    assert!(counted >= malformed as u64, "{counted} of {malformed} are counted");
    assert!(!world.bridge.log().contains(SECRET), "the secret was logged");
}

#[tokio::test]
async fn requests_hidden_in_others() {
    let world = World::ready().await;
    let hidden = smuggled();
    let mut requests = Vec::new();
    // Two lengths, or one and chunks: whatever a proxy in front makes of these, this end takes no second request out of them.
    let end = format!("0\r\n\r\n{hidden}");
    let chunked = format!("2\r\n{{}}\r\n0\r\n\r\n{hidden}");
    for (length, body, expect) in [(end.len(), &end, Status(200)), (4, &end, Status(200)), (4, &chunked, Status(200))] {
        requests.push((format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"), body.clone(), expect));
        requests.push((format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n"), body.clone(), expect));
    }
    for headers in [
        "Content-Length: 2\r\nContent-Length: 300\r\n",
        "Content-Length: 0\r\nContent-Length: 2\r\n",
        "Content-Length: 2, 2\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: -2\r\n",
        "Content-Length: 0x2\r\n",
        "Content-Length: 2 2\r\n",
        "Content-Length: \r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 18446744073709551615\r\n",
        "Content-Length: 99999999999999999999999999\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
    ] {
        requests.push((headers.to_owned(), format!("{{}}{hidden}"), Refused));
    }
    // Chunks that are none; the last ones never end.
    for body in [
        "zz\r\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "+2\r\n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}0\r\n\r\n",
        "2\r\n{}xx0\r\n\r\n",
        "FFFFFFFFFFFFFFFF\r\n{}",
        "FFFFFFFFFFFFFFFFF\r\n{}",
        "\r\n\r\n",
        "0\r\nContent-Length: 0\r\nno trailer\r\n\r\n",
    ] {
        requests.push(("Transfer-Encoding: chunked\r\n".to_owned(), format!("{body}{hidden}"), Refused));
    }
    let extension = format!("2;{}\r\n{{}}\r\n0\r\n\r\n{hidden}", "x".repeat(40_000));
    requests.push(("Transfer-Encoding: chunked\r\n".to_owned(), extension, Refused));
    let trailers = format!("2\r\n{{}}\r\n0\r\n{}\r\n{hidden}", "X: y\r\n".repeat(10_000));
    requests.push(("Transfer-Encoding: chunked\r\n".to_owned(), trailers, Refused));
    let requests = requests.into_iter().map(|(headers, body, expect)| (post(&headers, &body), expect));
    // The same without the word that ends the connection anyway.
    let requests: Vec<_> =
        requests.flat_map(|(r, expect)| [(r.replace("Connection: close\r\n", ""), expect), (r, expect)]).collect();
    expect_all(&world, requests).await;
    nothing_was_smuggled(&world).await;
}

#[tokio::test]
async fn small_extensions_and_trailers_are_allowed() {
    let world = World::ready().await;
    let push = text_push("413", "in chunks").to_string();
    let (a, b) = push.split_at(7);
    let body = format!("7;name=value\r\n{a}\r\n{:X} ;x\r\n{b}\r\n000\r\nContent-Length: 3\r\nX: y\r\n\r\n", b.len());
    expect_all(&world, vec![(post("Transfer-Encoding: CHUNKED\r\n", &body), Status(200))]).await;
    world.client.expect_text("ilink/recv/user/413/text", "in chunks").await;
}

#[tokio::test]
async fn many_requests_in_one_segment() {
    let world = World::ready().await;
    let connect = || Caller::ILINK.connect(world.bridge.callback_port());
    let push = |text: &str| raw_post(&format!("/{SECRET}"), text_push("413", text).to_string().as_bytes());

    let mut all: Vec<u8> = (0..100).flat_map(|n| push(&format!("pipelined {n}"))).collect();
    all.extend(post("Content-Length: 2\r\n", "[]").as_bytes());
    let answers = exchange(&mut connect().await.unwrap(), &all, b"").await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 101, "{answers}");
    assert_eq!(answers.matches("{\"code\":0}").count(), 101, "{answers}");
    for n in 0..100 {
        world.client.expect_text("ilink/recv/user/413/text", &format!("pipelined {n}")).await;
    }

    // One that nobody understands is kept, and the next one is taken.
    let bad = post("Content-Length: 2\r\n", "[]").replace("Connection: close\r\n", "").into_bytes();
    let both = [bad, push("after a bad one")].concat();
    let answers = exchange(&mut connect().await.unwrap(), &both, b"{\"code\":0}HTTP/1.1 200").await;
    assert!(answers.starts_with("HTTP/1.1 200") && answers.contains("{\"code\":0}HTTP/1.1 200"), "{answers}");
    world.client.expect_text("ilink/recv/user/413/text", "after a bad one").await;

    // A stranger's ends the connection: what stands behind it gets no answer, and is not stored.
    for refused in ["POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", "GET /x HTTP/1.1\r\nHost: x\r\n\r\n"]
    {
        let both = [refused.as_bytes(), smuggled().as_bytes()].concat();
        let answers = exchange(&mut connect().await.unwrap(), &both, b"").await;
        assert_eq!(answers.matches("HTTP/1.1").count(), 1, "{answers}");
        assert!(answers.starts_with("HTTP/1.1 404"), "{answers}");
    }
    nothing_was_smuggled(&world).await;
}

#[tokio::test]
async fn tls_and_plain_text_mixed_up() {
    use crate::support::pki::Authority;

    let _alone = super::attackers::alone().await;
    let pki = Authority::new("the test's authority");
    let world = World::ready_with(|bridge| bridge.with_callback_over_tls(&pki).with("log.level", "info")).await;
    // Handshakes that begin well and stall, by the thousand; plain text; a connection that says nothing.
    let stalled =
        super::attackers::Habit { opening: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), trickle: b"\0" };
    let port = world.bridge.callback_port();
    let habits = [stalled, super::attackers::Habit::silent()];
    let attackers = super::attackers::Attackers::start(port, 1500, super::attackers::From::Many, &habits);
    attackers.connected(1500).await;
    // In such a crowd one may have to make way before it was looked at; not every time.
    eventually("plain text to be refused as such", async || {
        expect_all(&world, vec![(smuggled(), Refused), ("GET / HTTP/1.1\r\n\r\n".to_owned(), Refused)]).await;
        (rejected(&world, "malformed").await >= 2).then_some(())
    })
    .await;
    for n in 0..10 {
        let text = format!("over TLS {n}");
        let push = json!({"from_uid": "413", "text": text});
        // iLink gives up after three times five seconds, which a busy machine may need for itself; not every time.
        let mut pushed = world.sim.push(&push).await.json();
        for _ in 0..4 {
            if pushed["outcome"] == "unanswered" {
                pushed = world.sim.push(&push).await.json();
            }
        }
        assert_eq!(pushed["outcome"], "answered", "{pushed}");
        world.client.expect_text("ilink/recv/user/413/text", &text).await;
    }
    drop(attackers);
    let lines = world.bridge.log().lines().count();
    assert!(lines < 40, "{lines} lines:\n{}", world.bridge.log());
    let all = world.client.all(|message| String::from_utf8_lossy(&message.payload).contains("smuggled"));
    assert!(all.is_empty(), "{all:?}");
}

#[tokio::test]
async fn the_admin_listener_hears_the_same() {
    let world = World::ready().await;
    let port = world.bridge.admin_port();
    for request in [
        "GET /healthz\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        &format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000)),
        "GET /readyz HTTP/1.1\r\nHost: localhost\0\r\n\r\n",
        "GET /readyz HTTP/1.1\r\nConnection: close\r\n\r\n",
    ] {
        let mut stream = Caller::STRANGER.connect(port).await.unwrap();
        let answer = tokio::time::timeout(DEADLINE, exchange(&mut stream, request.as_bytes(), b"")).await;
        let answer = answer.expect("it is closed");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{request:.100?}: {answer}");
    }
    push_from(&world, Caller::ILINK, "aside").await;
    assert_eq!(world.bridge.admin("healthz").await.status, 200);
}
