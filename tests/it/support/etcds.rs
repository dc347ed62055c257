//! A real etcd of three members, any of which may be killed.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::mosquitto::free_port;
use super::{DEADLINE, http::http, within};

const MEMBERS: usize = 3;

/// The three members; ended with the value.
pub(crate) struct Etcds {
    members: Vec<Member>,
    scheme: &'static str,
    _data: TempDir,
}

struct Member {
    child: Option<Child>,
    flags: Vec<String>,
    log: std::path::PathBuf,
    port: u16,
    /// Where it answers without TLS, for the test itself.
    plain: u16,
}

impl Etcds {
    pub(crate) async fn start() -> Self {
        Self::start_with("http", &[]).await
    }

    /// Clients need a certificate of this authority; that of the servers is `etcd.pem`.
    pub(crate) async fn start_tls(ca: &Path, cert: &Path, key: &Path) -> Self {
        let flags = [("cert-file", cert), ("key-file", key), ("trusted-ca-file", ca)];
        let mut flags = flags.map(|(name, file)| format!("--{name}={}", file.display())).to_vec();
        flags.push("--client-cert-auth".to_owned());
        Self::start_with("https", &flags).await
    }

    async fn start_with(scheme: &'static str, more: &[String]) -> Self {
        let data = tempfile::Builder::new().prefix("etcds-").tempdir().expect("a temporary directory");
        let peers: Vec<_> = (0..MEMBERS).map(|n| (n, format!("http://127.0.0.1:{}", free_port()))).collect();
        let cluster: Vec<_> = peers.iter().map(|(n, peer)| format!("e{n}={peer}")).collect();
        let member = |(n, peer): &(usize, String)| {
            let (port, plain) = (free_port(), free_port());
            let dir = data.path().join(format!("e{n}"));
            let mut flags: Vec<_> = [
                ("name", format!("e{n}")),
                ("data-dir", dir.display().to_string()),
                ("listen-client-urls", format!("{scheme}://127.0.0.1:{port},http://127.0.0.1:{plain}")),
                ("advertise-client-urls", format!("{scheme}://127.0.0.1:{port}")),
                ("listen-peer-urls", peer.clone()),
                ("initial-advertise-peer-urls", peer.clone()),
                ("initial-cluster", cluster.join(",")),
                ("logger", "zap".to_owned()),
            ]
            .iter()
            .map(|(name, value)| format!("--{name}={value}"))
            .collect();
            flags.extend_from_slice(more);
            Member { child: None, flags, log: data.path().join(format!("e{n}.log")), port, plain }
        };
        let members = peers.iter().map(member).collect();
        let mut etcds = Self { members, scheme, _data: data };
        (0..MEMBERS).for_each(|n| etcds.spawn(n));
        for n in 0..MEMBERS {
            etcds.is_healthy(n).await;
        }
        etcds
    }

    /// For `cluster.endpoints`.
    pub(crate) fn endpoints(&self) -> String {
        let urls: Vec<_> =
            self.members.iter().map(|member| format!("{}://127.0.0.1:{}", self.scheme, member.port)).collect();
        json!(urls).to_string()
    }

    /// Where clients reach a member.
    pub(crate) fn port(&self, n: usize) -> u16 {
        self.members[n].port
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, n: usize) {
        if let Some(mut child) = self.members[n].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn spawn(&mut self, n: usize) {
        let member = &mut self.members[n];
        let log = std::fs::File::options().create(true).append(true).open(&member.log).expect("a log file");
        let etcd = Command::new("etcd")
            .args(&member.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd cannot be run: apt-get install etcd-server");
        member.child = Some(etcd);
    }

    /// The member that leads the others.
    pub(crate) async fn leader(&self) -> usize {
        within(DEADLINE, "a leader of etcd", async || {
            for n in 0..MEMBERS {
                if let Some(status) = self.try_ask(n, "maintenance/status", &json!({})).await
                    && status["leader"] == status["header"]["member_id"]
                {
                    return Some(n);
                }
            }
            None
        })
        .await
    }

    /// Asks a member, without TLS.
    pub(crate) async fn ask(&self, n: usize, path: &str, question: &Value) -> Value {
        self.try_ask(n, path, question).await.expect("it answers")
    }

    async fn try_ask(&self, n: usize, path: &str, question: &Value) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}/v3/{path}", self.members[n].plain);
        http().post(url).json(question).send().await.ok()?.json().await.ok()
    }

    async fn is_healthy(&self, n: usize) {
        let (http, health) = (http(), format!("http://127.0.0.1:{}/health", self.members[n].plain));
        within(DEADLINE, "etcd", async || {
            let answer = http.get(&health).send().await.ok()?.text().await.ok()?;
            answer.contains("true").then_some(())
        })
        .await;
    }
}

impl Drop for Etcds {
    fn drop(&mut self) {
        (0..MEMBERS).for_each(|n| self.kill(n));
    }
}
