//! The session with iLink: registration, token, and whether calls are possible.
//!
//! One task owns all of this; a [`Session`] is a handle to it. Callers post their commands themselves, side by side, with
//! the token the task has published; what they learn about the session they tell the task, which alone calls `set_config`
//! and `get_access_token` and therefore never asks for two tokens at once.
//!
//! ```text
//!            start ──► query / register ──► token ──► calls possible, upkeep of the subscriptions
//!                          ▲   ▲              ▲  │
//!      1007 ───────────────┘   │ 1004, 1006   │  │ 1008, 1015, 1003, 90 % of its life
//!                              └─ later       └──┘
//!   hold:     no call until a moment; then one of those who wait tells whether it is over, or, if nobody waits, a harmless
//!             call of our own, which reads user states (§5.10)
//!   in doubt: one call at a time, until one tells
//! ```
//!
//! Evidence is kept by endpoint, and blame is found by comparison. What one call met is its own trouble until another call
//! meets it as well; what two calls of one endpoint met is that endpoint's; the session's is what calls of several met.
//!
//! | to | code | what happens |
//! |---|---|---|
//! | a call | 1008, 1015, 1003 | one new token, the call repeated once; refused again: in doubt |
//! | a call | 1007 | registered again at once, the call repeated once; refused again: in doubt |
//! | a call | 1000, 1002, 1005, 1006 | in doubt; a command's 1001 concerns its receiver and is final |
//! | in doubt | – | another call is served: the refused one alone waits, 30 s to 5 min, and asks for no more renewals; a second one of the same endpoint is refused: that endpoint closes; one of another: hold, `degraded` or `auth_error` |
//! | a call | 1016, 1017, quotas | in doubt; a second call meets it: all wait together, 1 s to 60 s (quotas: 30 s to 5 min), then one tells |
//! | a call | no reply, but a connection | in doubt, its endpoint alone; a second call is lost there: the endpoint closes, 1 s to 60 s (answers that cannot be read: 30 s to 5 min), then one tells |
//! | anything | no connection, or lost alike at two endpoints | hold, `offline`, 1 s to 60 s; while the service is silent, first harmless calls tell, and after three of them one of those who wait may as well |
//! | `set_config` | 1000, 1001, 1005, 1002, 1003 | without a living token: hold, minutes or 30 s to 5 min; with one, calls go on |
//! | `set_config` | 1004 | no `set_config` for 10 min and more; calls go on |
//! | `set_config` | 1006 | registered again after 30 s and more, the cause says what the callback saw; calls go on |
//! | `set_config` | 1016, 1017, no reply | again after a while; calls go on, if there is a token and, after a restart, a record |
//! | `get_access_token` | 1009 | no new token for 10 min and more; the old one is used while it lives, else `degraded` |
//! | `get_access_token` | anything else | the old one is used while it lives; without one: hold, as above |
//!
//! Before `set_config` and `get_access_token` stands a `budget` that no sequence of answers, restarts or reloads outruns.
//!
//! It does not queue commands: whoever is told [`Outcome::NotReady`] waits for its endpoint's [`Door`].

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
mod tests;

pub use doors::{Door, Doors, Endpoint};
pub use handle::Session;
pub use quotas::ConfigQuota;
pub use task::start;
pub use types::{ClosedEndpoint, CloudState, Gate, Outcome, RegisterPolicy, Registry, SessionConfig, Status};
