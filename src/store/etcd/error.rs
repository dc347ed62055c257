//! What goes wrong with etcd: in plain words with the remedy, and typed by what follows from it.

use hyper::StatusCode;
use serde::Deserialize;

use crate::os::tls::FilesError;

/// Why etcd did not do what was asked. No variant holds a secret or a URL with one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdError {
    /// Nothing is known yet.
    #[error("etcd has not answered yet")]
    Starting,
    /// What is configured cannot be used.
    #[error("{0}")]
    Config(String),
    /// No connection stood: nothing was sent.
    #[error("etcd at {at} cannot be reached: {cause}; look whether it runs there and whether a firewall is between")]
    Unreachable {
        /// The endpoint.
        at: String,
        /// Why.
        cause: String,
    },
    /// The two do not trust each other: nothing was sent.
    #[error("no TLS with etcd at {at}: {cause}")]
    Tls {
        /// The endpoint.
        at: String,
        /// Why.
        cause: String,
    },
    /// A request was sent, and no answer came.
    #[error("etcd at {at} did not answer: {cause}; is it overloaded, stopped or cut off?")]
    Unanswered {
        /// The endpoint.
        at: String,
        /// Why.
        cause: String,
    },
    /// It is there, and cannot decide anything.
    #[error("etcd has no majority ({0}): more than half of its members must run and reach each other")]
    NoMajority(String),
    /// Something went wrong within it.
    #[error("etcd could not finish what it was asked for ({0}); its log may say why")]
    Broken(String),
    /// Its quota is used up. The request with which it is first exceeded may have been carried out all the same: etcd looks at the
    /// quota, applies the request, then says this.
    #[error(
        "etcd is out of space (NOSPACE): compact and defragment it (`etcdctl compact`, `etcdctl defrag`), then `etcdctl alarm \
         disarm`; or raise its --quota-backend-bytes"
    )]
    NoSpace,
    /// It is asked for more than it can do.
    #[error(
        "etcd takes no more for now (too many requests): its disk or its network is too slow for what is asked of it"
    )]
    TooMany,
    /// One row is larger than a request may be.
    #[error("this is larger than etcd takes in one request: raise its --max-request-bytes (1.5 MiB by default)")]
    TooLarge,
    /// A member of another etcd than the other endpoints, or of another one than it was before.
    #[error(
        "etcd at {at} belongs to another cluster than the other endpoints, or to another one than it did before: cluster.endpoints \
         must name members of one etcd; after a restore from a snapshot, restart the bridges"
    )]
    Foreign {
        /// The endpoint.
        at: String,
    },
    /// Not logged in, or not allowed.
    #[error(
        "etcd does not let us in ({0}): look at cluster.username and cluster.password, and at the role's permissions on cluster.prefix"
    )]
    Auth(String),
    /// The user lacks a right.
    #[error(
        "etcd does not let the user `{user}` {right} below {below}: `etcdctl role grant-permission {role} readwrite \
         --prefix=true {below}` gives its role the right"
    )]
    Denied {
        /// Who asked.
        user: String,
        /// What is not allowed.
        right: &'static str,
        /// Where.
        below: String,
        /// The user's role.
        role: String,
    },
    /// Something else answered.
    #[error("what answers at {at} is not etcd: {cause}")]
    NotEtcd {
        /// The endpoint.
        at: String,
        /// How it is known.
        cause: String,
    },
    /// An etcd without what is needed.
    #[error("etcd at {at} is {version}: 3.4 or later is needed")]
    TooOld {
        /// The endpoint.
        at: String,
        /// Its version.
        version: String,
    },
    /// Its members disagree about what is stored: nothing that it says counts any more.
    #[error(
        "etcd's members are out of sync ({0}): replace the damaged member, as etcd's documentation has it, then start this bridge again"
    )]
    Corrupt(String),
    /// Revisions that were asked for are gone; what is there now is to be read instead.
    #[error("etcd has compacted what was asked for")]
    Compacted,
    /// Another process has registered under this member's name.
    #[error(
        "another bridge is registered as `{0}`: give each its own cluster.member, or wait until the former one's lease has run out"
    )]
    NameTaken(String),
    /// The lease under which this member is registered cannot be relied on.
    #[error("this member's lease has run out, because it was cut off from etcd or stood still: it asks for another")]
    LeaseOver,
    /// Somebody else leads, or nobody.
    #[error("another member leads")]
    Deposed,
    /// Any other answer.
    #[error("etcd refuses it: {0}")]
    Refused(String),
}

