//! The link to the broker: nothing lost and nothing acknowledged falsely, whatever broker and network do.

mod attempts;
mod cuts;
mod hostile;
mod inbox;
mod lanes;
mod mosquitto;
mod outbox;
mod results;
mod standing;
mod tls;

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use ilink2mqtt::local::{Base, Publication};
use ilink2mqtt::mqtt::{
    self, Arrived, Delivery, Incoming, Link, LinkConfig, LinkState, Protocol, Subscriptions, Timing,
};
use ilink2mqtt::os::tls::ClientFiles;
use tokio::task::unconstrained;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::DEADLINE;
use crate::support::random::Random;

/// A link under test; ends with the value.
struct Tested {
    link: Link,
    shutdown: CancellationToken,
}

/// In a hurry, but for the keep alive: a broker that is busy with a test's flood on a busy machine must not be given up.
pub(crate) fn config(port: u16) -> LinkConfig {
    let base: Base = "ilink".parse().unwrap();
    let state = |text: &'static str| Publication::raw(base.bridge("state"), text).retained();
    LinkConfig {
        broker: format!("mqtt://127.0.0.1:{port}").parse().unwrap(),
        other_brokers: Vec::new(),
        protocol: Protocol::V5,
        client_id: "ilink2mqtt-414".to_owned(),
        credentials: None,
        tls: ClientFiles::default(),
        max_packet: 1024 * 1024,
        session_expiry: 300,
        persistent_session: false,
        expect_session: false,
        filters: base.command_filters().to_vec(),
        routes: tokio::sync::watch::channel(mqtt::RouteFilters::default()).1,
        will: state("offline"),
        farewell: vec![Publication::raw(base.bridge("cloud"), "offline").retained()],
        birth: vec![state("online")],
        own_uid: "414".parse().unwrap(),
        base,
        lease: ilink2mqtt::os::lease::Lease::always(),
        timing: Timing {
            keep_alive: Duration::from_secs(20),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(50),
            self_test_limit: Duration::from_secs(10),
            recheck_every: Duration::from_millis(500),
            conflict_retry: Duration::from_millis(200),
            refused_retry: Duration::from_millis(20),
            ..Timing::default()
        },
    }
}

impl Tested {
    fn start(config: LinkConfig) -> Self {
        let shutdown = CancellationToken::new();
        let link = mqtt::start(config, shutdown.clone()).unwrap();
        Self { link, shutdown }
    }

    /// Starts and waits until commands arrive.
    async fn up(config: LinkConfig) -> Self {
        let mut tested = Self::start(config);
        tested.until(|state| state.subscriptions == Subscriptions::Granted).await;
        tested
    }

    async fn until(&mut self, condition: impl FnMut(&LinkState) -> bool) -> LinkState {
        if let Ok(state) = timeout(DEADLINE, self.link.state.wait_for(condition)).await {
            return state.expect("the link runs").clone();
        }
        panic!("the link stays {:?}", self.link.state.borrow())
    }

    async fn publish(&self, topic: &str, payload: impl AsRef<[u8]>) -> Delivery {
        self.send(Publication::raw(topic.to_owned(), payload.as_ref().to_vec())).await
    }

    async fn send(&self, publication: Publication) -> Delivery {
        let completion = self.link.publisher.publish(publication).await;
        timeout(DEADLINE, completion).await.expect("the publication ends")
    }

    async fn command(&mut self) -> Incoming {
        loop {
            let Ok(arrived) = timeout(DEADLINE, self.link.commands.next()).await else {
                panic!("no command comes; {:?} {:?}", self.link.state.borrow(), self.link.counters);
            };
            if let Arrived::Message(command) = arrived.expect("the link runs") {
                return *command;
            }
        }
    }

    /// The next command, if one is waiting.
    fn waiting(&mut self) -> Option<Incoming> {
        loop {
            if let Arrived::Message(command) = unconstrained(self.link.commands.next()).now_or_never()?? {
                return Some(*command);
            }
        }
    }

    fn sessions_lost(&self) -> u64 {
        self.link.counters.sessions_lost.load(Ordering::Relaxed)
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        timeout(DEADLINE, &mut self.link.task).await.expect("the link stops").expect("without a panic");
    }

    /// As if the process were killed: the connection breaks without a DISCONNECT.
    async fn kill(mut self) {
        self.link.task.abort();
        let _ = (&mut self.link.task).await;
    }

    fn connects(&self) -> u64 {
        self.link.counters.connects.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Drop for Tested {
    fn drop(&mut self) {
        self.link.task.abort();
    }
}

fn acked(delivery: &Delivery) -> bool {
    matches!(delivery, Delivery::Acked { .. })
}

fn refused(delivery: Delivery) -> mqtt::Refusal {
    match delivery {
        Delivery::Refused(refusal) => refusal,
        other => panic!("{other:?} instead of a refusal"),
    }
}
