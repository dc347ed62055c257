//! Which endpoints may be called. The session's task sets a *door* for each endpoint; callers read it.
//!
//! A command depends on the door of its own endpoint alone, because trouble at one endpoint says nothing about another.
//! An endpoint that is in doubt, or whose wait is over, lets one call through. The outcome of that call decides about
//! the rest. If only one call in all may be made, the endpoints take turns.
//!
//! How the deliver loop uses it: an attempt may end as [`Outcome::NotReady`](super::Outcome::NotReady) without a wait
//! of its own. The loop then parks the command's lane under [`Endpoint::of`] its call. Whenever [`Doors::changed`]
//! returns, the loop reads [`Doors::at`] for each endpoint with parked lanes. [`Door::Open`]: all of them are ready
//! again. [`Door::One`]: one is, and the next when that one is back. [`Door::Closed`]: none is. The loop may also look
//! at every turn. It does not spin, because the one call that is let through closes the door for the others.

use std::fmt;
use std::future::pending;
use std::sync::Arc;

use tokio::sync::watch;

use crate::protocol::Call;

/// One of the paths that commands call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// `send_msg`.
    SendMsg,
    /// `ham_topic`.
    HamTopic,
    /// `ham_group`.
    HamGroup,
    /// `ham_user`.
    HamUser,
    /// `ham_add_user`.
    HamAddUser,
}

impl Endpoint {
    /// Every endpoint.
    pub const ALL: [Self; 5] = [Self::SendMsg, Self::HamTopic, Self::HamGroup, Self::HamUser, Self::HamAddUser];

    /// The one that a call goes to.
    #[must_use]
    pub const fn of(call: &Call) -> Self {
        match call {
            Call::SendText { .. } | Call::SendFile { .. } | Call::SendGroup { .. } => Self::SendMsg,
            Call::Publish { .. } | Call::SubscribeTopic { .. } | Call::UnsubscribeTopic { .. } => Self::HamTopic,
            Call::CreateGroup { .. }
            | Call::DeleteGroup { .. }
            | Call::ListGroups
            | Call::AddMembers { .. }
            | Call::RemoveMembers { .. }
            | Call::GroupMembers { .. } => Self::HamGroup,
            Call::UserStates { .. } | Call::SubscribePresence { .. } | Call::UnsubscribePresence { .. } => {
                Self::HamUser
            }
            Call::AddUser { .. } => Self::HamAddUser,
        }
    }

    /// The vendor's path.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::SendMsg => "send_msg",
            Self::HamTopic => "ham_topic",
            Self::HamGroup => "ham_group",
            Self::HamUser => "ham_user",
            Self::HamAddUser => "ham_add_user",
        }
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// Whether an endpoint may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// By everybody.
    Open,
    /// By one, whose call tells how things stand.
    One,
    /// By nobody.
    Closed,
}

/// The doors, now and whenever they change.
#[derive(Clone)]
pub struct Doors(watch::Receiver<Table>);

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(Endpoint::ALL.map(|endpoint| (endpoint, self.at(endpoint)))).finish()
    }
}

impl Doors {
    /// Whether `endpoint` may be called now.
    #[must_use]
    pub fn at(&self, endpoint: Endpoint) -> Door {
        self.0.borrow().at(endpoint)
    }

    /// Whether any endpoint may be called now.
    #[must_use]
    pub fn any(&self) -> bool {
        let table = self.0.borrow();
        Endpoint::ALL.iter().any(|endpoint| table.at(*endpoint) != Door::Closed)
    }

    /// Resolves when a door has changed since the last time; never again once the session has ended: that is a stop, not
    /// readiness. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() || self.0.borrow().ended {
            pending::<()>().await;
        }
    }

    /// Resolves when the table satisfies `so`; never if the session ends before that.
    pub(super) async fn wait(&mut self, mut so: impl FnMut(&Table) -> bool) {
        let found = self.0.wait_for(|table| table.ended || so(table)).await.is_ok_and(|table| !table.ended);
        if !found {
            pending::<()>().await;
        }
    }
}

