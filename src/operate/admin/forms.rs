//! The status page's form: retries or drops what is set aside.
//!
//! It is the only thing on the page that changes anything, so it is guarded twice against cross-site requests. The browser must
//! not report another origin (`Sec-Fetch-Site`, else `Origin`), and the form must contain a token that only this page has. It
//! is shown only with `admin.token`, and the request must carry that token, even on loopback.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{HOST, HeaderName, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use secrecy::SecretString;
use tokio::time::timeout;
use url::{Url, form_urlencoded};

use crate::http;
use crate::operate::control::SetAside;
use crate::operate::set_aside::Which;

/// The largest form, and how long it may take to come.
const LARGEST: usize = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

/// The word that only this page has, made anew for each run.
pub(super) fn word() -> Option<SecretString> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).ok()?;
    Some(u128::from_le_bytes(random).to_string().into())
}

/// What a form says.
#[derive(Debug, Default)]
struct Form {
    word: String,
    verb: String,
    ids: Vec<String>,
    all: bool,
}

impl Form {
    fn of(body: &[u8]) -> Self {
        let mut form = Self::default();
        for (name, value) in form_urlencoded::parse(body) {
            match &*name {
                "word" => form.word = value.into_owned(),
                "do" => form.verb = value.into_owned(),
                "id" => form.ids.push(value.into_owned()),
                "all" => form.all = true,
                _ => {}
            }
        }
        form
    }

    fn meant(self) -> Option<SetAside> {
        let which = if self.all { Which::All } else { Which::Ids(self.ids) };
        match &*self.verb {
            "retry" => Some(SetAside::Retry(which)),
            "drop" => Some(SetAside::Drop(which)),
            _ => None,
        }
    }
}

/// What a form asks for, if it is this page's own; `word` is what it must hold.
///
/// # Errors
/// The status and the text to answer.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    by_ingress: bool,
    word: &SecretString,
) -> Result<SetAside, (StatusCode, &'static str)> {
    if !comes_from_this_page(headers, by_ingress) {
        return Err((StatusCode::FORBIDDEN, "only from the status page itself"));
    }
    let Ok(Ok(body)) = timeout(PATIENCE, to_bytes(body, LARGEST)).await else {
        return Err((StatusCode::BAD_REQUEST, "the form is too large, or did not come in time"));
    };
    let form = Form::of(&body);
    if !http::is_secret(form.word.as_bytes(), word) {
        return Err((StatusCode::FORBIDDEN, "the bridge has restarted: load the status page again"));
    }
    form.meant().ok_or((StatusCode::BAD_REQUEST, "retry or drop"))
}

/// Whether the browser says nothing else. An ingress changes names, so that `Origin` tells nothing there.
fn comes_from_this_page(headers: &HeaderMap, by_ingress: bool) -> bool {
    let text_of = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(site) = text_of(HeaderName::from_static("sec-fetch-site")) {
        return site == "same-origin";
    }
    let Some(origin) = text_of(ORIGIN).filter(|_| !by_ingress) else { return true };
    let authority = |url: &Url| Some((url.host_str()?.to_owned(), url.port_or_known_default()));
    let Some(origin) = Url::parse(origin).ok() else { return false };
    let here = text_of(HOST).and_then(|host| Url::parse(&format!("{}://{host}", origin.scheme())).ok());
    here.is_some_and(|here| authority(&here).is_some() && authority(&here) == authority(&origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(headers: &[(&'static str, &str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        comes_from_this_page(&headers.collect(), false)
    }

    #[test]
    fn another_pages_form_is_told_by_the_browser() {
        let host = ("host", "box:8788");
        assert!(from(&[host]), "no browser, or an old one: the word in the form decides");
        assert!(from(&[host, ("origin", "http://box:8788")]));
        assert!(from(&[("host", "box"), ("origin", "https://box")]), "a proxy in front speaks TLS");
        assert!(from(&[host, ("sec-fetch-site", "same-origin"), ("origin", "null")]));
        for wrong in [
            ("origin", "http://evil.example"),
            ("origin", "http://box:8789"),
            ("origin", "null"),
            ("origin", ""),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "none"),
        ] {
            assert!(!from(&[host, wrong]), "{wrong:?}");
        }
        assert!(!from(&[host, ("sec-fetch-site", "cross-site"), ("origin", "http://box:8788")]));
    }

    #[test]
    fn a_form_says_which_and_what() {
        let form = Form::of(b"word=w&do=retry&id=01A&id=01B&x=y");
        assert_eq!(form.word, "w");
        let ids = vec!["01A".to_owned(), "01B".to_owned()];
        assert_eq!(form.meant(), Some(SetAside::Retry(Which::Ids(ids))));
        assert_eq!(Form::of(b"do=drop&all=").meant(), Some(SetAside::Drop(Which::All)));
        assert_eq!(Form::of(b"do=list").meant(), None);
        assert_eq!(Form::of(b"\xff%zz=&&==").meant(), None);
    }
}
