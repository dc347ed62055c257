//! What iLink can do to us, row by row: the state, its cause with the remedy, and since when, in all four places where an
//! operator looks; one line in the log; and no hammering. What takes longer than a test may is in the session's own tests, on
//! a paused clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::{self, StreamExt as _};

use super::shown::Shown;
use crate::support::bridge::Bridge;
use crate::support::client::Client;
use crate::support::deserted::Deserted;
use crate::support::eventually;
use crate::support::mosquitto::Mosquitto;
use crate::support::pki::Authority;
use crate::support::scripted_cloud::{Behaviour, ScriptedCloud, Seen};
use crate::support::sim::Sim;

/// A failure and what is to be read of it.
struct Row {
    /// The call that fails; `register` is one action of `set_config`, `*` every call.
    call: &'static str,
    failure: Behaviour,
    state: &'static str,
    says: &'static [&'static str],
}

fn code(call: &'static str, code: i64, state: &'static str, says: &'static [&'static str]) -> Row {
    Row { call, failure: Behaviour::reply(&format!("{{\"code\":{code}}}")), state, says }
}

fn transport(failure: Behaviour, says: &'static [&'static str]) -> Row {
    Row { call: "*", failure, state: "offline", says }
}

fn codes() -> Vec<Row> {
    vec![
        code("set_config", 1000, "auth_error", &["1000", "correct ilink.appkey and ilink.secretkey", "restart"]),
        code("set_config", 1001, "auth_error", &["1001", "uid 414", "correct ilink.uid"]),
        code("set_config", 1002, "degraded", &["1002", "logged in elsewhere", "stop the other program"]),
        code("set_config", 1003, "degraded", &["1003", "one IP address", "another program"]),
        code(
            "set_config",
            1004,
            "degraded",
            &["1004", "register too often", "not again before 1", "everything else goes on"],
        ),
        code(
            "set_config",
            1005,
            "auth_error",
            &["1005", "malformed", "correct callback.public_url", "http://127.0.0.1"],
        ),
        code("register", 1006, "degraded", &["1006", "no GET arrived", "can the internet reach callback.public_url"]),
        code("set_config", 1006, "degraded", &["1006", "asked whether", "can the internet reach callback.public_url"]),
        code("set_config", 1010, "degraded", &["1010", "tried again", "ilink.uid and callback.public_url"]),
        code("set_config", 1016, "degraded", &["1016", "no IM server", "tried again"]),
        code("set_config", 1017, "degraded", &["1017", "tried again"]),
        code("set_config", 77, "degraded", &["77 unlisted_code", "tried again"]),
        code("get_access_token", 1000, "auth_error", &["1000", "ilink.secretkey"]),
        code("get_access_token", 1002, "degraded", &["1002", "stop the other program"]),
        code("get_access_token", 1003, "degraded", &["1003", "one IP address"]),
        code("get_access_token", 1009, "degraded", &["1009", "too often", "not again before 1", "restart loop"]),
        code("get_access_token", 1014, "degraded", &["1014", "permission", "tried again"]),
        code("get_access_token", 1016, "degraded", &["1016", "tried again"]),
        code("get_access_token", 0, "degraded", &["holds no token", "is ilink.api right"]),
    ]
}

fn transports() -> Vec<Row> {
    vec![
        transport(Behaviour::response("500 Oops", "", "x"), &["HTTP status 500"]),
        transport(Behaviour::response("404 Nope", "", ""), &["HTTP status 404", "is ilink.api right"]),
        transport(
            Behaviour::response("301 Moved", "Location: /\r\n", ""),
            &["redirects are not followed", "ilink.api"],
        ),
        transport(
            Behaviour::response("200 OK", "", "<html>"),
            &["not JSON with an integer code", "does a proxy answer"],
        ),
        transport(Behaviour::Bytes(b"SSH-2.0-x\r\n\r\n".to_vec()), &["the call to 127.0.0.1", "failed"]),
        transport(Behaviour::Close, &["closed the connection without an answer"]),
        transport(Behaviour::Hang, &["no answer from 127.0.0.1", "within 2 s"]),
    ]
}

/// A bridge on the shared broker, with a base topic and a client id of its own.
fn bridge(broker: &Mosquitto, n: usize, api: &str) -> Bridge {
    Bridge::new(broker, &Sim::absent(&[]))
        .with("ilink.api", api)
        .with("mqtt.base_topic", &format!("base{n}"))
        .with("mqtt.client_id", &format!("client{n}"))
        .with("log.level", "info")
}

