//! The status page as HTTP: what it says, what it never says, and to whom. What a browser makes of it is in `browser`.

use serde_json::{Value, json};

use super::sse;
use crate::blackbox::world::World;
use crate::support::bridge::{SECRET, TIME, UID, base64, text_push};
use crate::support::http::{Answer, http, raw_connection, read_to_close};
use crate::support::sim::SECRETKEY;
use crate::support::{DEADLINE, eventually};

/// What a hostile sender would like to be part of the page.
const HOSTILE: &str = "<img src=x onerror=alert(1)>'\"&{{messages}}</script><script>alert(2)</script>";

fn topic_push(from: &str, subject: &str, text: &str) -> Value {
    json!({"to_uid": UID, "from_uid": from, "group_id": subject, "msg_type": 4, "content": base64(text.as_bytes()), "create_time": TIME})
}

/// The page once it shows all of this.
async fn page_with(world: &World, all: &[&str]) -> Answer {
    eventually(&format!("the page to show {all:?}"), async || {
        let page = world.bridge.admin("").await;
        assert_eq!(page.status, 200);
        all.iter().all(|text| page.body.contains(text)).then_some(page)
    })
    .await
}

#[tokio::test]
async fn without_scripts_the_page_says_how_things_stand() {
    let world = World::ready().await;
    world.bridge.push(&text_push("413", "a-private-word")).await;
    world.client.publish("ilink/send/user/412/text", "another-private-word").await;
    world.client.expect("ilink/result/send/user/412/text").await;
    let page = page_with(&world, &[">delivered<", ">ok<", "413", "412", "online", "connected", "All is well"]).await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.body.contains("send_msg/text") && page.body.contains("<rect"), "{}", page.body);
    for secret in [SECRET, SECRETKEY, "private-word"] {
        assert!(!page.body.contains(secret), "{secret}");
    }
    // Nothing from elsewhere, nothing but what the policy knows by its digest.
    let policy = page.header("content-security-policy");
    for part in ["default-src 'none'", "script-src 'sha256-", "style-src 'sha256-", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert!(!page.body.contains("http://") || !page.body.contains("src=\"http"), "{}", page.body);
    assert!(!page.body.contains(" style=") && !page.body.contains(" onclick"));
    for (name, value) in
        [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("cache-control", "no-store")]
    {
        assert_eq!(page.header(name), value);
    }
}

#[tokio::test]
async fn whoever_writes_does_not_write_the_page() {
    let world = World::ready_with(|bridge| bridge.with_toml("admin.show_content", "true")).await;
    let mut stream = sse::open(&world.bridge).await;
    world.bridge.push(&text_push(HOSTILE, HOSTILE)).await;
    world.bridge.push(&topic_push(HOSTILE, HOSTILE, HOSTILE)).await;
    let call = json!({"accept_uid": HOSTILE, "content": HOSTILE}).to_string();
    world.client.publish("ilink/call/send_msg/text", &call).await;
    world.client.publish("ilink/send/<b>x</b>", "x").await;
    world.client.expect("ilink/result/send/<b>x</b>").await;
    world.client.expect("ilink/result/call/send_msg/text").await;
    let all = ["&lt;img src=x onerror=alert(1)&gt;", "&lt;b&gt;x&lt;/b&gt;", ">topic<", ">text<"].map(|text| {
        // The kind stands after its arrow.
        text.replace(">topic<", " topic<").replace(">text<", " text<")
    });
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let page = page_with(&world, &all).await;
    assert_eq!(page.body.matches("<script>").count(), 1, "the page's own");
    assert!(!page.body.contains("<img") && !page.body.contains("<b>"));
    assert_eq!(page.body.matches("<h2>Last messages").count(), 1, "what is filled in is not filled again");
    stream.shows("messages", &all).await;
}

#[tokio::test]
async fn contents_are_shown_only_to_who_asked_for_them() {
    let world = World::ready_with(|bridge| bridge.with_toml("admin.show_content", "true")).await;
    world.bridge.push(&text_push("413", "lamp on, 开灯")).await;
    page_with(&world, &["lamp on, 开灯"]).await;
    let status = world.bridge.verb(&["status"]).await;
    assert!(status.stdout.contains("lamp on, 开灯"), "{}", status.stdout);
    let metrics = world.bridge.admin("metrics").await;
    assert!(!metrics.body.contains("lamp on"));
}

