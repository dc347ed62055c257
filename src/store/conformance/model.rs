//! Property test: any sequence of calls, reopenings and crashes leaves what a model of the store says.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::runtime::Runtime;

use super::{ROOMY, Subject, contents};
use crate::store::{Queue, ROW_OVERHEAD};

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Replace(usize, usize),
    ReplaceLazily(usize, usize),
    Complete(usize),
    Note(u8, Option<u8>),
    Read(usize),
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3000_usize).prop_map(Step::Append),
        2 => (any::<usize>(), 0..3000_usize).prop_map(|(row, size)| Step::Replace(row, size)),
        2 => (any::<usize>(), 0..3000_usize).prop_map(|(row, size)| Step::ReplaceLazily(row, size)),
        4 => any::<usize>().prop_map(Step::Complete),
        1 => (0..4_u8, proptest::option::of(any::<u8>())).prop_map(|(key, value)| Step::Note(key, value)),
        2 => any::<usize>().prop_map(Step::Read),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

/// What the store must hold. A crash may undo what was lazy, and nothing else.
#[derive(Debug, Clone, Default)]
struct Model {
    rows: BTreeMap<u64, Vec<u8>>,
    notes: BTreeMap<String, Vec<u8>>,
    /// Every content each row may have after a crash; `None`: it may be gone.
    after_crash: BTreeMap<u64, BTreeSet<Option<Vec<u8>>>>,
    highest: u64,
}

impl Model {
    fn row(&self, pick: usize) -> Option<u64> {
        let keys: Vec<_> = self.rows.keys().copied().collect();
        keys.get(pick % keys.len().max(1)).copied()
    }

    fn set(&mut self, seq: u64, data: Option<Vec<u8>>, durable: bool) {
        let states = self.after_crash.entry(seq).or_default();
        if durable {
            states.clear();
        }
        states.insert(data.clone());
        match data {
            Some(data) => self.rows.insert(seq, data),
            None => self.rows.remove(&seq),
        };
    }

    /// A durable commit carries everything lazy before it.
    fn settle(&mut self) {
        self.after_crash = self.rows.iter().map(|(seq, data)| (*seq, BTreeSet::from([Some(data.clone())]))).collect();
    }
}

async fn run_model<S: Subject>(steps: Vec<Step>) {
    let mut subject = S::create(ROOMY).await;
    let mut model = Model::default();
    for (n, step) in steps.into_iter().enumerate() {
        let store = subject.store();
        let data = |size| vec![u8::try_from(n % 256).unwrap(); size];
        match step {
            Step::Append(size) => {
                let seq = store.append(Queue::Outbound, data(size).into(), None).await.unwrap();
                assert!(seq > model.highest, "numbers only grow");
                model.highest = seq;
                model.set(seq, Some(data(size)), true);
                model.settle();
            }
            Step::Replace(row, size) => {
                let Some(seq) = model.row(row) else { continue };
                store.replace(Queue::Outbound, seq, data(size)).await.unwrap();
                model.set(seq, Some(data(size)), true);
                model.settle();
            }
            Step::ReplaceLazily(row, size) => {
                let Some(seq) = model.row(row) else { continue };
                store.replace_lazily(Queue::Outbound, seq, data(size));
                model.set(seq, Some(data(size)), false);
            }
            Step::Complete(row) => {
                let Some(seq) = model.row(row) else { continue };
                store.complete(Queue::Outbound, seq);
                model.set(seq, None, false);
            }
            Step::Note(key, value) => {
                let key = format!("note/{key}");
                if let Some(value) = value {
                    store.put_note(&key, vec![value]);
                    model.notes.insert(key, vec![value]);
                } else {
                    store.remove_note(&key);
                    model.notes.remove(&key);
                }
            }
            Step::Read(after) => {
                let after = u64::try_from(after).unwrap() % (model.highest + 1);
                let rows = store.read_after(Queue::Outbound, after, 3, 4000).await.unwrap();
                let expected = model.rows.range(after + 1..).take(rows.len().max(1));
                assert!(
                    rows.iter().map(|row| (&row.seq, &row.data[..])).eq(expected.map(|(seq, data)| (seq, &data[..])))
                );
            }
            Step::Reopen => {
                subject = subject.reopen().await;
                let store = subject.store();
                model.settle();
                assert!(model.highest == 0 || *store.appended(Queue::Outbound).borrow() == model.highest);
                let bytes = model.rows.values().map(|data| u64::try_from(data.len()).unwrap() + ROW_OVERHEAD).sum();
                let stats = store.stats(Queue::Outbound);
                assert_eq!((stats.depth, stats.bytes), (u64::try_from(model.rows.len()).unwrap(), bytes));
                let notes = store.notes("note/").await.unwrap();
                assert_eq!(notes.into_iter().collect::<BTreeMap<_, _>>(), model.notes);
            }
            Step::Crash => {
                subject = subject.crash().await;
                let store = subject.store();
                assert!(model.highest == 0 || *store.appended(Queue::Outbound).borrow() == model.highest);
                let left = contents(&*store, Queue::Outbound).await;
                for (seq, states) in &model.after_crash {
                    assert!(states.contains(&left.get(seq).cloned()), "row {seq}");
                }
                assert!(left.keys().all(|seq| model.after_crash.contains_key(seq)));
                model.rows = left;
                model.notes = store.notes("note/").await.unwrap().into_iter().collect();
                model.settle();
            }
        }
    }
    assert_eq!(contents(&*subject.store(), Queue::Outbound).await, model.rows);
}

/// Runs it.
pub(crate) fn the_store_is_what_the_model_says<S: Subject>() {
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    let run = |steps| {
        Runtime::new().unwrap().block_on(run_model::<S>(steps));
        Ok(())
    };
    TestRunner::new(config)
        .run(&proptest::collection::vec(step(), 1..60), run)
        .unwrap_or_else(|failed| panic!("{failed}"));
}
