//! `[mqtt]`: the local broker, and how the bridge uses it.

use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::reader::{Failed, Reader};
use super::urls;
use super::values::{Given, Setting, Size, any, within};
use crate::local::{Base, Globs, Output, filter};
use crate::os::tls::ClientFiles;
use crate::protocol::{Call, Uid};

/// The local broker and what is said to it.
#[derive(Debug, Clone)]
pub struct Mqtt {
    /// `mqtt://` or `mqtts://`, host and port (always explicit), nothing else.
    pub broker: Url,
    /// Its other addresses, tried in turn.
    pub other_brokers: Vec<Url>,
    /// Protocol version.
    pub protocol: MqttProtocol,
    /// Client id.
    pub client_id: String,
    /// User name at the broker.
    pub username: Option<String>,
    /// Password at the broker; never without a user name.
    pub password: Option<SecretString>,
    /// `mqtt.tls`.
    pub tls: ClientFiles,
    /// First levels of every topic.
    pub base_topic: Base,
    /// Which form of a message is published.
    pub output: Output,
    /// Globs of the calls that may be made over MQTT.
    pub allow_calls: Vec<String>,
    /// Filters a response topic must match.
    pub response_topics: Vec<String>,
    /// How long the broker keeps commands for an absent bridge; whole seconds.
    pub session_expiry: Duration,
    /// MQTT 3.1.1 only: keep the session although the age of its commands is unknown.
    pub persistent_session: bool,
    /// Largest packet accepted from the broker, in bytes.
    pub max_packet: u32,
}

/// MQTT's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MqttProtocol {
    /// MQTT 5.
    V5,
    /// MQTT 3.1.1.
    V311,
}

impl Setting for MqttProtocol {
    fn read(given: &Given<'_>) -> Result<Self, String> {
        match given.text_or_digits().as_deref() {
            Some("5") => Ok(Self::V5),
            Some("3.1.1") => Ok(Self::V311),
            _ => Err("it must be 5 or \"3.1.1\"".to_owned()),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::V5 => "5".to_owned(),
            Self::V311 => "\"3.1.1\"".to_owned(),
        }
    }
}

/// MQTT's largest packet, in bytes.
const LARGEST_PACKET: u64 = 268_435_455;

impl Mqtt {
    /// Reads the section; what is not set follows the uid and `outbound.ttl`.
    pub(super) fn read(
        reader: &mut Reader<'_>,
        uid: Result<&Uid, Failed>,
        ttl: Result<Duration, Failed>,
    ) -> Result<Self, Failed> {
        let broker = reader.or("mqtt.broker", "mqtt://127.0.0.1:1883", urls::brokers);
        let protocol = reader.or("mqtt.protocol", "5", any);
        let client_id = format!("ilink2mqtt-{}", uid.map_or("", Uid::as_str));
        let client_id = reader.or("mqtt.client_id", &client_id, sendable);
        let username = reader.optional("mqtt.username", sendable);
        let password = reader.secret("mqtt.password", |_| Ok(()));
        let ca = reader.file("mqtt.tls.ca");
        let cert = reader.file("mqtt.tls.cert");
        let key = reader.file("mqtt.tls.key");
        let base_topic = reader.or("mqtt.base_topic", "ilink", any::<Base>);
        let output = reader.or("mqtt.output", "both", any);
        let calls = r#"["send_msg/*", "ham_topic/*", "ham_group/*", "ham_user/*"]"#;
        let allow_calls = reader.or("mqtt.allow_calls", calls, globs);
        let reply = format!("[\"{}/reply/#\"]", base_topic.as_ref().map_or("ilink", Base::as_str));
        let response_topics = reader.or("mqtt.response_topics", &reply, filters);
        let ttl = ttl.unwrap_or(Duration::from_secs(1));
        let whole = Duration::from_secs(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0));
        let whole = humantime::format_duration(whole).to_string();
        let session_expiry = reader.or("mqtt.session_expiry", &whole, whole_seconds);
        let persistent_session = reader.or("mqtt.persistent_session", "false", any);
        let max_packet = reader.or("mqtt.max_packet", "1MiB", within(Size(1 << 10)..=Size(LARGEST_PACKET)));
        let mut brokers = broker?.0.iter().map(urls::with_port).collect::<Vec<_>>().into_iter();
        let broker = brokers.next().ok_or(Failed)?;
        let (username, password, tls) = (username?, password?, ClientFiles { ca: ca?, cert: cert?, key: key? });
        if password.is_some() && username.is_none() {
            reader.conflict("mqtt.password is set and mqtt.username is not".to_owned());
        }
        if tls.cert.is_some() != tls.key.is_some() {
            reader.conflict("mqtt.tls.cert and mqtt.tls.key need each other".to_owned());
        }
        if tls != ClientFiles::default() && broker.scheme() != "mqtts" {
            reader.conflict("mqtt.tls is set, but mqtt.broker does not begin with mqtts://".to_owned());
        }
        Ok(Self {
            broker,
            other_brokers: brokers.collect(),
            protocol: protocol?,
            client_id: client_id?,
            username,
            password,
            tls,
            base_topic: base_topic?,
            output: output?,
            allow_calls: allow_calls?,
            response_topics: response_topics?,
            session_expiry: session_expiry?,
            persistent_session: persistent_session?,
            max_packet: u32::try_from(max_packet?.0).unwrap_or(u32::MAX),
        })
    }
}

#[expect(clippy::ptr_arg, reason = "a check is given the setting's own type")]
fn sendable(text: &String) -> Result<(), String> {
    let fits = !text.is_empty() && text.len() <= filter::MAX_STRING && !text.chars().any(char::is_control);
    if fits { Ok(()) } else { Err("it must not be empty, too long for MQTT or hold control characters".to_owned()) }
}

#[expect(clippy::ptr_arg, reason = "a check is given the setting's own type")]
fn globs(globs: &Vec<String>) -> Result<(), String> {
    let matches_none = |glob: &&String| Call::NAMES.iter().all(|call| !Globs::new([glob]).allow(call));
    globs.iter().find(matches_none).map_or(Ok(()), |glob| {
        Err(format!("\"{glob}\" matches none of the calls, which are {}", Call::NAMES.join(", ")))
    })
}

#[expect(clippy::ptr_arg, reason = "a check is given the setting's own type")]
fn filters(filters: &Vec<String>) -> Result<(), String> {
    let wrong = filters.iter().find(|filter| !filter::is_valid_filter(filter));
    wrong.map_or(Ok(()), |wrong| Err(format!("\"{wrong}\" is not an MQTT topic filter")))
}

fn whole_seconds(duration: &Duration) -> Result<(), String> {
    // All ones would mean: for ever.
    within(Duration::from_secs(1)..=Duration::from_secs(u64::from(u32::MAX - 1)))(duration)?;
    if duration.subsec_nanos() == 0 { Ok(()) } else { Err("it must be whole seconds".to_owned()) }
}
