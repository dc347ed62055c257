//! A fault in the program itself, in one of its tasks: the process ends, and answers nothing any more. The fault is made from
//! outside: the system has no random number for the id of a command, which nobody can go on without.

use std::fs;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::disk::recording;
use crate::support::DEADLINE;
use crate::support::bridge::{Bridge, SECRET, text_push};
use crate::support::http::{raw_post, read_to_close};
use crate::support::scripted_broker::ScriptedBroker;
use crate::support::sim::Sim;

/// The seed of a generator has 32 bytes; others ask for fewer.
const NO_SEED: &str = "random#1 5 32$\n";

#[tokio::test]
async fn a_panic_of_one_task_ends_the_process_and_no_push_is_answered_after_it() {
    let broker = ScriptedBroker::bind().await;
    let mut bridge = Bridge::at(&format!("mqtt://127.0.0.1:{}", broker.port()), &Sim::absent(&[]));
    let fault = bridge.dir().join("fault");
    let environment = recording::environment(&bridge.state_dir(), None, Some(&fault));
    bridge = bridge.with_envs(environment);
    bridge.spawn();
    let mut peer = broker.up().await;
    bridge.push(&text_push("413", "before")).await;
    peer.publish().await.expect("the push");
    bridge.kill();

    // The next run publishes it, and has something to wait for when it is to stop: the broker does not acknowledge it.
    bridge.spawn();
    let mut peer = broker.up().await;
    peer.publish().await.expect("the push");
    fs::write(&fault, NO_SEED).unwrap();
    peer.command("ilink/send/user/413/text", 1, "x").await;
    bridge.logged("stopping: a part of the bridge failed").await;
    assert!(!fault.exists(), "something else failed");
    assert!(bridge.process().is_running(), "it waits for the broker first");
    let request = raw_post(&format!("/{SECRET}"), text_push("413", "after").to_string().as_bytes());
    while let Ok(mut stream) = TcpStream::connect(("127.0.0.1", bridge.callback_port())).await {
        if stream.write_all(&request).await.is_ok() {
            assert_eq!(read_to_close(&mut stream, DEADLINE).await, "", "a push is answered after the fault");
        }
    }
    assert_eq!(bridge.process().ended().await.code(), Some(70));
    let log = bridge.log();
    for says in ["a bug in the program, at ", "the command loop failed: a bug in the program"] {
        assert!(log.contains(says), "no {says:?} in\n{log}");
    }

    bridge.spawn();
    let mut peer = broker.up().await;
    let first = peer.publish().await.expect("the push");
    assert!(first.payload.starts_with(b"before") || first.topic.starts_with(b"ilink/event/"), "{first:?}");
}
