//! What the daemon shares with the verbs that run without it: the state directory, and what is built from it.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::task::TaskTracker;
use tracing::error;

use super::election::Election;
use super::error::AppError;
use super::supervisor::{FAULT, Step, Supervisor};
use super::{listeners, parts};
use crate::cloud::{self, Client, HandshakeLog, RegisterPolicy, Session, SessionConfig};
use crate::config::{self, Config, Register};
use crate::delivery::refused::AllBusy;
use crate::http::listener;
use crate::http::listener::{Stop, Tls};
use crate::inbound;
use crate::inbound::callback::{Callback, CallbackConfig, LastSeen};
use crate::inbound::repeats::Repeats;
use crate::inbound::server::{Access, Guarded};
use crate::inbound::store::Recognition;
use crate::mqtt::LinkState;
use crate::observe::activity::Activity;
use crate::observe::counters::Counters;
use crate::observe::log::Recent;
use crate::operate::control::{Begun, StepDown};
use crate::operate::status::{Info, Readiness, Report};
use crate::os::files::{self, Directory, Files};
use crate::os::tasks::Shutdown;
use crate::os::tls;
use crate::state_dir::{Identity, IdentityRegistry, Overrides, StateDir};
use crate::store::sqlite::Spool;
use crate::store::{Append, Limits, Store};

/// What the daemon and the verbs without a daemon have in common, whoever leads.
pub(super) struct Core {
    pub(super) state_dir: StateDir,
    /// Where identity, token and what else is small are kept.
    pub(super) files: Files,
    pub(super) identity: Arc<Identity>,
    pub(super) spool: Arc<dyn Append>,
    recognition: Recognition,
    pub(super) counters: Arc<Counters>,
    pub(super) busy: Arc<watch::Sender<AllBusy>>,
    pub(super) seen: Arc<LastSeen>,
    pub(super) handshakes: HandshakeLog,
    pub(super) path_secrets: watch::Sender<Vec<SecretString>>,
    /// Held while the callback URL is changed, by a reload or by a new secret: each knows only its own half of the URL.
    pub(super) changing_url: Arc<Mutex<()>>,
    tasks: TaskTracker,
}

impl Core {
    /// With what decides whether this bridge leads.
    pub(super) fn open(config: &Config) -> Result<(Self, Election), AppError> {
        Self::alone(StateDir::open(&config.state_dir).map_err(|error| in_state(&error))?, config)
    }

    /// With the state directory, locked.
    pub(super) fn alone(state_dir: StateDir, config: &Config) -> Result<(Self, Election), AppError> {
        let files = Files::from(state_dir.directory());
        let identity = Identity::open(files.clone(), overrides(config)).map_err(|error| in_state(&error))?;
        let store = open_spool(config, state_dir.directory())?;
        let recognition = match config.callback.repeats {
            config::Repeats::Unanswered => Recognition::Memory(Arc::new(Repeats::new(store.clone(), state_dir.path()))),
            config::Repeats::Off => {
                Repeats::none(state_dir.path());
                Recognition::Off
            }
        };
        let core = Self::of(config, state_dir, files, identity, store.clone(), recognition);
        Ok((core, Election::Alone(Some(store))))
    }

    pub(super) fn of(
        config: &Config,
        state_dir: StateDir,
        files: Files,
        identity: Identity,
        spool: Arc<dyn Append>,
        recognition: Recognition,
    ) -> Self {
        let path_secrets = watch::Sender::new(identity.accepted_secrets());
        Self {
            state_dir,
            files,
            identity: Arc::new(identity),
            spool,
            recognition,
            counters: counters(config),
            busy: Arc::default(),
            seen: Arc::default(),
            handshakes: HandshakeLog::default(),
            path_secrets,
            changing_url: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// The memory of unanswered pushes, if this bridge is the only one.
    pub(super) fn repeats(&self) -> Option<Arc<Repeats>> {
        match &self.recognition {
            Recognition::Memory(repeats) => Some(Arc::clone(repeats)),
            Recognition::Tokens(_) | Recognition::Off => None,
        }
    }

    /// Reads the identity again, which another member of the cluster may have changed.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub(super) async fn read_identity_again(&self) -> Result<(), AppError> {
        let identity = Arc::clone(&self.identity);
        let read = tokio::task::spawn_blocking(move || identity.read_again()).await;
        read.map_err(|error| AppError::Failed(error.to_string()))?.map_err(|error| in_state(&error))?;
        self.path_secrets.send_replace(self.identity.accepted_secrets());
        Ok(())
    }

    pub(super) async fn close(self) {
        self.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(3), self.tasks.wait()).await;
        self.spool.close().await;
    }

