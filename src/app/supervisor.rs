//! Supervises every task of the daemon. If a task ends unasked or panics, its name is logged and the process ends. A bridge
//! that went on without one of its parts would accept pushes and deliver nothing.
//!
//! A part that spawns tasks of its own watches them itself, and ends with them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::warn;

/// What ends together when the daemon stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The loops that take messages in, and calls.
    Loops,
    /// The loop that publishes results.
    Results,
    /// What only observes, and answers who asks.
    Observers,
    /// The session with iLink.
    Session,
    /// The link to the broker.
    Link,
    /// The callback.
    Callback,
}

/// The tasks of the daemon.
#[derive(Default)]
pub(super) struct Supervisor {
    tasks: JoinSet<Ended>,
    /// How many still run.
    left: BTreeMap<Step, usize>,
}

struct Ended {
    name: &'static str,
    step: Step,
    how: How,
}

enum How {
    /// As it may before it is asked to.
    Done,
    /// As it may not.
    Unasked,
    Failed(String),
}

/// A fault's own line is in the log, by the panic hook.
pub(super) const FAULT: &str = "a bug in the program, logged above";

impl Supervisor {
    /// Runs a part that must run for as long as the daemon does.
    pub(super) fn part<E: Display>(
        &mut self,
        name: &'static str,
        step: Step,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.spawn(name, step, async move {
            match part.await {
                Ok(()) => How::Unasked,
                Err(error) => How::Failed(error.to_string()),
            }
        });
    }

    /// As [`Self::part`], of a part that cannot fail.
    pub(super) fn service(
        &mut self,
        name: &'static str,
        step: Step,
        service: impl Future<Output = ()> + Send + 'static,
    ) {
        self.spawn(name, step, service.map(|()| How::Unasked));
    }

    /// Runs what may come to its end.
    pub(super) fn errand(&mut self, name: &'static str, step: Step, errand: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, step, errand.map(|()| How::Done));
    }

    /// Watches a part that runs already.
    pub(super) fn adopt(&mut self, name: &'static str, step: Step, task: JoinHandle<()>) {
        self.part(name, step, task.map(|ended| ended.map_err(|_| FAULT)));
    }

    fn spawn(&mut self, name: &'static str, step: Step, task: impl Future<Output = How> + Send + 'static) {
        *self.left.entry(step).or_default() += 1;
        // One kind of task for all parts: the code that tokio has for each kind is large.
        let task = task.boxed();
        self.tasks.spawn(async move {
            let how = AssertUnwindSafe(task).catch_unwind().await;
            Ended { name, step, how: how.unwrap_or_else(|_| How::Failed(FAULT.to_owned())) }
        });
    }

    /// Resolves when one has ended as it may not, with its name. Cancel-safe.
    pub(super) async fn failed(&mut self) -> String {
        loop {
            let Some(Ended { name, how, .. }) = self.ended().await else { return "no part runs any more".to_owned() };
            match how {
                How::Done => {}
                How::Unasked => return format!("{name} ended unasked"),
                How::Failed(error) => return format!("{name} failed: {error}"),
            }
        }
    }

    /// Waits until all of a step have ended, which have been asked to, but no longer than `limit`.
    pub(super) async fn join(&mut self, step: Step, limit: Option<Duration>) {
        let all = async {
            while self.left.get(&step).is_some_and(|left| *left > 0) {
                let Some(Ended { name, how, .. }) = self.ended().await else { return };
                if let How::Failed(error) = how {
                    warn!(name, error, "a part failed while stopping");
                }
            }
        };
        match limit {
            None => all.await,
            // What is left ends with the process.
            Some(limit) => drop(timeout(limit, all).await),
        }
    }

    async fn ended(&mut self) -> Option<Ended> {
        // None of the tasks is aborted, and a panic is caught within: they all give what became of them.
        let ended = self.tasks.join_next().await?.ok()?;
        self.left.entry(ended.step).and_modify(|left| *left = left.saturating_sub(1));
        Some(ended)
    }
}

#[cfg(test)]
mod tests;
