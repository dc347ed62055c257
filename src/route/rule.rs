//! Rules as written, before anything is checked.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Word tables: by the value as it stands in `${…}`, what each word becomes.
pub type Maps = BTreeMap<String, BTreeMap<String, String>>;

/// What a message becomes when nothing else is said.
pub const PAYLOAD: &str = "${payload}";
/// The same for a rule that reads a number.
pub const VALUE: &str = "${value}";

/// All rules, in the order of the file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RuleSet {
    /// `[[route.from_ilink]]`.
    pub from: Vec<FromRule>,
    /// `[[route.otherwise]]`.
    pub otherwise: Vec<OtherwiseRule>,
    /// `[[route.to_ilink]]`.
    pub to: Vec<ToRule>,
}

/// `[[route.from_ilink]]`: a message from iLink becomes a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromRule {
    /// Names the route in counters and logs.
    pub name: String,
    /// Which messages: a filter over the levels under `recv/`.
    pub from: String,
    /// A regular expression that the message must match.
    pub pattern: Option<String>,
    /// Word tables.
    pub map: Maps,
    /// The topic's template.
    pub topic: String,
    /// The payload's template.
    pub payload: String,
    /// An older message does not fire; zero is no limit, none is `inbound.raw_max_age`.
    pub max_age: Option<Duration>,
    /// Whether the sender may be a wildcard.
    pub any_sender: bool,
    /// More than this opens the breaker.
    pub max_rate: Rate,
    /// The template of the answer to whoever wrote the message, once the publish is acknowledged.
    pub reply: Option<String>,
    /// What one writes to fire it, for people.
    pub help: Option<String>,
}

/// `[[route.otherwise]]`: a message that fires no route is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherwiseRule {
    /// Names the route in counters, logs and result topics.
    pub name: String,
    /// Which messages: a filter over the levels under `recv/`.
    pub from: String,
    /// The template of the answer.
    pub reply: String,
    /// Whether the sender may be a wildcard.
    pub any_sender: bool,
    /// More than this opens the breaker.
    pub max_rate: Rate,
}

/// `[[route.to_ilink]]`: a publish of a device becomes a message to iLink.
#[derive(Debug, Clone, PartialEq)]
pub struct ToRule {
    /// Names the route in counters, logs and result topics.
    pub name: String,
    /// Which publishes: a topic filter.
    pub subscribe: String,
    /// A regular expression that the payload must match.
    pub pattern: Option<String>,
    /// Word tables.
    pub map: Maps,
    /// The receiver's template: the levels under `send/`.
    pub to: String,
    /// The message's template.
    pub payload: String,
    /// The template of the number that the next ones are about; none is the payload.
    pub value: Option<String>,
    /// It is sent when the number goes above this.
    pub above: Option<f64>,
    /// It is sent when the number goes below this.
    pub below: Option<f64>,
    /// So far the number must come back before it can cross again.
    pub hysteresis: Option<f64>,
    /// So long a crossing must last (`for`).
    pub hold: Option<Duration>,
    /// So many decimal places the number has in the message.
    pub round: Option<u8>,
    /// Whether only a change is sent.
    pub on_change: bool,
    /// Which of several waiting messages are sent.
    pub keep: Keep,
    /// How long a message may wait; none is `outbound.ttl`.
    pub ttl: Option<Duration>,
    /// At least so long between two messages of a device.
    pub min_interval: Option<Duration>,
    /// Whether retained messages count.
    pub retained: bool,
    /// More than this opens the breaker.
    pub max_rate: Rate,
}

/// Which of several messages of one route and one device that wait for iLink are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// All of them.
    #[default]
    All,
    /// The newest only.
    Latest,
}

impl Keep {
    /// The word in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Latest => "latest",
        }
    }
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "latest" => Ok(Self::Latest),
            _ => Err("it must be \"all\" or \"latest\"".to_owned()),
        }
    }
}

/// So many in a time: `"30/m"`. None in no time is no limit: `"0"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many; 0 is no limit.
    pub count: u32,
    /// In what time.
    pub per: Duration,
}

/// One every two seconds in the long run, thirty at once.
impl Default for Rate {
    fn default() -> Self {
        Self { count: 30, per: Duration::from_mins(1) }
    }
}

const UNITS: [(&str, Duration); 3] =
    [("s", Duration::from_secs(1)), ("m", Duration::from_mins(1)), ("h", Duration::from_hours(1))];

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self { count: 0, ..Self::default() });
        }
        let parsed = text.split_once('/').and_then(|(count, unit)| {
            let (_, per) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
            let count = count.trim().parse().ok().filter(|count| (1..=1_000_000).contains(count))?;
            Some(Self { count, per: *per })
        });
        parsed.ok_or_else(|| "it must be so many per s, m or h, such as \"30/m\", or \"0\" for no limit".to_owned())
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, per)| *per == self.per).map_or("m", |(name, _)| name);
        if self.count == 0 { f.write_str("0") } else { write!(f, "{}/{unit}", self.count) }
    }
}

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {what}")]
pub struct RouteError {
    /// Which rule: its section, its place in the file's order, and its name.
    pub rule: String,
    /// What, with the key.
    pub what: String,
}

/// How errors name a rule: `n` counts from 1.
#[must_use]
pub fn rule_name(section: &str, n: usize, name: &str) -> String {
    if name.is_empty() { format!("route.{section} {n}") } else { format!("route.{section} {n} (\"{name}\")") }
}

/// What a message did to a route whose filter selects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It fires.
    Fires(T),
    /// The pattern does not match.
    NoMatch,
    /// A value that a template needs is not there, or cannot be used there: which, and why.
    Missing(Cow<'static, str>),
}

impl<T> Outcome<T> {
    /// The same, with `what` made of what it fires.
    pub fn map<U>(self, what: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Fires(fired) => Outcome::Fires(what(fired)),
            Self::NoMatch => Outcome::NoMatch,
            Self::Missing(why) => Outcome::Missing(why),
        }
    }

    /// Told at once, whatever else a template needs: one message may meet a thousand rules that want JSON.
    pub(super) const NOT_JSON: Self = Self::Missing(Cow::Borrowed("the message is not JSON"));

    pub(super) fn of(rendered: Result<T, String>) -> Self {
        rendered.map_or_else(|why| Self::Missing(why.into()), Self::Fires)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, count, per) in [("30/m", 30, 60), ("1/s", 1, 1), ("5 / h", 5, 3600)] {
            assert_eq!(text.parse(), Ok(Rate { count, per: Duration::from_secs(per) }), "{text}");
        }
        assert_eq!("0".parse::<Rate>().unwrap().count, 0);
        for text in ["30/m", "1/s", "7/h", "0"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in ["", "30", "30/d", "0/m", "-1/m", "1.5/m", "/m", "30/"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert_eq!(Rate::default(), "30/m".parse().unwrap());
    }
}
