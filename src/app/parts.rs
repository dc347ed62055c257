//! From the configuration's values to each part's own.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::routes::RouteParts;
use super::{AppError, Critical, open_spool, state};
use crate::clock;
use crate::cloud::{Client, ClientConfig, HandshakeLog, RegisterPolicy, Session, SessionConfig};
use crate::config::{Ambiguous, Config, MqttProtocol, Register, Repeats};
use crate::control::verbs::Verbs;
use crate::counters::Counters;
use crate::inbound;
use crate::inbound::callback::{Callback, CallbackConfig, LastSeen};
use crate::inbound::record::Record;
use crate::inbound::relay::{RelayConfig, RelaySettings};
use crate::inbound::server::{Access, Guarded};
use crate::inbound::store::Store;
use crate::listener::{self, Tls};
use crate::local::{Globs, Rules};
use crate::mqtt::{Link, LinkConfig, LinkState, Protocol, RouteFilters, Timing, TlsOptions};
use crate::open_files;
use crate::outbound;
use crate::outbound::accept::AcceptConfig;
use crate::outbound::deliver::DeliverConfig;
use crate::progress::Progress;
use crate::protocol::{Account, Uid};
use crate::report::{Info, Readiness, Report};
use crate::shutdown::Shutdown;
use crate::spool::{Queue, Spool, SpoolError};
use crate::state_dir::{Identity, IdentityRegistry, Overrides, StateDir, StateDirError};
use crate::tls;
use crate::trail::Trail;

/// The set-aside store's cap, in bytes.
pub(super) const SET_ASIDE_BYTES: u64 = 16 * 1024 * 1024;
/// How long a starting daemon waits for a state directory that somebody else has.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks.
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// The note by which the next run knows that the broker has a session of ours.
const SESSION_NOTE: &str = "mqtt/session";

/// What the daemon and the verbs without a daemon have in common.
pub(super) struct Core {
    pub(super) state_dir: StateDir,
    pub(super) identity: Arc<Identity>,
    pub(super) spool: Spool,
    pub(super) counters: Arc<Counters>,
    pub(super) seen: Arc<LastSeen>,
    pub(super) handshakes: HandshakeLog,
    pub(super) path_secrets: watch::Sender<Vec<SecretString>>,
    tasks: TaskTracker,
}

impl Core {
    pub(super) fn open(config: &Config) -> Result<Self, AppError> {
        Self::of(StateDir::open(&config.state_dir).map_err(|error| AppError::State(error.to_string()))?, config)
    }

    /// As [`Self::open`], but waits a little for the state directory: a verb without a daemon has it for a moment.
    pub(super) async fn open_soon(config: &Config) -> Result<Self, AppError> {
        Self::of(patiently(&config.state_dir).await.map_err(|error| AppError::State(error.to_string()))?, config)
    }

    fn of(state_dir: StateDir, config: &Config) -> Result<Self, AppError> {
        let in_state = |error: &dyn std::error::Error| AppError::State(error.to_string());
        let overrides = Overrides {
            handshake_token: config.callback.token.clone(),
            path_secret: config.callback.path_secret.clone(),
        };
        let identity = Arc::new(Identity::open(&state_dir, overrides).map_err(|error| in_state(&error))?);
        let spool = open_spool(config, state_dir.path())?;
        let path_secrets = watch::Sender::new(identity.accepted_secrets());
        Ok(Self {
            state_dir,
            identity,
            spool,
            counters: Arc::new(Counters { trail: Trail::new(config.admin.show_content), ..Counters::default() }),
            seen: Arc::default(),
            handshakes: HandshakeLog::default(),
            path_secrets,
            tasks: TaskTracker::new(),
        })
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
        critical: &mut Critical,
    ) -> Result<Tls, AppError> {
        let tls = match &config.callback.tls {
            None => None,
            Some(files) => {
                let tls = tls::server_config(&files.cert, &files.key).map_err(AppError::Config)?;
                Some(Arc::new(RwLock::new(tls)))
            }
        };
        let access = Access::new(&config.callback.allow, &config.callback.trusted_proxies);
        let (room, serving) = (open_files::shares(config.outbound.concurrency).callback, tls.clone());
        let callback_config = CallbackConfig {
            path_secrets: self.path_secrets.subscribe(),
            handshake_token: self.identity.handshake_token(),
            accepted: config.callback.signature,
            max_body: config.callback.max_body,
            uid: config.ilink.uid.clone(),
            strict_to_uid: config.callback.strict_to_uid,
        };
        let (spool, counters, tasks) = (self.spool.clone(), Arc::clone(&self.counters), self.tasks.clone());
        let (seen, handshakes, stop) = (Arc::clone(&self.seen), self.handshakes.clone(), shutdown.callback.clone());
        let remember = config.callback.repeats == Repeats::Unanswered;
        critical.spawn(async move {
            let repeats = match spool.load_keys().await {
                Ok(keys) => remember.then(|| inbound::repeats::Repeats::new(keys.repeats)),
                Err(error) => return ("the callback", Err(error.to_string())),
            };
            let store = Arc::new(Store::new(spool, repeats, Arc::clone(&counters), tasks));
            let callback = Arc::new(Callback::new(callback_config, store, handshakes, Arc::clone(&counters), seen));
            let guarded = Guarded { callback, access, counters };
            listener::serve(listener, "callback.listen", room, serving, guarded, stop).await;
            ("the callback", Ok(()))
        });
        Ok(tls)
    }

