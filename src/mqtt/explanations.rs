//! Explains why a connection failed, with the remedy, in the words that an operator reads in the log and on the status page.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};
use url::Url;

use super::config::{LinkConfig, Protocol, address};
use crate::os::tls::{self, spelled};

/// How an attempt or a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The broker closed the connection and gave no reason.
    Closed,
    /// The broker sent something that MQTT does not allow, or that the connection cannot use.
    Protocol(String),
    /// A PUBLISH cannot be decoded: another client's message, which the broker forwarded without checking it.
    Undecodable(String),
    /// The broker sent a packet of this many bytes, which is more than it was told to send.
    TooLarge(usize),
    /// The cause, already in full words.
    Because(String),
    /// The broker answered, and does not let us in: the same.
    TurnedAway(String),
}

/// What happened before a failure.
pub(super) struct History {
    /// Whether the broker had accepted the connection.
    pub(super) stood: bool,
    /// How many connections in a row were lost soon after CONNACK.
    pub(super) quick_losses: u32,
    /// Whether the broker had just refused a publish.
    pub(super) after_refusal: bool,
}

/// Why a CONNACK refuses the connection, for both versions of MQTT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConnectRefusal {
    Version,
    ClientId,
    Credentials,
    NotAuthorized,
    Unavailable,
    RetainUnsupported,
    Other(String),
}

/// Explains failures of connections to one address of the broker.
pub(super) struct Explain {
    broker: String,
    protocol: Protocol,
    client_id: String,
    tls: bool,
    has_login: bool,
}

impl Explain {
    pub(super) fn new(config: &LinkConfig, broker: &Url) -> Self {
        let tls = broker.scheme() == "mqtts";
        let (host, port) = address(broker);
        let broker = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Self {
            broker,
            protocol: config.protocol,
            client_id: config.client_id.clone(),
            tls,
            has_login: config.credentials.is_some(),
        }
    }

    /// The full explanation of a failure.
    pub(super) fn failure(&self, failure: &Failure, history: &History) -> String {
        let broker = &self.broker;
        let History { stood, quick_losses, after_refusal } = *history;
        match failure {
            Failure::Because(cause) | Failure::TurnedAway(cause) => cause.clone(),
            Failure::TooLarge(size) => format!(
                "{broker} sent a packet of {size} bytes though it was told mqtt.max_packet: such packets are taken now, and the commands in them refused"
            ),
            Failure::Protocol(what) | Failure::Undecodable(what) if !stood && self.protocol == Protocol::V5 => format!(
                "{broker} gave no usable answer to an MQTT 5 CONNECT ({what}): if the broker is older, set mqtt.protocol = \"3.1.1\""
            ),
            Failure::Protocol(what) | Failure::Undecodable(what) => {
                format!("{broker} broke the MQTT protocol: {what}")
            }
            Failure::Closed if after_refusal => format!(
                "{broker} closed the connection right after it refused a publish: Mosquitto 2.0 does so with max_queued_messages 0; set it to a number there"
            ),
            Failure::Closed if stood && quick_losses >= 3 => format!(
                "{broker} closed the connection soon after accepting it, {quick_losses} times in a row: perhaps another client uses the client id `{}` (mqtt.client_id)",
                self.client_id
            ),
            Failure::Closed if stood => format!("{broker} closed the connection"),
            Failure::Closed if self.tls => format!(
                "{broker} closed the connection instead of answering in TLS, or instead of answering CONNECT: is it a TLS port?"
            ),
            Failure::Closed => format!(
                "{broker} closed the connection instead of answering CONNECT: is it a TLS port? (then mqtts://) Does it speak this version of MQTT? (mqtt.protocol)"
            ),
        }
    }

    pub(super) fn refused(&self, refusal: ConnectRefusal) -> Failure {
        let broker = &self.broker;
        Failure::TurnedAway(match refusal {
            ConnectRefusal::Version => format!(
                "{broker} does not speak this version of MQTT: set mqtt.protocol = \"{}\"",
                if self.protocol == Protocol::V5 { "3.1.1" } else { "5" }
            ),
            ConnectRefusal::ClientId => {
                format!("{broker} rejects the client identifier `{}`: set mqtt.client_id", self.client_id)
            }
            ConnectRefusal::Credentials => {
                format!("{broker} rejects the user name or password: check mqtt.username and mqtt.password")
            }
            ConnectRefusal::NotAuthorized if self.has_login => format!(
                "{broker} does not authorise the connection: check mqtt.username and mqtt.password, and whether that user may connect as `{}`",
                self.client_id
            ),
            ConnectRefusal::NotAuthorized => {
                format!("{broker} does not authorise the connection: it wants mqtt.username and mqtt.password")
            }
            ConnectRefusal::Unavailable => format!("{broker} says that it is unavailable or busy"),
            ConnectRefusal::RetainUnsupported => {
                format!(
                    "{broker} does not support retained messages, which the bridge's state needs: enable them there"
                )
            }
            ConnectRefusal::Other(what) => {
                format!("{broker} refuses the connection: {what}; look for the reason in the broker's log")
            }
        })
    }

