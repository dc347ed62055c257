//! URLs: the four kinds that appear as keys, and what each may contain.

use std::fmt;

use secrecy::SecretString;
use url::Url;

use super::values::{Given, MASK, Setting, quoted};

/// A URL that may hold a password or a key in its query: shown without either.
#[derive(Clone, PartialEq, Eq)]
pub struct MaskedUrl(Url);

impl MaskedUrl {
    /// The whole URL.
    #[must_use]
    pub fn expose(&self) -> &Url {
        &self.0
    }

    /// The URL as what is registered at iLink: the secret becomes the last segment of the path, before any query.
    #[must_use]
    pub fn with_secret(&self, secret: &str) -> SecretString {
        let mut url = self.0.clone();
        url.set_path(&format!("{}/{secret}", self.0.path().trim_end_matches('/')));
        SecretString::from(String::from(url))
    }
}

impl From<Url> for MaskedUrl {
    fn from(url: Url) -> Self {
        Self(url)
    }
}

impl fmt::Display for MaskedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        if shown.password().is_some() {
            let _ = shown.set_password(Some(MASK));
        } else if !shown.username().is_empty() {
            // Without a password, the user is often a token.
            let _ = shown.set_username(MASK);
        }
        if shown.query().is_some() {
            shown.set_query(Some(MASK));
        }
        shown.fmt(f)
    }
}

impl fmt::Debug for MaskedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Setting for MaskedUrl {
    fn may_hold_secret(text: &str) -> bool {
        text.contains(['@', '?'])
    }

    fn read(given: &Given<'_>) -> Result<Self, String> {
        let url = given.text().and_then(|text| Url::parse(text).ok());
        url.map(Self).ok_or_else(|| "it must be a URL, such as \"https://host:port\"".to_owned())
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

/// `ilink.api`: paths of calls are appended.
pub(super) fn api(url: &MaskedUrl) -> Result<(), String> {
    http(url)?;
    if has_user(&url.0) || url.0.query().is_some() {
        return Err("it must have neither user nor query".to_owned());
    }
    Ok(())
}

/// `callback.public_url`: iLink gets it with the secret in its path.
pub(super) fn public(url: &MaskedUrl) -> Result<(), String> {
    http(url)
}

/// `ilink.proxy`.
pub(super) fn proxy(url: &MaskedUrl) -> Result<(), String> {
    http(url)
}

fn http(url: &MaskedUrl) -> Result<(), String> {
    let url = &url.0;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err("it must begin with http:// or https:// and have a host".to_owned());
    }
    if url.fragment().is_some() {
        return Err("it must have no # part".to_owned());
    }
    Ok(())
}

/// One of `cluster.endpoints`.
pub(super) fn etcd(url: &MaskedUrl) -> Result<(), String> {
    http(url)?;
    let url = &url.0;
    if has_user(url) {
        return Err("user and password go to cluster.username and cluster.password".to_owned());
    }
    if url.port() == Some(0) || url.path() != "/" || url.query().is_some() {
        return Err("each must be http:// or https://, a host and a port, and nothing else".to_owned());
    }
    Ok(())
}

/// One of `mqtt.broker`.
fn broker(url: &MaskedUrl) -> Result<(), String> {
    let url = &url.0;
    if !matches!(url.scheme(), "mqtt" | "mqtts") || url.host_str().is_none_or(str::is_empty) {
        return Err("it must be mqtt://host, or mqtts://host for TLS, with a port if it is not 1883 or 8883".to_owned());
    }
    if has_user(url) {
        return Err("user and password go to mqtt.username and mqtt.password".to_owned());
    }
    if url.port() == Some(0) || !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("it must be a host and a port, and nothing else".to_owned());
    }
    Ok(())
}

/// `mqtt.broker`: one URL, or the addresses of one broker.
pub(super) struct BrokerUrls(pub(super) Vec<MaskedUrl>);

impl Setting for BrokerUrls {
    fn may_hold_secret(text: &str) -> bool {
        MaskedUrl::may_hold_secret(text)
    }

    fn read(given: &Given<'_>) -> Result<Self, String> {
        match given.text() {
            Some(text) if !text.trim_start().starts_with('[') => BrokerUrl::read(given).map(|url| Self(vec![url.0])),
            _ => Vec::<BrokerUrl>::read(given).map(|urls| Self(urls.into_iter().map(|url| url.0).collect())),
        }
    }

