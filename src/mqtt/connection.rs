//! One connection, from its opening to its end: the loop, its timers, and what is sent on it.
//!
//! Its phases, in order: *connecting* (TCP, TLS, CONNACK), *looking* (does another account use our base topic?),
//! *subscribing*, *up*; then *leaving* (`offline` is on its way) and *disconnecting*. The steps between them are in
//! [`handshake`](super::handshake).

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::warn;

use super::account::AccountCheck;
use super::arrivals::Arrivals;
use super::explain::Failure;
use super::incoming::Incoming;
use super::link::Task;
use super::outbox::{Job, Origin};
use super::probe::Probe;
use super::publisher::{AckToken, Delivery, Refusal};
use super::state::LinkCounters;
use super::wire::{Accepted, Ack, Dialer, Event, WINDOW, Wire, keep_alive_of};
use super::{acl, validate};
use crate::clock::boot_now;

/// A publish that the broker refuses for now is sent so many times in all; with the waits doubling that is half a minute.
const TRIES: u8 = 6;
/// A broker that closes the connection because of what it just refused does so within this: Mosquitto 2.0.11 with
/// `max_queued_messages 0` does. What was sent next is not to blame then.
const SETTLE: Duration = Duration::from_millis(300);

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// It failed, or the broker did what it must not.
    Lost(Failure),
    /// We gave it up, through no fault of the broker's or of what was in flight.
    GaveUp(Failure),
    /// The other account's uid.
    Conflict(String),
    /// The shutdown, in good order or not.
    Stopped,
}

/// An ended connection.
pub(super) struct Ended {
    pub(super) end: End,
    /// How long it had been accepted.
    pub(super) stood: Option<Duration>,
    /// Whether what was in flight may have ended it.
    pub(super) suspicious: bool,
}

pub(super) type Step = Result<(), End>;

pub(super) enum Phase {
    Connecting,
    Looking { check: AccountCheck, unsubacks_left: usize },
    Subscribing,
    Up,
    Leaving,
    Disconnecting(End),
}

pub(super) struct Connection<'t, W: Wire> {
    pub(super) task: &'t mut Task,
    pub(super) wire: W,
    poller: Option<W::Poller>,
    pub(super) phase: Phase,
    /// When the present phase has taken too long.
    pub(super) phase_until: Option<Instant>,
    pub(super) accepted_at: Option<Instant>,
    pub(super) session_present: bool,
    window: usize,
    receive_maximum: usize,
    maximum_packet: usize,
    /// Without any progress for so long, the connection is given up.
    pub(super) patience: Duration,
    last_event: Instant,
    /// When the next PUBACK is overdue; none while nothing is in flight.
    ack_due: Option<Instant>,
    /// Nothing is sent before: the broker's quota is exceeded, or it may be about to close.
    paused_until: Option<Instant>,
    /// When the broker last refused something.
    refused_at: Option<Instant>,
    pub(super) arrivals: Arrivals,
    /// Messages of an earlier session that came before the account check was done.
    pub(super) held: VecDeque<Incoming>,
    pub(super) probe: Probe,
    /// Versions of standing publications that the broker has, and topics with one under way.
    standing_held: HashMap<String, u64>,
    standing_busy: HashSet<String>,
    pub(super) standing_changed: bool,
}

impl<'t, W: Wire> Connection<'t, W> {
    pub(super) fn open(task: &'t mut Task) -> Self {
        let (wire, poller) = W::open(&task.dialer);
        let probe = Probe::new(&task.dialer.config.base);
        let patience = keep_alive_of(&task.dialer.config) * 2;
        Self {
            task,
            wire,
            poller: Some(poller),
            phase: Phase::Connecting,
            phase_until: None,
            accepted_at: None,
            session_present: false,
            window: 1,
            receive_maximum: 1,
            maximum_packet: 0,
            patience,
            last_event: Instant::now(),
            ack_due: None,
            paused_until: None,
            refused_at: None,
            arrivals: Arrivals::default(),
            held: VecDeque::new(),
            probe,
            standing_held: HashMap::new(),
            standing_busy: HashSet::new(),
            standing_changed: true,
        }
    }

