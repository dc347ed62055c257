//! The whole bridge under load in both directions, recorded: at any power cut everything it had promised is there.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use ilink2mqtt::inbound;
use ilink2mqtt::outbound::record::{Mark, Record};
use ilink2mqtt::protocol::{Call, Message, Push};
use ilink2mqtt::state_dir::{Identity, Overrides, StateDir};
use ilink2mqtt::store::sqlite::{Recovered, Spool};
use ilink2mqtt::store::{Append as _, Limits, Queue, Row, Store as _};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::platter::{Dice, FATES, Platter, write_out};
use super::promises::Promises;
use super::recording::{self, Event};
use super::{assert_complete, scratch, wanted};
use crate::blackbox::world::World;
use crate::support::bridge::{base64, text_push};
use crate::support::http::{Answer, http};

const LIMITS: Limits = Limits { inbound: 1 << 30, outbound: 1 << 30, set_aside: 1 << 24 };

/// Many at once, each waiting for its answer before the next.
async fn push(url: &str, round: &str, senders: usize, each: usize) {
    let url: Arc<str> = url.into();
    let sending: Vec<_> = (0..senders)
        .map(|sender| {
            let (url, round) = (Arc::clone(&url), round.to_owned());
            tokio::spawn(async move {
                let http = http();
                for n in 0..each {
                    let body = text_push(&(500 + sender).to_string(), &format!("push {round} {sender} {n}"));
                    assert_eq!(Answer::of(http.post(&*url).json(&body)).await.status, 200);
                }
            })
        })
        .collect();
    for sending in sending {
        sending.await.unwrap();
    }
}

/// Commands to several receivers; those whose name begins with "once" must not be repeated.
async fn command(world: &World, round: &str, count: usize) {
    for n in 0..count {
        let reference = format!("{round} {n}");
        let (topic, call) = if n % 5 == 4 {
            let name = format!("once {round} {n}");
            ("ilink/call/ham_group/create", json!({"group_name": name, "uid_list": ["413"], "ref": name}))
        } else {
            let content = base64(reference.as_bytes());
            let to = (n % 7).to_string();
            (
                "ilink/call/send_msg/text",
                json!({"accept_uid": to, "content": content, "encoding": "base64", "ref": reference}),
            )
        };
        world.client.publish(topic, call.to_string()).await;
    }
}

/// Waits until so many results and pushes have arrived in all.
async fn settled(world: &World, results: usize, pushes: usize) {
    let count = |all: &[crate::support::client::Message], prefix: &str| {
        all.iter()
            .filter(|message| message.topic.starts_with(prefix))
            .map(|m| m.payload.clone())
            .collect::<BTreeSet<_>>()
            .len()
    };
    world
        .client
        .until("all of it", |all| count(all, "ilink/result/") >= results && count(all, "ilink/recv/") >= pushes)
        .await;
}

/// The recorded life of a bridge; the figures are pushes and commands.
async fn live(world: &mut World) -> (usize, usize) {
    world.bridge.start().await;
    let identity = std::fs::read(world.bridge.state_dir().join("identity.json")).unwrap();
    let identity: Value = serde_json::from_slice(&identity).unwrap();
    let url = world.bridge.callback_at(&format!("/{}", identity["path_secret"].as_str().unwrap()));
    // Both directions at once.
    tokio::join!(push(&url, "a", 8, 10), command(world, "a", 60));
    settled(world, 60, 80).await;
    // Without a broker pushes wait, and without iLink commands do.
    world.broker.stop();
    push(&url, "b", 4, 10).await;
    world.broker.restart();
    world.sim.fault(&json!({"path": "send_msg", "mode": "drop", "times": 3})).await;
    tokio::join!(push(&url, "c", 4, 10), command(world, "c", 30));
    settled(world, 90, 160).await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    // A second run, in which nothing may be sent twice, and a token that ends.
    world.bridge.set("outbound.ambiguous", "report");
    world.bridge.start().await;
    world.sim.expire().await;
    world.sim.fault(&json!({"path": "send_msg", "mode": "delay", "delay_s": 0.02, "times": 0})).await;
    tokio::join!(push(&url, "d", 4, 10), command(world, "once d", 40));
    settled(world, 130, 200).await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    (200, 130)
}

