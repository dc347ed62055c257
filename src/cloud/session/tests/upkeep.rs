//! The configured subscriptions and the reading of presence.

use super::*;
use crate::protocol::{Qos, Subject, Uid};

fn topic(subject: &str) -> (Subject, Qos) {
    (subject.parse().unwrap(), Qos::AtLeastOnce)
}

fn uid(uid: &str) -> Uid {
    uid.parse().unwrap()
}

/// Lets everything that is due happen.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// Calls about topics and presence since the last look: `+subject`, `-subject`, `+[uids]`, `-[uids]`, `?[uids]`.
fn kept(world: &World) -> Vec<String> {
    let mut inner = world.service.0.lock().unwrap();
    let told = inner.calls.iter().filter_map(|(_, name, _, body)| {
        let sign = |on: bool| if on { '+' } else { '-' };
        match (name.as_str(), body["action_type"].as_i64()) {
            ("ham_topic", _) => Some(format!("{}{}", sign(body["type"] == 1), body["subject"].as_str().unwrap())),
            ("ham_user", Some(1)) => Some(format!("?{}", body["uid_list"])),
            ("ham_user", _) => Some(format!("{}{}", sign(body["type"] == 1), body["uid_list"])),
            _ => None,
        }
    });
    let told = told.collect();
    inner.calls.clear();
    told
}

fn configured(mut world: World) -> World {
    world.config.topics = vec![topic("home/a"), topic("home/b")];
    world.config.presence = vec![uid("1"), uid("2")];
    world
}

fn states() -> Answer {
    let mut reply = code(0)?;
    let list = json!([{"uid": "1", "state": 1}, {"uid ": 2, " state": "0"}, {"uid": "3"}]);
    reply.extra.insert("uid_state_list".to_owned(), list);
    Ok(reply)
}

const ALL: [&str; 4] = ["+home/a", "+home/b", r#"+["1","2"]"#, r#"?["1","2"]"#];

#[tokio::test(start_paused = true)]
async fn subscriptions_are_made_after_a_registration_and_recorded() {
    let world = configured(World::new());
    let running = world.ready().await;
    settle().await;
    assert_eq!(kept(&world), ALL);
    running.stop().await;
    // Known to be subscribed: only presence is read.
    let running = world.ready().await;
    settle().await;
    assert_eq!(kept(&world), [r#"?["1","2"]"#]);
    // A registration may have ended them.
    running.session.register().await.unwrap();
    settle().await;
    assert_eq!(kept(&world), ALL);
}

#[tokio::test(start_paused = true)]
async fn what_was_removed_from_the_configuration_is_ended() {
    let mut world = configured(World::new());
    world.ready().await;
    settle().await;
    kept(&world);
    world.config.topics = vec![topic("home/b"), (topic("home/c").0, Qos::ExactlyOnce)];
    world.config.presence = vec![uid("2"), uid("3")];
    let running = world.ready().await;
    settle().await;
    assert_eq!(kept(&world), ["-home/a", "+home/c", r#"-["1"]"#, r#"+["3"]"#, r#"?["2","3"]"#]);
    running.session.reconfigure(vec![topic("home/b")], vec![uid("3")], URL.into()).await;
    settle().await;
    assert_eq!(kept(&world), ["-home/c", r#"-["2"]"#, r#"?["3"]"#]);
    running.session.reconfigure(Vec::new(), Vec::new(), URL.into()).await;
    settle().await;
    assert_eq!(kept(&world), ["-home/b", r#"-["3"]"#]);
}

#[tokio::test(start_paused = true)]
async fn presence_is_told_after_each_registration_and_return() {
    let mut world = World::registered();
    world.config.presence = vec![uid("1"), uid("2")];
    world.service.always("ham_user", states());
    let running = world.ready().await;
    let mut told = running.session.presence_states();
    told.changed().await.unwrap();
    assert_eq!(*told.borrow_and_update(), [(uid("1"), true), (uid("2"), false)]);
    world.service.next("send_msg", [unsent()]).next("ham_user", [unsent(), states()]);
    let _ = running.send().await;
    told.changed().await.unwrap();
    assert_eq!(told.borrow_and_update().len(), 2);
    running.session.register().await.unwrap();
    told.changed().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_ilink_refuses_is_left_and_the_rest_is_done() {
    let world = configured(World::new());
    // The second topic; the batch of uids; the first uid alone.
    world.service.next("ham_topic", [code(0), code(1011)]).next("ham_user", [code(1001), code(1001)]);
    let running = world.ready().await;
    settle().await;
    let expected = ["+home/a", "+home/b", r#"+["1","2"]"#, r#"+["1"]"#, r#"+["2"]"#, r#"?["1","2"]"#];
    assert_eq!(kept(&world), expected);
    tokio::time::sleep(HOUR).await;
    assert!(kept(&world).is_empty());
    running.stop().await;
    // Tried again by the next run, that alone.
    world.ready().await;
    settle().await;
    assert_eq!(kept(&world), ["+home/b", r#"+["1"]"#, r#"?["1","2"]"#]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_always_refused_keeps_no_other_out() {
    let world = configured(World::new());
    world.service.always("ham_topic", code(1008));
    let running = world.ready().await;
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert!(kept(&world).iter().any(|call| call == r#"+["1","2"]"#), "presence is subscribed nevertheless");
    assert_eq!(replied(&running.send().await), 0);
    world.service.forget("ham_topic");
    tokio::time::sleep(HOUR).await;
    let kept = kept(&world);
    assert!(kept.iter().any(|call| call == "+home/a") && kept.iter().any(|call| call == "+home/b"), "{kept:?}");
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_upkeep_goes_on_where_it_stopped() {
    let world = configured(World::new());
    world.service.next("ham_topic", [code(0), code(1016), code(1016)]);
    let _running = world.ready().await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(kept(&world), ["+home/a", "+home/b", "+home/b", "+home/b", r#"+["1","2"]"#, r#"?["1","2"]"#]);
}