#[tokio::test]
async fn what_is_wrong_is_said_with_the_remedy_everywhere_alike() {
    let mut world = World::ready().await;
    let mut stream = sse::open(&world.bridge).await;
    stream.shows("problems", &["All is well"]).await;
    stream.shows("advice", &["Advice", "ilink.api is http://"]).await;
    world.broker.stop();
    let cause = "is the broker running, is mqtt.broker its address?";
    stream.shows("problems", &["The broker is unreachable", " since ", cause]).await;
    stream.shows("parts", &["not connected"]).await;
    page_with(&world, &["The broker is unreachable", cause]).await;
    assert!(world.bridge.admin("readyz").await.body.contains(cause));
    let status = world.bridge.verb(&["status"]).await.stdout;
    assert!(
        status.lines().any(|line| line.starts_with("WRONG           broker: ") && line.contains(cause)),
        "{status}"
    );
    let json: Value = serde_json::from_str(&world.bridge.verb(&["status", "--json"]).await.stdout).unwrap();
    let problem = &json["problems"][0];
    assert_eq!((&problem["part"], &problem["grave"]), (&json!("broker"), &json!(true)), "{json}");
    assert!(problem["cause"].as_str().unwrap().contains(cause) && problem["since"].is_string(), "{json}");
    world.broker.restart();
    stream.shows("problems", &["All is well"]).await;
}

/// The page for a browser with these preferences.
async fn page_for(world: &World, accepted: &str) -> Answer {
    let url = format!("http://127.0.0.1:{}/", world.bridge.admin_port());
    let page = Answer::of(http().get(url).header("accept-language", accepted)).await;
    assert_eq!((page.status, page.header("vary")), (200, "Accept-Language"));
    page
}

#[tokio::test]
async fn the_headline_says_what_is_wrong_and_what_it_means_for_messages() {
    let mut world = World::ready().await;
    let mut chinese = sse::open_in(&world.bridge, "zh").await;
    chinese.shows("problems", &["一切正常"]).await;
    chinese.shows("advice", &["建议", "ilink.api is http://"]).await;
    world.broker.stop();
    // The time comes first in Chinese.
    chinese.shows("problems", &["<p class=\"bad\">自 <time", " 起连不上 broker；没有消息在等待，也没有丢失</p>"]).await;
    for n in 0..5 {
        world.bridge.push(&text_push("413", &n.to_string())).await;
    }
    chinese.shows("problems", &["；5 条消息在等待，没有丢失</p>"]).await;
    let page = page_with(&world, &["; 5 messages wait, none is lost</p>"]).await;
    assert!(page.body.contains("<p class=\"bad\">The broker is unreachable since <time"), "{}", page.body);
    // Programs read what they always read.
    let json: Value = serde_json::from_str(&world.bridge.verb(&["status", "--json"]).await.stdout).unwrap();
    let names: Vec<_> = json["problems"][0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["cause", "grave", "part", "since"]);
    world.broker.restart();
    chinese.shows("problems", &["一切正常"]).await;
}

#[tokio::test]
async fn who_reads_chinese_gets_a_chinese_page() {
    let world = World::ready().await;
    world.bridge.push(&text_push("413", "x")).await;
    page_with(&world, &[">delivered<"]).await;
    for (accepted, tag) in [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"),
        ("zh-TW", "zh-CN"),
        ("zh", "zh-CN"),
        ("en;q=1, zh;q=0.5", "en"),
        ("de", "en"),
        ("", "en"),
    ] {
        let page = page_for(&world, accepted).await;
        assert_eq!(page.header("content-language"), tag, "{accepted}");
        assert!(page.body.contains(&format!("<html lang=\"{tag}\">")), "{accepted}");
        let texts = [
            ("连接", "Connections"),
            ("一切正常", "All is well"),
            ("已送达", "delivered"),
            ("data-on=\"实时\"", "data-on=\"live\""),
        ];
        for (chinese, english) in texts {
            let (there, not) = if tag == "en" { (english, chinese) } else { (chinese, english) };
            assert!(page.body.contains(there) && !page.body.contains(not), "{accepted}: {there}: {}", page.body);
        }
        assert!(!page.body.contains("{{"), "every place is filled");
    }
    // What changes comes in the language of the page that is open.
    let url = format!("http://127.0.0.1:{}/events?lang=zh-CN", world.bridge.admin_port());
    let stream = http().get(url).header("accept-language", "en").send().await.unwrap();
    assert_eq!(stream.headers()["content-language"], "zh-CN");
}

