//! The least that storing first can cost: each push is a row of SQLite before it is answered, with one commit and one sync for
//! all that wait, and is published then. Rows are deleted in ranges, by how many PUBACKs came. No repeats, no order of its own,
//! no retry: a measuring stick, not a bridge.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::naive;
use crate::helper;
use crate::recorder::Recorder;

/// In one commit.
const AT_ONCE: usize = 1025;

struct Push {
    body: Bytes,
    topic: String,
    content: Vec<u8>,
    stored: oneshot::Sender<()>,
}

pub(crate) fn run(broker: u16, dir: PathBuf) {
    let (bound, port) = mpsc::channel();
    std::thread::spawn(move || {
        naive::runtime().block_on(async {
            let (client, events) = naive::connect("load-least", broker);
            let acknowledged = Arc::new(AtomicU64::new(0));
            tokio::spawn(poll(events, Arc::clone(&acknowledged)));
            let (pushes, waiting) = mpsc::channel();
            std::thread::spawn(move || store(&waiting, &client, &acknowledged, &dir));
            let app = Router::new().fallback(post(push)).layer(DefaultBodyLimit::disable()).with_state(pushes);
            naive::serve(app, &bound).await;
        });
    });
    let port = port.recv().expect("a port");
    helper::serve(port, &Recorder::default(), |what, _| panic!("the least server knows no {what:?}"));
}

async fn push(State(pushes): State<Sender<Push>>, body: Bytes) -> Response {
    let Some((topic, content)) = naive::decode(&body, "least") else { return StatusCode::BAD_REQUEST.into_response() };
    let (stored, wait) = oneshot::channel();
    pushes.send(Push { body, topic, content, stored }).expect("the writer works");
    match wait.await {
        Ok(()) => naive::done(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn poll(mut events: EventLoop, acknowledged: Arc<AtomicU64>) {
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::PubAck(_))) => drop(acknowledged.fetch_add(1, Ordering::Relaxed)),
            Ok(_) => {}
            // The broker is away.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn store(waiting: &Receiver<Push>, client: &AsyncClient, acknowledged: &AtomicU64, dir: &std::path::Path) {
    let db = Connection::open(dir.join("least.db")).expect("a database");
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE push(seq INTEGER PRIMARY KEY, body BLOB);",
    )
    .expect("a table");
    let run = |sql: &str, value: &dyn rusqlite::ToSql| {
        db.prepare_cached(sql).and_then(|mut statement| statement.execute([value])).expect("it stores");
    };
    let mut deleted = 0;
    while let Ok(first) = waiting.recv() {
        let batch: Vec<_> = std::iter::once(first).chain(waiting.try_iter().take(AT_ONCE - 1)).collect();
        db.execute_batch("BEGIN IMMEDIATE").expect("it begins");
        for push in &batch {
            run("INSERT INTO push(body) VALUES (?1)", &&push.body[..]);
        }
        let now = acknowledged.load(Ordering::Relaxed);
        if now > deleted {
            run("DELETE FROM push WHERE seq <= ?1", &now.cast_signed());
            deleted = now;
        }
        db.execute_batch("COMMIT").expect("it commits");
        for Push { topic, content, stored, .. } in batch {
            let _ = stored.send(());
            while client.try_publish(topic.clone(), QoS::AtLeastOnce, false, content.clone()).is_err() {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }
}