/// A door, as the task sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Setting {
    Open,
    /// For one, in this state of doubt; each `turn` gives one place.
    One {
        turn: u64,
        cause: Arc<str>,
    },
    Closed {
        cause: Arc<str>,
    },
}

/// What the task has set, and which places are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// Holds for every endpoint.
    all: Setting,
    each: [Setting; Endpoint::ALL.len()],
    /// The turns whose one place is taken: of the door for all, and of each.
    taken_of_all: Option<u64>,
    taken: [Option<u64>; Endpoint::ALL.len()],
    /// Of the door for all: endpoints whose calls it kept out, when each last had the one place, and whose it is now.
    waiting: [bool; Endpoint::ALL.len()],
    had: [u64; Endpoint::ALL.len()],
    only: Option<Endpoint>,
    /// The task is no more.
    ended: bool,
}

impl Table {
    fn of(&self, endpoint: Endpoint) -> (&Setting, Option<u64>) {
        let setting = self.each.get(endpoint.index()).unwrap_or(&self.all);
        (setting, self.taken.get(endpoint.index()).copied().flatten())
    }

    pub(super) fn at(&self, endpoint: Endpoint) -> Door {
        if self.ended {
            return Door::Closed;
        }
        let shown = |(setting, taken): (&Setting, Option<u64>)| match setting {
            Setting::Open => Door::Open,
            Setting::One { turn, .. } if taken != Some(*turn) => Door::One,
            Setting::One { .. } | Setting::Closed { .. } => Door::Closed,
        };
        let all = match shown((&self.all, self.taken_of_all)) {
            Door::One if self.only.is_some_and(|only| only != endpoint) => Door::Closed,
            all => all,
        };
        match (all, shown(self.of(endpoint))) {
            (Door::Closed, _) | (_, Door::Closed) => Door::Closed,
            (Door::One, _) | (_, Door::One) => Door::One,
            (Door::Open, Door::Open) => Door::Open,
        }
    }

    /// A new turn: of those who were kept out, whoever has not had the one place for longest has it. Otherwise one endpoint, the
    /// only one in trouble, might have it each time, and what others are asked for would wait as long as that lasts.
    fn begin_turn(&mut self) {
        let waiting = Endpoint::ALL.into_iter().filter(|endpoint| self.waiting.get(endpoint.index()) == Some(&true));
        self.only = waiting.min_by_key(|endpoint| self.had.get(endpoint.index()));
        // Should it not come, it is passed over next time.
        if let Some(waiting) = self.only.and_then(|only| self.waiting.get_mut(only.index())) {
            *waiting = false;
        }
    }

    /// A call of `endpoint` has the one place of the door for all.
    fn take_turn(&mut self, endpoint: Endpoint, turn: u64) {
        (self.taken_of_all, self.only) = (Some(turn), None);
        if let (Some(had), Some(waiting)) = (self.had.get_mut(endpoint.index()), self.waiting.get_mut(endpoint.index()))
        {
            (*had, *waiting) = (turn, false);
        }
    }

    pub(super) fn all_open(&self) -> bool {
        Endpoint::ALL.iter().all(|endpoint| self.at(*endpoint) == Door::Open)
    }

    /// Why `endpoint` cannot be called.
    fn cause(&self, endpoint: Endpoint) -> Arc<str> {
        let cause = |setting: &Setting| match setting {
            Setting::Open => None,
            Setting::One { cause, .. } | Setting::Closed { cause } => Some(Arc::clone(cause)),
        };
        cause(&self.all).or_else(|| cause(self.of(endpoint).0)).unwrap_or_else(|| super::explanations::ended().into())
    }
}

/// The task's end, and the callers'.
pub(super) struct Keeper(watch::Sender<Table>);

