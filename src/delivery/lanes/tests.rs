use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::local::Publication;
use crate::mqtt::NotNow;

const PATIENCE: Patience = Patience {
    rest_min: Duration::from_secs(1),
    rest_max: Duration::from_secs(8),
    blame_after: Duration::from_secs(30),
};

#[derive(Debug, Default)]
struct Topics(Vec<String>);

impl Memo for Topics {
    fn settle(&mut self, taken: Vec<Part>, _late: bool) {
        self.0.extend(taken.into_iter().map(|part| part.publication.topic));
    }

    fn unsettle(&mut self) {
        self.0.clear();
    }
}

type Tested = Lanes<char, Topics, ()>;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(1000 + seconds)
}

fn lanes() -> Tested {
    Lanes::new(PATIENCE)
}

fn part(topic: &str) -> Part {
    Part::plain(Publication::raw(topic.to_owned(), ""))
}

fn for_now() -> Outcome<()> {
    Outcome::ForNow { taken: Vec::new(), why: ForNow { cause: "full".to_owned(), how: NotNow::Busy } }
}

const DONE: Outcome<()> = Outcome::Done { done: (), acked: true };

fn finished(lanes: &mut Tested) -> Vec<u64> {
    std::iter::from_fn(|| lanes.finished()).map(|(seq, ())| seq).collect()
}

fn nothing_is_left(lanes: &Tested) {
    assert!(lanes.by_key.is_empty() && lanes.resting.is_empty(), "{lanes:?}");
    assert_eq!((lanes.under_way, lanes.held_up), (0, HeldUp::default()));
}

#[test]
fn rows_go_out_as_they_come_and_are_finished_in_their_order() {
    let mut lanes = lanes();
    let [one, two] = [1, 2].map(|seq| lanes.arrive(&'a', seq).unwrap());
    let other = lanes.arrive(&'b', 3).unwrap();
    lanes.settled(&two, DONE, at(0));
    assert!(finished(&mut lanes).is_empty());
    lanes.settled(&other, DONE, at(0));
    assert_eq!(finished(&mut lanes), [3]);
    lanes.settled(&one, DONE, at(0));
    assert_eq!(finished(&mut lanes), [1, 2]);
    nothing_is_left(&lanes);
}

