//! The session with iLink: registration, token, and whether calls are possible.
//!
//! One task owns this state; a [`Session`] is a handle to it. Callers post their commands themselves, in parallel, with
//! the token that the task has published. What they learn about the session they report to the task. Only the task
//! calls `set_config` and `get_access_token`, so that it never asks for two tokens at once.
//!
//! ```text
//!            start ──► query / register ──► token ──► calls possible, upkeep of the subscriptions
//!                          ▲   ▲              ▲  │
//!      1007 ───────────────┘   │ 1004, 1006   │  │ 1008, 1015, 1003, 90 % of its life
//!                              └─ later       └──┘
//!   hold:     no call for a time; then a test
//!   in doubt: one call at a time, until one shows what is wrong
//!   test:     one of the waiting calls is let through, or, if none waits, a harmless call of the session's own that reads
//!             user states (§5.10); its outcome decides
//! ```
//!
//! Evidence is kept per endpoint, and causes are found by comparison. Trouble that one call met is that call's until
//! another call meets it. What two calls of one endpoint met is the endpoint's. What calls of several endpoints met is
//! the session's.
//!
//! | to | code | what happens |
//! |---|---|---|
//! | a call | 1008, 1015, 1003 | one new token, the call repeated once; refused again: in doubt |
//! | a call | 1007 | registered again at once, the call repeated once; refused again: in doubt |
//! | a call | 1000, 1002, 1005, 1006 | in doubt; a command's 1001 concerns its receiver and is final |
//! | in doubt | – | another call is served: the refused one alone waits, 30 s to 5 min, and asks for no more renewals; a second one of the same endpoint is refused: that endpoint closes; one of another endpoint: hold, `degraded` or `auth_error` |
//! | a call | 1016, 1017, quotas | in doubt; a second call meets it: all wait together, 1 s to 60 s (quotas: 30 s to 5 min), then a test |
//! | a call | no reply, but a connection | in doubt, its endpoint alone; a second call is lost there: the endpoint closes, 1 s to 60 s (answers that cannot be read: 30 s to 5 min), then a test |
//! | anything | no connection, or lost alike at two endpoints | hold, `offline`, 1 s to 60 s; while the service is silent, the tests are harmless calls, and after three of them one of the waiting calls may be the test as well |
//! | `set_config` | 1003 | with a living token: one new token, and repeated once; else, and refused again, as 1002 |
//! | `set_config` | 1000, 1001, 1005, 1002 | without a living token: hold, minutes or 30 s to 5 min; with one, calls go on |
//! | `set_config` | 1004 | no `set_config` for 10 min and more; calls go on |
//! | `set_config` | 1006 | registered again after 30 s and more, the cause says what the callback saw; calls go on |
//! | `set_config` | 1016, 1017, no reply | again after a while; calls go on, if there is a token and, after a restart, a record |
//! | `get_access_token` | 1009 | no new token for 10 min and more; the old one is used while it lives, else `degraded` |
//! | `get_access_token` | anything else | the old one is used while it lives; without one: hold, as above |
//!
//! A `budget` limits `set_config` and `get_access_token`. No sequence of answers, restarts or reloads gets around it.
//!
//! The session does not queue commands: whoever gets [`Outcome::NotReady`] waits for the [`Door`] of its endpoint.

mod address;
mod blame;
mod budget;
mod doors;
mod evidence;
mod explanations;
mod handle;
mod holds;
mod messages;
mod own_calls;
mod quotas;
mod react;
mod standing;
mod state;
mod store;
mod task;
mod types;
mod upkeep;

#[cfg(test)]
pub(crate) mod tests;

pub use doors::{Door, Doors, Endpoint};
pub use handle::Session;
pub use quotas::ConfigQuota;
pub use task::start;
pub use types::{ClosedEndpoint, CloudState, Gate, Outcome, RegisterPolicy, Registry, SessionConfig, Status};