impl EtcdError {
    /// Whether what was asked for may have been done all the same, or may still be.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Unanswered { .. } | Self::NoMajority(_) | Self::Broken(_))
    }

    /// Whether another endpoint may do better.
    pub(super) fn is_of_this_endpoint(&self) -> bool {
        use EtcdError as E;
        matches!(
            self,
            E::Unreachable { .. }
                | E::Tls { .. }
                | E::Unanswered { .. }
                | E::NoMajority(_)
                | E::Broken(_)
                | E::NotEtcd { .. }
                | E::TooOld { .. }
                | E::Foreign { .. }
        )
    }

    /// Whether the token is no good any more, and a new one may be.
    pub(super) fn is_token(&self) -> bool {
        matches!(self, Self::Auth(cause) if cause.contains("token") || cause.contains("revision"))
    }
}

impl From<FilesError> for EtcdError {
    fn from(error: FilesError) -> Self {
        Self::Config(match error {
            FilesError::File { key, path, cause } => format!("cluster.tls.{key} {}: {cause}", path.display()),
            FilesError::Half => "cluster.tls.cert and cluster.tls.key belong together".to_owned(),
            FilesError::NoRoots(why) => format!("no system root certificates were found ({why}); set cluster.tls.ca"),
            FilesError::Tls(error) => format!("cluster.tls: {error}"),
        })
    }
}

/// Of two failures, the one that says more: who is there and says no says more than who is not.
pub(super) fn more_telling(before: Option<EtcdError>, now: EtcdError) -> EtcdError {
    let rank = |error: &EtcdError| match error {
        EtcdError::Unreachable { .. } => 0,
        EtcdError::Unanswered { .. } => 1,
        EtcdError::NoMajority(_) => 3,
        _ => 2,
    };
    before.filter(|before| rank(before) >= rank(&now)).unwrap_or(now)
}

/// The body of an answer that says no.
#[derive(Debug, Default, Deserialize)]
struct No {
    #[serde(default)]
    message: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    code: u32,
}

/// An answer other than 200, or an error in the course of a stream.
pub(super) fn refusal(at: &str, status: StatusCode, body: &[u8]) -> EtcdError {
    if body.starts_with(b"CommonName of client") {
        return EtcdError::Config(format!(
            "etcd at {at} has users, and then takes no client certificate with a common name (CN): name one without in \
             cluster.tls.cert"
        ));
    }
    match serde_json::from_slice::<No>(body) {
        // etcd itself never says no without a code.
        Ok(no) if no.code != 0 => said(if no.message.is_empty() { no.error } else { no.message }, no.code),
        _ => {
            let at = at.to_owned();
            if body.starts_with(b"Client sent an HTTP request to an HTTPS server") {
                return EtcdError::NotEtcd {
                    at,
                    cause: "it speaks TLS: write https:// in cluster.endpoints".to_owned(),
                };
            }
            let status_code = status.as_u16();
            // A proxy says so of what it may have passed on.
            if status.is_server_error() {
                return EtcdError::Unanswered { at, cause: format!("{status_code} came instead of etcd's JSON") };
            }
            EtcdError::NotEtcd { at, cause: format!("it answers {status_code} without etcd's JSON") }
        }
    }
}

