//! The broker: a persistent session that hands out what waits, and again what was not acknowledged.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::local::CommandResult;
use crate::mqtt::Delivery;
use crate::mqtt::in_memory::{Broker, Heard};

/// How long it takes for each thing that the bridge sends.
const TAKES: Duration = Duration::from_millis(1);

/// What the broker has for the bridge, and what it had of it.
#[derive(Default)]
pub(super) struct Queue {
    /// Handed over and not acknowledged, with packet id and arrival.
    unacked: VecDeque<(u16, u64, Message)>,
    waiting: VecDeque<Message>,
    last_pkid: u16,
    last_arrival: u64,
    /// When each command was acknowledged, by its mark.
    pub(super) acked: Vec<(String, Instant)>,
    /// The results.
    pub(super) results: Vec<(Instant, CommandResult)>,
}

/// A command.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) mark: String,
    pub(super) topic: String,
    pub(super) payload: Bytes,
}

impl Queue {
    /// A device publishes a command.
    pub(super) fn publish(&mut self, message: Message) {
        self.waiting.push_back(message);
    }

    fn send(&mut self, broker: &Broker) {
        for message in std::mem::take(&mut self.waiting) {
            self.last_pkid = self.last_pkid % u16::MAX + 1;
            self.last_arrival += 1;
            let place = (self.last_pkid, self.last_arrival);
            broker.send(&message.topic, message.payload.clone(), place, false);
            self.unacked.push_back((place.0, place.1, message));
        }
    }

    /// The bridge has connected.
    fn resume(&mut self, broker: &Broker) {
        self.last_arrival = 0;
        for (pkid, arrival, message) in &mut self.unacked {
            self.last_arrival += 1;
            *arrival = self.last_arrival;
            broker.send(&message.topic, message.payload.clone(), (*pkid, *arrival), true);
        }
        self.send(broker);
    }
}

/// One connection of the bridge.
pub(super) async fn serve(mut broker: Broker, queue: Arc<Mutex<Queue>>, published: Arc<Notify>) {
    queue.lock().unwrap().resume(&broker);
    let mut acked_up_to = 0;
    loop {
        tokio::select! {
            heard = broker.hears() => match heard {
                Some(Heard::Acked(pkid)) => {
                    sleep(TAKES).await;
                    let mut queue = queue.lock().unwrap();
                    let (first, arrival, message) = queue.unacked.pop_front().unwrap();
                    assert_eq!(first, pkid, "acknowledged in the order of arrival");
                    queue.acked.push((message.mark, Instant::now()));
                    acked_up_to = arrival;
                }
                Some(Heard::Published(publication, done)) => {
                    // Beside it there is a short one, for small devices.
                    if publication.topic.contains("/result/") {
                        let result = CommandResult::from_json(&publication.payload).unwrap();
                        queue.lock().unwrap().results.push((Instant::now(), result));
                    }
                    sleep(TAKES).await;
                    let _ = done.send(Delivery::Acked { no_subscribers: false });
                    broker.settled(acked_up_to);
                }
                None => return,
            },
            () = published.notified() => queue.lock().unwrap().send(&broker),
        }
    }
}
