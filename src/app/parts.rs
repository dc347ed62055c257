//! Builds each part's settings from the configuration. Among them is what routes share: the rules in force, the values last
//! sent, the subscriptions, and their reload.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::AppError;
use crate::cloud::{Client, ClientConfig, CloudState};
use crate::config::{Ambiguous, Config, MqttProtocol};
use crate::delivery::lanes::Patience;
use crate::delivery::routing::{RouteStates, Routing};
use crate::inbound::relay::{RelayConfig, RelaySettings};
use crate::local::{Contact, Globs, Publication, Rules};
use crate::mqtt::{LinkConfig, LinkState, Protocol, RouteFilters, StartError, Subscriptions, Timing};
use crate::operate::status::{ClusterHealth, Info};
use crate::os::clock;
use crate::os::lease::Lease;
use crate::os::tls::{self, ClientFiles};
use crate::outbound;
use crate::outbound::accept::AcceptConfig;
use crate::outbound::deliver::DeliverConfig;
use crate::outbound::route_book::RouteBook;
use crate::protocol::Account;
use crate::store::Store;
use crate::store::etcd::EtcdError;

/// The set-aside store's cap, in bytes.
pub(super) const SET_ASIDE_BYTES: u64 = 16 * 1024 * 1024;

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

/// The link's configuration as far as the file says it.
pub(super) fn link(config: &Config, routes: watch::Receiver<RouteFilters>) -> LinkConfig {
    let mqtt = &config.mqtt;
    let mut filters: Vec<String> = mqtt.base_topic.command_filters().into();
    filters.dedup();
    LinkConfig {
        broker: mqtt.broker.clone(),
        other_brokers: mqtt.other_brokers.clone(),
        protocol: match mqtt.protocol {
            MqttProtocol::V5 => Protocol::V5,
            MqttProtocol::V311 => Protocol::V311,
        },
        client_id: mqtt.client_id.clone(),
        credentials: mqtt
            .username
            .clone()
            .map(|user| (user, mqtt.password.clone().unwrap_or_else(|| SecretString::from(String::new())))),
        tls: mqtt.tls.clone(),
        max_packet: mqtt.max_packet,
        session_expiry: u32::try_from(mqtt.session_expiry.as_secs()).unwrap_or(u32::MAX),
        persistent_session: mqtt.persistent_session,
        expect_session: false,
        filters,
        routes,
        base: mqtt.base_topic.clone(),
        own_uid: config.ilink.uid.clone(),
        will: bridge(config, "state", "offline"),
        farewell: farewell(config),
        birth: vec![bridge(config, "state", "online")],
        lease: Lease::always(),
        timing: Timing::default(),
    }
}

/// Reads the certificates and keys that the configuration names, as a start would.
///
/// # Errors
/// Everything that is wrong with them.
pub(super) fn check_files(config: &Config) -> Result<(), AppError> {
    let api = config.ilink.ca.as_ref().and_then(|_| client(config).err()).map(|error| error.to_string());
    let callback = config.callback.tls.as_ref().and_then(|files| tls::server_config(&files.cert, &files.key).err());
    let wrong = |files: &ClientFiles| if *files == ClientFiles::default() { None } else { files.config().err() };
    let broker = (config.mqtt.broker.scheme() == "mqtts").then(|| wrong(&config.mqtt.tls)).flatten();
    let broker = broker.map(|error| StartError::from(error).to_string());
    let etcd = config.cluster.is_on().then(|| wrong(&config.cluster.tls)).flatten();
    let etcd = etcd.map(|error| EtcdError::from(error).to_string());
    let problems: Vec<String> = [api, callback, broker, etcd].into_iter().flatten().collect();
    if problems.is_empty() { Ok(()) } else { Err(AppError::Config(problems.join("\n"))) }
}

/// Reads the certificates and keys that a member of a cluster needs once it leads. A wrong file is to be found at its start, as
/// with a bridge that is alone, and not at the moment of a takeover.
///
/// # Errors
/// What is wrong with the first that cannot be used.
pub(super) fn try_files(config: &Config) -> Result<(), AppError> {
    client(config)?;
    if config.mqtt.broker.scheme() == "mqtts" {
        let wrong = |error| AppError::Config(StartError::from(error).to_string());
        config.mqtt.tls.config().map_err(wrong)?;
    }
    Ok(())
}

/// `bridge/<name>`, retained.
fn bridge(config: &Config, name: &str, state: &'static str) -> Publication {
    Publication::raw(config.mqtt.base_topic.bridge(name), state).retained()
}

/// What is retained of a bridge that has stopped; of a cluster, if that was its last member.
fn farewell(config: &Config) -> Vec<Publication> {
    let cluster = config.cluster.is_on().then(|| {
        let nobody = ClusterHealth::nobody(config.cluster.endpoints.len());
        Publication::json(config.mqtt.base_topic.bridge("cluster"), nobody.json()).retained()
    });
    let cloud = bridge(config, "cloud", CloudState::Offline.as_str());
    std::iter::once(cloud).chain(cluster).collect()
}

