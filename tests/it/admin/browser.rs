//! The status page in a real browser. Needs Chromium: `.ci/page` installs it and runs these; with `PAGE_PICTURES` set to a
//! directory it leaves pictures of the page there.

use serde_json::{Value, json};

use super::chromium::{Chromium, Look};
use crate::blackbox::world::World;
use crate::support::bridge::{TIME, UID, base64, text_push};
use crate::support::eventually;

const PHONE: Look = Look { size: (390, 844), dark: false, scripts: true, language: "en" };
const DESK: Look = Look { size: (1280, 900), dark: false, scripts: true, language: "en" };

/// An id that is long, has no place to break, and would like to be markup.
fn hostile() -> String {
    format!("<img src=x onerror=document.title='mine'>{}", "x".repeat(300))
}

async fn page_of(world: &World, look: Look) -> Chromium {
    let browser = Chromium::start(look).await;
    browser.open(&format!("http://127.0.0.1:{}/", world.bridge.admin_port())).await;
    browser
}

/// Whatever is shown fits the width, nothing was asked of anybody else, and nobody complained.
async fn is_sound(browser: &Chromium, world: &World) {
    let widths = browser.evaluate("return [document.documentElement.scrollWidth, window.innerWidth]").await;
    assert!(widths[0].as_u64() <= widths[1].as_u64(), "it is wider than the screen: {widths}");
    assert_eq!(
        browser.evaluate("return document.querySelectorAll('main img, main script, main b').length").await,
        json!(0)
    );
    let own = format!("http://127.0.0.1:{}/", world.bridge.admin_port());
    // The browser's own first page does not count.
    let requests: Vec<_> = browser.requests().await.into_iter().filter(|url| !url.starts_with("chrome://")).collect();
    assert!(
        requests.contains(&own) && requests.iter().all(|url| url.starts_with(&own) || url.starts_with("data:")),
        "{requests:?}"
    );
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

async fn picture(browser: &Chromium, name: &str) {
    if let Some(directory) = std::env::var_os("PAGE_PICTURES") {
        std::fs::write(std::path::Path::new(&directory).join(format!("{name}.png")), browser.screenshot().await)
            .unwrap();
    }
}

const LIVE: &str = "return document.getElementById('live').dataset.state === 'on'";

#[tokio::test]
#[ignore = "needs Chromium: .ci/page"]
async fn messages_appear_as_they_pass() {
    let world = World::ready().await;
    for look in [PHONE, DESK] {
        let browser = page_of(&world, look).await;
        browser.until("the page to be live", LIVE).await;
        let sender = format!("someone-{}", look.size.0);
        world.bridge.push(&text_push(&sender, "x")).await;
        let shown = format!("return document.getElementById('messages').innerText.includes('{sender}')");
        browser.until("the push to be shown", &shown).await;
        world.client.publish("ilink/send/user/412/text", "hello").await;
        browser
            .until("the command", "return document.getElementById('messages').innerText.includes('send_msg/text')")
            .await;
        browser.until("a bar", "return document.querySelectorAll('#rates rect').length >= 2").await;
        is_sound(&browser, &world).await;
        picture(&browser, &format!("well-{}", look.size.0)).await;
    }
}

#[tokio::test]
#[ignore = "needs Chromium: .ci/page"]
async fn what_is_wrong_appears_and_goes_and_strangers_write_nothing() {
    let mut world = World::prepared(&[], |bridge| bridge.with_toml("admin.show_content", "true")).await;
    world.bridge.start().await;
    let browser = page_of(&world, Look { dark: true, ..PHONE }).await;
    browser.until("the page to be live", LIVE).await;
    let title = browser.evaluate("return document.title").await;
    let id = hostile();
    world.bridge.push(&text_push(&id, &id)).await;
    let subject: Value = json!({"to_uid": UID, "from_uid": id, "group_id": id, "msg_type": 4, "content": base64(id.as_bytes()), "create_time": TIME});
    world.bridge.push(&subject).await;
    world.client.publish(&format!("ilink/send/user/{id}/text"), &id).await;
    browser.until("all three", "return document.querySelectorAll('#messages tbody tr').length >= 3").await;
    assert_eq!(browser.evaluate("return document.title").await, title);
    assert_eq!(
        browser.evaluate("return matchMedia('(prefers-color-scheme: dark)').matches").await,
        json!(true),
        "it is looked at in the dark"
    );
    let dark = browser.evaluate("return getComputedStyle(document.body).backgroundColor").await;
    assert_eq!(dark, json!("rgb(18, 22, 27)"));
    is_sound(&browser, &world).await;

    world.broker.stop();
    browser.until("the trouble", "return !!document.querySelector('#problems li')").await;
    let problem = browser.evaluate("return document.getElementById('problems').innerText").await;
    assert!(problem.as_str().unwrap().contains("broker"), "{problem}");
    browser.until("the title", "return document.title.startsWith('\\u26a0')").await;
    picture(&browser, "wrong").await;
    world.broker.restart();
    browser.until("all to be well", "return !document.querySelector('#problems .bad')").await;

    // The bridge goes: the page says that it no longer knows; it comes back: the page is live again by itself.
    assert_eq!(world.bridge.stop().await.code(), Some(0));
    browser.until("the page to notice", "return document.getElementById('live').dataset.state === 'off'").await;
    world.bridge.start().await;
    browser.until("the page to be live again", LIVE).await;
}

#[tokio::test]
#[ignore = "needs Chromium: .ci/page"]
async fn without_scripts_it_is_whole_and_renews_itself() {
    let world = World::ready().await;
    let browser = page_of(&world, Look { scripts: false, ..PHONE }).await;
    let text = browser.evaluate("return document.body.innerText").await;
    let text = text.as_str().unwrap();
    for part in ["All is well", "Connections", "online", "connected", "Queues", "Last messages", "as of"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // By the page itself, after some seconds.
    world.bridge.push(&text_push("someone", "x")).await;
    browser.until("the page to renew itself", "return document.body.innerText.includes('someone')").await;
    is_sound(&browser, &world).await;
    picture(&browser, "without-scripts").await;
}

/// Tall enough for all of the page.
const TALL: [Look; 2] = [Look { size: (390, 2600), ..PHONE }, Look { size: (1280, 1900), ..DESK }];

/// In each language, on a phone and a desk, in the light and in the dark.
async fn look_at(world: &World, what: &str, headline: [&str; 2]) {
    for (language, headline) in ["en", "zh-CN"].into_iter().zip(headline) {
        for (look, dark) in TALL.into_iter().flat_map(|look| [(look, false), (look, true)]) {
            let browser = page_of(world, Look { dark, language, ..look }).await;
            browser.until("the page to be live", LIVE).await;
            let text = browser.evaluate("return document.querySelector('#problems p').innerText").await;
            let text = text.as_str().unwrap();
            assert!(text.contains(headline) && !text.contains("UTC"), "{text}");
            assert_eq!(browser.evaluate("return document.documentElement.lang").await, json!(language));
            is_sound(&browser, world).await;
            fits_fingers(&browser).await;
            let light = if dark { "dark" } else { "light" };
            picture(&browser, &format!("{what}-{language}-{}-{light}", look.size.0)).await;
        }
    }
}

/// What can be tapped is large enough, and no text lies over another.
async fn fits_fingers(browser: &Chromium) {
    let small = "return [...document.querySelectorAll('button, summary, footer a')].filter((e) => {
        const box = e.getBoundingClientRect(); return box.height < 36 || box.width < 36; }).map((e) => e.outerHTML)";
    assert_eq!(browser.evaluate(small).await, json!([]));
}

