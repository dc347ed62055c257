use super::wanted::LONGEST;
use super::*;

const SOON: Duration = Duration::from_secs(1);
const SLOWLY: Duration = Duration::from_mins(1);

fn standing() -> Standing {
    Standing::new(&Timing { refused_retry: SOON, recheck_every: SLOWLY, ..Timing::default() })
}

fn state(topic: &str, payload: &'static str) -> Publication {
    Publication::raw(topic.to_owned(), payload).retained()
}

/// What is sent now, in order, and what becomes of it.
fn send(standing: &Standing, now: Instant, outcome: Outcome) -> Vec<String> {
    std::iter::from_fn(|| standing.next(now))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|(version, publication)| {
            standing.ended(&publication.topic, version, outcome, now);
            format!("{}={}", publication.topic, String::from_utf8_lossy(&publication.payload))
        })
        .collect()
}

fn acked() -> Delivery {
    Delivery::Acked { no_subscribers: false }
}

fn refused() -> Delivery {
    Delivery::Refused(super::super::delivery::Refusal { reason: String::new(), remedy: String::new() })
}

#[test]
fn the_newest_is_sent_in_the_order_it_was_set_and_again_to_who_may_have_lost_it() {
    let (standing, now) = (standing(), Instant::now());
    standing.set(state("state", "online"), Lasts::Connection);
    standing.set(state("health", "1"), Lasts::Connection);
    standing.set(state("presence", "online"), Lasts::Session);
    standing.set(state("health", "2"), Lasts::Connection);
    standing.connected(false);
    assert_eq!(send(&standing, now, Outcome::Acked), ["state=online", "presence=online", "health=2"]);
    assert_eq!(send(&standing, now, Outcome::Acked), [""; 0]);
    standing.connected(true);
    assert_eq!(send(&standing, now, Outcome::Acked), ["state=online", "health=2"]);
    standing.connected(false);
    assert_eq!(send(&standing, now, Outcome::Acked), ["state=online", "presence=online", "health=2"]);
}

#[test]
fn what_is_replaced_while_it_is_under_way_is_sent_again() {
    let (standing, now) = (standing(), Instant::now());
    standing.set(state("a", "1"), Lasts::Connection);
    let (version, _) = standing.next(now).unwrap();
    standing.set(state("a", "2"), Lasts::Connection);
    assert!(standing.next(now).is_none(), "one per topic at a time");
    standing.ended("a", version, Outcome::Acked, now);
    assert_eq!(send(&standing, now, Outcome::Acked), ["a=2"]);
    // Lost with its connection.
    standing.set(state("a", "3"), Lasts::Connection);
    standing.next(now).unwrap();
    standing.connected(true);
    assert_eq!(send(&standing, now, Outcome::Acked), ["a=3"]);
}

#[test]
fn refusals_for_now_are_tried_again_soon_and_told_when_they_last() {
    let (standing, mut now) = (standing(), Instant::now());
    standing.set(state("a", "1"), Lasts::Connection);
    let mut told = 0;
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        let (version, publication) = standing.next(now).unwrap();
        told += u32::from(standing.ended(&publication.topic, version, Outcome::ForNow, now));
        let due = standing.next_due().unwrap();
        assert_eq!(due - now, Duration::from_secs(seconds));
        assert!(standing.next(due.checked_sub(Duration::from_millis(1)).unwrap()).is_none());
        now = due;
    }
    assert_eq!(told, 1);
    assert_eq!(send(&standing, now, Outcome::Acked), ["a=1"]);
    assert_eq!(standing.next_due(), None);
    // Another connection may be another broker.
    standing.set(state("a", "2"), Lasts::Connection);
    send(&standing, now, Outcome::ForNow);
    standing.connected(true);
    assert_eq!(send(&standing, now, Outcome::Acked), ["a=2"]);
}

#[test]
fn refusals_for_good_heal_within_a_round_also_across_connections() {
    let (standing, now) = (standing(), Instant::now());
    for topic in ["a", "b", "c"] {
        standing.set(state(topic, "1"), Lasts::Connection);
    }
    assert_eq!(send(&standing, now, Outcome::ForGood).len(), 3);
    standing.connected(false);
    assert!(standing.next(now).is_none());
    assert_eq!(standing.next_due(), Some(now + SLOWLY));
    // Set anew in between: still not now.
    standing.set(state("c", "2"), Lasts::Connection);
    assert!(standing.next(now).is_none());
    let now = now + SLOWLY;
    let (version, publication) = standing.next(now).unwrap();
    standing.ended(&publication.topic, version, Outcome::Acked, now);
    assert_eq!(send(&standing, now, Outcome::Acked), ["b=1", "c=2"]);
}

