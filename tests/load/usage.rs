//! What a process uses, from `/proc`; and what this machine is.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Since a process began.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu_us: f64,
    /// What it caused to be written to disks, in bytes: pages made dirty, so at least 4 KiB for each page touched.
    pub(crate) written: f64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        // The name in parentheses may hold spaces; user and system time are the 14th and 15th field.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| fields[field].parse::<f64>().expect("a number");
        // A tick is 10 ms on every Linux there is.
        let cpu_us = (ticks(11) + ticks(12)) * 10_000.0;
        Self { cpu_us, written: field(&format!("/proc/{pid}/io"), "write_bytes:") }
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { cpu_us: self.cpu_us - earlier.cpu_us, written: self.written - earlier.written }
    }
}

/// Nanoseconds of CPU that its present threads have used: finer than ticks, for one that does almost nothing.
pub(crate) fn cpu_ns(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let of = |thread: fs::DirEntry| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0)
    };
    threads.flatten().map(of).sum()
}

/// Resident memory in MB: now, of it not backed by files, and the peak since [`forget_peak`].
pub(crate) fn memory(pid: u32) -> [f64; 3] {
    let file = format!("/proc/{pid}/status");
    ["VmRSS:", "RssAnon:", "VmHWM:"].map(|name| field(&file, name) * 1024.0 / 1e6)
}

/// The peak counts from now on.
pub(crate) fn forget_peak(pid: u32) {
    // Where that is not allowed, the peak is that of the whole life.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

fn field(file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{file}: {e}"));
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

/// Counts the syncs of a process with strace, which slows it: for a round of its own.
pub(crate) struct Syncs {
    strace: std::process::Child,
    counts: tempfile::NamedTempFile,
}

impl Syncs {
    /// None where there is no strace, or it may not.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let counts = tempfile::NamedTempFile::new().ok()?;
        let mut strace = Command::new("strace")
            .args(["-f", "-q", "-c", "-e", "trace=fsync,fdatasync", "-p", &pid.to_string(), "-o"])
            .arg(counts.path())
            .stderr(std::process::Stdio::null())
            .spawn()
            .ok()?;
        let began = Instant::now();
        while field(&format!("/proc/{pid}/status"), "TracerPid:") == 0.0 {
            if strace.try_wait().ok()?.is_some() || began.elapsed().as_secs() > 10 {
                let _ = strace.kill();
                let _ = strace.wait();
                return None;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Some(Self { strace, counts })
    }

    /// How many there were.
    pub(crate) fn end(mut self) -> Option<f64> {
        let pid = rustix::process::Pid::from_child(&self.strace);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).ok()?;
        self.strace.wait().ok()?;
        let text = fs::read_to_string(self.counts.path()).ok()?;
        let calls = text.lines().filter(|line| line.ends_with("sync")).filter_map(|line| {
            // % time, seconds, µs/call, calls, [errors,] name
            line.split_whitespace().nth(3)?.parse::<f64>().ok()
        });
        Some(calls.sum())
    }
}

/// The median time of 4 KiB written over and fdatasync, in ms, beside the bridge's state directories.
pub(crate) fn sync_ms() -> f64 {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(&vec![0; 64 * 4096]).expect("room on the disk");
    file.sync_all().expect("a disk");
    let mut took: Vec<u32> = (0..256_u64)
        .map(|n| {
            let began = Instant::now();
            file.write_all_at(&[n as u8; 4096], n % 64 * 4096).expect("room on the disk");
            file.sync_data().expect("a disk");
            began.elapsed().as_micros() as u32
        })
        .collect();
    super::recorder::percentiles(&mut took)[0] / 1000.0
}

/// What it was measured on, and of what.
pub(crate) fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut text = String::new();
    let commit = git(&["rev-parse", "--short", "HEAD"]);
    let changed = if git(&["status", "--porcelain", "-uno"]).is_empty() { "" } else { ", with changes" };
    let _ = writeln!(text, "- commit {commit}{changed}");
    let _ = writeln!(text, "- {}", humantime::format_rfc3339_seconds(std::time::SystemTime::now()));
    let _ = writeln!(text, "- {cores} cores, {}", model.trim_start_matches([' ', '\t', ':']));
    let _ = writeln!(text, "- Linux {}", kernel.trim());
    let _ = writeln!(text, "- state directories on {}", file_system(&std::env::temp_dir()));
    let _ = writeln!(text, "- load before: {}", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
    text
}

fn git(args: &[&str]) -> String {
    let output = Command::new("git").args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// Its kind and device.
fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_default();
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounted = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|mount| mount.len() > 2);
    let nearest = mounted.filter(|mount| dir.starts_with(mount[1])).max_by_key(|mount| mount[1].len());
    nearest.map_or_else(String::new, |mount| format!("{} ({})", mount[2], mount[0]))
}
