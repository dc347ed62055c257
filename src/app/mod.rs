//! Builds the parts of the daemon, in one place; starts them in order, stops them in order.
//!
//! Start: state directory and spool; the callback's socket; the link; the session (iLink calls us back *during* the
//! registration, so the callback is served first); the loops. Stop: see `stop` below; the callback closes last, or first of
//! all if a part has failed.

pub mod alone;
pub mod bug_report;
pub mod checkup;
mod core;
mod error;
mod homeassistant;
mod listeners;
mod parts;
mod reload;
pub mod setup;
mod supervisor;
mod tasks;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::core::Core;
use crate::config::Config;
use crate::observe::log::LogLevel;
use crate::operate::control;
use crate::operate::systemd::{Notifier, Sockets};
use crate::os::shutdown::{Asked, Shutdown, Signals};
use crate::store::Store;
use crate::{cloud, mqtt};
pub use error::AppError;
use parts::RouteParts;
pub use reload::Source;
use supervisor::{Step, Supervisor};
use tasks::{Around, Observers};

/// Runs the daemon until a signal, or until `stop` is cancelled (the demo's way), on `sockets` where there are some.
///
/// # Errors
/// Why it could not start, or stopped unasked.
pub async fn run(config: Config, source: Source, sockets: Sockets, stop: CancellationToken) -> Result<(), AppError> {
    let mut signals =
        Signals::listen().map_err(|error| AppError::Failed(format!("cannot listen for signals: {error}")))?;
    let shutdown = Shutdown::default();
    listeners::raise_limit();
    listeners::warn_if_few(config.outbound.concurrency);
    let notifier = Notifier::of(&source.environment);
    let core = Core::open_soon(&config).await?;
    let (callback, admin_listener) = listeners::open(&config, sockets)?;
    let control_listener = control::bind(core.state_dir.path()).map_err(|error| {
        let socket = control::socket(core.state_dir.path());
        AppError::State(format!("the control socket {} cannot be opened: {error}", socket.display()))
    })?;

    let client = core.client(&config)?;
    let mut supervisor = Supervisor::default();
    let callback_at = callback.local_addr().unwrap_or(config.callback.listen);
    let tls = core.serve_callback(&config, callback, &shutdown, &mut supervisor)?;
    let routes = RouteParts::open(&config, &core.spool).await?;
    let link_config = tasks::link_config(&config, &core, routes.filters()).await?;
    let link = mqtt::start(link_config, shutdown.link.clone()).map_err(|error| AppError::Config(error.to_string()))?;
    let (session, session_task) = cloud::start(
        client,
        core.session_config(&config),
        Arc::new(core.registry(&config)),
        core.handshakes.clone(),
        shutdown.session.clone(),
    );
    supervisor.adopt("the session with iLink", Step::Session, session_task);
    let (settings, settings_rx) = watch::channel(Arc::new(parts::relay_settings(&config)));
    let (info, info_rx) = watch::channel(parts::info(&config));
    let report = Arc::new(core.report(&config, info_rx, &session, &link, &routes));

    let around = Around { config: &config, core: &core, session: &session, routes: &routes, shutdown: &shutdown };
    let loops = tasks::start_loops(&around, link, settings_rx, &mut supervisor);
    let (current, current_rx) = watch::channel(config.clone());
    let observers = Observers {
        around: &around,
        report: &report,
        loops: &loops,
        settings: settings.subscribe(),
        current: current_rx,
        notifier: &notifier,
        recent: source.level.as_ref().map(LogLevel::recent).unwrap_or_default(),
    };
    observers.start(control_listener, admin_listener, &mut supervisor);
    info!(version = env!("CARGO_PKG_VERSION"), uid = %config.ilink.uid, callback = %callback_at, broker = %config.mqtt.broker, "started");
    notifier.ready().await;

    let (identity, changing_url) = (Arc::clone(&core.identity), Arc::clone(&core.changing_url));
    let mut reload = reload::Reload {
        source,
        config,
        current,
        session: session.clone(),
        settings,
        routes,
        info,
        identity,
        changing_url,
        tls,
    };
    let failure = until_stop(&mut signals, &mut reload, &notifier, &stop, &mut supervisor, &*core.spool).await;
    notifier.stopping();
    signals.end_at_the_next();
    if let Some(failure) = &failure {
        // Before anything else: from here on nobody is told that a push is safe.
        shutdown.callback_at_once.cancel();
        error!(failure, "stopping: a part of the bridge failed");
    }
    core.spool.patience().end();
    self::stop(&shutdown, supervisor).await;
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
    supervisor: &mut Supervisor,
    spool: &dyn Store,
) -> Option<String> {
    loop {
        // asked() and failed() are cancel-safe; the others only observe.
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
            failure = supervisor.failed() => break Some(failure),
            cause = spool.failed() => break Some(format!("the spool failed: {cause}")),
        }
    }
}

/// Stops in order: no more commands; the loops drain, calls under way get 3 s; results drain; the session; the link says
/// `offline`; the callback closes last, so that until then pushes are made durable (when a part has failed it was cut first).
async fn stop(shutdown: &Shutdown, mut supervisor: Supervisor) {
    shutdown.commands.cancel();
    shutdown.loops.cancel();
    supervisor.join(Step::Loops, None).await;
    shutdown.results.cancel();
    supervisor.join(Step::Results, None).await;
    supervisor.join(Step::Observers, Some(Duration::from_secs(1))).await;
    shutdown.session.cancel();
    supervisor.join(Step::Session, None).await;
    shutdown.link.cancel();
    supervisor.join(Step::Link, None).await;
    shutdown.callback.cancel();
    supervisor.join(Step::Callback, Some(Duration::from_secs(8))).await;
}
