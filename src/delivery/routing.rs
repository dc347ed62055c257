//! The routes in force: the compiled rules, and for each the counters and the *breaker*, which stops a route that fires too
//! often.
//!
//! Counters survive a reload of the rules, by the route's name. Both directions use this module; each handles the routes that
//! fire in its own way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::warn;

use crate::observe::counters::Counter;
use crate::observe::log::Seldom;
use crate::os::lock;
use crate::route::{FromRoute, Keep, OtherwiseRoute, Rate, Routes, ToRoute};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What one route did.
        #[derive(Debug, Default)]
        pub struct RouteCounters { $($(#[doc = $doc])+ pub $name: Counter,)+ }

        impl RouteCounters {
            /// Every counter's name and its count so far.
            #[must_use]
            pub fn all(&self) -> BTreeMap<&'static str, u64> {
                BTreeMap::from([$((stringify!($name), self.$name.get()),)+])
            }
        }
    };
}

counters! {
    /// Messages that fired it.
    fired,
    /// Messages whose text its pattern does not match.
    no_match,
    /// Messages without a value that it needs, or with one that it cannot use.
    missing,
    /// Messages too old for it.
    late,
    /// Retained messages.
    retained,
    /// Messages whose number crossed no limit (`above`, `below`).
    not_crossed,
    /// Messages whose number is beyond a limit, and must last (`for`).
    lasting,
    /// Messages left out by `on_change`.
    unchanged,
    /// Messages left out by `min_interval`.
    too_soon,
    /// Messages left out by `max_rate`.
    over_rate,
    /// Messages that a newer one replaced before they were sent (`keep = "latest"`).
    superseded,
    /// Messages that fired it and were refused in the end: by the broker, by the bridge or by iLink.
    failed,
}

/// One route in force.
#[derive(Debug, Default)]
pub struct RouteState {
    /// Its name.
    pub name: String,
    /// What it did.
    pub counters: RouteCounters,
    breaker: Mutex<Breaker>,
    told: Seldom,
}

impl RouteState {
    /// A message fired the route, and its answer cannot be made. Counts it and warns.
    pub fn cannot_answer(&self, why: &str) {
        self.counters.failed.add();
        if self.told.may() {
            let route = &self.name;
            warn!(
                route,
                why,
                "a route cannot make its reply to a message: it publishes all the same (logged once a minute at most)"
            );
        }
    }

    /// Whether the route may fire at `now`. If not, counts it and warns.
    #[must_use]
    pub fn may_fire(&self, rate: Rate, now: Duration) -> bool {
        let verdict = lock(&self.breaker).fire(rate, now);
        if verdict == Verdict::Opened {
            let (route, max_rate) = (&self.name, rate.to_string());
            warn!(
                route,
                max_rate,
                closed_in_s = OPEN_FOR.as_secs(),
                "a route fires more often than its max_rate, as in a loop; it is cut off for a while"
            );
        }
        if verdict != Verdict::Pass {
            self.counters.over_rate.add();
        }
        verdict == Verdict::Pass
    }
}

/// All routes, by name.
#[derive(Debug, Default)]
pub struct RouteStates(Mutex<BTreeMap<String, Arc<RouteState>>>);

impl RouteStates {
    /// Puts rules into force. A route whose name is known goes on with its counters.
    #[must_use]
    pub fn routing(&self, routes: &Arc<Routes>) -> Arc<Routing> {
        let mut all = lock(&self.0);
        let mut old = std::mem::take(&mut *all);
        let mut state = |name: &str| {
            let new = || Arc::new(RouteState { name: name.to_owned(), ..RouteState::default() });
            let state = old.remove(name).unwrap_or_else(new);
            all.insert(name.to_owned(), Arc::clone(&state));
            state
        };
        let from = routes.from_routes().iter().map(|route| state(route.name())).collect();
        let otherwise = routes.otherwise_routes().iter().map(|route| state(route.name())).collect();
        let to = routes.to_routes().iter().map(|route| state(route.name())).collect();
        Arc::new(Routing { routes: Arc::clone(routes), from, otherwise, to })
    }

    /// What each route did.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, BTreeMap<&'static str, u64>> {
        let all = lock(&self.0);
        all.iter().map(|(name, state)| (name.clone(), state.counters.all())).collect()
    }
}

