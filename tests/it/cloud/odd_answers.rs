//! The table of odd answers, each given to a real bridge: what says its code is believed, what does not is told as uncertain and
//! not sent twice; nothing is followed, memory stays small, and other receivers are served meanwhile.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::support::bridge::Bridge;
use crate::support::client::{Client, Out};
use crate::support::mosquitto::Mosquitto;
use crate::support::scripted_cloud::{Behaviour, ScriptedCloud, Seen};
use crate::support::sim::Sim;

/// A name, the answer, and the status of the command's result.
type Row = (&'static str, Behaviour, &'static str);

/// What the bridge may add to its memory for all of this, in KiB: an answer may have 4 MiB, packed and unpacked, in buffers
/// that grow by doubling and that the allocator keeps for a while.
const MEMORY_KIB: u64 = 32 * 1024;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn ok(headers: &str, body: impl AsRef<[u8]>) -> Behaviour {
    Behaviour::response("200 OK", headers, body)
}

/// Answers that say their code.
fn readable() -> Vec<Row> {
    let deep = format!(r#"{{"code":0,"x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    vec![
        ("a code in a string", ok("", r#"{"code":"0"}"#), "ok"),
        ("a code with a fraction", ok("", r#"{"code":0.0}"#), "ok"),
        ("a byte order mark", ok("", b"\xef\xbb\xbf{\"code\":0}"), "ok"),
        ("a NUL behind", ok("", b"{\"code\":0}\0"), "ok"),
        ("gzip", ok("Content-Encoding: gzip\r\n", gzip(br#"{"code":0}"#)), "ok"),
        ("GBK in a string", ok("", b"{\"code\":0,\"msg\":\"\xb3\xc9\xb9\xa6\"}"), "ok"),
        ("100,000 brackets", ok("", deep), "ok"),
        ("a code that refuses", ok("", r#"{"code":"1014"}"#), "error"),
    ]
}

/// Answers that do not.
fn unreadable() -> Vec<Row> {
    let head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n").into_bytes();
    let moved = |status, to: &str| Behaviour::response(status, &format!("Location: {to}\r\n"), "");
    let chunked = head("Transfer-Encoding: chunked\r\n");
    let headers = head(&format!("X-Padding: {}\r\n", "x".repeat(2 << 20)));
    let tls = b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03".repeat(20);
    let all = [
        ("nothing, and the end", Behaviour::Close),
        ("an empty body", ok("", "")),
        ("a page", ok("Content-Type: text/html\r\n", "<html>200</html>")),
        ("30 MB", ok("", vec![b' '; 30_000_000])),
        ("noise without end", Behaviour::Endless(head(""), vec![0xb3; 1 << 20])),
        ("a gzip bomb", ok("Content-Encoding: gzip\r\n", gzip(&vec![b' '; 200 << 20]))),
        ("half a gzip", ok("", &gzip(br#"{"code":0,"message":"a"}"#)[..20])),
        ("100,000 brackets, open", ok("", "[".repeat(100_000))),
        ("half an object", Behaviour::Bytes([head("Content-Length: 99\r\n"), br#"{"code":"#.to_vec()].concat())),
        ("a chunk that is none", Behaviour::Bytes([chunked.clone(), b"zz\r\n{\"code\":0}".to_vec()].concat())),
        ("no end", Behaviour::Endless(head(""), b"{\"a\":1}".repeat(1000))),
        ("chunks without end", Behaviour::Endless(chunked, b"5\r\n     \r\n".repeat(100))),
        ("interim answers without end", Behaviour::Endless(Vec::new(), b"HTTP/1.1 100 Continue\r\n\r\n".repeat(10))),
        ("2 MB of headers", Behaviour::Bytes([headers, br#"{"code":0}"#.to_vec()].concat())),
        ("HTTP/0.9", Behaviour::Bytes(br#"{"code":0}"#.to_vec())),
        ("TLS", Behaviour::Bytes(tls)),
        ("a redirect", moved("302 Found", "/elsewhere")),
        ("a lasting redirect", moved("308 Permanent Redirect", "/elsewhere")),
        ("a redirect to itself", moved("307 Temporary Redirect", "")),
        (
            "a page of a proxy",
            Behaviour::response("503 Service Unavailable", "Retry-After: 0\r\n", "<html>later</html>"),
        ),
        ("a status against a code", Behaviour::response("500 Oops", "", r#"{"code":0}"#)),
    ];
    all.into_iter().map(|(name, answer)| (name, answer, "uncertain")).collect()
}

/// A row's answer to a message to its own number, and a good one to everything else.
fn answer(rows: &[Row], seen: &Seen) -> Behaviour {
    let to = seen.body["accept_uid"].as_str().and_then(|uid| uid.strip_prefix("odd-"));
    if let Some(row) = to.and_then(|number| rows.get(number.parse::<usize>().ok()?)) {
        return row.1.clone();
    }
    let token = if seen.call() == "get_access_token" { r#","access_token":"a-token","expires_in":7200"# } else { "" };
    Behaviour::reply(&format!("{{\"code\":0{token}}}"))
}

#[tokio::test]
async fn every_odd_answer_is_survived_and_holds_up_nobody_else() {
    let rows: Vec<Row> = readable().into_iter().chain(unreadable()).collect();
    let table = rows.clone();
    let cloud = ScriptedCloud::start_with(move |seen| answer(&table, seen)).await;
    let broker = Mosquitto::start("");
    let mut bridge = Bridge::new(&broker, &Sim::absent(&[]))
        .with("ilink.api", cloud.api.as_str())
        .with("ilink.timeout", "5s")
        .with("outbound.ambiguous", "report")
        .with("log.level", "info");
    bridge.start().await;
    let client = Client::connect(&broker).await;
    client.subscribe("ilink/result/#").await;
    let before = bridge.process().memory();
    for (number, (name, _, status)) in rows.iter().enumerate() {
        let mut receivers = vec![format!("odd-{number}")];
        receivers.extend((0..3).map(|other| format!("row-{number}-other-{other}")));
        client.send_all(receivers.iter().map(|to| Out::new(&format!("ilink/send/user/{to}/text"), "on"))).await;
        for to in &receivers {
            let result = client.expect_json(&format!("ilink/result/send/user/{to}/text"), |_| true).await;
            let wanted = if to.starts_with("odd") { *status } else { "ok" };
            assert_eq!((&result["status"], &result["attempts"]), (&Value::from(wanted), &1.into()), "{name}: {result}");
        }
        println!("{name}: {} KiB", bridge.process().memory());
    }
    let asked = cloud.seen();
    for (number, (name, ..)) in rows.iter().enumerate() {
        let own = asked.iter().filter(|seen| seen.body["accept_uid"] == format!("odd-{number}")).count();
        assert_eq!(own, 1, "{name}");
    }
    assert!(asked.iter().all(|seen| !seen.line.contains("elsewhere")), "a redirect was followed");
    let peak = bridge.process().peak_memory();
    println!("resident: {before} KiB before, {peak} KiB at most");
    assert!(peak < before + MEMORY_KIB, "{before} → {peak} KiB");
    assert_eq!(bridge.stop().await.code(), Some(0));
}
