//! Shows, at every start, that the accounting can fail: a good run in miniature, and then one wrong thing at a time.

use super::{Rule, account};
use crate::load;
use crate::records::{
    Call, Command, Connection, Delivery, Life, Outcome, Place, Publish, Push, Records, Reply, SECOND, Time, Try,
};

fn reply(code: i64, at: Time) -> Reply {
    Reply { code, handed_on: Some(at) }
}

fn publish(place: Place, label: &str, id: &str, at: Time) -> Publish {
    Publish {
        connection: 0,
        at,
        place,
        topic: format!("ilink/{place:?}/{label}"),
        id: id.to_owned(),
        label: label.to_owned(),
        late: false,
        result: None,
        acked: Some(reply(0, at + 1)),
    }
}

fn result(label: &str, id: &str, status: &str, code: Option<i64>, at: Time) -> Publish {
    let result = Some(Outcome { status: status.to_owned(), code, attempts: 1 });
    Publish { result, ..publish(Place::Result, label, id, at) }
}

/// Two pushes and two commands, each as it should be, long before the end of the only run of the process.
fn good() -> Records {
    let mut records = Records {
        lives: vec![Life { ended: Some(100 * SECOND), ..Life::default() }],
        connections: vec![Connection { member: 0, opened: 1, closed: Some(100 * SECOND), session_present: Some(true) }],
        ..Records::default()
    };
    for (number, at) in [(0, 10 * SECOND), (1, 20 * SECOND)] {
        let (push, command) = (format!("p0:{number}"), format!("c2:{number}"));
        let made = Try { member: 0, at, ended: at + 5, answer: Some((200, Some(0))), may_be_answered: true };
        records.pushes.push(Push { label: push.clone(), lane: 0, tries: vec![made] });
        let id = format!("push-{number}");
        records.publishes.push(publish(Place::Recv, &push, &id, at + 10));
        records.publishes.push(publish(Place::Event, &push, &id, at + 11));
        records.received.insert(id);
        records.commands.push(Command { label: command.clone(), lane: 2, sent: at, taken: true });
        let (handed_on, acked) = (Some(at + 21), Some(at + 22));
        let pkid = u16::try_from(number).unwrap() + 1;
        let label = command.clone();
        records.deliveries.push(Delivery { connection: 0, at: at + 20, pkid, dup: false, label, handed_on, acked });
        let (path, label) = ("send_msg".to_owned(), command.clone());
        let answer = Some(reply(0, at + 40));
        records.calls.push(Call { member: 0, at: at + 30, path, label, handed_on: Some(at + 31), answer });
        records.publishes.push(result(&command, &format!("command-{number}"), "ok", Some(0), at + 50));
    }
    records
}

/// Must break exactly this rule.
fn finds(rule: Rule, spoil: impl FnOnce(&mut Records)) {
    let mut records = good();
    spoil(&mut records);
    let verdict = account(&records);
    assert!(verdict.count(rule) > 0, "the accounting does not find {rule:?}");
    let others: Vec<_> = verdict.violations.iter().filter(|violation| violation.rule != rule).collect();
    assert!(others.is_empty(), "besides {rule:?} the accounting finds {others:?}");
}

fn allows(what: &str, change: impl FnOnce(&mut Records)) {
    let mut records = good();
    change(&mut records);
    let verdict = account(&records);
    assert!(verdict.violations.is_empty(), "{what}: the accounting finds {:?}", verdict.violations);
}

fn publish_of<'a>(records: &'a mut Records, label: &str, place: Place) -> &'a mut Publish {
    let it = |publish: &&mut Publish| publish.label == label && publish.place == place;
    records.publishes.iter_mut().find(it).expect("it is there")
}

pub(crate) fn self_check() {
    allows("a good run", |_| {});
    pushes();
    commands();
    allows("what waits in the spool is not lost", |records| {
        records.publishes.retain(|publish| publish.label != "p0:1" && publish.label != "c2:1");
        records.spooled = vec!["p0:1".to_owned(), "c2:1".to_owned()];
    });
    finds(Rule::TooFast, |records| {
        let opened =
            |n| Connection { member: 0, opened: 50 * SECOND + n, closed: Some(50 * SECOND + n), session_present: None };
        records.connections.extend((0..100).map(opened));
    });
    finds(Rule::TooFast, |records| {
        let call = Call { path: "get_access_token".to_owned(), label: String::new(), ..records.calls[0].clone() };
        records.calls.extend(std::iter::repeat_n(call, 40));
    });
    leaders();
    copies();
    finds(Rule::Incident, |records| records.incidents.push("it ended".to_owned()));
}

