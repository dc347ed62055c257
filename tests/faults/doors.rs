//! Where pushes are sent: the callback of the one bridge, or those of the members of a cluster, as a load balancer passes them on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::records::{SECOND, Time};

/// So long a member that did not answer gets nothing, if another is there.
const AVOIDED: Time = 3 * SECOND;

/// Callback URLs. All clones are one.
#[derive(Clone)]
pub(crate) struct Doors(Arc<Inner>);

struct Inner {
    urls: Vec<String>,
    next: AtomicUsize,
    /// Until when each is avoided.
    avoided: Vec<AtomicU64>,
}

impl Doors {
    pub(crate) fn new(urls: Vec<String>) -> Self {
        let avoided = urls.iter().map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Inner { urls, next: AtomicUsize::new(0), avoided }))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.urls.len()
    }

    pub(crate) fn url(&self, door: usize) -> &str {
        &self.0.urls[door]
    }

    /// The next in turn. After `failed`, another one.
    pub(crate) fn pick(&self, now: Time, failed: Option<usize>) -> usize {
        let count = self.0.urls.len();
        let first = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut others = (first..first + count).map(|door| door % count).filter(|door| Some(*door) != failed);
        let answers = |door: &usize| self.0.avoided[*door].load(Ordering::Relaxed) <= now;
        others.clone().find(answers).or_else(|| others.next()).or(failed).unwrap_or(0)
    }

    pub(crate) fn failed(&self, door: usize, now: Time) {
        self.0.avoided[door].store(now + AVOIDED, Ordering::Relaxed);
    }
}

pub(crate) fn self_check() {
    let one = Doors::new(vec!["a".to_owned()]);
    one.failed(0, 0);
    assert_eq!([one.pick(0, None), one.pick(0, Some(0))], [0, 0]);
    let three = Doors::new(["a", "b", "c"].map(str::to_owned).to_vec());
    assert_eq!([(); 4].map(|()| three.pick(0, None)), [0, 1, 2, 0]);
    three.failed(1, 0);
    assert_eq!([(); 3].map(|()| three.pick(1, None)), [2, 2, 0]);
    assert!((0..9).all(|_| three.pick(1, Some(0)) == 2));
    assert_eq!(three.pick(AVOIDED + 1, None), 1);
}
