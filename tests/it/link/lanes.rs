//! The relay, and a broker that does not take everything at once: what waits, what goes on, and in which order it ends.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ilink2mqtt::delivery::lanes::Patience;
use ilink2mqtt::delivery::refused::{AllBusy, BusyBoard, SetAside};
use ilink2mqtt::inbound::record::Record;
use ilink2mqtt::inbound::relay::{Relay, RelayConfig, RelaySettings};
use ilink2mqtt::local::Output;
use ilink2mqtt::observe::counters::Counters;
use ilink2mqtt::observe::progress::Progress;
use ilink2mqtt::store::sqlite::Spool;
use ilink2mqtt::store::{Append as _, Limits, Queue};
use rumqttc::v5::mqttbytes::v5::PubAckReason;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Tested, config};
use crate::support::DEADLINE;
use crate::support::bridge::text_push;
use crate::support::reacting_broker::{Copy, ReactingBroker, Reaction};

/// In a hurry, as the link of these tests.
const PATIENCE: Patience = Patience {
    rest_min: Duration::from_millis(10),
    rest_max: Duration::from_millis(80),
    blame_after: Duration::from_millis(600),
};

/// A relay between a spool of its own and such a broker.
struct World {
    spool: Arc<Spool>,
    counters: Arc<Counters>,
    busy: watch::Receiver<AllBusy>,
    broker: ReactingBroker,
    relay: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
    _link: Tested,
    _dir: TempDir,
}

impl World {
    async fn start(
        output: Output,
        raw_max_age: Option<Duration>,
        react: impl FnMut(&Copy) -> Reaction + Send + 'static,
    ) -> Self {
        Self::start_with(PATIENCE, output, raw_max_age, react).await
    }

    async fn start_with(
        patience: Patience,
        output: Output,
        raw_max_age: Option<Duration>,
        react: impl FnMut(&Copy) -> Reaction + Send + 'static,
    ) -> Self {
        let broker = ReactingBroker::start(react).await;
        let settings = config(broker.port());
        let base = settings.base.clone();
        let link = Tested::start(settings);
        let dir = TempDir::new().unwrap();
        let limits = Limits { inbound: 1 << 30, outbound: 1 << 30, set_aside: 1 << 20 };
        let (spool, _) = Spool::open(dir.path(), limits).unwrap();
        let counters = Arc::new(Counters::default());
        let all = Arc::new(watch::Sender::new(AllBusy::new()));
        let busy = all.subscribe();
        let relay = Relay {
            config: RelayConfig {
                base,
                uid: "414".parse().unwrap(),
                output,
                raw_max_age,
                patience,
                pictures_of: HashSet::new(),
            },
            settings: watch::channel(Arc::new(RelaySettings::default())).1,
            routing: watch::channel(Arc::default()).1,
            spool: spool.clone(),
            repeats: None,
            publisher: link.link.publisher.clone(),
            link: link.link.state.clone(),
            set_aside: SetAside::new(spool.clone(), Arc::clone(&counters)),
            busy: BusyBoard::new("messages from iLink", all),
            answers: None,
            counters: Arc::clone(&counters),
            progress: Progress::default(),
        };
        let stop = CancellationToken::new();
        let running = relay.run(stop.clone());
        let relay = tokio::spawn(async move { running.await.unwrap() });
        Self { spool, counters, busy, broker, relay, stop, _link: link, _dir: dir }
    }

    async fn push(&self, from: &str, text: &str) {
        let row = Record::push(text_push(from, text).to_string().into()).encode();
        self.spool.append(Queue::Inbound, row.into(), None).await.unwrap();
    }

    /// Until nothing waits any more.
    async fn emptied(&self) {
        let all = async {
            let mut taken = self.broker.taken();
            while self.spool.stats(Queue::Inbound).depth > 0 {
                let _ = timeout(Duration::from_millis(20), taken.changed()).await;
            }
        };
        let emptied = timeout(DEADLINE, all).await;
        assert!(emptied.is_ok(), "{} wait; {:?}", self.spool.stats(Queue::Inbound).depth, self.busy.borrow());
        assert_eq!(self.counters.publishes_set_aside.get(), self.spool.stats(Queue::SetAside).depth);
    }

