//! A simulated day of odd answers, over everything between the broker and iLink: commands are accepted, stored in a real spool,
//! delivered, and their results published, while the service answers oddly, is silent or slow, has a second client, forgets
//! us; and while the bridge is stopped, killed, cut from power, and told to read its configuration again.
//!
//! All on a paused clock. In the end the `ledger` looks at what devices, the service and the broker have seen.
//!
//! An ordinary run plays a few short days. `ILINK2MQTT_DAYS=17` plays the whole day of one seed, `ILINK2MQTT_DAYS=1..500` those
//! of many. The weather is the seed's; the jitter of the bridge's waits is not, so that no two runs are quite the same.

mod bridge;
mod broker;
mod ledger;
mod service;
mod story;
mod weather;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::attempt::Ambiguous;
use crate::os::clock::simulated::Clocks;
use bridge::World;
use broker::{Message, Queue};
use ledger::Ledger;
use service::Service;
use story::{Asked, NOBODY, Up};
use weather::{End, Event, Rng, Weather};

const DAY: Duration = Duration::from_hours(24);
const SHORT_DAY: Duration = Duration::from_hours(6);
/// A command waits no longer than its life; a quota holds for two hours, and one that comes at its end is found out once more.
const EVENING: Duration = Duration::from_hours(5);
const TRIES: u32 = 3;

/// Those of an ordinary run.
const SEEDS: Range<u64> = 1..4;

fn wanted() -> (Range<u64>, Duration) {
    let Ok(wanted) = std::env::var("ILINK2MQTT_DAYS") else { return (SEEDS, SHORT_DAY) };
    let number = |text: &str| text.parse::<u64>().expect("ILINK2MQTT_DAYS is a seed, or two with .. between");
    let seeds = match wanted.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => number(&wanted)..number(&wanted) + 1,
    };
    (seeds, DAY)
}

#[test]
fn every_command_has_one_true_result_in_time_and_no_budget_is_outrun() {
    let (seeds, day) = wanted();
    let mut held = BTreeSet::new();
    for seed in seeds.clone() {
        let clocks = Clocks::default();
        let for_threads = clocks.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .on_thread_start(move || std::mem::forget(for_threads.enter()))
            .build()
            .unwrap();
        let _entered = clocks.enter();
        let (wrong, holds) = runtime.block_on(play(seed, day, clocks));
        let first: Vec<String> = wrong.iter().take(5).cloned().collect();
        assert!(wrong.is_empty(), "the day of seed {seed}, {} wrong:\n{}", wrong.len(), first.join("\n"));
        held.extend(holds);
    }
    if seeds == SEEDS {
        // Days on which none of this happens prove little.
        let expected = ["expired", "ok", "rejected", "told again", "uncertain"];
        let missing: Vec<_> = expected.into_iter().filter(|kind| !held.contains(kind)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

/// A command that some device makes up.
fn command(rng: &mut Rng, number: usize) -> (Asked, Message) {
    let mark = format!("c{number}");
    let client = rng.pick(&["a", "b", "b", "c"]);
    let to = rng.between(1, 5).to_string();
    let (call, mut body, once) = match rng.between(0, 16) {
        0..7 => ("send_msg/text", json!({"accept_uid": to, "content": mark}), false),
        7..9 => ("send_msg/group", json!({"group_id": format!("g{to}"), "content": mark}), false),
        9..12 => ("ham_topic/publish", json!({"subject": format!("s/{to}"), "content": mark}), false),
        12 => ("ham_group/create", json!({"group_name": mark, "uid_list": ["1"]}), true),
        13 => ("ham_add_user", json!({"username": mark, "nickname": "n"}), true),
        14 => ("ham_user/states", json!({"uid_list": [mark]}), false),
        // Refused: what it lacks is not made up.
        _ => ("send_msg/text", json!({"content": mark}), false),
    };
    let ttl = rng.pick(&[1, 5, 30, 60, 300, 300, 1800, 7200, 10_000, 10_000]);
    body["ref"] = json!(mark);
    body["ttl"] = json!(ttl);
    let lane = match call {
        "send_msg/text" => format!("{client} user {to}"),
        "send_msg/group" => format!("{client} group {to}"),
        "ham_topic/publish" => format!("{client} topic {to}"),
        _ => format!("{client} {NOBODY}"),
    };
    let path = weather::PATHS.into_iter().find(|path| call.starts_with(path)).unwrap();
    let asked = Asked { mark: mark.clone(), path, lane, once, ttl: Duration::from_secs(ttl), at: Instant::now() };
    let topic = format!("ilink/by/{client}/call/{call}");
    (asked, Message { mark, topic, payload: body.to_string().into() })
}

/// Plays the day of a seed; what was wrong with it, and what it held.
async fn play(seed: u64, day: Duration, clocks: Clocks) -> (Vec<String>, BTreeSet<&'static str>) {
    let weather = Weather::new(seed, day);
    let began = Instant::now();
    clocks.start_anew(true);
    let ambiguous = if seed.is_multiple_of(3) { Ambiguous::Report } else { Ambiguous::Retry(NonZeroU32::new(TRIES)) };
    let mut world = World {
        service: Service::new(seed, weather.spells.clone()),
        clocks,
        ambiguous,
        broker: Arc::default(),
        published: Arc::default(),
        record: Arc::default(),
        dir: tempfile::tempdir().unwrap(),
        url: 0,
    };
    let mut rng = Rng::new(seed, 3);
    let mut asked = Vec::new();
    let mut publish = |world: &World, count| {
        for _ in 0..count {
            let (one, message) = command(&mut rng, asked.len());
            asked.push(one);
            world.broker.lock().unwrap().publish(message);
        }
        world.published.notify_one();
    };
    let mut ups: Vec<Up> = Vec::new();
    let mut bridge = world.start().await;
    let mut up_since = Instant::now();
    for (at, event) in weather.events {
        // What was to happen while the bridge was away happens after that.
        sleep_until(began + at).await;
        match event {
            Event::Commands(count) => publish(&world, count),
            Event::Reload(url) => {
                world.url = url;
                bridge.reload(url).await;
            }
            Event::End(how, away) => {
                match how {
                    End::KillAtWork => publish(&world, 1),
                    End::Power => {
                        // So that there is something to lose.
                        publish(&world, 3);
                        sleep(Duration::from_millis(150)).await;
                    }
                    End::Stop | End::Kill => {}
                }
                let at_work = bridge.end(how, world.service.quiet_for()).await;
                ups.push(Up { from: up_since, to: Instant::now(), how, at_work });
                if !away.is_zero() {
                    sleep(away / 2).await;
                    publish(&world, 1);
                    sleep(away / 2).await;
                }
                world.clocks.start_anew(how == End::Power);
                bridge = world.start().await;
                up_since = Instant::now();
            }
        }
    }
    sleep_until(began + day + EVENING).await;
    bridge.end(End::Stop, Duration::ZERO).await;
    ups.push(Up { from: up_since, to: Instant::now(), how: End::Stop, at_work: false });
    let spells = weather.spells;
    let Queue { acked, results, .. } = std::mem::take(&mut *world.broker.lock().unwrap());
    let memory = world.service.memory();
    Ledger { began, asked, acked, results, memory, spells, ups, tries: TRIES, ambiguous }.look()
}
