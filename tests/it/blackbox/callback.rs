//! The callback listener as the service and strangers meet it: handshakes, refusals, repeats.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use super::callers::rejected;
use super::world::World;
use crate::admin::metrics::counted;
use crate::support::DEADLINE;
use crate::support::bridge::{Bridge, SECRET, base64, text_push};
use crate::support::http::{Answer, http, raw_connection, raw_post, read_to_close};

#[tokio::test]
async fn strangers_learn_nothing() {
    let world = World::ready().await;
    let bridge = &world.bridge;
    let wrong_secret = SECRET.replace('0', "1");
    for path in ["/", "/x", &format!("/{wrong_secret}"), &format!("/{SECRET}/x"), &format!("/x{SECRET}"), "/healthz"] {
        for method in [Method::GET, Method::POST] {
            let answer = bridge.request(method.clone(), path).await;
            assert_eq!((answer.status, answer.body.as_str()), (404, ""), "{method} {path}: {answer:?}");
        }
    }
    for method in [Method::PUT, Method::DELETE, Method::PATCH] {
        let answer = bridge.request(method.clone(), &format!("/{SECRET}")).await;
        assert_eq!(answer.status, 405, "{method}: {answer:?}");
        assert_eq!(bridge.request(method, "/x").await.status, 404, "the method tells nothing without the secret");
    }
}

#[tokio::test]
async fn handshakes() {
    use ilink2mqtt::protocol::{Variant, signature};
    const TOKEN: &str = "abcdefghij";

    let world = World::ready_with(|bridge| bridge.with("callback.token", TOKEN)).await;
    let get = async |query: &str| world.bridge.request(Method::GET, &format!("/{SECRET}?{query}")).await;
    assert_eq!(get("").await.status, 400);
    assert_eq!(get("signature=x&timestamp=1").await.status, 400);
    let forged = get("signature=d41d8cd98f00b204e9800998ecf8427e&timestamp=1457408202&echostr=hello").await;
    assert_eq!((forged.status, forged.body.as_str()), (403, ""), "{forged:?}");
    // Sorted in three different ways, these strings differ for each variant.
    for variant in [Variant::Params, Variant::Plain, Variant::Chars] {
        let (timestamp, echostr) = ("1457408202", "Zz91<b>%");
        let signature = signature::sign(variant, TOKEN, timestamp, echostr);
        for signature in [signature.to_lowercase(), signature.to_uppercase()] {
            let query = format!("signature={signature}&timestamp={timestamp}&echostr=Zz91%3Cb%3E%25");
            let answer = get(&query).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, echostr), "{variant}: {answer:?}");
            assert!(answer.header("content-type").starts_with("text/plain"), "{answer:?}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff");
        }
    }
}

#[tokio::test]
async fn a_pinned_signature_refuses_the_others() {
    use ilink2mqtt::protocol::{Variant, signature};
    const TOKEN: &str = "abcdefghij";

    let world =
        World::ready_with(|bridge| bridge.with("callback.token", TOKEN).with("callback.signature", "chars")).await;
    for (variant, status) in [(Variant::Params, 403), (Variant::Plain, 403), (Variant::Chars, 200)] {
        let signature = signature::sign(variant, TOKEN, "1457408202", "Zz91");
        let path = format!("/{SECRET}?signature={signature}&timestamp=1457408202&echostr=Zz91");
        assert_eq!(world.bridge.request(Method::GET, &path).await.status, status, "{variant}");
    }
}

#[tokio::test]
async fn every_variant_of_the_service_registers() {
    for variant in ["chars", "params", "plain"] {
        // With a token that sorts before the time, as one in fifty made ones does, two variants are the same text.
        let configure = |bridge: Bridge| bridge.with("callback.token", "abcdefghij");
        let mut world = World::prepared(&["--signature", variant], configure).await;
        world.bridge.start().await;
        let info = world.client.expect_json("ilink/bridge/info", |info| info["signature_variant"].is_string()).await;
        assert_eq!(info["signature_variant"], json!(variant));
    }
}

