//! The session's own calls: the configured subscriptions, the reading of presence, and the probe.
//!
//! Subscriptions are made after every registration, because nobody says whether they outlive one, and otherwise where the
//! record and the configuration differ. What iLink refuses for good is warned about once and left until the next
//! registration or configuration.

use std::collections::VecDeque;

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::asks::{Attempt, Origin};
use super::handle::Session;
use super::store::{Store, Subscribed};
use super::task::on_disk;
use super::types::SessionConfig;
use crate::cloud::Timing;
use crate::protocol::{Call, Qos, Reply, Subject, Uid};

pub(super) struct Upkeep {
    wanted: Subscribed,
    subscribed: Subscribed,
    subscriptions_due: bool,
    presence_due: bool,
    not_before: Instant,
    failures: u32,
    /// Counts changes of what is to be done, so that work begun before one does not count as done.
    revision: u64,
    /// Counts registrations: what was subscribed under an earlier one may be gone.
    registration: u64,
}

/// The end of a piece of work.
pub(super) enum UpkeepDone {
    Probed { attempt: Attempt, states: Option<Vec<(Uid, bool)>> },
    Kept { progress: Progress, states: Option<Vec<(Uid, bool)>> },
}

/// How far the work got.
pub(super) struct Progress {
    subscribed: Subscribed,
    complete: bool,
    revision: u64,
    registration: u64,
}

impl Upkeep {
    pub(super) fn new(config: &SessionConfig) -> Self {
        let wanted = Subscribed { topics: config.topics.clone(), presence: config.presence.clone() };
        Self {
            presence_due: !wanted.presence.is_empty(),
            subscriptions_due: wanted != Subscribed::default(),
            wanted,
            subscribed: Subscribed::default(),
            not_before: Instant::now(),
            failures: 0,
            revision: 0,
            registration: 0,
        }
    }

    /// Takes over what an earlier run recorded.
    pub(super) fn restore(&mut self, subscribed: Subscribed) {
        self.subscribed = subscribed;
        self.subscriptions_due = !self.missing().is_empty();
    }

    pub(super) fn configure(&mut self, topics: Vec<(Subject, Qos)>, presence: Vec<Uid>) {
        self.wanted = Subscribed { topics, presence };
        self.revision += 1;
        self.subscriptions_due = !self.missing().is_empty();
        self.read_presence();
    }

    /// There is a new registration: of the subscriptions only those are still on record that are to be ended.
    pub(super) fn registered(&mut self) {
        let wanted = &self.wanted;
        self.subscribed.topics.retain(|(subject, _)| !wanted.topics.iter().any(|(wanted, _)| wanted == subject));
        self.subscribed.presence.retain(|uid| !wanted.presence.contains(uid));
        self.revision += 1;
        self.registration += 1;
        self.subscriptions_due = !self.missing().is_empty();
        self.read_presence();
    }

    pub(super) fn read_presence(&mut self) {
        self.presence_due = !self.wanted.presence.is_empty();
    }

    pub(super) fn presence_was_read(&mut self) {
        self.presence_due = false;
    }

    /// When there is work.
    pub(super) fn next(&self) -> Option<Instant> {
        (self.subscriptions_due || self.presence_due).then_some(self.not_before)
    }

    pub(super) fn kept(&mut self, progress: Progress, timing: &Timing) {
        if progress.registration == self.registration {
            self.subscribed = progress.subscribed;
        }
        if progress.revision == self.revision && progress.complete {
            (self.subscriptions_due, self.presence_due) = (false, false);
        }
        self.failures = if progress.complete { 0 } else { self.failures.saturating_add(1) };
        let wait = if progress.complete { std::time::Duration::ZERO } else { timing.link.jittered(self.failures) };
        self.not_before = Instant::now() + wait;
    }

