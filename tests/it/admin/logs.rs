//! The log where nobody sees it but a machine: as JSON, and in the journal.

use serde_json::Value;

use crate::blackbox::world::World;
use crate::support::bridge::text_push;

#[tokio::test]
async fn each_line_is_a_json_object() {
    let mut world = World::ready_with(|bridge| bridge.with("log.format", "json")).await;
    world.bridge.push(&text_push("413", "x")).await;
    world.bridge.logged("a push is done with").await;
    world.broker.stop();
    world.bridge.logged("the connection to the broker was lost").await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    let log = world.bridge.log();
    let mut levels = std::collections::BTreeSet::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(line["message"].is_string() && line["target"].is_string(), "{line}");
        assert!(humantime::parse_rfc3339(line["timestamp"].as_str().unwrap()).is_ok(), "{line}");
        levels.insert(line["level"].as_str().unwrap().to_owned());
    }
    assert!(["DEBUG", "INFO", "WARN"].iter().all(|level| levels.contains(*level)), "{levels:?}\n{log}");
}

#[tokio::test]
async fn in_the_journal_lines_have_priorities_and_no_times() {
    for format in ["text", "json"] {
        let mut world = World::prepared(&[], |bridge| bridge.with("log.format", format).in_the_journal()).await;
        world.bridge.start().await;
        world.bridge.push(&text_push("413", "x")).await;
        world.bridge.logged("a push is done with").await;
        world.broker.stop();
        world.bridge.logged("the connection to the broker was lost").await;
        assert_eq!(world.bridge.stop().await.code(), Some(0));
        let log = world.bridge.log();
        for line in log.lines() {
            let (priority, rest) = line.strip_prefix('<').and_then(|line| line.split_once('>')).expect(line);
            let level = match format {
                "text" => rest.split_whitespace().next().unwrap().to_owned(),
                _ => serde_json::from_str::<Value>(rest).unwrap()["level"].as_str().unwrap().to_owned(),
            };
            let expected = match level.as_str() {
                "ERROR" => "3",
                "WARN" => "4",
                "INFO" => "6",
                "DEBUG" => "7",
                other => panic!("{other}: {line}"),
            };
            assert_eq!(priority, expected, "{line}");
            assert!(!line.contains('\x1b'));
        }
        assert!(log.contains("<4>") && log.contains("<6>") && log.contains("<7>"), "{log}");
    }
}

#[tokio::test]
async fn elsewhere_an_inherited_journal_changes_nothing() {
    let mut world = World::ready_with(|bridge| bridge.with_env("JOURNAL_STREAM", "1:2")).await;
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    let log = world.bridge.log();
    assert!(log.lines().all(|line| line.starts_with("20")), "{log}");
    // The program's own lines speak for themselves.
    assert!(log.contains(" INFO stopped") && !log.contains("ilink2mqtt::"), "{log}");
}