#[tokio::test]
async fn proxies_may_strip_or_add_a_prefix_and_a_query() {
    let world = World::ready_with(|bridge| {
        let url = format!("http://127.0.0.1:{}/hooks/ilink?site=7", bridge.callback_port());
        bridge.with("callback.public_url", &url)
    })
    .await;
    let state = world.sim.state().await;
    let registered = state["registrations"][0]["url"].as_str().unwrap();
    assert!(registered.ends_with(&format!("/hooks/ilink/{SECRET}?site=7")), "{registered}");
    for (n, path) in ["", "/hooks/ilink", "/a/b/c", "//"].into_iter().enumerate() {
        for tail in ["", "/", "?site=7", "/?x=y&x=z"] {
            let text = format!("{n}{tail}");
            let url = world.bridge.callback_at(&format!("{path}/{SECRET}{tail}"));
            let answer = Answer::of(http().post(&url).json(&text_push("413", &text))).await;
            assert_eq!(answer.status, 200, "{url}");
            world.client.expect_text("ilink/recv/user/413/text", &text).await;
        }
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_kept() {
    let world = World::ready().await;
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let utf16: Vec<u8> = "{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let bodies = ["not json", "[]", "1", "null", "\"text\"", "{\"a\":1", "{} {}", "{\"a\":1,}", " ", "\0", &deep];
    let bodies: Vec<Vec<u8>> = bodies.into_iter().map(Vec::from).chain([utf16, b"\xff\xfe".to_vec()]).collect();
    for body in &bodies {
        let answer = world.bridge.post_bytes(body.clone()).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"code": 0})), "{body:.20?}");
        let event = world.client.expect("ilink/event/other").await.json();
        assert_eq!((event["body_base64"].as_str(), event.get("body")), (Some(&*base64(body)), None), "{body:.20?}");
    }
    assert_eq!(rejected(&world, "json").await, bodies.len() as u64);
    let warned = world.bridge.log().matches("a push is not a JSON object").count();
    assert_eq!(warned, 1, "{}", world.bridge.log());
    assert!(!world.bridge.log().contains("not json"), "a push's text was logged");
    // Nothing is no message.
    let empty = world.bridge.post_bytes(Vec::new()).await;
    assert_eq!((empty.status, empty.json()), (200, json!({"code": 0})));
    world.bridge.push(&text_push("413", "the last")).await;
    world.client.expect_text("ilink/recv/user/413/text", "the last").await;
    assert_eq!(world.client.all(|message| message.topic == "ilink/event/other").len(), bodies.len());
}

#[tokio::test]
async fn what_is_wrapped_or_spoilt_is_read_all_the_same() {
    let mut world = World::ready().await;
    let push = text_push("413", "wrapped").to_string();
    let gzipped = |bytes: &[u8]| {
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    };
    for body in [
        format!("\u{feff}{push}").into_bytes(),
        format!("{push}\0").into_bytes(),
        format!("\0\n\u{feff} {push} \r\n\0").into_bytes(),
        gzipped(push.as_bytes()),
        gzipped(format!("\u{feff}{push}").as_bytes()),
        [b"{\"nick\":\"\xb5\xc6\",", &push.as_bytes()[1..]].concat(),
    ] {
        let answer = world.bridge.post_bytes(body.clone()).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"code": 0})), "{body:?}");
        assert_eq!(world.client.expect("ilink/recv/user/413/text").await.text(), "wrapped", "{body:?}");
    }
    // Content that is no base64 and no UTF-8, a number, a time in milliseconds.
    let gbk = b"{\"from_uid\":\"413\",\"msg_type\":1,\"create_time\":1457408202123,\"content\":\"\xbf\xaa\xb5\xc6\"}";
    world.bridge.post_bytes(gbk.to_vec()).await;
    assert_eq!(world.client.expect("ilink/recv/user/413/text").await.payload, &b"\xbf\xaa\xb5\xc6"[..]);
    let event = world.client.expect_json("ilink/event/text", |event| event["content_not_base64"] == json!(true)).await;
    let said = (&event["content"], &event["encoding"], &event["time"]);
    assert_eq!(said, (&json!(base64(b"\xbf\xaa\xb5\xc6")), &json!("base64"), &json!(1_457_408_202)), "{event}");
    world.bridge.post_bytes(br#"{"from_uid":"413","msg_type":1,"content":21.50}"#.to_vec()).await;
    world.client.expect_text("ilink/recv/user/413/text", "21.50").await;
    // A bomb is kept as it came.
    let bomb = gzipped(&vec![b' '; 64 << 20]);
    let before = world.bridge.process().memory();
    let answer = world.bridge.post_bytes(bomb.clone()).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"code": 0})));
    let event = world.client.expect("ilink/event/other").await.json();
    assert_eq!(event["body_base64"], json!(base64(&bomb)));
    let grown = world.bridge.process().memory().saturating_sub(before);
    assert!(grown < 20 * 1024, "{grown} KiB for a bomb");
}

