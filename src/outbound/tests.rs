//! What the loops do when the disk refuses or loses something.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::Connection;
use secrecy::SecretString;
use serde_json::{Map, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::accept::{Accept, AcceptConfig};
use super::attempt::{Ambiguous, Attempts, Step, Tried, Unstored};
use super::deliver::{Accepted, Deliver, DeliverConfig};
use super::intake::{Intake, Turns};
use super::record::{Command, Mark, Record, ReplyTo, StoredResult};
use super::results::Results;
use super::route_book::RouteBook;
use super::shares::Shares;
use crate::cloud::{self, HandshakeLog, Post, RegisterPolicy, Session, SessionConfig, Timing, TransportError};
use crate::delivery::lanes::Patience;
use crate::delivery::refused::{BusyBoard, SetAside};
use crate::local::{Base, CommandResult, Globs, Rules};
use crate::mqtt::{Commands, Delivery, LinkState, Publisher, in_memory};
use crate::observe::log::{Few, SaidOnce, Seldom};
use crate::observe::progress::Progress;
use crate::os::clock::Stamp;
use crate::protocol::{Account, Call, Reply, Request, ResultCode};
use crate::route::Routes;
use crate::store::sqlite::Spool;
use crate::store::{Append as _, Key, Limits, Queue, Store as _};

/// iLink. It answers every message with this code, and locks the spool meanwhile if it has it.
#[derive(Clone)]
struct Service {
    code: i64,
    /// Whoever holds this keeps it from answering messages.
    answers: Arc<tokio::sync::Mutex<()>>,
    spool: Arc<Mutex<Option<Connection>>>,
}

impl Post for Service {
    fn post<'a>(
        &'a self,
        request: &'a Request,
        _: Option<&'a SecretString>,
    ) -> Pin<Box<dyn Future<Output = Result<Reply, TransportError>> + Send + 'a>> {
        let (mut code, mut extra) = (0, Map::new());
        if request.path == "get_access_token" {
            extra.insert("access_token".to_owned(), json!("token"));
            extra.insert("expires_in".to_owned(), json!(7200));
        }
        if request.path == "send_msg" {
            code = self.code;
            if let Some(spool) = &*self.spool.lock().unwrap() {
                spool.execute_batch("BEGIN IMMEDIATE").unwrap();
            }
        }
        Box::pin(async move {
            if request.path == "send_msg" {
                drop(self.answers.lock().await);
            }
            Ok(Reply { code: ResultCode::new(code), extra })
        })
    }
}

struct World {
    dir: TempDir,
    spool: Arc<Spool>,
    service: Service,
    base: Base,
    shares: Arc<Shares>,
}

impl World {
    fn new() -> Self {
        Self::refusing(1008)
    }

    fn refusing(code: i64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
        let (spool, _) = Spool::open(dir.path(), limits).unwrap();
        let (service, base) =
            (Service { code, answers: Arc::default(), spool: Arc::default() }, "ilink".parse().unwrap());
        // A client that has one row has its share.
        Self { dir, spool, service, base, shares: Arc::new(Shares::of(2, 1000)) }
    }

    /// Another program, which may lock the spool.
    fn other(&self) -> Connection {
        Connection::open(self.dir.path().join("spool.db")).unwrap()
    }

    fn session(&self) -> Session {
        let account =
            Account { appkey: "a".to_owned(), secretkey: "s".into(), uid: "414".parse().unwrap(), presence_action: 2 };
        let config = SessionConfig {
            account,
            api: "https://api.example:8183".parse().unwrap(),
            state_dir: self.dir.path().into(),
            register: RegisterPolicy::Never,
            callback_url: "https://home.example/s3cret".into(),
            handshake_token: "handshakes3cret".into(),
            verify_every: Duration::ZERO,
            topics: Vec::new(),
            presence: Vec::new(),
            timing: Timing::default(),
        };
        let registry = Arc::<cloud::Record>::default();
        cloud::start(self.service.clone(), config, registry, HandshakeLog::default(), CancellationToken::new()).0
    }

    async fn attempts(&self) -> Arc<Attempts> {
        Arc::new(Attempts {
            spool: self.spool.clone(),
            session: self.session(),
            ambiguous: Ambiguous::Retry(None),
            base: self.base.clone(),
            routing: watch::channel(Arc::default()).1,
            book: RouteBook::open(self.spool.clone(), &Routes::default()).await.unwrap(),
            counters: Arc::default(),
            failed: Few::default(),
            shares: Arc::clone(&self.shares),
            unstored: Unstored::default(),
        })
    }

    /// A row that counts in its client's share and is lost.
    async fn lost(&self) -> u64 {
        let place = self.shares.ask(None, 1).unwrap();
        let seq = self.spool.append(Queue::Outbound, vec![1].into(), None).await.unwrap();
        place.keep(seq);
        self.spool.complete(Queue::Outbound, seq);
        seq
    }

