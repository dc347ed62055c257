//! The bridge as a process of its own, with a state directory, a configuration and ports of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{Answer, http, raw_connection, raw_post, read_to_close};
use super::mosquitto::{Mosquitto, free_port};
use super::pki::{Authority, LOOPBACK};
use super::process::{Finished, Process, finish};
use super::sim::{APPKEY, SECRETKEY, Sim};
use super::{DEADLINE, pace, within};

/// The uid of the bridge under test.
pub(crate) const UID: &str = "414";
/// The `create_time` of the pushes made here.
pub(crate) const TIME: i64 = 1_457_408_202;
/// The callback's path secret: given, so that a test need not ask for it.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A bridge, started or not.
pub(crate) struct Bridge {
    dir: TempDir,
    settings: BTreeMap<String, String>,
    /// TOML that follows the settings.
    tables: String,
    env: Vec<(String, String)>,
    callback_port: u16,
    admin_port: u16,
    open_files: Option<u32>,
    socket: Option<(String, TcpListener)>,
    journal: bool,
    process: Option<Process>,
    http: reqwest::Client,
}

impl Bridge {
    /// A bridge between this broker and this service, not started yet.
    pub(crate) fn new(broker: &Mosquitto, sim: &Sim) -> Self {
        Self::at(&broker.url(), sim)
    }

    /// The same, with a broker of any kind.
    pub(crate) fn at(broker: &str, sim: &Sim) -> Self {
        let dir = tempfile::Builder::new().prefix("bridge-").tempdir().expect("a temporary directory");
        let mut bridge = Self {
            settings: BTreeMap::new(),
            tables: String::new(),
            env: Vec::new(),
            callback_port: free_port(),
            admin_port: free_port(),
            open_files: None,
            socket: None,
            journal: false,
            process: None,
            http: http(),
            dir,
        };
        let callback = format!("127.0.0.1:{}", bridge.callback_port);
        let admin = format!("127.0.0.1:{}", bridge.admin_port);
        let state_dir = bridge.state_dir().display().to_string();
        for (key, value) in [
            ("state_dir", state_dir.as_str()),
            ("ilink.api", &sim.url()),
            ("ilink.appkey", APPKEY),
            ("ilink.secretkey", SECRETKEY),
            ("ilink.uid", UID),
            ("callback.listen", &callback),
            ("callback.public_url", &format!("http://{callback}")),
            ("callback.path_secret", SECRET),
            ("mqtt.broker", broker),
            ("admin.listen", &admin),
            // A flood on a busy machine may take longer than the default; where expiry matters, tests say when.
            ("outbound.ttl", "1h"),
            ("log.level", "debug"),
        ] {
            bridge = bridge.with(key, value);
        }
        bridge
    }

    /// Sets a string.
    pub(crate) fn with(self, key: &str, value: &str) -> Self {
        // A JSON string is a TOML basic string.
        let value = json!(value).to_string();
        self.with_toml(key, &value)
    }

    /// Sets a value written as TOML.
    pub(crate) fn with_toml(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets the tables that follow the settings, such as `[[route.from_ilink]]`.
    pub(crate) fn with_tables(mut self, toml: &str) -> Self {
        self.set_tables(toml);
        self
    }

    /// Changes these tables for the next start (or reload).
    pub(crate) fn set_tables(&mut self, toml: &str) {
        toml.clone_into(&mut self.tables);
    }

    /// Leaves a key out of the configuration.
    pub(crate) fn without(mut self, key: &str) -> Self {
        self.settings.remove(key);
        self
    }

    /// Sets an environment variable for its processes.
    pub(crate) fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets these environment variables for its processes.
    pub(crate) fn with_envs<'a>(mut self, env: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        self.env.extend(env.into_iter().map(|(name, value)| (name.to_owned(), value)));
        self
    }