/// Member 0 leads until so long after the last command was sent; then member 1 leads, and publishes its result.
fn handed_over(records: &mut Records, after: Time) {
    let at = 20 * SECOND + after;
    let first = Life { ended: Some(at), ..Life::default() };
    records.lives = vec![first, Life { member: 1, started: at, ..Life::default() }];
    records.connections.push(Connection { member: 1, opened: at, ..Connection::default() });
    let last = records.publishes.last_mut().unwrap();
    (last.connection, last.at, last.acked) = (1, at + 10, Some(reply(0, at + 11)));
}

/// The last command is called once more, by member 1, after that has published.
fn called_by_the_next(records: &mut Records) {
    let at = records.publishes.last().unwrap().at + 1;
    let again = Call { member: 1, at, answer: Some(reply(0, at + 1)), ..records.calls[1].clone() };
    records.calls.push(again);
}

fn leaders() {
    allows("one leads after the other", |records| handed_over(records, 10 * SECOND));
    finds(Rule::TwoLed, |records| handed_over(records, 12));
    finds(Rule::DuplicateCall, |records| {
        handed_over(records, 10 * SECOND);
        called_by_the_next(records);
    });
    allows("a leader that is killed has not noted what it was told just before", |records| {
        handed_over(records, SECOND);
        called_by_the_next(records);
    });
    allows("nor has one that did not reach etcd", |records| {
        handed_over(records, 10 * SECOND);
        called_by_the_next(records);
        records.hiccups.push((20 * SECOND, 29 * SECOND));
    });
    finds(Rule::DuplicatePush, taken_by_two);
    allows("a member that is killed may have been about to answer", |records| {
        taken_by_two(records);
        records.kills.push((1, 10 * SECOND + 1));
    });
    allows("a member that did not reach etcd stores late", |records| {
        taken_by_two(records);
        records.hiccups.push((9 * SECOND, 11 * SECOND));
        records.is_cluster = true;
    });
}

/// In a cluster, a push is published once more under its id, behind the next one.
fn copied(records: &mut Records, label: &str) {
    records.is_cluster = true;
    let again = Publish { at: 60 * SECOND, ..publish_of(records, label, Place::Event).clone() };
    records.publishes.push(again);
}

fn copies() {
    let unanswered = |records: &mut Records, may_be_answered: bool| {
        let unanswered = Try { answer: None, may_be_answered, ..records.pushes[1].tries[0].clone() };
        records.pushes[1].tries.insert(0, Try { member: 1, ..unanswered });
    };
    finds(Rule::DuplicatePublish, |records| {
        copied(records, "p0:1");
        unanswered(records, true);
    });
    let once = |records: &mut Records| {
        copied(records, "p0:1");
        unanswered(records, false);
        records.kills.push((1, 20 * SECOND + 1));
    };
    allows("what a killed member may have answered comes once more", once);
    finds(Rule::DuplicatePublish, |records| {
        once(records);
        copied(records, "p0:1");
    });
    let again_by_the_next = |records: &mut Records, times: u64| {
        once(records);
        let copy = records.publishes.last_mut().unwrap();
        (copy.at, copy.acked) = (20 * SECOND + SECOND / 2, Some(reply(0, 20 * SECOND + SECOND / 2 + 1)));
        let at = 21 * SECOND;
        records.lives =
            vec![Life { ended: Some(at), ..Life::default() }, Life { member: 1, started: at, ..Life::default() }];
        records.connections.push(Connection { member: 1, opened: at, ..Connection::default() });
        for n in 0..times {
            let again = publish_of(records, "p0:1", Place::Event).clone();
            records.publishes.push(Publish { connection: 1, at: 30 * SECOND + n, ..again });
        }
    };
    allows("the next leader publishes both again, if they were not complete", |records| again_by_the_next(records, 2));
    finds(Rule::DuplicatePublish, |records| again_by_the_next(records, 3));
    allows("it comes behind what was sent meanwhile", |records| {
        copied(records, "p0:0");
        let unanswered = Try { answer: None, may_be_answered: false, ..records.pushes[0].tries[0].clone() };
        records.pushes[0].tries.insert(0, Try { member: 1, ..unanswered });
        records.kills.push((1, 10 * SECOND + 1));
    });
    let identical = |records: &mut Records| {
        let identical = |push: &Push| Push { label: "p7:0".to_owned(), lane: load::IDENTICAL, ..push.clone() };
        let two: Vec<_> = records.pushes.iter().map(identical).collect();
        records.pushes.extend(two);
        records.publishes.push(publish(Place::Event, "p7:0", "only-one", 30 * SECOND));
        records.received.insert("only-one".to_owned());
    };
    finds(Rule::LostPush, identical);
    let killed = |records: &mut Records| {
        identical(records);
        records.is_cluster = true;
        records.kills.push((0, 10 * SECOND + 6));
    };
    finds(Rule::LostPush, killed);
    allows("the same bytes right after their member was killed come under the same id", |records| {
        killed(records);
        copied(records, "p7:0");
    });
}

