//! Makes commands durable: those from the command topics, and those that routes make. Each needs room in the queue, and in its
//! client's share ([`intake`](super::intake)).

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tracing::debug;
use ulid::Ulid;

use super::accept::{Accept, Done, Storing};
use super::attempt::passed;
use super::crossings::{Crossed, Due, Reading, Verdict};
use super::deliver::Accepted;
use super::intake::NotStored;
use super::record::{Command, Record, ReplyTo};
use super::redelivery::{Digest, Redelivery};
use super::route_book::{LeftOut, Remembered};
use crate::delivery::routing::RouteState;
use crate::local::{CommandResult, Reason, Reference, Rejection};
use crate::mqtt::{AckToken, Incoming};
use crate::observe::counters::Counters;
use crate::os::clock::{self, Stamp};
use crate::protocol::Call;
use crate::route::{Heard, Keep, Outcome, Side, Telling, ToRoute};
use crate::store::{Key, SpoolError};

impl Accept {
    pub(super) async fn store(
        self: Arc<Self>,
        command: Command,
        key: Option<Key>,
        ack: Option<AckToken>,
    ) -> Result<Done, SpoolError> {
        let (id, lane, deadline) = (command.id, command.call.receiver(), command.deadline());
        let (reply_to, reference) = (command.reply_to.clone(), command.reference.clone());
        let overdue = Overdue::of(&command);
        match self.intake.append(&reply_to.topic, Record::Command(command).encode(), key, deadline).await {
            Ok((seq, client)) => {
                debug!(seq, topic = reply_to.topic, "stored a command");
                let accepted = vec![Accepted { seq, client, lane, deadline, latest: None }];
                Ok(Done { accepted, ..Done::acknowledged(ack) })
            }
            Err(NotStored::Failed(failed)) => Err(failed),
            Err(NotStored::Refused(reason, why)) => {
                Ok(Done::but(self.refuse(id, reply_to, Rejection::new(reason, why, reference), ack)))
            }
            Err(NotStored::Late(cause)) => Ok(Done::but(self.expire(reply_to, overdue, cause, ack))),
        }
    }

    /// Publishes the result of a command whose time ran out before it could be stored.
    async fn expire(
        self: Arc<Self>,
        reply_to: ReplyTo,
        overdue: Overdue,
        cause: String,
        ack: Option<AckToken>,
    ) -> Option<AckToken> {
        let result = overdue.result(&cause, &self.counters);
        self.publish(reply_to, &result, ack).await
    }
}

/// What a command's result needs if its time runs out before it can be stored.
pub(super) struct Overdue {
    id: [u8; 16],
    at: Stamp,
    reference: Option<Reference>,
    call: &'static str,
}

impl Overdue {
    pub(super) fn of(command: &Command) -> Self {
        Self { id: command.id, at: command.at, reference: command.reference.clone(), call: command.call.name() }
    }

    /// The result, which is counted.
    pub(super) fn result(self, cause: &str, counters: &Counters) -> CommandResult {
        let age = self.at.age();
        let (id, elapsed) = (Ulid::from_bytes(self.id), clock::millis(age));
        let result = CommandResult::expired(id, self.reference, None, cause, 0, elapsed);
        counters.commands_expired.add();
        counters.series.command(self.call, &result, age);
        counters.activity.note(passed(self.call, None, None, &result, &counters.activity));
        result
    }
}

/// A command that a route made.
struct Routed {
    command: Command,
    keep: Keep,
    remembered: Remembered,
    state: Arc<RouteState>,
}

/// What a route's message is about.
struct Origin<'a> {
    topic: &'a str,
    /// MQTT 5 message expiry, in seconds.
    expiry: Option<u32>,
    at: Stamp,
    crossed: Option<Crossed>,
}

/// A number has crossed no limit, or not for long enough.
struct NotTold;

/// Why a command of a route was not stored.
enum NotAccepted {
    Refused(Refused),
    /// The spool failed.
    Failed(SpoolError),
}

/// A command that is refused, and why.
struct Refused {
    id: [u8; 16],
    reply_to: ReplyTo,
    why: Why,
}

enum Why {
    Rejected(Rejection),
    /// Its time ran out before it could be stored, for this cause.
    Late(Overdue, String),
}

