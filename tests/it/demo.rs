//! `demo`: both directions at work, and somebody joining in. The embedded broker is tried where it is built (`--features demo`).

use rustix::process::Signal;

use crate::support::client::Client;
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

    demo.signal(Signal::INT);
    assert_eq!(demo.ended().await.code(), Some(0));
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

#[cfg(feature = "demo")]
#[tokio::test]
async fn the_embedded_broker_takes_a_device_in() {
    use crate::support::mosquitto::free_port;

    let listen = format!("127.0.0.1:{}", free_port());
    let mut demo = Process::start("demo", ["demo", "--mqtt-listen", &listen], &[]);
    demo.printed("iLink → MQTT  ilink/recv/user/413/text").await;
    let client = Client::connect_to(listen.rsplit_once(':').unwrap().1.parse().unwrap(), None).await;
    client.subscribe("ilink/#").await;
    client.publish("ilink/send/user/414/text", "from a device").await;
    client.expect_text("ilink/recv/user/414/text", "echo: from a device").await;
    demo.signal(Signal::INT);
    assert_eq!(demo.ended().await.code(), Some(0));
}
