//! What a call does about each code, and when no call is made at all.

use futures_util::future::join_all;

use super::*;

#[tokio::test(start_paused = true)]
async fn last_words_are_handed_to_the_caller() {
    let world = World::registered();
    let running = world.ready().await;
    for last in [0, 1001, 1010, 1011, 1012, 1013, 1014, 7, -3] {
        world.service.next("send_msg", [code(last)]);
        assert_eq!(replied(&running.send().await), last);
    }
    assert_eq!(world.service.count("send_msg"), 9);
    running.state(CloudState::Online).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_renewed_once_and_the_call_repeated_once() {
    for refused in [1008, 1015, 1003] {
        let world = World::registered();
        let running = world.ready().await;
        world.service.next("send_msg", [code(refused)]);
        assert_eq!(replied(&running.send().await), 0);
        assert_eq!(world.service.tokens("send_msg"), ["token-1", "token-2"], "{refused}");
        running.state(CloudState::Online).await;
    }
}

#[tokio::test(start_paused = true)]
async fn many_lanes_share_one_renewal() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.next("send_msg", (0..20).map(|_| code(1008)));
    let sends = (0..20).map(|_| running.send());
    let outcomes = join_all(sends).await;
    assert!(outcomes.iter().all(|outcome| replied(outcome) == 0));
    assert_eq!(world.service.count("get_access_token"), 2);
    assert_eq!(world.service.count("send_msg"), 40);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_refused_again_degrades_and_backs_off() {
    for (refused, said) in [(1008, "new token"), (1015, "new token"), (1003, "one IP")] {
        let world = World::registered();
        let running = world.ready().await;
        let begun = Instant::now();
        world.service.next("send_msg", [code(refused), code(refused)]);
        not_ready(&running.send().await);
        assert_eq!(world.service.count("send_msg"), 2);
        let status = running.state(CloudState::Degraded).await;
        assert!(status.cause.contains(said), "{}", status.cause);
        not_ready(&running.send().await);
        running.ready().await;
        assert!((30..=38).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        running.state(CloudState::Online).await;
        // The second time in a row it takes longer.
        let begun = Instant::now();
        world.service.next("send_msg", [code(refused), code(refused)]);
        not_ready(&running.send().await);
        running.ready().await;
        assert!((60..=75).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        // A command that succeeds ends the row.
        assert_eq!(replied(&running.send().await), 0);
        let begun = Instant::now();
        world.service.next("send_msg", [code(refused), code(refused)]);
        not_ready(&running.send().await);
        running.ready().await;
        assert!((30..=38).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_stays_refused_is_probed_ever_more_rarely() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.always("ham_user", code(1008)).always("send_msg", code(1008));
    not_ready(&running.send().await);
    tokio::time::sleep(2 * HOUR).await;
    let tokens = gaps(&world.service.times("get_access_token"));
    assert!(tokens.iter().skip(2).all(|gap| *gap <= 375), "{tokens:?}");
    assert!(tokens.len() < 60, "{tokens:?}");
    assert_eq!(world.service.count("send_msg"), 2);
    running.state(CloudState::Degraded).await;
}

#[tokio::test(start_paused = true)]
async fn not_registered_registers_again_and_repeats_once() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.next("send_msg", (0..5).map(|_| code(1007)));
    let outcomes = join_all((0..5).map(|_| running.send())).await;
    assert!(outcomes.iter().all(|outcome| replied(outcome) == 0), "{outcomes:?}");
    assert_eq!((world.service.count("register"), world.service.count("send_msg")), (1, 10));
    let (registered, sent) = (world.service.times("register")[0], world.service.times("send_msg"));
    assert!(sent[5] > registered, "repeated before it was registered");
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_is_forgotten_again_degrades_and_backs_off() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.next("send_msg", [code(1007), code(1007)]);
    let begun = Instant::now();
    not_ready(&running.send().await);
    let status = running.state(CloudState::Degraded).await;
    assert!(status.cause.contains("1007") && !status.registered, "{status:?}");
    assert_eq!(world.service.count("register"), 1);
    running.ready().await;
    assert!((30..=38).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(world.service.count("register"), 2);
    assert_eq!(replied(&running.send().await), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_forgot_everything_is_registered_with_and_asked_for_a_token() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.next("send_msg", [code(1008)]).next("get_access_token", [code(1007)]);
    assert_eq!(replied(&running.send().await), 0);
    assert_eq!(
        world.service.calls()[2..],
        ["send_msg", "get_access_token", "register", "get_access_token", "send_msg"]
    );
    // Other things one after the other: the repeat fails, but everything is renewed for the next attempt.
    world.service.next("send_msg", [code(1007), code(1008)]);
    not_ready(&running.send().await);
    running.ready().await;
    assert_eq!(replied(&running.send().await), 0);
    running.state(CloudState::Online).await;
}

#[tokio::test(start_paused = true)]
async fn two_who_register_against_each_other_do_not_hammer() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.always("send_msg", code(1007)).always("ham_user", code(1007)).always("get_access_token", code(1007));
    not_ready(&running.send().await);
    tokio::time::sleep(HOUR).await;
    assert!(world.service.count("register") < 20, "{}", world.service.count("register"));
}

#[tokio::test(start_paused = true)]
async fn logged_in_elsewhere_backs_off_at_least_half_a_minute_and_grows() {
    let world = World::registered();
    let running = world.ready().await;
    for least in [30, 60, 120, 240, 300, 300] {
        world.service.next("send_msg", [code(1002)]);
        let begun = Instant::now();
        assert!(not_ready(&running.send().await).contains("1002"));
        let status = running.state(CloudState::Degraded).await;
        assert!(status.cause.contains("logged in elsewhere"), "{}", status.cause);
        running.ready().await;
        let waited = begun.elapsed().as_secs();
        assert!(waited >= least && waited <= least + least / 4 + 1, "{least}: {waited}");
    }
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_stop_everything() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.next("send_msg", [code(1000)]);
    let begun = Instant::now();
    not_ready(&running.send().await);
    assert!(running.state(CloudState::AuthError).await.cause.contains("ilink.secretkey"));
    let calls = world.service.calls().len();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(world.service.calls().len(), calls);
    running.ready().await;
    assert!((120..=151).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn trouble_inside_the_service_is_the_callers_to_repeat() {
    let world = World::registered();
    let running = world.ready().await;
    for (transient, may_be_executed) in [(1016, Executed::No), (1017, Executed::Perhaps), (1016, Executed::No)] {
        world.service.next("send_msg", [code(transient)]);
        let Outcome::Retry { executed, code, cause, .. } = running.send().await else { panic!() };
        assert_eq!((executed, code.map(ResultCode::value)), (may_be_executed, Some(transient)));
        assert!(cause.contains(&transient.to_string()), "{cause}");
    }
    assert_eq!(replied(&running.send().await), 0);
    running.state(CloudState::Online).await;
}

#[tokio::test(start_paused = true)]
async fn codes_of_other_calls_lose_no_command() {
    for quota in [1004, 1009] {
        let world = World::registered();
        let running = world.ready().await;
        world.service.next("send_msg", [code(quota)]);
        assert!(matches!(running.send().await, Outcome::Retry { executed: Executed::No, code: Some(_), .. }));
    }
    for elsewhere in [1005, 1006] {
        let world = World::registered();
        let running = world.ready().await;
        world.service.next("send_msg", [code(elsewhere)]);
        not_ready(&running.send().await);
        running.ready().await;
        running.state(CloudState::Online).await;
        assert_eq!(world.service.count("register"), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_down_is_probed_by_a_harmless_call_and_not_by_commands() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.always("send_msg", unsent()).always("ham_user", unsent());
    let begun = Instant::now();
    let lanes: Vec<Call> = (0..100).map(|lane| text(&format!("u{lane}"))).collect();
    let outcomes = join_all(lanes.iter().map(|call| running.session.call(call))).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Retry { executed: Executed::No, .. })));
    assert_eq!(running.state(CloudState::Offline).await.cause, "refused");
    not_ready(&running.send().await);
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(world.service.count("send_msg"), 100);
    let probes = world.service.count("ham_user");
    assert!((10..=20).contains(&probes), "{probes}");
    let status = running.session.status().borrow().clone();
    assert!(status.since.elapsed().is_ok() && status.state == CloudState::Offline);
    world.service.always("send_msg", code(0)).always("ham_user", code(0));
    running.ready().await;
    running.state(CloudState::Online).await;
    assert!(begun.elapsed() < Duration::from_secs(700));
}

#[tokio::test(start_paused = true)]
async fn one_request_on_which_the_service_chokes_holds_up_nobody_else() {
    let world = World::registered();
    let running = world.ready().await;
    let before = running.session.status().borrow().clone();
    for _ in 0..5 {
        world.service.next("send_msg", [ambiguous()]);
        assert!(matches!(running.send().await, Outcome::Retry { executed: Executed::Perhaps, .. }));
        let begun = Instant::now();
        running.ready().await;
        assert_eq!(replied(&running.session.call(&text("500")).await), 0);
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    }
    assert_eq!(*running.session.status().borrow(), before);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_answers_nobody_is_offline() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.next("send_msg", [ambiguous()]).next("ham_user", [ambiguous(), ambiguous()]);
    assert!(matches!(running.send().await, Outcome::Retry { executed: Executed::Perhaps, .. }));
    running.state(CloudState::Offline).await;
    running.state(CloudState::Online).await;
    assert_eq!(world.service.count("ham_user"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_at_nine_tenths_of_its_life() {
    let world = World::registered();
    let running = world.ready().await;
    tokio::time::sleep(Duration::from_secs(20_000)).await;
    assert_eq!(gaps(&world.service.times("get_access_token")), [6480, 6480, 6480]);
    assert_eq!(replied(&running.send().await), 0);
    assert_eq!(world.service.tokens("send_msg"), ["token-4"]);
}

#[tokio::test(start_paused = true)]
async fn a_token_quota_leaves_the_old_token_in_use_while_it_lives() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.always("get_access_token", code(1009));
    tokio::time::sleep(Duration::from_secs(7100)).await;
    assert_eq!(replied(&running.send().await), 0);
    let status = running.state(CloudState::Online).await;
    assert!(status.cause.contains("1009"), "{}", status.cause);
    tokio::time::sleep(Duration::from_secs(200)).await;
    running.state(CloudState::Degraded).await;
    assert!(not_ready(&running.send().await).contains("1009"));
    tokio::time::sleep(5 * HOUR).await;
    let gaps = gaps(&world.service.times("get_access_token"));
    assert!(gaps[0] == 6480 && gaps[1] >= 600 && gaps[2] >= 1200, "{gaps:?}");
    world.service.0.lock().unwrap().always.clear();
    running.ready().await;
    running.state(CloudState::Online).await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_token_under_quota_degrades() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.next("get_access_token", [code(1009)]).next("send_msg", [code(1008)]);
    let begun = Instant::now();
    assert!(not_ready(&running.send().await).contains("1009"));
    assert!(running.state(CloudState::Degraded).await.cause.contains("1009"));
    running.ready().await;
    assert!(begun.elapsed() >= Duration::from_mins(10));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_token_is_no_token() {
    let world = World::registered();
    world.service.next("get_access_token", [code(0)]);
    let running = world.start();
    assert!(running.state(CloudState::Degraded).await.cause.contains("holds no token"));
    running.ready().await;
}

#[tokio::test(start_paused = true)]
async fn adding_a_user_needs_no_token() {
    let world = World::registered();
    let running = world.ready().await;
    let call = Call::AddUser { username: "u".to_owned(), nickname: "n".to_owned() };
    assert_eq!(replied(&running.session.call(&call).await), 0);
    assert!(world.service.tokens("ham_add_user").is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_shows_a_secret() {
    let world = World::new();
    let running = world.ready().await;
    let shown = format!("{:?} {:?} {:?}", running.session, world.config, running.send().await);
    for secret in ["s3cret", "token-1"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_change_of_state_is_one_line_and_no_line_holds_a_secret() {
    let log = Log::default();
    let _logging = log.keep(tracing::Level::TRACE);
    let world = World::new();
    world.service.next("register", [code(1005), code(1006)]).next("send_msg", [code(1008), code(1002), unsent()]);
    world.service.next("ham_user", [code(0), unsent()]);
    let running = world.start();
    running.state(CloudState::AuthError).await;
    running.state(CloudState::Online).await;
    not_ready(&running.send().await);
    running.state(CloudState::Online).await;
    let _ = running.send().await;
    running.ready().await;
    let text = log.text();
    let states: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split("iLink: ").nth(1))
        .filter_map(|rest| rest.split([':', ' ']).next())
        .collect();
    assert_eq!(states, ["auth_error", "degraded", "online", "degraded", "online", "offline", "online"], "{text}");
    assert!(text.contains("ERROR") && text.contains("callback.public_url"), "{text}");
    for secret in ["s3cret", "token-1", "token-2"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_end_there_are_answers_still() {
    let world = World::registered();
    let running = world.ready().await;
    let session = running.session.clone();
    running.stop().await;
    assert!(session.query().await.unwrap_err().contains("ended"));
    world.service.next("send_msg", [code(1008)]);
    not_ready(&session.call(&text("413")).await);
    assert!(timeout(HOUR, session.ready()).await.is_err(), "an end is not readiness");
    assert!(timeout(HOUR, session.doors().changed()).await.is_err());
}