#[tokio::test]
#[ignore = "needs Chromium: .ci/page"]
async fn it_is_sound_in_both_languages_when_all_is_well_and_when_not() {
    let files = tempfile::tempdir().unwrap();
    let acl = files.path().join("acl");
    std::fs::write(&acl, "topic read #\ntopic write test/#\ntopic write ilink/bridge/#\ntopic write ilink/event/#\n")
        .unwrap();
    let conf = format!("acl_file {}\nmax_queued_messages 1000\n", acl.display());
    let mut well = World::ready().await;
    for n in 0..4 {
        well.bridge.push(&text_push("413", &n.to_string())).await;
        well.client.publish("ilink/send/user/412/text", "hello").await;
    }
    well.client.expect("ilink/result/send/user/412/text").await;
    look_at(&well, "well", ["All is well", "一切正常"]).await;
    well.broker.stop();
    well.bridge.push(&text_push("413", "x")).await;
    eventually("the trouble to be noticed", async || (well.bridge.admin("readyz").await.status == 503).then_some(()))
        .await;
    look_at(&well, "broker", ["The broker is unreachable since ", " 起连不上 broker；1 条消息在等待，没有丢失"]).await;

    let mut aside = World::prepared_on(&conf, &[], |bridge| bridge.with("admin.token", "a-token")).await;
    aside.bridge.start().await;
    for n in 0..3 {
        aside.bridge.push(&text_push("413", &n.to_string())).await;
    }
    eventually("all to be set aside", async || {
        aside.bridge.admin("").await.body.contains("3 messages are set aside").then_some(())
    })
    .await;
    let headline = ["; 3 messages are set aside and can be sent again", "；3 条消息已搁置，可以重新发送"];
    look_at(&aside, "set-aside", headline).await;
}
