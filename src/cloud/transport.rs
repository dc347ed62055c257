//! What became of a call that has no reply: why, and whether iLink may have executed it.
//!
//! The variants are what callers decide on. A caller that repeats asks [`TransportError::executed`]: each repeat of what may
//! have been executed may be a copy for a person.

use std::time::{Duration, SystemTime};

use hyper::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// There is no reply. Causes are plain words with a remedy where there is one, and hold neither secrets nor URLs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection stood (DNS, refused, TLS), so the request was certainly not read.
    #[error("{cause}")]
    Unsent {
        /// Why.
        cause: String,
    },
    /// A status of 300 or more without iLink's JSON: whoever stands in front of the service answered instead of it.
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
    /// Nobody knows, and it is unlikely: whoever stands in front of iLink answered. Repeating it is no likely copy.
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

    /// How long whoever answered asks us to wait.
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
}