pub(super) fn relay_config(config: &Config) -> RelayConfig {
    RelayConfig {
        base: config.mqtt.base_topic.clone(),
        uid: config.ilink.uid.clone(),
        output: config.mqtt.output,
        raw_max_age: config.inbound.raw_max_age,
        pictures_of: config
            .discovery()
            .iter()
            .flat_map(|told| &told.contacts)
            .filter_map(Contact::uid)
            .cloned()
            .collect(),
        patience: Patience::default(),
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
        Ambiguous::Retry => outbound::attempt::Ambiguous::Retry(config.outbound.ambiguous_tries),
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

/// The note by which the next run knows what the broker's session may still be subscribed to, so that it can unsubscribe.
const FILTERS_NOTE: &str = "mqtt/route_filters";

/// The routes' common parts.
pub(super) struct RouteParts {
    pub(super) states: Arc<RouteStates>,
    pub(super) book: RouteBook,
    routing: watch::Sender<Arc<Routing>>,
    filters: watch::Sender<RouteFilters>,
    /// Home Assistant's, which is heard the same way.
    birth: Option<String>,
    spool: Arc<dyn Store>,
}

impl RouteParts {
    pub(super) async fn open(config: &Config, spool: &Arc<dyn Store>) -> Result<Self, AppError> {
        let failed = |error: crate::store::SpoolError| AppError::State(error.to_string());
        let book = RouteBook::open(spool.clone(), &config.routes).await.map_err(failed)?;
        let notes = spool.notes(FILTERS_NOTE).await.map_err(failed)?;
        let filters: Vec<String> =
            notes.first().and_then(|(_, note)| postcard::from_bytes(note).ok()).unwrap_or_default();
        let states = Arc::new(RouteStates::default());
        let routing = watch::Sender::new(states.routing(&config.routes));
        let filters = watch::Sender::new(RouteFilters { wanted: filters, gone: Vec::new() });
        let birth = config.discovery().map(|discovery| discovery.birth_topic());
        let parts = Self { states, book, routing, filters, birth, spool: spool.clone() };
        parts.subscribe(config);
        Ok(parts)
    }

    /// Puts the rules of a reloaded configuration in force.
    pub(super) fn reload(&self, config: &Config) {
        self.book.reconfigure(&config.routes);
        self.routing.send_replace(self.states.routing(&config.routes));
        self.subscribe(config);
    }

    pub(super) fn routing(&self) -> watch::Receiver<Arc<Routing>> {
        self.routing.subscribe()
    }

    pub(super) fn filters(&self) -> watch::Receiver<RouteFilters> {
        self.filters.subscribe()
    }

    /// Keeps the note of the filters in step with the broker, until `stop`.
    pub(super) fn remember(
        &self,
        link: watch::Receiver<LinkState>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        remember_filters(self.filters(), link, self.spool.clone(), stop)
    }

    /// Subscribes to what the rules want, and unsubscribes from what is, or may be, subscribed to beside.
    fn subscribe(&self, config: &Config) {
        let wanted = config.routes.subscriptions_and(self.birth.as_deref());
        self.filters.send_if_modified(|filters| {
            if filters.wanted == wanted && filters.gone.is_empty() {
                return false;
            }
            let all: BTreeSet<String> = filters.wanted.drain(..).chain(filters.gone.drain(..)).collect();
            filters.gone = all.into_iter().filter(|filter| !wanted.contains(filter)).collect();
            wanted.clone_into(&mut filters.wanted);
            true
        });
        let filters = self.filters.borrow();
        // Before any of it is asked of the broker.
        note(&*self.spool, &[filters.wanted.as_slice(), &filters.gone].concat());
    }
}

/// Notes what is left to unsubscribe from, once the broker has done what was asked.
async fn remember_filters(
    mut filters: watch::Receiver<RouteFilters>,
    mut link: watch::Receiver<LinkState>,
    spool: Arc<dyn Store>,
    stop: CancellationToken,
) {
    loop {
        let done = |link: &LinkState| link.connected && link.subscriptions == Subscriptions::Granted;
        if !matches!(stop.run_until_cancelled(link.wait_for(done)).await, Some(Ok(_))) {
            return;
        }
        let wanted = filters.borrow_and_update().wanted.clone();
        note(&*spool, &wanted);
        if !matches!(stop.run_until_cancelled(filters.changed()).await, Some(Ok(()))) {
            return;
        }
    }
}

fn note(spool: &dyn Store, filters: &[String]) {
    if let Ok(note) = postcard::to_stdvec(filters) {
        spool.put_note(FILTERS_NOTE, note);
    }
}
