//! Builds the parts of the daemon, in one place; starts them in order, reloads at SIGHUP what can change, stops them in order.
//!
//! Start: the state directory and the spool, then the callback's socket, then what leads (`leader.rs`): the link, the session,
//! the loops. iLink calls back *during* the registration, so the callback is served first. A member of a cluster first waits for
//! etcd (`opening.rs`), and answers only who asks how it is. Stop: see `office.rs`. The callback closes last, or first if a part
//! has failed.
//!
//! A reload is all or nothing: an invalid file changes nothing, and the log says why. A changed key that needs a restart is
//! named, and its old value stays in force.

pub mod alone;
pub mod checkup;
mod cluster;
mod core;
mod election;
mod error;
mod homeassistant;
mod leader;
mod listeners;
mod office;
mod opening;
mod parts;
mod seat;
pub mod setup;
mod supervisor;
mod tasks;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::core::Core;
use crate::config::{Config, Environment};
use crate::http::listener::Tls;
use crate::observe::log::LogLevel;
use crate::operate::control;
use crate::operate::status::Info;
use crate::operate::systemd::{Notifier, Sockets};
use crate::os::tasks::{Asked, Shutdown, Signals};
use crate::os::tls;
use crate::state_dir::Identity;
use election::Election;
use leader::Leader;
use office::Office;
use opening::Opening;
use supervisor::{Step, Supervisor};
use tasks::Answering;

pub use error::AppError;

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
    let opening = tokio::select! {
        opening = Opening::begin(&config) => opening?,
        () = signals.stop() => return Ok(()),
        () = stop.cancelled() => return Ok(()),
    };
    let sockets_of_answering = listeners::answering(&config, opening.state_dir(), sockets.admin)?;
    let mut supervisor = Supervisor::default();
    let info = watch::Sender::new(parts::info(&config));
    let reports = watch::Sender::new(Arc::new(opening.report(&config, info.subscribe())));
    let begun = Arc::new(OnceLock::new());
    let mut answering = Answering {
        config: &config,
        begun: Arc::clone(&begun),
        reports: reports.subscribe(),
        notifier: &notifier,
        stop: &shutdown.observers,
        sockets: Some(sockets_of_answering),
    };
    let opened = open_the_rest(opening, &config, &mut signals, &stop, &mut answering, &mut supervisor).await?;
    let Some((core, election)) = opened else { return Ok(()) };
    let callback = listeners::callback(&config, sockets.callback)?;
    let callback_at = callback.local_addr().unwrap_or(config.callback.listen);
    let tls = core.serve_callback(&config, callback, &shutdown, &mut supervisor)?;
    let mut office = Office::new(&config, info.subscribe(), election, reports);
    office.begin(&core).await?;
    let current = watch::Sender::new(config.clone());
    let recent = source.level.as_ref().map(LogLevel::recent).unwrap_or_default();
    let (step_down, mut step_downs) = mpsc::channel(1);
    let _ = begun.set(core.verbs(&current.subscribe(), office.sessions(), recent, step_down));
    answering.start(&mut supervisor);
    info!(version = env!("CARGO_PKG_VERSION"), uid = %config.ilink.uid, callback = %callback_at, broker = %config.mqtt.broker, "started");
    notifier.ready().await;

    let (identity, changing_url) = (Arc::clone(&core.identity), Arc::clone(&core.changing_url));
    let mut reload = Reload { source, config, current, info, identity, changing_url, tls };
    office.watch(&core, &shutdown, &mut supervisor);
    let failure = loop {
        // asked(), failed(), recv() and next() are cancel-safe; the others only observe.
        tokio::select! {
            asked = signals.asked() => match asked {
                Asked::Stop => break None,
                Asked::Reload => {
                    notifier.reloading();
                    reload.reload(office.leader()).await;
                    notifier.ready().await;
                }
            },
            () = stop.cancelled() => break None,
            failure = supervisor.failed() => break Some(failure),
            cause = core.spool.failed() => break Some(format!("the spool failed: {cause}")),
            Some(asked) = step_downs.recv() => {
                // Dropped at a signal: the stop goes on with what has begun.
                let drained = tokio::select! {
                    drained = office.prepare_to_hand_over() => drained,
                    () = signals.stop() => break None,
                };
                let done = match drained {
                    Ok(drained) => {
                        office.hand_over(&core, drained).await;
                        Ok(())
                    }
                    Err(why) => Err(why),
                };
                let _ = asked.send(done);
            }
            turn = office.next() => {
                let current = reload.current.borrow().clone();
                if let Err(failure) = office.take(&core, turn, &current).await {
                    break Some(failure);
                }
            }
        }
    };
    notifier.stopping();
    signals.end_at_the_next();
    if let Some(failure) = &failure {
        // Before anything else: from here on nobody is told that a push is safe.
        shutdown.callback_at_once.cancel();
        error!(failure, "stopping: a part of the bridge failed");
    }
    // Boxed, as it is large.
    let election = Box::pin(office.stop(&shutdown, supervisor)).await;
    let _ = std::fs::remove_file(control::socket(core.state_dir.path()));
    core.close().await;
    election.end().await;
    match failure {
        None => {
            info!("stopped");
            Ok(())
        }
        Some(failure) => Err(AppError::Failed(failure)),
    }
}

