//! `[ilink]`: the account at iLink and how its API is reached.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::reader::{Failed, Reader};
use super::urls::{self, MaskedUrl};
use super::values::{any, within};
use crate::protocol::{Qos, Subject, Uid};

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
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
        const LONGEST: Duration = Duration::from_mins(5);
        let api = reader.or("ilink.api", "https://hs.kaifakuai.com:8183", urls::api);
        let ca = reader.file("ilink.tls.ca");
        let appkey = reader.required("ilink.appkey", "the AppKey that iLink gave the application", any);
        let secretkey = reader.secret("ilink.secretkey", |_| Ok(()));
        let uid = reader.required("ilink.uid", "the uid that this bridge is at iLink", any);
        let timeout = reader.or("ilink.timeout", "10s", within(Duration::from_millis(100)..=LONGEST));
        let proxy = reader.optional("ilink.proxy", urls::proxy);
        let presence_action = reader.or("ilink.presence_action", "2", any);
        let topics = reader.or("ilink.subscribe.topics", "[]", any);
        let presence = reader.or("ilink.subscribe.presence", "[]", any);
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
