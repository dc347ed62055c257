//! Recent activity: the last messages, and how many there were in each minute of the last hour. It is for the status
//! page and `status`. Nothing else depends on it, and it is lost when the process ends.
//!
//! Message contents are kept only if the operator asked for them (`admin.show_content`), and then only their
//! beginnings.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::sync::watch;
use ulid::Ulid;

use crate::observe::log::clipped;
use crate::os::clock;
use crate::os::lock;

/// So many messages are remembered.
pub const MESSAGES: usize = 30;
/// So many minutes, the present one included.
const MINUTES: usize = 60;
/// So many bytes of a content are looked at; what is shown of them is clipped to fewer characters.
const CONTENT_BYTES: usize = 800;

/// As much of a stranger's text (an id, a topic, a content) as is shown, made harmless.
#[must_use]
pub fn shown(text: &str) -> String {
    harmless(&clipped(text))
}

/// Without what would steer a terminal or change the order in which the rest is shown.
#[must_use]
pub fn harmless(text: &str) -> String {
    text.chars().map(|char| if steers(char) { '\u{fffd}' } else { char }).collect()
}

fn steers(char: char) -> bool {
    let is_bidi =
        matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    is_bidi || (char.is_control() && char != '\n')
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// From iLink to the broker: a push.
    FromIlink,
    /// From a device to iLink: a command.
    ToIlink,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should.
    Good,
    /// Not as its sender meant it, by a rule of the bridge or of iLink.
    Odd,
    /// It did not arrive, or nobody knows.
    Bad,
}

/// A moment, in milliseconds since the Unix epoch. Shown as RFC 3339, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(pub u64);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&clock::rfc3339(self.0))
    }
}

/// A message that has passed. Nearly all are forgotten unseen: what is shown is made when somebody looks.
#[derive(Debug, Clone, Serialize)]
pub struct Passed {
    /// When.
    #[serde(serialize_with = "as_text")]
    pub at: Moment,
    /// Whither.
    pub way: Way,
    /// Its kind or call.
    pub kind: &'static str,
    /// The bridge's id of it, as in envelopes and results.
    #[serde(serialize_with = "as_text")]
    pub id: Ulid,
    /// The sender's uid, clipped.
    pub from: Option<String>,
    /// The receiver's uid, group or subject, clipped; none if it is the bridge itself.
    pub to: Option<String>,
    /// The content's size; none if it has no content.
    pub bytes: Option<usize>,
    /// How it ended.
    pub verdict: Verdict,
    /// The same in a word.
    pub outcome: Cow<'static, str>,
    /// From its acceptance to this, in milliseconds.
    pub took_ms: u64,
    /// The beginning of its content, if that is to be shown.
    pub content: Option<String>,
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Messages in a minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Minute {
    /// Pushes that were delivered.
    pub from_ilink: u64,
    /// Commands that got a result.
    pub to_ilink: u64,
}

/// The activity that messages leave.
#[derive(Debug)]
pub struct Activity {
    shows_content: bool,
    kept: Mutex<Kept>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    messages: VecDeque<Passed>,
    /// The last one is of minute `present`.
    minutes: VecDeque<Minute>,
    present: u64,
}

impl Default for Activity {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Activity {
    /// An empty one, which keeps the beginnings of contents if `shows_content`.
    #[must_use]
    pub fn new(shows_content: bool) -> Self {
        Self { shows_content, kept: Mutex::default(), changed: watch::Sender::new(0) }
    }

    /// As much of a content as may be shown: nothing, unless the operator asked for it.
    #[must_use]
    pub fn content(&self, content: &[u8]) -> Option<String> {
        let beginning = content.get(..CONTENT_BYTES).unwrap_or(content);
        self.shows_content.then(|| shown(&String::from_utf8_lossy(beginning)))
    }

    /// A message has passed.
    pub fn note(&self, passed: Passed) {
        let mut kept = lock(&self.kept);
        kept.count(minute_of(clock::boot_now()), passed.way);
        if kept.messages.len() == MESSAGES {
            kept.messages.pop_front();
        }
        kept.messages.push_back(passed);
        drop(kept);
        // To tell nobody takes its time, too.
        let somebody_looks = self.changed.receiver_count() > 0;
        self.changed.send_if_modified(|changes| {
            *changes = changes.wrapping_add(1);
            somebody_looks
        });
    }

    /// The last messages, newest first.
    #[must_use]
    pub fn messages(&self) -> Vec<Passed> {
        lock(&self.kept).messages.iter().rev().cloned().collect()
    }

