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
//!   hold: nothing is called until a moment, then one harmless call of our own probes, and its reply opens the way again
//! ```
//!
//! The probe asks for user states (§5.10): it changes nothing, so that no command has to risk an unknown outcome to find
//! out whether the service is back.
//!
//! | reply to | code | what happens |
//! |---|---|---|
//! | anything of ours | 1000, 1001, 1005 | hold, `auth_error`, minutes; a command's 1001 concerns its receiver and is final |
//! | anything | 1002, 1003 | hold, `degraded`, 30 s to 5 min; 1003 after one new token and one repeat |
//! | `set_config` | 1004 | no `set_config` for 10 min and more; calls go on |
//! | `set_config` | 1006 | registered again after 30 s and more, the cause says what the callback saw; calls go on |
//! | anything | 1007 | registered again at once, the call repeated once; a second 1007: hold, `degraded` |
//! | a call | 1008, 1015 | one new token, the call repeated once; a second one: hold, `degraded` |
//! | `get_access_token` | 1009 | no new token for 10 min and more; the old one is used while it lives, else `degraded` |
//! | anything | 1016, 1017 | again after 1 s to 60 s |
//! | anything | no reply | hold, `offline`, 1 s to 60 s; if the request may have been read, a probe first tells whether the service is down or only choked on this request |
//!
//! It does not queue commands: whoever is told [`Outcome::NotReady`] waits for its endpoint's [`Door`].

mod asks;
mod callers;
mod doors;
mod gate;
mod handle;
mod holds;
mod own_calls;
mod publish;
mod quotas;
mod react;
mod store;
mod task;
mod tracks;
mod types;
mod upkeep;
mod words;

#[cfg(test)]
mod tests;

pub use doors::{Door, Doors, Endpoint};
pub use gate::Gate;
pub use handle::{Session, start};
pub use quotas::ConfigQuota;
pub use types::{CloudState, Outcome, RegisterPolicy, SessionConfig, Status};