impl Accept {
    /// Takes a message on a device's own topic. The routes make commands of it, which then go the way of all commands.
    ///
    /// One message may fire several routes, and so become several commands. The redelivery key is stored with the last of them:
    /// a crash in between may repeat some commands, but loses none.
    pub(super) fn take_routed(
        self: &Arc<Self>,
        message: Incoming,
        digest: Digest,
        redelivery: &mut Redelivery,
    ) -> Storing {
        let routed = self.route(&message);
        if routed.is_empty() {
            return Box::pin(ready(Ok(Done::acknowledged(message.ack))));
        }
        let key = Self::key(&message, digest, redelivery);
        Box::pin(Arc::clone(self).store_routed(routed, key, message.ack))
    }

    fn route(&self, message: &Incoming) -> Vec<Routed> {
        let routing = Arc::clone(&self.routing.borrow());
        let at = Stamp::now();
        let time = i64::try_from(clock::wall_now_ms() / 1000).unwrap_or(i64::MAX);
        let heard = Heard { topic: &message.topic, payload: &message.payload, time };
        let mut routed = Vec::new();
        routing.routes.to_ilink(&heard, |number, outcome| {
            let Some((route, state)) = routing.to_ilink(number) else { return };
            let counters = &state.counters;
            if message.retain && !route.rule().retained {
                return counters.retained.add();
            }
            match outcome {
                Outcome::NoMatch => counters.no_match.add(),
                Outcome::Missing(why) => {
                    counters.missing.add();
                    debug!(route = state.name, %why, "a message does not fire a route");
                }
                Outcome::Fires(told) => {
                    let Ok(crossed) = self.crossed(route, state, &heard, &told) else { return };
                    let origin = Origin { topic: &message.topic, expiry: message.message_expiry, at, crossed };
                    routed.extend(self.fire(route, state, told.call, origin));
                }
            }
        });
        routed
    }

    /// The crossing of a limit that a message tells of, none if its route has no limits; an error if it is not to be told.
    fn crossed(
        &self,
        route: &ToRoute,
        state: &RouteState,
        heard: &Heard<'_>,
        Telling { call, value }: &Telling,
    ) -> Result<Option<Crossed>, NotTold> {
        let (Some(limits), Some(value)) = (route.limits(), value) else { return Ok(None) };
        match self.book.crossings.judge((route.name(), heard), limits, route.rule().hold, *value, call) {
            Verdict::Crossed(crossed) => return Ok(Some(crossed)),
            Verdict::Lasts => state.counters.lasting.add(),
            Verdict::Same => state.counters.not_crossed.add(),
        }
        Err(NotTold)
    }

    /// What a route sends, unless something speaks against it.
    fn fire(&self, route: &ToRoute, state: &Arc<RouteState>, call: Call, origin: Origin<'_>) -> Option<Routed> {
        let counters = &state.counters;
        let left_out = match self.book.check(route.rule(), origin.topic, &call) {
            Ok(()) if state.may_fire(route.rule().max_rate, clock::boot_now()) => {
                counters.fired.add();
                return Some(self.command(route, state, call, origin));
            }
            Ok(()) => None,
            Err(left_out) => Some(left_out),
        };
        match left_out {
            // That is what was said last.
            Some(LeftOut::Unchanged) => {
                counters.unchanged.add();
                origin.crossed.iter().for_each(|crossed| self.book.crossings.stored(crossed));
            }
            left_out => {
                counters.too_soon.add_if(left_out.is_some());
                origin.crossed.iter().for_each(|crossed| self.book.crossings.not_told(crossed));
            }
        }
        None
    }

