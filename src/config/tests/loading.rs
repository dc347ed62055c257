//! What is read from where, and what follows from what.

use std::num::NonZeroU32;
use std::time::Duration;

use secrecy::ExposeSecret;
use tracing::level_filters::LevelFilter;

use super::super::{Ambiguous, LogFormat, MqttProtocol, Register, Repeats};
use super::*;
use crate::local::Output;
use crate::protocol::{Accepted, Qos, Variant};

#[test]
fn the_defaults() {
    let config = load("").unwrap();
    assert_eq!(config.state_dir, PathBuf::from("/var/lib/ilink2mqtt"));
    assert_eq!(config.ilink.api.as_str(), "https://hs.kaifakuai.com:8183/");
    assert_eq!((config.ilink.timeout, config.ilink.presence_action), (Duration::from_secs(10), 2));
    assert_eq!((config.ilink.appkey.as_str(), config.ilink.uid.as_str()), ("app-1", "414"));
    assert_eq!(config.callback.listen, "0.0.0.0:8787".parse().unwrap());
    assert_eq!((config.callback.register, config.callback.repeats), (Register::IfNeeded, Repeats::Unanswered));
    assert_eq!((config.callback.signature, config.callback.max_body), (Accepted::Any, 1 << 20));
    assert_eq!(config.callback.verify_every, Duration::from_hours(6));
    assert_eq!(config.inbound.raw_max_age, Some(Duration::from_mins(5)));
    assert_eq!(config.mqtt.broker.as_str(), "mqtt://127.0.0.1:1883");
    assert_eq!((config.mqtt.protocol, config.mqtt.output), (MqttProtocol::V5, Output::Both));
    assert_eq!((config.mqtt.client_id.as_str(), config.mqtt.base_topic.as_str()), ("ilink2mqtt-414", "ilink"));
    assert_eq!(config.mqtt.allow_calls, ["send_msg/*", "ham_topic/*", "ham_group/*", "ham_user/*"]);
    assert_eq!(config.mqtt.response_topics, ["ilink/reply/#"]);
    assert_eq!((config.mqtt.session_expiry, config.mqtt.max_packet), (Duration::from_mins(5), 1 << 20));
    assert_eq!((config.outbound.ttl, config.outbound.ambiguous), (Duration::from_mins(5), Ambiguous::Retry));
    assert_eq!((config.outbound.concurrency, config.outbound.rate_per_s), (8, None));
    assert_eq!(config.outbound.ambiguous_tries.map(NonZeroU32::get), Some(3));
    assert_eq!((config.outbound.max_content, config.spool.max_bytes), (256 << 10, 512 << 20));
    assert_eq!(config.admin.listen, Some("127.0.0.1:8788".parse().unwrap()));
    assert_eq!(config.homeassistant.discovery_prefix.as_str(), "homeassistant");
    assert_eq!((config.log.level, config.log.format), (LevelFilter::INFO, LogFormat::Text));
    assert!(config.callback.tls.is_none() && config.mqtt.username.is_none() && config.ilink.proxy.is_none());
    assert!(config.warnings().is_empty());
}

#[test]
fn a_file_says_everything() {
    let config = load(
        r#"
        state_dir = "/tmp/s"
        [ilink]
        api = "http://127.0.0.1:8184/base"
        timeout = "500ms"
        proxy = "http://u:p@proxy:3128"
        subscribe = { topics = [{ subject = "home/lamp", qos = 2 }], presence = [413, "415"] }
        [callback]
        register = "always"
        signature = "chars"
        allow = ["203.0.113.0/24", "2001:db8::1"]
        max_body = 4096
        [inbound]
        raw_max_age = 0
        [mqtt]
        broker = "mqtts://broker"
        protocol = "3.1.1"
        username = "bridge"
        output = "json"
        base_topic = "home/ilink"
        [outbound]
        ttl = "90500ms"
        ambiguous = "report"
        ambiguous_tries = 0
        rate_per_s = 5
        [admin]
        listen = ""
        [log]
        level = "debug"
        format = "json"
        "#,
    )
    .unwrap();
    assert_eq!(config.ilink.api.as_str(), "http://127.0.0.1:8184/base");
    assert_eq!(config.ilink.proxy.unwrap().expose().password(), Some("p"));
    assert_eq!((config.ilink.topics[0].0.as_str(), config.ilink.topics[0].1), ("home/lamp", Qos::ExactlyOnce));
    assert_eq!(config.ilink.presence.iter().map(ToString::to_string).collect::<Vec<_>>(), ["413", "415"]);
    assert_eq!((config.callback.register, config.callback.max_body), (Register::Always, 4096));
    assert_eq!(config.callback.signature, Accepted::Only(Variant::Chars));
    assert_eq!(
        config.callback.allow.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["203.0.113.0/24", "2001:db8::1/128"]
    );
    assert_eq!(config.inbound.raw_max_age, None);
    assert_eq!((config.mqtt.broker.as_str(), config.mqtt.protocol), ("mqtts://broker:8883", MqttProtocol::V311));
    assert_eq!(config.mqtt.response_topics, ["home/ilink/reply/#"]);
    assert_eq!(config.mqtt.session_expiry, Duration::from_secs(91), "what the broker keeps must not expire earlier");
    assert_eq!((config.outbound.ambiguous, config.outbound.rate_per_s.unwrap().get()), (Ambiguous::Report, 5));
    assert_eq!(config.outbound.ambiguous_tries, None, "until they expire");
    assert_eq!((config.admin.listen, config.log.format), (None, LogFormat::Json));
}