/// The first push is tried at two members and stored by both, by the second behind the next one.
fn taken_by_two(records: &mut Records) {
    let unanswered = Try { answer: None, may_be_answered: false, ..records.pushes[0].tries[0].clone() };
    records.pushes[0].tries.insert(0, Try { member: 1, ..unanswered });
    let again = publish(Place::Event, "p0:0", "push-0-again", 30 * SECOND);
    records.received.insert(again.id.clone());
    records.publishes.push(again);
}

fn pushes() {
    finds(Rule::LostPush, |records| publish_of(records, "p0:1", Place::Event).acked = None);
    finds(Rule::LostPush, |records| publish_of(records, "p0:1", Place::Event).acked = Some(reply(0x87, 1)));
    finds(Rule::LostCopy, |records| publish_of(records, "p0:1", Place::Recv).acked = None);
    finds(Rule::ReorderedPush, |records| records.publishes.swap(1, 4));
    finds(Rule::Refused, |records| records.pushes[0].tries[0].answer = Some((404, None)));
    let again = |records: &mut Records| {
        let event = publish(Place::Event, "p0:1", "push-1-again", 30 * SECOND);
        records.received.insert(event.id.clone());
        records.publishes.push(event);
    };
    finds(Rule::DuplicatePush, again);
    allows("a push whose answer did not arrive is a new one", |records| {
        again(records);
        let lost = Try { answer: None, ..records.pushes[1].tries[0].clone() };
        records.pushes[1].tries.insert(0, lost);
    });
    let repeat = |records: &mut Records| {
        let repeated = Publish { at: 60 * SECOND, ..publish_of(records, "p0:1", Place::Event).clone() };
        records.publishes.push(repeated);
    };
    finds(Rule::DuplicatePublish, repeat);
    let after_a_stop = |records: &mut Records, asked: Time| {
        repeat(records);
        let stopped = Life { asked: Some(asked), ended: Some(50 * SECOND), ..Life::default() };
        records.lives = vec![stopped, Life { started: 51 * SECOND, ..Life::default() }];
    };
    finds(Rule::DuplicatePublish, |records| after_a_stop(records, 30 * SECOND));
    allows("a run that is stopping does not wait for a PUBACK for ever", |records| {
        after_a_stop(records, 19 * SECOND);
    });
    allows("a publish without PUBACK is repeated on the next connection", |records| {
        repeat(records);
        let last = records.publishes.last_mut().unwrap();
        last.connection = 1;
        publish_of(records, "p0:1", Place::Event).acked = None;
        records.connections.push(Connection { opened: 50 * SECOND, ..Connection::default() });
    });
    finds(Rule::ReorderedPush, refused_once);
    let all_again = |records: &mut Records| {
        refused_once(records);
        for place in [Place::Recv, Place::Event] {
            let again = Publish { at: 41 * SECOND, ..publish_of(records, "p0:1", place).clone() };
            records.publishes.push(again);
        }
    };
    allows("one is refused for now, and what is behind it comes again behind it", all_again);
    let two_runs = |records: &mut Records| {
        let first = Life { ended: Some(35 * SECOND), ..Life::default() };
        records.lives = vec![first, Life { started: 36 * SECOND, ..Life::default() }];
    };
    allows("the same in the next run", |records| {
        all_again(records);
        two_runs(records);
    });
    finds(Rule::DuplicatePublish, |records| {
        all_again(records);
        two_runs(records);
        records.publishes.retain(|publish| publish.label != "p0:0" || publish.at != 40 * SECOND);
        publish_of(records, "p0:0", Place::Recv).acked = Some(reply(0, 11 * SECOND));
    });
}

