//! Makes one transaction of what waits: the lazy changes first, in their order, then as much of the rest as fits.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ulid::Ulid;

use super::commit::Work;
use super::config::{Keys, end_of};
use super::handle::Common;
use super::rows::RowName;
use super::state::State;
use super::tokens::{Asked, ENOUGH, TokenChange, TokenOp};
use super::wire::{Blob, Delete, Step};
use crate::os::clock::boot_now;
use crate::store::fullness::{Fullness, beyond};
use crate::store::request::{New, Op};
use crate::store::shared::add;
use crate::store::types::{AppendError, PerQueue, Queue, row_size};

/// etcd takes 128 operations in a transaction (`--max-txn-ops`), and the writer's mark and the statistics are among them.
const STEPS_MOST: usize = 120;
/// And 1.5 MiB in a request.
const BYTES_MOST: usize = 1024 * 1024;
/// The largest row fits beside so much: else small changes that keep coming would keep it out.
const BESIDE_ANY: usize = 64 * 1024;

/// Somebody who waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) since: Instant,
    pub(super) asked: Asked,
}

/// What has become of an operation in its transaction.
#[derive(Debug)]
pub(super) enum Place {
    Row(Queue, u8),
    Replaced(Queue, u64, usize),
    SessionForgotten,
    Flushed,
}

/// What came of putting an operation into a draft.
enum Put {
    Done(Place),
    /// There is nothing to be done for it.
    Nothing,
    /// Its queue is full.
    Full,
}

/// What is on its way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) transaction: Ulid,
    pub(super) ops: Vec<(Instant, Op, Place)>,
    /// Each with the place of the row that is put with the token, if one is.
    pub(super) tokens: Vec<(Instant, TokenOp, Option<u8>)>,
    /// It carries lazy changes.
    pub(super) lazy: bool,
    /// They are more than all the rest.
    pub(super) mostly_lazy: bool,
    /// Somebody was refused for want of room.
    pub(super) refused: bool,
}

impl Flight {
    /// How many who wait.
    pub(super) fn carries(&self) -> usize {
        self.ops.len() + self.tokens.len()
    }
}

/// Who composes.
pub(super) struct Composer<'a> {
    pub(super) keys: &'a Keys,
    pub(super) common: &'a Common,
    pub(super) fullness: &'a mut Fullness,
    /// The first connection of the MQTT session whose redelivery keys are kept.
    pub(super) session_began: &'a mut u64,
    /// A leader tells the others how much the queues hold.
    pub(super) leads: bool,
}

/// A transaction in the making.
#[derive(Default)]
struct Draft {
    /// Rows in the order of their places: so they come by the watch.
    steps: Vec<Step>,
    /// Where a key is among them: etcd takes each but once.
    at: HashMap<String, usize>,
    tokens: Vec<TokenChange>,
    bytes: usize,
    rows: u8,
    puts_keys: bool,
    last: PerQueue<Option<u8>>,
}

impl Draft {
    fn set(&mut self, key: String, change: Option<Bytes>) {
        self.bytes += key.len() + change.as_ref().map_or(0, Bytes::len);
        let step = match change {
            Some(value) => Step::put(key.clone(), value),
            None => Step::delete(key.clone()),
        };
        if let Some(there) = self.at.get(&key).and_then(|at| self.steps.get_mut(*at)) {
            *there = step;
        } else {
            self.at.insert(key, self.steps.len());
            self.steps.push(step);
        }
    }

    fn token(&mut self, change: TokenChange) {
        // A condition, a step, and a question.
        self.bytes += 3 * change.key.len() + change.value.as_ref().map_or(0, Bytes::len);
        self.tokens.push(change);
    }

    fn has_token(&self, key: &str) -> bool {
        self.at.contains_key(key) || self.tokens.iter().any(|token| token.key == key)
    }