#[tokio::test]
async fn oversized_pushes_are_refused() {
    let world = World::ready_with(|bridge| bridge.with("callback.max_body", "4KiB")).await;
    let fits = text_push("413", &"x".repeat(2000));
    world.bridge.push(&fits).await;
    let too_large = text_push("413", &"x".repeat(4000)).to_string();
    let answer = world.bridge.post_bytes(too_large.clone().into_bytes()).await;
    assert_eq!(answer.status, 413);
    // Chunked, so that no length is announced.
    let chunked = format!(
        "POST /{SECRET} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{:x}\r\n{too_large}\r\n0\r\n\r\n",
        too_large.len()
    );
    let mut stream = raw_connection(world.bridge.callback_port(), chunked.as_bytes()).await;
    let answer = read_to_close(&mut stream, DEADLINE).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    world.client.expect("ilink/event/text").await;
    // Whatever the others had become would be here by the time of one that comes after them.
    world.bridge.push(&text_push("413", "the last")).await;
    world.client.expect_text("ilink/recv/user/413/text", "the last").await;
    world.client.expect("ilink/event/text").await;
    world.client.settle().await;
    assert_eq!(world.client.all(|message| message.topic == "ilink/event/text").len(), 2);
}

#[tokio::test]
async fn slow_clients_are_cut() {
    let world = World::ready().await;
    let head = format!("POST /{SECRET} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{");
    let mut half = raw_connection(world.bridge.callback_port(), head.as_bytes()).await;
    let mut silent = raw_connection(world.bridge.callback_port(), b"").await;
    let mut no_end_of_headers = raw_connection(world.bridge.callback_port(), b"GET / HTTP/1.1\r\n").await;
    let limit = Duration::from_mins(2);
    tokio::join!(
        read_to_close(&mut half, limit),
        read_to_close(&mut silent, limit),
        read_to_close(&mut no_end_of_headers, limit)
    );
}

#[tokio::test]
async fn a_push_for_someone_else() {
    let for_another = |text: &str| {
        let mut push = text_push("413", text);
        push["to_uid"] = json!("999");
        push
    };
    let world = World::ready().await;
    world.bridge.push(&for_another("taken")).await;
    let event = world.client.expect("ilink/event/text").await.json();
    assert_eq!(event["to_uid"], json!("999"));
    drop(world);

    let world = World::ready_with(|bridge| bridge.with_toml("callback.strict_to_uid", "true")).await;
    assert_eq!(world.bridge.post(&for_another("refused")).await.status, 403);
    world.bridge.push(&text_push("413", "ours")).await;
    let event = world.client.expect("ilink/event/text").await.json();
    assert_eq!(event["content"], json!("ours"));
}