    /// The last copies of each topic are `expected`, in order; how many copies there were in all.
    fn last_copies(&self, topic: &str, expected: impl IntoIterator<Item = String>) -> usize {
        let taken = self.broker.taken();
        let taken = taken.borrow();
        let copies = || taken.iter().enumerate().filter(|(_, copy)| copy.topic == topic);
        let mut last = BTreeMap::new();
        for (at, copy) in copies() {
            last.insert(copy.payload.clone(), at);
        }
        let mut order: Vec<_> = last.into_iter().map(|(payload, at)| (at, payload)).collect();
        order.sort_unstable();
        let order: Vec<_> = order.into_iter().map(|(_, payload)| payload).collect();
        let expected: Vec<_> = expected.into_iter().collect();
        let wrong = order.iter().zip(&expected).find(|(found, expected)| found != expected);
        assert_eq!((order.len(), wrong), (expected.len(), None), "{topic}: the last copies are out of order");
        copies().count()
    }

    /// What was counted: delivered, set aside.
    fn counted(&self) -> (u64, u64) {
        (self.counters.pushes_delivered.get(), self.counters.pushes_set_aside.get())
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.relay).await.unwrap().unwrap();
    }
}

fn raw(from: &str) -> String {
    format!("ilink/recv/user/{from}/text")
}

fn numbers(most: usize) -> impl Iterator<Item = String> {
    (0..most).map(|n| format!("{n:04}"))
}

#[tokio::test]
async fn one_refusal_does_not_turn_a_senders_order_round() {
    for reason in
        [PubAckReason::UnspecifiedError, PubAckReason::ImplementationSpecificError, PubAckReason::QuotaExceeded]
    {
        let mut refused = false;
        let world = World::start(Output::Both, None, move |copy| {
            if copy.payload == "on1" && !refused {
                refused = true;
                return Reaction::Refuse(reason);
            }
            Reaction::Take
        })
        .await;
        let texts = ["on1", "off2", "on3", "off4"];
        for text in texts {
            world.push("413", text).await;
        }
        world.emptied().await;
        world.last_copies(&raw("413"), texts.map(str::to_owned));
        // The events have the same order; that of the first was taken at once, and comes once.
        let contents: Vec<String> = world
            .broker
            .taken()
            .borrow()
            .iter()
            .filter(|copy| copy.topic == "ilink/event/text")
            .map(|copy| serde_json::from_str::<serde_json::Value>(&copy.payload).unwrap()["content"].to_string())
            .collect();
        assert_eq!(contents.iter().filter(|content| *content == "\"on1\"").count(), 1);
        let last: Vec<_> = contents.iter().rev().take(3).rev().cloned().collect();
        assert_eq!(last, ["\"off2\"", "\"on3\"", "\"off4\""]);
        assert_eq!(world.counted(), (4, 0));
        world.stop().await;
    }
}

#[tokio::test]
async fn a_command_that_was_taken_is_not_sent_again_while_its_event_is_refused() {
    let mut refusals = 0;
    let world = World::start(Output::Both, None, move |copy| {
        refusals += usize::from(copy.topic == "ilink/event/text");
        let refused = copy.topic == "ilink/event/text" && refusals <= 5;
        if refused { Reaction::Refuse(PubAckReason::UnspecifiedError) } else { Reaction::Take }
    })
    .await;
    world.push("413", "toggle").await;
    world.emptied().await;
    assert_eq!(world.last_copies(&raw("413"), ["toggle".to_owned()]), 1);
    assert_eq!(world.counted(), (1, 0));
    world.stop().await;
}

