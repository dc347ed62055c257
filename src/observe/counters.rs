//! What the bridge counts and what has passed, for `bridge/health` and the admin pages. Each number only grows while the
//! process lives.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::observe::activity::Activity;
use crate::observe::series::Series;

/// Why a push is left unanswered, so that iLink sends it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// The inbound queue holds `spool.max_bytes`.
    Full,
    /// The disk refuses: an error, or no space left.
    Failed,
    /// The disk takes too long.
    Slow,
    /// Too many wait already, or their bodies take all the memory that there is for them.
    Overload,
}

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one more, if `condition`.
    pub fn add_if(&self, condition: bool) {
        self.0.fetch_add(u64::from(condition), Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Everything that is counted.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: Counter,)+
            /// What is counted by label, and what is timed.
            pub series: Series,
            /// What has passed lately.
            pub activity: Activity,
        }

        impl Counters {
            /// A try of a push is left unanswered.
            pub fn unanswered(&self, why: Unanswered) {
                self.pushes_unstored.add();
                match why {
                    Unanswered::Full => self.pushes_unanswered_full.add(),
                    Unanswered::Failed => self.pushes_unanswered_failed.add(),
                    Unanswered::Slow => self.pushes_unanswered_slow.add(),
                    Unanswered::Overload => self.pushes_unanswered_overload.add(),
                }
            }

            /// Every plain counter's name and its count so far.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)+]
            }
        }
    };
}

counters! {
    /// Pushes made durable and answered (or about to be).
    pushes_stored,
    /// Repeats of a push that was stored and not answered: answered, not stored again.
    pushes_repeated,
    /// Tries of pushes that could not be made durable in time, and were not answered; why is counted below.
    pushes_unstored,
    /// Of these: `spool.max_bytes` were reached.
    pushes_unanswered_full,
    /// Of these: the disk refused, or has failed.
    pushes_unanswered_failed,
    /// Of these: the disk took too long.
    pushes_unanswered_slow,
    /// Of these: too many others waited.
    pushes_unanswered_overload,
    /// Pushes for another uid than ours.
    pushes_for_other_uid,
    /// Requests on the callback from an address outside `callback.allow`.
    callback_rejected_address,
    /// Requests on the callback with a path that is not the secret one.
    callback_rejected_path,
    /// Requests on the callback with a method other than GET and POST.
    callback_rejected_method,
    /// Handshakes without the three parameters.
    callback_rejected_parameters,
    /// Handshakes with a wrong signature.
    callback_rejected_signature,
    /// Push bodies over `callback.max_body`.
    callback_rejected_size,
    /// Push bodies that are not a JSON object: kept all the same.
    callback_rejected_json,
    /// Requests too slow to finish, and connections without any.
    callback_rejected_slow,
    /// What was not TLS or not HTTP, had too large a head, or broke off in its body.
    callback_rejected_malformed,
    /// Connections cut to make room for others.
    callback_rejected_crowded,
    /// Pushes for another uid, refused under `callback.strict_to_uid`.
    callback_rejected_uid,
    /// Handshakes answered.
    handshakes_answered,
    /// Pushes delivered: every publish of them is acknowledged by the broker.
    pushes_delivered,
    /// Pushes of which the broker refused a publish for good: set aside, not delivered.
    pushes_set_aside,
    /// Pushes that went to `event/` only because they were too old.
    pushes_late,
    /// Pushes that went to `event/` only because of their sender.
    pushes_not_allowed,
    /// Presence pushes older than what was published.
    presence_stale,
    /// Publishes that the broker refused for good, set aside.
    publishes_set_aside,
    /// Commands made durable.
    commands_stored,
    /// Commands recognised as the broker's redelivery of a stored one.
    commands_redelivered,
    /// Commands refused with a result.
    commands_rejected,
    /// Requests made to iLink for commands.
    calls,
    /// Of these, how many repeated an earlier one for the same command.
    calls_repeated,
    /// Commands that ended `ok`.
    commands_ok,
    /// Commands that ended `error`.
    commands_error,
    /// Commands that ended `expired`.
    commands_expired,
    /// Commands that ended `uncertain`.
    commands_uncertain,
    /// Response topics ignored because they are not allowed.
    response_topics_ignored,
}
