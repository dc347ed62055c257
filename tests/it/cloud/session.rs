//! The session over HTTP, against the simulated service and a callback that answers its handshake.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use ilink2mqtt::cloud::{
    Backoff, Client, ClientConfig, CloudState, Executed, Handshake, HandshakeLog, Outcome, RegisterPolicy, Registry,
    Session, SessionConfig, Status, Timing, start,
};
use ilink2mqtt::protocol::{Accepted, Account, Call, Qos, Variant, signature};
use ilink2mqtt::sim::{Options, serve};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::support::{DEADLINE, eventually};

const HANDSHAKE_TOKEN: &str = "handshakeT0ken";

#[derive(Default)]
struct Record {
    confirmed: Mutex<Option<String>>,
    unregistered: Mutex<bool>,
}

impl Registry for Record {
    fn confirmed(&self, url: &SecretString, _: &SecretString) -> bool {
        self.confirmed.lock().unwrap().as_deref() == Some(url.expose_secret())
    }

    fn record(&self, url: &SecretString, _: &SecretString) -> io::Result<()> {
        *self.confirmed.lock().unwrap() = Some(url.expose_secret().to_owned());
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

/// A callback that accepts one variant and notes what it sees, as the bridge's does.
async fn callback(accepted: Variant, log: HandshakeLog) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/path-s3cret", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state((accepted, log));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn answer(State((accepted, log)): State<(Variant, HandshakeLog)>, uri: Uri) -> (StatusCode, String) {
    let begun = Instant::now();
    let query = |name: &str| {
        let mut pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    let (given, timestamp, echostr) = (query("signature"), query("timestamp"), query("echostr"));
    let verified = signature::verify(Accepted::Only(accepted), HANDSHAKE_TOKEN, &timestamp, &echostr, &given);
    let Some(variant) = verified else {
        log.note(Handshake::WrongSignature);
        return (StatusCode::FORBIDDEN, String::new());
    };
    log.note(Handshake::Answered(variant, begun.elapsed()));
    (StatusCode::OK, echostr)
}

struct World {
    api: Url,
    http: reqwest::Client,
    dir: TempDir,
    record: Arc<Record>,
    handshakes: HandshakeLog,
    callback: String,
    secretkey: &'static str,
}

struct Running {
    session: Session,
    shutdown: CancellationToken,
}

impl World {
    /// A simulated service that signs by `chars`, and a callback that accepts one variant.
    async fn new(accepted: Variant) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(serve(
            listener,
            Options { strict: true, ..Options::new("A", "S3cret") },
            CancellationToken::new(),
        ));
        let handshakes = HandshakeLog::default();
        Self {
            api,
            http: reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().unwrap(),
            dir: tempfile::tempdir().unwrap(),
            record: Arc::default(),
            callback: callback(accepted, handshakes.clone()).await,
            handshakes,
            secretkey: "S3cret",
        }
    }

    fn start(&self) -> Running {
        let millis = |first, most| Backoff { first: Duration::from_millis(first), most: Duration::from_millis(most) };
        let waits = millis(20, 200);
        let account = Account {
            appkey: "A".to_owned(),
            secretkey: self.secretkey.into(),
            uid: "414".parse().unwrap(),
            presence_action: 2,
        };
        let config = SessionConfig {
            account,
            api: self.api.clone(),
            state_dir: self.dir.path().into(),
            register: RegisterPolicy::IfNeeded,
            callback_url: self.callback.as_str().into(),
            handshake_token: HANDSHAKE_TOKEN.into(),
            verify_every: Duration::ZERO,
            topics: vec![("home/lamp".parse().unwrap(), Qos::AtLeastOnce)],
            presence: vec!["413".parse().unwrap()],
            timing: Timing { link: waits, conflict: waits, callback: waits, config: waits, quota: waits },
        };
        let client =
            ClientConfig { api: self.api.clone(), timeout: Duration::from_secs(20), proxy: None, extra_ca: None };
        let shutdown = CancellationToken::new();
        let registry: Arc<dyn Registry> = Arc::clone(&self.record) as _;
        let client = Client::new(&client).unwrap();
        let (session, _task) = start(client, config, registry, self.handshakes.clone(), shutdown.clone());
        Running { session, shutdown }
    }

    async fn ready(&self) -> Running {
        let running = self.start();
        timeout(DEADLINE, running.session.ready()).await.expect("calls are never possible");
        running
    }

    async fn control(&self, path: &str, body: &Value) {
        let url = self.api.join(path).unwrap();
        let response = self.http.post(url).body(body.to_string()).send().await.unwrap();
        assert!(response.status().is_success(), "{}", response.text().await.unwrap());
    }

    async fn state(&self) -> Value {
        let response = self.http.get(self.api.join("/sim/state").unwrap()).send().await.unwrap();
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }
}

impl Running {
    async fn send(&self) -> Outcome {
        self.session.call(&Call::SendText { to: "413".parse().unwrap(), content: b"on".to_vec() }).await
    }