#[tokio::test]
async fn status_prints_what_the_page_shows() {
    let world = World::ready().await;
    world.bridge.push(&text_push("413", "x")).await;
    page_with(&world, &[">delivered<"]).await;
    // It leaves the queue a moment after it was delivered.
    world.bridge.waiting("inbound", 0).await;
    let status = world.bridge.verb(&["status"]).await;
    let line = status.stdout.lines().find(|line| line.contains(", delivered after ")).unwrap_or_default();
    assert!(line.contains("text from 413, 1 bytes"), "{}", status.stdout);
    let json = world.bridge.verb(&["status", "--json"]).await;
    assert_eq!(json.code, Some(0));
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(json["uid"], json!(UID));
    assert_eq!(json["ready"]["ready"], json!(true));
    assert_eq!(json["health"]["queues"]["inbound"]["bytes"], json!(0));
    let message = &json["messages"][0];
    for (name, value) in
        [("kind", json!("text")), ("from", json!("413")), ("bytes", json!(1)), ("way", json!("from_ilink"))]
    {
        assert_eq!(message[name], value, "{message}");
    }
    assert_eq!(message["content"], Value::Null, "{message}");
    let minutes = json["minutes"].as_array().unwrap();
    assert_eq!(minutes.iter().map(|minute| minute["from_ilink"].as_u64().unwrap()).sum::<u64>(), 1);
    // The page's id is the envelope's.
    let event = world.client.expect("ilink/event/text").await.json();
    assert_eq!(message["id"], event["id"]);
}

#[tokio::test]
async fn streams_are_few_and_healthz_always_gets_through() {
    let world = World::ready().await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(sse::open(&world.bridge).await);
    }
    for _ in 0..40 {
        assert_eq!(sse::try_open(&world.bridge).await.err(), Some(reqwest::StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(world.bridge.admin("healthz").await.status, 200);
    }
    world.bridge.push(&text_push("413", "x")).await;
    for stream in &mut streams {
        stream.shows("messages", &["413", ">delivered<"]).await;
    }
    // Who leaves makes room.
    drop(streams.pop());
    sse::open(&world.bridge).await;
}

#[tokio::test]
async fn open_streams_do_not_hold_up_the_stop() {
    let mut world = World::ready().await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(sse::open(&world.bridge).await);
    }
    let ended = async {
        for stream in &mut streams {
            stream.ended().await;
        }
    };
    let (status, ()) = tokio::join!(world.bridge.stop(), ended);
    assert_eq!(status.code(), Some(0), "{}", world.bridge.log());
}

#[tokio::test]
async fn only_its_own_pages_and_names_and_methods() {
    let world = World::ready().await;
    let port = world.bridge.admin_port();
    for path in ["/", "/events", "/metrics", "/nonsense"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: evil.example:{port}\r\nConnection: close\r\n\r\n");
        let mut stream = raw_connection(port, request.as_bytes()).await;
        let answer = read_to_close(&mut stream, DEADLINE).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("nosniff"), "{path}: {answer}");
    }
    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    for site in ["cross-site", "same-site"] {
        let answer = Answer::of(http().get(url("/events")).header("sec-fetch-site", site)).await;
        assert_eq!(answer.status, 403, "a page elsewhere could take all streams");
        assert_eq!(
            Answer::of(http().get(url("/")).header("sec-fetch-site", site)).await.status,
            200,
            "a link may lead here"
        );
    }
    let missing = Answer::of(http().get(url("/nonsense"))).await;
    assert_eq!((missing.status, missing.header("x-content-type-options")), (404, "nosniff"));
    for path in ["/", "/events", "/metrics", "/readyz"] {
        let posted = Answer::of(http().post(url(path)).body("x")).await;
        assert_eq!((posted.status, posted.header("allow")), (405, "GET,HEAD"), "{path}");
        assert_eq!(Answer::of(http().head(url(path))).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn off_loopback_the_page_wants_the_token() {
    let world = World::with_open_admin_listener("an-admin-token").await;
    let url = format!("http://127.0.0.1:{}", world.bridge.admin_port());
    for path in ["/", "/events", "/metrics", "/nonsense"] {
        let get = || http().get(format!("{url}{path}"));
        let refused = Answer::of(get()).await;
        // So that a browser asks for it.
        assert_eq!(refused.status, 401, "{path}");
        assert!(refused.header("www-authenticate").starts_with("Basic "), "{refused:?}");
        assert_eq!(Answer::of(get().bearer_auth("an-admin-toke")).await.status, 401, "{path}");
        let expected = if path == "/nonsense" { 404 } else { 200 };
        for request in [get().bearer_auth("an-admin-token"), get().basic_auth("", Some("an-admin-token"))] {
            // Without its body: a stream's has no end.
            assert_eq!(request.send().await.unwrap().status().as_u16(), expected, "{path}");
        }
    }
    assert!(!world.bridge.log().contains("an-admin-token"));
}