    fn show(&self) -> String {
        match self.0.as_slice() {
            [only] => only.show(),
            several => format!("[{}]", several.iter().map(Setting::show).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// One of them.
struct BrokerUrl(MaskedUrl);

impl Setting for BrokerUrl {
    fn may_hold_secret(text: &str) -> bool {
        MaskedUrl::may_hold_secret(text)
    }

    fn read(given: &Given<'_>) -> Result<Self, String> {
        MaskedUrl::read(given).map(Self).map_err(|_| "it must be a URL, such as \"mqtt://host:1883\"".to_owned())
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

/// Each is a broker's, and all are of one kind: they share `mqtt.tls`.
pub(super) fn brokers(urls: &BrokerUrls) -> Result<(), String> {
    let Some((first, others)) = urls.0.split_first() else {
        return Err("it must be one URL, or a list of at least one".to_owned());
    };
    urls.0.iter().try_for_each(broker)?;
    if others.iter().any(|other| other.0.scheme() != first.0.scheme()) {
        return Err("all must begin with mqtt://, or all with mqtts://".to_owned());
    }
    Ok(())
}

/// The broker's URL with its port said.
pub(super) fn with_port(url: &MaskedUrl) -> Url {
    let mut url = url.0.clone();
    let default = if url.scheme() == "mqtts" { 8883 } else { 1883 };
    let _ = url.set_port(Some(url.port().unwrap_or(default)));
    url.set_path("");
    url
}

fn has_user(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn url(text: &str) -> MaskedUrl {
        MaskedUrl(Url::parse(text).unwrap())
    }

    #[test]
    fn the_secret_is_the_last_segment_before_any_query() {
        for (public, whole) in [
            ("https://example.org", "https://example.org/S"),
            ("https://example.org/", "https://example.org/S"),
            ("https://example.org:8443/a/b/", "https://example.org:8443/a/b/S"),
            ("https://example.org/a?b=c/d", "https://example.org/a/S?b=c/d"),
        ] {
            assert_eq!(url(public).with_secret("S").expose_secret(), whole);
        }
    }

    #[test]
    fn passwords_and_queries_are_never_shown() {
        let url = url("http://ann:hunter2@proxy.example/a?key=hunter3");
        for shown in [url.to_string(), format!("{url:?}"), url.show()] {
            assert!(!shown.contains("hunter") && shown.contains("ann") && shown.contains("proxy.example"), "{shown}");
        }
        for token in ["http://hunter2@proxy.example", "http://hunter2:@proxy.example"] {
            assert!(!self::url(token).to_string().contains("hunter"), "{token}");
        }
    }

    #[test]
    fn brokers() {
        assert_eq!(with_port(&url("mqtt://broker")).as_str(), "mqtt://broker:1883");
        assert_eq!(with_port(&url("mqtts://broker/")).as_str(), "mqtts://broker:8883");
        assert_eq!(with_port(&url("mqtt://[::1]:2883")).as_str(), "mqtt://[::1]:2883");
        assert!(broker(&url("mqtts://broker:8883/")).is_ok());
        for wrong in
            ["http://broker", "mqtt://", "mqtt:broker", "mqtt://u:p@broker", "mqtt://broker/a", "mqtt://broker?a"]
        {
            assert!(broker(&url(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_broker_has_one_address_or_several() {
        let read =
            |text: &str| BrokerUrls::read(&Given::Untyped(text)).and_then(|urls| super::brokers(&urls).map(|()| urls));
        for (text, shown) in [
            ("mqtt://a", "\"mqtt://a\""),
            (r#"["mqtt://a"]"#, "\"mqtt://a\""),
            (r#"["mqtts://a", "mqtts://b:1"]"#, "[\"mqtts://a\", \"mqtts://b:1\"]"),
        ] {
            assert_eq!(read(text).map(|urls| urls.show()), Ok(shown.to_owned()), "{text}");
        }
        for (text, wanted) in [
            ("[]", "at least one"),
            ("", "it must be a URL"),
            (r#"["mqtt://a", "mqtts://b"]"#, "all must begin"),
            (r#"["mqtt://a", "http://b"]"#, "mqtts://host for TLS"),
            (r#"["mqtt://a", 7]"#, "entry 2"),
        ] {
            let error = read(text).err().unwrap_or_default();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn web_urls() {
        assert!(api(&url("https://hs.kaifakuai.com:8183")).is_ok() && public(&url("http://example.org/a?b=c")).is_ok());
        for wrong in ["mqtt://a", "https://a/#b", "file:///etc", "https://u:p@a", "https://a/?b"] {
            assert!(api(&url(wrong)).is_err(), "{wrong}");
        }
    }
}