impl Keeper {
    pub(super) fn new(cause: &str) -> Self {
        let table = Table {
            all: Setting::Closed { cause: cause.into() },
            each: Endpoint::ALL.map(|_| Setting::Open),
            taken_of_all: None,
            taken: [None; Endpoint::ALL.len()],
            waiting: [false; Endpoint::ALL.len()],
            had: [0; Endpoint::ALL.len()],
            only: None,
            ended: false,
        };
        Self(watch::Sender::new(table))
    }

    pub(super) fn doors(&self) -> Doors {
        Doors(self.0.subscribe())
    }

    pub(super) fn set(&self, all: Setting, each: [Setting; Endpoint::ALL.len()]) {
        self.0.send_if_modified(|table| {
            let changed = (&table.all, &table.each) != (&all, &each);
            let turn = |all: &Setting| if let Setting::One { turn, .. } = all { Some(*turn) } else { None };
            let (before, now) = (turn(&table.all), turn(&all));
            (table.all, table.each) = (all, each);
            if table.all == Setting::Open {
                (table.waiting, table.only) = ([false; Endpoint::ALL.len()], None);
            } else if now.is_some() && now != before {
                table.begin_turn();
            }
            changed
        });
    }

    /// Whether somebody has the one place of the door for all.
    pub(super) fn is_taken(&self) -> bool {
        let table = self.0.borrow();
        matches!(table.all, Setting::One { turn, .. } if table.taken_of_all == Some(turn))
    }

    /// Why `endpoint` cannot be called, if so.
    pub(super) fn closed(&self, endpoint: Endpoint) -> Option<Arc<str>> {
        let table = self.0.borrow();
        (table.at(endpoint) == Door::Closed).then(|| table.cause(endpoint))
    }

    /// The task is no more: nothing is ever ready again.
    pub(super) fn end(&self) {
        self.0.send_modify(|table| table.ended = true);
    }

    /// Asks for a pass; why there is none.
    pub(super) fn enter(self: &Arc<Self>, endpoint: Endpoint) -> Result<Pass, Arc<str>> {
        let mut pass = Pass { keeper: Arc::clone(self), endpoint, of_all: None, of_one: None };
        let mut entered = Ok(());
        self.0.send_if_modified(|table| {
            // After the end callers may still try with what was known last; nobody waits for that.
            if !table.ended && table.at(endpoint) == Door::Closed {
                entered = Err(table.cause(endpoint));
                let by_all = table.all != Setting::Open;
                if let Some(waiting) = table.waiting.get_mut(endpoint.index()).filter(|_| by_all) {
                    *waiting = true;
                }
                return false;
            }
            if let Setting::One { turn, .. } = table.all {
                table.take_turn(endpoint, turn);
                pass.of_all = Some(turn);
            }
            if let (Setting::One { turn, .. }, Some(taken)) =
                (table.of(endpoint).0.clone(), table.taken.get_mut(endpoint.index()))
            {
                (*taken, pass.of_one) = (Some(turn), Some(turn));
            }
            pass.is_single()
        });
        entered.map(|()| pass)
    }
}

/// The right to make one call. Where only one may, its place is free again when this is dropped, unless the task has
/// decided otherwise by then.
pub(super) struct Pass {
    keeper: Arc<Keeper>,
    endpoint: Endpoint,
    of_all: Option<u64>,
    of_one: Option<u64>,
}

impl Pass {
    /// Whether nobody else may call meanwhile.
    pub(super) fn is_single(&self) -> bool {
        self.of_all.is_some() || self.of_one.is_some()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.is_single() {
            return;
        }
        self.keeper.0.send_if_modified(|table| {
            if table.taken_of_all == self.of_all {
                table.taken_of_all = None;
            }
            if let Some(taken) = table.taken.get_mut(self.endpoint.index()).filter(|taken| **taken == self.of_one) {
                *taken = None;
            }
            true
        });
    }
}

#[cfg(test)]
mod tests;