    async fn accept(&self, publisher: Publisher, link: watch::Receiver<LinkState>) -> Accept {
        let intake = Intake {
            base: self.base.clone(),
            spool: self.spool.clone(),
            shares: Arc::clone(&self.shares),
            counters: Arc::default(),
            told: Seldom::default(),
            turns: Turns::default(),
        };
        Accept {
            config: AcceptConfig {
                base: self.base.clone(),
                rules: Rules { allow_calls: Globs::new(&["*".to_owned()]), max_content: 1000 },
                max_packet: 10_000,
                ttl: Duration::from_mins(5),
                response_topics: Vec::new(),
                discovery_prefix: "homeassistant".to_owned(),
                birth_topic: None,
            },
            spool: self.spool.clone(),
            publisher,
            set_aside: SetAside::new(self.spool.clone(), Arc::default()),
            link,
            routing: watch::channel(Arc::default()).1,
            book: RouteBook::open(self.spool.clone(), &Routes::default()).await.unwrap(),
            births: watch::channel(0).0,
            accepted: mpsc::unbounded_channel().0,
            results: mpsc::unbounded_channel().0,
            intake: Arc::new(intake),
            counters: Arc::default(),
            progress: Progress::default(),
            ignored: SaidOnce::default(),
        }
    }
}

