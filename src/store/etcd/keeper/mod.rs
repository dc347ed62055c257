//! The keeper of a handle: the one task that writes. It takes what waits, has it carried out as one transaction, then answers;
//! what comes in meanwhile makes the next one. One transaction at a time, so that rows are stored in the order of the calls.

mod news;
mod outcome;
mod search;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info};

use super::client::Client;
use super::commit::{Committer, NotDone};
use super::compose::{Composer, Flight, Waiter};
use super::config::Keys;
use super::error::EtcdError;
use super::estimate::Estimate;
use super::feed::{Feed, News};
use super::handle::{CLOSE_WAIT, Common, Request, WAITING_MOST};
use super::wire::Step;
use crate::store::fullness::Fullness;
use crate::store::request::Op;
use crate::store::types::{Medium, NotStored, SpoolError, WhyNot};
use search::Search;

/// How long lazy changes wait for a durable one to go with, and how many may.
const LAZY_WAIT: Duration = Duration::from_millis(250);
const LAZY_MOST: usize = 100;
/// How long removals of tokens wait: other members may wait for them.
const TOKEN_WAIT: Duration = Duration::from_millis(10);
/// While etcd refuses, how often it is tried again without being asked.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// Who waits for longer than this while nothing goes is told so.
const WAIT_MOST: Duration = Duration::from_secs(3);

/// Where what the queues hold is known from.
pub(super) enum View {
    /// From every row that comes: as the leader.
    Rows(Box<Feed>),
    /// Roughly: as any member.
    Estimate(Box<Estimate>),
}

/// A transaction on its way: gives the committer back, and the revision.
type Going = BoxFuture<'static, (Committer, Result<u64, NotDone>)>;

enum Aboard {
    Rows(Flight),
    Removals,
    Probe,
}

/// Why nothing can be stored now.
struct Refused {
    cause: EtcdError,
    again: Instant,
    /// Nor can anything be removed.
    removals_failed: bool,
}

/// A row to iLink was refused for now.
struct Behind {
    cause: String,
    since: Instant,
}

/// The keeper must end: after a failure already told to all, or because it was closed.
struct Stop;

/// The state of the keeper.
pub(super) struct Keeper {
    client: Arc<Client>,
    keys: Keys,
    common: Arc<Common>,
    inbox: mpsc::UnboundedReceiver<Request>,
    view: View,
    /// None while a transaction is on its way.
    committer: Option<Committer>,
    going: Option<(Going, Aboard)>,
    trouble: watch::Receiver<Option<EtcdError>>,
    waiting: VecDeque<Waiter>,
    /// How many of them go next, and nobody else: what is left of a transaction of which a part could not go.
    alone: Option<usize>,
    search: Search,
    /// Rows that are stored, and not yet seen among those that come.
    unseen: VecDeque<(u64, Op)>,
    /// The highest number seen.
    seen: u64,
    fullness: Fullness,
    session_began: u64,
    refused: Option<Refused>,
    /// Tokens that may soon be in another's hand, and their versions: they are to be emptied, if they are not.
    late_ends: Vec<([u8; 32], u64)>,
    /// What comes behind this must not go before it.
    behind: Option<Behind>,
    told: Vec<String>,
    /// Since when something waits that nobody waits for.
    lazy_since: Option<Instant>,
    /// The others have been told other counts.
    stale: bool,
    closing: Option<(oneshot::Sender<()>, Instant)>,
}

impl Keeper {
    pub(super) fn new(
        client: Arc<Client>,
        keys: Keys,
        common: Arc<Common>,
        inbox: mpsc::UnboundedReceiver<Request>,
        view: View,
        committer: Committer,
    ) -> Self {
        let trouble = committer.trouble();
        Self {
            client,
            keys,
            common,
            inbox,
            view,
            committer: Some(committer),
            going: None,
            trouble,
            waiting: VecDeque::new(),
            alone: None,
            search: Search::default(),
            unseen: VecDeque::new(),
            seen: 0,
            fullness: Fullness::new(Medium::Etcd),
            session_began: 0,
            refused: None,
            late_ends: Vec::new(),
            behind: None,
            told: Vec::new(),
            lazy_since: None,
            stale: false,
            closing: None,
        }
    }

