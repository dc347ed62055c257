//! 1003: the service ties a uid to one IP address, and another member of a cluster may call from another one.

use futures_util::future::join_all;

use super::*;

const SAID: &str = "iLink ties a uid to one IP address";

/// A session that begins with the token of an earlier one, as at a takeover.
async fn taken_over(world: &World) {
    world.ready().await.stop().await;
    assert_eq!(world.service.count("get_access_token"), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_from_another_address_get_one_new_token_and_it_is_said_once() {
    let log = Log::default();
    let _logging = log.keep(tracing::Level::DEBUG);
    let world = World::registered();
    let running = world.ready().await;
    world.service.next("send_msg", (0..5).map(|_| code(1003)));
    let outcomes = join_all((0..5).map(|_| running.send())).await;
    assert!(outcomes.iter().all(|outcome| replied(outcome) == 0));
    assert_eq!(replied(&running.send().await), 0);
    let text = log.text();
    let said: Vec<_> = text.lines().filter(|line| line.contains(SAID)).collect();
    assert!(said.len() == 1 && said[0].contains("INFO"), "{text}");
    assert!(!text.contains("WARN"), "{text}");
    // What another code renews has nothing to do with the address.
    world.service.next("send_msg", [code(1008)]);
    assert_eq!(replied(&running.send().await), 0);
    assert_eq!(log.text().matches(SAID).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn set_config_from_another_address_is_repeated_once_with_a_new_token() {
    for (policy, call) in [(RegisterPolicy::IfNeeded, "query"), (RegisterPolicy::Always, "register")] {
        let mut world = World::registered();
        world.config.register = policy;
        taken_over(&world).await;
        let log = Log::default();
        let logging = log.keep(tracing::Level::DEBUG);
        let before = world.service.calls().len();
        world.service.next(call, [code(1003)]);
        let running = world.ready().await;
        running.state(CloudState::Online).await;
        tokio::time::sleep(HOUR).await;
        assert_eq!(world.service.calls()[before..], [call, "get_access_token", call]);
        assert_eq!(replied(&running.send().await), 0);
        assert_eq!(world.service.tokens("send_msg"), ["token-2"]);
        running.stop().await;
        drop(logging);
        let text = log.text();
        assert!(text.matches(SAID).count() == 1 && !text.contains("WARN") && !text.contains("degraded"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_verb_from_another_address_is_repeated_once_with_a_new_token() {
    for call in ["query", "register", "unregister"] {
        let world = World::registered();
        let running = world.ready().await;
        tokio::time::sleep(HOUR).await;
        let begun = world.service.calls().len();
        world.service.next(call, [code(1003)]);
        let ask = async || match call {
            "query" => running.session.query().await,
            "register" => running.session.register().await,
            _ => running.session.unregister().await,
        };
        assert_eq!(ask().await.unwrap().code.value(), 0, "{call}");
        assert_eq!(world.service.calls()[begun..], [call, "get_access_token", call]);
        // One that is refused again gets iLink's answer.
        if call == "unregister" {
            assert_eq!(running.session.register().await.unwrap().code.value(), 0);
            running.ready().await;
        }
        tokio::time::sleep(HOUR).await;
        let begun = world.service.calls().len();
        world.service.next(call, [code(1003), code(1003)]);
        assert_eq!(ask().await.unwrap().code.value(), 1003, "{call}");
        assert_eq!(world.service.calls()[begun..], [call, "get_access_token", call]);
    }
}

/// Whatever becomes of the token, the operator gets an answer, and so does who asks next.
#[tokio::test(start_paused = true)]
async fn a_verb_does_not_wait_for_a_token_that_is_not_to_be_had() {
    for refused in [code(1009), code(1003), code(1000), ambiguous(), unsent()] {
        let world = World::registered();
        let running = world.ready().await;
        tokio::time::sleep(HOUR).await;
        world.service.next("query", [code(1003), code(1003)]).next("get_access_token", [refused]);
        let asked =
            timeout(Duration::from_secs(50), async { tokio::join!(running.session.query(), running.session.query()) });
        let (first, second) = asked.await.expect("no answer");
        assert!(first.is_ok() && second.is_ok(), "{:?}", (first.err(), second.err()));
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_stays_refused_is_a_conflict_and_costs_no_more_tokens() {
    let world = World::registered();
    taken_over(&world).await;
    world.service.next("query", (0..4).map(|_| code(1003)));
    let begun = world.service.count("query");
    let log = Log::default();
    let _logging = log.keep(tracing::Level::DEBUG);
    let running = world.start();
    let status = running.state(CloudState::Degraded).await;
    assert!(status.cause.contains("ties a uid to one IP"), "{status:?}");
    running.state(CloudState::Online).await;
    let gaps = gaps(&world.service.times("query")[begun..]);
    assert!(gaps[0] == 0 && (30..=38).contains(&gaps[1]) && (60..=75).contains(&gaps[2]) && gaps[3] >= 120, "{gaps:?}");
    assert_eq!(world.service.count("get_access_token"), 2);
    assert_eq!(log.text().matches(SAID).count(), 0, "it was a fault");
}

#[tokio::test(start_paused = true)]
async fn a_new_token_that_is_not_to_be_had_is_not_waited_for() {
    for refused in [code(1009), code(1003), ambiguous()] {
        let world = World::registered();
        taken_over(&world).await;
        world.service.next("query", [code(1003), code(1003)]).next("get_access_token", [refused]);
        let begun = world.service.count("query");
        let running = world.start();
        running.state(CloudState::Degraded).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(world.service.count("query"), begun + 2);
        running.ready().await;
        assert_eq!(replied(&running.send().await), 0, "the old token is good for calls");
        running.state(CloudState::Online).await;
    }
}