async fn until(mut met: impl AsyncFnMut() -> bool) {
    let met = async {
        while !met().await {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_mins(1), met).await.expect("in time");
}

#[tokio::test]
async fn a_command_that_is_lost_gives_its_place_back() {
    let world = World::new();
    let seq = world.lost().await;
    assert!(world.shares.ask(None, 1).is_none());
    let (results, _results) = mpsc::unbounded_channel();
    let (accepted, commands) = mpsc::unbounded_channel();
    let config = DeliverConfig { concurrency: 8, rate_per_s: None };
    let routing = watch::channel(Arc::default()).1;
    let deliver = Deliver::new(config, world.attempts().await, results, routing, Progress::default());
    let running = tokio::spawn(deliver.run(commands, CancellationToken::new()));
    accepted.send(Accepted { seq, client: None, lane: None, deadline: Duration::ZERO, latest: None }).unwrap();
    until(async || world.shares.ask(None, 1).is_some()).await;
    running.abort();
}

#[tokio::test]
async fn a_call_that_is_under_way_at_a_stop_gets_its_time_also_if_a_row_cannot_be_read() {
    let world = World::refusing(0);
    let attempts = world.attempts().await;
    timeout(Duration::from_mins(1), attempts.session.ready()).await.expect("in time");
    let counters = Arc::clone(&attempts.counters);
    let unanswered = world.service.answers.lock().await;
    let seq = world.command().await;
    let (results, _results) = mpsc::unbounded_channel();
    let (accepted, commands) = mpsc::unbounded_channel();
    let config = DeliverConfig { concurrency: 8, rate_per_s: None };
    let routing = watch::channel(Arc::default()).1;
    let deliver = Deliver::new(config, attempts, results, routing, Progress::default());
    let running = tokio::spawn(deliver.run(commands, CancellationToken::new()));
    until(async || counters.calls.get() == 1).await;
    world.spool.refuse_reads(u32::MAX);
    let mut writable = world.spool.writable();
    let deadline = Duration::ZERO;
    accepted.send(Accepted { seq: seq + 1, client: None, lane: None, deadline, latest: None }).unwrap();
    timeout(Duration::from_mins(1), writable.wait_for(Result::is_err)).await.expect("in time").unwrap();
    world.spool.patience().end();
    sleep(Duration::from_millis(300)).await;
    drop(unanswered);
    running.await.unwrap().unwrap();
    world.spool.refuse_reads(0);
    let row = world.spool.read(Queue::Outbound, seq).await.unwrap().unwrap();
    assert!(matches!(Record::decode(&row.data), Ok(Record::Result(_))));
}

#[tokio::test]
async fn a_result_that_is_lost_gives_its_place_back() {
    let world = World::new();
    let seq = world.lost().await;
    assert!(world.shares.ask(None, 1).is_none());
    let results = Results {
        base: world.base.clone(),
        spool: world.spool.clone(),
        publisher: in_memory::link().0,
        set_aside: SetAside::new(world.spool.clone(), Arc::default()),
        busy: BusyBoard::new("results", Arc::default()),
        patience: Patience::default(),
        shares: Arc::clone(&world.shares),
    };
    let (ready, numbers) = mpsc::unbounded_channel();
    ready.send(seq).unwrap();
    drop(ready);
    results.run(numbers, CancellationToken::new()).await.unwrap();
    assert!(world.shares.ask(None, 1).is_some());
}

#[tokio::test]
async fn a_result_that_is_under_way_at_a_stop_gets_its_time_also_if_a_row_cannot_be_read() {
    let world = World::new();
    let (publisher, _commands, mut broker) = in_memory::link();
    let results = Results {
        base: world.base.clone(),
        spool: world.spool.clone(),
        publisher,
        set_aside: SetAside::new(world.spool.clone(), Arc::default()),
        busy: BusyBoard::new("results", Arc::default()),
        patience: Patience::default(),
        shares: Arc::clone(&world.shares),
    };
    let json = CommandResult::expired(Ulid::nil(), None, None, "", 0, 0).to_json();
    let reply_to = ReplyTo::only("ilink/send/user/1/text".to_owned());
    let row = Record::Result(StoredResult { at: Stamp::now(), reply_to, json }).encode();
    let seq = world.spool.append(Queue::Outbound, row.into(), None).await.unwrap();
    let (ready, numbers) = mpsc::unbounded_channel();
    ready.send(seq).unwrap();
    let running = tokio::spawn(results.run(numbers, CancellationToken::new()));
    let heard = timeout(Duration::from_mins(1), broker.hears()).await.expect("in time");
    let Some(in_memory::Heard::Published(_, done)) = heard else { panic!("the result") };
    world.spool.refuse_reads(u32::MAX);
    let mut writable = world.spool.writable();
    ready.send(seq).unwrap();
    timeout(Duration::from_mins(1), writable.wait_for(Result::is_err)).await.expect("in time").unwrap();
    world.spool.patience().end();
    sleep(Duration::from_millis(300)).await;
    assert!(done.send(Delivery::Acked { no_subscribers: false }).is_ok());
    running.await.unwrap().unwrap();
    world.spool.refuse_reads(0);
    assert!(world.spool.read(Queue::Outbound, seq).await.unwrap().is_none());
}

impl World {
    /// Stores a command.
    async fn command(&self) -> u64 {
        let reply_to = ReplyTo::only("ilink/send/user/1/text".to_owned());
        let call = Call::SendText { to: "1".parse().unwrap(), content: b"on".to_vec() };
        let command = Command::new([7; 16], Stamp::now(), Duration::from_mins(5), reply_to, call);
        self.spool.append(Queue::Outbound, Record::Command(command).encode().into(), None).await.unwrap()
    }
}

#[tokio::test]
async fn a_killed_bridge_knows_that_ilink_refused() {
    for (code, ambiguous) in [(1016, Ambiguous::Report), (1016, Ambiguous::Retry(None)), (1002, Ambiguous::Report)] {
        let world = World::refusing(code);
        world.spool.simulate();
        let mut attempts = world.attempts().await;
        timeout(Duration::from_mins(1), attempts.session.ready()).await.expect("in time");
        Arc::get_mut(&mut attempts).unwrap().ambiguous = ambiguous;
        let seq = world.command().await;
        let step = attempts.attempt(seq, Tried::default()).await.unwrap();
        assert!(matches!(step, Step::Later(..) | Step::Closed(..)), "{code}: {step:?}");
        world.spool.lose_lazy();
        let row = world.spool.read(Queue::Outbound, seq).await.unwrap().unwrap();
        match Record::decode(&row.data).unwrap() {
            Record::Command(left) => assert_eq!((left.mark, left.unknown), (Mark::Unsent, 0), "{code}"),
            Record::Result(_) => panic!("{code}: it has a result"),
        }
    }
}

#[tokio::test]
async fn a_request_that_left_counts_also_if_the_disk_refuses_the_mark_of_its_repeat() {
    let world = World::new();
    *world.service.spool.lock().unwrap() = Some(world.other());
    let attempts = world.attempts().await;
    timeout(Duration::from_mins(1), attempts.session.ready()).await.expect("in time");
    let seq = world.command().await;
    match attempts.attempt(seq, Tried::default()).await {
        Ok(Step::Later(tried, _)) => {
            assert!(tried.cause.contains("locked"), "{tried:?}");
            assert_eq!((tried.attempts, tried.ambiguous), (1, false));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_lost_session_is_recorded_as_soon_as_the_disk_takes_it_though_no_message_comes() {
    let world = World::new();
    let key = Key { pkid: 1, digest: [1; 32], connection: 1 };
    world.spool.append(Queue::Outbound, vec![1].into(), Some(key)).await.unwrap();
    let (publisher, commands, _broker): (Publisher, Commands, _) = in_memory::link();
    let (state, link) = watch::channel(LinkState::default());
    let running = tokio::spawn(world.accept(publisher, link).await.run(commands, CancellationToken::new()));
    let other = world.other();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    state.send_modify(|state| state.session_began = 2);
    let mut writable = world.spool.writable();
    timeout(Duration::from_mins(1), writable.wait_for(Result::is_err)).await.expect("in time").unwrap();
    other.execute_batch("ROLLBACK").unwrap();
    until(async || world.spool.redeliveries().await.unwrap().is_empty()).await;
    running.abort();
}
