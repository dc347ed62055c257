//! A member that waits for etcd before it begins.

use std::net::TcpListener;

use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpStream;

use super::leads;
use crate::support::bridge::{Bridge, text_push};
use crate::support::client::Client;
use crate::support::deserted::Deserted;
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::http::{Answer, http};
use crate::support::mosquitto::Mosquitto;
use crate::support::sim::Sim;

/// A member that reaches etcd on this port.
fn member(broker: &Mosquitto, sim: &Sim, etcd: u16) -> Bridge {
    Bridge::new(broker, sim)
        .with_toml("cluster.endpoints", &json!([format!("http://127.0.0.1:{etcd}")]).to_string())
        .with("cluster.member", "a")
        .with("cluster.takeover", "2s")
}

/// Waits until `/readyz` gives a cause with these words.
async fn waits_because(bridge: &Bridge, words: &str) {
    let readyz = format!("http://127.0.0.1:{}/readyz", bridge.admin_port());
    eventually(words, async || {
        let answer = Answer::try_of(http().get(&readyz)).await.ok()?;
        answer.json()["spool"]["cause"].as_str()?.contains(words).then_some(())
    })
    .await;
}

async fn page(bridge: &Bridge, language: &str) -> String {
    let url = format!("http://127.0.0.1:{}/", bridge.admin_port());
    Answer::of(http().get(url).header("accept-language", language)).await.body
}

#[tokio::test]
async fn it_says_that_it_waits_and_why_and_begins_when_etcd_comes() {
    let (nobody, broker, sim) = (Deserted::new(), Mosquitto::start(""), Sim::start(&[]).await);
    let port = nobody.port();
    let client = Client::connect(&broker).await;
    client.subscribe("ilink/#").await;
    let mut bridge = member(&broker, &sim, port);
    for verb in [&["status"][..], &["query"]] {
        let done = bridge.verb(verb).await;
        assert!(done.code == Some(69) && done.text.contains("no bridge of this user's runs"), "{done:?}");
    }
    bridge.spawn();
    waits_because(&bridge, "cannot be reached").await;

    assert_eq!(bridge.admin("healthz").await.status, 200, "a restart would not help");
    let readyz = bridge.admin("readyz").await;
    let ready = readyz.json();
    assert_eq!((readyz.status, &ready["ready"], &ready["role"]), (503, &json!(false), &json!("waiting")));
    assert_eq!((&ready["spool"]["ready"], &ready["spool"]["kind"]), (&json!(false), &json!("refused")));
    let metrics = bridge.admin("metrics").await.body;
    let told = ["ilink2mqtt_ready{part=\"spool\"} 0", "ilink2mqtt_store_state{state=\"refused\"} 1"];
    assert!(told.iter().all(|line| metrics.contains(line)), "{metrics}");
    let english = page(&bridge, "en").await;
    let headline = ["This member has not begun: it has been waiting for etcd since ", "commands stay at the broker"];
    assert!(headline.iter().all(|words| english.contains(words)), "{english}");
    assert!(
        english.contains("look whether it runs there") && !english.contains("broker is not connected"),
        "{english}"
    );
    let chinese = page(&bridge, "zh-CN").await;
    assert!(chinese.contains("一直在等待 etcd，尚未开始工作") && chinese.contains("命令留在 broker"), "{chinese}");

    let status = bridge.verb(&["status"]).await;
    assert!(status.code == Some(0) && status.text.contains("WRONG           cluster: etcd at "), "{status:?}");
    assert_eq!(bridge.verb(&["status", "--healthy"]).await.code, Some(0));
    for verb in [&["query"][..], &["step-down"], &["set-aside", "list"], &["check", "--connect"]] {
        let done = bridge.verb(verb).await;
        let told = ["this bridge has not begun: it waits for etcd", "cannot be reached", "check --connect"];
        assert!(done.code == Some(69) && told.iter().all(|what| done.text.contains(what)), "{verb:?}: {done:?}");
    }
    // Any answer would be the end of a push.
    let closed = TcpStream::connect(("127.0.0.1", bridge.callback_port())).await;
    assert_eq!(closed.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);

    drop(nobody);
    let _etcd = Etcd::start_at(port, &[]).await;
    bridge.wait_ready().await;
    leads(&bridge).await;
    bridge.push(&text_push("413", "at last")).await;
    client.expect_text("ilink/recv/user/413/text", "at last").await;
    client.expect_text("ilink/bridge/cloud", "online").await;
    let well = async || (!bridge.verb(&["status"]).await.text.contains("WRONG")).then_some(());
    eventually("all is well", well).await;
    assert!(!page(&bridge, "en").await.contains("has not begun"));
    assert_eq!(bridge.verb(&["query"]).await.code, Some(0));
    assert_eq!(bridge.stop().await.code(), Some(0));
}

#[tokio::test]
async fn a_stop_ends_it_at_once_and_what_it_answered_on_is_free() {
    let (etcd, broker, sim) = (Etcd::start().await, Mosquitto::start(""), Sim::start(&[]).await);
    let mut bridge = member(&broker, &sim, etcd.port());
    etcd.pause();
    bridge.spawn();
    waits_because(&bridge, "did not answer").await;
    // Somebody looks at it.
    let events = format!("http://127.0.0.1:{}/events", bridge.admin_port());
    let looking = http().get(events).send().await.unwrap();
    assert_eq!(looking.status(), 200);
    bridge.signal(Signal::TERM);
    let ended = tokio::time::timeout(std::time::Duration::from_secs(5), bridge.process().ended()).await;
    assert_eq!(ended.expect("at once").code(), Some(0), "{}", bridge.log());
    assert!(!bridge.state_dir().join("control.sock").exists());
    drop(TcpListener::bind(("127.0.0.1", bridge.admin_port())).expect("a free port"));
    etcd.resume();
    bridge.start().await;
    leads(&bridge).await;
}
