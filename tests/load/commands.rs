//! Commands: how fast they are taken in, and how they become calls.

use std::time::{Duration, Instant};

use super::generator::{self, Load, Target, Until};
use super::message::{Head, message, now};
use super::mqtt::Client;
use super::options::Options;
use super::sample::{ARRIVAL, Sample};
use super::support::bridge::{Bridge, SECRET};
use super::support::sim::Sim;
use super::table::{Line, Table, number};
use super::usage::Usage;
use super::world::{Each, Subject, World, bridge, state_of};

/// Distinct receivers: more than calls at once.
const RECEIVERS: u64 = 64;
/// Unacknowledged publishes of ours.
const WINDOW: u64 = 200;

const FLOOD: [Line; 2] =
    [Line { says: "calls/s", figures: &["calls"] }, Line { says: "CPU µs a command", figures: &["cpu"] }];
const PACED: [Line; 1] = [Line { says: "command to call, ms p50 / p99 / p99.9", figures: &ARRIVAL }];
const INTAKE: [Line; 1] = [Line { says: "taken in/s, no calls", figures: &["taken"] }];

pub(crate) async fn measure(world: &mut World, options: &Options, table: &mut Table) {
    intake(world, options, table).await;
    for delay_ms in [0, 50] {
        world.cloud.ask(&format!("delay {delay_ms}"));
        let count = if delay_ms == 0 {
            options.commands()
        } else {
            // Eight lanes make 160 a second.
            (options.step().as_secs_f64() * 160.0) as u64
        };
        let about = format!("commands, calls answered after {delay_ms} ms");
        let mut rounds = <Each<Vec<Sample>>>::default();
        for _ in 0..options.rounds() {
            for subject in [Subject::Naive, Subject::Raw] {
                rounds[subject as usize].push(flood(world, subject, count, RECEIVERS).await);
            }
        }
        table.rounds(&about, &FLOOD, &rounds);
        let mut rounds = <Each<Vec<Sample>>>::default();
        for _ in 0..options.rounds() {
            for subject in [Subject::Naive, Subject::Raw] {
                let count = (options.step().as_secs_f64() * 50.0) as u64;
                rounds[subject as usize].push(publish(world, subject, count, RECEIVERS, Some(50.0)).await);
            }
        }
        table.rounds(&format!("{about}, 50/s"), &PACED, &rounds);
    }
    world.cloud.ask("delay 0");
    ceilings(world, options, table).await;
}

/// Commands as fast as the broker takes them.
pub(crate) async fn flood(world: &mut World, subject: Subject, count: u64, receivers: u64) -> Sample {
    publish(world, subject, count, receivers, None).await
}

async fn publish(world: &mut World, subject: Subject, count: u64, receivers: u64, pace: Option<f64>) -> Sample {
    let (run, pid) = (world.next_run(), world.pid(subject));
    world.cloud.begin(run);
    let before = Usage::of(pid);
    let began_ns = now();
    publish_commands(world.broker.port(), subject.base(), run, count, receivers, pace);
    let arrived = world.cloud.arrived(count, &[]);
    if subject == Subject::Raw {
        drained(&world.raw).await;
    }
    let used = Usage::of(pid).since(before);
    let mut sample = Sample::new(count, arrived.missing);
    let seconds = arrived.last_ns.saturating_sub(began_ns) as f64 / 1e9;
    sample.set("calls", arrived.distinct as f64 / seconds);
    sample.set("cpu", used.cpu_us / count as f64);
    sample.latency(ARRIVAL, arrived.latency_us);
    sample
}

/// Until each command has become a result, and each result was published.
async fn drained(bridge: &Bridge) {
    super::support::within(Duration::from_mins(5), "the bridge to publish all results", async || {
        (state_of(bridge, "outbound")?.1 == 0).then_some(())
    })
    .await;
}