#[tokio::test]
async fn a_broker_that_is_busy_for_long_loses_nothing_and_blames_nobody() {
    const COUNT: usize = 300;
    let (busy, is_busy) = watch::channel(true);
    let world = World::start(Output::Raw, None, move |_| {
        if *is_busy.borrow() { Reaction::Refuse(PubAckReason::QuotaExceeded) } else { Reaction::Take }
    })
    .await;
    for n in numbers(COUNT) {
        world.push("1", &n).await;
        world.push("2", &n).await;
    }
    // Longer than it takes to be blamed, and than it took to be set aside once.
    let mut shown = world.busy.clone();
    shown.wait_for(|all| !all.is_empty()).await.unwrap();
    tokio::time::sleep(PATIENCE.blame_after * 3).await;
    assert_eq!(world.counted(), (0, 0));
    let told = world.busy.borrow()["messages from iLink"].clone();
    assert!(told.cause.contains("quota exceeded"), "{told:?}");
    assert_eq!(told.held_up.lanes, 2, "{told:?}");
    busy.send_replace(false);
    world.emptied().await;
    for from in ["1", "2"] {
        assert_eq!(world.last_copies(&raw(from), numbers(COUNT)), COUNT, "nothing was delivered twice without need");
    }
    assert_eq!(world.counted(), (2 * COUNT as u64, 0));
    shown.wait_for(AllBusy::is_empty).await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn a_broker_that_dies_at_each_message_loses_nothing_and_blames_nobody() {
    const COUNT: usize = 40;
    let mut deaths = 0;
    let world = World::start(Output::Raw, None, move |_| {
        deaths += 1;
        if deaths > 30 { Reaction::Take } else { Reaction::Die }
    })
    .await;
    for n in numbers(COUNT) {
        world.push("1", &n).await;
        world.push("2", &n).await;
    }
    world.emptied().await;
    for from in ["1", "2"] {
        world.last_copies(&raw(from), numbers(COUNT));
    }
    assert_eq!(world.counted(), (2 * COUNT as u64, 0));
    world.stop().await;
}

#[tokio::test]
async fn a_message_that_fails_while_others_are_taken_is_set_aside_and_not_delivered() {
    for fatal in [false, true] {
        let world = World::start(Output::Raw, None, move |copy| match (copy.payload.as_str(), fatal) {
            ("poison", true) => Reaction::Die,
            ("poison", false) => Reaction::Refuse(PubAckReason::ImplementationSpecificError),
            _ => Reaction::Take,
        })
        .await;
        world.push("1", "before").await;
        world.push("1", "poison").await;
        world.push("1", "after").await;
        let began = std::time::Instant::now();
        let mut others = 0;
        // Others go on meanwhile, and that is what proves it.
        while world.counted().1 == 0 {
            assert!(began.elapsed() < DEADLINE, "{:?}", world.busy.borrow());
            world.push("2", &format!("{others:04}")).await;
            others += 1;
            world
                .broker
                .until_taken("others", |taken| taken.iter().filter(|copy| copy.topic == raw("2")).count() >= others)
                .await;
        }
        assert!(began.elapsed() >= PATIENCE.blame_after, "{:?}", began.elapsed());
        world.emptied().await;
        world.last_copies(&raw("1"), ["before".to_owned(), "after".to_owned()]);
        world.last_copies(&raw("2"), numbers(others));
        assert_eq!(world.counted(), (2 + others as u64, 1));
        world.stop().await;
    }
}

#[tokio::test]
async fn without_others_to_compare_with_nothing_is_blamed() {
    let tries = Arc::new(watch::Sender::new(0));
    let counting = Arc::clone(&tries);
    let world = World::start(Output::Raw, None, move |copy| {
        if copy.payload != "poison" {
            return Reaction::Take;
        }
        counting.send_modify(|tries| *tries += 1);
        Reaction::Refuse(PubAckReason::UnspecifiedError)
    })
    .await;
    world.push("1", "poison").await;
    world.push("1", "after").await;
    let began = std::time::Instant::now();
    let mut counted = tries.subscribe();
    timeout(DEADLINE, counted.wait_for(|tries| *tries >= 20 && began.elapsed() > PATIENCE.blame_after * 2))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(world.counted(), (0, 0));
    assert_eq!(world.spool.stats(Queue::Inbound).depth, 2);
    world.stop().await;
}

#[tokio::test]
async fn a_sender_that_is_held_up_with_very_many_messages_keeps_nobody_else_waiting() {
    const COUNT: usize = 3000;
    let (busy, is_busy) = watch::channel(true);
    let patience = Patience { blame_after: DEADLINE, ..PATIENCE };
    let world = World::start_with(patience, Output::Raw, None, move |copy| {
        let refused = copy.topic == raw("1") && *is_busy.borrow();
        if refused { Reaction::Refuse(PubAckReason::QuotaExceeded) } else { Reaction::Take }
    })
    .await;
    let rows = numbers(COUNT).map(|n| Record::push(text_push("1", &n).to_string().into()).encode());
    // Few at once, so that they are stored in the order in which they are made.
    for rows in rows.collect::<Vec<_>>().chunks(64) {
        let stored = rows.iter().map(|row| world.spool.append(Queue::Inbound, row.clone().into(), None));
        for stored in futures_util::future::join_all(stored).await {
            stored.unwrap();
        }
    }
    for n in numbers(100) {
        world.push("2", &n).await;
    }
    world.broker.until_taken("the others", |taken| taken.len() >= 100).await;
    assert_eq!(world.last_copies(&raw("2"), numbers(100)), 100);
    busy.send_replace(false);
    world.emptied().await;
    assert_eq!(world.last_copies(&raw("1"), numbers(COUNT)), COUNT);
    assert_eq!(world.counted(), (COUNT as u64 + 100, 0));
    world.stop().await;
}

#[tokio::test]
async fn what_became_too_late_while_it_waited_comes_as_events_in_its_place() {
    let (busy, is_busy) = watch::channel(true);
    let age = Duration::from_millis(1500);
    let world = World::start(Output::Both, Some(age), move |copy| {
        let refused = copy.topic == raw("1") && *is_busy.borrow();
        if refused { Reaction::Refuse(PubAckReason::QuotaExceeded) } else { Reaction::Take }
    })
    .await;
    for n in numbers(5) {
        world.push("1", &n).await;
    }
    tokio::time::sleep(age).await;
    world.push("1", "in time").await;
    busy.send_replace(false);
    world.emptied().await;
    world.last_copies(&raw("1"), ["in time".to_owned()]);
    // The last event of each, in order, and whether it says that it is late.
    let mut last: Vec<(String, bool)> = Vec::new();
    for copy in world.broker.taken().borrow().iter().filter(|copy| copy.topic == "ilink/event/text") {
        let event: serde_json::Value = serde_json::from_str(&copy.payload).unwrap();
        let content = event["content"].as_str().unwrap();
        last.retain(|(earlier, _)| earlier != content);
        last.push((content.to_owned(), event["late"] == true));
    }
    let expected = numbers(5).map(|n| (n, true)).chain([("in time".to_owned(), false)]);
    assert_eq!(last, expected.collect::<Vec<_>>());
    assert_eq!(world.counters.pushes_late.get(), 5);
    assert_eq!(world.counted(), (6, 0));
    world.stop().await;
}

#[tokio::test]
async fn what_is_refused_for_good_counts_as_set_aside_and_never_as_delivered() {
    let world = World::start(Output::Raw, None, |copy| {
        if copy.topic == raw("1") { Reaction::Refuse(PubAckReason::NotAuthorized) } else { Reaction::Take }
    })
    .await;
    for from in ["1", "2", "1"] {
        world.push(from, "x").await;
    }
    world.emptied().await;
    assert_eq!(world.counted(), (1, 2));
    let passed = world.counters.activity.messages();
    assert_eq!(passed.iter().filter(|passed| passed.outcome == "refused by the broker: set aside").count(), 2);
    assert_eq!(passed.iter().filter(|passed| passed.outcome == "delivered").count(), 1);
    world.stop().await;
}
