//! The short sections: `[ilink]`, `[inbound]`, `[outbound]`, `[spool]`, `[admin]`, `[homeassistant]`, `[log]`.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tracing::level_filters::LevelFilter;
use url::Url;

use super::names;
use super::reader::{Failed, Reader};
use super::urls::{self, MaskedUrl};
use super::values::{Size, any, within, words};
use crate::local::{Base, Contact, Names};
use crate::protocol::{Qos, Subject, Uid};

/// What is done with pushes.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// Older messages are not published raw; `None`: no limit.
    pub raw_max_age: Option<Duration>,
    /// Whose messages are published raw; empty: everybody's.
    pub allow_from: Vec<Uid>,
}

/// What is done with commands.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// How long a command without its own expiry waits.
    pub ttl: Duration,
    /// What is done after an ambiguous attempt.
    pub ambiguous: Ambiguous,
    /// How often what may have been executed is tried in all; `None`: until it expires.
    pub ambiguous_tries: Option<NonZeroU32>,
    /// How many lanes call at once; at least 1.
    pub concurrency: usize,
    /// Calls started in a second; `None`: no limit.
    pub rate_per_s: Option<NonZeroU32>,
    /// Largest content of a command, in bytes.
    pub max_content: usize,
}

/// What is done after an attempt of which nobody knows whether it was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguous {
    /// Try again: at least once.
    Retry,
    /// Report `uncertain`: at most once.
    Report,
}

/// The durable queues.
#[derive(Debug, Clone)]
pub struct SpoolLimits {
    /// Bytes kept in each direction.
    pub max_bytes: u64,
}

/// The admin listener.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Address of the listener; `None`: off.
    pub listen: Option<SocketAddr>,
    /// Needed by everybody but `/healthz` off loopback; always there when `listen` is not loopback, but for `trusted_ingress`.
    pub token: Option<SecretString>,
    /// Host names accepted besides loopback's.
    pub hosts: Vec<String>,
    /// Whose connections carry only requests that somebody has authenticated.
    pub trusted_ingress: Vec<IpAddr>,
    /// Whether the status page shows message contents.
    pub show_content: bool,
}

/// Home Assistant discovery.
#[derive(Debug, Clone)]
pub struct HomeAssistant {
    /// Whether Home Assistant is told of us.
    pub enabled: bool,
    /// First levels of Home Assistant's discovery topics, which are never a response topic.
    pub discovery_prefix: Base,
    /// To whom it can send.
    pub contacts: Vec<Contact>,
}

/// What is logged.
#[derive(Debug, Clone, Copy)]
pub struct Log {
    /// Least severe level that is logged.
    pub level: LevelFilter,
    /// Form of a line.
    pub format: LogFormat,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

words! {
    Ambiguous { Retry = "retry", Report = "report" }
    LogFormat { Text = "text", Json = "json" }
}

impl Inbound {
    pub(super) fn read(reader: &mut Reader<'_>, known: Result<&Names, Failed>) -> Result<Self, Failed> {
        let raw_max_age = reader.or("inbound.raw_max_age", "5m", any::<Duration>);
        let allow_from = names::list(reader, "inbound.allow_from", known);
        Ok(Self { raw_max_age: Some(raw_max_age?).filter(|age| !age.is_zero()), allow_from: allow_from? })
    }
}

impl Outbound {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
        const LONGEST: Duration = Duration::from_hours(30 * 24);
        let ttl = reader.or("outbound.ttl", "5m", within(Duration::from_secs(1)..=LONGEST));
        let ambiguous = reader.or("outbound.ambiguous", "retry", any);
        let ambiguous_tries = reader.or("outbound.ambiguous_tries", "3", within(0..=1000));
        let concurrency = reader.or("outbound.concurrency", "8", within(1..=256));
        let rate_per_s = reader.or("outbound.rate_per_s", "0", within(0..=10_000));
        let max_content = reader.or("outbound.max_content", "256KiB", within(Size(1)..=Size(64 << 20)));
        Ok(Self {
            ttl: ttl?,
            ambiguous: ambiguous?,
            ambiguous_tries: u32::try_from(ambiguous_tries?).ok().and_then(NonZeroU32::new),
            concurrency: usize::try_from(concurrency?).unwrap_or(1),
            rate_per_s: u32::try_from(rate_per_s?).ok().and_then(NonZeroU32::new),
            max_content: max_content?.bytes(),
        })
    }
}

impl SpoolLimits {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
        let max_bytes = reader.or("spool.max_bytes", "512MiB", within(Size(1 << 10)..=Size(1 << 40)))?;
        Ok(Self { max_bytes: max_bytes.0 })
    }
}

/// The admin listener unless somebody says otherwise; not a plain default, because the empty string switches it off.
const ADMIN_LISTEN: &str = "127.0.0.1:8788";

/// A shorter `admin.token` is warned of.
const SHORTEST_TOKEN: usize = 12;

