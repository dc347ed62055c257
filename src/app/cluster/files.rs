//! The small files that the members share through etcd: identity, token, quotas, subscriptions.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;

use crate::os::files::FileStore;
use crate::store::etcd::{Etcd, EtcdError, Leadership};

/// The leadership that this process writes under; none while it stands by. All clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Present(Arc<Mutex<Option<Leadership>>>);

impl Present {
    pub(super) fn set(&self, leadership: Option<Leadership>) {
        *self.lock() = leadership;
    }

    fn get(&self) -> Option<Leadership> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Leadership>> {
        // It is replaced whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Small files in etcd. Every member reads them; the one that leads changes them.
pub(super) struct Shared {
    etcd: Arc<Etcd>,
    present: Present,
    prefix: String,
    runtime: Handle,
}

impl Shared {
    pub(super) fn new(etcd: &Arc<Etcd>, present: &Present, prefix: &str) -> Self {
        let (etcd, present) = (Arc::clone(etcd), present.clone());
        Self { etcd, present, prefix: prefix.to_owned(), runtime: Handle::current() }
    }

    /// Waits for etcd, on a thread that may block.
    fn wait<T>(&self, asked: impl Future<Output = Result<T, EtcdError>>) -> io::Result<T> {
        self.runtime.block_on(asked).map_err(io::Error::other)
    }

    fn leadership(&self) -> io::Result<Leadership> {
        self.present.get().ok_or_else(|| io::Error::other("only the member that leads the cluster changes it"))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl FileStore for Shared {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.wait(self.etcd.get(name))
    }

    fn create(&self, name: &str, content: &[u8]) -> io::Result<Vec<u8>> {
        self.wait(self.etcd.get_or_create(name, content))
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let leadership = self.leadership()?;
        self.wait(self.etcd.put(&leadership, name, Some(content)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let leadership = self.leadership()?;
        self.wait(self.etcd.put(&leadership, name, None))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{}/file/{name}", self.prefix))
    }
}
