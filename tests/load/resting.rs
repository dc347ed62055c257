//! What the bridge costs when there is little to do: its size, its start, its idleness, one push a second.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::generator::{Load, Until};
use super::options::Options;
use super::sample::middle;
use super::support::bridge::Bridge;
use super::support::process::PROGRAM;
use super::table::{Table, number};
use super::usage::{self, Usage};
use super::world::{Each, Subject, World, bridge};

pub(crate) async fn measure(world: &mut World, options: &Options, table: &mut Table) {
    let size = std::fs::metadata(PROGRAM).expect("the program").len();
    table.single("size of the program, MB", format!("{:.2}", size as f64 / 1e6));
    table.single("one write of 4 KiB and fdatasync, ms p50", number(usage::sync_ms()));
    let starts = (0..options.rounds().max(3)).map(|_| {
        let mut empty = bridge(&world.broker, &world.cloud, Subject::Raw)
            .with("mqtt.base_topic", "start")
            .with("mqtt.client_id", "load-start");
        start_to_listening(&mut empty)
    });
    table.single("start to listening, nothing spooled, ms", number(middle(starts.collect())));
    world.raw.stop().await;
    world.raw.start().await;
    idle(world, options, table).await;
    slow(world, options, table).await;
}

async fn idle(world: &mut World, options: &Options, table: &mut Table) {
    // The spool puts itself in order 2 s after the last change.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let pids = Subject::ALL.map(|subject| world.pid(subject));
    let memory = pids.map(|pid| {
        let [now, anonymous, _] = usage::memory(pid);
        format!("{now:.1} ({anonymous:.1})")
    });
    table.cells("idle: MB resident (anonymous)", memory);
    let before = pids.map(|pid| (usage::cpu_ns(pid), Usage::of(pid)));
    tokio::time::sleep(options.watch()).await;
    let seconds = options.watch().as_secs_f64();
    let after = pids.map(|pid| (usage::cpu_ns(pid), Usage::of(pid)));
    // A thread that ended meanwhile takes its share with it.
    let each = Subject::ALL.map(|subject| subject as usize);
    let cpu = each.map(|of| format!("{:.4}", (after[of].0 - before[of].0).max(0.0) / 1e7 / seconds));
    table.cells("idle: CPU %", cpu);
    let written = each.map(|of| number(after[of].1.since(before[of].1).written));
    table.cells(&format!("idle: disk bytes in {seconds} s"), written);
}

async fn slow(world: &mut World, options: &Options, table: &mut Table) {
    let mut written = <Each<String>>::default();
    for subject in [Subject::Raw, Subject::Both] {
        let load = Load { pace: Some(1.0), ..Load::fast(1, Until::Time(options.watch())) };
        let sample = world.push(subject, load).await;
        written[subject as usize] = number(sample.get("written").unwrap_or(0.0));
    }
    table.cells("one push a second: disk bytes a push", written);
}

/// Milliseconds from its exec until its callback answers; the spool is open then.
pub(crate) fn start_to_listening(bridge: &mut Bridge) -> f64 {
    let began = Instant::now();
    bridge.spawn();
    loop {
        assert!(began.elapsed() < Duration::from_mins(1), "the bridge does not start:\n{}", bridge.log());
        if answers(bridge.callback_port()).is_some() {
            return began.elapsed().as_secs_f64() * 1000.0;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

fn answers(port: u16) -> Option<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bridge\r\n\r\n").ok()?;
    stream.read_exact(&mut [0; 12]).ok()
}