/// The raw copy of the first push is refused for now, and sent again after the second.
fn refused_once(records: &mut Records) {
    let refused = publish_of(records, "p0:0", Place::Recv);
    let again = Publish { at: 40 * SECOND, acked: Some(reply(0, 40 * SECOND + 1)), ..refused.clone() };
    refused.acked = Some(reply(0x80, 11 * SECOND));
    records.publishes.push(again);
}

fn commands() {
    finds(Rule::LostCommand, |records| publish_of(records, "c2:1", Place::Result).acked = None);
    finds(Rule::LostCommand, |records| records.publishes.retain(|publish| publish.label != "c2:1"));
    finds(Rule::LostCommand, |records| {
        records.commands.push(Command { label: "c2:2".to_owned(), lane: 2, sent: 30 * SECOND, taken: true });
    });
    finds(Rule::SecondResult, |records| {
        records.publishes.push(result("c2:1", "another", "ok", Some(0), 30 * SECOND));
    });
    finds(Rule::WrongResult, |records| records.calls.retain(|call| call.label != "c2:1"));
    for status in ["error", "expired", "uncertain", "rejected", "perhaps"] {
        finds(Rule::WrongResult, |records| {
            let outcome = publish_of(records, "c2:1", Place::Result).result.as_mut().unwrap();
            status.clone_into(&mut outcome.status);
        });
    }
    finds(Rule::WrongResult, |records| {
        records.calls[1].answer = Some(reply(1013, 20 * SECOND + 40));
        let outcome = publish_of(records, "c2:1", Place::Result).result.as_mut().unwrap();
        (outcome.status, outcome.code) = ("error".to_owned(), Some(1014));
    });
    finds(Rule::DuplicateCall, |records| {
        let again = Call { at: 21 * SECOND, ..records.calls[1].clone() };
        records.calls.push(again);
    });
    allows("a call whose answer did not arrive is repeated", |records| {
        let again = Call { at: 21 * SECOND, answer: Some(reply(0, 21 * SECOND + 10)), ..records.calls[1].clone() };
        records.calls.push(again);
        records.calls[1].answer.as_mut().unwrap().handed_on = None;
    });
    allows("a command whose leader lost the leadership right before the call is uncertain", |records| {
        handed_over(records, SECOND);
        records.calls.retain(|call| call.label != "c2:1");
        // Its end was noticed after the next one had published.
        records.lives[0].ended = Some(records.publishes.last().unwrap().at + 1);
        let outcome = publish_of(records, "c2:1", Place::Result).result.as_mut().unwrap();
        (outcome.status, outcome.code) = ("uncertain".to_owned(), None);
        for label in [&mut records.deliveries[1].label, &mut records.commands[1].label] {
            "c8:1".clone_into(label);
        }
        records.commands[1].lane = load::CREATE;
        "c8:1".clone_into(&mut publish_of(records, "c2:1", Place::Result).label);
    });
    let refused_again = |records: &mut Records, times: usize| {
        let outcome = publish_of(records, "c2:1", Place::Result).result.as_mut().unwrap();
        (outcome.status, outcome.code) = ("rejected".to_owned(), None);
        records.calls.retain(|call| call.label != "c2:1");
        records.commands[1].lane = load::BAD;
        for label in [&mut records.deliveries[1].label, &mut records.commands[1].label] {
            "c10:1".clone_into(label);
        }
        "c10:1".clone_into(&mut publish_of(records, "c2:1", Place::Result).label);
        for at in [31, 32] {
            // It bears no label.
            records.publishes.push(publish(Place::Ack, "", "command-1", at * SECOND));
        }
        let again = records.deliveries[1].clone();
        records.deliveries.extend(std::iter::repeat_n(again, times));
    };
    finds(Rule::DuplicatePublish, |records| refused_again(records, 0));
    allows("what the broker delivers again is refused again, in every form", |records| refused_again(records, 1));
    finds(Rule::ReorderedCommand, |records| {
        records.calls[0].at = 70 * SECOND;
        records.calls[0].answer = Some(reply(0, 70 * SECOND + 10));
    });
    finds(Rule::DuplicateCall, |records| {
        // One that must not be repeated was, although no answer had come.
        for label in [&mut records.deliveries[1].label, &mut records.commands[1].label, &mut records.calls[1].label] {
            "c8:1".clone_into(label);
        }
        records.commands[1].lane = load::CREATE;
        "c8:1".clone_into(&mut publish_of(records, "c2:1", Place::Result).label);
        records.calls[1].answer = None;
        let again = Call { at: 21 * SECOND, answer: Some(reply(0, 21 * SECOND + 10)), ..records.calls[1].clone() };
        records.calls.push(again);
    });
}