/// What is in the queues: texts of pushes, and refs of commands with what is known of them.
struct Found {
    pushes: Vec<String>,
    commands: Vec<(String, Option<Mark>)>,
}

async fn contents(spool: &Spool) -> Found {
    let read = async |queue| spool.read_after(queue, 0, usize::MAX, usize::MAX).await.expect("reading works");
    let push = |row: Row| match inbound::record::Record::decode(&row.data).expect("a row that was written") {
        inbound::record::Record::States { .. } | inbound::record::Record::StatesAgain { .. } => None,
        inbound::record::Record::PushAgain { .. } => panic!("nothing was put back"),
        inbound::record::Record::Push { body, .. } => match Push::decode(&body).expect("a push").message {
            Message::Text { content, .. } => Some(String::from_utf8(content.bytes).expect("a text")),
            other => panic!("never pushed: {other:?}"),
        },
    };
    let command = |row: Row| match Record::decode(&row.data).expect("a row that was written") {
        Record::Command(command) => {
            let reference: String = serde_json::from_str(command.reference.expect("a ref").as_json()).unwrap();
            if let Call::SendText { content, .. } = &command.call {
                assert_eq!(content, reference.as_bytes());
            }
            (reference, Some(command.mark))
        }
        Record::Result(result) => {
            let json: Value = serde_json::from_slice(&result.json).expect("JSON");
            (json["ref"].as_str().expect("a ref").to_owned(), None)
        }
    };
    Found {
        pushes: read(Queue::Inbound).await.into_iter().filter_map(push).collect(),
        commands: read(Queue::Outbound).await.into_iter().map(command).collect(),
    }
}

/// Everything that is wrong with the state directory that a power cut left.
async fn examine(dir: &Path, promises: &Promises) -> Vec<String> {
    let mut wrong = Vec::new();
    let state = StateDir::open(dir).expect("the state directory opens");
    match Identity::open(state.directory(), Overrides::default()) {
        Err(error) => wrong.push(format!("failed open: {error}")),
        Ok(identity) => {
            if let Some((url, token)) = &promises.registered
                && !(url.ends_with(identity.path_secret().expose_secret())
                    && token == identity.handshake_token().expose_secret())
            {
                wrong.push("lost: the identity that iLink was told".to_owned());
            }
        }
    }
    if let Ok(token) = std::fs::read(dir.join("token.json")) {
        let token = serde_json::from_slice::<Value>(&token).unwrap_or_default();
        if !token["access_token"].as_str().is_some_and(|token| promises.tokens.contains(token)) {
            wrong.push(format!("invented: a token that iLink never gave, {token}"));
        }
    }
    let (spool, recovered) = match Spool::open(dir, LIMITS) {
        Ok(opened) => opened,
        Err(error) => {
            wrong.push(format!("failed open: {error}"));
            return wrong;
        }
    };
    if recovered != Recovered::default() {
        wrong.push(format!("alarm: {recovered:?}"));
    }
    let found = contents(&spool).await;
    let pushes: BTreeSet<_> = found.pushes.iter().collect();
    let commands: BTreeSet<_> = found.commands.iter().map(|(reference, _)| reference).collect();
    let mut lost = |what: &str, item: &str| wrong.push(format!("lost: {what} {item:?}"));
    for push in &promises.pushes_answered {
        if !pushes.contains(push) && !promises.is_delivered(push) {
            lost("an answered push", push);
        }
    }
    for command in &promises.commands_acked {
        if !commands.contains(command) && !promises.results_acked.contains(command) {
            lost("an acknowledged command", command);
        }
    }
    for (reference, mark) in &found.commands {
        if mark.is_some() && promises.results_known.contains(reference) {
            lost("a known result", reference);
        }
        if mark.is_some_and(|mark| mark != Mark::Sent) && promises.once_called.contains(reference) {
            lost("the mark of a call that must not be repeated", reference);
        }
        if *mark == Some(Mark::Unsent) && promises.called.contains(reference) {
            lost("the mark of a call that may have been executed", reference);
        }
    }
    let mut invented = |what: &str, item: &str| wrong.push(format!("invented: {what} {item:?}"));
    for push in pushes.iter().filter(|push| !promises.pushes_received.contains(**push)) {
        invented("a push", push);
    }
    for command in commands.iter().filter(|command| !promises.commands_received.contains(**command)) {
        invented("a command", command);
    }
    if pushes.len() < found.pushes.len() || commands.len() < found.commands.len() {
        invented("a second copy", "of something");
    }
    spool.close().await;
    wrong
}