#[test]
fn the_environment_wins_and_text_stays_text() {
    let place = Place::new(
        "[ilink]\nuid = 1\ntls.ca = \"/none\"\n[mqtt]\nusername = \"file\"\npassword = \"file\"\nclient_id = \"file\"\n\
         [outbound]\nconcurrency = 2",
    );
    let ca = place.put("ca.pem", "").display().to_string();
    let variables = [
        ("ILINK2MQTT_ILINK__UID", "0414"),
        ("ILINK2MQTT_ILINK__TLS__CA", ca.as_str()),
        ("ILINK2MQTT_MQTT__USERNAME", "5"),
        ("ILINK2MQTT_MQTT__PASSWORD", "true"),
        ("ILINK2MQTT_MQTT__CLIENT_ID", ""),
        ("ILINK2MQTT_MQTT__ALLOW_CALLS", "[\"send_msg/*\"]"),
        ("ILINK2MQTT_MQTT__PERSISTENT_SESSION", "true"),
        ("ILINK2MQTT_OUTBOUND__CONCURRENCY", "16"),
        ("ILINK2MQTT_OUTBOUND__AMBIGUOUS_TRIES", "7"),
        ("ILINK2MQTT_ILINK__SUBSCRIBE__TOPICS", "[{subject = \"a\", qos = 0}]"),
        ("ILINK2MQTT_STATE_DIR", "/tmp/elsewhere"),
        ("ILINK2MQTT_CALLBACK__ALLOW", "[\"10.0.0.0/8\"]"),
    ];
    let config = place.load(&[&LEAST[..], &variables].concat()).unwrap();
    assert_eq!((config.ilink.uid.as_str(), config.ilink.ca.unwrap().display().to_string()), ("0414", ca.clone()));
    assert_eq!(config.mqtt.username.as_deref(), Some("5"));
    assert_eq!(config.mqtt.password.unwrap().expose_secret(), "true");
    assert_eq!(config.mqtt.client_id, "ilink2mqtt-0414", "an empty variable stands for the default");
    assert_eq!(config.mqtt.allow_calls, ["send_msg/*"]);
    assert_eq!((config.mqtt.persistent_session, config.outbound.concurrency), (true, 16));
    assert_eq!(config.outbound.ambiguous_tries.map(NonZeroU32::get), Some(7));
    assert_eq!((config.ilink.topics.len(), config.callback.allow.len()), (1, 1));
    assert_eq!(config.state_dir, PathBuf::from("/tmp/elsewhere"));
}

#[test]
fn text_that_looks_like_a_list_stays_text() {
    let config =
        load_variables(&[("ILINK2MQTT_MQTT__USERNAME", "[a]"), ("ILINK2MQTT_MQTT__PASSWORD", "{\"a\" = 1}")]).unwrap();
    assert_eq!(config.mqtt.username.as_deref(), Some("[a]"));
    assert_eq!(config.mqtt.password.unwrap().expose_secret(), "{\"a\" = 1}");
}

#[test]
fn the_environment_may_name_the_file_or_be_all_there_is() {
    let place = Place::new("[mqtt]\nbase_topic = \"from/file\"");
    let file = place.file().display().to_string();
    let named = environment(&[&LEAST[..], &[("ILINK2MQTT_CONFIG", file.as_str())]].concat());
    assert_eq!(Config::load(None, &named).unwrap().mqtt.base_topic.as_str(), "from/file");
    let other = place.put("other.toml", "");
    let flag_wins = Config::load(Some(&other), &named).unwrap();
    assert_eq!(flag_wins.mqtt.base_topic.as_str(), "ilink");
    assert_eq!(Config::load(None, &environment(&LEAST)).unwrap().ilink.uid.as_str(), "414");
}

#[test]
fn systemd_says_where_the_state_is() {
    for (variable, path) in [("/var/lib/private/x:/other", "/var/lib/private/x"), ("", "/var/lib/ilink2mqtt")] {
        assert_eq!(load_variables(&[("STATE_DIRECTORY", variable)]).unwrap().state_dir, PathBuf::from(path));
    }
    let place = Place::new("state_dir = \"/mine\"");
    let config = place.load(&[&LEAST[..], &[("STATE_DIRECTORY", "/theirs")]].concat()).unwrap();
    assert_eq!(config.state_dir, PathBuf::from("/mine"));
}

