//! Keys of repeated pushes against a model: whatever comes together in one turn, the key is there that was to be there last.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};

use proptest::prelude::*;
use tokio::sync::{Semaphore, oneshot};

use super::super::answered::Answered;
use super::super::keys::Repeats;
use super::super::pending::Lazy;
use super::super::recovery;
use super::super::request::{Op, Read, Reply, Request, Task};
use super::super::shared::Shared;
use super::super::types::{Key, Limits, Queue};
use super::{Turn, Writer};
use crate::clock::Stamp;
use crate::files::Failure;

/// What callers do with the keys of one of a few bodies.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A new push with that body is stored.
    Push(u8),
    /// The last push is answered; its key goes with a mark, or by a commit where there are no marks.
    Forget(u8, bool),
    /// As before, but of the push before the last: a note that comes late.
    ForgetOlder(u8, bool),
    /// The answer did not leave after all.
    Remember(u8),
    EndTurn,
}

fn step() -> impl Strategy<Value = Step> {
    let body = 0..2_u8;
    prop_oneof![
        body.clone().prop_map(Step::Push),
        (body.clone(), any::<bool>()).prop_map(|(body, mark)| Step::Forget(body, mark)),
        (body.clone(), any::<bool>()).prop_map(|(body, mark)| Step::ForgetOlder(body, mark)),
        body.prop_map(Step::Remember),
        Just(Step::EndTurn),
    ]
}

/// The pushes with one body, as their callers know them.
#[derive(Default)]
struct Body {
    moments: Vec<Stamp>,
    /// Moments of turns that are over: only what is stored is answered.
    stored: usize,
    forgotten: bool,
}

struct World {
    writer: Writer,
    turn: Turn,
    places: Arc<Semaphore>,
    moments: u64,
    bodies: BTreeMap<u8, Body>,
    expected: BTreeMap<[u8; 32], Stamp>,
}

impl World {
    fn new(dir: &std::path::Path) -> Self {
        let (db, files, _) = recovery::open(dir).unwrap();
        let limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
        let (_, inbox) = mpsc::channel();
        let writer =
            Writer::new(db, files, limits, inbox, Arc::new(Shared::new(Answered::default(), Failure::default())));
        Self {
            writer,
            turn: Turn::default(),
            places: Arc::new(Semaphore::new(10_000)),
            moments: 0,
            bodies: BTreeMap::new(),
            expected: BTreeMap::new(),
        }
    }

    fn reply<T>(&self) -> (Reply<T>, oneshot::Receiver<Result<T, crate::spool::SpoolError>>) {
        let (sender, receiver) = oneshot::channel();
        (Reply::new(sender, Arc::clone(&self.places).try_acquire_owned().unwrap()), receiver)
    }

    fn take(&mut self, task: Task) {
        let (reply, _) = self.reply();
        self.writer.take(Request::Durable(Op { task, reply }), &mut self.turn);
    }

    fn forget(&mut self, body: u8, at: Stamp, mark: bool) {
        let digest = [body; 32];
        if mark {
            self.writer.take(Request::Lazy(Lazy::ForgetRepeat(digest, at)), &mut self.turn);
        } else {
            self.take(Task::ForgetRepeat(digest, at));
        }
        if self.expected.get(&digest) == Some(&at) {
            self.expected.remove(&digest);
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Push(body) => {
                self.moments += 1;
                // Another moment for each, of this run, and none that is past a key's life before the test has ended.
                let now = postcard::to_stdvec(&Stamp::now()).unwrap();
                let (run, boot_ms, wall_ms): (u64, u64, u64) = postcard::from_bytes(&now).unwrap();
                let moment = postcard::to_stdvec(&(run, boot_ms + 3_600_000 + self.moments, wall_ms)).unwrap();
                let at: Stamp = postcard::from_bytes(&moment).unwrap();
                let key = Some(Key::Repeat { digest: [body; 32], at });
                self.take(Task::Append { queue: Queue::Inbound, data: vec![body].into(), key });
                let pushes = self.bodies.entry(body).or_default();
                pushes.moments.push(at);
                pushes.forgotten = false;
                self.expected.insert([body; 32], at);
            }
            Step::Forget(body, mark) => {
                let pushes = self.bodies.entry(body).or_default();
                if pushes.stored > 0 && pushes.stored == pushes.moments.len() {
                    pushes.forgotten = true;
                    let at = pushes.moments[pushes.stored - 1];
                    self.forget(body, at, mark);
                }
            }
            Step::ForgetOlder(body, mark) => {
                let pushes = self.bodies.entry(body).or_default();
                let older = pushes.moments.len().saturating_sub(2);
                if pushes.moments.len() >= 2 && older < pushes.stored {
                    let at = pushes.moments[older];
                    self.forget(body, at, mark);
                }
            }
            Step::Remember(body) => {
                let pushes = self.bodies.entry(body).or_default();
                if std::mem::take(&mut pushes.forgotten) {
                    let at = *pushes.moments.last().unwrap();
                    self.writer.take(Request::Lazy(Lazy::RememberRepeat([body; 32], at)), &mut self.turn);
                    self.expected.insert([body; 32], at);
                }
            }
            Step::EndTurn => self.end_turn(),
        }
    }

    fn end_turn(&mut self) {
        let (reply, mut answer) = self.reply();
        self.turn.reads.push(Read::Keys { reply });
        assert!(self.writer.serve(std::mem::take(&mut self.turn)).is_ok());
        let keys = answer.try_recv().unwrap().unwrap();
        assert_eq!(keys.repeats.into_iter().collect::<BTreeMap<_, _>>(), self.expected);
        for pushes in self.bodies.values_mut() {
            pushes.stored = pushes.moments.len();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_a_forget_and_a_remember_the_later_one_counts(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempfile::TempDir::new().unwrap();
        let mut world = World::new(dir.path());
        for step in steps {
            world.apply(step);
        }
        world.end_turn();
        // All of it, on the disk: what is wanted, then what is void, which goes without a sync only when there is nothing else.
        for _ in 0..2 {
            prop_assert!(world.writer.store(Vec::new()).is_ok());
        }
        let kept: BTreeMap<_, _> = Repeats::load(&world.writer.db.conn).unwrap().alive().collect();
        prop_assert_eq!(kept, world.expected);
    }
}