    /// The broker sent a DISCONNECT; `reason` is the name of its reason code. Its reason string is never shown: it could
    /// contain anything, even our password.
    pub(super) fn disconnected(&self, reason: &str) -> Failure {
        let broker = &self.broker;
        let why = match reason {
            "SessionTakenOver" => {
                return Failure::Because(format!(
                    "another client connected to {broker} with the client id `{}`: give each its own mqtt.client_id",
                    self.client_id
                ));
            }
            "NotAuthorized" => "it no longer authorises us; check mqtt.username and its lines in the broker's ACL",
            "ServerShuttingDown" => "it is shutting down",
            "KeepAliveTimeout" => "it heard nothing from us for too long; is the network or this machine overloaded?",
            "PacketTooLarge" => "a packet was larger than it takes; raise the broker's packet size limit",
            "AdministrativeAction" => "somebody ended the connection there",
            other => {
                return Failure::Because(format!(
                    "{broker} disconnected us: {}; look for the reason in the broker's log",
                    spelled(other)
                ));
            }
        };
        Failure::Because(format!("{broker} disconnected us: {why}"))
    }

    pub(super) fn no_answer(&self) -> Failure {
        Failure::Because(format!(
            "no answer from {} in time: is it the broker's address, is a firewall in between?",
            self.broker
        ))
    }

    pub(super) fn stalled(&self) -> Failure {
        Failure::Because(format!("{} answers nothing any more (keep-alive time-out)", self.broker))
    }

    /// It answered a ping, but not something that was sent long before that.
    pub(super) fn unanswered(&self) -> Failure {
        Failure::Because(format!("{} answers pings, but does not acknowledge what it gets", self.broker))
    }

    /// An error on a connection that was open.
    pub(super) fn lost(&self, error: &io::Error) -> Failure {
        // In TLS: TCP ended without a TLS close_notify.
        if error.kind() == io::ErrorKind::UnexpectedEof { Failure::Closed } else { self.io(error) }
    }

    /// An error while the connection is opened.
    pub(super) fn io(&self, error: &io::Error) -> Failure {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return self.tls(tls);
        }
        let broker = &self.broker;
        Failure::Because(match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                format!("{broker} refuses the connection: is the broker running, is mqtt.broker its address?")
            }
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                return Failure::Closed;
            }
            io::ErrorKind::UnexpectedEof if self.tls => {
                format!("{broker} closed the connection during the TLS handshake: is it a TLS port?")
            }
            io::ErrorKind::UnexpectedEof => return Failure::Closed,
            // Name resolution has no `ErrorKind` of its own.
            _ if error.to_string().contains("lookup address") || error.to_string().contains("could not resolve") => {
                format!("the name of {broker} cannot be resolved: check mqtt.broker and the DNS ({error})")
            }
            _ => format!("{broker}: {error}"),
        })
    }

    pub(super) fn tls(&self, error: &rustls::Error) -> Failure {
        use rustls::Error as Tls;
        let broker = &self.broker;
        Failure::Because(match error {
            Tls::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                format!(
                    "the certificate of {broker} comes from no trusted issuer: name the issuer's certificate in mqtt.tls.ca"
                )
            }
            Tls::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => {
                format!("the certificate of {broker} is for another name: use the name in it in mqtt.broker ({error})")
            }
            Tls::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => format!(
                "the certificate of {broker} is not valid today: renew it, or set this machine's clock ({error})"
            ),
            Tls::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown,
            ) => format!(
                "{broker} does not accept our client certificate: check mqtt.tls.cert and mqtt.tls.key ({error})"
            ),
            Tls::InvalidMessage(_) => {
                format!("{broker} does not answer in TLS: is it a TLS port? Else use mqtt:// ({error})")
            }
            Tls::InvalidCertificate(other) => {
                format!("the certificate of {broker} cannot be used: {}", tls::words(other))
            }
            _ => format!("TLS with {broker} failed: {error}"),
        })
    }

    /// An error that needs no explanation of ours.
    pub(super) fn other(&self, error: &dyn Error) -> Failure {
        Failure::Because(format!("{}: {error}", self.broker))
    }
}
