//! The session against a scripted service, on the paused clock: every wait is as long as it is documented, and no test takes
//! that long. The same over HTTP is in `tests/it/cloud/session.rs`.

mod addresses;
mod calls;
mod damping;
mod endpoints;
mod gated;
mod overtaken;
mod registering;
mod restored;
mod upkeep;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{CloudState, Outcome, RegisterPolicy, Session, SessionConfig, Status, start};
use crate::cloud::{Executed, Handshake, HandshakeLog, Post, Registry, Timing, TransportError};
use crate::protocol::{Account, Call, Reply, Request, ResultCode};

const URL: &str = "https://home.example/ilink/path-s3cret";
const HOUR: Duration = Duration::from_hours(1);

type Answer = Result<Reply, TransportError>;

/// The service: what is scripted for a call is answered in that order, everything else well.
#[derive(Clone, Default)]
struct Service(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    script: HashMap<&'static str, VecDeque<Answer>>,
    always: HashMap<&'static str, Answer>,
    calls: Vec<(Instant, String, Option<String>, serde_json::Value)>,
    /// Calls whose answers wait, and how many wait.
    held: HashMap<&'static str, usize>,
    tokens: u32,
    /// How long calls take that do not take 10 ms.
    slow: HashMap<&'static str, Duration>,
    /// What tokens are said to live.
    life: Option<u64>,
    /// What the callback sees during the next registrations.
    handshakes: VecDeque<Option<(HandshakeLog, Handshake)>>,
}

fn name(request: &Request) -> &'static str {
    match (request.path, request.body.get("action_type").and_then(serde_json::Value::as_i64)) {
        ("set_config", Some(0)) => "register",
        ("set_config", Some(1)) => "unregister",
        ("set_config", _) => "query",
        (path, _) => path,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "one of several answers")]
fn code(code: i64) -> Answer {
    Ok(Reply { code: ResultCode::new(code), extra: serde_json::Map::new() })
}

fn unsent() -> Answer {
    Err(TransportError::Unsent { cause: "refused".to_owned() })
}

fn ambiguous() -> Answer {
    Err(TransportError::Unanswered { cause: "no answer".to_owned() })
}

impl Service {
    /// The next answers to a call.
    fn next(&self, call: &'static str, answers: impl IntoIterator<Item = Answer>) -> &Self {
        self.0.lock().unwrap().script.entry(call).or_default().extend(answers);
        self
    }

    /// The answer to a call for which none is scripted.
    fn always(&self, call: &'static str, answer: Answer) -> &Self {
        self.0.lock().unwrap().always.insert(call, answer);
        self
    }

    /// A call is answered well again.
    fn forget(&self, call: &'static str) {
        self.0.lock().unwrap().always.remove(call);
    }

    /// From now on, answers to this call wait until [`Self::let_go`].
    fn hold(&self, call: &'static str) {
        self.0.lock().unwrap().held.entry(call).or_default();
    }