impl Admin {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
        let listen = reader.or_off("admin.listen", ADMIN_LISTEN);
        let token = reader.secret("admin.token", |_| Ok(()));
        let hosts = reader.or("admin.hosts", "[]", any);
        let trusted_ingress = reader.or("admin.trusted_ingress", "[]", any::<Vec<IpAddr>>);
        let show_content = reader.or("admin.show_content", "false", any);
        let (hosts, trusted_ingress, show_content) = (hosts?, trusted_ingress?, show_content?);
        let admin = Self { listen: listen?, token: token?, hosts, trusted_ingress, show_content };
        if let Some(address) = admin.listen.filter(|address| !admin.may_listen_on(address.ip())) {
            reader.missing("admin.token", &format!("admin.listen = \"{address}\" is not loopback"));
        }
        Ok(admin)
    }

    /// Off loopback somebody has to be asked who he is: by us, or by an ingress.
    #[must_use]
    pub fn may_listen_on(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.token.is_some() || !self.trusted_ingress.is_empty()
    }

    /// Whether there is a token that the listener asks nobody for: on loopback it is needed only to press the page's buttons.
    pub(super) fn token_opens_only_buttons(&self) -> bool {
        self.listen.is_some_and(|listen| listen.ip().is_loopback()) && self.token.is_some()
    }

    /// Whether a token protects the listener from others that they may guess.
    pub(super) fn has_short_token(&self) -> bool {
        let short = |token: &SecretString| token.expose_secret().len() < SHORTEST_TOKEN;
        self.listen.is_some_and(|listen| !listen.ip().is_loopback()) && self.token.as_ref().is_some_and(short)
    }
}

impl HomeAssistant {
    pub(super) fn read(
        reader: &mut Reader<'_>,
        base: Result<&Base, Failed>,
        known: Result<&Names, Failed>,
    ) -> Result<Self, Failed> {
        let enabled = reader.or("homeassistant.enabled", "false", any);
        let prefix = reader.or("homeassistant.discovery_prefix", "homeassistant", any::<Base>);
        let contacts = names::list::<Contact>(reader, "homeassistant.contacts", known);
        let (enabled, discovery_prefix, contacts) = (enabled?, prefix?, contacts?);
        let mut seen = HashSet::new();
        if let Some(twice) = contacts.iter().find(|contact| !seen.insert(&contact.id)) {
            let message = format!("homeassistant.contacts: \"{}\" is there twice", twice.id.as_str());
            return Err(reader.conflict(message));
        }
        let base = base?;
        if enabled && (discovery_prefix == *base || base.strip(discovery_prefix.as_str()).is_some()) {
            let message = format!(
                "homeassistant.discovery_prefix = \"{}\" is the bridge's own base topic, or under it",
                discovery_prefix.as_str()
            );
            return Err(reader.conflict(message));
        }
        Ok(Self { enabled, discovery_prefix, contacts })
    }
}

impl Log {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
        let level = reader.or("log.level", "info", any);
        let format = reader.or("log.format", "text", any);
        Ok(Self { level: level?, format: format? })
    }
}

/// The account at iLink.
#[derive(Debug, Clone)]
pub struct Ilink {
    /// Base URL of the API: no user, no query.
    pub api: Url,
    /// `ilink.tls.ca`: PEM file of root certificates trusted besides the system's.
    pub ca: Option<PathBuf>,
    /// The application's key.
    pub appkey: String,
    /// The application's secret.
    pub secretkey: SecretString,
    /// Who we are at iLink.
    pub uid: Uid,
    /// How long one API call may take in all.
    pub timeout: Duration,
    /// The only proxy used: those of the environment are ignored.
    pub proxy: Option<MaskedUrl>,
    /// `action_type` of presence (un)subscription: the manual contradicts itself.
    pub presence_action: i64,
    /// `ilink.subscribe.topics`: kept subscribed at iLink.
    pub topics: Vec<(Subject, Qos)>,
    /// `ilink.subscribe.presence`: users whose presence is kept subscribed.
    pub presence: Vec<Uid>,
}

impl Ilink {
    pub(super) fn read(reader: &mut Reader<'_>, known: Result<&Names, Failed>) -> Result<Self, Failed> {
        const LONGEST: Duration = Duration::from_mins(5);
        let api = reader.or("ilink.api", "https://hs.kaifakuai.com:8183", urls::api);
        let ca = reader.file("ilink.tls.ca");
        let appkey = reader.required("ilink.appkey", "the AppKey that iLink gave the application", any);
        let secretkey = reader.secret("ilink.secretkey", |_| Ok(()));
        let uid = reader.required("ilink.uid", "the uid that this bridge is at iLink", any);
        let timeout = reader.or("ilink.timeout", "10s", within(Duration::from_millis(100)..=LONGEST));
        let proxy = reader.optional("ilink.proxy", urls::proxy);
        let presence_action = reader.or("ilink.presence_action", "2", any);
        let topics = names::list(reader, "ilink.subscribe.topics", known);
        let presence = names::list(reader, "ilink.subscribe.presence", known);
        let secretkey = match secretkey? {
            Some(secretkey) => Ok(secretkey),
            None => Err(reader.missing("ilink.secretkey", "the SecretKey that belongs to ilink.appkey")),
        };
        Ok(Self {
            api: api?.expose().clone(),
            ca: ca?,
            appkey: appkey?,
            secretkey: secretkey?,
            uid: uid?,
            timeout: timeout?,
            proxy: proxy?,
            presence_action: presence_action?,
            topics: topics?,
            presence: presence?,
        })
    }
}
