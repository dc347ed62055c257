//! The session's causes in plain words, with a remedy where there is one. They contain no secrets, and the callback URL
//! only without its secret part.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::protocol::{ResultCode, Uid};

/// A code by its meaning and its number.
fn said(code: ResultCode) -> String {
    format!("{} ({code})", code.meaning())
}

/// Of a command's call: the deliver loop decides whether it is tried again.
pub(super) fn not_now(code: ResultCode) -> String {
    format!("iLink cannot do it now: {}", said(code))
}

/// Of a call of the session's own.
pub(super) fn transient(code: ResultCode) -> String {
    format!("{}; it is tried again by itself", not_now(code))
}

pub(super) fn refused(code: ResultCode) -> String {
    format!("iLink refused the call: {}", said(code))
}

pub(super) fn ended() -> String {
    "the session has ended".to_owned()
}

pub(super) fn starting() -> String {
    "starting: iLink has not answered yet".to_owned()
}

pub(super) fn registering() -> String {
    "the callback is being registered".to_owned()
}

pub(super) fn no_token() -> String {
    "there is no access token yet".to_owned()
}

/// Trouble of a call of our own that holds up no other.
pub(super) fn alone(cause: &str) -> String {
    format!("{cause}; calls go on meanwhile")
}

/// The same, where the cause does not name the call.
pub(super) fn alone_of(path: &str, cause: &str) -> String {
    format!("{path} does not work: {cause}")
}

pub(super) fn no_renewal() -> String {
    "the session could not be renewed".to_owned()
}

pub(super) fn no_token_in_reply() -> String {
    "iLink's answer to get_access_token holds no token: is ilink.api right?".to_owned()
}

/// A code that §3 or §5.1 give no reason to expect.
pub(super) fn odd(what: &str, code: ResultCode) -> String {
    format!(
        "iLink refuses {what}: {}; it is tried again, and if it stays so, see whether ilink.appkey, ilink.uid and \
         callback.public_url are what iLink expects",
        said(code)
    )
}

/// A configuration that iLink does not accept: 1000, 1001, 1005.
pub(super) fn config(code: ResultCode, uid: &Uid, callback: &SecretString) -> String {
    match code.value() {
        1000 => format!(
            "iLink does not accept the credentials ({code}): correct ilink.appkey and ilink.secretkey, as the developer \
             console shows them, and restart"
        ),
        1001 => format!("iLink does not know our uid {uid} ({code}): correct ilink.uid and restart"),
        1005 => format!(
            "iLink calls the callback URL malformed ({code}): correct callback.public_url; it leads to {}",
            shown(callback)
        ),
        _ => refused(code),
    }
}

/// 1002, 1003, and a session that a renewal did not mend.
pub(super) fn conflict(code: ResultCode, uid: &Uid) -> String {
    match code.value() {
        1002 => format!("our uid {uid} is logged in elsewhere ({code}): stop the other program that uses it"),
        1003 => format!(
            "iLink refuses our address ({code}): the service ties a uid to one IP address, so either ours keeps changing \
             or another program uses uid {uid} from another address"
        ),
        1007 => format!(
            "iLink says that no callback is registered although it has just been registered ({code}): does another \
             program unregister uid {uid}?"
        ),
        1008 | 1015 => format!(
            "iLink refuses the access token although it is new ({code}): does another program use uid {uid}? A new token \
             ends the old one"
        ),
        _ => refused(code),
    }
}

/// 1003, and a new token that mended it.
pub(super) const ANOTHER_ADDRESS: &str = "iLink ties a uid to one IP address, and this bridge calls from another one than \
                                          the last caller did (1003): a new access token was fetched, and all goes on";

/// What there is to say of 1006 when nothing was registered.
pub(super) const SAID_TO_A_QUERY: &str = "it said so when it was asked whether the callback is registered; can the internet \
                                          reach callback.public_url (DNS, port, firewall, proxy)?";

/// The same of a call.
pub(super) const SAID_TO_A_CALL: &str = "it said so to another call than set_config";

/// 1016, 1017, and the quotas as answers to commands.
pub(super) fn busy(code: ResultCode) -> String {
    format!("{}; all calls wait together, and one after the other tells whether it is over", not_now(code))
}

/// Of one endpoint, while others work.
pub(super) fn endpoint(path: &str, cause: &str) -> String {
    format!("{path} does not work: {cause}; what goes there waits, everything else goes on")
}

/// The session asks no more often than its own budget allows.
pub(super) fn paced(path: &str, wait: Duration) -> String {
    format!("{path} was needed often of late: again in {}, before iLink calls it too often", minutes(wait))
}

