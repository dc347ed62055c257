//! What makes a repeat: in memory, after a kill, and against a model.

use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::store::Limits;
use crate::store::sqlite::Spool;

const A: Digest = [1; 32];
const B: Digest = [2; 32];
const LIMITS: Limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };

struct World {
    dir: TempDir,
    spool: Arc<dyn Store>,
    repeats: Repeats,
}

impl World {
    fn new() -> Self {
        Self::open(TempDir::new().unwrap())
    }

    fn open(dir: TempDir) -> Self {
        let spool = Spool::open(dir.path(), LIMITS).unwrap().0;
        let repeats = Repeats::new(spool.clone(), dir.path());
        Self { dir, spool, repeats }
    }

    /// The next run, after this one was killed.
    async fn killed(self) -> Self {
        let copy = TempDir::new().unwrap();
        // The log first: a checkpoint between the two then does no harm.
        for name in ["spool.answered", "spool.db-wal", "spool.db"] {
            if self.dir.path().join(name).exists() {
                fs::copy(self.dir.path().join(name), copy.path().join(name)).unwrap();
            }
        }
        let next = Self::open(copy);
        next.repeats.load().await.unwrap();
        next
    }

    async fn store(&self, body: &'static [u8], ticket: Ticket, tell: &watch::Sender<Progress>) -> u64 {
        let row = Record::push(Bytes::from_static(body)).encode();
        let seq = self.spool.append(Queue::Inbound, row.into(), None).await.unwrap();
        self.repeats.stored(ticket, seq);
        tell.send_replace(Progress::Stored);
        seq
    }

    /// A push that is new, stored.
    async fn push(&self, body: &'static [u8]) -> (Ticket, u64) {
        let (ticket, tell) = first(&self.repeats, digest(body));
        let seq = self.store(body, ticket, &tell).await;
        (ticket, seq)
    }

    fn deliver(&self, seq: u64) {
        self.repeats.delivered(seq);
        self.spool.complete(Queue::Inbound, seq);
    }

    /// All that is lazy is in the log.
    async fn settle(&self) {
        self.spool.append(Queue::SetAside, vec![0].into(), None).await.unwrap();
    }
}

fn digest(body: &[u8]) -> Digest {
    Sha256::digest(body).into()
}

fn first(repeats: &Repeats, digest: Digest) -> (Ticket, watch::Sender<Progress>) {
    match repeats.claim(digest) {
        Claim::First(ticket, tell) => (ticket, tell),
        Claim::Repeat(..) => panic!("a repeat"),
    }
}

fn is_repeat(repeats: &Repeats, digest: Digest) -> bool {
    matches!(repeats.claim(digest), Claim::Repeat(..))
}

#[tokio::test]
async fn a_second_try_shares_the_first_ones_outcome() {
    let World { repeats, dir: _dir, .. } = World::new();
    let (_, tell) = first(&repeats, A);
    let Claim::Repeat(_, progress) = repeats.claim(A) else { panic!("not a repeat") };
    assert_eq!(*progress.borrow(), Progress::Storing);
    tell.send(Progress::Stored).unwrap();
    assert_eq!(*progress.borrow(), Progress::Stored);
    assert!(!is_repeat(&repeats, B));
}

#[tokio::test]
async fn after_an_answer_the_same_bytes_are_new() {
    let world = World::new();
    let (ticket, _) = world.push(b"on").await;
    world.repeats.leaving(ticket);
    world.repeats.answered(ticket);
    assert!(!is_repeat(&world.repeats, digest(b"on")));
}

#[tokio::test]
async fn an_answer_that_is_leaving_is_given_unless_it_does_not_leave() {
    let world = World::new();
    let (ticket, _) = world.push(b"on").await;
    world.repeats.leaving(ticket);
    world.repeats.not_answered(ticket);
    assert!(is_repeat(&world.repeats, digest(b"on")));
    let world = world.killed().await;
    assert!(is_repeat(&world.repeats, digest(b"on")), "the mark was taken back");

    let world = World::new();
    let (ticket, _) = world.push(b"on").await;
    world.repeats.leaving(ticket);
    let (new, _) = world.push(b"on").await;
    // What becomes of the old answer is nothing to the new push.
    world.repeats.not_answered(ticket);
    world.repeats.answered(ticket);
    assert!(is_repeat(&world.repeats, digest(b"on")));
    world.repeats.answered(new);
    assert!(!is_repeat(&world.repeats, digest(b"on")));
}

