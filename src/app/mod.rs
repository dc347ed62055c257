//! Builds the parts of the daemon, in one place; starts them in order, stops them in order.
//!
//! Start: state directory and spool; the callback's socket; the link; the session (iLink calls us back *during* the
//! registration, so the callback is served first); the loops. Stop: see `stop` below.

pub mod alone;
pub mod checkup;
mod homeassistant;
mod listeners;
mod parts;
mod reload;
mod routes;

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::{self, Admin};
use crate::cli::{EXIT_INTERNAL, EXIT_STATE_DIR, EXIT_USAGE};
use crate::cloud;
use crate::config::Config;
use crate::control;
use crate::files;
use crate::inbound;
use crate::inbound::relay::Relay;
use crate::local::Publication;
use crate::log::{Few, SaidOnce};
use crate::mqtt;
use crate::open_files;
use crate::outbound::accept::Accept;
use crate::outbound::attempt::Attempts;
use crate::outbound::deliver::Deliver;
use crate::outbound::results::Results;
use crate::progress::Progress;
use crate::report;
use crate::set_aside::SetAside;
use crate::shutdown::{Asked, Shutdown, Signals};
use crate::spool::{Spool, SpoolError};
use crate::systemd::{self, Notifier, Sockets};
use parts::Core;
pub use reload::Source;
use routes::RouteParts;

/// Why the daemon did not start, or stopped unasked.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The state directory is locked or unusable.
    #[error("{0}")]
    State(String),
    /// What the configuration names cannot be used.
    #[error("{0}")]
    Config(String),
    /// A socket could not be opened.
    #[error("cannot listen on {what}: {source}")]
    Listen {
        /// Which: the configuration's key and value.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A part failed while running.
    #[error("{0}")]
    Failed(String),
}

impl AppError {
    /// The process's exit code for it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::State(_) => EXIT_STATE_DIR,
            Self::Config(_) => EXIT_USAGE,
            Self::Listen { .. } | Self::Failed(_) => EXIT_INTERNAL,
        }
    }
}