    /// Serves its callback over TLS, with a certificate of this authority.
    pub(crate) fn with_callback_over_tls(self, pki: &Authority) -> Self {
        pki.issue("callback", &LOOPBACK, &[]);
        let url = format!("https://127.0.0.1:{}", self.callback_port);
        self.with("callback.public_url", &url)
            .with("callback.tls.cert", &pki.file("callback.pem"))
            .with("callback.tls.key", &pki.file("callback.key"))
    }

    /// Lets it have at most so many open files.
    pub(crate) fn with_open_files(mut self, limit: u32) -> Self {
        self.open_files = Some(limit);
        self
    }

    /// Hands it this listening socket at each start, under this name; `callback`: its pushes go there, too.
    pub(crate) fn with_socket(mut self, name: &str, socket: TcpListener) -> Self {
        let port = socket.local_addr().expect("a listening socket").port();
        if name == "admin" {
            self.admin_port = port;
        } else {
            self.callback_port = port;
            self = self.with("callback.public_url", &format!("http://127.0.0.1:{port}"));
        }
        self.socket = Some((name.to_owned(), socket));
        self
    }

    /// Lets it believe that its standard error is the journal.
    pub(crate) fn in_the_journal(mut self) -> Self {
        self.journal = true;
        self
    }

    /// Changes one setting for the next start (or reload).
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.settings.insert(key.to_owned(), json!(value).to_string());
    }

    /// Changes one setting, written as TOML, for the next start (or reload).
    pub(crate) fn set_toml(&mut self, key: &str, value: &str) {
        self.settings.insert(key.to_owned(), value.to_owned());
    }

    /// Writes the configuration file as it is set now.
    pub(crate) fn write_config(&self) -> PathBuf {
        let mut text = String::new();
        for (key, value) in &self.settings {
            writeln!(text, "{key} = {value}").expect("a string takes all");
        }
        text.push_str(&self.tables);
        let file = self.dir.path().join("config.toml");
        std::fs::write(&file, text).expect("a configuration file");
        file
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A directory that lives as long as the bridge, for files its configuration names.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts it, without waiting for anything.
    pub(crate) fn spawn(&mut self) {
        let config = self.write_config();
        let config = config.to_str().expect("a plain path");
        let env: Vec<_> = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.process = None;
        let args = ["--config", config, "run"];
        self.process = Some(match (self.open_files, &self.socket) {
            (None, None) if self.journal => Process::start_in_journal("bridge", &args, &env),
            (None, None) => Process::start("bridge", args, &env),
            (Some(limit), _) => Process::start_with_open_files("bridge", limit, &args, &env),
            (None, Some((name, socket))) => Process::start_with_socket("bridge", (name, socket), &args, &env),
        });
    }

    /// Starts it and waits until it says that it is ready.
    pub(crate) async fn start(&mut self) {
        self.spawn();
        self.wait_ready().await;
    }

    /// Waits until `/readyz` answers 200.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let mut last = String::from("no answer yet");
            let waiting = async {
                let mut pace = pace();
                loop {
                    pace.tick().await;
                    let process = self.process.as_mut().expect("it was started");
                    assert!(process.is_running(), "{caller}: the bridge ended:\n{}", process.output());
                    match self.try_admin("readyz").await {
                        Some(answer) if answer.status == 200 => return,
                        Some(answer) => last = answer.body,
                        None => {}
                    }
                }
            };
            let ready = tokio::time::timeout(DEADLINE, waiting).await;
            ready.unwrap_or_else(|_| panic!("{caller}: not ready: {last}"));
        }
    }

    /// Waits until the callback listener answers at all: the bridge accepts pushes though it may not be ready.
    pub(crate) async fn wait_listening(&self) {
        within(DEADLINE, "the callback listener", async || {
            Answer::try_of(self.http.get(format!("http://127.0.0.1:{}/", self.callback_port))).await.ok()
        })
        .await;
    }

    /// SIGTERM, and its end.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        let process = self.process.as_mut().expect("it was started");
        process.signal(rustix::process::Signal::TERM);
        process.ended().await
    }

    /// Any signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        self.process.as_ref().expect("it was started").signal(signal);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process().kill();
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it was started")
    }

    /// Everything it has logged since its last start.
    pub(crate) fn log(&self) -> String {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }

    /// Waits until its log holds this text.
    pub(crate) async fn logged(&self, text: &str) {
        self.process.as_ref().expect("it was started").printed(text).await;
    }

    /// Runs another command of the program with the same configuration, to its end.
    pub(crate) async fn verb(&self, args: &[&str]) -> Finished {
        let config = self.write_config();
        let mut all = vec!["--config", config.to_str().expect("a plain path")];
        all.extend(args);
        let env: Vec<_> = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        finish(all, &env).await
    }

    /// Waits until `status` says that so many wait in a queue: `inbound`, `outbound`.
    pub(crate) async fn waiting(&self, queue: &str, depth: usize) {
        let line = format!("{queue:<16}{depth} waiting");
        // It may have to deliver a flood first.
        within(4 * DEADLINE, &line, async || self.verb(&["status"]).await.text.contains(&line).then_some(())).await;
    }

    pub(crate) fn callback_port(&self) -> u16 {
        self.callback_port
    }

    pub(crate) fn admin_port(&self) -> u16 {
        self.admin_port
    }

    /// The registered URL.
    pub(crate) fn callback(&self) -> String {
        format!("http://127.0.0.1:{}/{SECRET}", self.callback_port)
    }

    /// Another path of the callback listener.
    pub(crate) fn callback_at(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.callback_port)
    }

    /// A push straight to the callback, as the service sends it.
    pub(crate) async fn post(&self, body: &Value) -> Answer {
        self.post_bytes(body.to_string().into_bytes()).await
    }

    /// A push that may be left unanswered.
    pub(crate) async fn try_post(&self, body: &Value) -> Option<Answer> {
        Answer::try_of(self.http.post(self.callback()).json(body)).await.ok()
    }

    /// A push that must be left unanswered: its connection ends without a byte.
    pub(crate) async fn unanswered(&self, body: &Value) {
        let request = raw_post(&format!("/{SECRET}"), body.to_string().as_bytes());
        let mut stream = raw_connection(self.callback_port, &request).await;
        assert_eq!(read_to_close(&mut stream, DEADLINE).await, "", "a push that cannot be stored is answered");
    }

    /// A push of any bytes.
    pub(crate) async fn post_bytes(&self, body: Vec<u8>) -> Answer {
        Answer::of(self.http.post(self.callback()).header("content-type", "application/json").body(body)).await
    }

    /// A push that must be answered 0.
    #[track_caller]
    pub(crate) fn push(&self, body: &Value) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let body = body.to_string().into_bytes();
        async move {
            let answer = self.post_bytes(body).await;
            assert_eq!(answer.status, 200, "{caller}: {answer:?}");
            assert_eq!(answer.json(), json!({"code": 0}), "{caller}");
        }
    }

    /// A request to the callback listener with this method and path.
    pub(crate) async fn request(&self, method: reqwest::Method, path: &str) -> Answer {
        Answer::of(self.http.request(method, self.callback_at(path))).await
    }

    /// `GET` of the admin listener.
    pub(crate) async fn admin(&self, path: &str) -> Answer {
        self.try_admin(path).await.expect("the admin listener answers")
    }

    async fn try_admin(&self, path: &str) -> Option<Answer> {
        Answer::try_of(self.http.get(format!("http://127.0.0.1:{}/{path}", self.admin_port))).await.ok()
    }
}

/// A text push from `from` to the bridge's uid.
pub(crate) fn text_push(from: &str, text: &str) -> Value {
    push_of(from, 1, text.as_bytes())
}

/// A text (1) or file (2) push with any content.
pub(crate) fn push_of(from: &str, msg_type: i64, content: &[u8]) -> Value {
    json!({"to_uid": UID, "from_uid": from, "msg_type": msg_type, "content": base64(content), "create_time": TIME})
}

/// Standard base64.
pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
