//! On which side of its limits each device's value lies (`above`, `below`), and how long a crossing has lasted (`for`).
//!
//! Kept in memory, and as notes in the spool for the next run. That a crossing was told is noted after its message is durable:
//! after a crash it may be told once more, and none is left out that was never stored. A crossing that must last is noted when it
//! begins, with its message; after a restart it goes on from there. What could not be delivered counts as not told.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::os::clock::{self, Stamp};
use crate::os::lock;
use crate::protocol::Call;
use crate::route::{Heard, Limits, Routes, Side};
use crate::store::{SpoolError, Store};

const PREFIX: &str = "crossing/";
/// Devices remembered, of all routes together, whose value lies beyond a limit: each that begins is a note on the disk.
const KNOWN_MOST: usize = if cfg!(test) { 50 } else { 1000 };
/// The largest message that is noted with the beginning of a crossing. With a larger one, the next reading tells it.
const MESSAGE_MOST: usize = 1024;
/// After a start, what has come back meanwhile is heard first.
const GRACE: Duration = Duration::from_secs(5);

/// Where a device's value lies, if not between the limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Known {
    /// What was told last.
    told: Side,
    /// What lasts, and is not told yet.
    lasting: Option<Lasting>,
    at: Stamp,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Lasting {
    side: Side,
    since: Stamp,
    hold: Duration,
    /// The last message, unless it is large.
    call: Option<Call>,
    /// What it was made of, unless that is large: a reload or another configuration may change what the route makes of it.
    reading: Option<Reading>,
    /// Its place in [`State::due`].
    #[serde(skip)]
    due: Option<Duration>,
}

/// A device's publish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Reading {
    pub(super) payload: Vec<u8>,
    pub(super) time: i64,
}

impl Reading {
    fn of(heard: &Heard<'_>) -> Option<Self> {
        (heard.payload.len() <= MESSAGE_MOST).then(|| Self { payload: heard.payload.to_vec(), time: heard.time })
    }
}

/// What is about to be told: for [`Crossings::stored`] once it is durable.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Crossed {
    key: String,
    pub(super) side: Side,
}

/// What a reading means.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It has crossed a limit, and lasted.
    Crossed(Crossed),
    /// It has crossed a limit; whether it lasts is to be seen.
    Lasts,
    /// It is where it was, or back.
    Same,
}

/// A crossing that has lasted, without another reading.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) route: String,
    pub(super) topic: String,
    /// As the route was when the device published.
    pub(super) call: Call,
    pub(super) reading: Option<Reading>,
    pub(super) crossed: Crossed,
}

/// All of them; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Crossings {
    spool: Arc<dyn Store>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<String, Known>,
    /// When what lasts has lasted long enough, by the boot-time clock.
    due: BTreeSet<(Duration, String)>,
}

impl State {
    /// Looks again at what lasts when it has lasted long enough, but not before `earliest`.
    fn schedule(&mut self, key: &str, earliest: Duration) {
        let lasting = self.known.get_mut(key).and_then(|known| known.lasting.as_mut());
        if let Some(lasting) = lasting.filter(|lasting| lasting.call.is_some()) {
            let at = lasting.since.plus(lasting.hold).max(earliest);
            lasting.due = Some(at);
            self.due.insert((at, key.to_owned()));
        }
    }

    fn unschedule(&mut self, key: &str) {
        let lasting = self.known.get_mut(key).and_then(|known| known.lasting.as_mut());
        if let Some(at) = lasting.and_then(|lasting| lasting.due.take()) {
            self.due.remove(&(at, key.to_owned()));
        }
    }
}

impl Crossings {
    /// Opens what earlier runs noted in `spool`.
    pub(super) async fn open(spool: Arc<dyn Store>) -> Result<Self, SpoolError> {
        let earliest = clock::boot_now() + GRACE;
        let mut state = State::default();
        for (key, value) in spool.notes(PREFIX).await? {
            let (Some(key), Ok(known)) = (key.strip_prefix(PREFIX), postcard::from_bytes::<Known>(&value)) else {
                continue;
            };
            state.known.insert(key.to_owned(), known);
            state.schedule(key, earliest);
        }
        Ok(Self { spool, state: Arc::new(Mutex::new(state)) })
    }

    /// Forgets what no route goes by any more. What lasts stays, also where its reading is too large to be made into a message
    /// again: an alarm by the rule of before is better than none.
    pub(super) fn reconfigure(&self, routes: &Routes) {
        let limited = |key: &str| {
            let name = key.split('/').next();
            routes.to_routes().iter().any(|route| Some(route.name()) == name && route.limits().is_some())
        };
        let mut state = lock(&self.state);
        let gone: Vec<String> = state.known.keys().filter(|key| !limited(key)).cloned().collect();
        for key in gone {
            self.forget(&mut state, &key);
        }
    }

