//! `[ilink]`: the account at iLink and how its API is reached.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::values::MaskedUrl;
use crate::protocol::{Qos, Subject, Uid};

/// The account at iLink.
#[derive(Debug, Clone)]
pub struct Ilink {
    /// Base URL of the API, without a trailing slash's worth of path, query or user.
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