    /// Works until closed, failed, or left by all handles.
    pub(super) async fn run(mut self) {
        while self.turn().await.is_ok() {}
        // Whoever asks from now on is told that it is over before anybody who waits.
        self.inbox.close();
    }

    async fn turn(&mut self) -> Result<(), Stop> {
        self.turn_away();
        self.start();
        if self.is_done() {
            return Err(Stop);
        }
        let common = Arc::clone(&self.common);
        let due = self.due();
        let open = self.closing.is_none();
        // All arms are cancel-safe: what is under way is kept in `self`.
        tokio::select! {
            request = self.inbox.recv(), if open => {
                self.take(request);
                Ok(())
            }
            () = common.lazily.notified() => {
                self.lazy_since.get_or_insert_with(Instant::now);
                // Completions make room at once.
                self.show();
                Ok(())
            }
            (committer, outcome) = arrival(&mut self.going) => self.landed(committer, outcome),
            news = self.view.next() => self.hear(news).await,
            Ok(()) = self.trouble.changed() => {
                let trouble = self.trouble.borrow().clone();
                if let Some(cause) = trouble {
                    self.warn(&cause);
                }
                self.show();
                Ok(())
            }
            () = sleep_until(due) => {
                self.give_up_waiting();
                Ok(())
            }
        }
    }

    fn take(&mut self, request: Option<Request>) {
        let mut next = request;
        for _ in 0..WAITING_MOST {
            match next {
                // All handles have gone: what is lazy is still stored.
                None => self.closing = Some((oneshot::channel().0, Instant::now() + CLOSE_WAIT)),
                Some(Request::Durable(asked)) => self.waiting.push_back(Waiter { since: Instant::now(), asked }),
                Some(Request::Close { ended, within }) => self.closing = Some((ended, Instant::now() + within)),
            }
            if self.closing.is_some() {
                return;
            }
            let Ok(more) = self.inbox.try_recv() else { return };
            next = Some(more);
        }
    }

    /// What is due without being asked.
    fn due(&self) -> Option<Instant> {
        let lazy = self.lazy_since.filter(|_| self.committer.is_some() && self.refused.is_none());
        let lazy_wait = self.lazy_wait();
        let stuck = self.trouble.borrow().is_some();
        let waits = self.waiting.front().filter(|_| stuck).map(|first| first.since + WAIT_MOST);
        let again = self.refused.as_ref().filter(|_| self.committer.is_some()).map(|refused| refused.again);
        let closing = self.closing.as_ref().map(|(_, until)| *until);
        [lazy.map(|since| since + lazy_wait), waits, again, closing].into_iter().flatten().min()
    }

    fn lazy_wait(&self) -> Duration {
        match self.view {
            View::Rows(_) => LAZY_WAIT,
            View::Estimate(_) => TOKEN_WAIT,
        }
    }

    /// Sends what is to be sent, if nothing is on its way.
    fn start(&mut self) {
        let now = Instant::now();
        let Some(mut committer) = self.committer.take() else { return };
        let again = self.refused.as_ref().is_some_and(|refused| now >= refused.again);
        self.end_late_tokens();
        let lazies = self.common.state().lazies.len();
        if lazies == 0 && !self.stale {
            self.lazy_since = None;
        }
        let lazy = self.lazy_since.is_some_and(|since| now >= since + self.lazy_wait()) || lazies >= LAZY_MOST;
        let closing = self.closing.is_some();
        if let Some(removals) = self.removals(again) {
            self.going = Some((
                async move {
                    let outcome = committer.remove(removals).await;
                    (committer, outcome.map(|()| 0))
                }
                .boxed(),
                Aboard::Removals,
            ));
        } else if self.refused.is_some() && (again || self.waiting.is_empty()) {
            if again {
                self.going = Some((
                    async move {
                        let outcome = committer.probe().await;
                        (committer, outcome.map(|()| 0))
                    }
                    .boxed(),
                    Aboard::Probe,
                ));
            } else {
                self.committer = Some(committer);
            }
        } else if !self.waiting.is_empty() || (lazy || closing) && (lazies > 0 || self.stale) {
            self.show();
            let mut waiting = std::mem::take(&mut self.waiting);
            let most = self.alone.take().filter(|most| *most > 0 || lazies > 0).unwrap_or(usize::MAX);
            let (work, flight) = self.composer().compose(&mut waiting, most);
            self.waiting = waiting;
            self.search.goes(most, &flight);
            if flight.refused {
                self.show();
            }
            if flight.ops.is_empty() && flight.tokens.is_empty() && !flight.lazy && !self.stale {
                self.committer = Some(committer);
                return;
            }
            self.stale = false;
            if self.common.state().lazies.is_empty() {
                self.lazy_since = None;
            }
            self.going = Some((
                async move {
                    let outcome = committer.commit(&work).await;
                    (committer, outcome)
                }
                .boxed(),
                Aboard::Rows(flight),
            ));
        } else {
            self.committer = Some(committer);
        }
    }