    /// What a reading means for a route with these limits; `hold` is how long a crossing must last.
    pub(super) fn judge(
        &self,
        (route, heard): (&str, &Heard<'_>),
        limits: &Limits,
        hold: Option<Duration>,
        value: f64,
        call: &Call,
    ) -> Verdict {
        let key = format!("{route}/{}", heard.topic);
        let mut state = lock(&self.state);
        let known = state.known.get(&key).cloned();
        let told = known.as_ref().map_or(Side::Within, |known| known.told);
        let lasting = known.as_ref().and_then(|known| known.lasting.as_ref());
        let side = limits.side(lasting.map_or(told, |lasting| lasting.side), value);
        if side == told {
            // What was beginning is over.
            if let Some(Known { at, .. }) = known.filter(|known| known.lasting.is_some()) {
                let known = Known { told, lasting: None, at };
                self.put(&mut state, &key, known);
            }
            return Verdict::Same;
        }
        if side == Side::Within {
            self.forget(&mut state, &key);
            return Verdict::Same;
        }
        let Some(hold) = hold else { return Verdict::Crossed(tell(&mut state, key, side)) };
        match lasting.filter(|lasting| lasting.side == side) {
            Some(lasting) if lasting.since.age() >= hold => Verdict::Crossed(tell(&mut state, key, side)),
            Some(_) => {
                // The newest message is told; the note keeps the first.
                if let Some(lasting) = state.known.get_mut(&key).and_then(|known| known.lasting.as_mut())
                    && let Some(call) = message(call)
                {
                    (lasting.call, lasting.reading) = (Some(call), Reading::of(heard));
                    if lasting.due.is_none() {
                        state.schedule(&key, Duration::ZERO);
                    }
                }
                Verdict::Lasts
            }
            None => {
                let (since, call) = (Stamp::now(), message(call));
                let reading = Reading::of(heard);
                let lasting = Lasting { side, since, hold, call, reading, due: None };
                self.put(&mut state, &key, Known { told, lasting: Some(lasting), at: since });
                state.schedule(&key, Duration::ZERO);
                Verdict::Lasts
            }
        }
    }

    /// When the next crossing will have lasted long enough, by the boot-time clock.
    pub(super) fn next_due(&self) -> Option<Duration> {
        lock(&self.state).due.first().map(|(at, _)| *at)
    }

    /// The crossings that have lasted long enough by now.
    pub(super) fn take_due(&self, now: Duration) -> Vec<Due> {
        let mut state = lock(&self.state);
        let mut all = Vec::new();
        while state.due.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = state.due.pop_first() else { break };
            let lasting = state.known.get_mut(&key).and_then(|known| known.lasting.take());
            let Some(Lasting { side, call: Some(call), reading, .. }) = lasting else { continue };
            let Some((route, topic)) = key.split_once('/').map(|(route, topic)| (route.to_owned(), topic.to_owned()))
            else {
                continue;
            };
            let crossed = tell(&mut state, key, side);
            all.push(Due { route, topic, call, reading, crossed });
        }
        all
    }

    /// What was told is durable.
    pub(super) fn stored(&self, Crossed { key, side }: &Crossed) {
        let mut state = lock(&self.state);
        if let Some(known) = state.known.get(key).filter(|known| known.told == *side) {
            self.note(key, known);
        }
        if state.known.len() > KNOWN_MOST {
            self.make_room(&mut state);
        }
    }

    /// What was to be told was not: the next reading beyond the limit tells it.
    pub(super) fn not_told(&self, Crossed { key, side }: &Crossed) {
        let mut state = lock(&self.state);
        if state.known.get(key).is_some_and(|known| known.told == *side) {
            self.forget(&mut state, key);
        }
    }

    /// A message of a route and a topic could not be delivered.
    pub(super) fn not_delivered(&self, route: &str, topic: &str) {
        let key = format!("{route}/{topic}");
        let mut state = lock(&self.state);
        if state.known.get(&key).is_some_and(|known| known.told != Side::Within) {
            self.forget(&mut state, &key);
        }
    }

    fn put(&self, state: &mut State, key: &str, known: Known) {
        if known.told == Side::Within && known.lasting.is_none() {
            return self.forget(state, key);
        }
        state.unschedule(key);
        self.note(key, &known);
        state.known.insert(key.to_owned(), known);
        if state.known.len() > KNOWN_MOST {
            self.make_room(state);
        }
    }

    fn forget(&self, state: &mut State, key: &str) {
        state.unschedule(key);
        if state.known.remove(key).is_some() {
            self.spool.remove_note(&format!("{PREFIX}{key}"));
        }
    }

    /// Forgets the tenth that was heard of least lately.
    fn make_room(&self, state: &mut State) {
        let mut ages: Vec<_> = state.known.values().map(|known| known.at.age()).collect();
        ages.sort_unstable();
        let Some(oldest) = ages.get(KNOWN_MOST / 10 * 9).copied() else { return };
        let old: Vec<String> =
            state.known.iter().filter(|(_, known)| known.at.age() >= oldest).map(|(key, _)| key.clone()).collect();
        for key in old {
            self.forget(state, &key);
        }
    }

    fn note(&self, key: &str, known: &Known) {
        if let Ok(value) = postcard::to_stdvec(known) {
            self.spool.put_note(&format!("{PREFIX}{key}"), value);
        }
    }
}

/// From here on a crossing counts as told; that is noted once it is durable.
fn tell(state: &mut State, key: String, side: Side) -> Crossed {
    state.unschedule(&key);
    state.known.insert(key.clone(), Known { told: side, lasting: None, at: Stamp::now() });
    Crossed { key, side }
}

fn message(call: &Call) -> Option<Call> {
    call.content().is_some_and(|content| content.len() <= MESSAGE_MOST).then(|| call.clone())
}

#[cfg(test)]
mod tests;
