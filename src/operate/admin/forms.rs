//! The status page's form: retries or drops what is set aside.
//!
//! It is the only thing on the page that changes anything, so it is guarded twice against cross-site requests. The browser must
//! not report another origin (`Sec-Fetch-Site`, else `Origin`), and the form must contain a token that only this page has. It
//! is shown only with `admin.token`, and the request must carry that token, even on loopback.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{HOST, HeaderName, ORIGIN};
use axum::http::{HeaderMap, StatusCode};
use maud::{Markup, html};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout;
use url::{Url, form_urlencoded};

use super::language::Language;
use crate::http;
use crate::operate::set_aside::{Desk, NotDone, Which};

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

    fn meant(self) -> Option<Asked> {
        match &*self.verb {
            "retry" if self.all => Some(Asked::Retry(Which::All)),
            "retry" => Some(Asked::Retry(Which::Ids(self.ids))),
            "drop" => Some(Asked::Drop(self.ids)),
            _ => None,
        }
    }
}

/// What a form asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// To be sent again.
    Retry(Which),
    /// To be dropped: only what its page has shown.
    Drop(Vec<String>),
}

impl Asked {
    /// Does it.
    ///
    /// # Errors
    /// Why not all of it was done.
    pub(super) async fn done(self, desk: &Desk, language: Language) -> Result<(), String> {
        let done = match self {
            Self::Retry(which) => desk.retry(&which).await,
            Self::Drop(ids) => desk.drop(&Which::Ids(ids)).await,
        };
        done.map(drop).map_err(|error| match language {
            Language::English => error.to_string(),
            Language::Chinese => in_chinese(&error),
        })
    }
}

fn in_chinese(error: &NotDone) -> String {
    match error {
        NotDone::NoSuchId(id) => format!("被搁置的消息里没有 {id}：它可能已经处理过了，请刷新状态页"),
        NotDone::NoneNamed => "没有指明是哪些消息".to_owned(),
        NotDone::Full(done) => format!("已放回 {done} 条；队列已满，其余的仍被搁置：等队列有空位后再试"),
        NotDone::Unreadable { done, left } => {
            format!(
                "已放回 {done} 条；另有 {left} 条无法放回，仍被搁置：它们没有原文，或由别的版本写入，或已被磁盘损坏"
            )
        }
        NotDone::Spool(error) => format!("存储没有完成操作：{error}"),
    }
}

/// For one message. It works without scripts.
pub(super) fn of_one(word: &SecretString, id: &str, language: Language) -> Markup {
    html! {
        form method="post" action="set-aside" {
            (hidden(word, &[id]))
            (button("retry", language.say("Send again", "重新发送")))
            (button("drop", language.say("Drop", "丢弃")))
        }
    }
}

/// For all messages, and for those that are shown, if these are not `all`: nothing is dropped that nobody has seen.
pub(super) fn of_all(word: &SecretString, shown: &[&str], all: bool, language: Language) -> Markup {
    let n = shown.len();
    let drop = match (all, language) {
        (true, _) => language.say("Drop all", "全部丢弃").to_owned(),
        (false, Language::English) => format!("Drop these {n}"),
        (false, Language::Chinese) => format!("丢弃这 {n} 条"),
    };
    html! {
        div.forms {
            form method="post" action="set-aside" {
                (hidden(word, &[]))
                input type="hidden" name="all" value="";
                (button("retry", language.say("Send all again", "全部重新发送")))
            }
            form method="post" action="set-aside" { (hidden(word, shown)) (button("drop", &drop)) }
        }
    }
}

fn hidden(word: &SecretString, ids: &[&str]) -> Markup {
    html! {
        input type="hidden" name="word" value=(word.expose_secret());
        @for id in ids { input type="hidden" name="id" value=(id); }
    }
}

fn button(verb: &str, text: &str) -> Markup {
    html! { button name="do" value=(verb) { (text) } }
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
    language: Language,
) -> Result<Asked, (StatusCode, &'static str)> {
    let no = |status, english, chinese| (status, language.say(english, chinese));
    if !comes_from_this_page(headers, by_ingress) {
        return Err(no(StatusCode::FORBIDDEN, "only from the status page itself", "只接受状态页本身提交的表单"));
    }
    let Ok(Ok(body)) = timeout(PATIENCE, to_bytes(body, LARGEST)).await else {
        let why = "the form is too large, or did not come in time";
        return Err(no(StatusCode::BAD_REQUEST, why, "表单太大，或没有及时送到"));
    };
    let form = Form::of(&body);
    if !http::is_secret(form.word.as_bytes(), word) {
        let why = "the bridge has restarted: load the status page again";
        return Err(no(StatusCode::FORBIDDEN, why, "网桥已重启：请刷新状态页"));
    }
    form.meant().ok_or_else(|| no(StatusCode::BAD_REQUEST, "retry or drop", "只能重新发送或丢弃"))
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
        assert_eq!(form.meant(), Some(Asked::Retry(Which::Ids(ids))));
        assert_eq!(Form::of(b"do=retry&all=").meant(), Some(Asked::Retry(Which::All)));
        // Whoever drops names what was shown.
        assert_eq!(Form::of(b"do=drop&all=").meant(), Some(Asked::Drop(Vec::new())));
        assert_eq!(Form::of(b"do=drop&id=01A").meant(), Some(Asked::Drop(vec!["01A".to_owned()])));
        assert_eq!(Form::of(b"do=list").meant(), None);
        assert_eq!(Form::of(b"\xff%zz=&&==").meant(), None);
    }
}