/// A bridge that cannot call takes commands in; the naive server counts them and forgets them.
async fn intake(world: &mut World, options: &Options, table: &mut Table) {
    let mut taking = bridge(&world.broker, &world.cloud, Subject::Raw)
        .with("ilink.api", "http://127.0.0.1:1")
        .with("mqtt.base_topic", "taking")
        .with("mqtt.client_id", "load-taking")
        .with("outbound.ttl", "12h");
    taking.spawn();
    taking.logged("connected to the broker").await;
    world.naive.ask("calls off");
    let mut rounds = <Each<Vec<Sample>>>::default();
    let count = options.commands() * 2;
    // The first command comes when the subscription is there.
    publish_commands(world.broker.port(), "taking", 0, 1, 1, None);
    super::support::eventually("the first command to be taken in", async || {
        publish_commands(world.broker.port(), "taking", 0, 1, 1, None);
        (state_of(&taking, "outbound")?.1 > 0).then_some(())
    })
    .await;
    for _ in 0..options.rounds() {
        for subject in [Subject::Naive, Subject::Raw] {
            let run = world.next_run();
            let base = if subject == Subject::Raw { "taking" } else { "naive" };
            let World { naive, broker, .. } = world;
            let mut taken = || match subject {
                Subject::Naive => naive.ask("received").parse().expect("a number"),
                _ => state_of(&taking, "outbound").map_or(0, |(next, _)| next),
            };
            let (before, began, port) = (taken(), Instant::now(), broker.port());
            let publisher = std::thread::spawn(move || publish_commands(port, base, run, count, RECEIVERS, None));
            while taken() < before + count {
                assert!(began.elapsed() < Duration::from_mins(5), "commands are not taken in");
                std::thread::sleep(Duration::from_millis(5));
            }
            let took = began.elapsed();
            publisher.join().expect("the broker takes them");
            let mut sample = Sample::new(count, 0);
            sample.set("taken", count as f64 / took.as_secs_f64());
            rounds[subject as usize].push(sample);
        }
    }
    world.naive.ask("calls on");
    table.rounds("commands", &INTAKE, &rounds);
}

/// What the clouds themselves can do, so that nobody takes it for the bridge's limit.
async fn ceilings(world: &mut World, options: &Options, table: &mut Table) {
    let simulator = Sim::start(&[]).await;
    for (name, port) in [("this tool's cloud", world.cloud.port), ("the simulator (refusing)", simulator.port())] {
        let target =
            Target { ports: vec![port], path: format!("/send_msg?access_token={SECRET}"), to_uid: "413", answer: "}" };
        let run = world.next_run();
        let load = Load::fast(8, Until::Time(options.step()));
        let outcome = generator::drive(&target, load, run).await;
        let seconds = (outcome.ended_ns - outcome.began_ns) as f64 / 1e9;
        table
            .single(&format!("ceiling of {name}: calls/s over 8 connections"), number(outcome.issued as f64 / seconds));
    }
}

/// Publishes them and returns when the broker has them all.
fn publish_commands(port: u16, base: &str, run: u32, count: u64, receivers: u64, pace: Option<f64>) {
    let mut client = Client::connect(port, &format!("load-publisher-{run}"), false).expect("the broker answers");
    client.set_patience(Duration::from_secs(30)).expect("a TCP connection");
    let began = Instant::now();
    let (mut sent, mut acknowledged) = (0, 0);
    while acknowledged < count {
        while sent < count && sent < acknowledged + WINDOW {
            if let Some(pace) = pace {
                let due = Duration::from_secs_f64(sent as f64 / pace);
                let early = due.saturating_sub(began.elapsed());
                if !early.is_zero() && sent > acknowledged {
                    break;
                }
                std::thread::sleep(early);
            }
            let topic = format!("{base}/send/user/{}/text", 100_000 + sent % receivers);
            client.publish(&topic, &message(Head::new(run, sent), 100));
            sent += 1;
            if pace.is_some() {
                break;
            }
        }
        client.flush().expect("the broker reads");
        acknowledged += client.acknowledged().expect("the broker acknowledges");
    }
}