    /// Serves the callback until its step of the stop.
    pub(super) fn serve_callback(
        &self,
        config: &Config,
        listener: TcpListener,
        shutdown: &Shutdown,
        supervisor: &mut Supervisor,
    ) -> Result<Tls, AppError> {
        let tls = match &config.callback.tls {
            None => None,
            Some(files) => {
                let tls = tls::server_config(&files.cert, &files.key).map_err(AppError::Config)?;
                Some(Arc::new(RwLock::new(tls)))
            }
        };
        let access = Access::new(&config.callback.allow, &config.callback.trusted_proxies);
        let (room, serving) = (listeners::shares(config.outbound.concurrency).callback, tls.clone());
        let callback_config = CallbackConfig {
            path_secrets: self.path_secrets.subscribe(),
            handshake_token: self.identity.handshake_token(),
            accepted: config.callback.signature,
            max_body: config.callback.max_body,
            uid: config.ilink.uid.clone(),
            strict_to_uid: config.callback.strict_to_uid,
        };
        let (spool, counters, tasks) = (self.spool.clone(), Arc::clone(&self.counters), self.tasks.clone());
        let recognition = self.recognition.clone();
        let (seen, handshakes) = (Arc::clone(&self.seen), self.handshakes.clone());
        let stop = Stop { gently: shutdown.callback.clone(), at_once: shutdown.callback_at_once.clone() };
        supervisor.part("the callback", Step::Callback, async move {
            if let Recognition::Memory(repeats) = &recognition {
                repeats.load().await.map_err(|error| error.to_string())?;
            }
            let max_body = callback_config.max_body;
            let store =
                Arc::new(inbound::store::Store::new(spool, recognition, max_body, Arc::clone(&counters), tasks));
            let fault = store.fault();
            let callback = Arc::new(Callback::new(callback_config, store, handshakes, Arc::clone(&counters), seen));
            let guarded = Guarded { callback, access, counters };
            // The listener may be dropped at any time: its connections end with it.
            tokio::select! {
                () = listener::serve(listener, "callback.listen", room, serving, Box::new(guarded), stop) => Ok(()),
                () = fault.cancelled() => Err(FAULT.to_owned()),
            }
        });
        Ok(tls)
    }

    pub(super) fn client(&self, config: &Config) -> Result<Client, AppError> {
        Ok(parts::client(config)?.counting(Arc::clone(&self.counters)))
    }

    pub(super) fn session_config(&self, config: &Config) -> SessionConfig {
        SessionConfig {
            account: parts::account(config),
            api: config.ilink.api.clone(),
            state_dir: self.files.clone(),
            register: match config.callback.register {
                Register::IfNeeded => RegisterPolicy::IfNeeded,
                Register::Always => RegisterPolicy::Always,
                Register::Never => RegisterPolicy::Never,
            },
            callback_url: config.callback_url(&self.identity.path_secret()),
            handshake_token: self.identity.handshake_token(),
            verify_every: config.callback.verify_every,
            topics: config.ilink.topics.clone(),
            presence: config.ilink.presence.clone(),
            timing: crate::cloud::Timing::default(),
        }
    }

    pub(super) fn registry(&self, config: &Config) -> IdentityRegistry {
        let ilink = &config.ilink;
        IdentityRegistry::new(Arc::clone(&self.identity), ilink.api.as_str(), &ilink.appkey, ilink.uid.as_str())
    }

    /// Everything that is looked at, of a bridge that does not lead.
    pub(super) fn report(&self, config: &Config, info: watch::Receiver<Info>) -> Report {
        Report {
            handshakes: self.handshakes.clone(),
            seen: Arc::clone(&self.seen),
            busy: self.busy.subscribe(),
            ..report(config, info, self.spool.clone(), Arc::clone(&self.counters))
        }
    }

    /// What the verbs need, as the configuration is reloaded.
    pub(super) fn verbs(
        &self,
        config: &watch::Receiver<Config>,
        session: watch::Receiver<Option<Session>>,
        recent: Recent,
        step_down: mpsc::Sender<StepDown>,
    ) -> Begun {
        Begun {
            config: config.clone(),
            max_content: config.borrow().outbound.max_content,
            recent,
            session,
            identity: Arc::clone(&self.identity),
            path_secrets: self.path_secrets.clone(),
            changing_url: Arc::clone(&self.changing_url),
            step_down,
        }
    }
}

pub(super) fn counters(config: &Config) -> Arc<Counters> {
    Arc::new(Counters { activity: Activity::new(config.admin.show_content), ..Counters::default() })
}

/// Everything that is looked at, of a bridge that does not lead and has seen nothing.
pub(super) fn report(
    config: &Config,
    info: watch::Receiver<Info>,
    spool: Arc<dyn Append>,
    counters: Arc<Counters>,
) -> Report {
    Report {
        info,
        base: config.mqtt.base_topic.clone(),
        spool,
        queues: None,
        desk: None,
        cloud: watch::Sender::new(cloud::Status::without_session()).subscribe(),
        link: watch::Sender::new(LinkState::default()).subscribe(),
        link_counters: Arc::default(),
        handshakes: HandshakeLog::default(),
        seen: Arc::default(),
        counters,
        busy: watch::Sender::default().subscribe(),
        routes: Arc::default(),
        readiness: Readiness::default(),
        loops: Vec::new(),
        cluster: None,
    }
}

pub(super) fn in_state(error: &dyn std::error::Error) -> AppError {
    AppError::State(error.to_string())
}

pub(super) fn overrides(config: &Config) -> Overrides {
    Overrides { handshake_token: config.callback.token.clone(), path_secret: config.callback.path_secret.clone() }
}

pub(super) fn limits(config: &Config) -> Limits {
    Limits { inbound: config.spool.max_bytes, outbound: config.spool.max_bytes, set_aside: parts::SET_ASIDE_BYTES }
}

/// Opens the spool of a state directory.
fn open_spool(config: &Config, dir: &Directory) -> Result<Arc<dyn Store>, AppError> {
    let (spool, recovered) = Spool::open_in(dir, limits(config)).map_err(|error| AppError::State(error.to_string()))?;
    for file in ["spool.db", "spool.db-wal", "spool.db-shm"] {
        files::give_to_owner_of_directory(&dir.path().join(file));
    }
    for alarm in &recovered.alarms {
        error!("{alarm}");
    }
    Ok(spool)
}
