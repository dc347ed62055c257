//! Tasks that a part spawns by itself, and so watches by itself: a fault of the program in one of them ends the part as well,
//! and with it, by its supervisor, the process. Left alone, it would be a line in the log, and something that never happens.

use std::future::{Future, pending};
use std::panic::resume_unwind;

use tokio::task::{JoinError, JoinSet};

/// The tasks; they are aborted when this is dropped.
#[derive(Debug, Default)]
pub struct Children(JoinSet<()>);

impl Children {
    /// Spawns one more.
    pub fn spawn(&mut self, child: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(child);
    }

    /// How many there are, those included whose end was not noticed yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notices the end of the next; waits while there is none. Cancel-safe.
    ///
    /// # Panics
    /// As it did.
    pub async fn ended(&mut self) {
        match self.0.join_next().await {
            Some(Ok(())) => {}
            Some(Err(error)) => fault(error),
            None => pending().await,
        }
    }

    /// Waits until all have ended.
    ///
    /// # Panics
    /// As one of them did.
    pub async fn all_ended(&mut self) {
        while !self.is_empty() {
            self.ended().await;
        }
    }
}

/// Passes the panic of a task on to who spawned it; never shows its message, which may quote anything.
///
/// # Panics
/// As the task did.
pub fn fault(error: JoinError) {
    if let Ok(fault) = error.try_into_panic() {
        resume_unwind(fault);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fault_in_a_child_is_its_parents() {
        let parent = tokio::spawn(async {
            let mut children = Children::default();
            children.spawn(async {});
            children.spawn(pending());
            children.ended().await;
            children.spawn(async { panic!("a fault") });
            children.ended().await;
        });
        assert!(parent.await.unwrap_err().is_panic());
        let mut none = Children::default();
        none.all_ended().await;
        assert!(none.is_empty());
    }
}
