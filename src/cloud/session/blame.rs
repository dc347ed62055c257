//! Calls that iLink refuses while it takes others. Each of them waits by itself.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use tokio::time::Instant;

use crate::cloud::Backoff;
use crate::protocol::Request;

/// Calls remembered; beyond that the one whose wait ends first is forgotten.
const MOST: usize = 1024;
/// A call that has not been refused for that long starts anew.
const FORGET: Duration = Duration::from_hours(1);

/// What a call asks for: the same request is the same mark, also from another command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Mark(u64);

impl Mark {
    pub(super) fn of(request: &Request) -> Self {
        let mut hasher = DefaultHasher::new();
        request.path.hash(&mut hasher);
        serde_json::to_vec(&request.body).unwrap_or_default().hash(&mut hasher);
        Self(hasher.finish())
    }
}

#[derive(Debug)]
struct Blame {
    times: u32,
    until: Instant,
    cause: String,
    /// Others were served meanwhile: it is this call, and not the session.
    own: bool,
}

/// The calls that were refused.
#[derive(Debug, Default)]
pub(super) struct Blames(HashMap<Mark, Blame>);

impl Blames {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How long a call has to wait yet, and why.
    pub(super) fn held(&self, mark: Mark, now: Instant) -> Option<(Duration, String)> {
        let blame = self.0.get(&mark).filter(|blame| blame.until > now)?;
        Some((blame.until - now, blame.cause.clone()))
    }

    /// Whether it was found to be this call's own trouble.
    pub(super) fn is_own(&self, mark: Mark) -> bool {
        self.0.get(&mark).is_some_and(|blame| blame.own)
    }

    /// A call was refused: it waits, and until `least` at any rate.
    pub(super) fn refused(&mut self, mark: Mark, cause: String, own: bool, least: Option<Instant>, pace: &Backoff) {
        let now = Instant::now();
        self.0.retain(|_, blame| now.saturating_duration_since(blame.until) < FORGET);
        if self.0.len() >= MOST
            && let Some(first) = self.0.iter().min_by_key(|(_, blame)| blame.until).map(|(mark, _)| *mark)
        {
            self.0.remove(&first);
        }
        let blame = self.0.entry(mark).or_insert(Blame { times: 0, until: now, cause: String::new(), own: false });
        blame.times = blame.times.saturating_add(1);
        blame.until = least.unwrap_or_else(|| now + pace.jittered(blame.times));
        (blame.cause, blame.own) = (cause, blame.own || own);
    }

    /// Others were served while it was refused.
    pub(super) fn confirm(&mut self, mark: Mark) {
        if let Some(blame) = self.0.get_mut(&mark) {
            blame.own = true;
        }
    }

    /// It was served.
    pub(super) fn served(&mut self, mark: Mark) {
        self.0.remove(&mark);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_waits_longer_each_time_until_it_is_served() {
        let (pace, mark, mut blames) = (Backoff::seconds(30, 300), Mark(1), Blames::default());
        for least in [30, 60, 120, 240, 300, 300] {
            blames.refused(mark, "why".to_owned(), false, None, &pace);
            let (wait, cause) = blames.held(mark, Instant::now()).unwrap();
            assert!((least..=least * 5 / 4).contains(&wait.as_secs()) && cause == "why", "{wait:?}");
            tokio::time::advance(wait).await;
            assert!(blames.held(mark, Instant::now()).is_none() && !blames.is_own(mark));
        }
        blames.confirm(mark);
        assert!(blames.is_own(mark) && !blames.is_own(Mark(2)));
        blames.served(mark);
        assert!(blames.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded() {
        let mut blames = Blames::default();
        for mark in 0..3000 {
            blames.refused(Mark(mark), String::new(), true, None, &Backoff::seconds(30, 300));
        }
        assert_eq!(blames.0.len(), MOST);
    }
}
