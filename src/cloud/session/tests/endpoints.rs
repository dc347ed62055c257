//! One endpoint is not judged by another, nor the session by one call.

use super::*;
use crate::cloud::{Door, Endpoint};
use crate::protocol::Subject;

fn in_front() -> Answer {
    Err(TransportError::InFront { cause: "HTTP status 500".to_owned(), status: 500, retry_after: None })
}

fn unreadable() -> Answer {
    Err(TransportError::Unreadable { cause: "not JSON".to_owned() })
}

fn publish() -> Call {
    Call::Publish { subject: "home/lamp".parse::<Subject>().unwrap(), content: b"on".to_vec() }
}

/// Calls whenever its endpoint or its own wait lets it, until iLink has answered; what that took.
async fn served(running: &Running, call: &Call) -> Duration {
    let begun = Instant::now();
    loop {
        timeout(24 * HOUR, running.session.ready_for(Endpoint::of(call))).await.expect("never possible");
        let after = match running.session.call(call).await {
            Outcome::Reply(_) => return begun.elapsed(),
            Outcome::Retry { after, .. } => after.unwrap_or(Duration::from_secs(1)),
            Outcome::NotReady { after, .. } => after.unwrap_or_default(),
        };
        tokio::time::sleep(after).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_call_and_a_broken_ham_user_stop_no_message() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.always("ham_user", in_front()).next("send_msg", [ambiguous()]);
    let mut states = running.session.status();
    assert!(matches!(running.send().await, Outcome::Retry { .. }));
    for to in 0..70 {
        let took = served(&running, &text(&format!("u{to}"))).await;
        assert!(took < Duration::from_millis(100), "{took:?}");
        assert_eq!(states.borrow_and_update().state, CloudState::Online);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_ham_user_is_silent_a_real_call_tells_that_the_service_is_back() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.always("ham_user", ambiguous()).next("send_msg", [ambiguous()]);
    running.send().await;
    running.state(CloudState::Offline).await;
    let took = served(&running, &text("500")).await;
    assert!(took < Duration::from_secs(20), "{took:?}");
    running.state(CloudState::Online).await;
    assert_eq!(world.service.count("send_msg"), 2, "not before harmless calls were made in vain");
}

#[tokio::test(start_paused = true)]
async fn a_restart_while_set_config_alone_fails_holds_nothing_back() {
    let failures = [
        (in_front(), CloudState::Degraded),
        (ambiguous(), CloudState::Degraded),
        (unreadable(), CloudState::Degraded),
        (code(1000), CloudState::AuthError),
        (code(1002), CloudState::Degraded),
        (code(1016), CloudState::Degraded),
        (code(1006), CloudState::Degraded),
    ];
    for (failure, state) in failures {
        let world = World::registered();
        world.ready().await.stop().await;
        world.service.always("query", failure.clone());
        let running = world.start();
        let mut states = running.session.status();
        let took = served(&running, &text("413")).await;
        assert!(took < Duration::from_millis(100), "{failure:?}: {took:?}");
        assert!(!running.state(state).await.cause.is_empty(), "{failure:?}");
        for _ in 0..200 {
            assert!(served(&running, &text("413")).await < Duration::from_millis(100));
            assert_ne!(states.borrow_and_update().state, CloudState::Offline);
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        assert!(world.service.count("query") < 15, "{}", world.service.count("query"));
        world.service.forget("query");
        running.state(CloudState::Online).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_does_not_wait_for_a_slow_set_config() {
    let world = World::registered();
    world.ready().await.stop().await;
    world.service.0.lock().unwrap().slow.insert("query", Duration::from_mins(1));
    let running = world.start();
    let took = served(&running, &text("413")).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_be_renewed_holds_nothing_back_while_the_old_one_lives() {
    for failure in [in_front(), ambiguous(), code(1000), code(1002), code(1016)] {
        let world = World::registered();
        let running = world.ready().await;
        world.service.always("get_access_token", failure.clone());
        tokio::time::sleep(Duration::from_mins(108)).await;
        for _ in 0..70 {
            let took = served(&running, &text("413")).await;
            assert!(took < Duration::from_millis(100), "{failure:?}: {took:?}");
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        assert!(world.service.count("get_access_token") > 2);
    }
}

#[tokio::test(start_paused = true)]
async fn one_call_that_is_always_refused_waits_alone() {
    for refused in [1008, 1015, 1003, 1007, 1002] {
        let world = World::registered();
        let running = world.ready().await;
        world.service.always("ham_group", code(refused));
        let list = async {
            timeout(HOUR, served(&running, &Call::ListGroups)).await.unwrap_err();
        };
        let others = async {
            let mut slowest = Duration::ZERO;
            for n in 0..3500 {
                slowest = slowest.max(served(&running, &text(&format!("u{}", n % 7))).await);
                slowest = slowest.max(served(&running, &publish()).await);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            slowest
        };
        let ((), slowest) = tokio::join!(list, others);
        assert!(slowest < Duration::from_secs(1), "{refused}: {slowest:?}");
        let (lists, tokens) = (world.service.count("ham_group"), world.service.count("get_access_token"));
        assert!((4..=30).contains(&lists) && tokens <= 3, "{refused}: {lists} lists, {tokens} tokens");
        assert!(world.service.count("register") <= 2, "{refused}");
        running.state(CloudState::Online).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_refused_calls_of_one_endpoint_close_that_endpoint() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.always("ham_group", code(1008));
    not_ready(&running.session.call(&Call::ListGroups).await);
    let members = Call::GroupMembers { group: "g".parse().unwrap() };
    not_ready(&running.session.call(&members).await);
    let doors = running.session.doors();
    assert_eq!(doors.at(Endpoint::HamGroup), Door::Closed);
    assert_eq!(replied(&running.send().await), 0);
    assert_eq!((doors.at(Endpoint::SendMsg), doors.at(Endpoint::HamGroup)), (Door::Open, Door::Closed));
    let status = running.state(CloudState::Degraded).await;
    assert!(status.cause.contains("ham_group") && status.cause.contains("everything else goes on"), "{}", status.cause);
}

#[tokio::test(start_paused = true)]
async fn two_lost_calls_close_their_endpoint_and_a_real_call_opens_it() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.always("send_msg", in_front());
    for to in ["1", "2"] {
        running.session.ready_for(Endpoint::SendMsg).await;
        assert!(matches!(running.session.call(&text(to)).await, Outcome::Retry { .. }));
    }
    let status = running.state(CloudState::Degraded).await;
    assert!(status.cause.contains("send_msg") && status.cause.contains("HTTP status 500"), "{}", status.cause);
    not_ready(&running.session.call(&text("3")).await);
    assert!(served(&running, &publish()).await < Duration::from_millis(100), "another endpoint");
    // Ten receivers wait: one at a time asks, ever more rarely, whatever other endpoints say.
    let waiting: Vec<Call> = (0..10).map(|to| text(&format!("w{to}"))).collect();
    let all = futures_util::future::join_all(waiting.iter().map(|call| served(&running, call)));
    let later = async {
        tokio::time::sleep(Duration::from_mins(10)).await;
        let asked = world.service.count("send_msg");
        assert!((8..=20).contains(&asked), "{asked}");
        world.service.forget("send_msg");
    };
    let (all, ()) = tokio::join!(all, later);
    assert!(all.iter().all(|took| *took < Duration::from_secs(680)), "{all:?}");
    running.state(CloudState::Online).await;
    assert!(world.service.count("ham_user") <= 3, "no call of another kind asks for it");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_several_receivers_cannot_read_is_asked_about_by_a_harmless_call() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.always("send_msg", unreadable()).always("ham_user", unreadable());
    for to in ["1", "2", "3"] {
        let _ = running.session.call(&text(to)).await;
    }
    let said = running.state(CloudState::Offline).await.cause;
    assert!(said.contains("not JSON"), "{said}");
    let waiting = tokio::time::timeout(Duration::from_mins(1), served(&running, &text("4"))).await;
    assert!(waiting.is_err());
    assert!(world.service.count("send_msg") <= 2, "{}", world.service.count("send_msg"));
    assert!(world.service.count("ham_user") >= 4);
    world.service.forget("ham_user");
    world.service.forget("send_msg");
    assert!(served(&running, &text("4")).await < Duration::from_secs(80));
    running.state(CloudState::Online).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_panics_is_never_ready() {
    struct Panics;
    impl Post for Panics {
        fn post<'a>(
            &'a self,
            _: &'a Request,
            _: Option<&'a SecretString>,
        ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
            Box::pin(async { panic!("as a test wants it") })
        }
    }
    let world = World::registered();
    let registry: Arc<dyn Registry> = Arc::clone(&world.record) as _;
    let stop = CancellationToken::new();
    let (session, task) = start(Panics, world.config.clone(), registry, world.handshakes.clone(), stop);
    assert!(task.await.unwrap_err().is_panic());
    assert!(timeout(HOUR, session.ready()).await.is_err());
    assert!(timeout(HOUR, session.ready_for(Endpoint::SendMsg)).await.is_err());
    assert!(timeout(HOUR, session.doors().changed()).await.is_err());
}
