//! What is wanted changes while a call is on its way: its reply is about what was asked for, not about what is wanted by now.

use super::*;
use crate::protocol::{Qos, Subject, Uid};

const NEW: &str = "https://new.example/path-s3cret";

fn topic(subject: &str) -> (Subject, Qos) {
    (subject.parse().unwrap(), Qos::AtLeastOnce)
}

fn uid(uid: &str) -> Uid {
    uid.parse().unwrap()
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// The URLs of a call, so far.
fn urls(world: &World, call: &str) -> Vec<String> {
    world.service.bodies(call).iter().map(|body| body["url"].as_str().unwrap().to_owned()).collect()
}

impl World {
    /// A reload while `call` is on its way; whatever comes of that has come when this returns.
    async fn reload_during(
        &self,
        running: &Running,
        call: &'static str,
        topics: &[&str],
        presence: &[&str],
        url: &str,
    ) {
        let (topics, presence) = (topics.iter().map(|it| topic(it)), presence.iter().map(|it| uid(it)));
        self.service.hold(call);
        self.service.held(call).await;
        running.session.reconfigure(topics.collect(), presence.collect(), url.into()).await;
        seconds(1).await;
        self.service.let_go(call);
        seconds(5).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_registration_of_the_old_url_leaves_the_new_one_to_be_registered() {
    let world = World::new();
    let running = world.start();
    world.reload_during(&running, "register", &[], &[], NEW).await;
    assert_eq!(urls(&world, "register"), [URL, NEW]);
    assert!(world.record.confirmed(&NEW.into(), &"handshakes3cret".into()));
    running.state(CloudState::Online).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_the_old_url_does_not_keep_the_new_one_waiting() {
    for answer in [code(1005), code(1006), ambiguous()] {
        let world = World::new();
        world.service.next("register", [answer]);
        let running = world.start();
        world.reload_during(&running, "register", &[], &[], NEW).await;
        assert_eq!(urls(&world, "register"), [URL, NEW]);
        running.state(CloudState::Online).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_url_is_tried_at_once_where_the_old_one_was_malformed() {
    let world = World::new();
    world.service.next("register", [code(1005)]);
    let running = world.start();
    running.state(CloudState::AuthError).await;
    running.session.reconfigure(Vec::new(), Vec::new(), NEW.into()).await;
    seconds(5).await;
    assert_eq!(urls(&world, "register"), [URL, NEW]);
    running.state(CloudState::Online).await;
}

#[tokio::test(start_paused = true)]
async fn a_query_does_not_fulfil_the_wish_to_register() {
    // What it says of the old URL, also that it cannot say it; at a start, and when the registration is verified.
    for answer in [code(0), code(1010), code(1016), code(1006), code(1005)] {
        for verify in [false, true] {
            let mut world = World::registered();
            if verify {
                world.config.verify_every = HOUR;
            }
            let running = if verify { world.ready().await } else { world.start() };
            world.service.next("query", [answer.clone()]);
            if verify {
                seconds(3590).await;
            }
            world.reload_during(&running, "query", &[], &[], NEW).await;
            seconds(20).await;
            assert_eq!(urls(&world, "register"), [NEW], "{answer:?} {verify}");
            assert_eq!(urls(&world, "query").last().map(String::as_str), Some(URL), "{answer:?} {verify}");
            running.state(CloudState::Online).await;
        }
    }
    // And of the new one, while it waits to be registered again.
    let world = World::registered();
    world.service.next("register", [code(1006)]);
    let running = world.ready().await;
    running.session.reconfigure(Vec::new(), Vec::new(), NEW.into()).await;
    running.state(CloudState::Degraded).await;
    assert!(running.session.query().await.unwrap().code.is_ok());
    seconds(60).await;
    assert_eq!(urls(&world, "register"), [NEW, NEW]);
    running.state(CloudState::Online).await;
}

#[tokio::test(start_paused = true)]
async fn an_operator_is_not_told_of_the_old_url_as_if_it_were_the_new_one() {
    let world = World::registered();
    let running = world.ready().await;
    for call in ["register", "query"] {
        let session = running.session.clone();
        world.service.hold(call);
        let asked =
            tokio::spawn(
                async move { if call == "register" { session.register().await } else { session.query().await } },
            );
        let url = if call == "register" { NEW } else { URL };
        world.reload_during(&running, call, &[], &[], url).await;
        let answer = asked.await.unwrap().unwrap_err();
        assert!(answer.contains("changed meanwhile"), "{answer}");
    }
    assert_eq!(urls(&world, "register"), [URL, NEW, URL]);
    assert!(running.session.register().await.unwrap().code.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_dropped_while_it_is_subscribed_is_ended() {
    let mut world = World::registered();
    world.config.topics = vec![topic("home/a")];
    let running = world.ready().await;
    world.reload_during(&running, "ham_topic", &[], &[], URL).await;
    let types: Vec<_> = world.service.bodies("ham_topic").iter().map(|body| body["type"].clone()).collect();
    assert_eq!(types, [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_about_which_a_call_was_lost_is_in_doubt() {
    // Nobody knows whether it is subscribed: to be ended when it is dropped, to be made when it is wanted.
    let mut world = World::registered();
    world.config.topics = vec![topic("home/a")];
    world.service.next("ham_topic", [ambiguous()]);
    let running = world.ready().await;
    world.reload_during(&running, "ham_topic", &[], &[], URL).await;
    world.service.next("ham_topic", [ambiguous()]);
    running.session.reconfigure(vec![topic("home/b")], Vec::new(), URL.into()).await;
    seconds(60).await;
    world.service.next("ham_topic", [ambiguous()]);
    world.service.hold("ham_topic");
    running.session.reconfigure(Vec::new(), Vec::new(), URL.into()).await;
    world.reload_during(&running, "ham_topic", &["home/b"], &[], URL).await;
    seconds(60).await;
    let told: Vec<_> = world.service.bodies("ham_topic");
    let told: Vec<_> = told.iter().map(|body| (body["subject"].as_str().unwrap(), body["type"].clone())).collect();
    let (on, off) = (json!(1), json!(0));
    let wanted =
        [("home/a", &on), ("home/a", &off), ("home/b", &on), ("home/b", &on), ("home/b", &off), ("home/b", &on)];
    assert_eq!(told.iter().map(|(subject, kind)| (*subject, kind)).collect::<Vec<_>>(), wanted);
}

#[tokio::test(start_paused = true)]
async fn presence_is_read_again_when_it_was_wanted_while_something_else_was_done() {
    let mut world = World::registered();
    world.config.topics = vec![topic("home/a")];
    world.config.presence = vec![uid("1")];
    let running = world.ready().await;
    seconds(5).await;
    let before = world.service.count("ham_user");
    // The reading is on its way for 1 alone; what it says of 1 is not told, because 1 is dropped.
    let mut told = running.session.presence_states();
    told.mark_unchanged();
    let states = json!([{"uid": "1", "state": 1}, {"uid": "2", "state": 1}]);
    let mut reply = code(0).unwrap();
    reply.extra.insert("uid_state_list".to_owned(), states);
    world.service.always("ham_user", Ok(reply));
    running.session.reconfigure(vec![topic("home/a")], vec![uid("1"), uid("3")], URL.into()).await;
    world.reload_during(&running, "ham_user", &["home/a"], &["2"], URL).await;
    assert_eq!(*told.borrow_and_update(), [(uid("2"), true)]);
    let read = world.service.bodies("ham_user");
    let read: Vec<_> = read[before..].iter().filter(|body| body["action_type"] == 1).collect();
    assert_eq!(read.last().unwrap()["uid_list"], json!(["2"]));
}
