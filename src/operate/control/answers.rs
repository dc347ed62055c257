//! What a verb is answered.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::{EXIT_INTERNAL, EXIT_UNAVAILABLE, EXIT_USAGE};
use crate::cloud::{Executed, Outcome};
use crate::local::command::decode_call;
use crate::local::{Globs, Names, Rules, Status};
use crate::protocol::{Call, Reply};

/// What came of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The exit code.
    pub exit: u8,
    /// For standard output, or standard error if the exit code is not 0.
    pub text: String,
}

/// The text's length only: it may be the callback's URL with its secret.
impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("exit", &self.exit).field("len", &self.text.len()).finish()
    }
}

/// Exit code when iLink answered with an error code.
const EXIT_REFUSED: u8 = 1;

/// Reads a call as `call/…` takes it; ids in it may be names.
///
/// # Errors
/// The answer that says what is wrong with it.
pub fn parse_call(name: &str, json: &str, max_content: usize, names: &Names) -> Result<Call, Answer> {
    let rules = Rules { allow_calls: Globs::all(), max_content };
    match decode_call(name, json.as_bytes(), &rules, names) {
        Ok(command) => Ok(command.call),
        Err(rejection) => {
            Err(Answer { exit: EXIT_USAGE, text: format!("{}: {}", rejection.reason, rejection.message) })
        }
    }
}

/// The answer for one attempt at a call.
#[must_use]
pub fn outcome(outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Reply(reply) => answer(Ok(reply)),
        Outcome::Retry { executed: Executed::Unlikely | Executed::Perhaps, cause, .. } => Answer {
            exit: EXIT_UNAVAILABLE,
            text: format!("the call may or may not have been executed, and was not repeated: {cause}"),
        },
        Outcome::Retry { cause, .. } | Outcome::NotReady { cause, .. } => {
            Answer { exit: EXIT_UNAVAILABLE, text: format!("the call was not executed: {cause}") }
        }
    }
}

/// The answer for a reply of iLink, or for why there is none.
#[must_use]
pub fn answer(reply: Result<Reply, String>) -> Answer {
    match reply {
        Ok(reply) => {
            let text = json!({
                "status": if reply.code.is_ok() { Status::Ok } else { Status::Error },
                "code": reply.code.value(),
                "name": reply.code.name(),
                "message": reply.code.meaning(),
                "data": reply.extra,
            });
            Answer {
                exit: if reply.code.is_ok() { 0 } else { EXIT_REFUSED },
                text: serde_json::to_string_pretty(&text).unwrap_or_default(),
            }
        }
        Err(cause) => Answer { exit: EXIT_UNAVAILABLE, text: cause },
    }
}

/// The answer that prints the secret URL, on purpose.
#[must_use]
pub fn url(url: &SecretString) -> Answer {
    Answer { exit: 0, text: url.expose_secret().to_owned() }
}

/// The answer for a failure of our own.
#[must_use]
pub fn internal(error: &dyn std::error::Error) -> Answer {
    Answer { exit: EXIT_INTERNAL, text: error.to_string() }
}
