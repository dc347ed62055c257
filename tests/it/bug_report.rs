//! `report`: one archive that tells how the bridge is, and neither secrets nor content nor who was talked to.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;

use crate::blackbox::world::World;
use crate::support::bridge::{Bridge, SECRET, UID, text_push};
use crate::support::sim::{APPKEY, SECRETKEY};

/// The texts in an archive, by name.
fn unpacked(path: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(GzDecoder::new(std::fs::File::open(path).unwrap()));
    let texts = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().strip_prefix("ilink2mqtt-report").unwrap().to_str().unwrap().to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (name, text)
    });
    texts.collect()
}

pub(crate) async fn report(bridge: &Bridge, name: &str) -> BTreeMap<String, String> {
    let path = bridge.dir().join(name);
    let done = bridge.verb(&["report", path.to_str().unwrap()]).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let texts = unpacked(&path);
    for (name, text) in &texts {
        for secret in [SECRET, SECRETKEY, APPKEY] {
            assert!(!text.contains(secret), "{name}: {text}");
        }
    }
    texts
}

/// The pseudonym of the uid in the configuration.
fn own_uid(texts: &BTreeMap<String, String>) -> &str {
    let line = texts["config.toml"].lines().find(|line| line.starts_with("uid = ")).unwrap();
    line.split('"').nth(1).unwrap()
}

#[tokio::test]
async fn a_running_bridge_tells_all_but_secrets_content_and_names() {
    let mut world = World::ready_with(|bridge| bridge.with_toml("admin.show_content", "true")).await;
    world.bridge.push(&text_push("90413", "nobody may read this")).await;
    world.client.expect_text("ilink/recv/user/90413/text", "nobody may read this").await;
    world.client.publish("ilink/send/user/90414/text", "nor this").await;
    world.client.expect_json("ilink/result/send/user/90414/text", |result| result["status"] == "ok").await;

    let texts = report(&world.bridge, "one.tar.gz").await;
    let names: Vec<_> = texts.keys().map(String::as_str).collect();
    assert_eq!(names, ["about.txt", "config.toml", "log.txt", "metrics.txt", "status.json", "status.txt"]);
    for (name, text) in &texts {
        for hidden in ["nobody may read", "nor this", "90413", "90414"] {
            assert!(!text.contains(hidden), "{name} has {hidden}: {text}");
        }
    }
    for (name, says) in [
        ("about.txt", env!("CARGO_PKG_VERSION")),
        ("about.txt", "spool.db"),
        ("config.toml", "[mqtt]"),
        ("log.txt", "connected to the broker"),
        ("metrics.txt", "ilink2mqtt_pushes_total"),
        ("status.txt", "is running since"),
    ] {
        assert!(texts[name].contains(says), "{name}: {}", texts[name]);
    }
    let own = own_uid(&texts).to_owned();
    assert!(!texts["config.toml"].contains(UID), "{}", texts["config.toml"]);
    let status: serde_json::Value = serde_json::from_str(&texts["status.json"]).expect("JSON");
    assert_eq!(status["health"]["callback"]["rejected"]["uid"], 0, "{status}");
    assert!(own.starts_with("id-") && texts["status.txt"].contains(&own), "{own}: {}", texts["status.txt"]);

    // The same bridge, stopped: it has the same pseudonyms. What is there already is not written over.
    world.bridge.stop().await;
    let dead = report(&world.bridge, "two.tar.gz").await;
    assert!(dead["status.txt"].starts_with("it does not run"), "{}", dead["status.txt"]);
    assert_eq!(own_uid(&dead), own);
    assert!(!dead["log.txt"].trim().is_empty(), "the log, or why there is none");
    let taken = world.bridge.dir().join("two.tar.gz");
    let again = world.bridge.verb(&["report", taken.to_str().unwrap()]).await;
    assert!(again.code == Some(64) && again.text.contains("two.tar.gz cannot be written: it is there"), "{again:?}");
    let nowhere = world.bridge.dir().join("nowhere/two.tar.gz");
    let again = world.bridge.verb(&["report", nowhere.to_str().unwrap()]).await;
    assert!(again.code == Some(64) && again.text.contains("its directory does not exist"), "{again:?}");
}

#[tokio::test]
async fn a_bridge_that_cannot_start_has_a_report_too() {
    let mut bridge = World::prepared(&[], |bridge| bridge).await.bridge;
    bridge.set("mqtt.brocker", "x");
    let texts = report(&bridge, "broken.tar.gz").await;
    assert!(texts["config.toml"].contains("there is no key mqtt.brocker"), "{texts:?}");
    assert!(texts["about.txt"].contains("kernel"), "{texts:?}");
}

/// What a broker refuses is in the report by its topic, which may be made of ids and of content.
#[tokio::test]
async fn topics_that_the_broker_refuses_show_neither_ids_nor_content() {
    let acl = tempfile::NamedTempFile::new().unwrap();
    let denied = ["homeassistant/#", "shout/#", "ilink/result/#", "ilink/by/+/result/#", "ilink/reply/#"];
    let denied = denied.map(|filter| format!("topic deny {filter}\n")).concat();
    std::fs::write(acl.path(), format!("topic readwrite #\n{denied}")).unwrap();
    let configure = |bridge: Bridge| {
        let contacts = r#"[{uid="90413",name="Ann"},{group="gsecret-1",name="F"},{subject="attic/lamp",name="L"}]"#;
        let route = "topic = \"shout/${from_uid}/${payload}\"";
        bridge
            .with("log.level", "info")
            .with_toml("homeassistant.enabled", "true")
            .with_toml("homeassistant.contacts", contacts)
            .with_tables(&format!(
                "[[route.from_ilink]]\nname = \"shout\"\nfrom = \"user/+/text\"\nany_sender = true\n{route}\n"
            ))
    };
    let mut world = World::prepared_on(&format!("acl_file {}\n", acl.path().display()), &[], configure).await;
    world.bridge.start().await;
    world.bridge.push(&text_push("90414", "zontent \"zord\"; zead: zhis")).await;
    for topic in ["ilink/send/user/90415/text", "ilink/by/zclient/send/user/90415/text"] {
        world.client.publish(topic, "on").await;
    }
    for topic in ["homeassistant/", "shout/", "ilink/result/", "ilink/by/zclient/"] {
        world.bridge.logged(&format!("topic=\"{topic}")).await;
    }
    let texts = report(&world.bridge, "refused.tar.gz").await;
    for (name, text) in &texts {
        for hidden in ["90413", "90414", "90415", "gsecret", "attic", "zontent", "zord", "zead", "zhis", "zclient"] {
            let lines: Vec<_> = text.lines().filter(|line| line.contains(hidden)).collect();
            assert!(
                lines.is_empty() || ["config.toml", "about.txt"].contains(&&**name),
                "{name} has {hidden}: {lines:?}"
            );
        }
    }
    for name in ["log.txt", "status.txt", "status.json"] {
        assert!(texts[name].contains("topic write homeassistant/"), "{name}: {}", texts[name]);
    }
}