    fn composer(&mut self) -> Composer<'_> {
        let leads = matches!(self.view, View::Rows(_));
        let Self { keys, common, fullness, session_began, .. } = self;
        Composer { keys, common, fullness, session_began, leads }
    }

    /// The rows to be removed, if etcd takes nothing else: at once, because they make the space.
    fn removals(&mut self, again: bool) -> Option<Vec<Step>> {
        let refused = self.refused.as_ref().filter(|refused| refused.cause == EtcdError::NoSpace)?;
        if refused.removals_failed && !again {
            return None;
        }
        let rows = self.keys.queues();
        let removals = self.common.state().lazies.take(LAZY_MOST, usize::MAX, Some(&rows));
        (!removals.is_empty()).then(|| removals.into_iter().map(|(key, _)| Step::delete(key)).collect())
    }

    /// Who has waited for too long while nothing goes: of theirs, nothing was sent.
    fn give_up_waiting(&mut self) {
        let Some(cause) = self.trouble.borrow().clone() else { return };
        // Whoever is told so finds it shown.
        self.show();
        while self.waiting.front().is_some_and(|first| first.since.elapsed() >= WAIT_MOST) {
            if let Some(first) = self.waiting.pop_front() {
                if first.asked.goes_to_ilink() {
                    self.passed_over(&cause);
                }
                self.refuse_asked(first.asked, SpoolError::Unwritable(cause.to_string()));
            }
        }
    }

    /// Shows what the queues hold, and whether rows are taken.
    fn show(&mut self) {
        let claimed = self.common.state().claimed();
        let (mut now, changes) = self.fullness.look(&claimed, &self.common.limits);
        let trouble = self.trouble.borrow().clone();
        if let Some(cause) = trouble.as_ref().or(self.refused.as_ref().map(|refused| &refused.cause)) {
            now = Err(NotStored { cause: cause.to_string(), why: WhyNot::Refused });
        }
        if now.is_err()
            && let View::Estimate(estimate) = &mut self.view
        {
            estimate.wanted();
        }
        self.common.shared.set_writable(now);
        changes.log();
    }

    fn deposed(&self) -> Stop {
        self.common.shared.fail(EtcdError::Deposed.to_string());
        Stop
    }

    /// Whether it is closed, and nothing is left to do or to wait for.
    fn is_done(&mut self) -> bool {
        let Some((_, until)) = &self.closing else { return false };
        let idle = self.committer.is_some() && self.waiting.is_empty() && self.unseen.is_empty();
        let over = Instant::now() >= *until;
        if !over && (!idle || !self.common.state().lazies.is_empty() && self.refused.is_none()) {
            return false;
        }
        let left = self.common.state().lazies.len();
        match self.view {
            _ if left == 0 => {}
            View::Rows(_) => error!("{left} completions or notes could not be stored: deliveries may be repeated"),
            View::Estimate(_) => info!("{left} removals of tokens could not be stored: the tokens go by themselves"),
        }
        true
    }
}

/// What a view tells.
enum Heard {
    News(News),
    Estimated,
}

impl View {
    /// Cancel-safe, as what it stands on.
    async fn next(&mut self) -> Heard {
        match self {
            Self::Rows(feed) => Heard::News(feed.next().await),
            Self::Estimate(estimate) => {
                estimate.next().await;
                Heard::Estimated
            }
        }
    }
}

async fn arrival(going: &mut Option<(Going, Aboard)>) -> (Committer, Result<u64, NotDone>) {
    match going {
        Some((going, _)) => going.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
