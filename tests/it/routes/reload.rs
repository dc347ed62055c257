//! SIGHUP: all or nothing, and the subscriptions follow.

use rustix::process::Signal;

use super::{World, counted, eventually, texts, told, world};
use crate::support::bridge::text_push;

fn route(name: &str, subscribe: &str) -> String {
    format!(
        "\n[[route.to_ilink]]\nname = \"{name}\"\nsubscribe = \"{subscribe}\"\nto = \"user/413/text\"\npayload = \"{name} ${{payload}}\"\n"
    )
}

async fn reload(world: &mut World, tables: &str, log: &str) {
    world.bridge.set_tables(tables);
    world.bridge.write_config();
    let times = |world: &World| world.bridge.log().matches(log).count();
    let before = times(world);
    world.bridge.process().signal(Signal::HUP);
    eventually(log, async || (times(world) > before).then_some(())).await;
}

/// Waits until the broker has read this of a request of the bridge's.
async fn broker_saw(world: &World, request: &str, filter: &str, times: usize) {
    eventually(&format!("{request} {filter}"), async || {
        let log = world.broker.log();
        let mut lines = log.lines().filter(|line| !line.is_empty());
        let mut seen = 0;
        while let Some(line) = lines.next() {
            if line.contains(&format!("Received {request} from ilink2mqtt")) {
                let after = lines
                    .clone()
                    .take_while(|line| !line.contains("Received ") && !line.contains("Sending "))
                    .filter(|line| line.contains(filter));
                seen += after.count();
            }
        }
        (seen >= times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn routes_come_change_and_go() {
    let mut world = world("").await;
    let first = route("first", "stat/+/POWER");
    reload(&mut world, &first, "the configuration was reloaded").await;
    broker_saw(&world, "SUBSCRIBE", "stat/+/POWER", 1).await;
    world.client.publish("stat/lamp/POWER", "ON").await;
    assert_eq!(texts(&world, 1).await, ["first ON"]);
    assert!(!world.bridge.log().contains("takes effect at the next restart"), "{}", world.bridge.log());

    // A broken file keeps what was, and says why.
    let broken = format!("{}{}", route("second", "tele/+"), route("second", "ilink/#"));
    reload(&mut world, &broken, "was not reloaded").await;
    world.bridge.logged("touches the bridge's own topics").await;
    world.client.publish("tele/lamp", "nothing").await;
    world.client.publish("stat/lamp/POWER", "OFF").await;
    assert_eq!(texts(&world, 2).await[1], "first OFF");

    // What goes is no longer heard; what stays goes on counting.
    let second = r#"
[[route.from_ilink]]
name = "out"
from = "user/413/text"
topic = "out/x"
"#
    .to_owned()
        + &route("second", "tele/+");
    reload(&mut world, &second, "the configuration was reloaded").await;
    broker_saw(&world, "UNSUBSCRIBE", "stat/+/POWER", 1).await;
    broker_saw(&world, "SUBSCRIBE", "tele/+", 1).await;
    world.bridge.push(&text_push("413", "hello")).await;
    world.client.expect_text("out/x", "hello").await;
    world.client.publish("stat/lamp/POWER", "ON").await;
    world.client.publish("tele/lamp", "there").await;
    assert_eq!(texts(&world, 3).await[2], "second there");
    assert_eq!(told(&world).await.len(), 3);
}

/// Routes whose numbers must last.
fn lasting(hold: &str, to: &str, above: u32) -> String {
    let of = |name: &str, to: &str, above: u32| {
        format!(
            "\n[[route.to_ilink]]\nname = \"{name}\"\nsubscribe = \"tele/{name}\"\nto = \"user/{to}/text\"\n\
             above = {above}\nfor = \"{hold}\"\npayload = \"{name} ${{value}} for {to}\"\n"
        )
    };
    of("moved", to, 30) + &of("raised", "413", above) + &of("same", "413", 30)
}

/// All of them, and each has heard a number that must last.
async fn begun(hold: &str) -> World {
    let world = world(&lasting(hold, "413", 30)).await;
    for name in ["moved", "raised", "same"] {
        world.client.publish(&format!("tele/{name}"), "31").await;
        counted(&world, name, "lasting 1").await;
    }
    world
}

async fn told_as_the_routes_are_now(world: &World) {
    let mut told = texts(world, 2).await;
    told.sort();
    assert_eq!(told, ["moved 31 for 412", "same 31 for 413"]);
}

#[tokio::test]
async fn what_lasts_is_told_as_the_route_is_by_then() {
    let mut world = begun("10s").await;
    reload(&mut world, &lasting("10s", "412", 40), "the configuration was reloaded").await;
    told_as_the_routes_are_now(&world).await;
}

#[tokio::test]
async fn what_lasts_is_told_after_a_restart_as_the_route_is_by_then() {
    let mut world = begun("15s").await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.bridge.set_tables(&lasting("15s", "412", 40));
    world.bridge.start().await;
    told_as_the_routes_are_now(&world).await;
}

#[tokio::test]
async fn a_session_is_unsubscribed_from_what_an_earlier_run_wanted() {
    let mut world = world(&route("first", "stat/+/POWER")).await;
    world.client.publish("stat/lamp/POWER", "ON").await;
    texts(&world, 1).await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.bridge.set_tables(&route("second", "tele/+"));
    world.bridge.start().await;
    broker_saw(&world, "UNSUBSCRIBE", "stat/+/POWER", 1).await;
    // Once only.
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    world.bridge.start().await;
    world.client.publish("tele/lamp", "x").await;
    assert_eq!(texts(&world, 2).await[1], "second x");
    let log = world.broker.log();
    assert_eq!(log.matches("\tstat/+/POWER").count() - log.matches("\tstat/+/POWER (QoS").count(), 1, "{log}");
}