/// Where to cut: right after each kind of event, and anywhere.
fn points(events: &[Event], wanted: usize) -> Vec<usize> {
    let of = |is: &dyn Fn(&Event) -> bool| -> Vec<usize> {
        events.iter().enumerate().filter(|(_, event)| is(event)).map(|(at, _)| at).collect()
    };
    let kinds = [
        of(&|event| matches!(event, Event::Sent(..))),
        of(&|event| matches!(event, Event::Written { .. } | Event::Truncated { .. })),
        of(&|event| matches!(event, Event::SyncBegan { .. } | Event::Synced { .. })),
        of(&|event| {
            matches!(event, Event::Renamed { .. } | Event::Unlinked { .. } | Event::Opened { is_new: true, .. })
        }),
        (0..events.len()).collect(),
    ];
    let mut dice = Dice(11);
    let each = wanted.div_ceil(kinds.len());
    let mut points: Vec<_> =
        kinds.iter().flat_map(|kind| (0..each).map(|_| kind[dice.below(kind.len())]).collect::<Vec<_>>()).collect();
    points.sort_unstable();
    points
}

/// Cuts the power at `wanted` points; gives how many they were, and what was wrong.
async fn replay(events: &[Event], wanted: usize, lies: bool) -> (usize, Vec<String>, Platter) {
    let points = points(events, wanted);
    let mut left = points.iter().copied().enumerate().peekable();
    let (mut platter, mut promises) = (Platter::default(), Promises::default());
    let mut wrong = Vec::new();
    for (at, event) in events.iter().enumerate() {
        platter.apply(event, lies);
        promises.take(event);
        while let Some((number, _)) = left.next_if(|(_, point)| *point == at) {
            let fate = FATES[number % FATES.len()];
            let dir = scratch();
            write_out(&platter.cut(fate, &mut Dice(u64::try_from(number).unwrap())), dir.path());
            let found = examine(dir.path(), &promises).await;
            wrong.extend(found.iter().map(|text| format!("cut {number} after step {at} ({fate:?}): {text}")));
        }
    }
    (points.len(), wrong, platter)
}

fn count(wrong: &[String], kind: &str) -> usize {
    wrong.iter().filter(|text| text.contains(kind)).count()
}

#[tokio::test]
async fn no_power_cut_loses_what_the_bridge_promised() {
    let logs = TempDir::new().unwrap();
    let log = logs.path().join("log");
    let mut world = World::prepared(&[], |bridge| {
        let environment = recording::environment(&bridge.state_dir(), Some(&log), None);
        bridge.with_envs(environment).without("callback.path_secret")
    })
    .await;
    let (pushes, commands) = live(&mut world).await;
    let root = world.bridge.state_dir();
    let events = recording::read(&log, &root);

    let mut promises = Promises::default();
    for event in &events {
        promises.take(event);
    }
    assert_eq!((promises.pushes_answered.len(), promises.commands_acked.len()), (pushes, commands));
    assert_eq!(promises.results_known.len(), commands);
    assert!(promises.pushes_answered.iter().all(|push| promises.is_delivered(push)));
    assert!(promises.registered.is_some() && promises.tokens.len() >= 2);
    assert!(promises.once_called.len() >= 50, "{:?}", promises.once_called);
    assert_eq!(promises.called_twice, [""; 0]);

    let (points, wrong, platter) = replay(&events, wanted(), false).await;
    assert_complete(&platter, &root);
    println!(
        "bridge: {points} power cuts in {} recorded steps ({} syncs, {pushes} pushes, {commands} commands): {} failed opens, {} lost, {} invented, {} alarms",
        events.len(),
        platter.syncs,
        count(&wrong, "failed open:"),
        count(&wrong, "lost:"),
        count(&wrong, "invented:"),
        count(&wrong, "alarm:"),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let (_, wrong, _) = replay(&events, 25, true).await;
    assert!(count(&wrong, "lost:") > 0, "a disk that ignores every sync loses nothing: the examination sees nothing");
}
