use super::*;

const OPEN: [Setting; 5] = [const { Setting::Open }; 5];

fn one(turn: u64) -> Setting {
    Setting::One { turn, cause: "in doubt".into() }
}

#[test]
fn one_place_is_taken_once_and_is_free_again_unless_the_task_has_moved_on() {
    let keeper = Arc::new(Keeper::new("starting"));
    let doors = keeper.doors();
    assert!(!doors.any() && keeper.enter(Endpoint::SendMsg).is_err_and(|cause| &*cause == "starting"));
    let mut each = OPEN;
    each[Endpoint::SendMsg.index()] = one(1);
    keeper.set(Setting::Open, each.clone());
    assert_eq!((doors.at(Endpoint::SendMsg), doors.at(Endpoint::HamTopic)), (Door::One, Door::Open));
    let pass = keeper.enter(Endpoint::SendMsg).unwrap();
    assert!(pass.is_single() && keeper.enter(Endpoint::SendMsg).is_err_and(|cause| &*cause == "in doubt"));
    assert_eq!(doors.at(Endpoint::SendMsg), Door::Closed);
    assert!(!keeper.enter(Endpoint::HamTopic).unwrap().is_single());
    drop(pass);
    assert_eq!(doors.at(Endpoint::SendMsg), Door::One);
    let late = keeper.enter(Endpoint::SendMsg).unwrap();
    each[Endpoint::SendMsg.index()] = one(2);
    keeper.set(Setting::Open, each);
    let next = keeper.enter(Endpoint::SendMsg).unwrap();
    drop(late);
    assert_eq!(doors.at(Endpoint::SendMsg), Door::Closed, "the place of the second turn is taken still");
    drop(next);
}

#[test]
fn one_for_all_endpoints_together() {
    let keeper = Arc::new(Keeper::new("starting"));
    keeper.set(one(1), OPEN);
    let pass = keeper.enter(Endpoint::HamUser).unwrap();
    assert!(!keeper.doors().any());
    drop(pass);
    assert!(Endpoint::ALL.iter().all(|endpoint| keeper.doors().at(*endpoint) == Door::One));
}

/// Who may call, of those who want to.
fn let_in(keeper: &Keeper) -> Vec<Endpoint> {
    Endpoint::ALL.into_iter().filter(|endpoint| keeper.doors().at(*endpoint) == Door::One).collect()
}

#[test]
fn at_the_door_for_all_the_endpoints_that_wait_take_turns() {
    let keeper = Arc::new(Keeper::new("starting"));
    let three = [Endpoint::SendMsg, Endpoint::HamTopic, Endpoint::HamUser];
    for turn in 1..10 {
        for endpoint in three {
            assert!(keeper.enter(endpoint).is_err(), "closed to all");
        }
        keeper.set(one(turn), OPEN);
        let whose = three[usize::try_from(turn - 1).unwrap() % 3];
        assert_eq!(let_in(&keeper), [whose]);
        drop(keeper.enter(whose).unwrap());
        assert_eq!(let_in(&keeper).len(), 5, "it has had its turn");
        keeper.set(Setting::Closed { cause: "busy".into() }, OPEN);
    }
}

#[test]
fn who_does_not_come_is_passed_over_and_nobody_waits_at_an_open_door() {
    let keeper = Arc::new(Keeper::new("starting"));
    for endpoint in [Endpoint::HamGroup, Endpoint::HamUser] {
        assert!(keeper.enter(endpoint).is_err());
    }
    let turns = [vec![Endpoint::HamGroup], vec![Endpoint::HamUser], Endpoint::ALL.to_vec()];
    for (turn, whose) in (1..).zip(turns) {
        keeper.set(one(turn), OPEN);
        assert_eq!(let_in(&keeper), whose);
    }
    let pass = keeper.enter(Endpoint::SendMsg).unwrap();
    assert!(keeper.enter(Endpoint::HamUser).is_err());
    drop(pass);
    keeper.set(Setting::Open, OPEN);
    keeper.set(one(4), OPEN);
    assert_eq!(let_in(&keeper), Endpoint::ALL);
}

#[tokio::test]
async fn an_end_is_never_readiness() {
    let keeper = Arc::new(Keeper::new("starting"));
    keeper.set(Setting::Open, OPEN);
    let mut doors = keeper.doors();
    doors.wait(Table::all_open).await;
    keeper.end();
    assert!(!doors.any());
    let never = std::time::Duration::from_millis(20);
    assert!(tokio::time::timeout(never, doors.changed()).await.is_err());
    assert!(tokio::time::timeout(never, doors.wait(Table::all_open)).await.is_err());
    assert!(keeper.enter(Endpoint::SendMsg).is_ok(), "a call is tried with what was known last");
}
