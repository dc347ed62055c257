//! The command line: how much to measure; and the roles that this program plays for itself.

use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(name = "load", about = "Measures the bridge beside two servers that promise less")]
pub(crate) struct Options {
    /// Small numbers: about two minutes instead of an hour
    #[arg(long)]
    pub(crate) quick: bool,
    /// Rounds of which the medians are shown [default: 5, quick 3]
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of load in one round [default: 5, quick 0.5]
    #[arg(long)]
    seconds: Option<f64>,
    /// Pushes that come while the broker is away [default: 1000000, quick 20000]
    #[arg(long)]
    backlog: Option<u64>,
    /// Only these parts [default: all but cluster, which needs etcd]
    #[arg(long, value_delimiter = ',')]
    only: Vec<Section>,
    /// Write the table to tests/load/RESULTS.md
    #[arg(long)]
    pub(crate) write: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Section {
    /// Start, size, memory and disk with little to do
    Resting,
    /// Pushes as fast as they are answered
    Pushes,
    /// From push to subscriber at a fixed pace
    Latency,
    /// From MQTT to calls
    Commands,
    /// An outage of the broker
    Backlog,
    /// Many senders, many receivers, large contents
    Growth,
    /// 1,000 routes that a push does not fire
    Routes,
    /// Three bridges for one account, three members of etcd
    Cluster,
}

/// What this program does as a process of its own, for itself.
#[derive(Subcommand)]
#[command(hide = true)]
pub(crate) enum Role {
    /// Hears what is published
    Subscriber { port: u16, filters: Vec<String> },
    /// Answers calls
    Cloud,
    /// The server that stores each push and promises no more
    Least { broker: u16, dir: std::path::PathBuf },
    /// The server that promises nothing
    Naive { broker: u16, cloud: u16 },
}

impl Options {
    pub(crate) fn sections(&self) -> Vec<Section> {
        if self.only.is_empty() {
            let all = Section::value_variants().iter().copied();
            return all.filter(|section| *section != Section::Cluster).collect();
        }
        self.only.clone()
    }

    /// What is above the table in the results.
    pub(crate) fn heading(&self) -> &'static str {
        if self.only == [Section::Cluster] { "## Measured in a cluster" } else { "## Measured" }
    }

    fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(self.pick(3, 5)).max(1)
    }

    /// One round of one subject.
    pub(crate) fn step(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(self.pick(0.5, 5.0)).clamp(0.1, 600.0))
    }

    /// One observation of something slow: an idle process, one push a second.
    pub(crate) fn watch(&self) -> Duration {
        self.pick(Duration::from_secs(3), Duration::from_mins(1))
    }

    pub(crate) fn backlog(&self) -> u64 {
        self.backlog.unwrap_or(self.pick(20_000, 1_000_000)).max(1)
    }

    /// Commands of one flood.
    pub(crate) fn commands(&self) -> u64 {
        self.pick(3_000, 20_000)
    }
}
