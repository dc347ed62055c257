//! Starting, registering and what `set_config` can answer.

use super::*;
use crate::cloud::session::store::{Quota, Quotas, Store};
use crate::protocol::Variant;

#[tokio::test(start_paused = true)]
async fn without_a_record_a_query_that_succeeds_is_not_believed() {
    let world = World::new();
    let running = world.ready().await;
    assert_eq!(world.service.calls(), ["query", "register", "get_access_token"]);
    assert!(world.record.confirmed(&URL.into(), &"handshakes3cret".into()));
    let status = running.state(CloudState::Online).await;
    assert!(status.registered && status.cause.is_empty(), "{status:?}");
    assert!(status.token_expires_in().unwrap() > Duration::from_secs(7000));
    let body = &world.service.bodies("register")[0];
    assert_eq!((body["url"].as_str(), body["token"].as_str()), (Some(URL), Some("handshakes3cret")));
}

#[tokio::test(start_paused = true)]
async fn with_a_record_a_query_that_succeeds_is_enough_and_the_token_is_kept() {
    let world = World::registered();
    world.ready().await.stop().await;
    assert_eq!(world.service.calls(), ["query", "get_access_token"]);
    let running = world.ready().await;
    assert_eq!(world.service.calls(), ["query", "get_access_token", "query"]);
    assert_eq!(replied(&running.send().await), 0);
    assert_eq!(world.service.tokens("send_msg"), ["token-1"]);
}

#[tokio::test(start_paused = true)]
async fn a_stored_token_of_another_account_is_not_used() {
    let mut world = World::registered();
    world.ready().await.stop().await;
    world.config.account.uid = "999".parse().unwrap();
    let running = world.ready().await;
    assert_eq!(replied(&running.send().await), 0);
    assert_eq!(world.service.tokens("send_msg"), ["token-2"]);
}

#[tokio::test(start_paused = true)]
async fn not_registered_registers_in_spite_of_a_record() {
    let world = World::registered();
    world.service.next("query", [code(1007)]);
    world.ready().await;
    assert_eq!(world.service.calls(), ["query", "register", "get_access_token"]);
}

#[tokio::test(start_paused = true)]
async fn always_registers_without_asking_and_never_does_neither() {
    let mut world = World::registered();
    world.config.register = RegisterPolicy::Always;
    world.ready().await;
    assert_eq!(world.service.calls(), ["register", "get_access_token"]);

    let mut world = World::new();
    world.config.register = RegisterPolicy::Never;
    world.config.verify_every = HOUR;
    let running = world.ready().await;
    assert!(running.state(CloudState::Online).await.registered);
    tokio::time::sleep(5 * HOUR).await;
    for refused in [running.session.register().await, running.session.unregister().await, running.session.query().await]
    {
        assert!(refused.unwrap_err().contains("callback.register"));
    }
    assert_eq!(world.service.count("register") + world.service.count("query") + world.service.count("unregister"), 0);
}

#[tokio::test(start_paused = true)]
async fn never_and_not_registered_says_whose_turn_it_is_and_looks_again() {
    let mut world = World::new();
    world.config.register = RegisterPolicy::Never;
    let running = world.ready().await;
    world.service.next("send_msg", [code(1007)]);
    not_ready(&running.send().await);
    let status = running.state(CloudState::Unregistered).await;
    assert!(status.cause.contains("callback.register = \"never\"") && !status.registered, "{status:?}");
    running.ready().await;
    assert!(running.state(CloudState::Online).await.registered);
    assert_eq!(world.service.calls(), ["get_access_token", "send_msg"]);
}

