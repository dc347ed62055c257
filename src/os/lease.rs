//! Whether this process may still act for its account: publish, and call iLink.
//!
//! A bridge that is alone always may. A member of a cluster may until a moment of the boot-time clock, which is put off each
//! time that etcd confirms its leadership. That clock counts suspended time. So a process that was stopped or suspended finds
//! the moment passed when it wakes up, before it has done anything that its successor may have done as well.
//!
//! Whoever acts asks right before each write to a socket. This costs one reading of the clock, and nothing without a cluster.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::clock::{boot_now, nap};

/// The right to act. All clones are one.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Inner>);

struct Inner {
    /// The moment of the boot-time clock at which it is over, as known now; none if it never is.
    until: Option<Box<dyn Fn() -> Duration + Send + Sync>>,
    ended: CancellationToken,
    handed_over: AtomicBool,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = self.until.as_ref().map(|until| until());
        f.debug_struct("Lease")
            .field("until", &until)
            .field("ended", &self.ended.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl Lease {
    /// For the only bridge of an account.
    #[must_use]
    pub fn always() -> Self {
        Self::of(None)
    }

    /// Until a moment of the boot-time clock, which is asked for each time because it is put off again and again.
    #[must_use]
    pub fn until(moment: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self::of(Some(Box::new(moment)))
    }

    fn of(until: Option<Box<dyn Fn() -> Duration + Send + Sync>>) -> Self {
        Self(Arc::new(Inner { until, ended: CancellationToken::new(), handed_over: AtomicBool::new(false) }))
    }

    /// Ends it now, for good.
    pub fn end(&self) {
        self.0.ended.cancel();
    }

    /// Whether it is good now.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.0.ended.is_cancelled() && self.0.until.as_ref().is_none_or(|until| boot_now() < until())
    }

    /// Resolves once it is over. Cancel-safe.
    pub async fn over(&self) {
        while self.holds() {
            let Some(until) = &self.0.until else { return self.0.ended.cancelled().await };
            // Both only wait.
            tokio::select! {
                () = self.0.ended.cancelled() => return,
                () = sleep(nap(until(), boot_now())) => {}
            }
        }
    }

    /// Says that another member takes over at once: what stands at the broker is left standing.
    pub fn hand_over(&self) {
        self.0.handed_over.store(true, Ordering::Release);
    }

    /// Whether another member takes over at once.
    #[must_use]
    pub fn is_handed_over(&self) -> bool {
        self.0.handed_over.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[tokio::test]
    async fn it_holds_until_its_moment_which_may_be_put_off_until_it_is_ended() {
        let moment = Arc::new(AtomicU64::new(0));
        let asked = Arc::clone(&moment);
        let lease = Lease::until(move || Duration::from_secs(asked.load(Ordering::Relaxed)));
        assert!(!lease.holds());
        lease.over().await;
        moment.store(u64::MAX, Ordering::Relaxed);
        let clone = lease.clone();
        assert!(clone.holds());
        clone.end();
        assert!(!lease.holds());
        lease.over().await;
    }

    #[tokio::test]
    async fn a_bridge_that_is_alone_always_may() {
        let lease = Lease::always();
        assert!(lease.holds() && !lease.is_handed_over());
        assert!(tokio::time::timeout(Duration::from_millis(1), lease.over()).await.is_err());
    }
}
