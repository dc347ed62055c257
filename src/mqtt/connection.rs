//! One connection, from its opening to its end: the loop and its timers.
//!
//! Its phases, in order: *connecting* (TCP, TLS, CONNACK), *looking* (does another account use our base topic?),
//! *subscribing*, *up*; then *leaving* (`offline` is on its way) and *disconnecting*. The steps between them are in
//! [`handshake`](super::handshake); what goes out in [`sending`](super::sending), what comes in in
//! [`receiving`](super::receiving).

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::account::AccountCheck;
use super::arrivals::{Arrivals, Question, Receipts};
use super::dialer::SHORTEST_KEEP_ALIVE;
use super::explanations::Failure;
use super::incoming::Held;
use super::packets::{Accepted, Event, Version};
use super::publisher::Handed;
use super::task::Task;
use super::wire::{WINDOW, Wire};
use crate::local::Base;

/// A broker that closes the connection because of what it just refused does so within this: Mosquitto 2.0.11 with
/// `max_queued_messages 0` does. What was sent next is not to blame then.
pub(super) const SETTLE: Duration = Duration::from_millis(300);

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
    /// Whether the broker had just refused something: then that ended it, and not what was in flight.
    pub(super) after_refusal: bool,
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

pub(super) struct Connection<'t, V: Version> {
    pub(super) task: &'t mut Task,
    pub(super) wire: Wire<V>,
    pub(super) phase: Phase,
    /// When the present phase has taken too long.
    pub(super) phase_until: Option<Instant>,
    pub(super) accepted_at: Option<Instant>,
    pub(super) session_present: bool,
    pub(super) window: usize,
    pub(super) receive_maximum: usize,
    pub(super) maximum_packet: usize,
    /// Without any progress for so long, the connection is given up.
    pub(super) patience: Duration,
    last_event: Instant,
    /// Ends when the first of all these moments has come, or earlier: most are put off with every event, and it is not.
    timer: Pin<Box<Sleep>>,
    /// When the next PUBACK is overdue; none while nothing is in flight.
    pub(super) ack_due: Option<Instant>,
    /// Nothing is sent before: the broker may be about to close.
    pub(super) paused_until: Option<Instant>,
    /// When the broker last refused something.
    pub(super) refused_at: Option<Instant>,
    pub(super) arrivals: Arrivals,
    pub(super) receipts: Receipts,
    /// Messages of an earlier session that came before the account check was done.
    pub(super) held: Held,
    /// A message found no room: from it on, all are left to the next connection.
    pub(super) overlooking: bool,
    pub(super) probe: Probe,
    /// The filters of each SUBSCRIBE that is not answered yet.
    pub(super) asked: VecDeque<Vec<String>>,
    /// What is still to be unsubscribed from.
    pub(super) unsubscribing: VecDeque<String>,
}

impl<'t, V: Version> Connection<'t, V> {
    pub(super) fn open(task: &'t mut Task) -> Self {
        let wire = Wire::open(&task.dialer);
        let probe = Probe::new(&task.dialer.config.base);
        let patience = task.dialer.keep_alive() * 2;
        Self {
            task,
            wire,
            phase: Phase::Connecting,
            phase_until: None,
            accepted_at: None,
            session_present: false,
            window: 1,
            receive_maximum: 1,
            maximum_packet: 0,
            patience,
            last_event: Instant::now(),
            timer: Box::pin(sleep_until(Instant::now())),
            ack_due: None,
            paused_until: None,
            refused_at: None,
            arrivals: Arrivals::default(),
            receipts: Receipts::default(),
            held: Held::default(),
            overlooking: false,
            probe,
            asked: VecDeque::new(),
            unsubscribing: VecDeque::new(),
        }
    }

    pub(super) async fn run(mut self) -> Ended {
        let end = loop {
            let step = match self.next_event().await {
                Ok(event) => {
                    self.last_event = Instant::now();
                    self.handle_all(event)
                }
                Err(end) => Err(end),
            };
            if let Err(end) = step {
                break end;
            }
        };
        // What had come before the end counts: the PUBACKs. But not what follows a breach of the protocol: a false one would lose a
        // message. A step that fails here has nothing left to end.
        if !matches!(end, End::Lost(Failure::Protocol(_) | Failure::Undecodable(_))) {
            let acks = self.wire.harvest().into_iter().filter(|event| matches!(event, Event::Acked(..)));
            let _ = acks.map(|ack| self.handle(ack)).find(Step::is_err);
        }
        self.ended(end)
    }

    fn ended(self, end: End) -> Ended {
        // While we were disconnecting, that the broker then closed is no news.
        let end = match (end, self.phase) {
            (End::Lost(_), Phase::Disconnecting(intended)) => intended,
            (End::Lost(_), _) if self.task.shutdown.is_cancelled() || !self.task.dialer.config.lease.holds() => {
                End::Stopped
            }
            (end, _) => end,
        };
        let after_refusal = self.refused_at.is_some_and(|at| at.elapsed() < SETTLE);
        Ended { end, stood: self.accepted_at.map(|at| at.elapsed()), after_refusal }
    }