/// What etcd's own words mean; the codes are those of gRPC. With any other code than those of [`EtcdError::is_unknown`], etcd refuses
/// a request before it does anything of it; of NOSPACE, see [`EtcdError::NoSpace`].
pub(super) fn said(words: String, code: u32) -> EtcdError {
    const RESOURCE_EXHAUSTED: u32 = 8;
    const UNAVAILABLE: u32 = 14;
    const CANCELLED: u32 = 1;
    const UNKNOWN: u32 = 2;
    const INTERNAL: u32 = 13;
    const DEADLINE: u32 = 4;
    const DENIED: u32 = 7;
    const UNAUTHENTICATED: u32 = 16;
    let has = |what: &str| words.contains(what);
    if has("database space exceeded") {
        EtcdError::NoSpace
    } else if has("too large") || has("larger than max") {
        EtcdError::TooLarge
    } else if has("corrupt") {
        EtcdError::Corrupt(words)
    } else if has("compacted") {
        EtcdError::Compacted
    } else if has("too many requests") || code == RESOURCE_EXHAUSTED {
        EtcdError::TooMany
    } else if matches!(code, DENIED | UNAUTHENTICATED) || has("auth") || has("user name is empty") {
        EtcdError::Auth(words)
    } else if matches!(code, UNAVAILABLE | CANCELLED | DEADLINE) || has("no leader") || has("timed out") {
        EtcdError::NoMajority(words)
    } else if matches!(code, UNKNOWN | INTERNAL) {
        EtcdError::Broken(words)
    } else {
        EtcdError::Refused(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_tls_files_is_told_by_its_key() {
        let cause = "no certificate in PEM form in it".to_owned();
        let error = FilesError::File { key: "ca", path: "/nowhere/ca.pem".into(), cause };
        let error = EtcdError::from(error).to_string();
        assert_eq!(error, "cluster.tls.ca /nowhere/ca.pem: no certificate in PEM form in it");
        assert!(EtcdError::from(FilesError::Half).to_string().contains("belong together"));
    }

    #[test]
    fn what_etcd_says_is_typed_by_what_follows_from_it() {
        let no = |message: &str, code: u32| {
            let body = format!(r#"{{"error":"{message}","message":"{message}","code":{code}}}"#);
            refusal("http://a:2379", StatusCode::SERVICE_UNAVAILABLE, body.as_bytes())
        };
        assert_eq!(no("etcdserver: mvcc: database space exceeded", 8), EtcdError::NoSpace);
        assert_eq!(no("etcdserver: too many requests", 8), EtcdError::TooMany);
        assert_eq!(no("etcdserver: request is too large", 3), EtcdError::TooLarge);
        assert_eq!(no("grpc: received message larger than max (2 vs. 1)", 8), EtcdError::TooLarge);
        assert_eq!(no("etcdserver: mvcc: required revision has been compacted", 11), EtcdError::Compacted);
        for (words, code) in
            [("etcdserver: request timed out", 14), ("etcdserver: no leader", 14), ("context deadline exceeded", 4)]
        {
            assert!(no(words, code).is_unknown(), "{words}");
        }
        for (words, code) in [("whatever", 2), ("transport: the stream is done", 13)] {
            assert!(no(words, code).is_unknown() && no(words, code).is_of_this_endpoint(), "{words}");
        }
        assert!(!no("etcdserver: requested lease not found", 5).is_unknown());
        for (status, body, unknown) in [
            (StatusCode::BAD_GATEWAY, "<html>", true),
            (StatusCode::GATEWAY_TIMEOUT, "", true),
            (StatusCode::BAD_GATEWAY, r#"{"message":"the upstream server did not answer"}"#, true),
            (StatusCode::NOT_FOUND, "<html>", false),
            (StatusCode::UNAUTHORIZED, r#"{"message":"who are you?"}"#, false),
        ] {
            let error = refusal("http://a:2379", status, body.as_bytes());
            assert_eq!((error.is_unknown(), error.is_of_this_endpoint()), (unknown, true), "{error}");
        }
        assert!(no("etcdserver: invalid auth token", 16).is_token());
        let denied = no("etcdserver: permission denied", 7);
        assert!(!denied.is_token() && denied.to_string().contains("cluster.username"));
        let tls =
            refusal("http://a:2379", StatusCode::BAD_REQUEST, b"Client sent an HTTP request to an HTTPS server.\n");
        assert!(tls.to_string().contains("https://"));
        let named =
            b"CommonName of client sending a request against gateway will be ignored and not used as expected\n";
        let named = refusal("https://a:2379", StatusCode::BAD_REQUEST, named);
        assert!(named.to_string().contains("cluster.tls.cert"));
    }
}