    /// When the next crossing of a limit has lasted long enough, by the boot-time clock.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.book.crossings.next_due()
    }

    /// What is told because it has lasted.
    pub(super) fn take_due(self: &Arc<Self>) -> Storing {
        let routing = Arc::clone(&self.routing.borrow());
        let (at, now) = (Stamp::now(), clock::boot_now());
        let mut routed = Vec::new();
        for Due { route, topic, call, reading, crossed } in self.book.crossings.take_due(now) {
            let Some((route, state)) = routing.named(&route) else { continue };
            let Some(call) = as_now(route, &topic, call, reading, crossed.side) else {
                self.book.crossings.not_told(&crossed);
                continue;
            };
            let origin = Origin { topic: &topic, expiry: None, at, crossed: Some(crossed) };
            routed.extend(self.fire(route, state, call, origin));
        }
        Box::pin(Arc::clone(self).store_routed(routed, None, None))
    }

    fn command(&self, route: &ToRoute, state: &Arc<RouteState>, call: Call, origin: Origin<'_>) -> Routed {
        let Origin { topic, expiry, at, crossed } = origin;
        let rule = route.rule();
        let told = rule.ttl.into_iter().chain(expiry.map(|seconds| Duration::from_secs(seconds.into())));
        let (id, ttl) = (Ulid::generate().to_bytes(), told.min().unwrap_or(self.config.ttl));
        let reply_to = ReplyTo::only(self.config.base.route_origin(&rule.name, topic));
        let command = Command::new(id, at, ttl, reply_to, call);
        let remembered = self.book.note(rule, topic, &command.call, at, crossed);
        Routed { command, keep: rule.keep, remembered, state: Arc::clone(state) }
    }

    async fn store_routed(
        self: Arc<Self>,
        routed: Vec<Routed>,
        mut key: Option<Key>,
        ack: Option<AckToken>,
    ) -> Result<Done, SpoolError> {
        let mut stores = Vec::with_capacity(routed.len());
        // Backwards, because the last one takes the key.
        for routed in routed.into_iter().rev() {
            let fits = routed.command.call.content().map_or(0, <[u8]>::len) <= self.config.rules.max_content;
            let key = if fits { key.take() } else { None };
            stores.push(self.store_one(routed, fits, key));
        }
        stores.reverse();
        let (mut accepted, mut remembered, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for stored in join_all(stores).await {
            match stored {
                Ok((one, known)) => {
                    accepted.push(one);
                    remembered.push(known);
                }
                Err(NotAccepted::Refused(one)) => refused.push(one),
                Err(NotAccepted::Failed(error)) => return Err(error),
            }
        }
        Ok(Done { accepted, remembered, ..Done::but(self.refuse_all(refused, ack)) })
    }

    async fn store_one(
        &self,
        routed: Routed,
        fits: bool,
        key: Option<Key>,
    ) -> Result<(Accepted, Remembered), NotAccepted> {
        let Routed { command, keep, remembered, state } = routed;
        let (id, lane, deadline) = (command.id, command.call.receiver(), command.deadline());
        let (reply_to, overdue) = (command.reply_to.clone(), Overdue::of(&command));
        let not_accepted = |why| {
            state.counters.failed.add();
            self.book.not_stored(&remembered);
            NotAccepted::Refused(Refused { id, reply_to: reply_to.clone(), why })
        };
        let refuse = |reason, message| not_accepted(Why::Rejected(Rejection::new(reason, message, None)));
        if !fits {
            let (len, most) = (command.call.content().map_or(0, <[u8]>::len), self.config.rules.max_content);
            let message = format!("the message has {len} bytes, outbound.max_content allows {most}");
            return Err(refuse(Reason::TooLarge, message));
        }
        match self.intake.append(&reply_to.topic, Record::Command(command).encode(), key, deadline).await {
            Ok((seq, client)) => {
                debug!(seq, route = state.name, "stored a command of a route");
                let latest = (keep == Keep::Latest).then(|| reply_to.topic.as_str().into());
                Ok((Accepted { seq, client, lane, deadline, latest }, remembered))
            }
            Err(NotStored::Failed(failed)) => Err(NotAccepted::Failed(failed)),
            Err(NotStored::Refused(reason, why)) => Err(refuse(reason, why)),
            Err(NotStored::Late(cause)) => Err(not_accepted(Why::Late(overdue, cause))),
        }
    }

    async fn refuse_all(self: Arc<Self>, refused: Vec<Refused>, mut ack: Option<AckToken>) -> Option<AckToken> {
        for Refused { id, reply_to, why } in refused {
            ack = match why {
                Why::Rejected(rejection) => Arc::clone(&self).refuse(id, reply_to, rejection, ack).await,
                Why::Late(overdue, cause) => Arc::clone(&self).expire(reply_to, overdue, cause, ack).await,
            };
        }
        ack
    }
}

/// What a route tells now of a crossing that has lasted, if it still is one: a reload may have changed the route meanwhile.
fn as_now(route: &ToRoute, topic: &str, noted: Call, reading: Option<Reading>, side: Side) -> Option<Call> {
    let Some(Reading { payload, time }) = reading else { return Some(noted) };
    match route.tells(&Heard { topic, payload: &payload, time }) {
        Outcome::Fires(Telling { call, value: Some(value) }) => {
            (route.limits()?.side(Side::Within, value) == side).then_some(call)
        }
        Outcome::Fires(Telling { value: None, .. }) | Outcome::NoMatch | Outcome::Missing(_) => None,
    }
}