/// An operator asks more often than is good.
pub(super) fn paced_verb(wait: Duration) -> String {
    format!(
        "set_config was asked for often of late: again in {}, before iLink refuses it for ten minutes",
        minutes(wait)
    )
}

/// 1006.
pub(super) fn callback(code: ResultCode, callback: &SecretString, seen: &str) -> String {
    format!("iLink could not verify the callback at {} ({code}): {seen}", shown(callback))
}

/// 1004.
pub(super) fn config_quota(code: ResultCode, wait: Duration) -> String {
    format!(
        "iLink was asked to register too often ({code}): not again before {}; everything else goes on",
        minutes(wait)
    )
}

/// 1007 while 1004 holds.
pub(super) fn forgotten_under_quota(wait: Duration) -> String {
    format!(
        "iLink says that no callback is registered (1007), and was asked to register too often before (1004): registering \
         again in {}",
        minutes(wait)
    )
}

/// 1009.
pub(super) fn token_quota(code: ResultCode, wait: Duration) -> String {
    format!(
        "iLink was asked for a token too often ({code}): not again before {}; does another program or a restart loop ask?",
        minutes(wait)
    )
}

pub(super) fn not_registered_by_us(code: ResultCode) -> String {
    format!(
        "iLink says that no callback is registered ({code}), and this process does not register: `ilink2mqtt register` \
         does, or, with callback.register = \"never\", whoever registers callback.public_url for this uid"
    )
}

pub(super) fn never() -> String {
    "callback.register = \"never\": this bridge does not call set_config".to_owned()
}

/// To an operator whose `register` or query was overtaken by a reload.
pub(super) fn url_changed_meanwhile() -> String {
    "the callback URL was changed meanwhile, so iLink's answer is about the old one; the new one is registered by itself"
        .to_owned()
}

pub(super) fn unregistered() -> String {
    "unregistered by the operator: `ilink2mqtt register` registers again".to_owned()
}

pub(super) fn unregistered_unrecorded(error: &std::io::Error) -> String {
    format!("unregistered at iLink, but this could not be recorded, so the next start registers again: {error}")
}

/// Whether two causes say the same, but for numbers: waits grow with every attempt, and that is no news. Result codes are.
pub(super) fn same(one: &str, other: &str) -> bool {
    fn parts(text: &str) -> impl Iterator<Item = &str> {
        let parts = text.split_inclusive(|c: char| !c.is_ascii_digit());
        parts.map(|part| if is_code(part) { part } else { part.trim_start_matches(|c: char| c.is_ascii_digit()) })
    }
    fn is_code(part: &str) -> bool {
        let digits = part.trim_end_matches(|c: char| !c.is_ascii_digit());
        digits.len() == 4 && digits.starts_with("10")
    }
    parts(one).eq(parts(other))
}

/// A time that an operator can read.
pub(super) fn minutes(wait: Duration) -> String {
    if wait < Duration::from_mins(2) {
        format!("{} s", wait.as_secs())
    } else {
        format!("{} min", wait.as_secs().div_ceil(60))
    }
}

/// The callback URL without its secret: the last segment of the path, and the query, which may hold another.
pub(super) fn shown(callback: &SecretString) -> String {
    let Ok(mut url) = Url::parse(callback.expose_secret()) else { return "a URL that cannot be read".to_owned() };
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop().push("…");
    }
    url.set_query(None);
    url.set_fragment(None);
    let _ = (url.set_username(""), url.set_password(None));
    url.as_str().replace("%E2%80%A6", "…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callback_is_named_without_its_secret() {
        let shown = |url: &str| shown(&SecretString::from(url));
        assert_eq!(shown("https://home.example:8443/ilink/s3cret?key=v"), "https://home.example:8443/ilink/…");
        assert_eq!(shown("http://u:p@home.example/s3cret"), "http://home.example/…");
        assert!(!shown("s3cret").contains("s3cret"));
    }

    #[test]
    fn a_longer_wait_is_no_news_and_another_code_is() {
        assert!(same("not again before 10 min (1004 x)", "not again before 120 min (1004 x)"));
        assert!(!same("refused (1004 x)", "refused (1009 x)"));
        assert!(!same("no answer within 10 s", "refused"));
        assert!(!same("", "refused"));
    }

    #[test]
    fn waits_are_readable() {
        assert_eq!(minutes(Duration::from_secs(30)), "30 s");
        assert_eq!(minutes(Duration::from_secs(601)), "11 min");
    }
}