/// The routes in force.
#[derive(Debug, Default)]
pub struct Routing {
    /// The rules.
    pub routes: Arc<Routes>,
    from: Vec<Arc<RouteState>>,
    otherwise: Vec<Arc<RouteState>>,
    to: Vec<Arc<RouteState>>,
}

impl Routing {
    /// The route from iLink of this number.
    #[must_use]
    pub fn from_ilink(&self, number: usize) -> Option<(&FromRoute, &Arc<RouteState>)> {
        self.routes.from_routes().get(number).zip(self.from.get(number))
    }

    /// The routes from iLink of these names.
    #[must_use]
    pub fn called(&self, names: &[String]) -> Vec<Arc<RouteState>> {
        self.from.iter().filter(|state| names.contains(&state.name)).cloned().collect()
    }

    /// The answer of this number to what fires none of them.
    #[must_use]
    pub fn otherwise(&self, number: usize) -> Option<(&OtherwiseRoute, &Arc<RouteState>)> {
        self.routes.otherwise_routes().get(number).zip(self.otherwise.get(number))
    }

    /// What the route of this name did, whatever its kind.
    #[must_use]
    pub fn state(&self, name: &str) -> Option<&Arc<RouteState>> {
        self.to.iter().chain(&self.from).chain(&self.otherwise).find(|state| state.name == name)
    }

    /// The route to iLink of this number.
    #[must_use]
    pub fn to_ilink(&self, number: usize) -> Option<(&ToRoute, &Arc<RouteState>)> {
        self.routes.to_routes().get(number).zip(self.to.get(number))
    }

    /// The route to iLink of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<(&ToRoute, &Arc<RouteState>)> {
        self.to_ilink(self.to.iter().position(|state| state.name == name)?)
    }

    /// Whether only the newest message of the route of this name is sent.
    #[must_use]
    pub fn keeps_latest(&self, name: &str) -> bool {
        self.named(name).is_some_and(|(route, _)| route.rule().keep == Keep::Latest)
    }
}

/// How long a breaker stays open.
const OPEN_FOR: Duration = Duration::from_mins(1);

/// One route's breaker. The caller passes the time, of any clock.
#[derive(Debug, Clone, Default)]
struct Breaker {
    /// When all that fired so far would be used up at the allowed rate.
    used_until: Duration,
    open_until: Option<Duration>,
}

/// Whether the route may fire once more: only at `Pass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// The breaker has just opened, for a while.
    Opened,
    Open,
}

impl Breaker {
    /// Whether a route with this rate may fire at `now`.
    fn fire(&mut self, rate: Rate, now: Duration) -> Verdict {
        if rate.count == 0 {
            return Verdict::Pass;
        }
        if self.open_until.is_some_and(|until| now < until) {
            return Verdict::Open;
        }
        if self.open_until.take().is_some() {
            self.used_until = now;
        }
        let used_until = self.used_until.max(now) + rate.per / rate.count;
        // Rounding must not refuse the last one that is allowed.
        if used_until.saturating_sub(now) > rate.per + Duration::from_micros(1) {
            self.open_until = Some(now + OPEN_FOR);
            return Verdict::Opened;
        }
        self.used_until = used_until;
        Verdict::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn so_many_may_fire_at_once_and_one_more_opens_it() {
        let mut breaker = Breaker::default();
        let rate = "30/m".parse().unwrap();
        for _ in 0..30 {
            assert_eq!(breaker.fire(rate, at(100)), Verdict::Pass);
        }
        assert_eq!(breaker.fire(rate, at(100)), Verdict::Opened);
        assert_eq!(breaker.fire(rate, at(159)), Verdict::Open);
        for _ in 0..30 {
            assert_eq!(breaker.fire(rate, at(160)), Verdict::Pass);
        }
        assert_eq!(breaker.fire(rate, at(160)), Verdict::Opened);
    }

    #[test]
    fn a_steady_pace_within_the_rate_never_opens_it() {
        for rate in ["7/s", "30/m", "3/h", "1/s"] {
            let rate: Rate = rate.parse().unwrap();
            let mut breaker = Breaker::default();
            for n in 0..10_000 {
                assert_eq!(breaker.fire(rate, (rate.per / rate.count + Duration::from_nanos(1)) * n), Verdict::Pass);
            }
        }
        assert_eq!(Breaker::default().fire("0".parse().unwrap(), at(1)), Verdict::Pass);
    }
}
