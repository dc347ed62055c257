//! `[cluster]`: several bridges for one account, which share their storage in etcd.

use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::reader::{Failed, Reader};
use super::urls::{self, MaskedUrl};
use super::values::{Size, any, within};
use crate::os::tls::ClientFiles;
use crate::protocol::Uid;

/// Several bridges for one account.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// `http://` or `https://`, host and port; without any, this bridge is alone.
    pub endpoints: Vec<Url>,
    /// Below it lies everything that the members share. No slash at its end.
    pub prefix: String,
    /// This member's name; one of a kind.
    pub member: String,
    /// User name at etcd.
    pub username: Option<String>,
    /// Password at etcd; never without a user name.
    pub password: Option<SecretString>,
    /// `cluster.tls`.
    pub tls: ClientFiles,
    /// How long a silent leader is waited for.
    pub takeover: Duration,
    /// The most that each direction may hold, in bytes.
    pub max_bytes: u64,
}

/// The largest content that fits, with all that goes with it, into one request to etcd with its default settings.
const LARGEST: usize = 1 << 20;
/// The most that is stored beside a content: topics, correlation data.
const BESIDE: u64 = 256 << 10;

impl Cluster {
    /// Reads the section; what is not set follows the uid and the machine.
    pub(super) fn read(
        reader: &mut Reader<'_>,
        uid: Result<&Uid, Failed>,
        max_body: Result<usize, Failed>,
        max_content: Result<usize, Failed>,
    ) -> Result<Self, Failed> {
        let endpoints = reader.or("cluster.endpoints", "[]", endpoints);
        let prefix = format!("/ilink2mqtt/{}", uid.map_or("", Uid::as_str));
        let prefix = reader.or("cluster.prefix", &prefix, prefix_of_keys);
        let member = reader.or("cluster.member", &host_name(), name);
        let username = reader.optional("cluster.username", any::<String>);
        let password = reader.secret("cluster.password", |_| Ok(()));
        let ca = reader.file("cluster.tls.ca");
        let cert = reader.file("cluster.tls.cert");
        let key = reader.file("cluster.tls.key");
        let takeover = reader.or("cluster.takeover", "6s", within(Duration::from_secs(2)..=Duration::from_mins(1)));
        let max_bytes = reader.or("cluster.max_bytes", "256MiB", within(Size(1 << 20)..=Size(8 << 30)));
        let (username, password, tls) = (username?, password?, ClientFiles { ca: ca?, cert: cert?, key: key? });
        let endpoints: Vec<Url> = endpoints?.iter().map(|url| url.expose().clone()).collect();
        if password.is_some() != username.is_some() {
            reader.conflict("cluster.username and cluster.password need each other".to_owned());
        }
        if tls.cert.is_some() != tls.key.is_some() {
            reader.conflict("cluster.tls.cert and cluster.tls.key need each other".to_owned());
        }
        let plain = |url: &Url| url.scheme() != "https";
        if tls != ClientFiles::default() && endpoints.iter().any(plain) {
            reader.conflict("cluster.tls is set, but not all of cluster.endpoints begin with https://".to_owned());
        }
        for (key, most, what) in
            [("callback.max_body", max_body, "pushes"), ("outbound.max_content", max_content, "commands")]
        {
            if !endpoints.is_empty() && most.is_ok_and(|most| most > LARGEST) {
                let place = reader.place(key);
                reader.conflict(format!(
                    "{place}{key} is more than 1MiB: etcd does not take larger {what}; lower it, or leave out cluster.endpoints"
                ));
            }
        }
        Ok(Self {
            endpoints,
            prefix: prefix?.trim_end_matches('/').to_owned(),
            member: member?,
            username,
            password,
            tls,
            takeover: takeover?,
            max_bytes: max_bytes?.0,
        })
    }

    /// Whether a queue of this cluster may be too small for one row with a content of so many bytes.
    pub(super) fn is_too_small_for(&self, content: usize) -> bool {
        self.is_on() && self.max_bytes < u64::try_from(content).unwrap_or(u64::MAX).saturating_add(BESIDE)
    }

    /// Whether this bridge is a member of a cluster.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.endpoints.is_empty()
    }
}

fn host_name() -> String {
    let system = rustix::system::uname();
    let name = system.nodename().to_string_lossy();
    if name.is_empty() { "bridge".to_owned() } else { name.into_owned() }
}

#[expect(clippy::ptr_arg, reason = "a check is given the setting's own type")]
fn endpoints(urls: &Vec<MaskedUrl>) -> Result<(), String> {
    urls.iter().try_for_each(urls::etcd)
}

#[expect(clippy::ptr_arg, reason = "a check is given the setting's own type")]
fn prefix_of_keys(prefix: &String) -> Result<(), String> {
    let levels = prefix.trim_end_matches('/');
    let fits = levels.starts_with('/') && levels.len() > 1 && !levels.chars().any(char::is_control);
    if fits { Ok(()) } else { Err("it must begin with / and name at least one level".to_owned()) }
}

#[expect(clippy::ptr_arg, reason = "a check is given the setting's own type")]
fn name(name: &String) -> Result<(), String> {
    let fits = !name.is_empty() && name.len() <= 255 && !name.chars().any(|c| c == '/' || c.is_control());
    if fits { Ok(()) } else { Err("it must be a name without a slash, such as \"a\"".to_owned()) }
}
