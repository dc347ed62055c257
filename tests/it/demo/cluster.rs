//! `demo --cluster`: a bridge is killed by the number that the demo prints, and messages go on. With a real etcd.

use rustix::process::{Pid, Signal, kill_process};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::mosquitto::Mosquitto;
use crate::support::process::{Process, finish};

/// The last that the demo said of who leads: its name and its number.
fn leader(demo: &Process) -> Option<(String, i32)> {
    let output = demo.output();
    let line = output.lines().rfind(|line| line.contains(") leads"))?;
    let (name, rest) = line.trim_start().strip_prefix("demo")?.trim_start().split_once(" (pid ")?;
    Some((name.to_owned(), rest.split_once(')')?.0.parse().ok()?))
}

/// Every number that it printed.
fn pids(output: &str) -> Vec<i32> {
    output.split("(pid ").skip(1).filter_map(|rest| rest.split_once(')')?.0.parse().ok()).collect()
}

/// Whether any process was started with this text in its arguments, or has this number.
fn is_running(text: &str, pids: &[i32]) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, std::fs::read(entry.path().join("cmdline")).ok()?))
    });
    processes.into_iter().any(|(pid, line)| pids.contains(&pid) || String::from_utf8_lossy(&line).contains(text))
}

#[tokio::test]
async fn a_killed_leader_is_followed_by_another_and_messages_go_on() {
    let broker = Mosquitto::start("");
    let temporary = tempfile::tempdir().unwrap();
    let temporary = temporary.path().to_str().unwrap();
    let mut demo =
        Process::start("demo", ["demo", "--broker", &broker.url(), "--cluster", "3"], &[("TMPDIR", temporary)]);
    let client = Client::connect(&broker).await;
    client.subscribe("ilink-demo/#").await;
    client.expect("ilink-demo/recv/user/413/text").await;
    client.expect_where("an echo", |message| message.text().starts_with("echo: ")).await;
    demo.printed("kill -9 ").await;
    assert!(is_running(temporary, &[]), "etcd is not where this test looks for it");

    let (killed, pid) = leader(&demo).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    demo.printed(&format!("{killed} has ended (signal: 9")).await;
    eventually("another leads", async || leader(&demo).filter(|(name, _)| *name != killed)).await;
    let before = client.all(|message| message.topic == "ilink-demo/recv/user/413/text").len();
    client.publish("ilink-demo/send/user/414/text", "after the kill").await;
    client.expect_text("ilink-demo/recv/user/414/text", "echo: after the kill").await;
    client
        .gather("pushes after the kill", before + 1, |message| message.topic == "ilink-demo/recv/user/413/text")
        .await;
    // The killed one stands by again, as another process.
    let again = format!("{killed} (pid ");
    eventually("the killed one is back", async || {
        let output = demo.output();
        let number = output.rsplit_once(&again)?.1.split_once(')')?.0.to_owned();
        (number != pid.to_string()).then_some(())
    })
    .await;

    demo.signal(Signal::INT);
    assert_eq!(demo.ended().await.code(), Some(0), "{}", demo.output());
    client.expect_text("ilink-demo/bridge/state", "offline").await;
    assert!(!is_running(temporary, &pids(&demo.output())), "a process is left behind: {}", demo.output());
    assert_eq!(std::fs::read_dir(temporary).unwrap().count(), 0, "it leaves nothing behind");
}

#[tokio::test]
async fn nothing_is_left_of_a_demo_that_was_killed() {
    let broker = Mosquitto::start("");
    let temporary = tempfile::tempdir().unwrap();
    let temporary = temporary.path().to_str().unwrap();
    let mut demo =
        Process::start("demo", ["demo", "--broker", &broker.url(), "--cluster", "2"], &[("TMPDIR", temporary)]);
    demo.printed("kill -9 ").await;
    let pids = pids(&demo.output());
    assert!(pids.len() >= 2 && is_running(temporary, &pids), "{pids:?}");
    demo.signal(Signal::KILL);
    demo.ended().await;
    eventually("all of it has ended", async || (!is_running(temporary, &pids)).then_some(())).await;
}

#[tokio::test]
async fn without_etcd_it_says_what_to_install() {
    let empty = tempfile::tempdir().unwrap();
    let path = empty.path().to_str().unwrap();
    let ended = finish(["demo", "--broker", "mqtt://127.0.0.1:1", "--cluster", "2"], &[("PATH", path)]).await;
    assert_eq!(ended.code, Some(69), "{}", ended.text);
    assert!(ended.text.contains("apt-get install etcd-server"), "{}", ended.text);
}
