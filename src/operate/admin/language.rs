//! The language of the status page: Chinese for a browser that prefers it to English, else English.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT_LANGUAGE;

/// A language of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    English,
    Chinese,
}

impl Language {
    /// What the browser prefers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let all = headers.get_all(ACCEPT_LANGUAGE).iter().filter_map(|value| value.to_str().ok());
        Self::preferred(&all.collect::<Vec<_>>().join(","))
    }

    /// The language of a page that is open already, by its tag; else what the browser prefers.
    pub(super) fn of_page(query: Option<&str>, headers: &HeaderMap) -> Self {
        match query {
            Some("lang=en") => Self::English,
            Some("lang=zh-CN") => Self::Chinese,
            _ => Self::of(headers),
        }
    }

    /// By the value of `Accept-Language`. Whoever asks for any Chinese gets the simplified.
    fn preferred(accepted: &str) -> Self {
        // The best weight of each, and where it stands: of equals, the first wins.
        let (mut english, mut chinese, mut any) = (None, None, None);
        for (place, range) in accepted.split(',').enumerate() {
            let (tag, parameters) = range.split_once(';').unwrap_or((range, ""));
            let primary = tag.trim().split('-').next().unwrap_or_default();
            let found = match primary.to_ascii_lowercase().as_str() {
                "en" => &mut english,
                "zh" => &mut chinese,
                "*" => &mut any,
                _ => continue,
            };
            let now = (weight(parameters), std::cmp::Reverse(place));
            *found = (*found).max(Some(now));
        }
        let wanted = chinese.or(any).filter(|(weight, _)| *weight > 0);
        if wanted.is_some() && wanted > english.or(any) { Self::Chinese } else { Self::English }
    }

    /// Its tag, for browsers.
    pub(super) const fn tag(self) -> &'static str {
        self.say("en", "zh-CN")
    }

    /// A text in this language.
    pub(super) const fn say(self, english: &'static str, chinese: &'static str) -> &'static str {
        match self {
            Self::English => english,
            Self::Chinese => chinese,
        }
    }
}

/// In thousandths; one that cannot be read weighs nothing.
fn weight(parameters: &str) -> u16 {
    let q = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let Some(q) = q else { return 1000 };
    let (whole, fraction) = q.split_once('.').unwrap_or((q, ""));
    let thousandths = format!("{fraction:0<3}");
    match (whole, thousandths.parse::<u16>()) {
        ("0", Ok(part)) if thousandths.len() == 3 => part,
        ("1", Ok(0)) if thousandths.len() == 3 => 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_prefers_chinese_gets_it_and_everybody_else_english() {
        for accepted in [
            "zh",
            "zh-CN",
            "zh-TW,en;q=0.9",
            "ZH-Hans-CN;Q=0.9, en ; q = 0.8",
            "zh-CN,zh;q=0.9,en-US;q=0.8,en;q=0.7",
            "en;q=0.2, zh;q=0.3",
            "en;q=0.5, zh-CN;q=0.4, zh;q=0.9",
            "zh, en",
            "de, zh;q=0.5",
            "zh, *;q=0.5",
            "en;q=0, *",
            "en;q=0.2, *;q=0.8",
        ] {
            assert_eq!(Language::preferred(accepted), Language::Chinese, "{accepted}");
        }
        for accepted in [
            "",
            "*",
            "de",
            "de, *;q=0.5",
            "en",
            "en;q=1, zh;q=0.5",
            "en-GB,en;q=0.9,zh;q=0.8",
            "en, zh",
            "zh;q=0",
            "zh;q=0, *",
            "zh;q=0.000, de",
            "zh;q=x",
            "zh;q=2",
            "zh;q=0.9999, en;q=0.1",
            "zhuang",
            ",;=,",
        ] {
            assert_eq!(Language::preferred(accepted), Language::English, "{accepted}");
        }
    }

    #[test]
    fn several_headers_are_one() {
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT_LANGUAGE, "en;q=0.5".parse().unwrap());
        headers.append(ACCEPT_LANGUAGE, "zh".parse().unwrap());
        assert_eq!(Language::of(&headers), Language::Chinese);
        assert_eq!(Language::of_page(Some("lang=en"), &headers), Language::English, "the page that is open");
        assert_eq!(Language::of_page(Some("lang=x"), &headers), Language::Chinese);
    }
}