    pub(super) async fn run(mut self) -> Ended {
        let dialer = std::sync::Arc::clone(&self.task.dialer);
        let Some(mut poller) = self.poller.take() else { return self.ended(End::Stopped) };
        let end = loop {
            let step = match self.next_event(&mut poller, &dialer).await {
                Ok(event) => {
                    self.last_event = Instant::now();
                    self.handle(event).and_then(|()| self.pump())
                }
                Err(end) => Err(end),
            };
            if let Err(end) = step {
                break end;
            }
        };
        // What had happened before the end counts: above all, PUBACKs. A step that fails here has nothing left to end.
        for event in W::harvest(&mut poller) {
            if matches!(event, Event::Sent(_) | Event::Acked(..)) {
                let _ = self.handle(event);
            }
        }
        self.ended(end)
    }

    fn ended(self, end: End) -> Ended {
        // While we were disconnecting, that the broker then closed is no news.
        let end = match (end, self.phase) {
            (End::Lost(_), Phase::Disconnecting(intended)) => intended,
            (End::Lost(_), _) if self.task.shutdown.is_cancelled() => End::Stopped,
            (end, _) => end,
        };
        let settled = self.refused_at.is_none_or(|at| at.elapsed() >= SETTLE);
        let suspicious = matches!(end, End::Lost(_)) && self.accepted_at.is_some() && settled;
        Ended { end, stood: self.accepted_at.map(|at| at.elapsed()), suspicious }
    }

    /// Waits for the connection's next event and meanwhile serves the daemon.
    async fn next_event(&mut self, poller: &mut W::Poller, dialer: &Dialer) -> Result<Event, End> {
        // rumqttc's poll is not cancel-safe: one future is polled to its end, whatever else happens. It is dropped only with the
        // whole connection. It may panic on what a hostile broker sends; such a connection is thrown away like any other.
        let mut poll = pin!(AssertUnwindSafe(W::poll(poller, dialer)).catch_unwind());
        loop {
            let takes_jobs = self.task.outbox.has_room() && matches!(self.phase, Phase::Up);
            let listens = !self.task.shutdown.is_cancelled();
            let wake = tokio::time::sleep_until(self.next_wake());
            // Cancel-safe: `poll` is borrowed and goes on next time; channels' recv and changed, a token, a timer made anew.
            tokio::select! {
                event = &mut poll => {
                    return match event {
                        Ok(event) => event.map_err(End::Lost),
                        Err(_panic) => Err(End::Lost(Failure::Protocol("a packet that cannot be decoded".to_owned()))),
                    };
                }
                Some((publication, done)) = self.task.ends.jobs.recv(), if takes_jobs => {
                    let origin = Origin::Caller(done);
                    self.task.outbox.add(publication, origin);
                }
                Some(token) = self.task.ends.acks.recv() => self.acknowledge(&token),
                Ok(()) = self.task.ends.standing.changed() => self.standing_changed = true,
                () = self.task.shutdown.cancelled(), if listens => self.leave()?,
                () = wake => self.check_timers()?,
            }
            if self.task.shutdown.is_cancelled() {
                self.leave()?;
            }
            self.pump()?;
        }
    }

    fn handle(&mut self, event: Event) -> Step {
        match event {
            Event::Connected(accepted) => self.on_connected(&accepted),
            Event::Sent(pkid) => self.task.outbox.sent(pkid).map_err(|what| End::Lost(Failure::Protocol(what))),
            Event::Acked(pkid, ack) => self.on_acked(pkid, ack),
            Event::Message(message) => self.on_message(*message),
            Event::Unreadable(pkid) => {
                self.arrivals.arrived(pkid);
                self.arrivals.done(pkid);
                Ok(())
            }
            Event::Subscribed(granted) => self.on_subscribed(&granted),
            Event::Unsubscribed => self.on_unsubscribed(),
            Event::Broken(what) => Err(End::Lost(Failure::Protocol(what))),
            Event::Other => Ok(()),
        }
    }

