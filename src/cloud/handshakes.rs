//! What the callback saw of the registration handshakes (§3.1), from which the session explains a failed registration.
//!
//! When iLink could not verify the callback it only says so (1006); the reason is known on this side alone. So the
//! callback notes every handshake here, and the session turns the notes since its `set_config` into a cause and a
//! remedy.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::os::lock;
use crate::protocol::Variant;

/// The service gives an answer up after this long (§2.2).
const SERVICE_PATIENCE: Duration = Duration::from_secs(5);

/// How one handshake went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// The signature was right by this variant, and `echostr` was handed to the socket after this long.
    Answered(Variant, Duration),
    /// The signature was right, but the peer was gone before the answer was handed over, after this long.
    Abandoned(Duration),
    /// The signature was wrong: answered 403.
    WrongSignature,
    /// A `GET` on the callback's secret path without the three parameters: answered 400.
    Incomplete,
    /// A `GET` on the callback's secret path from an address that may not call, if that could be read: answered 403.
    WrongAddress(Option<IpAddr>),
    /// A `GET` on another path than the callback's: answered 404. Anybody's scanner causes these.
    WrongPath,
}

/// Everything the callback saw; cheap to clone, all clones are one log.
#[derive(Debug, Clone, Default)]
pub struct HandshakeLog {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    last_get_at: Option<SystemTime>,
    variant: Option<Variant>,
    answered: u64,
    slowest: Duration,
    late: u64,
    wrong_signature: u64,
    incomplete: u64,
    wrong_address: u64,
    last_wrong_address: Option<IpAddr>,
    wrong_path: u64,
}

/// A moment in the log, to ask what happened since.
#[derive(Debug, Clone)]
pub(super) struct Mark(Seen);

impl HandshakeLog {
    /// Notes a handshake that has just been answered.
    pub fn note(&self, handshake: Handshake) {
        let mut seen = lock(&self.seen);
        if handshake != Handshake::WrongPath {
            seen.last_get_at = Some(SystemTime::now());
        }
        match handshake {
            Handshake::Answered(variant, took) => {
                seen.variant = Some(variant);
                seen.answered += 1;
                seen.slowest = seen.slowest.max(took);
                if took >= SERVICE_PATIENCE {
                    seen.late += 1;
                }
            }
            Handshake::Abandoned(took) => {
                seen.slowest = seen.slowest.max(took);
                seen.late += 1;
            }
            Handshake::WrongSignature => seen.wrong_signature += 1,
            Handshake::Incomplete => seen.incomplete += 1,
            Handshake::WrongAddress(address) => {
                seen.wrong_address += 1;
                seen.last_wrong_address = address;
            }
            Handshake::WrongPath => seen.wrong_path += 1,
        }
    }

    /// When the last `GET` reached the callback's secret path.
    #[must_use]
    pub fn last_get_at(&self) -> Option<SystemTime> {
        lock(&self.seen).last_get_at
    }

    /// The variant by which the last right signature was right.
    #[must_use]
    pub fn variant(&self) -> Option<Variant> {
        lock(&self.seen).variant
    }

    pub(super) fn mark(&self) -> Mark {
        let mut seen = lock(&self.seen);
        // Only what happens after the mark says how slow the next handshake is.
        seen.slowest = Duration::ZERO;
        Mark(seen.clone())
    }

    /// What we saw since `mark`, and what to do about it, in plain words.
    pub(super) fn explain_since(&self, mark: &Mark) -> String {
        let (before, now) = (&mark.0, lock(&self.seen).clone());
        if now.late > before.late {
            return format!(
                "its GET was answered too late (after {} ms; the service waits 5 s): is this machine or the proxy before it overloaded?",
                now.slowest.as_millis()
            );
        }
        if now.wrong_signature > before.wrong_signature {
            return "its GET came with a wrong signature (answered 403): is another bridge's token registered for this URL, or \
                    is callback.signature pinned to the wrong variant? \"any\" accepts all"
                .to_owned();
        }
        if now.answered > before.answered {
            return format!(
                "its GET arrived and was answered in {} ms, yet the service was not satisfied: does a proxy change the answer's body?",
                now.slowest.as_millis()
            );
        }
        if now.incomplete > before.incomplete {
            return "a GET arrived without signature, timestamp and echostr (answered 400): does a proxy drop the query?".to_owned();
        }
        if now.wrong_address > before.wrong_address {
            let from =
                now.last_wrong_address.map_or_else(|| "an address that cannot be read".to_owned(), |it| it.to_string());
            return format!(
                "its GET came from {from}, which callback.allow does not have (answered 403): name iLink's networks there, or, if \
                 that is your own proxy, name it in callback.trusted_proxies"
            );
        }
        let path = if now.wrong_path > before.wrong_path {
            "; there were GETs on other paths (answered 404): does a proxy change the path's end?"
        } else {
            ""
        };
        format!(
            "no GET arrived at the callback: can the internet reach callback.public_url (DNS, port, firewall, proxy)?{path}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_explained_is_what_happened_since_the_mark() {
        let log = HandshakeLog::default();
        log.note(Handshake::WrongSignature);
        let told = |handshakes: &[Handshake]| {
            let mark = log.mark();
            for handshake in handshakes {
                log.note(*handshake);
            }
            log.explain_since(&mark)
        };
        let quick = Handshake::Answered(Variant::Chars, Duration::from_millis(12));
        assert!(told(&[]).starts_with("no GET arrived"));
        assert!(told(&[Handshake::WrongPath]).contains("other paths"));
        assert!(told(&[Handshake::Incomplete]).contains("query"));
        let address = Some("203.0.113.9".parse().unwrap());
        assert!(told(&[Handshake::WrongAddress(address)]).contains("203.0.113.9, which callback.allow does not have"));
        assert!(told(&[Handshake::WrongAddress(None)]).contains("cannot be read"));
        assert!(told(&[Handshake::WrongSignature]).contains("wrong signature"));
        assert!(
            told(&[Handshake::Answered(Variant::Plain, Duration::from_secs(7))]).contains("too late (after 7000 ms")
        );
        assert!(told(&[Handshake::Abandoned(Duration::from_secs(5))]).contains("too late"));
        assert!(told(&[quick]).contains("answered in 12 ms"));
        assert_eq!(log.variant(), Some(Variant::Chars));
    }

    #[test]
    fn a_strangers_path_is_no_handshake() {
        let log = HandshakeLog::default();
        log.note(Handshake::WrongPath);
        assert_eq!(log.last_get_at(), None);
        log.note(Handshake::Incomplete);
        assert!(log.last_get_at().is_some());
    }
}