#[tokio::test]
async fn a_late_note_about_the_old_push_does_not_touch_the_new_one() {
    let world = World::new();
    let (old, _) = world.push(b"on").await;
    world.repeats.answered(old);
    world.push(b"on").await;
    world.repeats.answered(old);
    assert!(is_repeat(&world.repeats, digest(b"on")));
}

#[tokio::test]
async fn what_was_never_stored_makes_no_repeats() {
    let World { repeats, dir: _dir, .. } = World::new();
    let (ticket, tell) = first(&repeats, A);
    assert!(repeats.give_up(ticket, &tell));
    assert!(!is_repeat(&repeats, A));
}

#[tokio::test]
async fn a_push_is_not_given_up_while_a_try_of_it_waits() {
    let World { repeats, dir: _dir, .. } = World::new();
    let (ticket, tell) = first(&repeats, A);
    let waiting = tell.subscribe();
    assert!(!repeats.give_up(ticket, &tell));
    drop(waiting);
    assert!(repeats.give_up(ticket, &tell));
}

#[tokio::test]
async fn what_was_answered_stays_so_through_two_kills() {
    let world = World::new();
    let (one, _) = world.push(b"one").await;
    world.push(b"two").await;
    world.repeats.leaving(one);
    let world = world.killed().await;
    assert!(!is_repeat(&world.repeats, digest(b"one")));
    let Claim::Repeat(two, _) = world.repeats.claim(digest(b"two")) else { panic!("not a repeat") };
    world.repeats.leaving(two);
    let world = world.killed().await;
    assert!(!is_repeat(&world.repeats, digest(b"two")));
}

#[tokio::test]
async fn a_push_that_was_delivered_and_not_answered_is_still_known() {
    let world = World::new();
    let (_, seq) = world.push(b"on").await;
    world.deliver(seq);
    world.settle().await;
    let world = world.killed().await;
    assert_eq!(world.spool.stats(Queue::Inbound).depth, 0);
    let Claim::Repeat(ticket, _) = world.repeats.claim(digest(b"on")) else { panic!("not a repeat") };
    assert_eq!(world.spool.notes(NOTE).await.unwrap().len(), 1);
    world.repeats.leaving(ticket);
    world.repeats.answered(ticket);
    assert_eq!(world.spool.notes(NOTE).await.unwrap(), []);
}

#[tokio::test]
async fn of_an_answer_under_way_when_it_was_delivered_a_note_is_left_if_it_does_not_leave() {
    let world = World::new();
    let (ticket, seq) = world.push(b"on").await;
    world.repeats.leaving(ticket);
    world.deliver(seq);
    assert_eq!(world.spool.notes(NOTE).await.unwrap(), []);
    world.repeats.not_answered(ticket);
    world.settle().await;
    let world = world.killed().await;
    assert!(is_repeat(&world.repeats, digest(b"on")));
}

#[tokio::test]
async fn what_is_too_old_to_matter_is_forgotten_with_its_note() {
    let world = World::new();
    // An hour ago, by an earlier run.
    let at = postcard::to_stdvec(&(1_u64, 0_u64, Stamp::now().wall_ms() - 3_600_000)).unwrap();
    let at: Stamp = postcard::from_bytes(&at).unwrap();
    let row = Record::Push { id: [0; 16], at, body: Bytes::from_static(b"old") }.encode();
    world.spool.append(Queue::Inbound, row.into(), None).await.unwrap();
    world.spool.put_note(&note(7), postcard::to_stdvec(&(digest(b"older"), at)).unwrap());
    world.spool.put_note(&note(8), b"no key".to_vec());
    world.push(b"young").await;
    let world = world.killed().await;
    assert!(!is_repeat(&world.repeats, digest(b"old")) && !is_repeat(&world.repeats, digest(b"older")));
    assert!(is_repeat(&world.repeats, digest(b"young")));
    assert_eq!(world.spool.notes(NOTE).await.unwrap(), []);
}