#[tokio::test]
async fn only_allowed_addresses_are_heard() {
    let world = World::prepared(&[], |bridge| bridge.with_toml("callback.allow", r#"["192.0.2.0/24"]"#)).await;
    let mut world = world;
    world.bridge.spawn();
    world.bridge.wait_listening().await;
    let answer = world.bridge.post(&text_push("413", "from loopback")).await;
    assert!(answer.status == 403 || answer.status == 404, "{answer:?}");
}

#[tokio::test]
async fn equal_pushes_that_were_answered_are_two_messages() {
    let world = World::ready().await;
    for _ in 0..2 {
        world.bridge.push(&text_push("413", "toggle")).await;
    }
    let first = world.client.expect_text("ilink/recv/user/413/text", "toggle").await;
    let second = world.client.expect_text("ilink/recv/user/413/text", "toggle").await;
    assert_ne!(first.user("id"), second.user("id"));
}

/// A push that was stored and whose sender had left before it could be answered, as the service does after 5 s. The
/// connection is reset, so that no answer can be handed to it.
///
/// The bridge is stopped meanwhile, so that it finds the push and the reset at the same time. It may see the reset first:
/// then nothing was stored, and another one is tried. Its text is returned.
async fn unanswered_push(world: &mut World) -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    for _ in 0..50 {
        let text = format!("unanswered {}", NUMBER.fetch_add(1, Ordering::Relaxed));
        world.bridge.process().pause();
        let request = raw_post(&format!("/{SECRET}"), text_push("413", &text).to_string().as_bytes());
        let connection = raw_connection(world.bridge.callback_port(), &request).await;
        connection.set_zero_linger().expect("a socket option");
        drop(connection);
        world.bridge.process().resume();
        if count_after_marker(world, &text).await == 1 {
            // That nobody took its answer is noted after it was stored, and is on the disk with what is stored next.
            count_after_marker(world, &text).await;
            return text;
        }
    }
    panic!("no push was stored whose sender had left");
}

/// Waits for all of a sender's pushes so far, then counts those with this text.
async fn count_after_marker(world: &World, text: &str) -> usize {
    world.bridge.push(&text_push("413", "marker")).await;
    world.client.expect_text("ilink/recv/user/413/text", "marker").await;
    ids(world, text).len()
}

/// The ids under which this text came; after a crash one may come twice.
fn ids(world: &World, text: &str) -> HashSet<String> {
    let all = world.client.all(|message| message.topic == "ilink/recv/user/413/text" && message.text() == text);
    all.iter().map(|message| message.user("id").expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn a_repeat_of_an_unanswered_push_is_one_message() {
    let mut world = World::ready().await;
    let text = unanswered_push(&mut world).await;
    world.bridge.push(&text_push("413", &text)).await;
    assert_eq!(count_after_marker(&world, &text).await, 1, "the service's second try is not a second message");
    // That try was answered: the same bytes again are a new message.
    world.bridge.push(&text_push("413", &text)).await;
    assert_eq!(count_after_marker(&world, &text).await, 2);
}

#[tokio::test]
async fn repeats_are_known_after_a_crash() {
    let mut world = World::ready().await;
    // Killed between its attempt to answer and the note that nobody took the answer, the bridge stores the repeat: rather twice
    // than never. On a busy machine that may happen, not every time.
    for _ in 0..5 {
        let text = unanswered_push(&mut world).await;
        world.bridge.kill();
        world.bridge.start().await;
        world.bridge.push(&text_push("413", &text)).await;
        if count_after_marker(&world, &text).await == 1 {
            return;
        }
    }
    panic!("no repeat is known after a crash");
}

#[tokio::test]
async fn what_was_answered_makes_no_repeats_after_a_crash() {
    let mut world = World::ready().await;
    world.bridge.push(&text_push("413", "ON")).await;
    // At once: whatever the bridge still meant to note about the answer, it has not noted.
    world.bridge.kill();
    world.bridge.start().await;
    world.bridge.push(&text_push("413", "ON")).await;
    assert_eq!(count_after_marker(&world, "ON").await, 2, "two \"ON\" are two");
}

#[tokio::test]
async fn repeats_can_be_switched_off() {
    let mut world = World::ready_with(|bridge| bridge.with("callback.repeats", "off")).await;
    let text = unanswered_push(&mut world).await;
    world.bridge.push(&text_push("413", &text)).await;
    assert_eq!(count_after_marker(&world, &text).await, 2);
}

#[tokio::test]
async fn a_full_spool_is_not_answered_but_waits_for_room() {
    let mut world = World::ready_with(|bridge| bridge.with("spool.max_bytes", "1MiB")).await;
    world.broker.stop();
    let large = "x".repeat(200_000);
    let mut answered = Vec::new();
    loop {
        let text = format!("{} {large}", answered.len());
        let Some(answer) = world.bridge.try_post(&text_push("413", &text)).await else { break };
        assert_eq!(answer.status, 200, "{answer:?}");
        answered.push(text);
        assert!(answered.len() < 100, "the cap does not hold");
    }
    assert!(!answered.is_empty());
    world.bridge.unanswered(&text_push("413", &format!("cut {large}"))).await;
    world.bridge.logged("a push is left unanswered").await;
    counted(&world.bridge, "pushes_unanswered_total", &[("cause", "full")], 2.0).await;
    let status = world.bridge.verb(&["status"]).await.text;
    assert!(status.lines().any(|line| line.starts_with("unanswered") && line.contains("full 2")), "{status}");
    let readiness = world.bridge.admin("readyz").await;
    assert_eq!(readiness.status, 503, "{readiness:?}");

    // One that waits while room is made is taken. The bridge decides when it tries the broker again, so there is always one
    // that waits: a new one every second, each held for up to six. The first of them before there is a broker: it might take
    // all that is there at once.
    let mut pace = tokio::time::interval(Duration::from_secs(1));
    let (mut waiting, mut made) = (JoinSet::new(), 0);
    let taken = loop {
        tokio::select! {
            _ = pace.tick() => {
                made += 1;
                assert!(made < 60, "none is ever taken");
                if made == 2 {
                    world.broker.restart();
                }
                let text = format!("waiting {made} {large}");
                let request = http().post(world.bridge.callback()).json(&text_push("413", &text));
                waiting.spawn(async move {
                    let began = Instant::now();
                    let answer = Answer::try_of(request).await.ok();
                    (text, answer, began.elapsed())
                });
            }
            Some(ended) = waiting.join_next() => {
                let (text, answer, took) = ended.unwrap();
                if let Some(answer) = answer.filter(|_| took > Duration::from_millis(300)) {
                    assert_eq!((answer.status, answer.json()), (200, json!({"code": 0})));
                    break text;
                }
            }
        }
    };
    for text in answered {
        world.client.expect_text("ilink/recv/user/413/text", &text).await;
    }
    world.client.expect_text("ilink/recv/user/413/text", &taken).await;
}
