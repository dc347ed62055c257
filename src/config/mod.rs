//! The configuration: TOML file, environment and credentials become one checked value, [`Config`].
//!
//! `main` loads it; `app` passes plain values on to the parts that do the work. Each key has exactly one getter
//! call, in its section's file. That call gives the key's type, range, default and place in [`Config::describe`]; a key without
//! one is unknown. The configuration is never written, and no secret is ever shown.

mod acl;
mod callback;
mod cluster;
mod domain;
mod layers;
mod mqtt;
mod names;
mod reader;
mod route;
mod small;
#[cfg(test)]
mod tests;
mod urls;
mod values;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

pub use callback::{Callback, CallbackTls, Register, Repeats};
pub use cluster::Cluster;
pub use layers::{ConfigError, Environment, Problem};
pub use mqtt::{Mqtt, MqttProtocol};
pub use small::{Admin, Ambiguous, HomeAssistant, Ilink, Inbound, Log, LogFormat, Outbound, SpoolLimits};
pub use urls::MaskedUrl;

pub(crate) use callback::{check_path_secret, check_token};

use crate::local::{Discovery, Output};
use crate::route::Routes;
use reader::{Entry, Reader};

/// The effective configuration, valid as a whole.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where identity, token, spool and control socket are.
    pub state_dir: PathBuf,
    /// The account at iLink.
    pub ilink: Ilink,
    /// The listener that iLink pushes to.
    pub callback: Callback,
    /// What is done with pushes.
    pub inbound: Inbound,
    /// The local broker.
    pub mqtt: Mqtt,
    /// What is done with commands.
    pub outbound: Outbound,
    /// The durable queues.
    pub spool: SpoolLimits,
    /// Several bridges for one account.
    pub cluster: Cluster,
    /// The admin listener.
    pub admin: Admin,
    /// Home Assistant discovery.
    pub homeassistant: HomeAssistant,
    /// What is logged.
    pub log: Log,
    /// `[[route.…]]`, checked and compiled; with them `[names]`.
    pub routes: Arc<Routes>,
    entries: Vec<Entry>,
    /// The keys that there are.
    #[cfg(test)]
    known: std::collections::BTreeSet<String>,
}

