//! What the handles ask of the writer, in the order of the calls.
//!
//! A lazy operation wakes the writer only if nothing else will in time, or if they are many. Else every PUBACK would wake it once
//! more, for nothing but to note it, while the next push waits for a core.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::os::lock;

/// How long lazy operations wait for a durable one to ride with, and how many may. What a killed process had not handed over is
/// done again: a delivery is repeated, as after a power cut. Shorter, and a push a second would write half as much again to
/// the SD card: each commit of their own writes one page of 4 KiB at least.
pub(super) const LAZY_WAIT: Duration = Duration::from_millis(1_500);
pub(super) const LAZY_MOST: usize = 256;

#[derive(Debug)]
struct Shared<T> {
    waiting: Mutex<Waiting<T>>,
    came: Condvar,
}

#[derive(Debug)]
struct Waiting<T> {
    requests: VecDeque<T>,
    writer: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It looks here before it sleeps.
    Awake,
    /// Until its timer, or until something comes that cannot wait.
    Dozing,
    /// Until anything comes.
    Asleep,
    Gone,
}

/// The handles' end.
#[derive(Debug)]
pub(super) struct Requests<T>(Arc<Shared<T>>);

/// The writer's end.
#[derive(Debug)]
pub(super) struct Inbox<T> {
    shared: Arc<Shared<T>>,
    /// What was taken at once, and is handed out one by one.
    taken: VecDeque<T>,
}

pub(super) fn inbox<T>() -> (Requests<T>, Inbox<T>) {
    let waiting = Mutex::new(Waiting { requests: VecDeque::new(), writer: State::Awake });
    let shared = Arc::new(Shared { waiting, came: Condvar::new() });
    (Requests(Arc::clone(&shared)), Inbox { shared, taken: VecDeque::new() })
}

impl<T> Requests<T> {
    /// If the writer has gone, it is dropped.
    pub(super) fn send(&self, request: T) {
        self.put(request, false);
    }

    /// The same of a lazy operation.
    pub(super) fn send_lazily(&self, request: T) {
        self.put(request, true);
    }

    fn put(&self, request: T, is_lazy: bool) {
        let mut waiting = lock(&self.0.waiting);
        let wakes = match waiting.writer {
            State::Gone => return,
            State::Awake => false,
            State::Dozing => !is_lazy || waiting.requests.len() >= LAZY_MOST,
            State::Asleep => true,
        };
        waiting.requests.push_back(request);
        if wakes {
            waiting.writer = State::Awake;
            drop(waiting);
            self.0.came.notify_one();
        }
    }
}

impl<T> Inbox<T> {
    /// The next request, if one is there.
    pub(super) fn try_next(&mut self) -> Option<T> {
        if self.taken.is_empty() {
            mem::swap(&mut self.taken, &mut lock(&self.shared.waiting).requests);
        }
        self.taken.pop_front()
    }

    /// The next request; waits until one comes, or until `due`. None also earlier: lazy operations may have come.
    pub(super) fn next(&mut self, due: Option<Instant>) -> Option<T> {
        if self.taken.is_empty() {
            self.wait(due);
        }
        self.try_next()
    }

    fn wait(&mut self, due: Option<Instant>) {
        let mut waiting = lock(&self.shared.waiting);
        if !waiting.requests.is_empty() {
            return;
        }
        let sleeps = |waiting: &mut Waiting<T>| waiting.writer != State::Awake;
        if let Some(due) = due {
            let left = due.saturating_duration_since(Instant::now()).min(LAZY_WAIT);
            if !left.is_zero() {
                waiting.writer = State::Dozing;
                let woken = self.shared.came.wait_timeout_while(waiting, left, sleeps);
                woken.unwrap_or_else(PoisonError::into_inner).0.writer = State::Awake;
            }
            return;
        }
        // The memory of a flood is not kept at rest.
        (self.taken, waiting.requests) = (VecDeque::new(), VecDeque::new());
        waiting.writer = State::Asleep;
        drop(self.shared.came.wait_while(waiting, sleeps));
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.shared.waiting);
        waiting.writer = State::Gone;
        // Dropped without the lock: what is told by that may ask again.
        let left = mem::take(&mut waiting.requests);
        drop(waiting);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    /// Waits for a request in a thread of its own, until `due` at the latest; and until it sleeps.
    fn sleeper(due: Option<Instant>) -> (Requests<usize>, mpsc::Receiver<Option<usize>>) {
        let (requests, mut inbox) = inbox();
        let (woken, wakes) = mpsc::channel();
        thread::spawn(move || {
            let _ = woken.send(inbox.next(due));
            // It stays until the test has ended.
            let _ = inbox.next(None);
        });
        while lock(&requests.0.waiting).writer == State::Awake {
            thread::yield_now();
        }
        (requests, wakes)
    }

    #[test]
    fn a_lazy_operation_waits_for_a_writer_that_will_wake_by_itself() {
        let began = Instant::now();
        let (requests, wakes) = sleeper(Some(began + LONG));
        requests.send_lazily(1);
        let writer = lock(&requests.0.waiting).writer;
        assert!(writer == State::Dozing || began.elapsed() >= LAZY_WAIT, "somebody has woken it: {writer:?}");
        requests.send(2);
        assert_eq!(wakes.recv_timeout(LONG), Ok(Some(1)), "in the order of the calls");
    }

    #[test]
    fn a_writer_at_rest_is_woken_by_anything() {
        let (requests, wakes) = sleeper(None);
        requests.send_lazily(1);
        assert_eq!(wakes.recv_timeout(LONG), Ok(Some(1)));
    }

    #[test]
    fn many_lazy_operations_do_not_wait() {
        let (requests, wakes) = sleeper(Some(Instant::now() + LONG));
        for n in 0..=LAZY_MOST {
            requests.send_lazily(n);
        }
        assert_ne!(lock(&requests.0.waiting).writer, State::Dozing);
        assert_eq!(wakes.recv_timeout(LONG), Ok(Some(0)));
    }

    #[test]
    fn a_lazy_operation_does_not_wait_for_longer_than_it_may() {
        let (requests, wakes) = sleeper(Some(Instant::now() + LONG * 10));
        requests.send_lazily(1);
        assert_eq!(wakes.recv_timeout(LONG), Ok(Some(1)));
    }

    #[test]
    fn what_comes_too_late_or_was_not_taken_is_dropped() {
        let (requests, inbox) = inbox();
        let request = Arc::new(());
        requests.send(Arc::clone(&request));
        drop(inbox);
        requests.send(Arc::clone(&request));
        assert_eq!(Arc::strong_count(&request), 1);
    }
}