    /// What iLink is to be told, in this order.
    fn missing(&self) -> VecDeque<Step> {
        let (wanted, subscribed) = (&self.wanted, &self.subscribed);
        let mut steps = VecDeque::new();
        for (subject, _) in &subscribed.topics {
            if !wanted.topics.iter().any(|(wanted, _)| wanted == subject) {
                steps.push_back(Step::Unsubscribe(subject.clone()));
            }
        }
        for topic in &wanted.topics {
            if !subscribed.topics.contains(topic) {
                steps.push_back(Step::Subscribe(topic.clone()));
            }
        }
        let without = |these: &[Uid], those: &[Uid]| -> Vec<Uid> {
            these.iter().filter(|uid| !those.contains(uid)).cloned().collect()
        };
        let (ended, begun) =
            (without(&subscribed.presence, &wanted.presence), without(&wanted.presence, &subscribed.presence));
        if !ended.is_empty() {
            steps.push_back(Step::Unwatch(ended));
        }
        if !begun.is_empty() {
            steps.push_back(Step::Watch(begun));
        }
        steps
    }

    /// One harmless call that tells whether calls are possible: reads presence, our own if none is configured.
    pub(super) fn probe(&self, session: Session) -> impl Future<Output = UpkeepDone> + Send + 'static {
        let mut uids = self.wanted.presence.clone();
        let configured = !uids.is_empty();
        if !configured {
            uids.push(session.shared.account.uid.clone());
        }
        async move {
            let attempt = session.attempt(&Call::UserStates { uids }, Origin::Probe).await;
            let states = match &attempt {
                Attempt::Reply(reply) if configured && reply.code.is_ok() => Some(states(reply)),
                _ => None,
            };
            UpkeepDone::Probed { attempt, states }
        }
    }

    /// Does what is to be done, up to the first call that has to wait.
    pub(super) fn run(&self, session: Session, store: Store) -> impl Future<Output = UpkeepDone> + Send + 'static {
        let steps = self.missing();
        let subscribed = self.subscribed.clone();
        let presence = if self.presence_due { self.wanted.presence.clone() } else { Vec::new() };
        let (revision, registration) = (self.revision, self.registration);
        async move {
            let (subscribed, mut complete) = keep(&session, &store, steps, subscribed).await;
            let mut read = None;
            if complete && !presence.is_empty() {
                match session.attempt(&Call::UserStates { uids: presence }, Origin::Upkeep).await {
                    Attempt::Reply(reply) if reply.code.is_ok() => read = Some(states(&reply)),
                    Attempt::Reply(reply) => {
                        tracing::warn!("iLink does not tell the presence of the configured users: {}", reply.code);
                    }
                    Attempt::Later(_) | Attempt::Lost(_) | Attempt::NotReady { .. } => complete = false,
                }
            }
            UpkeepDone::Kept { progress: Progress { subscribed, complete, revision, registration }, states: read }
        }
    }
}

/// One call about subscriptions.
#[derive(Debug, PartialEq)]
enum Step {
    Subscribe((Subject, Qos)),
    Unsubscribe(Subject),
    Watch(Vec<Uid>),
    Unwatch(Vec<Uid>),
}

impl Step {
    fn call(&self) -> Call {
        match self {
            Self::Subscribe((subject, qos)) => Call::SubscribeTopic { subject: subject.clone(), qos: *qos },
            Self::Unsubscribe(subject) => Call::UnsubscribeTopic { subject: subject.clone() },
            Self::Watch(uids) => Call::SubscribePresence { uids: uids.clone() },
            Self::Unwatch(uids) => Call::UnsubscribePresence { uids: uids.clone() },
        }
    }

    /// What is subscribed after it.
    fn apply(self, subscribed: &mut Subscribed) {
        match self {
            Self::Subscribe(topic) => {
                subscribed.topics.retain(|(subject, _)| *subject != topic.0);
                subscribed.topics.push(topic);
            }
            Self::Unsubscribe(subject) => subscribed.topics.retain(|(topic, _)| *topic != subject),
            Self::Watch(uids) => subscribed.presence.extend(uids),
            Self::Unwatch(uids) => subscribed.presence.retain(|uid| !uids.contains(uid)),
        }
    }