    async fn state(&self, state: CloudState) -> Status {
        let mut status = self.session.status();
        let reached = timeout(DEADLINE, status.wait_for(|status| status.state == state)).await;
        reached.unwrap_or_else(|_| panic!("never {state:?}")).unwrap().clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn code(outcome: &Outcome) -> i64 {
    match outcome {
        Outcome::Reply(reply) => reply.code.value(),
        other => panic!("no reply: {other:?}"),
    }
}

#[tokio::test]
async fn a_session_registers_subscribes_and_outlives_what_the_service_forgets() {
    let world = World::new(Variant::Chars).await;
    let running = world.ready().await;
    assert_eq!(code(&running.send().await), 0);
    assert_eq!(world.handshakes.variant(), Some(Variant::Chars));
    let subscribed = eventually("the subscriptions", async || {
        let subscriptions = world.state().await["subscriptions"].to_string();
        (subscriptions.contains("home/lamp") && subscriptions.contains("413")).then_some(())
    });
    subscribed.await;
    let mut presence = running.session.presence_states();
    let read = timeout(DEADLINE, presence.wait_for(|states| !states.is_empty())).await.unwrap().unwrap().clone();
    assert_eq!(read, [("413".parse().unwrap(), false)]);

    world.control("/sim/expire", &json!({})).await;
    assert_eq!(code(&running.send().await), 0);
    world.control("/sim/forget", &json!({})).await;
    assert_eq!(code(&running.send().await), 0);
    for refused in [1007, 1008, 1003] {
        world.control("/sim/fault", &json!({"path": "send_msg", "mode": "code", "code": refused})).await;
        assert_eq!(code(&running.send().await), 0, "{refused}");
    }
    running.state(CloudState::Online).await;
}

#[tokio::test]
async fn a_second_run_neither_registers_nor_asks_for_a_token() {
    let world = World::new(Variant::Chars).await;
    drop(world.ready().await);
    let before = world.state().await;
    let running = world.ready().await;
    assert_eq!(code(&running.send().await), 0);
    let after = world.state().await;
    assert_eq!(before["handshakes_total"], after["handshakes_total"]);
    assert_eq!(before["tokens_issued"], after["tokens_issued"]);
}

#[tokio::test]
async fn a_wrong_signature_is_said_to_be_the_cause() {
    let world = World::new(Variant::Plain).await;
    let running = world.start();
    let status = running.state(CloudState::Degraded).await;
    assert!(status.cause.contains("1006") && status.cause.contains("callback.signature"), "{}", status.cause);
    assert!(!status.cause.contains("s3cret"), "{}", status.cause);
}

#[tokio::test]
async fn wrong_credentials_are_said_to_be_the_cause() {
    let mut world = World::new(Variant::Chars).await;
    world.secretkey = "wr0ng";
    let running = world.start();
    let status = running.state(CloudState::AuthError).await;
    assert!(status.cause.contains("ilink.secretkey") && !status.cause.contains("wr0ng"), "{}", status.cause);
    assert!(matches!(running.send().await, Outcome::NotReady { .. }));
}

#[tokio::test]
async fn a_call_that_is_dropped_is_ambiguous_and_the_way_opens_again() {
    let world = World::new(Variant::Chars).await;
    let running = world.ready().await;
    // A status of 300 or more without iLink's JSON is whoever stands in front.
    for (mode, so) in [("drop", Executed::Perhaps), ("status", Executed::Unlikely), ("garbage", Executed::Perhaps)] {
        world.control("/sim/fault", &json!({"path": "send_msg", "mode": mode})).await;
        assert!(matches!(running.send().await, Outcome::Retry { executed, .. } if executed == so), "{mode}");
        timeout(DEADLINE, running.session.ready()).await.unwrap();
        assert_eq!(code(&running.send().await), 0);
    }
}

#[tokio::test]
async fn a_service_that_is_gone_is_offline_until_it_is_back() {
    let world = World::new(Variant::Chars).await;
    let running = world.ready().await;
    world.control("/sim/fault", &json!({"path": "*", "mode": "drop", "times": 0})).await;
    let _ = running.send().await;
    let status = running.state(CloudState::Offline).await;
    assert!(status.cause.contains("closed the connection"), "{}", status.cause);
    assert!(matches!(running.send().await, Outcome::NotReady { .. }));
    world.control("/sim/fault", &json!({"path": "*", "mode": "clear"})).await;
    running.state(CloudState::Online).await;
    assert_eq!(code(&running.send().await), 0);
}

#[tokio::test]
async fn the_operators_verbs_reach_the_service() {
    let world = World::new(Variant::Chars).await;
    let running = world.ready().await;
    assert!(running.session.query().await.unwrap().code.is_ok());
    assert!(running.session.unregister().await.unwrap().code.is_ok());
    assert_eq!(running.session.status().borrow().state, CloudState::Unregistered);
    assert_eq!(world.state().await["registrations"], json!([]));
    assert_eq!(running.session.query().await.unwrap().code.value(), 1007);
    assert!(running.session.register().await.unwrap().code.is_ok());
    timeout(DEADLINE, running.session.ready()).await.unwrap();
    assert_eq!(code(&running.send().await), 0);
}