#[tokio::test(start_paused = true)]
async fn the_registration_is_verified_by_queries_alone() {
    let mut world = World::registered();
    world.config.verify_every = 6 * HOUR;
    let _running = world.ready().await;
    tokio::time::sleep(25 * HOUR).await;
    assert_eq!(gaps(&world.service.times("query")), [21_600; 4]);
    assert_eq!(world.service.count("register"), 0);
    world.service.next("query", [code(1007)]);
    tokio::time::sleep(6 * HOUR).await;
    assert_eq!(world.service.count("register"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_cannot_be_verified_is_explained_and_registered_again() {
    let world = World::new();
    world.service.next("register", [code(1006), code(1006), code(1006)]);
    let late = Handshake::Answered(Variant::Plain, Duration::from_secs(6));
    let seen = [None, Some(Handshake::WrongSignature), Some(late)];
    let seen = seen.map(|handshake| handshake.map(|handshake| (world.handshakes.clone(), handshake)));
    world.service.0.lock().unwrap().handshakes.extend(seen);
    let running = world.start();
    let status = running.state(CloudState::Degraded).await;
    assert!(status.cause.contains("1006") && status.cause.contains("no GET arrived"), "{}", status.cause);
    assert!(
        status.cause.contains("https://home.example/ilink/…") && !status.cause.contains("s3cret"),
        "{}",
        status.cause
    );
    // Calls go on meanwhile, if iLink takes them.
    running.ready().await;
    assert_eq!(replied(&running.send().await), 0);
    let mut told = running.session.status();
    for seen in ["wrong signature", "too late"] {
        timeout(HOUR, told.wait_for(|status| status.cause.contains(seen))).await.unwrap().unwrap();
    }
    running.state(CloudState::Online).await;
    let gaps = gaps(&world.service.times("register"));
    assert!((30..=38).contains(&gaps[0]) && (60..=75).contains(&gaps[1]) && (120..=150).contains(&gaps[2]), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_set_config_without_an_answer_does_not_stop_calls() {
    let world = World::new();
    world.service.next("register", [ambiguous()]);
    let running = world.start();
    let status = running.state(CloudState::Degraded).await;
    assert!(status.cause.contains("no answer") && status.cause.contains("no GET arrived"), "{}", status.cause);
    running.ready().await;
    running.state(CloudState::Online).await;
    assert!(gaps(&world.service.times("register"))[0] >= 30);
}

#[tokio::test(start_paused = true)]
async fn after_a_quota_there_is_no_set_config_for_ten_minutes_and_more() {
    let world = World::new();
    world.service.next("query", [code(1004)]).next("register", [code(1004), code(1004)]);
    let running = world.start();
    assert!(running.state(CloudState::Degraded).await.cause.contains("1004"));
    running.ready().await;
    assert_eq!(replied(&running.send().await), 0);
    let refused = running.session.query().await.unwrap_err();
    assert!(refused.contains("1004"), "{refused}");
    running.state(CloudState::Online).await;
    let mut moments = world.service.times("query");
    moments.extend(world.service.times("register"));
    moments.sort_unstable();
    let gaps = gaps(&moments);
    // Query (refused), query, register (refused), register (refused), register.
    assert!(gaps[0] >= 600 && gaps[1] == 0 && gaps[2] >= 1200 && gaps[3] >= 2400 && gaps.len() == 4, "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn quotas_outlive_a_restart() {
    // Not known to iLink, and asked too often to register: nobody asks again before the time, however often it starts.
    let world = World::new();
    world.service.always("query", code(1004));
    let running = world.start();
    let first = running.state(CloudState::Degraded).await;
    assert!(first.cause.contains("1004"), "{first:?}");
    running.stop().await;
    for _ in 0..5 {
        let running = world.start();
        let again = running.state(CloudState::Degraded).await;
        assert!(again.cause.contains("1004") && again.cause.contains(" min"), "{again:?}");
        running.ready().await;
        assert_eq!(replied(&running.send().await), 0, "everything else goes on");
        running.stop().await;
    }
    assert_eq!((world.service.count("query"), world.service.count("register")), (1, 0));
    assert_eq!(world.service.count("get_access_token"), 1);

    // The same for tokens, with a registration on record.
    let world = World::registered();
    world.service.always("get_access_token", code(1009));
    for _ in 0..5 {
        let running = world.start();
        let degraded = running.state(CloudState::Degraded).await;
        assert!(degraded.cause.contains("1009"), "{degraded:?}");
        running.stop().await;
    }
    assert_eq!(world.service.count("get_access_token"), 1);
    // Then it is asked again, later than the first time; and once it has succeeded, that is forgotten.
    let running = world.start();
    world.service.always("get_access_token", code(1009));
    tokio::time::sleep(Duration::from_mins(13)).await;
    assert_eq!(world.service.count("get_access_token"), 2);
    running.stop().await;
    world.service.forget("get_access_token");
    let running = world.start();
    let begun = Instant::now();
    running.ready().await;
    assert!(begun.elapsed() >= Duration::from_mins(19), "{:?}", begun.elapsed());
    running.stop().await;
    assert!(!world.dir.path().join("quotas.json").exists());
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_ended_while_it_was_down_is_forgotten_after_success() {
    let world = World::new();
    let store = Store::new(&world.config.state_dir, &world.config.api, &world.config.account);
    let ended = Some(Quota::new(Duration::ZERO, 3));
    store.put_quotas(&Quotas { set_config: ended, get_access_token: None }).unwrap();
    let running = world.ready().await;
    running.stop().await;
    assert_eq!(world.service.count("register"), 1);
    assert_eq!(store.quotas().unwrap(), Quotas::default());
}

#[tokio::test(start_paused = true)]
async fn a_record_is_good_until_ilink_can_be_asked() {
    let world = World::registered();
    world.service.next("query", [code(1004)]);
    let running = world.ready().await;
    assert!(running.state(CloudState::Online).await.registered);
    tokio::time::sleep(HOUR).await;
    assert_eq!((world.service.count("query"), world.service.count("register")), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_configuration_is_tried_again_every_few_minutes_and_says_what_to_correct() {
    for (wrong, remedy) in
        [(1000, "ilink.appkey and ilink.secretkey"), (1001, "ilink.uid"), (1005, "callback.public_url")]
    {
        for call in ["query", "register", "get_access_token"] {
            let world = World::new();
            world.service.next(call, [code(wrong), code(wrong)]);
            let running = world.start();
            let status = running.state(CloudState::AuthError).await;
            assert!(status.cause.contains(remedy) && status.cause.contains(&wrong.to_string()), "{}", status.cause);
            assert!(!status.cause.contains("s3cret"), "{}", status.cause);
            assert!(not_ready(&running.send().await).contains(remedy));
            running.state(CloudState::Online).await;
            let gaps = gaps(&world.service.times(call));
            assert!((120..=150).contains(&gaps[0]) && (240..=300).contains(&gaps[1]), "{call} {wrong}: {gaps:?}");
            assert_eq!(world.service.count("send_msg"), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn conflicts_while_starting_back_off() {
    for (conflict, remedy) in [(1002, "logged in elsewhere"), (1003, "ties a uid to one IP")] {
        for call in ["query", "register", "get_access_token"] {
            let world = World::new();
            world.service.next(call, [code(conflict), code(conflict)]);
            let running = world.start();
            assert!(running.state(CloudState::Degraded).await.cause.contains(remedy));
            running.state(CloudState::Online).await;
            let gaps = gaps(&world.service.times(call));
            assert!((30..=38).contains(&gaps[0]) && (60..=75).contains(&gaps[1]), "{call} {conflict}: {gaps:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_be_reached_is_tried_from_one_second_to_a_minute() {
    let world = World::new();
    world.service.next("query", (0..10).map(|_| unsent()));
    let running = world.start();
    running.session.status().wait_for(|status| status.cause == "refused").await.unwrap();
    assert_eq!(running.session.status().borrow().state, CloudState::Offline);
    running.state(CloudState::Online).await;
    let gaps = gaps(&world.service.times("query"));
    assert!((1..=2).contains(&gaps[0]) && (60..=75).contains(&gaps[9]), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn trouble_inside_the_service_passes() {
    for call in ["query", "register", "get_access_token"] {
        let world = World::new();
        world.service.next(call, [code(1016), code(1017)]);
        let running = world.start();
        assert!(running.state(CloudState::Degraded).await.cause.contains("1016"));
        running.state(CloudState::Online).await;
        assert_eq!(world.service.count(call), 3, "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_query_that_ilink_does_not_take_is_no_answer() {
    for (world, registers) in [(World::new(), 1), (World::registered(), 0)] {
        world.service.always("query", code(1012));
        world.ready().await;
        assert_eq!(world.service.count("register"), registers);
    }
}

#[tokio::test(start_paused = true)]
async fn unregistered_lasts_across_restarts_until_registered() {
    let mut world = World::registered();
    world.config.verify_every = HOUR;
    let running = world.ready().await;
    assert_eq!(running.session.unregister().await.unwrap().code.value(), 0);
    let status = running.state(CloudState::Unregistered).await;
    assert!(status.cause.contains("ilink2mqtt register") && !status.registered, "{status:?}");
    not_ready(&running.send().await);
    running.stop().await;
    assert!(!world.dir.path().join("token.json").exists());

    let calls = world.service.calls().len();
    let running = world.start();
    running.state(CloudState::Unregistered).await;
    tokio::time::sleep(24 * HOUR).await;
    assert_eq!(world.service.calls().len(), calls);
    assert_eq!(running.session.query().await.unwrap().code.value(), 0);
    running.state(CloudState::Unregistered).await;

    assert_eq!(running.session.register().await.unwrap().code.value(), 0);
    running.ready().await;
    running.state(CloudState::Online).await;
    assert!(!world.record.unregistered_by_operator());
}

#[tokio::test(start_paused = true)]
async fn an_unregistration_that_failed_changes_nothing() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.next("unregister", [code(1014), unsent()]);
    assert_eq!(running.session.unregister().await.unwrap().code.value(), 1014);
    assert_eq!(running.session.unregister().await.unwrap_err(), "refused");
    running.ready().await;
    assert_eq!(replied(&running.send().await), 0);
    assert!(!world.record.unregistered_by_operator());
}

#[tokio::test(start_paused = true)]
async fn a_changed_url_is_registered() {
    let world = World::registered();
    let running = world.ready().await;
    running.session.reconfigure(Vec::new(), Vec::new(), URL.into()).await;
    running.session.reconfigure(Vec::new(), Vec::new(), "https://new.example/path-s3cret".into()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let bodies = world.service.bodies("register");
    assert_eq!(bodies.len(), 1);
    assert_eq!(bodies[0]["url"], "https://new.example/path-s3cret");
}
