//! The state of each endpoint by its own calls: what was lost there, and when the next call tests whether it works
//! again.
//!
//! ```text
//!  open ──a call is lost──► doubt: one at a time ──another call is lost──► closed for a while ──► one call as a test
//!   ▲                          │ a call is answered, or nobody calls                                 │
//!   └──────────────────────────┴──────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! One lost call may be that call's own fault. Two different lost calls are the endpoint's. What calls of other
//! endpoints met says nothing here, except that the service answers at all ([`Silence`]).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::blame::Mark;
use super::doors::{Endpoint, Setting};
use super::explanations;
use super::types::ClosedEndpoint;
use crate::cloud::{Timing, TransportError};

/// Nobody has called for that long although one may: it counts as open until somebody does.
const NOBODY: Duration = Duration::from_secs(5);

/// How a call is lost. Calls that are lost in the same way may be lost for the same reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// No connection: this holds for every endpoint of the host.
    Unsent,
    /// Somebody else answered.
    InFront,
    /// No answer, or not all of it.
    Silent,
    /// An answer that cannot be read.
    Unreadable,
}

impl Loss {
    pub(super) fn of(error: &TransportError) -> Self {
        match error {
            TransportError::Unsent { .. } => Self::Unsent,
            TransportError::InFront { .. } => Self::InFront,
            TransportError::Unanswered { .. } | TransportError::BrokenOff { .. } => Self::Silent,
            TransportError::Unreadable { .. } => Self::Unreadable,
        }
    }
}

/// Which paths were lost since anybody last answered.
#[derive(Debug, Default)]
pub(super) struct Silence {
    heard: bool,
    lost: Vec<(&'static str, Loss)>,
    cause: String,
}

impl Silence {
    /// A call of `path` was lost. Whether nothing answers: nothing has answered yet, there is no connection, or different
    /// paths are lost in the same way.
    pub(super) fn lost(&mut self, path: &'static str, error: &TransportError) -> bool {
        let loss = Loss::of(error);
        self.lost.retain(|(lost, _)| *lost != path);
        self.lost.push((path, loss));
        error.cause().clone_into(&mut self.cause);
        loss == Loss::Unsent || self.lost.iter().filter(|(_, other)| *other == loss).count() > 1
    }

    pub(super) fn answered(&mut self) {
        self.heard = true;
        self.lost.clear();
    }

    /// Why nothing has been heard of the service since the start, if something was tried.
    pub(super) fn unbroken(&self) -> Option<&str> {
        (!self.heard && !self.lost.is_empty()).then_some(&*self.cause)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lost.is_empty()
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.lost.iter().any(|(lost, _)| *lost == path)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// One at a time, until then.
    Doubt(Instant),
    /// For nobody, until then.
    Closed(Instant),
    /// One may call and tell; if nobody does, it is open then.
    Trial(Instant),
}

#[derive(Debug)]
struct Standing {
    state: State,
    turn: u64,
    /// Closings since it last answered.
    closings: u32,
    /// Whose call was lost since it last answered.
    first: Option<Mark>,
    /// As those are told who want to call.
    cause: Arc<str>,
    /// What its last call met.
    met: String,
    since: SystemTime,
}

/// All endpoints.
#[derive(Debug)]
pub(super) struct Standings([Standing; Endpoint::ALL.len()]);

impl Default for Standings {
    fn default() -> Self {
        Self(Endpoint::ALL.map(|_| Standing {
            state: State::Open,
            turn: 0,
            closings: 0,
            first: None,
            cause: Arc::default(),
            met: String::new(),
            since: SystemTime::UNIX_EPOCH,
        }))
    }
}

impl Standings {
    fn at(&mut self, endpoint: Endpoint) -> Option<&mut Standing> {
        self.0.get_mut(endpoint.index())
    }

