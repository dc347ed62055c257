//! How a target takes its input apart, and what several targets check.

use ilink2mqtt::local::escape::is_unsendable;
use ilink2mqtt::local::filter::{MAX_STRING, matches};
use ilink2mqtt::local::{Base, Globs, Names, Rules};
use ilink2mqtt::protocol::{Account, Receiver};

/// Between the parts of an input: a byte that no text has.
const SEPARATOR: u8 = 0xFF;

/// The first `N` parts; the last is everything that is left, missing ones are empty.
pub fn parts<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = data.splitn(N, |byte| *byte == SEPARATOR);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The first byte of a part as so many switches.
pub fn switches(part: &[u8]) -> [bool; 8] {
    let bits = part.first().copied().unwrap_or_default();
    std::array::from_fn(|n| bits >> n & 1 == 1)
}

pub fn base() -> Base {
    "home/ilink".parse().unwrap()
}

pub fn rules() -> Rules {
    Rules { allow_calls: Globs::all(), max_content: 1000 }
}

/// A user, a group and a subject have names.
pub fn names() -> Names {
    let mut names = Names::default();
    names.add("ann", Receiver::User("413".parse().unwrap())).unwrap();
    names.add("family", Receiver::Group("g".parse().unwrap())).unwrap();
    names.add("lamp", Receiver::Subject("home/lamp".parse().unwrap())).unwrap();
    names
}

pub fn account() -> Account {
    Account { appkey: "A".to_owned(), secretkey: "S".into(), uid: "413".parse().unwrap(), presence_action: 2 }
}

/// A topic that the bridge made of ids is one that every broker takes, and not one by which it would hear itself.
pub fn assert_publishable(base: &Base, topic: &str) {
    assert!(base.strip(topic).is_some(), "{topic:?} is not under the base");
    assert!(!topic.contains(['+', '#']) && !topic.contains(is_unsendable), "{topic:?} is no topic");
    assert!(topic.split('/').all(|level| !level.is_empty()), "{topic:?} has an empty level");
    assert!(!base.command_filters().iter().any(|filter| matches(filter, topic)), "{topic:?} comes back as a command");
}

pub fn assert_mqtt_string(text: &str) {
    assert!(text.len() <= MAX_STRING && !text.contains(is_unsendable), "{text:?} cannot be sent");
}
