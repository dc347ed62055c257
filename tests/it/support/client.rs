//! An MQTT 5 client as any device on the LAN: subscribes, publishes, and keeps every message it was sent.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectProperties, Filter, Packet, PubAck, PubAckReason, Publish, PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};
use tokio::task::JoinHandle;

use super::{DEADLINE, mosquitto::Mosquitto};

/// A message as the broker delivered it.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) properties: PublishProperties,
}

impl Message {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("a text payload")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The user property of this name.
    pub(crate) fn user(&self, name: &str) -> Option<&str> {
        self.properties.user_properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl From<Publish> for Message {
    fn from(publish: Publish) -> Self {
        Self {
            topic: String::from_utf8(publish.topic.to_vec()).expect("topics are UTF-8"),
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            properties: publish.properties.unwrap_or_default(),
        }
    }
}

/// What a test publishes: QoS 1, not retained, no properties unless it says so.
#[derive(Debug, Clone)]
pub(crate) struct Out {
    topic: String,
    payload: Bytes,
    qos: QoS,
    retain: bool,
    properties: PublishProperties,
}

impl Out {
    pub(crate) fn new(topic: &str, payload: impl AsRef<[u8]>) -> Self {
        Self {
            topic: topic.to_owned(),
            payload: Bytes::copy_from_slice(payload.as_ref()),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: PublishProperties::default(),
        }
    }

    pub(crate) fn qos0(mut self) -> Self {
        self.qos = QoS::AtMostOnce;
        self
    }

    pub(crate) fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    pub(crate) fn respond_to(mut self, topic: &str, correlation: &[u8]) -> Self {
        self.properties.response_topic = Some(topic.to_owned());
        self.properties.correlation_data = Some(Bytes::copy_from_slice(correlation));
        self
    }

    /// With these MQTT 5 properties instead of what was said before.
    pub(crate) fn with(mut self, properties: PublishProperties) -> Self {
        self.properties = properties;
        self
    }

    pub(crate) fn qos2(mut self) -> Self {
        self.qos = QoS::ExactlyOnce;
        self
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    pub(crate) fn expires_in(mut self, seconds: u32) -> Self {
        self.properties.message_expiry_interval = Some(seconds);
        self
    }
}

/// Messages received, in order; the flag marks those already asked for.
type Inbox = Vec<(Message, bool)>;

/// A connected client. Its session outlives broker restarts, so that it misses nothing while the broker is away, and hears
/// nothing twice that was sent once.
pub(crate) struct Client {
    requests: AsyncClient,
    inbox: Arc<Mutex<Inbox>>,
    arrived: watch::Receiver<usize>,
    acks: AsyncMutex<mpsc::UnboundedReceiver<Acked>>,
    task: JoinHandle<()>,
}

enum Acked {
    Publish(PubAck),
    Written,
    Subscribe(Vec<SubscribeReasonCode>),
}

impl Client {
    /// Connects without a password, under a name of its own.
    pub(crate) async fn connect(broker: &Mosquitto) -> Self {
        Self::connect_as(broker, None).await
    }

    /// Connects as this user.
    pub(crate) async fn connect_as(broker: &Mosquitto, credentials: Option<(&str, &str)>) -> Self {
        Self::connect_with(broker.port(), credentials, |_| {}).await
    }

    /// Connects to whatever broker listens on this port, with what `configure` changes: a last will, a client id.
    pub(crate) async fn connect_with(
        port: u16,
        credentials: Option<(&str, &str)>,
        configure: impl FnOnce(&mut MqttOptions),
    ) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        if let Some((user, password)) = credentials {
            options.set_credentials(user, password);
        }
        let mut properties = ConnectProperties::new();
        properties.session_expiry_interval = Some(3600);
        properties.receive_maximum = Some(1000);
        options
            .set_connect_properties(properties)
            .set_clean_start(false)
            .set_max_packet_size(Some(4 * 1024 * 1024))
            .set_keep_alive(Duration::from_secs(30));
        configure(&mut options);
        let (client, mut eventloop) = AsyncClient::new(options, 100);
        let inbox = Arc::new(Mutex::new(Inbox::new()));
        let (arriving, arrived) = watch::channel(0);
        let (acking, acks) = mpsc::unbounded_channel();
        let (connected, connecting) = tokio::sync::oneshot::channel();
        let mut connected = Some(connected);
        let into = Arc::clone(&inbox);
        // What came last under each packet id: cut off before its PUBACK got through, the broker sends it again.
        let mut came = HashMap::new();
        let task = tokio::spawn(async move {
            loop {
                match eventloop.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let what = (publish.topic.clone(), publish.payload.clone());
                        if publish.qos == QoS::AtLeastOnce
                            && came.insert(publish.pkid, what.clone()) == Some(what)
                            && publish.dup
                        {
                            continue;
                        }
                        into.lock().unwrap().push((publish.into(), false));
                        arriving.send_modify(|count| *count += 1);
                    }
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        if let Some(connected) = connected.take() {
                            let _ = connected.send(());
                        }
                    }
                    Ok(Event::Incoming(Packet::PubAck(ack))) => drop(acking.send(Acked::Publish(ack))),
                    // Also the end of a QoS 2 publish.
                    Ok(Event::Incoming(Packet::PubComp(_)) | Event::Outgoing(Outgoing::Publish(0))) => {
                        drop(acking.send(Acked::Written));
                    }
                    Ok(Event::Incoming(Packet::SubAck(ack))) => drop(acking.send(Acked::Subscribe(ack.return_codes))),
                    Ok(_) => {}
                    // The broker is away: not too often, until it is back.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        tokio::time::timeout(DEADLINE, connecting).await.expect("the broker accepts the client").expect("a CONNACK");
        Self { requests: client, inbox, arrived, acks: AsyncMutex::new(acks), task }
    }

    /// Subscribes with QoS 1, retained messages with their flag, and waits for the SUBACK.
    pub(crate) async fn subscribe(&self, filter: &str) {
        let mut acks = self.acks.lock().await;
        let mut filter = Filter::new(filter, QoS::AtLeastOnce);
        filter.preserve_retain = true;
        self.requests.subscribe_many([filter]).await.expect("the client runs");
        let Acked::Subscribe(codes) = next(&mut acks).await else { panic!("not a SUBACK") };
        assert!(codes.iter().all(|code| matches!(code, SubscribeReasonCode::Success(_))), "{codes:?}");
    }

    /// Publishes a text with QoS 1 and waits for its PUBACK.
    pub(crate) async fn publish(&self, topic: &str, payload: impl AsRef<[u8]>) {
        self.send(Out::new(topic, payload)).await;
    }

    /// Publishes and waits until the broker has it.
    pub(crate) async fn send(&self, out: Out) {
        let reason = self.attempt(out).await;
        assert!(
            matches!(reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers),
            "the broker refused: {reason:?}"
        );
    }

    /// Publishes and gives what the broker says to it.
    pub(crate) async fn attempt(&self, out: Out) -> PubAckReason {
        let mut acks = self.acks.lock().await;
        let Out { topic, payload, qos, retain, properties } = out;
        self.requests.publish_with_properties(topic, qos, retain, payload, properties).await.expect("the client runs");
        match next(&mut acks).await {
            Acked::Publish(ack) => ack.reason,
            Acked::Written => PubAckReason::Success,
            Acked::Subscribe(_) => panic!("a SUBACK"),
        }
    }

    /// Publishes all of these, many in flight at once, and waits until the broker has them.
    pub(crate) async fn send_all(&self, outs: impl IntoIterator<Item = Out>) {
        let mut acks = self.acks.lock().await;
        let mut open = 0;
        for Out { topic, payload, qos, retain, properties } in outs {
            self.requests
                .publish_with_properties(topic, qos, retain, payload, properties)
                .await
                .expect("the client runs");
            open += 1;
            while acks.try_recv().is_ok() {
                open -= 1;
            }
        }
        for _ in 0..open {
            next(&mut acks).await;
        }
    }

    /// Waits until `n` messages satisfy `wanted`, which is asked once about each; gives those.
    pub(crate) async fn gather(&self, what: &str, n: usize, mut wanted: impl FnMut(&Message) -> bool) -> Vec<Message> {
        let (mut seen, mut found) = (0, Vec::new());
        // As long as some come, more may.
        loop {
            let enough = self.search_within(DEADLINE, |inbox| {
                let before = found.len();
                found.extend(inbox.iter().skip(seen).map(|(message, _)| message).filter(|m| wanted(m)).cloned());
                seen = inbox.len();
                (found.len() >= n || found.len() > before).then_some(())
            });
            assert!(enough.await.is_some(), "{} of {n} {what}; the last:\n{}", found.len(), self.describe());
            if found.len() >= n {
                return found;
            }
        }
    }

    /// The next message on this topic that was not asked for yet.
    pub(crate) async fn expect(&self, topic: &str) -> Message {
        self.expect_where(topic, |message| message.topic == topic).await
    }

    /// The next message on this topic with this payload.
    pub(crate) async fn expect_text(&self, topic: &str, text: &str) -> Message {
        let what = format!("{topic} {text:?}");
        self.expect_where(&what, |message| message.topic == topic && message.payload == text.as_bytes()).await
    }

    /// The next message on this topic, as JSON, that satisfies `wanted`.
    pub(crate) async fn expect_json(&self, topic: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        self.expect_where(topic, |message| message.topic == topic && wanted(&message.json())).await.json()
    }

    /// The first message that was not asked for yet and satisfies `wanted`.
    pub(crate) async fn expect_where(&self, what: &str, mut wanted: impl FnMut(&Message) -> bool) -> Message {
        self.search(what, |messages| {
            let (message, taken) = messages.iter_mut().find(|(message, taken)| !taken && wanted(message))?;
            *taken = true;
            Some(message.clone())
        })
        .await
    }

    /// Every message so far that satisfies `wanted`, asked for or not.
    pub(crate) fn all(&self, mut wanted: impl FnMut(&Message) -> bool) -> Vec<Message> {
        let inbox = self.inbox.lock().unwrap();
        inbox.iter().map(|(message, _)| message).filter(|message| wanted(message)).cloned().collect()
    }

    /// Waits until this condition holds for all messages so far: as long as more come, however slowly.
    pub(crate) async fn until(&self, what: &str, mut enough: impl FnMut(&[Message]) -> bool) -> Vec<Message> {
        let mut seen = 0;
        loop {
            let found = self.search_within(DEADLINE, |messages| {
                let all: Vec<_> = messages.iter().map(|(message, _)| message.clone()).collect();
                let news = all.len() > seen;
                seen = all.len();
                let done = enough(&all);
                (done || news).then_some((done, all))
            });
            match found.await {
                Some((true, all)) => return all,
                Some((false, _)) => {}
                None => panic!("waited for {what}; there was:\n{}", self.describe()),
            }
        }
    }

    /// Waits until everything the broker queued for this client before this call has arrived: a message of our own
    /// comes after it.
    pub(crate) async fn settle(&self) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let topic = format!("test/settle/{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.subscribe(&topic).await;
        self.publish(&topic, "settled").await;
        self.expect(&topic).await;
    }

    /// Looks at each arrival until `look` finds what it wants.
    async fn search<T>(&self, what: &str, look: impl FnMut(&mut Inbox) -> Option<T>) -> T {
        let found = self.search_within(DEADLINE, look).await;
        found.unwrap_or_else(|| panic!("waited for {what}; there was:\n{}", self.describe()))
    }

    async fn search_within<T>(&self, limit: Duration, mut look: impl FnMut(&mut Inbox) -> Option<T>) -> Option<T> {
        let mut arrived = self.arrived.clone();
        let searching = async {
            loop {
                arrived.mark_unchanged();
                if let Some(found) = look(&mut self.inbox.lock().unwrap()) {
                    return found;
                }
                arrived.changed().await.expect("the client runs");
            }
        };
        tokio::time::timeout(limit, searching).await.ok()
    }

    fn describe(&self) -> String {
        let inbox = self.inbox.lock().unwrap();
        let lines = inbox.iter().rev().take(40).rev().map(|(message, taken)| {
            let payload: String = String::from_utf8_lossy(&message.payload).chars().take(300).collect();
            format!("{} {} {payload}", if *taken { '-' } else { '+' }, message.topic)
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
        super::schema::check(&self.inbox);
    }
}

async fn next(acks: &mut mpsc::UnboundedReceiver<Acked>) -> Acked {
    tokio::time::timeout(DEADLINE, acks.recv()).await.expect("the broker answers").expect("the client runs")
}

#[tokio::test]
async fn misses_nothing_while_the_broker_restarts() {
    let mut broker = Mosquitto::start("");
    let (listener, speaker) = (Client::connect(&broker).await, Client::connect(&broker).await);
    listener.subscribe("a/#").await;
    speaker.publish("a/b", "before").await;
    listener.expect_text("a/b", "before").await;
    broker.restart();
    speaker.send(Out::new("a/b", "after").retained()).await;
    assert!(listener.expect_text("a/b", "after").await.retain);
    speaker.send(Out::new("a/c", "0").qos0()).await;
    listener.settle().await;
    assert_eq!(listener.all(|message| message.topic.starts_with("a/")).len(), 3);
}