#[test]
fn the_unwise_is_warned_of() {
    let config = load_variables(&[
        ("ILINK2MQTT_CALLBACK__PUBLIC_URL", "http://bridge.example.org"),
        ("ILINK2MQTT_ILINK__API", "http://hs.kaifakuai.com:8184"),
        ("ILINK2MQTT_MQTT__PERSISTENT_SESSION", "true"),
        ("ILINK2MQTT_SPOOL__MAX_BYTES", "4KiB"),
    ])
    .unwrap();
    let keys = ["callback.public_url", "ilink.api", "mqtt.persistent_session", "spool.max_bytes"];
    assert!(config.warnings().iter().zip(keys).all(|(warning, key)| warning.starts_with(key)));
    assert_eq!(config.warnings().len(), keys.len());
    let plain = "[callback]\npublic_url = \"http://bridge\"\nallow = [\"192.0.2.0/24\"]";
    let variables: Vec<_> = LEAST.into_iter().filter(|(name, _)| !name.ends_with("PUBLIC_URL")).collect();
    assert!(Place::new(plain).load(&variables).unwrap().warnings().is_empty());
}

#[test]
fn a_short_admin_token_is_warned_of_where_others_can_try_it() {
    for (listen, token, warned) in
        [("0.0.0.0:8788", "short", true), ("0.0.0.0:8788", "0123456789ab", false), ("127.0.0.1:8788", "short", false)]
    {
        let variables = [("ILINK2MQTT_ADMIN__LISTEN", listen), ("ILINK2MQTT_ADMIN__TOKEN", token)];
        let warnings = load_variables(&variables).unwrap().warnings();
        assert_eq!(warnings.iter().any(|warning| warning.starts_with("admin.token is short")), warned, "{warnings:?}");
    }
}

#[test]
fn a_token_on_loopback_is_told_to_open_only_buttons() {
    for (listen, noted) in [("127.0.0.1:8788", true), ("[::1]:8788", true), ("0.0.0.0:8788", false), ("", false)] {
        let variables = [("ILINK2MQTT_ADMIN__LISTEN", listen), ("ILINK2MQTT_ADMIN__TOKEN", "0123456789ab")];
        assert_eq!(load_variables(&variables).unwrap().notes().len(), usize::from(noted), "{listen}");
    }
    assert!(load_variables(&[]).unwrap().notes().is_empty());
}

#[test]
fn the_callback_url_holds_the_secret_before_the_query() {
    let config = load_variables(&[("ILINK2MQTT_CALLBACK__PUBLIC_URL", "https://bridge/a/?b=c")]).unwrap();
    assert_eq!(config.callback_url(&"S".into()).expose_secret(), "https://bridge/a/S?b=c");
}

#[test]
fn only_what_cannot_be_reloaded_needs_a_restart() {
    let old = load("[mqtt]\nusername = \"u\"\npassword = \"one\"").unwrap();
    let reloaded = load(
        "[mqtt]\nusername = \"u\"\npassword = \"one\"\n[log]\nlevel = \"debug\"\n[inbound]\nallow_from = [1]\n\
         [ilink]\nsubscribe.presence = [413]",
    )
    .unwrap();
    assert_eq!(old.restart_needed(&reloaded), [""; 0]);
    let changed = load("[mqtt]\nusername = \"u\"\npassword = \"two\"\noutput = \"raw\"").unwrap();
    assert_eq!(old.restart_needed(&changed), ["mqtt.password", "mqtt.output"]);
    assert_eq!(old.restart_needed(&load("").unwrap()), ["mqtt.username", "mqtt.password"]);
    let same = load("[mqtt]\nusername = \"u\"\npassword = \"one\"\n[outbound]\nttl = \"300s\"").unwrap();
    assert_eq!(old.restart_needed(&same), [""; 0], "the same value in other words");
}

#[test]
fn the_description_says_what_came_from_where() {
    let place = Place::new("[mqtt]\nbase_topic = \"home\"");
    let text = place.load(&[&LEAST[..], &[("ILINK2MQTT_OUTBOUND__TTL", "1m")]].concat()).unwrap().describe();
    let file = place.file().display().to_string();
    for line in [
        "state_dir = \"/var/lib/ilink2mqtt\"  # default",
        "[mqtt]",
        &format!("base_topic = \"home\"  # {file}"),
        "response_topics = [\"home/reply/#\"]  # default",
        "ttl = \"1m\"  # ILINK2MQTT_OUTBOUND__TTL",
        "session_expiry = \"1m\"  # default",
        "# tls.ca is not set",
        "secretkey = \"********\"  # ILINK2MQTT_ILINK__SECRETKEY",
        "concurrency = 8  # default",
    ] {
        assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
    }
}