#[test]
fn one_that_is_taken_again_shows_that_others_may_be() {
    let (standing, now) = (standing(), Instant::now());
    for topic in 0..1000 {
        standing.set(state(&topic.to_string(), "1"), Lasts::Session);
    }
    while !send(&standing, now, Outcome::ForGood).is_empty() {}
    // So many are not all tried each minute.
    let minute = now + SLOWLY;
    let first = send(&standing, minute, Outcome::ForGood).len();
    assert!((1..=RETRIED_AT_ONCE).contains(&first), "{first}");
    let hour = now + LONGEST;
    let (version, publication) = standing.next(hour).unwrap();
    standing.ended(&publication.topic, version, Outcome::Acked, hour);
    let mut healed = 1;
    loop {
        match send(&standing, hour, Outcome::Acked).len() {
            0 => break,
            n => healed += n,
        }
    }
    assert_eq!(healed, 1000);
    assert_eq!(standing.topics().refused, 0);
}

#[test]
fn a_refusal_that_costs_the_connection_is_tried_ever_more_rarely() {
    let (standing, mut now) = (standing(), Instant::now());
    standing.set(state("a", "1"), Lasts::Connection);
    for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(send(&standing, now, Outcome::ForGood), ["a=1"]);
        standing.lost(&[], true, now);
        standing.connected(true);
        let due = standing.next_due().unwrap();
        assert_eq!(due - now, Duration::from_mins(minutes));
        now = due;
    }
}

#[test]
fn what_may_end_connections_lets_others_through_between() {
    let (standing, now) = (standing(), Instant::now());
    standing.set(state("poison", "1"), Lasts::Connection);
    for _ in 0..SUSPECT_AFTER {
        standing.connected(true);
        assert!(standing.next(now).is_some());
        standing.lost(&["poison".to_owned()], false, now);
    }
    standing.connected(true);
    assert!(standing.next(now).is_none());
    assert_eq!(standing.next_due(), Some(now + SOON));
    assert_eq!(send(&standing, now + SOON, Outcome::Acked), ["poison=1"]);
}

#[test]
fn nothing_older_follows_a_callers_publish_and_nothing_of_ours_is_sent_beside_it() {
    let (standing, now) = (standing(), Instant::now());
    standing.set(state("presence", "online"), Lasts::Session);
    assert_eq!(send(&standing, now, Outcome::ForNow), ["presence=online"]);
    // The older one would be due; the newer is on its way.
    let push = state("presence", "offline");
    standing.caller_began(&push);
    assert!(standing.next(now + SLOWLY).is_none());
    standing.caller_ended(&push, 1, &acked(), now);
    assert_eq!(send(&standing, now + SLOWLY, Outcome::Acked), [""; 0]);
    standing.connected(false);
    assert_eq!(send(&standing, now, Outcome::Acked), ["presence=offline"]);
    // Acknowledged out of turn: the later one stands.
    let (first, second) = (state("presence", "online"), state("presence", "offline"));
    standing.caller_began(&first);
    standing.caller_began(&second);
    standing.caller_ended(&second, 3, &acked(), now);
    standing.caller_ended(&first, 2, &acked(), now);
    standing.connected(false);
    assert_eq!(send(&standing, now, Outcome::Acked), ["presence=offline"]);
    // Refused for good: it is set aside, and what should stand comes all the same once it may.
    standing.caller_began(&first);
    standing.caller_ended(&first, 4, &refused(), now);
    assert_eq!(standing.next_due(), Some(now + SLOWLY));
    assert_eq!(send(&standing, now + SLOWLY, Outcome::Acked), ["presence=online"]);
    // Not delivered: whoever published it comes again, in his order.
    standing.caller_began(&push);
    standing.caller_ended(&push, 5, &Delivery::Expired, now);
    assert_eq!(send(&standing, now, Outcome::Acked), [""; 0]);
}

#[test]
fn a_clear_waits_for_what_is_on_its_way_and_tells_whether_it_was_the_last_word() {
    let (standing, now) = (standing(), Instant::now());
    let push = state("presence", "online");
    standing.caller_began(&push);
    let mut superseded = standing.clear("presence".to_owned());
    assert!(standing.next(now).is_none());
    standing.caller_ended(&push, 1, &acked(), now);
    assert_eq!(superseded.try_recv(), Err(oneshot::error::TryRecvError::Closed), "something newer stands");
    let mut cleared = standing.clear("presence".to_owned());
    assert_eq!(send(&standing, now, Outcome::ForNow), ["presence="]);
    standing.connected(false);
    assert_eq!(cleared.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    assert_eq!(send(&standing, now, Outcome::Acked), ["presence="]);
    assert!(cleared.try_recv().unwrap());
    assert!(standing.topics().by_topic.is_empty(), "nothing is left to know of it");
}

#[test]
fn much_to_restore_leaves_room_for_messages() {
    let (standing, now) = (standing(), Instant::now());
    for topic in 0..10_000 {
        standing.set(state(&topic.to_string(), "1"), Lasts::Session);
    }
    assert_eq!(std::iter::from_fn(|| standing.next(now)).count(), UNDER_WAY);
}
