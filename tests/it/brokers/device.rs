//! A device that speaks MQTT 3.1.1, as every broker understands it: keeps what it was sent, and subscribes anew whenever the
//! broker is back.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, Publish, QoS};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::DEADLINE;

pub(super) struct Device {
    requests: AsyncClient,
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    messages: Vec<Publish>,
    /// SUBACKs and PUBACKs so far.
    subscribed: usize,
    acknowledged: usize,
}

impl Device {
    /// Connects, as soon as the broker is there, and subscribes to this with QoS 1.
    pub(super) async fn hearing(port: u16, filter: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("device-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(30)).set_max_packet_size(1 << 20, 1 << 20);
        let (requests, mut events) = AsyncClient::new(options, 100);
        let (tell, seen) = watch::channel(Seen::default());
        let (again, filter) = (requests.clone(), filter.to_owned());
        let task = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        again.try_subscribe(&filter, QoS::AtLeastOnce).expect("room for a request");
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => tell.send_modify(|seen| seen.subscribed += 1),
                    Ok(Event::Incoming(Packet::PubAck(_))) => tell.send_modify(|seen| seen.acknowledged += 1),
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        tell.send_modify(|seen| seen.messages.push(publish));
                    }
                    Ok(_) => {}
                    // The broker is away: not too often, until it is back.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        let device = Self { requests, seen, task };
        device.wait("its subscription", |seen| (seen.subscribed > 0).then_some(())).await;
        device
    }

    /// How often it has subscribed so far.
    pub(super) fn subscriptions(&self) -> usize {
        self.seen.borrow().subscribed
    }

    /// Waits until it has subscribed more often than that.
    pub(super) async fn subscribed_again(&self, before: usize) {
        self.wait("the broker to be back", |seen| (seen.subscribed > before).then_some(())).await;
    }

    /// Publishes with QoS 1 and waits for the PUBACK.
    pub(super) async fn publish(&self, topic: &str, payload: &str) {
        let before = self.seen.borrow().acknowledged;
        self.requests.publish(topic, QoS::AtLeastOnce, false, payload).await.expect("the client runs");
        self.wait("a PUBACK", |seen| (seen.acknowledged > before).then_some(())).await;
    }

    /// The first message on this topic that satisfies `wanted`.
    pub(super) async fn expect(&self, topic: &str, wanted: impl Fn(&str) -> bool) -> Publish {
        let is_it = |message: &&Publish| message.topic == topic && wanted(&text(message));
        self.wait(topic, |seen| seen.messages.iter().find(is_it).cloned()).await
    }

    /// The first message on this topic with this payload.
    pub(super) async fn expect_text(&self, topic: &str, payload: &str) -> Publish {
        self.expect(topic, |text| text == payload).await
    }

    /// Every message so far on this topic.
    pub(super) fn all(&self, topic: &str) -> Vec<Publish> {
        self.seen.borrow().messages.iter().filter(|message| message.topic == topic).cloned().collect()
    }

    /// The payload of the message on this topic that came after `before` others.
    pub(super) async fn nth(&self, topic: &str, before: usize) -> String {
        self.wait(topic, |seen| seen.messages.iter().filter(|message| message.topic == topic).nth(before).map(text))
            .await
    }

    /// Waits for the last of these texts, and demands that each came, the first times in this order.
    pub(super) async fn expect_in_order(&self, topic: &str, texts: &[String]) {
        self.expect_text(topic, texts.last().expect("some")).await;
        let mut known = HashSet::new();
        let came = self.all(topic).into_iter().map(|message| text(&message));
        let came: Vec<_> = came.filter(|text| texts.contains(text) && known.insert(text.clone())).collect();
        assert_eq!(came, texts);
    }

    async fn wait<T>(&self, what: &str, mut look: impl FnMut(&Seen) -> Option<T>) -> T {
        let mut seen = self.seen.clone();
        let waiting = async {
            loop {
                if let Some(found) = look(&seen.borrow_and_update()) {
                    return found;
                }
                seen.changed().await.expect("the client runs");
            }
        };
        let found = tokio::time::timeout(DEADLINE, waiting).await;
        found.unwrap_or_else(|_| panic!("waited for {what}; there was:\n{}", self.describe()))
    }

    fn describe(&self) -> String {
        let seen = self.seen.borrow();
        let last = seen.messages.iter().rev().take(40).rev();
        last.map(|message| format!("{} {}", message.topic, text(message))).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) fn text(message: &Publish) -> String {
    String::from_utf8_lossy(&message.payload).into_owned()
}