impl Config {
    /// Reads the configuration: the file at `path`, else the one that `ILINK2MQTT_CONFIG` names, else the first of the
    /// default paths that exists, else none; then what the environment says otherwise.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn load(path: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        Self::read(Reader::new(path, environment)?, environment)
    }

    /// Reads a configuration that is not in a file yet; `name` is what errors call it. Of the environment only what is no key
    /// of the bridge's counts.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn of_text(name: &str, text: &str, environment: &Environment) -> Result<Self, ConfigError> {
        Self::read(Reader::over(layers::Layers::of_text(name, text)?, environment), environment)
    }

    fn read(mut reader: Reader<'_>, environment: &Environment) -> Result<Self, ConfigError> {
        let state_dir = reader.or("state_dir", &default_state_dir(environment), values::any);
        let names = names::read(&mut reader);
        let known = names.as_deref().map_err(|failed| *failed);
        let ilink = Ilink::read(&mut reader, known);
        let callback = Callback::read(&mut reader);
        let inbound = Inbound::read(&mut reader, known);
        let outbound = Outbound::read(&mut reader);
        let uid = ilink.as_ref().map(|ilink| &ilink.uid).map_err(|failed| *failed);
        let mqtt =
            Mqtt::read(&mut reader, uid, outbound.as_ref().map(|outbound| outbound.ttl).map_err(|failed| *failed));
        let spool = SpoolLimits::read(&mut reader);
        let max_body = callback.as_ref().map(|callback| callback.max_body).map_err(|failed| *failed);
        let max_content = outbound.as_ref().map(|outbound| outbound.max_content).map_err(|failed| *failed);
        let cluster = Cluster::read(&mut reader, uid, max_body, max_content);
        let admin = Admin::read(&mut reader);
        let base = mqtt.as_ref().map(|mqtt| &mqtt.base_topic).map_err(|failed| *failed);
        let homeassistant = HomeAssistant::read(&mut reader, base, known);
        let log = Log::read(&mut reader);
        let routes = route::read(&mut reader, base, names.as_ref().map_err(|failed| *failed));
        #[cfg(test)]
        let known = reader.known().clone();
        let entries = reader.finish()?;
        let config = || {
            Ok::<_, reader::Failed>(Self {
                state_dir: state_dir?,
                ilink: ilink?,
                callback: callback?,
                inbound: inbound?,
                mqtt: mqtt?,
                outbound: outbound?,
                spool: spool?,
                cluster: cluster?,
                admin: admin?,
                homeassistant: homeassistant?,
                log: log?,
                routes: routes?,
                entries,
                #[cfg(test)]
                known,
            })
        };
        // Never: whoever fails says why, and then there were problems.
        config().map_err(|_| Problem::Conflict { message: "the configuration cannot be used".to_owned() }.into())
    }

    /// The callback URL as it is registered at iLink, with its secret.
    #[must_use]
    pub fn callback_url(&self, path_secret: &SecretString) -> SecretString {
        self.callback.public_url.with_secret(path_secret.expose_secret())
    }

    /// What Home Assistant is told, if it is.
    #[must_use]
    pub fn discovery(&self) -> Option<Discovery> {
        self.homeassistant.enabled.then(|| Discovery {
            prefix: self.homeassistant.discovery_prefix.clone(),
            base: self.mqtt.base_topic.clone(),
            uid: self.ilink.uid.clone(),
            contacts: self.homeassistant.contacts.clone(),
            names: self.routes.names().clone(),
            output: self.mqtt.output,
            cluster: self.cluster.is_on(),
        })
    }

    /// What may be understood otherwise than it is meant: one line each, for `check`.
    #[must_use]
    pub fn notes(&self) -> Vec<&'static str> {
        let token = self.admin.token_opens_only_buttons().then_some(
            "admin.token is set, and admin.listen is on loopback: whoever is on this machine sees the status page and the \
             metrics without it; only the buttons of the page ask for it",
        );
        token.into_iter().collect()
    }

    /// What is allowed but unwise: one line each, to be logged as WARN at start.
    #[must_use]
    pub fn warnings(&self) -> Vec<&'static str> {
        let plain_callback = self.callback.public_url.expose().scheme() == "http";
        let all = [
            (self.homeassistant.enabled && self.mqtt.output == Output::Raw).then_some(
                "mqtt.output = \"raw\" leaves out the envelopes that Home Assistant's event entity is made of: there will be none",
            ),
            (plain_callback && self.callback.allow.is_empty()).then_some(
                "callback.public_url is http:// and callback.allow is empty: whoever reads the traffic learns the secret path \
                 and can send messages; use https://, or name iLink's networks in callback.allow",
            ),
            (self.ilink.api.scheme() == "http").then_some(
                "ilink.api is http://: the SecretKey, the access token and all messages travel in clear; use https://",
            ),
            self.admin.has_short_token().then_some(
                "admin.token is short, and admin.listen is not loopback: whoever reaches it can guess the token; use 12 \
                 characters or more, at random",
            ),
            (self.mqtt.persistent_session && self.mqtt.protocol == MqttProtocol::V5)
                .then_some("mqtt.persistent_session has no effect with MQTT 5: use mqtt.session_expiry instead"),
            (!self.cluster.is_on() && self.spool.max_bytes < u64::try_from(self.callback.max_body).unwrap_or(u64::MAX))
                .then_some("spool.max_bytes is less than callback.max_body: the largest pushes can never be stored"),
            self.cluster.is_too_small_for(self.callback.max_body).then_some(
                "cluster.max_bytes leaves too little room beside callback.max_body: the largest pushes can never be stored; \
                 raise it",
            ),
            self.cluster.is_too_small_for(self.outbound.max_content).then_some(
                "cluster.max_bytes leaves too little room beside outbound.max_content: the largest commands can never be \
                 stored; raise it",
            ),
            (self.mqtt.protocol == MqttProtocol::V5
                && usize::try_from(self.mqtt.max_packet).is_ok_and(|most| most < self.outbound.max_content))
            .then_some(
                "mqtt.max_packet is less than outbound.max_content: the broker drops larger commands without a word; raise \
                 mqtt.max_packet, and leave some room in it for topic and properties",
            ),
        ];
        all.into_iter().flatten().collect()
    }

    /// The effective configuration as TOML-like text, with where each value came from and secrets masked.
    #[must_use]
    pub fn describe(&self) -> String {
        reader::describe(&self.entries) + &names::describe(self.routes.names()) + &route::describe(&self.routes)
    }

    /// The keys that are different in `new` and take effect only when the program starts again.
    #[must_use]
    pub fn restart_needed(&self, new: &Self) -> Vec<String> {
        reader::restart_needed(&self.entries, &new.entries)
    }
}

/// systemd's, if it says one: the first, should it be a list.
fn default_state_dir(environment: &Environment) -> String {
    let directories = environment.get("STATE_DIRECTORY").and_then(|directories| directories.to_str());
    let first = directories.and_then(|directories| directories.split(':').next());
    first.filter(|first| !first.is_empty()).unwrap_or("/var/lib/ilink2mqtt").to_owned()
}
