//! What a real broker refuses for good is listed, and put back when the cause is gone.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::world::World;
use crate::support::bridge::{Bridge, push_of, text_push};
use crate::support::client::Out;
use crate::support::eventually;
use crate::support::http::{Answer, http};
use crate::support::process::Finished;
use rumqttc::v5::mqttbytes::v5::PubAckReason;

/// Everybody may do everything, but for these trees of the bridge's.
struct Lacking {
    world: World,
    acl: PathBuf,
    _files: tempfile::TempDir,
}

const TREES: [&str; 7] = ["bridge", "event", "send", "call", "recv", "result", "presence"];

fn lines(without: &[&str]) -> String {
    let allowed = TREES.iter().filter(|tree| !without.contains(tree));
    let lines = allowed.map(|tree| format!("topic write ilink/{tree}/#\n"));
    ["topic read #\ntopic write test/#\n".to_owned()].into_iter().chain(lines).collect()
}

impl Lacking {
    async fn start(without: &[&str], configure: impl FnOnce(Bridge) -> Bridge) -> Self {
        let files = tempfile::tempdir().unwrap();
        let acl = files.path().join("acl");
        std::fs::write(&acl, lines(without)).unwrap();
        // With no limit on its queues, Mosquitto 2.0.11 closes the connection on every publish that it refuses.
        let conf = format!("acl_file {}\nmax_queued_messages 1000\n", acl.display());
        let mut world = World::prepared_on(&conf, &[], configure).await;
        world.bridge.start().await;
        Self { world, acl, _files: files }
    }