    /// The last hour, minute by minute; the present minute comes last.
    #[must_use]
    pub fn minutes(&self) -> Vec<Minute> {
        let mut kept = lock(&self.kept);
        kept.move_on(minute_of(clock::boot_now()));
        let missing = MINUTES - kept.minutes.len();
        std::iter::repeat_n(Minute::default(), missing).chain(kept.minutes.iter().copied()).collect()
    }

    /// Tells when a message has passed.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl Kept {
    /// `minute` becomes the present one.
    fn move_on(&mut self, minute: u64) {
        let passed = if self.minutes.is_empty() { 1 } else { minute.saturating_sub(self.present) };
        self.present = self.present.max(minute);
        for _ in 0..passed.min(MINUTES as u64) {
            if self.minutes.len() == MINUTES {
                self.minutes.pop_front();
            }
            self.minutes.push_back(Minute::default());
        }
    }

    fn count(&mut self, minute: u64, way: Way) {
        self.move_on(minute);
        if let Some(present) = self.minutes.back_mut() {
            match way {
                Way::FromIlink => present.from_ilink += 1,
                Way::ToIlink => present.to_ilink += 1,
            }
        }
    }
}

fn minute_of(boot: Duration) -> u64 {
    boot.as_secs() / 60
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(way: Way, id: usize) -> Passed {
        Passed {
            at: Moment(1_767_225_600_001),
            way,
            kind: "text",
            id: Ulid::from_parts(0, id as u128),
            from: None,
            to: None,
            bytes: Some(1),
            verdict: Verdict::Good,
            outcome: Cow::Borrowed(""),
            took_ms: 0,
            content: None,
        }
    }

    #[test]
    fn the_last_messages_stay_newest_first() {
        let activity = Activity::default();
        let mut changed = activity.changed();
        for id in 0..MESSAGES + 5 {
            activity.note(passed(Way::FromIlink, id));
        }
        assert!(changed.has_changed().unwrap() && *changed.borrow_and_update() == MESSAGES as u64 + 5);
        let messages = activity.messages();
        let ids: Vec<_> = messages.iter().map(|message| message.id.random()).collect();
        assert_eq!((ids.len(), ids[0], ids[MESSAGES - 1]), (MESSAGES, 34, 5));
        let json = serde_json::to_value(&messages[0]).unwrap();
        assert_eq!(
            (json["at"].as_str(), json["id"].as_str()),
            (Some("2026-01-01T00:00:00.001Z"), Some("00000000000000000000000012"))
        );
        let minutes = activity.minutes();
        assert_eq!(minutes.len(), MINUTES);
        assert_eq!(minutes.iter().map(|minute| minute.from_ilink).sum::<u64>(), MESSAGES as u64 + 5);
    }

    #[test]
    fn minutes_move_on_and_those_before_the_last_hour_are_forgotten() {
        let mut kept = Kept::default();
        let count = |kept: &mut Kept, minute, times| (0..times).for_each(|_| kept.count(minute, Way::ToIlink));
        count(&mut kept, 1000, 1);
        count(&mut kept, 1002, 3);
        let counts = |kept: &Kept| kept.minutes.iter().map(|minute| minute.to_ilink).collect::<Vec<_>>();
        assert_eq!(counts(&kept), [1, 0, 3]);
        count(&mut kept, 1001, 1);
        assert_eq!(counts(&kept), [1, 0, 4], "a clock that two threads read is not quite one");
        kept.move_on(1060);
        assert_eq!((kept.minutes.len(), counts(&kept)[0]), (MINUTES, 0));
        kept.move_on(1061);
        assert_eq!(counts(&kept)[0], 4);
        kept.move_on(9_000_000_000);
        assert_eq!(counts(&kept), [0; MINUTES]);
    }

    #[test]
    fn nothing_that_others_wrote_steers_what_shows_it() {
        assert_eq!(shown("a\x1b[2Jb\nc\u{202e}d 开灯"), "a\u{fffd}[2Jb\nc\u{fffd}d 开灯");
    }

    #[test]
    fn contents_are_kept_only_on_demand_and_only_their_beginnings() {
        assert_eq!(Activity::new(false).content(b"secret"), None);
        let shows = Activity::new(true);
        assert_eq!(shows.content("开灯".as_bytes()).as_deref(), Some("开灯"));
        assert!(shows.content(&vec![b'x'; 1 << 20]).unwrap().len() <= 200);
        assert!(shows.content(&[0xff; 9]).is_some());
    }
}