    pub(super) fn accept(&mut self, accepted: &Accepted) {
        self.accepted_at = Some(Instant::now());
        self.session_present = accepted.session_present;
        // One less than the broker allows: rumqttc sends our PUBACKs only while its window is not full.
        self.window = usize::from(WINDOW.min(accepted.receive_maximum.saturating_sub(1)).max(1));
        self.receive_maximum = usize::from(accepted.receive_maximum);
        self.maximum_packet = accepted.maximum_packet;
        self.patience = accepted.keep_alive * 2;
    }

    fn acknowledge(&mut self, token: &AckToken) {
        if token.generation == self.task.generation {
            self.arrivals.done(token.pkid);
        } else {
            LinkCounters::one(&self.task.counters.stale_acks);
        }
    }

    /// Hands to rumqttc what there is to send.
    fn pump(&mut self) -> Step {
        while let Some(pkid) = self.arrivals.due() {
            if !self.wire.ack(pkid) {
                break;
            }
            self.arrivals.acknowledged();
        }
        match self.phase {
            Phase::Up => {
                self.take_standing();
                self.send_waiting()
            }
            Phase::Leaving => self.send_waiting(),
            _ => Ok(()),
        }
    }

    fn send_waiting(&mut self) -> Step {
        let now = Instant::now();
        let leaving = matches!(self.phase, Phase::Leaving);
        if self.paused_until.is_some_and(|until| now < until) && !leaving {
            return Ok(());
        }
        self.task.outbox.wake(now);
        while let Some((key, job)) = self.task.outbox.first_waiting() {
            // Leaving, only the link's own farewell is sent, and it may use the last place that the window leaves free.
            let limit = match (leaving, self.task.outbox.has_suspects()) {
                (true, _) => self.receive_maximum,
                (false, true) => 1,
                (false, false) => self.window,
            };
            if self.task.outbox.outstanding() >= limit || (leaving && !key.is_links_own()) {
                break;
            }
            match fit::<W>(job, self.maximum_packet) {
                Fit::Now(expiry) => {
                    if !self.wire.publish(&job.publication, expiry) {
                        break;
                    }
                    LinkCounters::one(&self.task.counters.published);
                    self.task.outbox.handed(key);
                    self.ack_due.get_or_insert(now + self.patience);
                }
                Fit::Never(delivery) => {
                    if let Some(job) = self.task.outbox.take(key) {
                        self.finish(job, delivery)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn on_acked(&mut self, pkid: u16, ack: Ack) -> Step {
        let Some((key, mut job)) = self.task.outbox.acked(pkid) else {
            return Err(End::Lost(Failure::Protocol(format!(
                "it acknowledged packet {pkid}, which was not in flight"
            ))));
        };
        let now = Instant::now();
        self.ack_due = (self.task.outbox.outstanding() > 0).then_some(now + self.patience);
        if let Ack::Done { no_subscribers } = ack {
            return self.finish(job, Delivery::Acked { no_subscribers });
        }
        self.refused_at = Some(now);
        if self.task.outbox.has_suspects() {
            self.paused_until = Some(now + SETTLE);
        }
        let refused_for_now = match ack {
            Ack::QuotaExceeded => "quota exceeded",
            Ack::Failed(reason) => reason,
            _ => {
                let refusal = acl::refusal(&self.task.dialer.config.base, &job.publication.topic, ack);
                return self.finish(job, Delivery::Refused(refusal));
            }
        };
        job.refusals += 1;
        if job.refusals >= TRIES || matches!(job.origin, Origin::Probe | Origin::Offline) {
            let refusal = Refusal {
                reason: format!("the broker refused it {} times: {refused_for_now}", job.refusals),
                remedy: "look for the reason in the broker's log".to_owned(),
            };
            return self.finish(job, Delivery::Refused(refusal));
        }
        let until = now + self.task.dialer.config.timing.refused_retry * 2_u32.pow(u32::from(job.refusals) - 1);
        if ack == Ack::QuotaExceeded {
            self.paused_until = Some(until);
        }
        self.task.outbox.delay(key, job, until);
        Ok(())
    }

    fn finish(&mut self, job: Job, delivery: Delivery) -> Step {
        match &job.origin {
            Origin::Caller(_) => self.task.complete(job, delivery),
            Origin::Standing(version) => {
                self.standing_busy.remove(&job.publication.topic);
                self.standing_held.insert(job.publication.topic.clone(), *version);
                self.standing_changed = true;
                self.own_finished(&job.publication.topic, &delivery);
            }
            Origin::Birth => self.own_finished(&job.publication.topic, &delivery),
            Origin::Probe => self.probe_finished(&delivery),
            Origin::Offline => return self.disconnect(End::Stopped),
        }
        Ok(())
    }

    /// One of the link's own, whose refusal nobody else hears of.
    fn own_finished(&mut self, topic: &str, delivery: &Delivery) {
        match delivery {
            Delivery::Acked { .. } => self.task.denied.taken(topic),
            Delivery::Refused(Refusal { reason, remedy }) => {
                warn!(topic, reason, remedy, "the bridge's own state cannot be published");
                self.task.denied.refused(topic, reason, Instant::now());
            }
            Delivery::Expired | Delivery::Closed => {}
        }
    }

    /// Makes jobs of the birth messages, but for those that the broker refused lately.
    pub(super) fn announce(&mut self) {
        let now = Instant::now();
        for birth in &self.task.dialer.config.birth {
            if self.task.denied.until(&birth.topic, now).is_none() {
                self.task.outbox.add(birth.clone(), Origin::Birth);
            }
        }
    }

    /// Makes jobs of the standing publications that the broker does not have yet, one per topic at a time.
    fn take_standing(&mut self) {
        if !std::mem::take(&mut self.standing_changed) {
            return;
        }
        let now = Instant::now();
        let standing = self.task.ends.standing.borrow();
        for (topic, (version, publication)) in &standing.topics {
            let held = self.standing_held.get(topic) == Some(version);
            if held || self.standing_busy.contains(topic) || self.task.denied.until(topic, now).is_some() {
                continue;
            }
            self.standing_busy.insert(topic.clone());
            self.task.outbox.add(publication.clone(), Origin::Standing(*version));
        }
    }

    fn next_wake(&self) -> Instant {
        let stalled = self.last_event + self.patience;
        let own = [self.phase_until, self.ack_due, self.paused_until, self.task.outbox.next_due()];
        own.into_iter().chain(self.probe.timers()).flatten().fold(stalled, Instant::min)
    }

    fn check_timers(&mut self) -> Step {
        let now = Instant::now();
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.paused_until.is_some_and(|at| at <= now) {
            self.paused_until = None;
        }
        if passed(self.phase_until) {
            self.phase_until = None;
            self.on_phase_overdue()?;
        }
        if passed(self.ack_due) || passed(Some(self.last_event + self.patience)) {
            return Err(End::Lost(self.task.dialer.explain.stalled()));
        }
        self.check_probe(now)
    }
}

enum Fit {
    /// To be sent, with what is left of its life in seconds.
    Now(Option<u32>),
    Never(Delivery),
}

fn fit<W: Wire>(job: &Job, maximum_packet: usize) -> Fit {
    let publication = &job.publication;
    let left = publication.deadline.map(|deadline| deadline.saturating_sub(boot_now()));
    if left.is_some_and(|left| left.is_zero()) {
        return Fit::Never(Delivery::Expired);
    }
    if let Err(refusal) = validate::check(publication) {
        return Fit::Never(Delivery::Refused(refusal));
    }
    // 0 would mean "expired already".
    let expiry = left.map(|left| u32::try_from(left.as_secs()).unwrap_or(u32::MAX).max(1));
    let size = W::packet_size(publication, expiry);
    if size > maximum_packet {
        let reason = format!("the packet has {size} bytes, the broker takes {maximum_packet}");
        let remedy = "raise the broker's packet size limit".to_owned();
        return Fit::Never(Delivery::Refused(Refusal { reason, remedy }));
    }
    Fit::Now(expiry)
}