#[test]
fn one_refusal_for_now_sends_all_behind_it_again_and_holds_up_no_other() {
    let mut lanes = lanes();
    let [on1, off2, on3, off4] = [1, 2, 3, 4].map(|seq| lanes.arrive(&'a', seq).unwrap());
    lanes.settled(&off2, DONE, at(0));
    assert!(!on1.handling.is_withdrawn());
    assert_eq!(lanes.settled(&on1, for_now(), at(0)), Verdict::InHand);
    assert!(off4.handling.is_withdrawn(), "what the link has not sent it need not send");
    // What was under way settles, and that is of no interest.
    lanes.settled(&on3, DONE, at(0));
    assert!(lanes.arrive(&'a', 5).is_none());
    let other = lanes.arrive(&'b', 6).unwrap();
    assert!(!other.handling.is_withdrawn());
    assert_eq!(lanes.held_up(), HeldUp { lanes: 1, rows: 5 });
    assert!(lanes.next(at(0)).is_none());
    let rested = lanes.next_change().unwrap();
    assert!(rested > at(0) && rested <= at(1));
    // The first one alone, then all.
    let probe = lanes.next(rested).unwrap();
    assert_eq!(probe.seq, 1);
    assert!(lanes.next(at(100)).is_none());
    lanes.settled(&probe, DONE, at(2));
    assert_eq!(finished(&mut lanes), [1]);
    let rest: Vec<_> = std::iter::from_fn(|| lanes.next(at(2))).collect();
    assert_eq!(rest.iter().map(|ticket| ticket.seq).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert!(!rest[0].handling.is_withdrawn());
    assert_eq!(lanes.held_up(), HeldUp::default());
    for ticket in rest.iter().rev().chain([&other, &off4]) {
        lanes.settled(ticket, DONE, at(2));
    }
    assert_eq!(finished(&mut lanes), [2, 3, 4, 5, 6]);
    nothing_is_left(&lanes);
}

#[test]
fn a_lane_rests_longer_and_longer() {
    let mut lanes = lanes();
    let mut ticket = lanes.arrive(&'a', 1).unwrap();
    for most in [1, 2, 4, 8, 8, 8] {
        lanes.settled(&ticket, for_now(), at(0));
        let rest = lanes.next_change().unwrap().saturating_sub(at(0));
        let most = Duration::from_secs(most);
        assert!(rest >= most / 2 && rest <= most, "{rest:?} of {most:?}");
        ticket = lanes.next(at(0) + rest).unwrap();
    }
}

#[test]
fn what_was_taken_of_the_first_row_is_not_sent_again_unless_one_before_it_is() {
    let mut lanes = lanes();
    let [one, two] = [1, 2].map(|seq| lanes.arrive(&'a', seq).unwrap());
    let why = || ForNow { cause: "full".to_owned(), how: NotNow::Busy };
    lanes.settled(&two, Outcome::ForNow { taken: vec![part("raw")], why: why() }, at(0));
    // It must wait for what was sent before it.
    assert!(lanes.next(at(10)).is_none());
    lanes.settled(&one, for_now(), at(10));
    assert_eq!(lanes.held_up(), HeldUp { lanes: 1, rows: 2 });
    let probe = lanes.next(at(20)).unwrap();
    assert_eq!(probe.seq, 1);
    lanes.settled(&probe, Outcome::ForNow { taken: vec![part("raw")], why: why() }, at(20));
    let probe = lanes.next(at(30)).unwrap();
    assert_eq!(lanes.memo(&probe).unwrap().0, ["raw"]);
    // However often the rest is refused.
    lanes.settled(&probe, for_now(), at(30));
    let probe = lanes.next(at(40)).unwrap();
    assert_eq!(lanes.memo(&probe).unwrap().0, ["raw"]);
    lanes.settled(&probe, DONE, at(40));
    let two = lanes.next(at(40)).unwrap();
    assert!(lanes.memo(&two).unwrap().0.is_empty(), "all of it stands behind what was sent again");
    lanes.settled(&two, DONE, at(40));
    assert_eq!(finished(&mut lanes), [1, 2]);
    nothing_is_left(&lanes);
}

#[test]
fn what_became_late_is_sent_again_at_once_in_its_place() {
    let mut lanes = lanes();
    let [one, two] = [1, 2].map(|seq| lanes.arrive(&'a', seq).unwrap());
    lanes.settled(&one, Outcome::Again { taken: Vec::new(), late: true }, at(0));
    assert!(two.handling.is_withdrawn());
    let again: Vec<_> = std::iter::from_fn(|| lanes.next(at(0))).collect();
    assert_eq!(again.iter().map(|ticket| ticket.seq).collect::<Vec<_>>(), [1, 2]);
    for ticket in &again {
        lanes.settled(ticket, DONE, at(0));
    }
    nothing_is_left(&lanes);
}

#[test]
fn what_a_connection_ended_at_goes_alone_and_is_condemned_only_by_comparison() {
    for others in [false, true] {
        let mut lanes = lanes();
        let mut ticket = lanes.arrive(&'a', 1).unwrap();
        lanes.arrive(&'a', 2).unwrap();
        assert!(!ticket.handling.alone);
        let (mut now, mut condemned) = (at(0), None);
        for n in 0..20 {
            let why = ForNow { cause: "it dies".to_owned(), how: NotNow::Fatal };
            if lanes.settled(&ticket, Outcome::ForNow { taken: Vec::new(), why }, now) == Verdict::Condemned {
                condemned = Some(now);
                break;
            }
            if others {
                let other = lanes.arrive(&'b', 100 + n).unwrap();
                lanes.settled(&other, DONE, now);
            }
            now = lanes.next_change().unwrap();
            ticket = lanes.next(now).unwrap();
            assert!(ticket.handling.alone && ticket.seq == 1);
        }
        assert_eq!(condemned.is_some(), others);
        if let Some(condemned) = condemned {
            assert!(condemned >= at(30));
            // What is behind it goes on.
            assert_eq!(lanes.next(now).unwrap().seq, 2);
        }
    }
}

#[test]
fn a_row_that_is_gone_holds_up_nothing() {
    let mut lanes = lanes();
    let [one, two] = [1, 2].map(|seq| lanes.arrive(&'a', seq).unwrap());
    lanes.settled(&two, DONE, at(0));
    lanes.lost(&one);
    assert_eq!(finished(&mut lanes), [2]);
    nothing_is_left(&lanes);
}

/// Where copies of the parts of rows were put on the wire that the broker took.
type Copies = BTreeMap<(u64, char), usize>;

/// Lanes, and a broker that does what chance says.
struct World {
    lanes: Tested,
    out: Vec<(Ticket<char>, Vec<char>, usize)>,
    wire: usize,
    copies: Copies,
    lane_of: BTreeMap<u64, char>,
    finished: Vec<u64>,
    condemned: Vec<u64>,
    now: Duration,
}

impl World {
    fn send(&mut self, ticket: Ticket<char>) {
        let settled = &self.lanes.memo(&ticket).unwrap().0;
        let parts: Vec<char> = ['r', 'e'].into_iter().filter(|part| !settled.contains(&part.to_string())).collect();
        self.wire += 1;
        self.out.push((ticket, parts, self.wire));
    }

    fn settle(&mut self, which: usize, fate: u8) {
        if self.out.is_empty() {
            return;
        }
        let (ticket, parts, wire) = self.out.remove(which % self.out.len());
        let why =
            ForNow { cause: String::new(), how: if fate.is_multiple_of(2) { NotNow::Fatal } else { NotNow::Refused } };
        // Some of it, but never all.
        let some = &parts[..parts.len() / 2];
        let of_some = || some.iter().map(|topic| part(&topic.to_string())).collect();
        let (taken, outcome): (&[char], _) = match fate % 16 {
            0..8 => (&parts, DONE),
            8 => (&[], Outcome::Again { taken: Vec::new(), late: true }),
            9 => (some, Outcome::Again { taken: of_some(), late: false }),
            10..13 => (some, Outcome::ForNow { taken: of_some(), why }),
            _ => (&[], Outcome::ForNow { taken: Vec::new(), why }),
        };
        for part in taken {
            let last = self.copies.entry((ticket.seq, *part)).or_default();
            *last = wire.max(*last);
        }
        if self.lanes.settled(&ticket, outcome, self.now) == Verdict::Condemned {
            self.condemned.push(ticket.seq);
        }
        self.finished.extend(finished(&mut self.lanes));
        self.check();
    }

    fn check(&self) {
        let lanes = self.lanes.by_key.values();
        assert_eq!(lanes.clone().map(|lane| lane.sent.len()).sum::<usize>(), self.lanes.under_way);
        assert_eq!(lanes.clone().map(|lane| lane.waiting.len()).sum::<usize>(), self.lanes.held_up.rows);
        assert_eq!(lanes.filter(|lane| lane.trouble.is_some()).count(), self.lanes.held_up.lanes);
    }

    fn go_on(&mut self) {
        while let Some(ticket) = self.lanes.next(self.now) {
            self.send(ticket);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_the_broker_does_the_last_copies_stand_in_order(
        steps in prop::collection::vec((0..8_u8, any::<usize>(), any::<u8>()), 0..200),
    ) {
        let mut world = World {
            lanes: lanes(),
            out: Vec::new(),
            wire: 0,
            copies: Copies::new(),
            lane_of: BTreeMap::new(),
            finished: Vec::new(),
            condemned: Vec::new(),
            now: at(0),
        };
        let mut seq = 0;
        for (step, which, fate) in steps {
            match step {
                0..3 => {
                    seq += 1;
                    let lane = ['a', 'b', 'c'][which % 3];
                    world.lane_of.insert(seq, lane);
                    if let Some(ticket) = world.lanes.arrive(&lane, seq) {
                        world.send(ticket);
                    }
                }
                3 => world.now += Duration::from_millis(u64::from(fate) * 20),
                4 => world.go_on(),
                _ => world.settle(which, fate),
            }
        }
        // In the end it takes everything.
        while !world.out.is_empty() || world.lanes.held_up().rows > 0 {
            world.now += Duration::from_secs(10);
            world.go_on();
            world.settle(0, 0);
        }
        nothing_is_left(&world.lanes);
        let mut all: Vec<u64> = world.finished.iter().chain(&world.condemned).copied().collect();
        all.sort_unstable();
        prop_assert_eq!(all, (1..=seq).collect::<Vec<_>>(), "each is finished once");
        for lane in ['a', 'b', 'c'] {
            let of_lane = |seq: &&u64| world.lane_of[seq] == lane;
            let order: Vec<u64> = world.finished.iter().filter(of_lane).copied().collect();
            prop_assert!(order.is_sorted(), "{:?}", order);
            let mut before = 0;
            for seq in order {
                let last = [(seq, 'r'), (seq, 'e')].map(|copy| world.copies[&copy]);
                prop_assert!(last[0].min(last[1]) > before, "row {} of {}", seq, lane);
                before = last[0].max(last[1]);
            }
        }
    }
}
