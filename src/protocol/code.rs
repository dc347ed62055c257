//! The result codes of §6, each with its public name, its meaning and the class of reaction it asks for.
//!
//! The manual's change log speaks of a code 7 that §6 does not list. So codes outside the table are kept, and reported
//! with their number. The session and the deliver loop decide what they do about a class.

use std::fmt;

/// The `code` of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResultCode(i64);

/// What a code asks of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The call was executed.
    Done,
    /// The configuration is wrong and no repetition mends it. For `unknown_uid` this holds for our own uid; as the answer to
    /// a command it concerns the command's receiver and is permanent.
    FatalConfig,
    /// The service ties the uid to another terminal or address: back off and say so.
    Conflict,
    /// Asked too often: leave this call (`set_config` or `get_access_token`) alone for minutes.
    Quota,
    /// The service could not verify the callback: register again after a while.
    Callback,
    /// Registration or token is gone: renew it once, then repeat the call once.
    Session,
    /// The call will fail however often it is repeated.
    Permanent,
    /// The service is in trouble: repeat until the command expires.
    Transient,
}

struct Row {
    code: i64,
    name: &'static str,
    class: Class,
    meaning: &'static str,
}

const fn row(code: i64, name: &'static str, class: Class, meaning: &'static str) -> Row {
    Row { code, name, class, meaning }
}

/// §6, in its order.
const TABLE: [Row; 19] = [
    row(0, "ok", Class::Done, "done"),
    row(1000, "bad_credentials", Class::FatalConfig, "the AppKey or the SecretKey does not exist"),
    row(1001, "unknown_uid", Class::FatalConfig, "the uid does not exist"),
    row(1002, "uid_logged_in_elsewhere", Class::Conflict, "the uid is logged in at another terminal"),
    row(1003, "ip_mismatch", Class::Conflict, "the uid may not be logged in from different IP addresses"),
    row(1004, "set_config_quota", Class::Quota, "set_config was called too often"),
    row(1005, "callback_url_malformed", Class::FatalConfig, "the callback URL is malformed"),
    row(1006, "callback_verification_failed", Class::Callback, "the callback could not be verified"),
    row(1007, "not_registered", Class::Session, "the uid has no callback registered"),
    row(1008, "invalid_token", Class::Session, "the access token is invalid"),
    row(1009, "token_quota", Class::Quota, "the access token was asked for too often"),
    row(1010, "invalid_parameter", Class::Permanent, "a parameter is invalid"),
    row(1011, "subscription_limit", Class::Permanent, "the limit of subscriptions is exceeded"),
    row(1012, "invalid_operation", Class::Permanent, "the operation is invalid"),
    row(1013, "no_such_group", Class::Permanent, "the group does not exist"),
    row(1014, "forbidden", Class::Permanent, "the account lacks the permission"),
    row(1015, "token_not_fetched", Class::Session, "the uid has not fetched an access token"),
    row(1016, "no_im_server", Class::Transient, "no IM server is available in the service's cluster"),
    row(1017, "rpc_failed", Class::Transient, "a remote call inside the service failed"),
];

impl ResultCode {
    /// Success.
    pub const OK: Self = Self(0);

    /// Any code, listed in §6 or not.
    #[must_use]
    pub const fn new(code: i64) -> Self {
        Self(code)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn value(self) -> i64 {
        self.0
    }

    /// The name that results carry; `unlisted_code` for one that §6 does not list.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().map_or("unlisted_code", |row| row.name)
    }

    /// What the code says, in a few words for a person.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        self.row().map_or("the manual does not list this code", |row| row.meaning)
    }

    /// Whether the call was executed.
    #[must_use]
    pub fn is_ok(self) -> bool {
        self == Self::OK
    }

    /// Whether §6 lists it.
    #[must_use]
    pub fn is_listed(self) -> bool {
        self.row().is_some()
    }

    /// What to do about it. A code that §6 does not list is permanent: repeating it would be a guess.
    #[must_use]
    pub fn class(self) -> Class {
        self.row().map_or(Class::Permanent, |row| row.class)
    }

    /// Whether the call may have been executed although it failed: inside the service, a remote call got no answer
    /// (1017, "rpc:call fails").
    #[must_use]
    pub fn is_ambiguous(self) -> bool {
        self.0 == 1017
    }

    fn row(self) -> Option<&'static Row> {
        TABLE.iter().find(|row| row.code == self.0)
    }
}

impl fmt::Display for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlisted_codes_survive() {
        for number in [7, -1, 1018, i64::MAX, i64::MIN] {
            let code = ResultCode::new(number);
            assert_eq!((code.value(), code.name(), code.class()), (number, "unlisted_code", Class::Permanent));
        }
        assert_eq!(ResultCode::new(7).to_string(), "7 unlisted_code");
    }

    #[test]
    fn only_zero_is_success() {
        assert!(ResultCode::new(0).is_ok());
        for row in TABLE.iter().skip(1) {
            assert!(!ResultCode::new(row.code).is_ok());
            assert_ne!(row.class, Class::Done, "{}", row.code);
        }
    }

    #[test]
    fn the_session_is_renewed_for_exactly_these() {
        let session: Vec<i64> = TABLE.iter().filter(|row| row.class == Class::Session).map(|row| row.code).collect();
        assert_eq!(session, [1007, 1008, 1015]);
        let transient: Vec<i64> =
            TABLE.iter().filter(|row| row.class == Class::Transient).map(|row| row.code).collect();
        assert_eq!(transient, [1016, 1017]);
        assert!(ResultCode::new(1017).is_ambiguous() && !ResultCode::new(1016).is_ambiguous());
    }

    #[test]
    fn names_are_unique_and_the_table_is_the_manuals() {
        let names: std::collections::BTreeSet<_> = TABLE.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), TABLE.len());
        let codes: Vec<i64> = TABLE.iter().map(|row| row.code).collect();
        let manual: Vec<i64> = std::iter::once(0).chain(1000..=1017).collect();
        assert_eq!(codes, manual);
    }
}
