//! A value on its way over its limits and back, through restarts.

use super::*;
use crate::route::{Keep, Maps, Rate, RuleSet, ToRule};
use crate::store::sqlite::Spool;
use crate::store::{Append as _, Limits as SpoolLimits};

const HOT: Limits = Limits { above: Some(30.0), below: None, hysteresis: 1.0 };

fn call(text: &str) -> Call {
    Call::SendText { to: "413".parse().unwrap(), content: text.into() }
}

fn heard(topic: &str) -> Heard<'_> {
    Heard { topic, payload: b"x", time: 7 }
}

async fn open(dir: &tempfile::TempDir) -> (Arc<Spool>, Crossings) {
    let limits = SpoolLimits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
    let (spool, _) = Spool::open(dir.path(), limits).unwrap();
    let crossings = Crossings::open(spool.clone()).await.unwrap();
    (spool, crossings)
}

fn judge(crossings: &Crossings, hold: Option<Duration>, value: f64) -> Verdict {
    crossings.judge(("hot", &heard("tele/a")), &HOT, hold, value, &call(&value.to_string()))
}

fn crossed(verdict: Verdict) -> Crossed {
    match verdict {
        Verdict::Crossed(crossed) => crossed,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_crossing_is_told_once_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, crossings) = open(&dir).await;
    assert_eq!(judge(&crossings, None, 20.0), Verdict::Same);
    let told = crossed(judge(&crossings, None, 31.0));
    assert_eq!(judge(&crossings, None, 32.0), Verdict::Same);
    // Another device is another value.
    crossed(crossings.judge(("hot", &heard("tele/b")), &HOT, None, 31.0, &call("b")));
    crossings.stored(&told);
    spool.close().await;

    let (spool, crossings) = open(&dir).await;
    assert_eq!(judge(&crossings, None, 33.0), Verdict::Same);
    // Never stored, and so told again.
    crossed(crossings.judge(("hot", &heard("tele/b")), &HOT, None, 31.0, &call("b")));
    assert_eq!(judge(&crossings, None, 28.0), Verdict::Same);
    spool.close().await;
    let (_spool, crossings) = open(&dir).await;
    crossed(judge(&crossings, None, 31.0));
}

#[tokio::test]
async fn what_was_not_told_is_told_by_the_next_reading() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, crossings) = open(&dir).await;
    let told = crossed(judge(&crossings, None, 31.0));
    crossings.not_told(&told);
    let told = crossed(judge(&crossings, None, 31.0));
    crossings.stored(&told);
    crossings.not_delivered("hot", "tele/a");
    crossed(judge(&crossings, None, 31.0));
}

#[tokio::test]
async fn a_crossing_that_must_last_is_told_when_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, crossings) = open(&dir).await;
    let hold = Some(Duration::from_mins(5));
    assert_eq!(judge(&crossings, hold, 31.0), Verdict::Lasts);
    assert_eq!(judge(&crossings, hold, 32.0), Verdict::Lasts);
    let at = crossings.next_due().unwrap();
    let ahead = at.saturating_sub(clock::boot_now());
    assert!(ahead > Duration::from_mins(4) && ahead <= Duration::from_mins(5), "{ahead:?}");
    assert!(crossings.take_due(clock::boot_now()).is_empty());
    let due = crossings.take_due(at);
    assert_eq!((due.len(), &due[0].call), (1, &call("32")));
    assert_eq!((due[0].route.as_str(), due[0].topic.as_str()), ("hot", "tele/a"));
    assert!(judge(&crossings, hold, 33.0) == Verdict::Same && crossings.next_due().is_none());
    // One that comes back in time is not told.
    assert_eq!(judge(&crossings, hold, 29.0), Verdict::Same);
    assert_eq!(judge(&crossings, hold, 31.0), Verdict::Lasts);
    assert_eq!(judge(&crossings, hold, 29.5), Verdict::Lasts, "the hysteresis holds for what begins, too");
    assert_eq!(judge(&crossings, hold, 29.0), Verdict::Same);
    assert_eq!(crossings.next_due(), None);
    // Nor is one that has no time to last.
    crossed(judge(&crossings, Some(Duration::ZERO), 31.0).again(&crossings));
}

impl Verdict {
    /// The next reading of the same, if this one only begins.
    fn again(self, crossings: &Crossings) -> Self {
        if self == Self::Lasts { judge(crossings, Some(Duration::ZERO), 31.0) } else { self }
    }
}

