//! The server that promises nothing, of the same axum, rumqttc and reqwest: a push is published and answered at once, a
//! command is acknowledged at once and called. Nothing is stored, no PUBACK is waited for, no result is published.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::helper;
use crate::recorder::Recorder;

/// As the bridge's defaults.
const CALLS_AT_ONCE: usize = 8;
const WORKERS: usize = 2;

#[derive(Deserialize)]
struct Push<'a> {
    from_uid: &'a str,
    content: &'a str,
}

/// Commands.
#[derive(Default)]
struct Received {
    count: AtomicU64,
    only_counted: AtomicBool,
}

pub(crate) fn run(broker: u16, cloud: u16) {
    let received = Arc::new(Received::default());
    let counting = Arc::clone(&received);
    let (bound, port) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let (client, events) = connect("load-naive", broker);
            tokio::spawn(poll(client.clone(), events, counting, cloud));
            let app = Router::new().fallback(post(push)).layer(DefaultBodyLimit::disable()).with_state(client);
            serve(app, &bound).await;
        });
    });
    let port = port.recv().expect("a port");
    helper::serve(port, &Recorder::default(), |what, argument| match what {
        "received" => received.count.load(Ordering::Relaxed).to_string(),
        "calls" => {
            received.only_counted.store(argument == "off", Ordering::Relaxed);
            "ok".to_owned()
        }
        _ => panic!("a naive server knows no {what:?}"),
    });
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build().expect("a runtime")
}

pub(super) fn connect(client_id: &str, broker: u16) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(client_id, "127.0.0.1", broker);
    options
        .set_max_packet_size(Some(4 * 1024 * 1024))
        .set_outgoing_inflight_upper_limit(100)
        .set_keep_alive(Duration::from_secs(30));
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    AsyncClient::new(options, 1000)
}

pub(super) async fn serve(app: Router, bound: &Sender<u16>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    bound.send(listener.local_addr().expect("an address").port()).expect("our starter waits");
    axum::serve(listener, app).await.expect("it serves");
}

/// A push as the topic below `base` and the payload that it becomes.
pub(super) fn decode(body: &[u8], base: &str) -> Option<(String, Vec<u8>)> {
    let push = serde_json::from_slice::<Push<'_>>(body).ok()?;
    let content = STANDARD.decode(push.content).ok()?;
    Some((format!("{base}/recv/user/{}/text", push.from_uid), content))
}

pub(super) fn done() -> Response {
    ([(CONTENT_TYPE, "application/json")], r#"{"code":0}"#).into_response()
}

async fn push(State(client): State<AsyncClient>, body: Bytes) -> Response {
    let Some((topic, content)) = decode(&body, "naive") else { return StatusCode::BAD_REQUEST.into_response() };
    match client.publish(topic, QoS::AtLeastOnce, false, content).await {
        Ok(()) => done(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn poll(client: AsyncClient, mut events: EventLoop, received: Arc<Received>, cloud: u16) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let room = Arc::new(Semaphore::new(CALLS_AT_ONCE));
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                received.count.fetch_add(1, Ordering::Relaxed);
                if received.only_counted.load(Ordering::Relaxed) {
                    continue;
                }
                tokio::spawn(call(http.clone(), cloud, publish, Arc::clone(&room)));
            }
            // Also when the broker comes back.
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                let _ = client.try_subscribe("naive/send/#", QoS::AtLeastOnce);
            }
            Ok(_) => {}
            // The broker is away.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn call(http: reqwest::Client, cloud: u16, publish: Publish, room: Arc<Semaphore>) {
    let Ok(_room) = room.acquire().await else { return };
    let to = std::str::from_utf8(&publish.topic).unwrap_or_default().split('/').nth(3).unwrap_or_default();
    let content = STANDARD.encode(&publish.payload);
    let body = json!({"send_uid": "414", "accept_uid": to, "msg_type": 1, "content": content});
    let url = format!("http://127.0.0.1:{cloud}/send_msg?access_token=token");
    if let Ok(answer) = http.post(url).json(&body).send().await {
        let _ = answer.bytes().await;
    }
}
