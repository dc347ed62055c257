//! The doors: which endpoints may be called, as the task writes it and callers see it.
//!
//! A command asks for its own endpoint only: trouble at one says nothing about another. An endpoint in doubt, or one whose
//! wait is over, lets one call through; how that call ends decides about the rest.
//!
//! How the deliver loop uses it: a command whose attempt ends as [`Outcome::NotReady`](super::Outcome::NotReady) without a
//! wait of its own is set aside with its lane under [`Endpoint::of`] its call. Whenever [`Doors::changed`] returns, look at
//! [`Doors::at`] for each endpoint under which lanes are set aside: [`Door::Open`] sends all of them back into the line,
//! [`Door::One`] one of them (the next gets its turn when this one is back), [`Door::Closed`] none. Looking again at every
//! turn of the loop misses nothing, and does not spin: who takes the one place closes the door for the others.

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
        match (shown((&self.all, self.taken_of_all)), shown(self.of(endpoint))) {
            (Door::Closed, _) | (_, Door::Closed) => Door::Closed,
            (Door::One, _) | (_, Door::One) => Door::One,
            (Door::Open, Door::Open) => Door::Open,
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
        cause(&self.all).or_else(|| cause(self.of(endpoint).0)).unwrap_or_else(|| super::words::ended().into())
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
            (table.all, table.each) = (all, each);
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
                return false;
            }
            if let Setting::One { turn, .. } = table.all {
                (table.taken_of_all, pass.of_all) = (Some(turn), Some(turn));
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
mod tests {
    use super::*;

    const OPEN: [Setting; 5] = [const { Setting::Open }; 5];

    fn one(turn: u64) -> Setting {
        Setting::One { turn, cause: "in doubt".into() }
    }

    #[test]
    fn one_place_is_taken_once_and_is_free_again_unless_the_task_has_moved_on() {
        let keeper = Arc::new(Keeper::new("starting"));
        let doors = keeper.doors();
        assert!(!doors.any() && keeper.enter(Endpoint::SendMsg).is_err_and(|cause| &*cause == "starting"));
        let mut each = OPEN;
        each[Endpoint::SendMsg.index()] = one(1);
        keeper.set(Setting::Open, each.clone());
        assert_eq!((doors.at(Endpoint::SendMsg), doors.at(Endpoint::HamTopic)), (Door::One, Door::Open));
        let pass = keeper.enter(Endpoint::SendMsg).unwrap();
        assert!(pass.is_single() && keeper.enter(Endpoint::SendMsg).is_err_and(|cause| &*cause == "in doubt"));
        assert_eq!(doors.at(Endpoint::SendMsg), Door::Closed);
        assert!(!keeper.enter(Endpoint::HamTopic).unwrap().is_single());
        drop(pass);
        assert_eq!(doors.at(Endpoint::SendMsg), Door::One);
        let late = keeper.enter(Endpoint::SendMsg).unwrap();
        each[Endpoint::SendMsg.index()] = one(2);
        keeper.set(Setting::Open, each);
        let next = keeper.enter(Endpoint::SendMsg).unwrap();
        drop(late);
        assert_eq!(doors.at(Endpoint::SendMsg), Door::Closed, "the place of the second turn is taken still");
        drop(next);
    }

    #[test]
    fn one_for_all_endpoints_together() {
        let keeper = Arc::new(Keeper::new("starting"));
        keeper.set(one(1), OPEN);
        let pass = keeper.enter(Endpoint::HamUser).unwrap();
        assert!(!keeper.doors().any());
        drop(pass);
        assert!(Endpoint::ALL.iter().all(|endpoint| keeper.doors().at(*endpoint) == Door::One));
    }

    #[tokio::test]
    async fn an_end_is_never_readiness() {
        let keeper = Arc::new(Keeper::new("starting"));
        keeper.set(Setting::Open, OPEN);
        let mut doors = keeper.doors();
        doors.wait(Table::all_open).await;
        keeper.end();
        assert!(!doors.any());
        let never = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(never, doors.changed()).await.is_err());
        assert!(tokio::time::timeout(never, doors.wait(Table::all_open)).await.is_err());
        assert!(keeper.enter(Endpoint::SendMsg).is_ok(), "a call is tried with what was known last");
    }
}
