//! A simulated service, a client of it, and a callback that the test can script.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use ilink2mqtt::protocol::{Accepted, Variant, signature};
use ilink2mqtt::sim::{Options, serve};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take on a loaded machine.
pub(super) const PATIENCE: Duration = crate::support::DEADLINE;
pub(super) const HANDSHAKE_TOKEN: &str = "abcdefg";

/// A simulated service on a port of its own, and a client of it.
pub(super) struct Service {
    pub(super) base: String,
    pub(super) client: reqwest::Client,
    pub(super) shutdown: CancellationToken,
    pub(super) task: JoinHandle<std::io::Result<()>>,
}

pub(super) fn options() -> Options {
    Options::new("A", "S3cret")
}

impl Service {
    pub(super) async fn start(options: Options) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, options, shutdown.clone()));
        Self { shutdown, task, ..Self::at(base) }
    }

    /// A client of a service that somebody else runs.
    pub(super) fn at(base: String) -> Self {
        let client = reqwest::Client::builder();
        let client = client.no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(PATIENCE).build().unwrap();
        Self { base, client, shutdown: CancellationToken::new(), task: tokio::spawn(async { Ok(()) }) }
    }

    pub(super) async fn send(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::Result<reqwest::Response> {
        self.client.post(format!("{}/{path}", self.base)).body(body).send().await
    }

    /// The JSON that a path answers, with its status.
    pub(super) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.send(path, body.to_string()).await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
    }

    pub(super) async fn code(&self, path: &str, body: &Value) -> i64 {
        let (status, reply) = self.post(path, body).await;
        assert_eq!(status, 200, "{reply}");
        reply["code"].as_i64().unwrap()
    }

    pub(super) async fn state(&self) -> Value {
        let response = self.client.get(format!("{}/sim/state", self.base)).send().await.unwrap();
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    pub(super) async fn register(&self, uid: &str, callback: &Callback) -> Session<'_> {
        assert_eq!(self.code("set_config", &registration(uid, &callback.url)).await, 0);
        self.login(uid).await
    }

    pub(super) async fn login(&self, uid: &str) -> Session<'_> {
        let (_, reply) = self.post("get_access_token", &account(&json!({"uid": uid}))).await;
        assert_eq!(reply["code"], 0, "{reply}");
        Session { service: self, uid: uid.to_owned(), token: reply["access_token"].as_str().unwrap().to_owned() }
    }

    pub(super) async fn fault(&self, order: &Value) {
        assert_eq!(self.post("sim/fault", order).await.0, 200);
    }
}

/// A registered uid with its access token.
pub(super) struct Session<'a> {
    pub(super) service: &'a Service,
    pub(super) uid: String,
    pub(super) token: String,
}

impl Session<'_> {
    pub(super) async fn call(&self, path: &str, fields: Value) -> Value {
        let mut body = fields;
        body["send_uid"] = json!(self.uid);
        self.service.post(&format!("{path}?access_token={}", self.token), &body).await.1
    }

    pub(super) async fn code(&self, path: &str, fields: Value) -> i64 {
        self.call(path, fields).await["code"].as_i64().unwrap()
    }
}

pub(super) fn account(fields: &Value) -> Value {
    let mut body = fields.clone();
    body["appkey"] = json!("A");
    body["secretkey"] = json!("S3cret");
    body
}

pub(super) fn registration(uid: &str, url: &str) -> Value {
    account(&json!({"uid": uid, "url": url, "action_type": 0, "token": HANDSHAKE_TOKEN}))
}

/// What a callback does with one request; by default it answers as the manual asks.
pub(super) enum Behaviour {
    Answer(StatusCode, &'static str),
    Hang,
}

/// A registered URL's server: tells the test what arrives.
pub(super) struct Callback {
    pub(super) url: String,
    pushes: mpsc::UnboundedReceiver<Bytes>,
    pub(super) handshakes: mpsc::UnboundedReceiver<Uri>,
    script: Arc<Mutex<VecDeque<Behaviour>>>,
}

#[derive(Clone)]
struct CallbackState {
    accepted: Accepted,
    pushes: mpsc::UnboundedSender<Bytes>,
    handshakes: mpsc::UnboundedSender<Uri>,
    script: Arc<Mutex<VecDeque<Behaviour>>>,
}

impl Callback {
    pub(super) async fn start() -> Self {
        Self::accepting(Accepted::Only(Variant::Chars)).await
    }

    pub(super) async fn accepting(accepted: Accepted) -> Self {
        let (push_sender, pushes) = mpsc::unbounded_channel();
        let (handshake_sender, handshakes) = mpsc::unbounded_channel();
        let script = Arc::new(Mutex::new(VecDeque::new()));
        let state =
            CallbackState { accepted, pushes: push_sender, handshakes: handshake_sender, script: Arc::clone(&script) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().fallback(callback).with_state(state);
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, pushes, handshakes, script }
    }

    pub(super) fn next_answers(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.script.lock().unwrap().extend(behaviours);
    }

    pub(super) async fn raw(&mut self) -> Bytes {
        tokio::time::timeout(PATIENCE, self.pushes.recv()).await.expect("a push in time").unwrap()
    }

    pub(super) async fn push(&mut self) -> Value {
        serde_json::from_slice(&self.raw().await).unwrap()
    }

    pub(super) fn assert_quiet(&mut self) {
        assert!(self.pushes.try_recv().is_err());
    }
}

async fn callback(State(state): State<CallbackState>, method: Method, uri: Uri, body: Bytes) -> (StatusCode, String) {
    let scripted = state.script.lock().unwrap().pop_front();
    let (status, default) = if method == Method::GET {
        state.handshakes.send(uri.clone()).ok();
        let query = |name: &str| {
            let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
            pairs.into_owned().find(|(key, _)| key == name).map(|(_, value)| value).unwrap_or_default()
        };
        let (signature, timestamp, echostr) = (query("signature"), query("timestamp"), query("echostr"));
        match signature::verify(state.accepted, HANDSHAKE_TOKEN, &timestamp, &echostr, &signature) {
            Some(_) => (StatusCode::OK, echostr),
            None => (StatusCode::FORBIDDEN, String::new()),
        }
    } else {
        state.pushes.send(body).ok();
        (StatusCode::OK, r#"{"code":0}"#.to_owned())
    };
    match scripted {
        None => (status, default),
        Some(Behaviour::Answer(status, body)) => (status, body.to_owned()),
        Some(Behaviour::Hang) => std::future::pending().await,
    }
}
