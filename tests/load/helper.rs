//! This program again, as a process of its own in another role; asked and answered line by line.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::recorder::{Arrived, Recorder};

/// A process in a role; ends with the value.
pub(crate) struct Helper {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Where it listens; 0 if it does not.
    pub(crate) port: u16,
}

impl Helper {
    /// Starts it and waits until it is ready.
    pub(crate) fn start<S: AsRef<str>>(role: &[S]) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("our own name"))
            .args(role.iter().map(AsRef::as_ref))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ourselves can be run");
        let asks = child.stdin.take().expect("a pipe");
        let mut answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let port = read(&mut answers).parse().expect("its port");
        Self { child, asks, answers, port }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn ask(&mut self, what: &str) -> String {
        writeln!(self.asks, "{what}").expect("it listens");
        read(&mut self.answers)
    }

    /// Begins a run: what comes from now on with this number counts.
    pub(crate) fn begin(&mut self, run: u32) {
        self.ask(&format!("begin {run}"));
    }

    /// What arrived of the run, once all did, or nothing more comes.
    pub(crate) fn arrived(&mut self, total: u64, unanswered: &[u64]) -> Arrived {
        let mut ask = format!("wait {total}");
        for number in unanswered {
            write!(ask, " {number}").expect("a string takes all");
        }
        serde_json::from_str(&self.ask(&ask)).expect("what arrived")
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(answers: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    answers.read_line(&mut line).expect("a line");
    assert!(!line.is_empty(), "a helper ended");
    line.trim_end().to_owned()
}

/// Without an arrival for so long, no more is expected.
const PATIENCE: Duration = Duration::from_secs(15);

/// The other side: says that it is ready, then answers until its starter ends. `other` answers what is not about the recorder.
pub(crate) fn serve(port: u16, recorder: &Recorder, mut other: impl FnMut(&str, &str) -> String) {
    println!("{port}");
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let (what, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match what {
            "begin" => {
                recorder.begin(argument.parse().expect("a number"));
                "ok".to_owned()
            }
            "wait" => {
                let mut numbers = argument.split(' ').map(|number| number.parse().expect("a number"));
                let total = numbers.next().expect("how many");
                let mut unanswered: Vec<u64> = numbers.collect();
                unanswered.sort_unstable();
                serde_json::to_string(&recorder.wait(total, &unanswered, PATIENCE)).expect("plain numbers")
            }
            _ => other(what, argument),
        };
        println!("{answer}");
    }
}
