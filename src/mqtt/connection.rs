//! One connection, from its opening to its end: its state and its loop.
//!
//! Its phases, in order: *connecting* (TCP, TLS, CONNECT), *looking* (does another account use our base topic?), *subscribing*,
//! *up*; at a stop *leaving* (`offline` is being published), then *disconnecting*.
//!
//! The steps from one phase to the next are in [`handshake`](super::handshake), publishing is in [`sending`](super::sending),
//! received messages are in [`receiving`](super::receiving), time limits in [`timers`](super::timers).

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use tokio::task::yield_now;
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

/// Some brokers close the connection right after they refused a publish (Mosquitto 2.0.11 with `max_queued_messages 0`). If the
/// connection ends within this time of a refusal, the refusal was the cause, and not what was sent after it.
pub(super) const SETTLE: Duration = Duration::from_millis(300);

/// After so many received messages the other tasks may run. All tasks share one thread, and the command loop must be able to
/// empty its queue before this one fills it.
const HANDED_OVER_AT_ONCE: usize = 128;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// It failed, or the broker broke the protocol.
    Lost(Failure),
    /// We closed it to open another. Neither the broker nor a message in flight was the cause.
    GaveUp(Failure),
    /// Another account uses our base topic; its uid.
    Conflict(String),
    /// The bridge stops.
    Stopped,
}

/// An ended connection.
pub(super) struct Ended {
    pub(super) end: End,
    /// How long it lasted after CONNACK; none if it was never accepted.
    pub(super) stood: Option<Duration>,
    /// Whether the broker had just refused a publish: then that ended it, and not what was in flight.
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
    /// When the phases of a stop (leaving, disconnecting) are cut short.
    pub(super) phase_until: Option<Instant>,
    pub(super) accepted_at: Option<Instant>,
    pub(super) session_present: bool,
    pub(super) window: usize,
    pub(super) receive_maximum: usize,
    pub(super) maximum_packet: usize,
    /// A publish that was not acknowledged within this time is overdue.
    pub(super) patience: Duration,
    /// Fires when the first of all limits has passed, or earlier: most limits move with every event, and it is not reset each
    /// time.
    timer: Pin<Box<Sleep>>,
    /// When the broker's next answer is overdue: a SUBACK, an UNSUBACK, or the PUBACK of the publish that has been in flight
    /// longest. None while no answer is awaited.
    pub(super) answer_due: Option<Instant>,
    /// Something is overdue, and a ping finds out whether it will still come.
    pub(super) inquiry: Option<Inquiry>,
    /// Until then nothing is published: the broker may be about to close the connection because of a refusal.
    pub(super) paused_until: Option<Instant>,
    /// When the broker last refused a publish.
    pub(super) refused_at: Option<Instant>,
    pub(super) arrivals: Arrivals,
    pub(super) receipts: Receipts,
    /// Messages of an earlier session that came before the account check was done.
    pub(super) held: Held,
    /// There was no room for a QoS 1 message: it and all later ones are left to the next connection.
    pub(super) overlooking: bool,
    /// Messages handed over since other tasks could last run.
    pub(super) handed_over: usize,
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
            timer: Box::pin(sleep_until(Instant::now())),
            answer_due: None,
            inquiry: None,
            paused_until: None,
            refused_at: None,
            arrivals: Arrivals::default(),
            receipts: Receipts::default(),
            held: Held::default(),
            overlooking: false,
            handed_over: 0,
            probe,
            asked: VecDeque::new(),
            unsubscribing: VecDeque::new(),
        }
    }

    pub(super) async fn run(mut self) -> Ended {
        let end = loop {
            let step = match self.next_event().await {
                Ok(event) => self.handle_all(event).await,
                Err(end) => Err(end),
            };
            if let Err(end) = step {
                break end;
            }
        };
        // PUBACKs that arrived before the end still count, unless the broker broke the protocol: a false one would lose a
        // message. If a step fails here, the connection has ended anyway.
        if !matches!(end, End::Lost(Failure::Protocol(_) | Failure::Undecodable(_))) {
            let acks = self.wire.harvest().into_iter().filter(|event| matches!(event, Event::Acked(..)));
            let _ = acks.map(|ack| self.handle(ack)).find(Step::is_err);
        }
        self.ended(end)
    }

    fn ended(self, end: End) -> Ended {
        // When we disconnect, the broker closes the connection: that is no failure.
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

    /// Waits for the connection's next event. Meanwhile takes what the daemon hands over.
    async fn next_event(&mut self) -> Result<Event, End> {
        loop {
            // Read once per turn. The shutdown may also come while an event is handled, and then nothing below would notice it.
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
            // Cancel-safe: `poll` keeps its state in the wire, and the timer is borrowed; the others are recv and changed of
            // channels, a token and a notification. The wire comes last, so that it writes everything that the others bring at
            // once. None of them can be ready for ever and starve it.
            tokio::select! {
                biased;
                Some(handed) = self.task.ends.jobs.recv(), if takes_jobs => self.take_jobs(handed),
                Some(token) = self.task.ends.acks.recv() => self.acknowledge(&token),
                () = self.task.ends.standing.changed() => {}
                // `changed` marks the value as seen, but `follow_routes` goes by that mark: set it again.
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
    async fn handle_all(&mut self, event: Event) -> Step {
        let mut next = Some(event);
        while let Some(event) = next {
            self.handle(event)?;
            if self.handed_over >= HANDED_OVER_AT_ONCE {
                self.handed_over = 0;
                yield_now().await;
            }
            next = self.wire.take_event().map_err(End::Lost)?;
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
            Event::PingSent(number) => {
                self.receipts.asked(Question::Ping(number));
                Ok(())
            }
            Event::PingAnswered(number) => {
                self.answered(Question::Ping(number));
                self.on_ping_answered(number)
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
        // One less than the broker allows: `offline` takes the last place.
        self.window = usize::from(WINDOW.min(accepted.receive_maximum.saturating_sub(1)).max(1));
        self.receive_maximum = usize::from(accepted.receive_maximum);
        self.maximum_packet = accepted.maximum_packet;
        self.patience = accepted.keep_alive.max(Duration::from_secs(SHORTEST_KEEP_ALIVE)) * 2;
    }

    /// Hands to the wire everything that may be sent now.
    fn pump(&mut self) -> Step {
        if matches!(self.phase, Phase::Disconnecting(_)) {
            return Ok(());
        }
        self.send_acks();
        self.fetch_overlooked()?;
        match self.phase {
            Phase::Up => {
                self.follow_routes()?;
                self.send_standing();
                self.send_waiting();
            }
            Phase::Leaving => self.send_waiting(),
            _ => {}
        }
        Ok(())
    }
}

/// A ping that finds out whether something overdue will still come.
pub(super) struct Inquiry {
    pub(super) number: u64,
    pub(super) since: Instant,
}

/// The state of the self-test on one connection.
pub(super) struct Probe {
    /// The beginning of every probe's topic: probes of earlier runs may still arrive.
    prefix: String,
    pub(super) topic: String,
    /// When it must have come back.
    pub(super) heard_by: Option<Instant>,
    /// When to try again.
    pub(super) recheck_at: Option<Instant>,
    /// Whether other messages arrived since it was sent: it may wait behind a backlog of them.
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
}

#[cfg(test)]
mod tests;
