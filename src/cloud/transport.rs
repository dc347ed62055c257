//! How an exchange with iLink fails, and how long the session waits before each kind of retry, with the documented
//! defaults.

use std::time::{Duration, SystemTime};

use hyper::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// There is no reply: why, and whether iLink may have executed the call. Causes are plain words with a remedy where there is
/// one, and hold neither secrets nor URLs.
///
/// The variants are what callers decide on. A caller that repeats asks [`TransportError::executed`]: each repeat of what may
/// have been executed may be a copy for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection stood (DNS, refused, TLS), so the request was certainly not read.
    #[error("{cause}")]
    Unsent {
        /// Why.
        cause: String,
    },
    /// A status of 300 or more without iLink's JSON: a server in front of iLink answered instead of it.
    #[error("{cause}")]
    InFront {
        /// Why.
        cause: String,
        /// The HTTP status.
        status: u16,
        /// How long it asks us to wait; never more than [`MAX_RETRY_AFTER`].
        retry_after: Option<Duration>,
    },
    /// The request left, and no answer came: the time ran out, or the connection ended.
    #[error("{cause}")]
    Unanswered {
        /// Why.
        cause: String,
    },
    /// An answer began and did not come to its end.
    #[error("{cause}")]
    BrokenOff {
        /// Why.
        cause: String,
    },
    /// An answer came that cannot be read as a reply, or one whose status contradicts it.
    #[error("{cause}")]
    Unreadable {
        /// Why.
        cause: String,
    },
}

/// A peer chooses `Retry-After`; a mistake of its must not silence the bridge for a day.
pub const MAX_RETRY_AFTER: Duration = Duration::from_mins(10);

/// Whether iLink may have executed a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Executed {
    /// Certainly not.
    No,
    /// Unknown, but unlikely: a server in front of iLink answered. Repeating the call hardly makes a copy.
    Unlikely,
    /// It may have been. Repeating it may make a copy.
    Perhaps,
}

impl TransportError {
    /// Whether the call may have been executed.
    #[must_use]
    pub fn executed(&self) -> Executed {
        match self {
            Self::Unsent { .. } => Executed::No,
            Self::InFront { .. } => Executed::Unlikely,
            Self::Unanswered { .. } | Self::BrokenOff { .. } | Self::Unreadable { .. } => Executed::Perhaps,
        }
    }

    /// Whether the request may have been read.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.executed() != Executed::No
    }

    /// How long the answer asks us to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::InFront { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Why there is no reply.
    #[must_use]
    pub fn cause(&self) -> &str {
        match self {
            Self::Unsent { cause }
            | Self::InFront { cause, .. }
            | Self::Unanswered { cause }
            | Self::BrokenOff { cause }
            | Self::Unreadable { cause } => cause,
        }
    }
}

/// `Retry-After` in seconds or as a date, which is measured by the clock of whoever wrote it.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: HeaderName| Some(headers.get(name)?.to_str().ok()?.trim());
    let after = text(RETRY_AFTER)?;
    let wait = if let Ok(seconds) = after.parse() {
        Duration::from_secs(seconds)
    } else {
        let there = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or(now);
        httpdate::parse_http_date(after).ok()?.duration_since(there).unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// A growing wait: `first`, then twice as long each time, at most `most`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
}

impl Backoff {
    /// A growing wait from `first` to `most`, in seconds.
    #[must_use]
    pub const fn seconds(first: u64, most: u64) -> Self {
        Self { first: Duration::from_secs(first), most: Duration::from_secs(most) }
    }

    /// The wait after `failures` failures in a row, counted from 1, without jitter.
    #[must_use]
    pub fn exact(&self, failures: u32) -> Duration {
        // Past 2^20 the longest wait is reached whatever the first one is.
        let factor = 1_u32 << failures.saturating_sub(1).min(20);
        self.first.saturating_mul(factor).min(self.most)
    }