    pub(super) fn client(&self, config: &Config) -> Result<Client, AppError> {
        Ok(client(config)?.counting(Arc::clone(&self.counters)))
    }

    pub(super) fn session_config(&self, config: &Config) -> SessionConfig {
        SessionConfig {
            account: account(config),
            api: config.ilink.api.clone(),
            state_dir: self.state_dir.path().to_owned(),
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

    /// Everything that is looked at.
    pub(super) fn report(
        &self,
        config: &Config,
        info: watch::Receiver<Info>,
        session: &Session,
        link: &Link,
        routes: &RouteParts,
    ) -> Report {
        Report {
            info,
            base: config.mqtt.base_topic.clone(),
            spool: self.spool.clone(),
            cloud: session.status(),
            link: link.state.clone(),
            link_counters: Arc::clone(&link.counters),
            handshakes: self.handshakes.clone(),
            seen: Arc::clone(&self.seen),
            counters: Arc::clone(&self.counters),
            routes: Arc::clone(&routes.states),
            readiness: Readiness::default(),
        }
    }

    /// The verbs follow a reloaded configuration.
    pub(super) fn verbs(
        &self,
        config: &watch::Receiver<Config>,
        session: Session,
        report: Arc<Report>,
        loops: Vec<(&'static str, Progress)>,
    ) -> Verbs {
        let (for_url, for_change, changing) = (config.clone(), config.clone(), session.clone());
        Verbs {
            session,
            identity: Arc::clone(&self.identity),
            path_secrets: self.path_secrets.clone(),
            callback_url: Box::new(move |secret| for_url.borrow().callback_url(secret)),
            change_url: Box::new(move |url| {
                let session = changing.clone();
                let ilink = &for_change.borrow().ilink;
                let (topics, presence) = (ilink.topics.clone(), ilink.presence.clone());
                Box::pin(async move { session.reconfigure(topics, presence, url).await })
            }),
            max_content: config.borrow().outbound.max_content,
            report,
            loops,
        }
    }
}

async fn patiently(path: &Path) -> Result<StateDir, StateDirError> {
    let since = Instant::now();
    loop {
        match StateDir::open(path) {
            Err(StateDirError::Locked { .. }) if since.elapsed() < LOCK_PATIENCE => sleep(LOCK_PAUSE).await,
            opened => return opened,
        }
    }
}

pub(super) fn client(config: &Config) -> Result<Client, AppError> {
    let client = ClientConfig {
        api: config.ilink.api.clone(),
        timeout: config.ilink.timeout,
        proxy: config.ilink.proxy.as_ref().map(|proxy| proxy.expose().clone()),
        extra_ca: config.ilink.ca.clone(),
    };
    Client::new(&client).map_err(|error| AppError::Config(error.to_string()))
}

pub(super) fn account(config: &Config) -> Account {
    Account {
        appkey: config.ilink.appkey.clone(),
        secretkey: config.ilink.secretkey.clone(),
        uid: config.ilink.uid.clone(),
        presence_action: config.ilink.presence_action,
    }
}

/// The link's configuration, with whether an earlier run left a session at the broker.
pub(super) async fn link_config(
    config: &Config,
    core: &Core,
    routes: watch::Receiver<RouteFilters>,
) -> Result<LinkConfig, AppError> {
    let notes = core.spool.notes(SESSION_NOTE).await.map_err(|error| AppError::State(error.to_string()))?;
    let session = session_name(config);
    Ok(LinkConfig { expect_session: notes.iter().any(|(_, value)| *value == session), ..link(config, routes) })
}

/// The link's configuration as far as the file says it.
pub(super) fn link(config: &Config, routes: watch::Receiver<RouteFilters>) -> LinkConfig {
    let mqtt = &config.mqtt;
    let mut filters: Vec<String> = mqtt.base_topic.command_filters().into();
    filters.dedup();
    LinkConfig {
        broker: mqtt.broker.clone(),
        protocol: match mqtt.protocol {
            MqttProtocol::V5 => Protocol::V5,
            MqttProtocol::V311 => Protocol::V311,
        },
        client_id: mqtt.client_id.clone(),
        credentials: mqtt
            .username
            .clone()
            .map(|user| (user, mqtt.password.clone().unwrap_or_else(|| SecretString::from(String::new())))),
        tls: TlsOptions { ca: mqtt.tls.ca.clone(), cert: mqtt.tls.cert.clone(), key: mqtt.tls.key.clone() },
        max_packet: mqtt.max_packet,
        session_expiry: u32::try_from(mqtt.session_expiry.as_secs()).unwrap_or(u32::MAX),
        persistent_session: mqtt.persistent_session,
        expect_session: false,
        filters,
        routes,
        base: mqtt.base_topic.clone(),
        own_uid: config.ilink.uid.clone(),
        will: state(config, "offline"),
        birth: vec![state(config, "online")],
        timing: Timing::default(),
    }
}

/// Names the session that a broker may hold for us.
pub(super) fn session_name(config: &Config) -> Vec<u8> {
    format!("{} {}", config.mqtt.broker, config.mqtt.client_id).into_bytes()
}

/// Notes, once connected, that the broker has a session of ours from here on.
pub(super) async fn remember_session(
    mut link: watch::Receiver<LinkState>,
    spool: Spool,
    name: Vec<u8>,
    stop: CancellationToken,
) {
    if let Some(Ok(_)) = stop.run_until_cancelled(link.wait_for(|link| link.connected)).await {
        spool.put_note(SESSION_NOTE, name);
    }
}

pub(super) fn relay_config(config: &Config) -> RelayConfig {
    RelayConfig {
        base: config.mqtt.base_topic.clone(),
        uid: config.ilink.uid.clone(),
        output: config.mqtt.output,
        raw_max_age: config.inbound.raw_max_age,
    }
}

pub(super) fn relay_settings(config: &Config) -> RelaySettings {
    RelaySettings {
        allow_from: config.inbound.allow_from.iter().cloned().collect::<HashSet<_>>(),
        presence: config.ilink.presence.iter().cloned().collect(),
    }
}

pub(super) fn accept_config(config: &Config) -> AcceptConfig {
    AcceptConfig {
        base: config.mqtt.base_topic.clone(),
        rules: Rules { allow_calls: Globs::new(&config.mqtt.allow_calls), max_content: config.outbound.max_content },
        max_packet: usize::try_from(config.mqtt.max_packet).unwrap_or(usize::MAX),
        ttl: config.outbound.ttl,
        response_topics: config.mqtt.response_topics.clone(),
        discovery_prefix: config.homeassistant.discovery_prefix.as_str().to_owned(),
        birth_topic: config.discovery().map(|discovery| discovery.birth_topic()),
    }
}

pub(super) fn deliver_config(config: &Config) -> DeliverConfig {
    DeliverConfig {
        concurrency: config.outbound.concurrency,
        rate_per_s: config.outbound.rate_per_s.map(std::num::NonZeroU32::get),
    }
}

pub(super) fn ambiguous(config: &Config) -> outbound::attempt::Ambiguous {
    match config.outbound.ambiguous {
        Ambiguous::Retry => outbound::attempt::Ambiguous::Retry,
        Ambiguous::Report => outbound::attempt::Ambiguous::Report,
    }
}

fn host(url: &url::Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

pub(super) fn callback_host(config: &Config) -> String {
    host(config.callback.public_url.expose())
}

pub(super) fn info(config: &Config) -> Info {
    Info {
        version: env!("CARGO_PKG_VERSION"),
        uid: config.ilink.uid.to_string(),
        api_host: host(&config.ilink.api),
        callback_host: callback_host(config),
        base_topic: config.mqtt.base_topic.as_str().to_owned(),
        started_at: clock::rfc3339(clock::wall_now_ms()),
        warnings: config.warnings(),
    }
}

/// Queues what `ham_user/states` told between the pushes, so that neither overtakes the other.
pub(super) async fn queue_presence(
    mut states: watch::Receiver<Vec<(Uid, bool)>>,
    spool: Spool,
    stop: CancellationToken,
) {
    while let Some(Ok(())) = stop.run_until_cancelled(states.changed()).await {
        let states = states.borrow_and_update().clone();
        if states.is_empty() {
            continue;
        }
        let Ok(row) = (Record::States { states }).encode() else { continue };
        match spool.append(Queue::Inbound, row, None).await {
            Ok(_) => {}
            Err(SpoolError::Failed(_)) => return,
            Err(error) => {
                warn!(%error, "the presence that iLink told could not be queued; it is read again when the cloud comes back");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_daemon_waits_for_a_verb_to_leave_the_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let verb = StateDir::open(dir.path()).unwrap();
        let leaving = tokio::spawn(async move {
            sleep(LOCK_PATIENCE.saturating_sub(Duration::from_millis(100))).await;
            drop(verb);
        });
        let daemon = patiently(dir.path()).await.unwrap();
        leaving.await.unwrap();
        // Another daemon does not leave.
        assert!(matches!(patiently(dir.path()).await, Err(StateDirError::Locked { .. })));
        drop(daemon);
    }
}
