//! What another member of the cluster has left, if etcd does not tell it at once.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::os::files::{Directory, FileStore, Files};

/// A directory that cannot be read for now.
#[derive(Debug)]
struct Silent {
    files: Directory,
    is_silent: Arc<AtomicBool>,
}

impl FileStore for Silent {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        if self.is_silent.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no majority"));
        }
        FileStore::read(&self.files, name)
    }

    fn create(&self, name: &str, content: &[u8]) -> io::Result<Vec<u8>> {
        self.files.create(name, content)
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        FileStore::replace(&self.files, name, content)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }

    fn path(&self, name: &str) -> PathBuf {
        FileStore::path(&self.files, name)
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_yet_is_waited_for() {
    let mut world = World::registered();
    world.ready().await.stop().await;
    assert_eq!(world.service.count("get_access_token"), 1);
    let is_silent = Arc::new(AtomicBool::new(true));
    world.config.state_dir = Files::new(Silent { files: world.dir.path().into(), is_silent: Arc::clone(&is_silent) });
    // It ends all the same.
    let waiting = world.start();
    tokio::time::sleep(HOUR / 2).await;
    waiting.stop().await;
    let running = world.start();
    tokio::time::sleep(Duration::from_mins(1)).await;
    let calls = world.service.calls();
    is_silent.store(false, Ordering::Relaxed);
    running.ready().await;
    assert_eq!(world.service.count("get_access_token"), 1, "the stored token is used");
    assert_eq!(calls.iter().filter(|call| *call == "query").count(), 1, "nothing is asked before: {calls:?}");
    running.stop().await;
}
