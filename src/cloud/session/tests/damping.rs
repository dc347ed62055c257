//! No sequence of answers, restarts or reloads outruns the budgets, and trouble that all share is waited out together.

use futures_util::stream::{self, StreamExt as _};
use proptest::prelude::*;

use super::*;
use crate::cloud::Endpoint;

/// Alternately refused and served, as with a second client of the account.
fn every_second(service: &Service, call: &'static str, refusal: i64, times: usize) {
    service.next(call, (0..times).map(|n| if n % 2 == 0 { code(refusal) } else { code(0) }));
}

#[tokio::test(start_paused = true)]
async fn a_second_client_that_takes_tokens_costs_no_more_than_the_budget() {
    let world = World::registered();
    let running = world.ready().await;
    every_second(&world.service, "send_msg", 1008, 100_000);
    let begun = Instant::now();
    let mut tokens_after = Vec::new();
    for end in [20, 3600] {
        while begun.elapsed() < Duration::from_secs(end) {
            for to in 0..4 {
                let _ = running.session.call(&text(&format!("u{to}"))).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokens_after.push(world.service.count("get_access_token"));
    }
    assert!(tokens_after[0] <= 6 && tokens_after[1] <= 24, "{tokens_after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_is_denied_to_every_second_call_costs_no_more_than_the_budget() {
    let world = World::registered();
    let running = world.ready().await;
    every_second(&world.service, "send_msg", 1007, 100_000);
    let begun = Instant::now();
    let mut after = Vec::new();
    for end in [10, 3600] {
        while begun.elapsed() < Duration::from_secs(end) {
            for to in 0..4 {
                let _ = running.session.call(&text(&format!("u{to}"))).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        after.push(world.service.count("register") + world.service.count("query"));
    }
    assert!(after[0] <= 6 && after[1] <= 18, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_life_that_is_told_too_short_is_not_believed() {
    let world = World::registered();
    world.service.0.lock().unwrap().life = Some(1);
    let running = world.ready().await;
    for _ in 0..15 {
        assert_eq!(replied(&running.send().await), 0);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(world.service.count("get_access_token"), 2);
    tokio::time::sleep(HOUR).await;
    assert_eq!(replied(&running.send().await), 0);
    assert!(world.service.count("get_access_token") <= 24);
    // A repair finds room nevertheless.
    world.service.next("send_msg", [code(1008)]);
    assert_eq!(replied(&running.send().await), 0);
}

#[tokio::test(start_paused = true)]
async fn restarts_and_reloads_do_not_outrun_it() {
    let world = World::new();
    for n in 0..40 {
        let running = world.start();
        for m in 0..5 {
            let url = format!("https://home.example/{n}/{m}");
            running.session.reconfigure(Vec::new(), Vec::new(), url.into()).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.stop().await;
        let _ = std::fs::remove_file(world.dir.path().join("token.json"));
        world.record.forget().unwrap();
    }
    let set_config = world.service.count("query") + world.service.count("register");
    assert!((2..=7).contains(&set_config), "{set_config}");
    assert!(world.service.count("get_access_token") <= 7);
}

#[tokio::test(start_paused = true)]
async fn an_operator_has_an_allowance_of_its_own() {
    let world = World::registered();
    for _ in 0..6 {
        let running = world.start();
        tokio::time::sleep(Duration::from_millis(100)).await;
        running.stop().await;
    }
    let running = world.start();
    for _ in 0..10 {
        assert!(running.session.register().await.unwrap().code.is_ok());
    }
    let refused = running.session.register().await.unwrap_err();
    assert!(refused.contains("again in"), "{refused}");
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(running.session.query().await.unwrap().code.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_service_in_trouble_is_asked_by_one_at_a_time() {
    for (trouble, most) in [(1016, 16), (1009, 12)] {
        let world = World::registered();
        let running = world.ready().await;
        world.service.always("send_msg", code(trouble));
        let session = &running.session;
        let flood = stream::iter(0..2000).for_each_concurrent(2000, |to| async move {
            let call = text(&format!("u{to}"));
            loop {
                session.ready_for(Endpoint::SendMsg).await;
                if let Outcome::Reply(_) = session.call(&call).await {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        // They come one after the other, as lanes do.
        assert!(matches!(running.send().await, Outcome::Retry { .. }));
        let flood = async {
            let _ = timeout(Duration::from_mins(1), flood).await;
            let asked = world.service.count("send_msg");
            assert!((3..=most).contains(&asked), "{trouble}: {asked}");
            assert!(running.session.status().borrow().cause.contains(&trouble.to_string()));
        };
        flood.await;
        world.service.forget("send_msg");
        running.ready().await;
        running.state(CloudState::Online).await;
    }
}

/// What the service may do in the simulated day.
#[derive(Debug, Clone)]
enum Whim {
    Answers(&'static str, i64),
    Loses(&'static str, u8),
    Restart,
    Reload(u8),
    Life(u64),
    Well,
}

const CALLS: [&str; 6] = ["query", "register", "get_access_token", "send_msg", "ham_user", "ham_group"];

fn whim() -> impl Strategy<Value = Whim> {
    let call = prop::sample::select(CALLS.to_vec());
    prop_oneof![
        4 => (call.clone(), prop::sample::select(vec![0, 7, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009,
            1010, 1015, 1016, 1017])).prop_map(|(call, code)| Whim::Answers(call, code)),
        2 => (call, 0_u8..4).prop_map(|(call, how)| Whim::Loses(call, how)),
        1 => Just(Whim::Restart),
        1 => any::<u8>().prop_map(Whim::Reload),
        1 => prop::sample::select(vec![1, 30, 7200]).prop_map(Whim::Life),
        3 => Just(Whim::Well),
    ]
}

/// Plays a day; the moments of `set_config` and of `get_access_token`.
async fn day(whims: Vec<Whim>) -> (Vec<Instant>, Vec<Instant>) {
    let world = World::new();
    let mut running = world.start();
    let every = 24 * HOUR / u32::try_from(whims.len()).unwrap();
    for whim in whims {
        match whim {
            Whim::Answers(call, number) => drop(world.service.always(call, code(number))),
            Whim::Loses(call, how) => {
                let cause = "lost".to_owned();
                let error = match how {
                    0 => TransportError::Unanswered { cause },
                    1 => TransportError::Unreadable { cause },
                    2 => TransportError::BrokenOff { cause },
                    _ => TransportError::InFront { cause, status: 503, retry_after: None },
                };
                world.service.always(call, Err(error));
            }
            Whim::Restart => {
                running.stop().await;
                running = world.start();
            }
            Whim::Reload(n) => {
                let url = format!("https://home.example/{n}");
                running.session.reconfigure(Vec::new(), Vec::new(), url.into()).await;
            }
            Whim::Life(life) => world.service.0.lock().unwrap().life = Some(life),
            Whim::Well => CALLS.into_iter().for_each(|call| world.service.forget(call)),
        }
        let until = Instant::now() + every;
        while Instant::now() < until {
            for to in 0..3 {
                let _ = running.session.call(&text(&format!("u{to}"))).await;
            }
            let _ = running.session.call(&Call::ListGroups).await;
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
    }
    // All is well in the end, whatever was before: within the longest wait, which is that of a quota, everything goes.
    for call in CALLS {
        world.service.forget(call);
    }
    world.service.0.lock().unwrap().life = None;
    timeout(3 * HOUR, running.session.ready()).await.expect("it never recovers");
    let reply = async {
        while !matches!(running.send().await, Outcome::Reply(_)) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(Duration::from_mins(7), reply).await.expect("a command is held back");
    running.stop().await;
    let mut set_config = world.service.times("query");
    set_config.extend(world.service.times("register"));
    set_config.sort_unstable();
    (set_config, world.service.times("get_access_token"))
}

/// Every window holds at most a burst and one more in each period.
fn within(moments: &[Instant], burst: f64, every: f64) -> bool {
    (0..moments.len()).all(|first| {
        (first..moments.len()).all(|last| {
            let most = burst + (moments[last] - moments[first]).as_secs_f64() / every + 0.05;
            f64::from(u32::try_from(last - first + 1).unwrap()) <= most
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
    #[test]
    fn a_day_of_odd_answers_outruns_no_budget(whims in prop::collection::vec(whim(), 12..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (set_config, tokens) = runtime.block_on(day(whims));
        prop_assert!(within(&tokens, 6.0, 30.0) && within(&tokens, 12.0, 300.0), "{} tokens", tokens.len());
        prop_assert!(within(&set_config, 6.0, 60.0) && within(&set_config, 12.0, 600.0), "{} set_config", set_config.len());
    }
}