    /// The same for each user alone, so that one unknown user does not keep the others out.
    fn apart(self) -> Vec<Self> {
        match self {
            Self::Watch(uids) if uids.len() > 1 => uids.into_iter().map(|uid| Self::Watch(vec![uid])).collect(),
            Self::Unwatch(uids) if uids.len() > 1 => uids.into_iter().map(|uid| Self::Unwatch(vec![uid])).collect(),
            _ => Vec::new(),
        }
    }

    fn ends(&self) -> bool {
        matches!(self, Self::Unsubscribe(_) | Self::Unwatch(_))
    }

    fn name(&self) -> String {
        match self {
            Self::Subscribe((subject, _)) => format!("to subscribe to topic {subject}"),
            Self::Unsubscribe(subject) => format!("to unsubscribe from topic {subject}"),
            Self::Watch(uids) => format!("to subscribe to the presence of {}", joined(uids)),
            Self::Unwatch(uids) => format!("to unsubscribe from the presence of {}", joined(uids)),
        }
    }
}

fn joined(uids: &[Uid]) -> String {
    uids.iter().map(Uid::as_str).collect::<Vec<_>>().join(", ")
}

async fn keep(
    session: &Session,
    store: &Store,
    mut steps: VecDeque<Step>,
    mut subscribed: Subscribed,
) -> (Subscribed, bool) {
    if steps.is_empty() {
        return (subscribed, true);
    }
    // What a new registration may have ended must not be on record while it is being made anew.
    record(store, &subscribed).await;
    let mut complete = true;
    while let Some(step) = steps.pop_front() {
        match session.attempt(&step.call(), Origin::Upkeep).await {
            Attempt::Reply(reply) if reply.code.is_ok() => step.apply(&mut subscribed),
            Attempt::Reply(reply) => {
                let (name, ends) = (step.name(), step.ends());
                let last = matches!(&step, Step::Watch(uids) | Step::Unwatch(uids) if uids.len() > 1);
                if last {
                    steps.extend(step.apart());
                    continue;
                }
                tracing::warn!("iLink refuses {name}: {} ({})", reply.code.meaning(), reply.code);
                // What cannot be ended is none of ours any more.
                if ends {
                    step.apply(&mut subscribed);
                }
            }
            Attempt::Later(_) | Attempt::Lost(_) | Attempt::NotReady { .. } => {
                complete = false;
                break;
            }
        }
    }
    record(store, &subscribed).await;
    (subscribed, complete)
}

async fn record(store: &Store, subscribed: &Subscribed) {
    let (store, subscribed) = (store.clone(), subscribed.clone());
    if let Err(error) = on_disk(move || store.put_subscribed(&subscribed)).await {
        tracing::warn!(%error, "the subscriptions could not be recorded: the next start repeats them");
    }
}

/// The states in a reply to `ham_user/states` (§5.10), as liberal as pushes are read; what is no state is left out.
fn states(reply: &Reply) -> Vec<(Uid, bool)> {
    let Some(Value::Array(list)) = field(&reply.extra, "uid_state_list") else { return Vec::new() };
    list.iter().filter_map(Value::as_object).filter_map(state).collect()
}

fn state(entry: &Map<String, Value>) -> Option<(Uid, bool)> {
    let uid = match field(entry, "uid")? {
        Value::String(uid) => uid.parse().ok()?,
        Value::Number(uid) => uid.to_string().parse().ok()?,
        _ => return None,
    };
    let online = match field(entry, "state")? {
        Value::Number(state) => state.as_i64()?,
        Value::String(state) => state.trim().parse().ok()?,
        _ => return None,
    };
    matches!(online, 0 | 1).then_some((uid, online == 1))
}

/// A field by its name; the manual's samples have stray spaces in names.
fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).or_else(|| object.iter().find(|(key, _)| key.trim() == name).map(|(_, value)| value))
}
