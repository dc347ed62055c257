//! A broker that takes, refuses or dies at each publish as a test says, and keeps what it took.

use std::sync::Arc;

use rumqttc::v5::mqttbytes::v5::PubAckReason;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use super::DEADLINE;
use super::scripted_broker::ScriptedBroker;

/// A publish, as the broker gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) topic: String,
    pub(crate) payload: String,
}

/// What the broker does with a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reaction {
    Take,
    Refuse(PubAckReason),
    /// Ends the connection.
    Die,
}

/// The running broker.
pub(crate) struct ReactingBroker {
    port: u16,
    taken: watch::Receiver<Vec<Copy>>,
    health: watch::Receiver<Value>,
    acked: watch::Receiver<Vec<u16>>,
    task: tokio::task::JoinHandle<()>,
}

impl ReactingBroker {
    /// One that reacts so to all but the bridge's own state and its probe, which it takes.
    pub(crate) async fn start(react: impl FnMut(&Copy) -> Reaction + Send + 'static) -> Self {
        Self::start_with(ScriptedBroker::bind().await, &[], react)
    }

    /// The same, with messages for the bridge (topic and payload), which come with the first connection.
    pub(crate) fn start_with(
        scripted: ScriptedBroker,
        messages: &[(&str, &str)],
        mut react: impl FnMut(&Copy) -> Reaction + Send + 'static,
    ) -> Self {
        let own = |(topic, payload): &(&str, &str)| ((*topic).to_owned(), (*payload).to_owned());
        let mut messages: Vec<_> = messages.iter().map(own).collect();
        let port = scripted.port();
        let (taking, taken) = watch::channel(Vec::new());
        let (saying, health) = watch::channel(Value::Null);
        let (acking, acked) = watch::channel(Vec::new());
        let (saying, acking) = (Arc::new(saying), Arc::new(acking));
        let task = tokio::spawn(async move {
            'connections: loop {
                let mut peer = scripted.up().await;
                peer.tell(Arc::clone(&saying), Arc::clone(&acking));
                for (pkid, (topic, payload)) in (1..).zip(messages.drain(..)) {
                    peer.command(&topic, pkid, &payload).await;
                }
                while let Some(publish) = peer.publish().await {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                    let copy = Copy { topic: text(&publish.topic), payload: text(&publish.payload) };
                    match react(&copy) {
                        Reaction::Take => {
                            taking.send_modify(|taken: &mut Vec<Copy>| taken.push(copy));
                            peer.ack(publish.pkid, PubAckReason::Success).await;
                        }
                        Reaction::Refuse(reason) => peer.ack(publish.pkid, reason).await,
                        Reaction::Die => continue 'connections,
                    }
                }
            }
        });
        Self { port, taken, health, acked, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What it took so far, in order.
    pub(crate) fn taken(&self) -> watch::Receiver<Vec<Copy>> {
        self.taken.clone()
    }

    /// Waits until it has taken enough.
    pub(crate) async fn until_taken(&self, what: &str, enough: impl FnMut(&Vec<Copy>) -> bool) -> Vec<Copy> {
        let mut taken = self.taken.clone();
        if let Ok(taken) = timeout(DEADLINE, taken.wait_for(enough)).await {
            return taken.expect("the broker runs").clone();
        }
        panic!("waited for {what}; taken: {:#?}", self.taken.borrow())
    }

    /// Waits until the bridge has acknowledged these of the messages, by number from 1 on.
    pub(crate) async fn until_acked(&self, what: &str, enough: impl Fn(&[u16]) -> bool) {
        let mut acked = self.acked.clone();
        let waited = timeout(DEADLINE, acked.wait_for(|acked| enough(acked))).await;
        assert!(waited.is_ok(), "waited for {what}; acknowledged: {:?}", self.acked.borrow());
    }

    /// Waits for a `bridge/health` that says so.
    pub(crate) async fn health(&self, what: &str, says: impl FnMut(&Value) -> bool) -> Value {
        let mut health = self.health.clone();
        if let Ok(health) = timeout(DEADLINE, health.wait_for(says)).await {
            return health.expect("the broker runs").clone();
        }
        panic!("waited for health to say {what}; it says {:#}", *self.health.borrow())
    }
}

impl Drop for ReactingBroker {
    fn drop(&mut self) {
        self.task.abort();
    }
}
