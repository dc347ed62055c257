//! This store as the conformance tests know it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::config;
use super::server::shared;
use crate::store::conformance::{Subject, suite};
use crate::store::etcd::leading::Leader;
use crate::store::etcd::{Etcd, EtcdConfig, EtcdError, Leadership};
use crate::store::{Append as _, Limits, Store};

struct OnEtcd {
    etcd: Arc<Etcd>,
    leadership: Leadership,
    leader: Arc<Leader>,
}

impl OnEtcd {
    async fn lead(etcd: Arc<Etcd>) -> Self {
        let leadership = etcd.campaign().await;
        let leader = etcd.open_store(&leadership).await.expect("it opens");
        Self { etcd, leadership, leader }
    }
}

impl Subject for OnEtcd {
    async fn create(limits: Limits) -> Self {
        Self::lead(Etcd::open(&EtcdConfig { limits, ..config(shared(), "a") }).unwrap()).await
    }

    fn store(&self) -> Arc<dyn Store> {
        self.leader.clone()
    }

    async fn reopen(self) -> Self {
        self.leader.close().await;
        self.leadership.resign().await;
        Self::lead(self.etcd).await
    }

    async fn crash(self) -> Self {
        self.leader.kill().await;
        // The lease would do it, later.
        self.leadership.resign().await;
        Self::lead(self.etcd).await
    }

    fn fail_next_sync(&self) {
        *self.leader.rights.faults.next.lock().unwrap() =
            Some(EtcdError::Corrupt("etcdserver: corrupt cluster".to_owned()));
    }

    fn fail_next_read(&self) {
        self.leader.rights.faults.read.store(true, Ordering::Relaxed);
    }

    fn fill(&self, full: bool) {
        self.leader.rights.faults.full.store(full, Ordering::Relaxed);
    }
}

suite!(OnEtcd);