/// Plays one row; `clears`: the failure ends while the test looks.
async fn play(broker: &Mosquitto, n: usize, row: Row, clears: bool) {
    let Row { call, failure, state, says } = row;
    let hangs = matches!(failure, Behaviour::Hang);
    let fails = Arc::new(AtomicBool::new(true));
    let failing = Arc::clone(&fails);
    let is_meant = move |seen: &Seen| match call {
        "*" => true,
        "register" => seen.call() == "set_config" && seen.body["action_type"] == 0,
        call => seen.call() == call,
    };
    let cloud = ScriptedCloud::start_with(move |seen| {
        if failing.load(Ordering::Relaxed) && is_meant(seen) {
            return failure.clone();
        }
        let token =
            if seen.call() == "get_access_token" { r#","access_token":"a-token","expires_in":7200"# } else { "" };
        Behaviour::reply(&format!("{{\"code\":0{token}}}"))
    })
    .await;
    let mut bridge = bridge(broker, n, cloud.api.as_str());
    let client = Client::connect(broker).await;
    client.subscribe(&format!("base{n}/bridge/#")).await;
    if hangs {
        bridge.set("ilink.timeout", "2s");
    }
    let began = std::time::Instant::now();
    // The waits double from 1 s on: a few more attempts if the machine was busy elsewhere.
    let more = || usize::try_from(began.elapsed().as_secs().max(1).ilog2()).unwrap();
    bridge.spawn();
    client.expect_text(&format!("base{n}/bridge/cloud"), state).await;
    let what = format!("{call} {says:?}");
    let cause =
        |cause: &serde_json::Value| cause.as_str().is_some_and(|text| says.iter().all(|says| text.contains(says)));
    let health = client
        .expect_json(&format!("base{n}/bridge/health"), |health| {
            health["cloud"]["state"] == state && cause(&health["cloud"]["cause"])
        })
        .await;
    assert!(health["cloud"]["since"].as_str().is_some_and(|since| humantime::parse_rfc3339(since).is_ok()), "{what}");
    let shown = Shown::of(&bridge).await;
    shown.status_says(&format!("iLink           {state} since "), says);
    // Without a token the callback may still be registered.
    if call != "get_access_token" {
        shown.not_ready("callback", says);
    }
    if clears {
        // Not before a few attempts: they must not be told one by one.
        let attempts =
            eventually("a third attempt", async || (cloud.seen().len() >= 3).then(|| cloud.seen().len())).await;
        assert!(attempts <= 6 + more(), "{what}: {attempts} attempts");
        shown.one_line(&bridge.log(), "WARN", &format!("iLink: {state}: "), says);
        fails.store(false, Ordering::Relaxed);
        bridge.wait_ready().await;
        client.expect_text(&format!("base{n}/bridge/cloud"), "online").await;
        client.expect_json(&format!("base{n}/bridge/health"), |health| health["cloud"]["cause"] == "").await;
        bridge.logged("iLink: online").await;
        let log = bridge.log();
        // A loaded machine may need longer than the time-out that this row has shortened.
        assert!(hangs || log.matches("iLink: ").count() == 2, "{what}: one line each way:\n{log}");
    } else {
        let level = if state == "auth_error" { "ERROR" } else { "WARN" };
        shown.one_line(&bridge.log(), level, &format!("iLink: {state}: "), says);
        let asked = cloud.seen().iter().filter(|seen| is_meant(seen)).count();
        assert!((1..=4 + more()).contains(&asked), "{what}: asked {asked} times");
    }
    assert_eq!(bridge.stop().await.code(), Some(0));
}

async fn play_all(rows: Vec<Row>, clears: bool) {
    let broker = Mosquitto::start("");
    let rows = stream::iter(rows.into_iter().enumerate());
    // A few at a time: they share two cores.
    rows.map(|(n, row)| play(&broker, n, row, clears)).buffer_unordered(6).collect::<()>().await;
}

#[tokio::test]
async fn every_code_of_the_manual() {
    play_all(codes(), false).await;
}

#[tokio::test]
async fn every_way_to_give_no_answer_and_its_end() {
    play_all(transports(), true).await;
}

#[tokio::test]
async fn what_stands_between_us_and_the_service() {
    let authority = Authority::new("an authority");
    let good = ScriptedCloud::start_tls(authority.server("127.0.0.1", false)).await;
    let misused = ScriptedCloud::start_tls(authority.server("127.0.0.1", true)).await;
    let other = ScriptedCloud::start_tls(authority.server("else.example", false)).await;
    let stranger = Authority::new("an authority");
    let broker = Mosquitto::start("");
    let [ours, theirs] = [&authority, &stranger].map(|authority| authority.file("ca.pem"));
    let nobody = Deserted::new();
    let refused = nobody.url("http");
    for (n, (api, ca, says)) in [
        (refused.as_str(), None, &["refuses connections", "is ilink.api right"][..]),
        ("http://does-not-exist.invalid", None, &["cannot be resolved (DNS)", "check ilink.api"]),
        (good.api.as_str(), Some(&theirs), &["is not trusted", "put its root into ilink.tls.ca"]),
        (misused.api.as_str(), Some(&ours), &["cannot be used: it is a certificate authority's", "CA:FALSE"]),
        (other.api.as_str(), Some(&ours), &["is for another name", "is ilink.api right"]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut bridge = bridge(&broker, n, api);
        if let Some(ca) = ca {
            bridge = bridge.with("ilink.tls.ca", ca);
        }
        bridge.spawn();
        bridge.logged("iLink: offline: ").await;
        let shown = Shown::of(&bridge).await;
        shown.status_says("iLink           offline since ", says);
        shown.not_ready("callback", says);
        shown.one_line(&bridge.log(), "WARN", "iLink: offline: ", says);
        bridge.kill();
    }
}
