//! The bridge's outbound half, started and ended in every way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::SecretString;
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::broker::{Queue, serve};
use super::service::Service;
use super::weather::End;
use crate::cloud::{HandshakeLog, Record, RegisterPolicy, Registry, Session, SessionConfig, Timing, start};
use crate::delivery::lanes::Patience;
use crate::delivery::refused::{BusyBoard, SetAside};
use crate::delivery::routing::Routing;
use crate::local::{Base, Globs, Rules};
use crate::mqtt::{LinkState, in_memory};
use crate::observe::counters::Counters;
use crate::observe::log::{Few, SaidOnce, Seldom};
use crate::observe::progress::Progress;
use crate::os::clock::simulated::Clocks;
use crate::os::files::Directory;
use crate::outbound::accept::{Accept, AcceptConfig};
use crate::outbound::attempt::{Ambiguous, Attempts, Unstored};
use crate::outbound::deliver::{Deliver, DeliverConfig};
use crate::outbound::intake::{Intake, Turns};
use crate::outbound::results::Results;
use crate::outbound::route_book::RouteBook;
use crate::outbound::shares::Shares;
use crate::protocol::{Account, Qos, Subject, Uid};
use crate::route::Routes;
use crate::store::sqlite::Spool;
use crate::store::{Append as _, Limits, MAX_COMMANDS};

/// After so long in peace, the spool syncs what it had stored without.
const SYNCED_AFTER: Duration = Duration::from_secs(2);

/// Everything that outlives the bridge.
pub(super) struct World {
    pub(super) service: Service,
    pub(super) clocks: Clocks,
    pub(super) ambiguous: Ambiguous,
    pub(super) broker: Arc<Mutex<Queue>>,
    /// Something was published there.
    pub(super) published: Arc<Notify>,
    pub(super) record: Arc<Record>,
    pub(super) dir: TempDir,
    /// Of the callback URL in the configuration.
    pub(super) url: u64,
}

/// One run of the bridge.
pub(super) struct Bridge {
    session: Session,
    spool: Arc<Spool>,
    /// In the order in which they stop: the command and the deliver loop, the results loop, the session, the link.
    parts: [(JoinSet<()>, CancellationToken); 4],
}

fn url(number: u64) -> SecretString {
    format!("https://home.example/{number}/s3cret").into()
}

fn topics_and_presence() -> (Vec<(Subject, Qos)>, Vec<Uid>) {
    (vec![("home/lamp".parse().unwrap(), Qos::AtLeastOnce)], vec!["900".parse().unwrap()])
}

impl World {
    fn session_config(&self, dir: &Directory) -> SessionConfig {
        let (topics, presence) = topics_and_presence();
        SessionConfig {
            account: Account {
                appkey: "app".to_owned(),
                secretkey: "s3cret".into(),
                uid: "414".parse().unwrap(),
                presence_action: 2,
            },
            api: "https://api.example:8183".parse().unwrap(),
            state_dir: dir.into(),
            register: RegisterPolicy::IfNeeded,
            callback_url: url(self.url),
            handshake_token: "handshakes3cret".into(),
            verify_every: Duration::from_hours(6),
            topics,
            presence,
            timing: Timing::default(),
        }
    }