#[tokio::test]
async fn young_rows_are_found_behind_many_others() {
    let world = World::new();
    world.push(b"first").await;
    for _ in 0..3 * READ_ROWS {
        let states = Record::States { states: Vec::new() }.encode();
        world.spool.append(Queue::Inbound, states.into(), None).await.unwrap();
    }
    world.push(b"last").await;
    let world = world.killed().await;
    assert!(is_repeat(&world.repeats, digest(b"first")) && is_repeat(&world.repeats, digest(b"last")));
}

#[tokio::test]
async fn without_repeats_nothing_is_held_against_a_later_run() {
    let world = World::new();
    Repeats::none(world.dir.path());
    world.push(b"on").await;
    let world = world.killed().await;
    assert!(!is_repeat(&world.repeats, digest(b"on")));
}

/// What may happen to pushes with one of a few bodies.
#[derive(Debug, Clone, Copy)]
enum Step {
    Push(usize),
    /// A try is answered.
    Answer(usize),
    /// An answer is about to leave, and does not.
    Fail(usize),
    Deliver(usize),
    /// The process ends, with all that is lazy in the log or not.
    Kill(bool),
}

const BODIES: [&[u8]; 3] = [b"a", b"b", b"c"];

fn step() -> impl Strategy<Value = Step> {
    let body = 0..BODIES.len();
    prop_oneof![
        4 => body.clone().prop_map(Step::Push),
        2 => body.clone().prop_map(Step::Answer),
        2 => body.clone().prop_map(Step::Fail),
        2 => body.prop_map(Step::Deliver),
        1 => any::<bool>().prop_map(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// A body makes repeats if and only if its last push was stored and none of its tries answered, whatever was killed.
    #[test]
    fn whatever_happens_a_repeat_is_what_was_stored_and_not_answered(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            let mut unanswered = BTreeMap::new();
            let mut waiting: Vec<(usize, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Push(of) => match world.repeats.claim(digest(BODIES[of])) {
                        Claim::First(ticket, tell) => {
                            assert!(!unanswered.contains_key(&of), "{step:?}");
                            let seq = world.store(BODIES[of], ticket, &tell).await;
                            unanswered.insert(of, ticket);
                            waiting.push((of, seq));
                        }
                        Claim::Repeat(ticket, _) => {
                            assert_eq!(unanswered.get(&of).map(|known| known.number), Some(ticket.number), "{step:?}");
                        }
                    },
                    Step::Answer(of) => {
                        if let Some(ticket) = unanswered.remove(&of) {
                            world.repeats.leaving(ticket);
                            world.repeats.answered(ticket);
                        }
                    }
                    Step::Fail(of) => {
                        if let Some(ticket) = unanswered.get(&of) {
                            world.repeats.leaving(*ticket);
                            world.repeats.not_answered(*ticket);
                        }
                    }
                    Step::Deliver(of) => {
                        if let Some(at) = waiting.iter().position(|(body, _)| *body == of) {
                            world.deliver(waiting.remove(at).1);
                        }
                    }
                    Step::Kill(settled) => {
                        if settled {
                            world.settle().await;
                        }
                        world = world.killed().await;
                        for (of, ticket) in &mut unanswered {
                            let Claim::Repeat(known, _) = world.repeats.claim(digest(BODIES[*of])) else {
                                panic!("{} is forgotten", *of);
                            };
                            *ticket = known;
                        }
                        for of in (0..BODIES.len()).filter(|of| !unanswered.contains_key(of)) {
                            let (ticket, tell) = first(&world.repeats, digest(BODIES[of]));
                            assert!(world.repeats.give_up(ticket, &tell));
                        }
                    }
                }
            }
        });
    }
}