/// A part that must run for as long as the daemon does: its name and how it ended.
type Ended = (&'static str, Result<(), String>);
/// All of them.
type Critical = JoinSet<Ended>;

/// Runs the daemon until a signal, or until `stop` is cancelled (the demo's way), on `sockets` where there are some.
///
/// # Errors
/// Why it could not start, or stopped unasked.
pub async fn run(config: Config, source: Source, sockets: Sockets, stop: CancellationToken) -> Result<(), AppError> {
    let mut signals =
        Signals::listen().map_err(|error| AppError::Failed(format!("cannot listen for signals: {error}")))?;
    let shutdown = Shutdown::default();
    open_files::raise_limit();
    open_files::warn_if_few(config.outbound.concurrency);
    let notifier = Notifier::of(&source.environment);
    let core = Core::open_soon(&config).await?;
    let (callback, admin_listener) = listeners::open(&config, sockets)?;
    let control_listener = control::bind(core.state_dir.path()).map_err(|error| {
        let socket = control::socket(core.state_dir.path());
        AppError::State(format!("the control socket {} cannot be opened: {error}", socket.display()))
    })?;

    let client = core.client(&config)?;
    let mut critical = Critical::new();
    let callback_at = callback.local_addr().unwrap_or(config.callback.listen);
    let tls = core.serve_callback(&config, callback, &shutdown, &mut critical)?;
    let routes = RouteParts::open(&config, &core.spool).await?;
    let link_config = parts::link_config(&config, &core, routes.filters()).await?;
    let link = mqtt::start(link_config, shutdown.link.clone()).map_err(|error| AppError::Config(error.to_string()))?;
    let (session, session_task) = cloud::start(
        client,
        core.session_config(&config),
        Arc::new(core.registry(&config)),
        core.handshakes.clone(),
        shutdown.session.clone(),
    );
    let (settings, settings_rx) = watch::channel(Arc::new(parts::relay_settings(&config)));
    let (info, info_rx) = watch::channel(parts::info(&config));
    let report = Arc::new(core.report(&config, info_rx, &session, &link, &routes));

    let loops = start_loops(&config, &core, link, &session, settings_rx, &routes, &shutdown, &mut critical);

    let observers = tokio_util::task::TaskTracker::new();
    observers.spawn(report::run(Arc::clone(&report), loops.publisher.clone(), shutdown.results.clone()));
    observers.spawn(parts::queue_presence(session.presence_states(), core.spool.clone(), shutdown.loops.clone()));
    observers.spawn(parts::remember_session(
        report.link.clone(),
        core.spool.clone(),
        parts::session_name(&config),
        shutdown.results.clone(),
    ));
    observers.spawn(routes.remember(report.link.clone(), shutdown.results.clone()));
    observers.spawn(homeassistant::run(
        config.discovery(),
        homeassistant::Heard { births: loops.births, settings: settings.subscribe() },
        loops.publisher.clone(),
        core.spool.clone(),
        shutdown.results.clone(),
    ));
    let (current, current_rx) = watch::channel(config.clone());
    let verbs = Arc::new(core.verbs(&current_rx, session.clone(), Arc::clone(&report), loops.progress.clone()));
    observers.spawn(control::serve(control_listener, verbs, shutdown.results.clone()));
    observers.spawn(systemd::watch(
        notifier.clone(),
        Arc::clone(&report),
        loops.progress.clone(),
        shutdown.results.clone(),
    ));
    if let Some((listener, listen)) = admin_listener {
        let admin = Admin {
            listen,
            token: config.admin.token.clone(),
            hosts: config.admin.hosts.clone(),
            report: Arc::clone(&report),
            loops: loops.progress.clone(),
        };
        let room = open_files::shares(config.outbound.concurrency).admin;
        observers.spawn(admin::serve(listener, admin, room, shutdown.results.clone()));
    }
    info!(version = env!("CARGO_PKG_VERSION"), uid = %config.ilink.uid, callback = %callback_at, broker = %config.mqtt.broker, "started");
    notifier.ready().await;

    let identity = Arc::clone(&core.identity);
    let mut reload =
        reload::Reload { source, config, current, session: session.clone(), settings, routes, info, identity, tls };
    let failure = until_stop(&mut signals, &mut reload, &notifier, &stop, &mut critical, &core.spool).await;
    notifier.stopping();
    signals.end_at_the_next();
    if let Some(failure) = &failure {
        error!(failure, "stopping: a part of the bridge failed");
    }
    self::stop(&shutdown, critical, loops.link_task, session_task, observers).await;
    let _ = std::fs::remove_file(control::socket(core.state_dir.path()));
    core.close().await;
    match failure {
        None => {
            info!("stopped");
            Ok(())
        }
        Some(failure) => Err(AppError::Failed(failure)),
    }
}

/// Runs on until it is asked to stop; then why, if it was not asked.
async fn until_stop(
    signals: &mut Signals,
    reload: &mut reload::Reload,
    notifier: &Notifier,
    stop: &CancellationToken,
    critical: &mut Critical,
    spool: &Spool,
) -> Option<String> {
    loop {
        // asked() and join_next() are cancel-safe; the others only observe.
        tokio::select! {
            asked = signals.asked() => match asked {
                Asked::Stop => break None,
                Asked::Reload => {
                    notifier.reloading();
                    reload.reload().await;
                    notifier.ready().await;
                }
            },
            () = stop.cancelled() => break None,
            ended = critical.join_next() => break Some(describe(ended)),
            cause = spool.failed() => break Some(format!("the spool failed: {cause}")),
        }
    }
}

/// What the loops leave behind for the others.
struct Loops {
    publisher: mqtt::Publisher,
    link_task: tokio::task::JoinHandle<()>,
    progress: Vec<(&'static str, Progress)>,
    births: watch::Receiver<u64>,
}

#[expect(clippy::too_many_arguments, reason = "it joins every part once")]
fn start_loops(
    config: &Config,
    core: &Core,
    link: mqtt::Link,
    session: &cloud::Session,
    settings: watch::Receiver<Arc<inbound::relay::RelaySettings>>,
    routes: &RouteParts,
    shutdown: &Shutdown,
    critical: &mut Critical,
) -> Loops {
    let mqtt::Link { publisher, commands, state, task, .. } = link;
    let set_aside = SetAside::new(core.spool.clone(), Arc::clone(&core.counters));
    let [relay_progress, accept_progress, deliver_progress] =
        std::array::from_fn(|_| Progress::unless(core.spool.rebuilding()));
    let (accepted, accepted_rx) = mpsc::unbounded_channel();
    let (results, results_rx) = mpsc::unbounded_channel();
    let (births, births_rx) = watch::channel(0);
    let relay = Relay {
        config: parts::relay_config(config),
        settings,
        routing: routes.routing(),
        spool: core.spool.clone(),
        publisher: publisher.clone(),
        link: state.clone(),
        set_aside: set_aside.clone(),
        counters: Arc::clone(&core.counters),
        progress: relay_progress.clone(),
    };
    let accept = Accept {
        config: parts::accept_config(config),
        spool: core.spool.clone(),
        publisher: publisher.clone(),
        set_aside: set_aside.clone(),
        link: state,
        routing: routes.routing(),
        book: routes.book.clone(),
        births,
        accepted,
        counters: Arc::clone(&core.counters),
        progress: accept_progress.clone(),
        ignored: SaidOnce::default(),
    };
    let attempts = Arc::new(Attempts {
        spool: core.spool.clone(),
        session: session.clone(),
        ambiguous: parts::ambiguous(config),
        base: config.mqtt.base_topic.clone(),
        routing: routes.routing(),
        book: routes.book.clone(),
        counters: Arc::clone(&core.counters),
        failed: Few::default(),
    });
    let deliver =
        Deliver::new(parts::deliver_config(config), attempts, results, routes.routing(), deliver_progress.clone());
    let results = Results {
        base: config.mqtt.base_topic.clone(),
        spool: core.spool.clone(),
        publisher: publisher.clone(),
        set_aside,
    };
    spawn(critical, "the relay loop", relay.run(shutdown.loops.clone()));
    spawn(critical, "the command loop", accept.run(commands, shutdown.commands.clone()));
    spawn(critical, "the deliver loop", deliver.run(accepted_rx, shutdown.loops.clone()));
    spawn(critical, "the results loop", results.run(results_rx, shutdown.results.clone()));
    let progress = vec![("relay", relay_progress), ("commands", accept_progress), ("deliver", deliver_progress)];
    Loops { publisher, link_task: task, progress, births: births_rx }
}

fn spawn(
    critical: &mut Critical,
    name: &'static str,
    part: impl Future<Output = Result<(), SpoolError>> + Send + 'static,
) {
    critical.spawn(async move { (name, part.await.map_err(|error| error.to_string())) });
}

fn describe(ended: Option<Result<Ended, tokio::task::JoinError>>) -> String {
    match ended {
        Some(Ok((name, Err(error)))) => format!("{name} failed: {error}"),
        Some(Ok((name, Ok(())))) => format!("{name} ended unasked"),
        Some(Err(error)) => format!("a part panicked: {error}"),
        None => "no part runs any more".to_owned(),
    }
}

/// Stops in order: no more commands; the loops drain, calls under way get 3 s; results drain; the session; the link says
/// `offline`; the callback closes last, so that until then pushes are made durable.
async fn stop(
    shutdown: &Shutdown,
    mut critical: Critical,
    link: tokio::task::JoinHandle<()>,
    session: tokio::task::JoinHandle<()>,
    observers: tokio_util::task::TaskTracker,
) {
    shutdown.commands.cancel();
    shutdown.loops.cancel();
    join(&mut critical, 2).await;
    shutdown.results.cancel();
    join(&mut critical, 1).await;
    observers.close();
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), observers.wait()).await;
    shutdown.session.cancel();
    let _ = session.await;
    shutdown.link.cancel();
    let _ = link.await;
    shutdown.callback.cancel();
    let all = async { while critical.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(8), all).await;
}

/// Waits until so few critical parts are left.
async fn join(critical: &mut Critical, left: usize) {
    while critical.len() > left {
        if let Some(Ok((name, Err(error)))) = critical.join_next().await {
            warn!(name, error, "a part failed while stopping");
        }
    }
}

/// `bridge/state`, retained.
fn state(config: &Config, state: &'static str) -> Publication {
    Publication::raw(config.mqtt.base_topic.bridge("state"), state).retained()
}

/// Opens the spool of a state directory.
fn open_spool(config: &Config, dir: &std::path::Path) -> Result<Spool, AppError> {
    let limits = crate::spool::Limits {
        inbound: config.spool.max_bytes,
        outbound: config.spool.max_bytes,
        set_aside: parts::SET_ASIDE_BYTES,
    };
    let (spool, recovered) = Spool::open(dir, limits).map_err(|error| AppError::State(error.to_string()))?;
    for file in ["spool.db", "spool.db-wal", "spool.db-shm", "spool.answered"] {
        files::give_to_owner_of_directory(&dir.join(file));
    }
    for alarm in &recovered.alarms {
        error!("{alarm}");
    }
    Ok(spool)
}
