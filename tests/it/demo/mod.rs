//! `demo`: both directions at work, and somebody joining in. The embedded broker is tried where it is built (`--features demo`).

use rustix::process::Signal;

#[cfg(feature = "demo")]
mod clients;
mod cluster;

use crate::support::client::Client;
use crate::support::http::{Answer, http};
use crate::support::mosquitto::Mosquitto;
use crate::support::process::Process;

#[tokio::test]
async fn both_directions_are_at_work_and_a_client_can_join() {
    let broker = Mosquitto::start("");
    let temporary = tempfile::tempdir().unwrap();
    let environment = [("TMPDIR", temporary.path().to_str().unwrap())];
    let mut demo = Process::start("demo", ["demo", "--broker", &broker.url()], &environment);
    let client = Client::connect(&broker).await;
    client.subscribe("ilink-demo/#").await;

    // Left alone it shows a push, a command, its result and the echo.
    client.expect("ilink-demo/recv/user/413/text").await;
    client.expect("ilink-demo/send/user/414/text").await;
    client.expect_where("an echo", |message| message.text().starts_with("echo: ")).await;
    for shown in ["iLink → MQTT  ilink-demo/recv/user/413/text", "MQTT → iLink", "result", "mosquitto_sub"] {
        demo.printed(shown).await;
    }

    client.publish("ilink-demo/send/user/414/text", "from a second terminal").await;
    client.expect_text("ilink-demo/recv/user/414/text", "echo: from a second terminal").await;

    // The status page is where it says.
    let output = demo.output();
    let (_, page) = output.split_once("-open http://").or(output.split_once("open http://")).expect("an address");
    let page = format!("http://{}", page.lines().next().unwrap());
    let page = Answer::of(http().get(&page)).await;
    assert_eq!(page.status, 200);
    assert!(page.body.contains("good news"), "{}", page.body);

    demo.signal(Signal::INT);
    assert_eq!(demo.ended().await.code(), Some(0));
    let output = demo.output();
    let last = output.trim_end().lines().next_back().unwrap();
    assert!(last.contains("account") && last.contains("README.md"), "it ends by saying how to go on: {output}");
    assert!(!output.contains('\x1b'), "no colours where there is no terminal: {output}");
    client.expect_text("ilink-demo/bridge/state", "offline").await;
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "it leaves nothing behind");
}

#[cfg(not(feature = "demo"))]
#[tokio::test]
async fn without_the_embedded_broker_it_says_what_to_do() {
    let ended = crate::support::process::finish(["demo"], &[]).await;
    assert_eq!(ended.code, Some(64));
    assert!(ended.text.contains("--broker") && ended.text.contains("--features demo"), "{}", ended.text);
}

/// Closing the terminal ends it, as it would any other program there.
#[tokio::test]
async fn it_ends_with_its_terminal() {
    let broker = Mosquitto::start("");
    let mut demo = Process::start("demo", ["demo", "--broker", &broker.url()], &[]);
    demo.printed("iLink → MQTT").await;
    demo.signal(Signal::HUP);
    assert_eq!(demo.ended().await.code(), Some(0));
}

#[tokio::test]
async fn on_a_terminal_there_are_colours_unless_unwanted() {
    let broker = Mosquitto::start("");
    let arguments = ["demo", "--broker", &broker.url()];
    let coloured = Process::start_on_terminal("demo", &arguments, &[]);
    coloured.printed("\x1b[36miLink → MQTT\x1b[0m  ilink-demo/recv/user/413/text").await;
    let plain = Process::start_on_terminal("demo", &arguments, &[("NO_COLOR", "1")]);
    plain.printed("iLink → MQTT  ilink-demo/recv/user/413/text").await;
    assert!(!plain.output().contains('\x1b'), "{}", plain.output());
}