    /// The wait after `failures` failures in a row, and up to a quarter more, so that many bridges which lost the service at
    /// the same moment do not come back at the same moment. Never shorter than [`exact`](Self::exact), because some waits are
    /// the service's minimum, and never longer than `most`; those who wait that long have drifted apart before.
    #[must_use]
    pub fn jittered(&self, failures: u32) -> Duration {
        let exact = self.exact(failures);
        let quarters = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
        exact.saturating_add(exact.mul_f64(quarters / 4.0)).min(self.most)
    }
}

/// The waits of the session. The defaults are what `protocol` asks for; tests shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The service cannot be reached or is in trouble (1016, 1017): 1 s to 60 s.
    pub link: Backoff,
    /// A conflict (1002, 1003), or a session that a renewal did not mend (1007, 1008, 1015): 30 s to 5 min.
    pub conflict: Backoff,
    /// The callback could not be verified (1006): 30 s to 10 min.
    pub callback: Backoff,
    /// The configuration is wrong (1000, 1001 for our uid, 1005): 2 min to 15 min.
    pub config: Backoff,
    /// `set_config` (1004) or `get_access_token` (1009) was called too often: 10 min to 2 h.
    pub quota: Backoff,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            link: Backoff::seconds(1, 60),
            conflict: Backoff::seconds(30, 300),
            callback: Backoff::seconds(30, 600),
            config: Backoff::seconds(120, 900),
            quota: Backoff::seconds(600, 7200),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(value: &str, date: Option<&str>) -> Option<Duration> {
        let now = httpdate::parse_http_date("Fri, 02 Jan 2026 03:04:05 GMT").unwrap();
        let lines = [Some((RETRY_AFTER, value)), date.map(|date| (DATE, date))];
        let lines = lines.into_iter().flatten().map(|(name, value)| (name, value.parse().unwrap()));
        retry_after(&lines.collect(), now)
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_has_an_end() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(retry_after(&HeaderMap::new(), SystemTime::now()), None);
        assert_eq!(after("7", None), seconds(7));
        assert_eq!(after(" 0 ", None), seconds(0));
        assert_eq!(after("864000", None), Some(MAX_RETRY_AFTER));
        assert_eq!(after("Fri, 02 Jan 2026 03:04:35 GMT", None), seconds(30));
        assert_eq!(after("Fri, 02 Jan 2026 03:04:35 GMT", Some("Fri, 02 Jan 2026 03:04:15 GMT")), seconds(20));
        assert_eq!(after("Fri, 02 Jan 2026 03:00:00 GMT", None), seconds(0));
        for odd in ["", "-1", "soon", "1.5", "99999999999999999999999"] {
            assert_eq!(after(odd, None), None, "{odd}");
        }
    }

    #[test]
    fn only_what_was_never_sent_is_certain() {
        let cause = String::new;
        let in_front = TransportError::InFront { cause: cause(), status: 503, retry_after: None };
        assert_eq!(TransportError::Unsent { cause: cause() }.executed(), Executed::No);
        assert_eq!((in_front.executed(), in_front.is_ambiguous()), (Executed::Unlikely, true));
        for error in [
            TransportError::Unanswered { cause: cause() },
            TransportError::BrokenOff { cause: cause() },
            TransportError::Unreadable { cause: cause() },
        ] {
            assert_eq!(error.executed(), Executed::Perhaps, "{error:?}");
        }
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff::seconds(1, 60);
        let waits: Vec<u64> = (0..9).map(|failures| backoff.exact(failures).as_secs()).collect();
        assert_eq!(waits, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.exact(u32::MAX), Duration::from_mins(1));
    }

    #[test]
    fn jitter_only_lengthens_and_by_a_quarter_at_most() {
        let backoff = Backoff::seconds(30, 300);
        for failures in 1..50 {
            let (exact, jittered) = (backoff.exact(failures), backoff.jittered(failures));
            assert!(jittered >= exact && jittered <= exact.mul_f64(1.25).min(backoff.most), "{exact:?} {jittered:?}");
        }
    }
}