    /// As `app` does.
    pub(super) async fn start(&self) -> Bridge {
        let dir = Directory::from(self.dir.path());
        let limits = Limits { inbound: 1 << 20, outbound: 1 << 26, set_aside: 1 << 20 };
        let (spool, recovered) = Spool::open_in(&dir, limits).unwrap();
        assert!(recovered.alarms.is_empty(), "{recovered:?}");
        spool.simulate();
        let mut parts: [(JoinSet<()>, CancellationToken); 4] = Default::default();
        let [stop, stop_results, stop_session, _] = parts.each_ref().map(|(_, stop)| stop.clone());
        let registry: Arc<dyn Registry> = Arc::clone(&self.record) as _;
        let config = self.session_config(&dir);
        let (session, session_task) =
            start(self.service.clone(), config, registry, HandshakeLog::default(), stop_session);
        let session_task = AbortOnDropHandle::new(session_task);
        let (publisher, commands, broker) = in_memory::link();
        let (_, link_state) = watch::channel(LinkState { connected: true, ..LinkState::default() });
        let (_, routing) = watch::channel(Arc::new(Routing::default()));
        let book = RouteBook::open(spool.clone(), &Routes::default()).await.unwrap();
        let counters = Arc::new(Counters::default());
        let shares = Arc::new(Shares::of(MAX_COMMANDS, limits.outbound));
        let set_aside = SetAside::new(spool.clone(), Arc::clone(&counters));
        let (accepted, accepted_rx) = mpsc::unbounded_channel();
        let (results, results_rx) = mpsc::unbounded_channel();
        let base: Base = "ilink".parse().unwrap();
        let intake = Arc::new(Intake {
            base: base.clone(),
            spool: spool.clone(),
            shares: Arc::clone(&shares),
            counters: Arc::clone(&counters),
            told: Seldom::default(),
            turns: Turns::default(),
        });
        let accept = Accept {
            config: AcceptConfig {
                base: base.clone(),
                rules: Rules { allow_calls: Globs::new(&["*".to_owned()]), max_content: 1000 },
                max_packet: 10_000,
                ttl: Duration::from_mins(5),
                response_topics: Vec::new(),
                discovery_prefix: "homeassistant".to_owned(),
                birth_topic: None,
            },
            spool: spool.clone(),
            publisher: publisher.clone(),
            set_aside: set_aside.trying_once(),
            link: link_state,
            routing: routing.clone(),
            book: book.clone(),
            births: watch::channel(0).0,
            accepted,
            results: results.clone(),
            intake,
            counters: Arc::clone(&counters),
            progress: Progress::default(),
            ignored: SaidOnce::default(),
        };
        let attempts = Arc::new(Attempts {
            spool: spool.clone(),
            session: session.clone(),
            ambiguous: self.ambiguous,
            base: base.clone(),
            routing: routing.clone(),
            book,
            counters,
            failed: Few::default(),
            shares: Arc::clone(&shares),
            unstored: Unstored::default(),
        });
        let config = DeliverConfig { concurrency: 8, rate_per_s: None };
        let deliver = Deliver::new(config, attempts, results, routing, Progress::default());
        let publish = Results {
            base,
            spool: spool.clone(),
            publisher,
            set_aside,
            busy: BusyBoard::new("results", Arc::default()),
            patience: Patience::default(),
            shares,
        };
        let [(loops, _), (publishing, _), (sessions, _), (link, _)] = &mut parts;
        let stop_accept = stop.clone();
        loops.spawn(async move { accept.run(commands, stop_accept).await.unwrap() });
        loops.spawn(async move { deliver.run(accepted_rx, stop).await.unwrap() });
        publishing.spawn(async move { publish.run(results_rx, stop_results).await.unwrap() });
        sessions.spawn(async move { session_task.await.unwrap() });
        link.spawn(serve(broker, Arc::clone(&self.broker), Arc::clone(&self.published)));
        Bridge { session, spool, parts }
    }
}

impl Bridge {
    /// The configuration is read again.
    pub(super) async fn reload(&self, number: u64) {
        let (topics, presence) = topics_and_presence();
        self.session.reconfigure(topics, presence, url(number)).await;
    }

    /// Ends it; the service has not answered a command for so long. Whether somebody waited for the disk then.
    pub(super) async fn end(mut self, how: End, quiet_for: Duration) -> bool {
        if how == End::Stop {
            for (tasks, stop) in &mut self.parts[..3] {
                stop.cancel();
                ended(tasks).await;
            }
        }
        if how == End::KillAtWork {
            // What is under way in this very moment gets so far.
            for _ in 0..1000 {
                if self.spool.is_waited_for() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let at_work = self.spool.is_waited_for();
        for (tasks, _) in &mut self.parts {
            tasks.abort_all();
            ended(tasks).await;
        }
        if how == End::Power && quiet_for < SYNCED_AFTER {
            self.spool.lose_lazy();
        }
        // What the session has given to other threads comes to its end.
        sleep(Duration::from_millis(1)).await;
        self.spool.close().await;
        at_work
    }
}

async fn ended(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            crate::os::tasks::fault(error);
        }
    }
}
