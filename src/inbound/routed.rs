//! What the routes make of a push, beside its `recv/` and `event/` messages.
//!
//! Only a message that may still be an order to a device fires a route: young enough, from a sender who is allowed, and not
//! from ourselves.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use crate::delivery::Part;
use crate::delivery::routing::{RouteState, Routing};
use crate::local::{Publication, Received, recv_levels};
use crate::os::clock::Stamp;
use crate::protocol::{Message, Uid};
use crate::route::{Outcome, Publish, Said};

/// A push's publishes by routes. `raw_max_age` holds where a route has no `max_age`. `only`: it is published again, by the routes
/// that it fired then; that is neither counted nor held against their rate once more.
pub(super) fn routed(
    routing: &Routing,
    message: &Message,
    (received, at): (&Received, &Stamp),
    own: &Uid,
    raw_max_age: Option<Duration>,
    only: Option<&[Arc<RouteState>]>,
) -> Vec<Part> {
    let mut routed = Vec::new();
    let (Some(recv), Some(content)) = (recv_levels(message), message.content()) else { return routed };
    if routing.routes.from_routes().is_empty() || message.from_uid() == Some(own) {
        return routed;
    }
    if only.is_some_and(<[_]>::is_empty) {
        return routed;
    }
    let from_uid = message.from_uid().map(Uid::as_str);
    let said = Said { recv: &recv, payload: &content.bytes, from_uid, time: message.time() };
    routing.routes.from_ilink(&said, |number, outcome| {
        let Some((route, state)) = routing.from_ilink(number) else { return };
        if only.is_some_and(|only| !only.iter().any(|fired| Arc::ptr_eq(fired, state))) {
            return;
        }
        match outcome {
            Outcome::NoMatch => state.counters.no_match.add(),
            Outcome::Missing(why) => {
                state.counters.missing.add();
                debug!(route = state.name, %why, "a push does not fire a route");
            }
            Outcome::Fires(Publish { topic, payload }) => {
                let max_age = route.max_age(raw_max_age);
                if max_age.is_some_and(|most| at.age() > most) {
                    state.counters.late.add();
                // By when it was accepted: what waited for the broker is no loop.
                } else if only.is_some() || state.may_fire(route.max_rate(), at.plus(Duration::ZERO)) {
                    state.counters.fired.add_if(only.is_none());
                    let user_properties = vec![("id", received.id.to_string()), ("route", state.name.clone())];
                    let deadline = max_age.map(|most| at.plus(most));
                    let publication = Publication { user_properties, deadline, ..Publication::raw(topic, payload) };
                    routed.push(Part { publication, route: Some(Arc::clone(state)) });
                }
            }
        }
    });
    routed
}