/// Opens the rest. A member of a cluster waits for etcd, and meanwhile answers who asks; none if it is to stop before.
async fn open_the_rest(
    opening: Opening,
    config: &Config,
    signals: &mut Signals,
    stop: &CancellationToken,
    answering: &mut Answering<'_>,
    supervisor: &mut Supervisor,
) -> Result<Option<(Core, Election)>, AppError> {
    let control_socket = control::socket(opening.state_dir());
    let joining = match opening {
        Opening::Alone(opened) => return Ok(Some(*opened)),
        Opening::Member(joining) => joining,
    };
    answering.start(supervisor);
    let identity = tokio::select! {
        identity = joining.identity(config) => identity.map(Some),
        () = signals.stop() => Ok(None),
        () = stop.cancelled() => Ok(None),
        failure = supervisor.failed() => Err(AppError::Failed(failure)),
    };
    match identity {
        Ok(Some(identity)) => Ok(Some(joining.joined(config, identity))),
        ended => {
            answering.stop.cancel();
            supervisor.join(Step::Observers, Some(Duration::from_secs(1))).await;
            // Before the state directory is left to others.
            let _ = std::fs::remove_file(control_socket);
            ended.map(|_| None)
        }
    }
}

/// Where the configuration came from, to read it again.
pub struct Source {
    /// The file named on the command line.
    pub path: Option<PathBuf>,
    /// The process's environment.
    pub environment: Environment,
    /// The log's level, if this process may change it.
    pub level: Option<LogLevel>,
}

/// What a reload reaches.
struct Reload {
    source: Source,
    /// As the process started with: what needs a restart is named at every reload.
    config: Config,
    /// As reloaded last; of it the verbs use what can change while running.
    current: watch::Sender<Config>,
    info: watch::Sender<Info>,
    identity: Arc<Identity>,
    changing_url: Arc<Mutex<()>>,
    tls: Tls,
}

impl Reload {
    async fn reload(&mut self, leader: Option<&Leader>) {
        let new = match Config::load(self.source.path.as_deref(), &self.source.environment) {
            Ok(new) => new,
            Err(error) => return error!(%error, "the configuration was not reloaded; the old one stays in force"),
        };
        let certificates = match (&self.tls, &new.callback.tls) {
            (Some(_), Some(files)) => match tls::server_config(&files.cert, &files.key) {
                Ok(tls) => Some(tls),
                Err(error) => return error!(error, "the configuration was not reloaded; the old one stays in force"),
            },
            _ => None,
        };
        for key in self.config.restart_needed(&new) {
            warn!(key, "a changed key takes effect at the next restart");
        }
        if let Some(level) = &self.source.level {
            level.set(new.log.level);
        }
        if let (Some(current), Some(tls)) = (&self.tls, certificates) {
            *current.write().unwrap_or_else(PoisonError::into_inner) = tls;
        }
        // Until the verbs see the new configuration: the secret must not change in between, nor a URL be made of the old one.
        let changing = self.changing_url.lock().await;
        let url = new.callback_url(&self.identity.path_secret());
        if let Some(leader) = leader {
            leader.reload(&self.config, &new, url).await;
        }
        let (callback_host, warnings) = (parts::callback_host(&new), new.warnings());
        self.info.send_if_modified(|info| {
            let changed = info.callback_host != callback_host;
            (info.callback_host, info.warnings) = (callback_host, warnings);
            changed
        });
        self.current.send_replace(new);
        drop(changing);
        info!("the configuration was reloaded");
    }
}
