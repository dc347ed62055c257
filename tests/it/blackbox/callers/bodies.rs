//! Pushes that nobody should send, from somebody who knows the secret.

use std::io::Write as _;

use serde_json::json;

use super::{World, still_works};
use crate::support::bridge::{base64, text_push};

/// What the relay has made of `world`'s pushes so far must not be stuck anywhere.
async fn all_is_relayed(world: &World) {
    still_works(world).await;
    world.bridge.waiting("inbound", 0).await;
}

fn nested(depth: usize) -> String {
    format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1))
}

#[tokio::test]
async fn odd_json() {
    let world = World::ready().await;
    let text =
        |fields: &str| format!("{{\"from_uid\":\"413\",\"msg_type\":1,\"content\":\"b24=\"{fields}}}").into_bytes();
    let mebibyte = 1 << 20;
    let cases: Vec<Vec<u8>> = vec![
        nested(128).into(),
        nested(129).into(),
        nested(100_000).into(),
        b"[".repeat(mebibyte),
        b"{\"a\":".repeat(mebibyte / 5),
        b"{".repeat(mebibyte),
        b"\"".repeat(mebibyte),
        b" ".repeat(mebibyte),
        b"\\".repeat(mebibyte),
        b"9".repeat(mebibyte),
        format!("{{{}\"a\":1}}", "\"\":0,".repeat(mebibyte / 5 - 10)).into(),
        // Numbers that no type holds.
        text(",\"create_time\":1e999999999"),
        text(&format!(",\"create_time\":{}", "9".repeat(100_000))),
        text(",\"create_time\":-0.0,\"to_uid\":414"),
        text(",\"create_time\":01"),
        text(",\"create_time\":NaN"),
        text(",\"create_time\":9223372036854775807"),
        text(",\"create_time\":-9223372036854775808"),
        b"{\"from_uid\":\"413\",\"type\":1,\"time\":9223372036854775807}".to_vec(),
        // The same key twice, or nearly.
        text(",\"from_uid\":\"414\",\"from_uid\":\"413\""),
        text(",\"from_uid \":\"999\",\"\\u0066rom_uid\":\"413\""),
        // Text that is none.
        text(",\"x\":\"\u{1}\""),
        [&text("")[..], b"\xff"].concat(),
        b"{\"from_uid\":\"\xc0\xaf\",\"msg_type\":1,\"content\":\"\"}".to_vec(),
        b"{\"from_uid\":\"\xed\xa0\x80\",\"msg_type\":1,\"content\":\"\"}".to_vec(),
        text(",\"x\":\"\\ud800\",\"\\udfff\":1"),
        b"{\"from_uid\":\"\\ud800\",\"msg_type\":1,\"content\":\"\"}".to_vec(),
        [b"\xef\xbb\xbf", &text("")[..]].concat(),
        [&text("")[..], b"\0"].concat(),
        String::from_utf8(text("")).unwrap().encode_utf16().flat_map(u16::to_le_bytes).collect(),
        // Compressed.
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00".to_vec(),
        // Ids that hardly fit a topic, or do not.
        json!({"from_uid": "4\u{0}1/+#%", "msg_type": 1, "content": "b24="}).to_string().into(),
        json!({"from_uid": "u".repeat(70_000), "msg_type": 1, "content": "b24="}).to_string().into(),
        json!({"from_uid": "/".repeat(30_000), "msg_type": 1, "content": "b24="}).to_string().into(),
        json!({"from_uid": "413", "group_id": "/".repeat(30_000), "msg_type": 4, "content": "b24="}).to_string().into(),
        json!({"from_uid": "413", "group_id": "$SYS/#", "msg_type": 4, "content": "b24="}).to_string().into(),
        json!({"from_uid": "p".repeat(70_000), "type": 1, "time": 5}).to_string().into(),
        json!({"from_uid": [], "msg_type": {}, "content": [[]], "time": false, "type": null}).to_string().into(),
    ];
    // Understood or not, each is kept.
    for body in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = world.bridge.post_bytes(body).await;
        assert_eq!(answer.status, 200, "{shown}: {answer:?}");
        assert_eq!(answer.json(), json!({"code": 0}), "{shown}");
    }
    all_is_relayed(&world).await;
    let odd = world.client.expect("ilink/recv/user/4%001%2F%2B%23%25/text").await;
    assert_eq!(odd.text(), "on");
}

#[tokio::test]
async fn the_largest_body_and_one_more() {
    const MAX: usize = 64 * 1024;
    let world = World::ready_with(|bridge| bridge.with("callback.max_body", "64KiB")).await;
    let bytes = base64(&[b'x'; 3000]);
    let empty = text_push("413", "").to_string();
    let exactly = |size: usize| {
        let body = empty.replace("\"content\":\"\"", &format!("\"content\":\"{bytes}\""));
        format!("{}{body}", " ".repeat(size - body.len()))
    };
    for (size, status) in [(MAX - 1, 200), (MAX, 200), (MAX + 1, 413), (10 * MAX, 413)] {
        let body = exactly(size);
        let answer = world.bridge.post_bytes(body.clone().into_bytes()).await;
        assert_eq!(answer.status, status, "{size}");
        // The same in chunks of odd sizes, their sum nowhere announced.
        let mut chunked = Vec::new();
        for chunk in body.as_bytes().chunks(4999) {
            write!(chunked, "{:x}\r\n", chunk.len()).unwrap();
            chunked.extend_from_slice(chunk);
            chunked.extend_from_slice(b"\r\n");
        }
        let head = format!(
            "POST /{} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            crate::support::bridge::SECRET
        );
        let request = [head.as_bytes(), &chunked, b"0\r\n\r\n"].concat();
        let mut stream = super::Caller::ILINK.connect(world.bridge.callback_port()).await.unwrap();
        let answer = super::exchange(&mut stream, &request, b"").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{size} in chunks: {answer:?}");
    }
    all_is_relayed(&world).await;
}