    /// A call was lost at `endpoint`.
    pub(super) fn lost(&mut self, endpoint: Endpoint, mark: Mark, error: &TransportError, timing: &Timing) {
        let now = Instant::now();
        let Some(standing) = self.at(endpoint) else { return };
        let again = match standing.state {
            // On its way when it was closed.
            State::Closed(_) => return,
            State::Trial(_) => true,
            State::Open | State::Doubt(_) => standing.closings > 0 || standing.first.is_some_and(|first| first != mark),
        };
        standing.first.get_or_insert(mark);
        if !again {
            standing.cause = error.cause().into();
            standing.state = State::Doubt(now + NOBODY);
            return;
        }
        standing.closings = standing.closings.saturating_add(1);
        // Whoever finds out by a message that an answer cannot be read has perhaps sent that message.
        let pace = if Loss::of(error) == Loss::Unreadable { timing.conflict } else { timing.link };
        let wait = pace.jittered(standing.closings).max(error.retry_after().unwrap_or_default());
        standing.close(now + wait, endpoint, error.cause());
    }

    /// Whether trouble at `endpoint` has just begun: somebody should look whether others have it as well.
    pub(super) fn is_news(&self, endpoint: Endpoint) -> bool {
        self.0.get(endpoint.index()).is_some_and(|standing| standing.closings < 2)
    }

    /// Several calls of `endpoint` were refused, and of no other.
    pub(super) fn refused(&mut self, endpoint: Endpoint, until: Instant, cause: &str) {
        if let Some(standing) = self.at(endpoint) {
            standing.closings = standing.closings.saturating_add(1);
            standing.close(until, endpoint, cause);
        }
    }

    /// A call was answered at `endpoint`.
    pub(super) fn answered(&mut self, endpoint: Endpoint) {
        if let Some(standing) = self.at(endpoint) {
            (standing.state, standing.closings, standing.first) = (State::Open, 0, None);
        }
    }

    /// The service answers elsewhere: a single lost call was its own trouble, until another is lost.
    pub(super) fn believe(&mut self) {
        for standing in &mut self.0 {
            if matches!(standing.state, State::Doubt(_)) {
                standing.state = State::Open;
            }
        }
    }

    /// The whole service was away, and is back.
    pub(super) fn reset(&mut self) {
        for endpoint in Endpoint::ALL {
            self.answered(endpoint);
        }
    }

    /// Moves on what is due; when to come back.
    pub(super) fn step(&mut self, now: Instant) -> Option<Instant> {
        for standing in &mut self.0 {
            match standing.state {
                State::Closed(until) if until <= now => {
                    (standing.state, standing.turn) = (State::Trial(now + NOBODY), standing.turn + 1);
                }
                State::Doubt(until) | State::Trial(until) if until <= now => standing.state = State::Open,
                _ => {}
            }
        }
        let next = self.0.iter().filter_map(|standing| match standing.state {
            State::Open => None,
            State::Doubt(until) | State::Closed(until) | State::Trial(until) => Some(until),
        });
        next.min()
    }

    /// Whether an answer would be news.
    pub(super) fn any(&self) -> bool {
        self.0.iter().any(|standing| standing.first.is_some() || standing.closings > 0)
    }

    pub(super) fn settings(&self) -> [Setting; Endpoint::ALL.len()] {
        self.0.each_ref().map(|standing| match standing.state {
            State::Open => Setting::Open,
            State::Doubt(_) | State::Trial(_) => {
                Setting::One { turn: standing.turn, cause: Arc::clone(&standing.cause) }
            }
            State::Closed(_) => Setting::Closed { cause: Arc::clone(&standing.cause) },
        })
    }

    /// Those that are closed, or were until somebody tells otherwise.
    pub(super) fn closed(&self) -> Vec<ClosedEndpoint> {
        let shown = Endpoint::ALL.into_iter().zip(&self.0);
        let shown = shown.filter(|(_, standing)| matches!(standing.state, State::Closed(_) | State::Trial(_)));
        let told = |(endpoint, standing): (_, &Standing)| ClosedEndpoint {
            endpoint,
            cause: standing.met.clone(),
            since: standing.since,
        };
        shown.map(told).collect()
    }
}

impl Standing {
    fn close(&mut self, until: Instant, endpoint: Endpoint, met: &str) {
        if !matches!(self.state, State::Closed(_) | State::Trial(_)) {
            self.since = SystemTime::now();
        }
        (self.state, self.cause) = (State::Closed(until), explanations::endpoint(endpoint.path(), met).into());
        met.clone_into(&mut self.met);
        self.turn += 1;
    }
}
