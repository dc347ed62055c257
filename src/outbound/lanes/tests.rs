//! Turns, waiting, expiry; and that nobody is kept waiting by how much others ask for.

use super::*;

use std::collections::HashSet;

use proptest::prelude::*;

const FAR: Duration = Duration::from_secs(1000);

fn is_empty<C, K>(lanes: &Lanes<C, K>) -> bool {
    let nobody_waits = lanes.line.is_empty() && lanes.ready.is_empty() && lanes.waiting.is_empty();
    nobody_waits && lanes.deadlines.is_empty() && lanes.queues.is_empty() && lanes.clients.is_empty()
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_flood_to_one_receiver_delays_no_other() {
    let mut lanes = Lanes::default();
    for seq in 1..=100 {
        lanes.push((), "flood", seq, FAR);
    }
    lanes.push((), "other", 101, FAR);
    let (flood, first) = lanes.take_next().unwrap();
    assert_eq!((*flood, first), ("flood", 1));
    let (other, next) = lanes.take_next().unwrap();
    assert_eq!((*other, next), ("other", 101));
    assert!(lanes.take_next().is_none(), "both lanes are busy");
    lanes.done(&flood);
    assert_eq!(lanes.take_next().unwrap().1, 2);
}

#[test]
fn a_lane_that_must_wait_waits_alone_and_keeps_its_order() {
    let mut lanes = Lanes::default();
    lanes.push((), "a", 1, FAR);
    lanes.push((), "a", 2, FAR);
    let (a, _) = lanes.take_next().unwrap();
    lanes.later(&a, at(5));
    lanes.push((), "b", 3, FAR);
    assert_eq!(lanes.take_next().unwrap().1, 3);
    assert!(lanes.take_next().is_none());
    assert_eq!(lanes.next_change(), Some(at(5)));
    lanes.wake(at(5));
    assert_eq!(lanes.take_next().unwrap().1, 1);
}

#[test]
fn a_lane_is_called_back_only_from_the_wait_that_is_meant() {
    let mut lanes = Lanes::default();
    lanes.push((), "a", 1, at(3));
    lanes.push((), "a", 2, FAR);
    let (a, _) = lanes.take_next().unwrap();
    assert!(!lanes.again(&a, at(9)), "under way");
    lanes.later(&a, at(9));
    assert!(lanes.again(&a, at(9)) && !lanes.again(&a, at(9)));
    let (a, _) = lanes.take_next().unwrap();
    lanes.later(&a, at(9));
    assert_eq!(lanes.expired(at(3)), Some(1));
    let (a, second) = lanes.take_next().unwrap();
    assert_eq!(second, 2);
    lanes.later(&a, at(10));
    assert!(!lanes.again(&a, at(9)), "another wait, of another command");
    assert!(lanes.again(&a, at(10)) && lanes.waiting.is_empty());
}

#[test]
fn a_command_expires_at_its_time_wherever_it_stands() {
    let mut lanes = Lanes::default();
    lanes.push((), "a", 1, FAR);
    lanes.push((), "a", 2, at(3));
    lanes.push((), "a", 3, FAR);
    let (a, _) = lanes.take_next().unwrap();
    lanes.later(&a, at(9));
    assert_eq!(lanes.next_change(), Some(at(3)));
    assert_eq!(lanes.expired(at(2)), None);
    assert_eq!(lanes.expired(at(3)), Some(2));
    assert_eq!(lanes.expired(at(3)), None);
    lanes.wake(at(9));
    let (a, first) = lanes.take_next().unwrap();
    assert_eq!(first, 1);
    lanes.done(&a);
    assert_eq!(lanes.take_next().unwrap().1, 3);
}

#[test]
fn what_is_being_worked_on_does_not_expire_under_the_workers_hands() {
    let mut lanes = Lanes::default();
    lanes.push((), "a", 1, at(1));
    let (a, _) = lanes.take_next().unwrap();
    assert_eq!((lanes.expired(at(2)), lanes.next_change()), (None, None));
    lanes.later(&a, at(9));
    assert_eq!(lanes.expired(at(2)), Some(1));
    assert!(lanes.take_next().is_none());
    assert_eq!(lanes.next_change(), None);
}

#[test]
fn an_expired_head_lets_the_next_one_go_at_once() {
    let mut lanes = Lanes::default();
    lanes.push((), "a", 1, at(1));
    lanes.push((), "a", 2, FAR);
    let (a, _) = lanes.take_next().unwrap();
    lanes.later(&a, at(50));
    assert_eq!(lanes.expired(at(1)), Some(1));
    assert_eq!(lanes.take_next().unwrap().1, 2);
}

// A flood to very many receivers that expires at once must not stop the loop for minutes.
#[test]
fn expiry_costs_little_however_many_lanes_there_are() {
    let mut lanes = Lanes::default();
    for seq in 0..200_000 {
        lanes.push((), seq, seq, at(1));
    }
    let (mut expired, begun) = (0, std::time::Instant::now());
    while lanes.expired(at(1)).is_some() {
        expired += 1;
    }
    assert_eq!(expired, 200_000);
    assert!(is_empty(&lanes));
    // Two orders of magnitude more than it takes; with a cost that grows with the lanes it was many minutes.
    assert!(begun.elapsed() < Duration::from_mins(1), "{:?}", begun.elapsed());
}

#[test]
fn a_lane_that_left_the_line_joins_it_at_its_end() {
    let mut lanes = Lanes::default();
    lanes.push((), "a", 1, at(1));
    lanes.push((), "b", 2, FAR);
    assert_eq!(lanes.expired(at(1)), Some(1));
    lanes.push((), "a", 3, FAR);
    assert_eq!(lanes.take_next().map(|(_, seq)| seq), Some(2));
    assert_eq!(lanes.take_next().map(|(_, seq)| seq), Some(3));
    assert!(lanes.take_next().is_none());
}

#[test]
fn a_superseded_command_is_taken_out_unless_it_is_being_worked_on() {
    let mut lanes = Lanes::default();
    lanes.push((), "a", 1, FAR);
    assert!(lanes.contains(1, FAR) && lanes.remove(1, FAR) && !lanes.contains(1, FAR));
    assert!(!lanes.remove(1, FAR) && !lanes.has_ready());
    lanes.push((), "a", 2, FAR);
    lanes.push((), "a", 3, FAR);
    let (a, _) = lanes.take_next().unwrap();
    assert!(!lanes.remove(2, FAR), "under way");
    lanes.later(&a, at(5));
    assert!(lanes.remove(2, FAR));
    assert_eq!(lanes.take_next().unwrap().1, 3);
}

#[test]
fn nothing_is_left_behind() {
    let mut lanes = Lanes::default();
    for seq in 0..100 {
        lanes.push((), seq % 7, seq, at(seq));
    }
    while lanes.expired(at(49)).is_some() {}
    while let Some((key, _)) = lanes.take_next() {
        lanes.done(&key);
    }
    assert!(is_empty(&lanes));
}

/// The numbers of the next calls, each of which is done at once.
fn calls<C: Copy + Ord + Hash, K: Eq + Hash>(lanes: &mut Lanes<C, K>, n: usize) -> Vec<u64> {
    std::iter::from_fn(|| {
        let (key, seq) = lanes.take_next()?;
        lanes.done(&key);
        Some(seq)
    })
    .take(n)
    .collect()
}

#[test]
fn a_flood_to_thousands_of_receivers_delays_no_other_client() {
    let mut lanes = Lanes::default();
    for seq in 1..=5000 {
        lanes.push("flooder", seq, seq, FAR);
    }
    assert_eq!(calls(&mut lanes, 2), [1, 2]);
    lanes.push("other", 1_000_000, 5001, FAR);
    lanes.push("other", 1_000_001, 5002, FAR);
    assert_eq!(calls(&mut lanes, 4), [3, 5001, 4, 5002]);
}

#[test]
fn a_flood_to_one_receiver_gives_way_to_another_clients_command_to_it() {
    let mut lanes = Lanes::default();
    for seq in 1..=5000 {
        lanes.push("flooder", "owner", seq, FAR);
    }
    lanes.push("alarm", "owner", 5001, FAR);
    lanes.push("alarm", "owner", 5002, FAR);
    let order = calls(&mut lanes, 18);
    assert_eq!(order[..9], [1, 2, 3, 4, 5, 6, 7, 8, 5001]);
    assert_eq!(order[9..], [9, 10, 11, 12, 13, 14, 15, 16, 5002]);
}

#[test]
fn clients_that_take_turns_are_served_in_the_order_in_which_they_came() {
    let mut lanes = Lanes::default();
    for seq in 1..=30 {
        lanes.push(if seq % 3 == 0 { "lamp" } else { "nobody" }, "owner", seq, FAR);
    }
    assert_eq!(calls(&mut lanes, 30), (1..=30).collect::<Vec<u64>>());
}

#[test]
fn a_lane_whose_head_expired_stands_in_the_line_of_the_next_commands_client() {
    let mut lanes = Lanes::default();
    lanes.push("a", "x", 1, at(1));
    lanes.push("b", "x", 2, FAR);
    lanes.push("a", "y", 3, FAR);
    assert_eq!(lanes.expired(at(1)), Some(1));
    assert_eq!(calls(&mut lanes, 9), [3, 2]);
    assert!(is_empty(&lanes));
}

#[derive(Debug, Clone)]
enum Act {
    Push { client: u8, receiver: u8, life: u64 },
    Take,
    Done(usize),
    Later(usize),
    Pass(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        // The first client floods.
        4 => (0..60_u8, 1..60_u64).prop_map(|(receiver, life)| Act::Push { client: 0, receiver, life }),
        2 => (0..4_u8, 0..6_u8, 1..60_u64).prop_map(|(client, receiver, life)| Act::Push { client, receiver, life }),
        4 => Just(Act::Take),
        3 => (0..8_usize).prop_map(Act::Done),
        1 => (0..8_usize).prop_map(Act::Later),
        1 => (0..9_u64).prop_map(Act::Pass),
    ];
    proptest::collection::vec(act, 1..400)
}

proptest! {
    #[test]
    fn nobody_waits_longer_than_a_turn_of_each_other_client_and_nothing_is_lost(acts in acts()) {
        let mut lanes = Lanes::default();
        let mut now = Duration::ZERO;
        let mut pushed = Vec::new();
        let (mut busy, mut out) = (Vec::new(), HashSet::new());
        // Calls of others since the client was ready and not called.
        let mut waited = HashMap::<u8, usize>::new();
        for act in acts {
            match act {
                Act::Push { client, receiver, life } => {
                    let seq = pushed.len() as u64 + 1;
                    pushed.push((client, receiver));
                    lanes.push(client, receiver, seq, now + at(life));
                }
                Act::Take => if let Some((key, seq)) = lanes.take_next() {
                    let of = |seq: u64| pushed[usize::try_from(seq).unwrap() - 1];
                    let (client, receiver) = of(seq);
                    prop_assert_eq!(*key, receiver);
                    prop_assert!(!out.contains(&seq));
                    // What the same client sent to the same receiver before is gone already.
                    let mut earlier = (1..seq).filter(|seq| of(*seq) == (client, receiver));
                    prop_assert!(earlier.all(|seq| out.contains(&seq)), "out of order");
                    busy.push((key, seq));
                    waited.remove(&client);
                    for name in lanes.clients.keys() {
                        if *name != client && lanes.first_ready(*name).is_some() {
                            let waited = waited.entry(*name).or_default();
                            *waited += 1;
                            prop_assert!(*waited <= 3, "client {} waited for {} calls", name, waited);
                        }
                    }
                },
                Act::Done(n) if !busy.is_empty() => {
                    let (key, seq) = busy.remove(n % busy.len());
                    lanes.done(&key);
                    out.insert(seq);
                }
                Act::Later(n) if !busy.is_empty() => {
                    let (key, _) = busy.remove(n % busy.len());
                    lanes.later(&key, now + at(3));
                }
                Act::Pass(seconds) => {
                    now += at(seconds);
                    while let Some(seq) = lanes.expired(now) {
                        prop_assert!(out.insert(seq));
                    }
                    lanes.wake(now);
                    // Lanes may have left the line and joined it again.
                    waited.clear();
                }
                Act::Done(_) | Act::Later(_) => {}
            }
            // A client without a ready lane waits for nothing that is another's.
            waited.retain(|name, _| lanes.first_ready(*name).is_some());
        }
        for (key, seq) in busy {
            lanes.done(&key);
            out.insert(seq);
        }
        while let Some(seq) = lanes.expired(Duration::MAX / 2) {
            prop_assert!(out.insert(seq));
        }
        prop_assert_eq!(out.len(), pushed.len());
        prop_assert!(is_empty(&lanes));
    }
}