    /// The name of a further row.
    fn name(&mut self, transaction: Ulid, queue: Queue, data: &Bytes) -> RowName {
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let name = RowName { transaction, place: self.rows, size };
        self.rows += 1;
        *self.last.get_mut(queue) = Some(name.place);
        name
    }

    /// Whether there is room for an operation of so many bytes; one goes however large it is.
    fn has_room(&self, bytes: usize) -> bool {
        let fits = self.bytes + bytes <= BYTES_MOST || self.bytes <= BESIDE_ANY;
        let steps = self.steps.len() + self.tokens.len();
        steps == 0 || (steps + 2 <= STEPS_MOST && fits)
    }
}

impl Composer<'_> {
    /// The next transaction, for at most so many of those who wait. Who is refused for want of room is answered; so is who wants
    /// nothing done.
    pub(super) fn compose(&mut self, waiting: &mut VecDeque<Waiter>, most: usize) -> (Work, Flight) {
        let transaction = Ulid::generate();
        let common = self.common;
        let mut state = common.state();
        let mut draft = Draft::default();
        let mut until = Duration::MAX;
        for (key, change) in state.lazies.take(STEPS_MOST, BYTES_MOST, None) {
            until = until.min(state.until(&key));
            draft.set(key, change);
        }
        let lazy_bytes = draft.bytes;
        let mut flight = Flight {
            transaction,
            ops: Vec::new(),
            tokens: Vec::new(),
            lazy: !draft.steps.is_empty(),
            mostly_lazy: false,
            refused: false,
        };
        let mut refused = Vec::new();
        // What is lazy and does not fit goes before anything durable that was asked for later.
        while state.lazies.is_empty()
            && flight.ops.len() + flight.tokens.len() < most
            && let Some(next) = waiting.front()
            && draft.has_room(next.asked.weight())
            && !matches!(flight.ops.last(), Some((.., Place::SessionForgotten)))
        {
            // A range and a key within it do not go together.
            if matches!(next.asked, Asked::Plain(Op::ForgetSession(..))) && draft.puts_keys {
                break;
            }
            // Nor does a token twice.
            if matches!(&next.asked, Asked::Token(op) if draft.has_token(&self.keys.token(op.name()))) {
                break;
            }
            let Some(waiter) = waiting.pop_front() else { break };
            match waiter.asked {
                Asked::Plain(op) => match self.put(&mut state, &mut draft, transaction, &op) {
                    Put::Done(place) => flight.ops.push((waiter.since, op, place)),
                    Put::Nothing => drop(op.stored(0)),
                    Put::Full => refused.push(op),
                },
                Asked::Token(op) if op.until() < boot_now() + ENOUGH => {
                    op.late();
                }
                Asked::Token(op) => {
                    until = until.min(op.until());
                    let row = self.put_token(&mut state, &mut draft, transaction, &op);
                    // There is no room for a row, but the token may be there.
                    flight.refused |= row.is_none() && op.size() > 0;
                    flight.tokens.push((waiter.since, op, row));
                }
            }
        }
        flight.mostly_lazy = 2 * lazy_bytes > draft.bytes;
        if self.leads {
            let counts = Queue::ALL.map(|queue| (state.counts().get(queue).depth, state.counts().get(queue).bytes));
            let told = serde_json::to_vec(&(state.seen_revision(), counts)).unwrap_or_default();
            draft.set(self.keys.stats(), Some(told.into()));
        }
        drop(state);
        flight.refused |= !refused.is_empty();
        let work = Work { transaction, steps: draft.steps, tokens: draft.tokens, last: draft.last, until };
        if flight.refused {
            self.tell_full();
        }
        for op in refused {
            if let Op::Append(_, reply) = op {
                reply.send(Err(AppendError::Full));
            }
        }
        (work, flight)
    }

    fn tell_full(&mut self) {
        let claimed = self.common.state().claimed();
        let (now, changes) = self.fullness.look(&claimed, &self.common.limits);
        if now.is_err() {
            self.common.shared.set_writable(now);
        }
        changes.log();
    }

    /// Puts an operation into the draft.
    fn put(&mut self, state: &mut State, draft: &mut Draft, transaction: Ulid, op: &Op) -> Put {
        match op {
            Op::Append(new, _) => self.append(state, draft, transaction, new),
            Op::Replace { queue, seq, data, .. } => match state.key(*queue, *seq) {
                Some(key) => {
                    draft.set(key, Some(Bytes::copy_from_slice(data)));
                    Put::Done(Place::Replaced(*queue, *seq, data.len()))
                }
                None => Put::Nothing,
            },
            Op::ForgetSession(began, _) => {
                *self.session_began = (*self.session_began).max(*began);
                let keys = self.keys.redeliveries();
                let end = Blob::from(end_of(&keys));
                draft.steps.push(Step::Delete(Delete { key: keys.into(), end }));
                Put::Done(Place::SessionForgotten)
            }
            // Everything lazy goes before it: if nothing does, nothing is left.
            Op::Flush(_) if draft.steps.is_empty() => Put::Nothing,
            Op::Flush(_) => Put::Done(Place::Flushed),
        }
    }

    fn append(&mut self, state: &mut State, draft: &mut Draft, transaction: Ulid, new: &New) -> Put {
        let (queue, size) = (new.queue, row_size(&new.data));
        if !self.admit(state, queue, size) {
            return Put::Full;
        }
        // The removals that make room go first.
        let most = STEPS_MOST.saturating_sub(draft.steps.len() + draft.tokens.len() + 3);
        for (key, change) in state.lazies.take(most, BYTES_MOST, Some(&self.keys.queues())) {
            draft.set(key, change);
        }
        let place = self.put_row(state, draft, transaction, queue, &new.data);
        if let Some(key) = new.key.filter(|key| key.connection >= *self.session_began) {
            let name = self.keys.redelivery(key.pkid);
            state.lazies.forget(&name);
            draft.puts_keys = true;
            draft.set(name, Some(Bytes::copy_from_slice(&key.digest)));
        }
        Put::Done(Place::Row(queue, place))
    }

    /// Gives the place of the row, if it may be put.
    fn put_token(&mut self, state: &mut State, draft: &mut Draft, transaction: Ulid, op: &TokenOp) -> Option<u8> {
        let key = self.keys.token(op.name());
        let (data, token) = match op {
            TokenOp::Put { token, .. } => {
                draft.token(TokenChange { key, version: token.replaces, value: Some(token.value.clone()) });
                return None;
            }
            TokenOp::End { version, .. } => {
                draft.token(TokenChange { key, version: *version, value: Some(Bytes::new()) });
                return None;
            }
            TokenOp::Append { data, token, .. } => (data, token),
        };
        let (queue, size) = (Queue::Inbound, row_size(data));
        if !self.admit(state, queue, size) {
            draft.token(TokenChange { key, version: token.replaces, value: None });
            return None;
        }
        let place = self.put_row(state, draft, transaction, queue, data);
        draft.token(TokenChange { key, version: token.replaces, value: Some(token.value.clone()) });
        Some(place)
    }

    /// Puts a row that was admitted; gives its place.
    fn put_row(&self, state: &mut State, draft: &mut Draft, transaction: Ulid, queue: Queue, data: &Bytes) -> u8 {
        let name = draft.name(transaction, queue, data);
        state.coming(transaction, queue, row_size(data));
        draft.set(self.keys.queue(queue) + &name.encode(), Some(data.clone()));
        name.place
    }

    fn admit(&mut self, state: &mut State, queue: Queue, size: u64) -> bool {
        let limit = *self.common.limits.get(queue);
        let dropped = if queue == Queue::SetAside && size <= limit { state.make_room(size, limit) } else { 0 };
        add(&self.common.shared.set_aside_dropped, dropped);
        let full = beyond(queue, state.claimed().get(queue), size, limit);
        if full {
            self.fullness.refused(queue, size);
        }
        !full
    }
}
