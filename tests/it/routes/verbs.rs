//! `route test`, `route list`, `check`: no daemon, no broker, no iLink.

use super::{EXAMPLES, World, sensor};
use crate::support::bridge::{Bridge, UID};
use crate::support::deserted::Deserted;

async fn offline(routes: &str) -> World {
    // Asked by nothing here.
    let nobody = Deserted::new().url("mqtt");
    World::prepared(&[], |bridge| bridge.with_tables(routes).with("mqtt.broker", &nobody)).await
}

#[tokio::test]
async fn a_dry_run_shows_what_would_happen() {
    let world = offline(EXAMPLES).await;
    for (args, says) in [
        (&["--from", "user/413/text", "lamp on"][..], "power: publishes to cmnd/lamp/POWER: ON\n"),
        (&["--from", "user/413/text", "hello"], "power: does not fire: match does not match\n"),
        (&["--from", "user/9/text", "lamp on"], "no route is for user/9/text\n"),
        (&["--from", "group/4cdad356-85b4-008627/413", "暖气关"], "heater: publishes to cmnd/heater/POWER: OFF\n"),
        (
            &["--from", "topic/home/lamp", r#"{"level":7}"#],
            "dim: publishes to zigbee2mqtt/lamp/set: {\"brightness\":7}\n",
        ),
        (&["--from", "topic/home/lamp", "{}"], "dim: does not fire: there is no ${json:/level}\n"),
        (&["--topic", "stat/x/POWER", "ON"], "power-state: sends a text to user 413: x: ON\n"),
        (&["--topic", "tele/hall/SENSOR", &sensor(21.5)], "temp: sends to topic home/hall/temp: 21.5\n"),
        (&["--topic", "stat/x", "ON"], "no route subscribes to stat/x\n"),
    ] {
        let ran = world.bridge.verb(&[&["route", "test"], args].concat()).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), says), "{args:?}: {}", ran.text);
    }
    let wrong = world.bridge.verb(&["route", "test", "--from", "413", "x"]).await;
    assert_eq!(wrong.code, Some(64), "{wrong:?}");
    assert!(wrong.text.contains("user/<uid>/text"), "{wrong:?}");
    assert!(world.sim.calls("set_config").await.is_empty() && !world.bridge.state_dir().exists());
}

#[tokio::test]
async fn a_dry_run_knows_whose_messages_fire_nothing() {
    let routes = r#"
        [[route.from_ilink]]
        name = "any"
        from = "user/+/text"
        any_sender = true
        topic = "out/${1}"
    "#;
    let nobody = Deserted::new().url("mqtt");
    let prepare = |bridge: Bridge| bridge.with_tables(routes).with("mqtt.broker", &nobody);
    let open = World::prepared(&[], prepare).await;
    let closed = World::prepared(&[], |bridge| prepare(bridge).with_toml("inbound.allow_from", r#"["413"]"#)).await;
    for (world, sender, says) in [
        (&open, "9", "any: publishes to out/9: x\n"),
        (
            &open,
            UID,
            "no route fires for user/414/text: they are the bridge's own messages (ilink.uid), which fire none\n",
        ),
        (&closed, "413", "any: publishes to out/413: x\n"),
        (&closed, "9", "no route fires for user/9/text: the sender is not in inbound.allow_from\n"),
    ] {
        let ran = world.bridge.verb(&["route", "test", "--from", &format!("user/{sender}/text"), "x"]).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), says), "{ran:?}");
    }
}

#[tokio::test]
async fn a_dry_run_can_be_told_who_publishes_to_a_topic() {
    let routes = r#"
        [[route.from_ilink]]
        name = "who"
        from = "topic/home/lamp"
        any_sender = true
        topic = "out"
        payload = "${from_uid}"
        reply = "thanks"
        [names]
        ann = "413"
        [inbound]
        allow_from = ["@ann"]
    "#;
    let world = offline(routes).await;
    let missing = "who: does not fire: there is no ${from_uid}: name who publishes with --sender\n";
    let fires = "who: publishes to out: 413\nwho: replies to user 413: thanks\n";
    for (args, code, says) in [
        (&["--from", "topic/home/lamp"][..], 0, missing),
        (&["--from", "topic/home/lamp", "--sender", "413"], 0, fires),
        (&["--from", "topic/home/lamp", "--sender", "@ann"], 0, fires),
        (&["--from", "topic/home/lamp", "--sender", "9"], 0, "the sender is not in inbound.allow_from"),
        (&["--from", "topic/home/lamp", "--sender", "@an"], 64, "did you mean @ann?"),
        (&["--from", "user/413/text", "--sender", "413"], 64, "--sender is for topic/<subject> only"),
        (&["--topic", "home/lamp", "--sender", "413"], 64, "--sender"),
    ] {
        let ran = world.bridge.verb(&[&["route", "test"], args, &["x"]].concat()).await;
        assert!(ran.code == Some(code) && ran.text.contains(says), "{args:?}: {ran:?}");
    }
}

#[tokio::test]
async fn the_routes_are_listed_and_checked() {
    let mut world = offline(EXAMPLES).await;
    let list = world.bridge.verb(&["route", "list"]).await;
    assert_eq!(list.code, Some(0), "{list:?}");
    for line in [
        "heater: from iLink group/4cdad356-85b4-008627/413 matching ^暖气(?<v>开|关)$ to cmnd/heater/POWER",
        "power-state: to iLink user/413/text from stat/+/POWER (changes only)",
        "temp: to iLink topic/home/${1}/temp from tele/+/SENSOR (newest only, at most every 5m)",
    ] {
        assert!(list.stdout.lines().any(|other| other == line), "{line} in\n{}", list.stdout);
    }
    let check = world.bridge.verb(&["check"]).await;
    assert!(check.stdout.contains("[[route.to_ilink]]\nname = \"temp\""), "{check:?}");
    let acl = world.bridge.verb(&["check", "--acl"]).await.stdout;
    assert!(acl.contains("topic read stat/+/POWER\n") && acl.contains("topic write cmnd/+/POWER\n"), "{acl}");

    world.bridge.set_tables(&EXAMPLES.replace("stat/+/POWER", "cmnd/+/+"));
    for command in [&["check"][..], &["run"], &["route", "list"]] {
        let refused = world.bridge.verb(command).await;
        assert_eq!(refused.code, Some(64), "{command:?}: {refused:?}");
        for says in ["route.from_ilink 1 (\"power\")", "route.to_ilink 1 (\"power-state\")", "loop", "config.toml"] {
            assert!(refused.text.contains(says), "{says}: {}", refused.text);
        }
    }
    world.bridge.set_tables("");
    assert_eq!(world.bridge.verb(&["route", "list"]).await.stdout, "there are no routes\n");
}