    /// Resolves when an answer waits.
    async fn held(&self, call: &'static str) {
        while self.0.lock().unwrap().held.get(call) == Some(&0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn let_go(&self, call: &'static str) {
        self.0.lock().unwrap().held.remove(call);
    }

    /// Whether this call has to wait; counts it once.
    fn waits(&self, call: &'static str, first: bool) -> bool {
        let mut inner = self.0.lock().unwrap();
        let waiting = inner.held.get_mut(call);
        waiting.map(|waiting| *waiting += usize::from(first)).is_some()
    }

    /// The names of the calls so far, apart from the session's own about presence and subscriptions.
    fn calls(&self) -> Vec<String> {
        let inner = self.0.lock().unwrap();
        inner.calls.iter().map(|(_, name, ..)| name.clone()).filter(|name| name != "ham_user").collect()
    }

    fn count(&self, call: &str) -> usize {
        self.times(call).len()
    }

    fn times(&self, call: &str) -> Vec<Instant> {
        self.0.lock().unwrap().calls.iter().filter(|(_, name, ..)| name == call).map(|(at, ..)| *at).collect()
    }

    /// The tokens with which a call came.
    fn tokens(&self, call: &str) -> Vec<String> {
        let inner = self.0.lock().unwrap();
        inner.calls.iter().filter(|(_, name, ..)| name == call).filter_map(|(_, _, token, _)| token.clone()).collect()
    }

    fn bodies(&self, call: &str) -> Vec<serde_json::Value> {
        let inner = self.0.lock().unwrap();
        inner.calls.iter().filter(|(_, name, ..)| name == call).map(|(.., body)| body.clone()).collect()
    }

    fn answer(&self, request: &Request, token: Option<&SecretString>) -> Answer {
        let name = name(request);
        let mut inner = self.0.lock().unwrap();
        let token = token.filter(|_| request.with_token).map(|token| token.expose_secret().to_owned());
        inner.calls.push((Instant::now(), name.to_owned(), token, json!(request.body)));
        if name == "register"
            && let Some(Some((log, handshake))) = inner.handshakes.pop_front()
        {
            log.note(handshake);
        }
        let scripted = inner.script.get_mut(name).and_then(VecDeque::pop_front);
        if let Some(answer) = scripted.or_else(|| inner.always.get(name).cloned()) {
            return answer;
        }
        let mut reply = code(0)?;
        if name == "get_access_token" {
            inner.tokens += 1;
            reply.extra.insert("access_token".to_owned(), json!(format!("token-{}", inner.tokens)));
            reply.extra.insert("expires_in".to_owned(), json!(inner.life.unwrap_or(7200)));
        }
        Ok(reply)
    }
}

impl Post for Service {
    fn post<'a>(
        &'a self,
        request: &'a Request,
        token: Option<&'a SecretString>,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        Box::pin(async move {
            // Every call takes a while, so that calls overlap.
            let slow = self.0.lock().unwrap().slow.get(name(request)).copied();
            tokio::time::sleep(slow.unwrap_or(Duration::from_millis(10))).await;
            let mut first = true;
            while self.waits(name(request), first) {
                first = false;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.answer(request, token)
        })
    }
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Keeps what this thread logs, until what is returned is dropped.
    fn keep(&self, level: tracing::Level) -> Keeping {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        // With one subscriber in the process, tracing lets whichever thread comes first decide what is of interest to
        // anyone; the other tests' threads have none. With two it asks both.
        Keeping {
            _another: tracing::Dispatch::new(tracing_subscriber::registry()),
            _logging: tracing::subscriber::set_default(subscriber),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

struct Keeping {
    _another: tracing::Dispatch,
    _logging: tracing::subscriber::DefaultGuard,
}

/// `identity.json` in memory.
#[derive(Default)]
pub(crate) struct Record {
    confirmed: Mutex<Option<(String, String)>>,
    unregistered: Mutex<bool>,
}

impl Registry for Record {
    fn confirmed(&self, url: &SecretString, token: &SecretString) -> bool {
        let ours = (url.expose_secret().to_owned(), token.expose_secret().to_owned());
        *self.confirmed.lock().unwrap() == Some(ours)
    }

    fn record(&self, url: &SecretString, token: &SecretString) -> io::Result<()> {
        *self.confirmed.lock().unwrap() = Some((url.expose_secret().to_owned(), token.expose_secret().to_owned()));
        Ok(())
    }

    fn forget(&self) -> io::Result<()> {
        *self.confirmed.lock().unwrap() = None;
        Ok(())
    }

    fn unregistered_by_operator(&self) -> bool {
        *self.unregistered.lock().unwrap()
    }

    fn set_unregistered_by_operator(&self, unregistered: bool) -> io::Result<()> {
        *self.unregistered.lock().unwrap() = unregistered;
        Ok(())
    }
}

/// A state directory and a service, between which sessions come and go.
struct World {
    service: Service,
    record: Arc<Record>,
    handshakes: HandshakeLog,
    dir: TempDir,
    config: SessionConfig,
}

struct Running {
    session: Session,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let account = Account {
            appkey: "app".to_owned(),
            secretkey: "secretkey-s3cret".into(),
            uid: "414".parse().unwrap(),
            presence_action: 2,
        };
        let config = SessionConfig {
            account,
            api: "https://api.example:8183".parse().unwrap(),
            state_dir: dir.path().into(),
            register: RegisterPolicy::IfNeeded,
            callback_url: URL.into(),
            handshake_token: "handshakes3cret".into(),
            verify_every: Duration::ZERO,
            topics: Vec::new(),
            presence: Vec::new(),
            timing: Timing::default(),
        };
        Self { service: Service::default(), record: Arc::default(), handshakes: HandshakeLog::default(), dir, config }
    }

    /// As after an earlier run that registered.
    fn registered() -> Self {
        let world = Self::new();
        world.record.record(&URL.into(), &"handshakes3cret".into()).unwrap();
        world
    }

    fn start(&self) -> Running {
        let shutdown = CancellationToken::new();
        let registry: Arc<dyn Registry> = Arc::clone(&self.record) as _;
        let (session, task) =
            start(self.service.clone(), self.config.clone(), registry, self.handshakes.clone(), shutdown.clone());
        Running { session, shutdown, task }
    }

    /// Started, and ready for calls.
    async fn ready(&self) -> Running {
        let running = self.start();
        running.ready().await;
        running
    }
}

impl Running {
    async fn ready(&self) {
        timeout(24 * HOUR, self.session.ready()).await.expect("calls are never possible");
    }

    async fn state(&self, state: CloudState) -> Status {
        let mut status = self.session.status();
        let reached = timeout(24 * HOUR, status.wait_for(|status| status.state == state)).await;
        reached.unwrap_or_else(|_| panic!("never {state:?}: {:?}", self.session.status().borrow())).unwrap().clone()
    }

    async fn send(&self) -> Outcome {
        self.session.call(&text("413")).await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

fn text(to: &str) -> Call {
    Call::SendText { to: to.parse().unwrap(), content: b"on".to_vec() }
}

fn replied(outcome: &Outcome) -> i64 {
    match outcome {
        Outcome::Reply(reply) => reply.code.value(),
        other => panic!("no reply: {other:?}"),
    }
}

/// Seconds from one moment to the next.
fn gaps(moments: &[Instant]) -> Vec<u64> {
    moments.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect()
}

fn not_ready(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::NotReady { cause, .. } => cause,
        other => panic!("ready: {other:?}"),
    }
}