    /// Waits for the connection's next event and meanwhile serves the daemon.
    async fn next_event(&mut self) -> Result<Event, End> {
        loop {
            // Looked at once a turn: the shutdown may also come while an event is handled, and then nothing below tells of it.
            let stopping = self.task.shutdown.is_cancelled();
            if stopping {
                self.leave()?;
            }
            self.pump()?;
            let takes_jobs = self.task.outbox.has_room() && matches!(self.phase, Phase::Up);
            let wake = self.next_wake();
            if wake < self.timer.deadline() {
                self.timer.as_mut().reset(wake);
            }
            // Cancel-safe: `poll` keeps all in the wire, the timer is borrowed; channels' recv and changed, a token, a notification.
            // The wire comes last, so that it writes at once what all the others bring: none of them can go on for ever without it.
            tokio::select! {
                biased;
                Some(handed) = self.task.ends.jobs.recv(), if takes_jobs => self.take_jobs(handed),
                Some(token) = self.task.ends.acks.recv() => self.acknowledge(&token),
                () = self.task.ends.standing.changed() => {}
                // Marked as seen by this; what is to be done about it is known by the mark.
                Ok(()) = self.task.routes.changed(), if matches!(self.phase, Phase::Up) => self.task.routes.mark_changed(),
                () = self.task.shutdown.cancelled(), if !stopping => {}
                () = &mut self.timer => {
                    self.check_timers()?;
                    let next = self.next_wake();
                    self.timer.as_mut().reset(next);
                }
                event = self.wire.poll() => return event.map_err(End::Lost),
            }
        }
    }

    /// Takes this job, and those behind it while there is room.
    fn take_jobs(&mut self, mut handed: Handed) {
        loop {
            self.task.ends.standing.caller_began(&handed.publication);
            self.task.outbox.add_handed(handed);
            if !self.task.outbox.has_room() {
                return;
            }
            match self.task.ends.jobs.try_recv() {
                Ok(next) => handed = next,
                Err(_) => return,
            }
        }
    }

    /// Handles an event, and those that came with it.
    fn handle_all(&mut self, event: Event) -> Step {
        self.handle(event)?;
        while let Some(event) = self.wire.take_event().map_err(End::Lost)? {
            self.handle(event)?;
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Step {
        match event {
            Event::Connected(accepted) => self.on_connected(&accepted),
            Event::Acked(pkid, ack) => {
                self.answered(Question::Publish(pkid));
                self.on_acked(pkid, ack)
            }
            Event::PingSent => {
                self.receipts.asked(Question::Ping);
                Ok(())
            }
            Event::PingAnswered => {
                self.answered(Question::Ping);
                Ok(())
            }
            Event::Message(message) => {
                self.on_message(*message);
                Ok(())
            }
            Event::Unreadable(pkid) => {
                self.arrivals.arrived(pkid);
                self.arrivals.done(pkid);
                Ok(())
            }
            Event::Subscribed(granted) => self.on_subscribed(&granted),
            Event::Unsubscribed => self.on_unsubscribed(),
            Event::Ended(failure) => Err(End::Lost(failure)),
            Event::Written | Event::Other => Ok(()),
        }
    }

    pub(super) fn accept(&mut self, accepted: &Accepted) {
        self.accepted_at = Some(Instant::now());
        self.session_present = accepted.session_present;
        // One less than the broker allows: the last place is for the farewell.
        self.window = usize::from(WINDOW.min(accepted.receive_maximum.saturating_sub(1)).max(1));
        self.receive_maximum = usize::from(accepted.receive_maximum);
        self.maximum_packet = accepted.maximum_packet;
        self.patience = accepted.keep_alive.max(Duration::from_secs(SHORTEST_KEEP_ALIVE)) * 2;
    }

    /// Hands to the wire what there is to send.
    fn pump(&mut self) -> Step {
        // Nothing may follow a DISCONNECT.
        if matches!(self.phase, Phase::Disconnecting(_)) {
            return Ok(());
        }
        self.send_acks();
        self.fetch_overlooked()?;
        match self.phase {
            Phase::Up => {
                self.follow_routes()?;
                self.send_standing();
                self.send_waiting()
            }
            Phase::Leaving => self.send_waiting(),
            _ => Ok(()),
        }
    }

    fn next_wake(&self) -> Instant {
        let stalled = self.last_event + self.patience;
        let standing = if matches!(self.phase, Phase::Up) { self.task.ends.standing.next_due() } else { None };
        let own = [self.phase_until, self.ack_due, self.paused_until, standing];
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
            return Err(End::Lost(self.task.dialer.explain().stalled()));
        }
        self.check_probe(now)
    }
}

/// The state of the self-test on one connection.
pub(super) struct Probe {
    /// What all probes' topics begin with; earlier runs' may still arrive.
    prefix: String,
    pub(super) topic: String,
    /// When it must have been heard.
    pub(super) heard_by: Option<Instant>,
    /// When to try again.
    pub(super) recheck_at: Option<Instant>,
    /// Whether other messages arrived since it was last looked at: a backlog that it waits behind.
    pub(super) others_came: bool,
}

impl Probe {
    pub(super) fn new(base: &Base) -> Self {
        let (prefix, topic) = (base.self_test(""), String::new());
        Self { prefix, topic, heard_by: None, recheck_at: None, others_came: false }
    }

    pub(super) fn is_probe(&self, topic: &str) -> bool {
        topic.strip_prefix(&self.prefix).is_some_and(|random| !random.is_empty() && !random.contains('/'))
    }

    pub(super) fn message_came(&mut self) {
        self.others_came = true;
    }

    pub(super) fn stop(&mut self) {
        self.heard_by = None;
        self.recheck_at = None;
    }

    pub(super) fn timers(&self) -> [Option<Instant>; 2] {
        [self.heard_by, self.recheck_at]
    }
}