#[tokio::test]
async fn what_began_before_a_restart_goes_on_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, crossings) = open(&dir).await;
    let hold = Some(Duration::from_millis(1));
    assert_eq!(judge(&crossings, hold, 31.0), Verdict::Lasts);
    let large = call(&"x".repeat(MESSAGE_MOST + 1));
    assert_eq!(crossings.judge(("hot", &heard("tele/b")), &HOT, hold, 31.0, &large), Verdict::Lasts);
    spool.close().await;
    let (_spool, crossings) = open(&dir).await;
    let at = crossings.next_due().unwrap();
    assert!(at > clock::boot_now(), "what came back meanwhile is heard first");
    let due = crossings.take_due(at);
    assert_eq!((due.len(), &due[0].call), (1, &call("31")));
    // The large one waits for a reading.
    crossed(crossings.judge(("hot", &heard("tele/b")), &HOT, hold, 31.0, &large));
}

#[tokio::test]
async fn memory_is_bounded_and_what_no_route_wants_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, crossings) = open(&dir).await;
    let hold = Some(Duration::from_hours(1));
    for n in 0..=KNOWN_MOST {
        crossings.judge(("hot", &heard(&n.to_string())), &HOT, hold, 31.0, &call("x"));
    }
    let sizes = |crossings: &Crossings| {
        let state = lock(&crossings.state);
        (state.known.len(), state.due.len())
    };
    let (known, due) = sizes(&crossings);
    assert!(known <= KNOWN_MOST && known == due, "{known} {due}");
    for n in 0..=KNOWN_MOST {
        let verdict = crossings.judge(("told", &heard(&n.to_string())), &HOT, None, 31.0, &call("x"));
        let Verdict::Crossed(crossed) = verdict else { panic!("it is told at once") };
        crossings.stored(&crossed);
    }
    assert!(sizes(&crossings).0 <= KNOWN_MOST);
    crossings.reconfigure(&Routes::default());
    assert_eq!(sizes(&crossings), (0, 0));
    spool.close().await;
    let (spool, _) = open(&dir).await;
    assert!(spool.notes(PREFIX).await.unwrap().is_empty());
}

/// One route, `hot`, with limits.
fn hot() -> Routes {
    let rule = ToRule {
        name: "hot".to_owned(),
        subscribe: "tele/+".to_owned(),
        pattern: None,
        map: Maps::new(),
        to: "user/413/text".to_owned(),
        payload: "${payload}".to_owned(),
        value: None,
        above: Some(30.0),
        below: None,
        hysteresis: None,
        hold: Some(Duration::from_millis(1)),
        round: None,
        on_change: false,
        keep: Keep::All,
        ttl: None,
        min_interval: None,
        retained: false,
        max_rate: Rate::default(),
    };
    let rules = RuleSet { to: vec![rule], ..RuleSet::default() };
    Routes::compile(rules, &"ilink".parse().unwrap(), &Arc::default()).unwrap()
}

#[tokio::test]
async fn after_a_restart_a_message_is_made_again_or_is_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, crossings) = open(&dir).await;
    let hold = Some(Duration::from_millis(1));
    let large = Heard { topic: "tele/large", payload: &[b' '; MESSAGE_MOST + 1], time: 7 };
    for heard in [heard("tele/a"), large] {
        assert_eq!(crossings.judge(("hot", &heard), &HOT, hold, 31.0, &call("31")), Verdict::Lasts);
    }
    spool.close().await;
    let (_spool, crossings) = open(&dir).await;
    crossings.reconfigure(&hot());
    // A reload is no reason to drop it, either.
    crossings.reconfigure(&hot());
    let mut due = crossings.take_due(Duration::MAX);
    due.sort_by(|one, other| one.topic.cmp(&other.topic));
    let told: Vec<_> = due.iter().map(|due| (due.topic.as_str(), &due.call, due.reading.as_ref())).collect();
    let (read, said) = (Reading { payload: b"x".to_vec(), time: 7 }, call("31"));
    assert_eq!(told, [("tele/a", &said, Some(&read)), ("tele/large", &said, None)]);
    assert_eq!(crossings.judge(("hot", &large), &HOT, hold, 31.0, &said), Verdict::Same, "it is told");
}
