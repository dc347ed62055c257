//! The session's own calls: it keeps the configured subscriptions, reads presence, and probes.
//!
//! Subscriptions are made after every registration, because the manual does not say whether they outlive one. Otherwise
//! they are made only where the record and the configuration differ. What iLink refuses for good is logged once and
//! left alone until the next registration or configuration.

use std::collections::VecDeque;

use serde_json::{Map, Value};
use tokio::time::Instant;

use super::handle::Session;
use super::messages::{Attempt, Origin};
use super::store::Subscribed;
use super::types::SessionConfig;
use crate::cloud::Timing;
use crate::protocol::{Call, Qos, Reply, Subject, Uid, reply};

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
    Probed { attempt: Attempt, read: Option<Read> },
    Kept { progress: Progress, read: Option<Read> },
}

/// Presence that was read, and whose was asked for: others may be configured by now.
pub(super) struct Read {
    uids: Vec<Uid>,
    states: Vec<(Uid, bool)>,
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
        let wanted = wanted(config.topics.clone(), config.presence.clone());
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
        self.wanted = wanted(topics, presence);
        self.subscriptions_due = !self.missing().is_empty();
        self.read_presence();
    }

    /// What is subscribed, as far as we know.
    pub(super) fn subscribed(&self) -> &Subscribed {
        &self.subscribed
    }

    /// There is a new registration.
    pub(super) fn registered(&mut self) {
        self.subscribed = self.outliving();
        self.registration += 1;
        self.subscriptions_due = !self.missing().is_empty();
        self.read_presence();
    }

    /// Which subscriptions stay on record beyond a new registration: only those that are to be ended.
    pub(super) fn outliving(&self) -> Subscribed {
        let (wanted, mut subscribed) = (&self.wanted, self.subscribed.clone());
        subscribed.topics.retain(|(subject, _)| !wanted.topics.iter().any(|(wanted, _)| wanted == subject));
        subscribed.presence.retain(|uid| !wanted.presence.contains(uid));
        subscribed.doubtful_topics.clear();
        subscribed.doubtful_presence.clear();
        subscribed
    }

    pub(super) fn read_presence(&mut self) {
        self.revision += 1;
        self.presence_due = !self.wanted.presence.is_empty();
    }

    /// A probe has read presence, after all that asked for it; what of it is still configured.
    pub(super) fn probe_read(&mut self, read: Read) -> Vec<(Uid, bool)> {
        self.presence_due &= read.uids != self.wanted.presence;
        self.still_wanted(read)
    }

    /// What was read, of the configured users only: the presence of others would stay retained.
    pub(super) fn still_wanted(&self, read: Read) -> Vec<(Uid, bool)> {
        read.states.into_iter().filter(|(uid, _)| self.wanted.presence.contains(uid)).collect()
    }

    /// When there is work.
    pub(super) fn next(&self) -> Option<Instant> {
        (self.subscriptions_due || self.presence_due).then_some(self.not_before)
    }

    pub(super) fn kept(&mut self, progress: Progress, timing: &Timing) {
        self.subscribed = progress.subscribed;
        if progress.registration != self.registration {
            self.subscribed = self.outliving();
        }
        if progress.revision != self.revision {
            // Something else is wanted by now than when this began.
            self.subscriptions_due = !self.missing().is_empty();
        } else if progress.complete {
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
            if !subscribed.topics.contains(topic) || subscribed.doubtful_topics.contains(&topic.0) {
                steps.push_back(Step::Subscribe(topic.clone()));
            }
        }
        let without = |these: &[Uid], those: &[Uid]| -> Vec<Uid> {
            these.iter().filter(|uid| !those.contains(uid)).cloned().collect()
        };
        let certain = without(&subscribed.presence, &subscribed.doubtful_presence);
        let (ended, begun) = (without(&subscribed.presence, &wanted.presence), without(&wanted.presence, &certain));
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
            let attempt = session.attempt(&Call::UserStates { uids: uids.clone() }, Origin::Probe).await;
            let read = match &attempt {
                Attempt::Reply(reply) if configured && reply.code.is_ok() => Some(Read { uids, states: states(reply) }),
                _ => None,
            };
            UpkeepDone::Probed { attempt, read }
        }
    }

    /// Does what is to be done, up to the first call that has to wait.
    pub(super) fn run(&self, session: Session) -> impl Future<Output = UpkeepDone> + Send + 'static {
        let steps = self.missing();
        let subscribed = self.subscribed.clone();
        let presence = if self.presence_due { self.wanted.presence.clone() } else { Vec::new() };
        let (revision, registration) = (self.revision, self.registration);
        async move {
            let (subscribed, mut complete) = keep(&session, steps, subscribed).await;
            let mut read = None;
            if complete && !presence.is_empty() {
                match session.attempt(&Call::UserStates { uids: presence.clone() }, Origin::Upkeep).await {
                    Attempt::Reply(reply) if reply.code.is_ok() => {
                        read = Some(Read { uids: presence, states: states(&reply) });
                    }
                    Attempt::Reply(reply) => {
                        tracing::warn!("iLink does not report the presence of the configured users: {}", reply.code);
                    }
                    Attempt::Later(_) | Attempt::Lost(_) | Attempt::NotReady { .. } => complete = false,
                }
            }
            UpkeepDone::Kept { progress: Progress { subscribed, complete, revision, registration }, read }
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
            Self::Subscribe((subject, qos)) => {
                subscribed.forget_topic(&subject);
                subscribed.topics.push((subject, qos));
            }
            Self::Unsubscribe(subject) => subscribed.forget_topic(&subject),
            Self::Watch(uids) => {
                subscribed.forget_presence(&uids);
                subscribed.presence.extend(uids);
            }
            Self::Unwatch(uids) => subscribed.forget_presence(&uids),
        }
    }

    /// What is on record when nobody knows whether it was done: to be ended if it is unwanted, to be made if it is wanted.
    fn doubt(self, subscribed: &mut Subscribed) {
        match self {
            Self::Subscribe((subject, qos)) => {
                Self::Subscribe((subject.clone(), qos)).apply(subscribed);
                subscribed.doubtful_topics.push(subject);
            }
            Self::Unsubscribe(subject) => {
                subscribed.doubtful_topics.retain(|topic| *topic != subject);
                subscribed.doubtful_topics.push(subject);
            }
            Self::Watch(uids) | Self::Unwatch(uids) => {
                Self::Watch(uids.clone()).apply(subscribed);
                subscribed.doubtful_presence.extend(uids);
            }
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

async fn keep(session: &Session, mut steps: VecDeque<Step>, mut subscribed: Subscribed) -> (Subscribed, bool) {
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
                // A subscription that cannot be ended is no longer on record.
                if ends {
                    step.apply(&mut subscribed);
                }
            }
            Attempt::Lost(error) if error.is_ambiguous() => {
                step.doubt(&mut subscribed);
                return (subscribed, false);
            }
            Attempt::Later(code) if code.is_ambiguous() => {
                step.doubt(&mut subscribed);
                return (subscribed, false);
            }
            // This one alone waits.
            Attempt::NotReady { after: Some(_), .. } => complete = false,
            Attempt::Later(_) | Attempt::Lost(_) | Attempt::NotReady { .. } => return (subscribed, false),
        }
    }
    (subscribed, complete)
}

fn wanted(topics: Vec<(Subject, Qos)>, presence: Vec<Uid>) -> Subscribed {
    Subscribed { topics, presence, ..Subscribed::default() }
}

/// The states in a reply to `ham_user/states` (§5.10), as liberal as pushes are read; what is no state is left out.
fn states(reply: &Reply) -> Vec<(Uid, bool)> {
    let Some(Value::Array(list)) = reply.field("uid_state_list") else { return Vec::new() };
    list.iter().filter_map(Value::as_object).filter_map(state).collect()
}

fn state(entry: &Map<String, Value>) -> Option<(Uid, bool)> {
    let uid = match reply::field(entry, "uid")? {
        Value::String(uid) => uid.parse().ok()?,
        Value::Number(uid) => uid.to_string().parse().ok()?,
        _ => return None,
    };
    match reply::field(entry, "state")? {
        Value::Bool(online) => Some((uid, *online)),
        state => match reply::integer(state)? {
            0 => Some((uid, false)),
            1 => Some((uid, true)),
            _ => None,
        },
    }
}