    /// Adds the lines that lack, and waits until the broker has read them.
    async fn allow_all(&self) {
        std::fs::write(&self.acl, lines(&[])).unwrap();
        self.world.broker.reload();
        eventually("the broker to have read its ACL", async || {
            for tree in TREES {
                let probe = Out::new(&format!("ilink/{tree}/probe/of/the/acl"), "x");
                if tree != "send"
                    && tree != "call"
                    && self.world.client.attempt(probe).await == PubAckReason::NotAuthorized
                {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// The list, once it has so many entries.
    async fn listed(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} to be set aside"), async || {
            let list = self.verb(&["list", "--json"]).await;
            assert_eq!(list.code, Some(0), "{list:?}");
            let list: Vec<Value> = serde_json::from_str(&list.stdout).unwrap();
            (list.len() == count).then_some(list)
        })
        .await
    }

    async fn verb(&self, arguments: &[&str]) -> Finished {
        self.world.bridge.verb(&[&["set-aside"], arguments].concat()).await
    }

    fn raw(&self) -> Vec<String> {
        let raw = self.world.client.all(|message| message.topic == "ilink/recv/user/413/text");
        raw.into_iter().map(|message| message.text().to_owned()).collect()
    }
}

#[tokio::test]
async fn after_the_acl_line_was_added_retry_delivers_in_order_with_the_same_ids() {
    let lacking = Lacking::start(&["recv"], |bridge| bridge).await;
    let (bridge, client) = (&lacking.world.bridge, &lacking.world.client);
    let mut ids = Vec::new();
    for n in ["0", "1", "2"] {
        bridge.push(&text_push("413", n)).await;
        ids.push(client.expect_json("ilink/event/text", |event| event["content"] == n).await["id"].clone());
    }
    let list = lacking.listed(3).await;
    for (entry, id) in list.iter().zip(&ids) {
        assert_eq!((&entry["id"], &entry["kind"], &entry["from"]), (id, &json!("text"), &json!("413")), "{entry}");
        assert_eq!(entry["refused"].as_array().unwrap().len(), 1, "the event was taken: {entry}");
        assert_eq!(
            (&entry["refused"][0]["topic"], &entry["refused"][0]["bytes"]),
            (&json!("ilink/recv/user/413/text"), &json!(1))
        );
        assert!(entry["refused"][0]["why"].as_str().unwrap().contains("topic write ilink/recv/#"), "{entry}");
        assert_eq!(entry["content"], Value::Null);
    }
    let told = bridge.verb(&["status"]).await.text;
    assert!(told.contains("3 kept that the broker refused for good; `ilink2mqtt set-aside list` says why"), "{told}");
    let listed = lacking.verb(&["list"]).await.stdout;
    assert!(listed.contains("text from 413, set aside 20") && listed.contains("topic write ilink/recv/#"), "{listed}");

    let unknown = lacking.verb(&["retry", "01ARZ3NDEKTSV4RRFFQ69G5FAV"]).await;
    assert!(unknown.code == Some(64) && unknown.text.contains("set-aside list"), "{unknown:?}");
    // Too early: what is refused again is set aside again, and nothing is lost.
    let early = lacking.verb(&["retry", ids[0].as_str().unwrap()]).await;
    assert_eq!((early.code, early.stdout.trim()), (Some(0), "1 put back"), "{early:?}");
    let list = lacking.listed(3).await;
    assert_eq!(list[2]["id"], ids[0]);

    lacking.allow_all().await;
    let done = lacking.verb(&["retry", "--all"]).await;
    assert_eq!((done.code, done.stdout.trim()), (Some(0), "3 put back"), "{done:?}");
    for (n, id) in [("1", &ids[1]), ("2", &ids[2]), ("0", &ids[0])] {
        let raw = client.expect("ilink/recv/user/413/text").await;
        assert_eq!((raw.text(), raw.user("id")), (n, id.as_str()));
    }
    assert!(lacking.listed(0).await.is_empty());
    bridge.waiting("inbound", 0).await;
    client.settle().await;
    // Only what had been refused.
    assert_eq!(lacking.raw().len(), 3);
    assert_eq!(client.all(|message| message.topic == "ilink/event/text").len(), 3);
    eventually("`status` to say so", async || {
        let told = bridge.verb(&["status"]).await.text;
        (told.contains("  set_aside_retried 4") && told.contains("set aside       0 kept")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_has_become_too_old_comes_as_an_event() {
    let lacking = Lacking::start(&["recv"], |bridge| bridge.with("inbound.raw_max_age", "2s")).await;
    let (bridge, client) = (&lacking.world.bridge, &lacking.world.client);
    bridge.push(&text_push("413", "on")).await;
    let event = client.expect_json("ilink/event/text", |event| event["content"] == "on").await;
    // A slow machine may have been too late already.
    let was_late = event["late"] == true;
    if was_late {
        return;
    }
    lacking.listed(1).await;
    lacking.allow_all().await;
    let accepted = humantime::parse_rfc3339(event["received_at"].as_str().unwrap()).unwrap();
    eventually("the message to be too old", async || {
        (accepted.elapsed().is_ok_and(|age| age > std::time::Duration::from_millis(2100))).then_some(())
    })
    .await;
    assert_eq!(lacking.verb(&["retry", "--all"]).await.code, Some(0));
    let again = client.expect_json("ilink/event/text", |event| event["late"] == true).await;
    assert_eq!((&again["id"], &again["content"]), (&event["id"], &json!("on")));
    client.settle().await;
    assert!(lacking.raw().is_empty(), "yesterday's order switches nothing on");
}

#[tokio::test]
async fn what_has_become_too_old_for_its_route_is_counted_and_told() {
    const BRIEF: &str =
        "[[route.from_ilink]]\nname = \"brief\"\nfrom = \"user/413/text\"\ntopic = \"out/x\"\nmax_age = \"1s\"\n";
    // Everything of the bridge's own, and no topic of the route's.
    let lacking = Lacking::start(&[], |bridge| bridge.with_tables(BRIEF)).await;
    let bridge = &lacking.world.bridge;
    bridge.push(&text_push("413", "on")).await;
    let list = lacking.listed(1).await;
    assert_eq!(list[0]["refused"][0]["topic"], "out/x", "{list:?}");
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(lacking.verb(&["retry", "--all"]).await.code, Some(0));
    bridge.logged("a message that was put back is not sent to its route").await;
    lacking.listed(0).await;
    eventually("`status` to say so", async || {
        let told = bridge.verb(&["status"]).await.text;
        (told.contains("  set_aside_unsent 1") && told.contains("too old for its route: not sent")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_older_picture_that_is_put_back_does_not_replace_the_last() {
    let lacking = Lacking::start(&[], |bridge| {
        let contacts = r#"[{ uid = "413", name = "Ann" }]"#;
        bridge.with_toml("homeassistant.enabled", "true").with_toml("homeassistant.contacts", contacts)
    })
    .await;
    let (bridge, client) = (&lacking.world.bridge, &lacking.world.client);
    let picture = |n: u8| push_of("413", 2, &[b"GIF89a", &[n][..]].concat());
    bridge.push(&picture(1)).await;
    lacking.listed(1).await;
    std::fs::write(&lacking.acl, lines(&[]) + "topic write ilink/picture/#\n").unwrap();
    lacking.world.broker.reload();
    client.subscribe("ilink/picture/#").await;
    // Until the broker has read its rights; what it refused before is put back with the first.
    let mut n = 1;
    eventually("a picture to be taken", async || {
        n += 1;
        bridge.push(&picture(n)).await;
        bridge.waiting("inbound", 0).await;
        (!client.all(|message| message.topic == "ilink/picture/413").is_empty()).then_some(())
    })
    .await;
    assert_eq!(lacking.verb(&["retry", "--all"]).await.code, Some(0));
    bridge.logged("a picture that was put back is older than the last one").await;
    lacking.listed(0).await;
    bridge.waiting("inbound", 0).await;
    client.settle().await;
    let shown = client.all(|message| message.topic == "ilink/picture/413");
    let numbers: Vec<u8> = shown.iter().filter_map(|picture| picture.payload.last().copied()).collect();
    assert!(numbers.last() == Some(&n) && !numbers.contains(&1), "{numbers:?}");
}

#[tokio::test]
async fn without_a_daemon_they_go_back_for_the_next_start() {
    let mut lacking = Lacking::start(&["recv", "result"], |bridge| bridge).await;
    for n in ["0", "1", "2"] {
        lacking.world.bridge.push(&text_push("413", n)).await;
    }
    lacking.world.client.publish("ilink/send/user/412/text", "x").await;
    let list = lacking.listed(4).await;
    let id = |content: &str| {
        let events = lacking.world.client.all(|message| message.topic == "ilink/event/text");
        let event = events.iter().map(crate::support::client::Message::json).find(|event| event["content"] == content);
        event.unwrap()["id"].as_str().unwrap().to_owned()
    };
    let (first, second) = (id("0"), id("1"));
    let result = list.iter().find(|entry| entry["kind"] == "result").unwrap().clone();
    assert_eq!(result["refused"][0]["topic"], "ilink/result/send/user/412/text");
    lacking.world.bridge.stop().await;

    assert_eq!(lacking.listed(4).await, list);
    let dropped = lacking.verb(&["drop", &second]).await;
    assert_eq!((dropped.code, dropped.stdout.trim()), (Some(0), "1 dropped"), "{dropped:?}");
    let done = lacking.verb(&["retry", &first, result["id"].as_str().unwrap()]).await;
    assert_eq!((done.code, done.stdout.trim()), (Some(0), "2 put back"), "{done:?}");
    assert_eq!(lacking.listed(1).await.len(), 1);
    lacking.allow_all().await;
    lacking.world.bridge.start().await;
    let raw = lacking.world.client.expect("ilink/recv/user/413/text").await;
    assert_eq!((raw.text(), raw.user("id")), ("0", Some(&*first)));
    let told = lacking.world.client.expect("ilink/result/send/user/412/text").await.json();
    assert_eq!((&told["id"], &told["status"]), (&result["id"], &json!("ok")));
    let list = lacking.listed(1).await;
    assert_eq!(lacking.verb(&["retry", list[0]["id"].as_str().unwrap()]).await.code, Some(0));
    lacking.world.client.expect_text("ilink/recv/user/413/text", "2").await;
    // The call was made once.
    assert_eq!(lacking.world.sim.calls("send_msg").await.len(), 1);
}

const TOKEN: &str = "an-admin-token";

async fn post(bridge: &Bridge, headers: &[(&str, &str)], form: &[(&str, &str)]) -> Answer {
    let url = format!("http://127.0.0.1:{}/set-aside", bridge.admin_port());
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let mut request = http().post(url).header("content-type", "application/x-www-form-urlencoded").body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request).await
}

#[tokio::test]
async fn the_page_has_a_form_that_only_it_can_send() {
    let lacking = Lacking::start(&["recv"], |bridge| bridge.with("admin.token", TOKEN)).await;
    let (bridge, client) = (&lacking.world.bridge, &lacking.world.client);
    for n in ["0", "1", "2"] {
        bridge.push(&text_push("413", n)).await;
    }
    let list = lacking.listed(3).await;
    lacking.allow_all().await;
    let page = bridge.admin("").await;
    assert!(page.header("content-security-policy").contains("form-action 'self'"));
    assert_eq!(page.header("referrer-policy"), "same-origin", "with none, browsers do not say where a form comes from");
    assert!(page.body.contains(r#"<form method="post" action="set-aside">"#), "{}", page.body);
    let word = page.body.split_once(r#"name="word" value=""#).unwrap().1.split('"').next().unwrap().to_owned();
    let id = list[1]["id"].as_str().unwrap();
    assert!(page.body.contains(&format!(r#"name="id" value="{id}""#)), "{}", page.body);

    let (bearer, form) = (format!("Bearer {TOKEN}"), [("word", word.as_str()), ("do", "retry"), ("id", id)]);
    let token = ("authorization", bearer.as_str());
    let own = format!("http://127.0.0.1:{}", bridge.admin_port());
    for (what, headers, form, status) in [
        ("no token", &[][..], &form[..], 401),
        ("a wrong one", &[("authorization", "Bearer x")], &form, 401),
        ("another site", &[token, ("sec-fetch-site", "cross-site")], &form, 403),
        ("another origin", &[token, ("origin", "http://evil.example")], &form, 403),
        ("an origin that hides", &[token, ("origin", "null")], &form, 403),
        ("another name", &[token, ("host", "evil.example")], &form, 403),
        ("no word", &[token], &form[1..], 403),
        ("a wrong word", &[token], &[("word", "1"), form[1], form[2]], 403),
        ("nothing to do", &[token], &[form[0], form[2]], 400),
        ("an unknown id", &[token], &[form[0], form[1], ("id", "01X")], 409),
        ("no id", &[token], &form[..2], 409),
        ("to drop what was not shown", &[token], &[form[0], ("do", "drop"), ("all", "")], 409),
    ] {
        assert_eq!(post(bridge, headers, form).await.status, status, "{what}");
    }
    assert_eq!(bridge.admin("set-aside").await.status, 405);
    assert_eq!(lacking.listed(3).await, list, "nothing has moved");

    let done = post(bridge, &[token, ("origin", &own), ("sec-fetch-site", "same-origin")], &form).await;
    assert_eq!((done.status, done.header("location")), (303, "./#set_aside"), "{done:?}");
    client.expect_text("ilink/recv/user/413/text", "1").await;
    let drop = [form[0], ("do", "drop"), ("id", list[0]["id"].as_str().unwrap())];
    assert_eq!(post(bridge, &[token], &drop).await.status, 303);
    let all = [form[0], form[1], ("all", "")];
    assert_eq!(post(bridge, &[token], &all).await.status, 303);
    client.expect_text("ilink/recv/user/413/text", "2").await;
    lacking.listed(0).await;
    assert_eq!(lacking.raw(), ["1", "2"]);
    eventually("the form to go", async || (!bridge.admin("").await.body.contains("<form")).then_some(())).await;
}

#[tokio::test]
async fn without_a_token_the_page_only_shows() {
    let lacking = Lacking::start(&["recv"], |bridge| bridge).await;
    let bridge = &lacking.world.bridge;
    bridge.push(&text_push("413", "a private word")).await;
    lacking.listed(1).await;
    let page = bridge.admin("").await.body;
    assert!(page.contains("<h2>Set aside</h2>") && page.contains("ilink/recv/user/413/text"), "{page}");
    assert!(!page.contains("<form") && !page.contains("private"), "{page}");
    assert_eq!(post(bridge, &[], &[("do", "drop"), ("all", "")]).await.status, 403);
    lacking.listed(1).await;
}
