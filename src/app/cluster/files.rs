//! The small files that the members share through etcd: identity, token, quotas, subscriptions.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};

use tokio::runtime::Handle;

use crate::os::files::FileStore;
use crate::os::lock;
use crate::store::etcd::{Etcd, EtcdError, Leadership};

/// The leadership that this process writes under; none while it stands by. All clones are one.
#[derive(Debug, Clone, Default)]
pub(super) struct Present(Arc<Mutex<Option<Leadership>>>);

impl Present {
    pub(super) fn set(&self, leadership: Option<Leadership>) {
        *lock(&self.0) = leadership;
    }

    fn get(&self) -> Option<Leadership> {
        lock(&self.0).clone()
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

    /// Waits for etcd, on a thread that may block. The runtime does the work and not this thread (`block_on`): it may end
    /// meanwhile, and takes the work with it.
    fn wait<T: Send + 'static, A>(&self, ask: impl FnOnce(Arc<Etcd>) -> A) -> io::Result<T>
    where
        A: Future<Output = Result<T, EtcdError>> + Send + 'static,
    {
        let (answer, answered) = mpsc::sync_channel(1);
        let asked = ask(Arc::clone(&self.etcd));
        self.runtime.spawn(async move {
            let _ = answer.send(asked.await);
        });
        let answered = answered.recv().map_err(|_| io::Error::other("the process is ending"))?;
        answered.map_err(|error| io::Error::new(io::ErrorKind::TimedOut, error))
    }

    fn put(&self, name: &str, content: Option<&[u8]>) -> io::Result<()> {
        let leadership = self.leadership()?;
        let (name, content) = (name.to_owned(), content.map(<[u8]>::to_vec));
        self.wait(|etcd| async move { etcd.put(&leadership, &name, content.as_deref()).await })
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
        let name = name.to_owned();
        self.wait(|etcd| async move { etcd.get(&name).await })
    }

    fn create(&self, name: &str, content: &[u8]) -> io::Result<Vec<u8>> {
        let (name, content) = (name.to_owned(), content.to_vec());
        self.wait(|etcd| async move { etcd.get_or_create(&name, &content).await })
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.put(name, Some(content))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.put(name, None)
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{}/file/{name}", self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;
    use crate::os::tls::ClientFiles;
    use crate::store::Limits;
    use crate::store::etcd::EtcdConfig;

    fn config(etcd: SocketAddr) -> EtcdConfig {
        EtcdConfig {
            endpoints: vec![format!("http://{etcd}").parse().unwrap()],
            prefix: "/test".to_owned(),
            member: "a".to_owned(),
            login: None,
            tls: ClientFiles::default(),
            takeover: Duration::from_secs(6),
            limits: Limits { inbound: 1, outbound: 1, set_aside: 1 },
        }
    }

    #[tokio::test]
    async fn what_etcd_does_not_tell_may_be_told_later() {
        // Nobody listens there from the next line on.
        let config = config(TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let shared = Shared::new(&Etcd::open(&config).unwrap(), &Present::default(), "/test");
        let read = tokio::task::spawn_blocking(move || shared.read("token.json")).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn who_waits_for_an_etcd_behind_a_firewall_is_let_go_when_the_process_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (tell, told) = mpsc::channel();
        // What comes after the connections that nobody accepts gets no answer, as behind a firewall.
        let full = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            socket.listen(0).unwrap().into_std().unwrap()
        });
        let at = full.local_addr().unwrap();
        let soon = Duration::from_millis(200);
        let fillers: Vec<_> = std::iter::from_fn(|| TcpStream::connect_timeout(&at, soon).ok()).take(100).collect();
        runtime.block_on(async {
            let shared = Shared::new(&Etcd::open(&config(at)).unwrap(), &Present::default(), "/test");
            tokio::task::spawn_blocking(move || tell.send(shared.read("token.json")));
            tokio::time::sleep(soon).await;
        });
        drop(runtime);
        let read = told.recv_timeout(Duration::from_secs(20)).expect("no panic on the way");
        assert!(read.is_err());
        drop(fillers);
    }
}
