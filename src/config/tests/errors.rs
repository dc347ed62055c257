//! Every kind of mistake is told with its key, where it was made, and what is allowed.

use super::*;

/// The error of a file's text, which must say all of this.
fn refused(toml: &str, says: &[&str]) {
    assert_says(&load(toml).unwrap_err(), says);
}

fn assert_says(error: &ConfigError, says: &[&str]) {
    let text = error.to_string();
    assert!(says.iter().all(|what| text.contains(what)), "{says:?} in:\n{text}");
}

#[test]
fn a_file_that_was_named_must_exist() {
    let missing = PathBuf::from("/nonexistent/config.toml");
    let error = Config::load(Some(&missing), &environment(&LEAST)).unwrap_err();
    assert_says(&error, &["/nonexistent/config.toml", "does not exist"]);
    let variables = [&LEAST[..], &[("ILINK2MQTT_CONFIG", "/nonexistent/other.toml")]].concat();
    assert_says(&Config::load(None, &environment(&variables)).unwrap_err(), &["/nonexistent/other.toml"]);
    let directory = tempfile::tempdir().unwrap();
    assert_says(&Config::load(Some(directory.path()), &environment(&LEAST)).unwrap_err(), &["cannot be read"]);
}

#[test]
fn what_is_no_toml_is_told_with_its_line_and_without_its_text() {
    let place = Place::new("[ilink]\n\nsecretkey = \"hunter2-file\nuid = 1\n");
    let error = place.load(&LEAST).unwrap_err();
    assert_says(&error, &[&place.file().display().to_string(), "line 3"]);
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    for (toml, says) in [
        ("[ilink]\nuid = 1\nuid = 2", &["line 3: uid stands", "first in line 2", "duplicate"][..]),
        ("uid = 0\n[ilink]\nuid = 1\n uid_x = 3\n\n  uid= 2", &["line 6: uid stands", "first in line 3"]),
        ("[ilink]\nuid = 1\n[mqtt]\n[ilink]\n", &["line 4: ilink stands", "first in line 1"]),
        ("[ilink]\ntls = { ca = \"a\", ca = \"b\" }", &["line 2: ca stands"]),
    ] {
        refused(toml, says);
    }
    refused("[ilink]\nuid =", &["line 2: there is no value"]);
}

#[test]
fn unknown_keys_are_told_with_the_nearest_known_one() {
    for (toml, key, nearest) in [
        ("[ilink]\nsercetkey = \"a\"", "no key ilink.sercetkey", "ilink.secretkey"),
        ("[ilnk]\nuid = 1", "no key ilnk", "mean ilink?"),
        ("[ilink.tsl]\nca = \"a\"", "no key ilink.tsl", "mean ilink.tls?"),
        ("[ilink]\nregister = \"never\"", "no key ilink.register", "callback.register"),
        ("statedir = \"/a\"", "no key statedir", "state_dir"),
        ("[mqtt]\npassword_fil = \"/a\"", "no key mqtt.password_fil", "mqtt.password_file"),
        ("mqtt = 5", "no key mqtt", ""),
        ("[log.level]\na = 1", "log.level", "error"),
    ] {
        refused(toml, &[key, nearest, "config.toml"]);
    }
    for (name, nearest) in [
        ("ILINK2MQTT_ILINK__APKEY", "ILINK2MQTT_ILINK__APPKEY"),
        ("ILINK2MQTT_ILINK_APPKEY", "ILINK2MQTT_ILINK__APPKEY"),
        ("ILINK2MQTT_ILINK", "ILINK2MQTT_"),
    ] {
        let error = load_variables(&[(name, "hunter2")]).unwrap_err();
        assert_says(&error, &[name, nearest, "environment"]);
        assert!(!error.to_string().contains("hunter2"));
    }
}

#[test]
fn what_is_like_no_key_is_told_without_a_guess() {
    for error in [load("[foo]\na = 1").unwrap_err(), load_variables(&[("ILINK2MQTT_FOO", "1")]).unwrap_err()] {
        assert_says(&error, &["there is no key"]);
        assert!(!error.to_string().contains("did you mean"), "{error}");
    }
}

#[test]
fn what_must_be_set_is_told_all_at_once() {
    let error = Config::load(Some(&Place::new("").file()), &Environment::default());
    assert!(error.is_err());
    let error = Place::new("").load(&[]).unwrap_err();
    assert_says(
        &error,
        &["ilink.appkey", "ilink.secretkey", "ilink.uid", "callback.public_url", "ILINK2MQTT_ILINK__UID"],
    );
    assert_eq!(error.problems.len(), 4);
    let error = Place::new("[ilink]\nappkey = \"\"\nuid = \"\"").load(&[]).unwrap_err();
    assert_eq!(error.problems.len(), 4, "{error}");
}

#[test]
fn every_mistake_is_told_at_once() {
    let error =
        load("typo = 1\n[mqtt]\noutput = \"xml\"\n[log]\nlevel = \"loud\"\n[outbound]\nconcurrency = 0").unwrap_err();
    assert_eq!(error.problems.len(), 4, "{error}");
}

#[test]
fn values_are_told_with_what_is_allowed() {
    for (toml, says) in [
        ("[ilink]\ntimeout = \"soon\"", &["ilink.timeout = \"soon\"", "duration", "\"5s\""][..]),
        ("[ilink]\ntimeout = 0", &["ilink.timeout = 0", "between"]),
        ("[ilink]\napi = \"hs.kaifakuai.com\"", &["ilink.api", "URL"]),
        ("[ilink]\napi = \"ftp://hs\"", &["ilink.api", "http://"]),
        ("[ilink]\nproxy = \"socks5://p\"", &["ilink.proxy", "http://"]),
        ("[ilink]\ntls.ca = \"/nonexistent.pem\"", &["ilink.tls.ca", "/nonexistent.pem", "does not exist"]),
        ("[ilink]\nsubscribe.topics = [\"a\"]", &["ilink.subscribe.topics", "entry 1", "subject"]),
        ("[callback]\nlisten = \"8787\"", &["callback.listen", "address and a port"]),
        ("[callback]\nregister = \"maybe\"", &["callback.register", "\"if_needed\" or \"always\" or \"never\""]),
        ("[callback]\nverify_every = \"0s\"", &["callback.verify_every"]),
        ("[callback]\nallow = [\"everybody\"]", &["callback.allow", "entry 1, \"everybody\"", "network"]),
        ("[callback]\nsignature = \"md5\"", &["callback.signature", "\"chars\""]),
        ("[callback]\nmax_body = \"lots\"", &["callback.max_body", "\"512MiB\""]),
        ("[callback]\nstrict_to_uid = \"yes\"", &["callback.strict_to_uid", "true or false"]),
        ("[callback]\nrepeats = \"on\"", &["callback.repeats", "\"unanswered\" or \"off\""]),
        ("[mqtt]\nbroker = \"broker:1883\"", &["mqtt.broker", "mqtts://"]),
        ("[mqtt]\nbroker = \"127.0.0.1\"", &["mqtt.broker", "such as \"mqtt://"]),
        ("[mqtt]\nbroker = [\"mqtt://a\", \"b\"]", &["mqtt.broker", "entry 2", "such as \"mqtt://"]),
        ("[mqtt]\nprotocol = 4", &["mqtt.protocol = 4", "3.1.1"]),
        ("[mqtt]\nclient_id = \"\"", &["mqtt.client_id", "empty"]),
        ("[mqtt]\nbase_topic = \"a/+\"", &["mqtt.base_topic = \"a/+\""]),
        ("[mqtt]\noutput = \"xml\"", &["mqtt.output", "\"both\""]),
        ("[mqtt]\nallow_calls = [\"sendmsg/*\"]", &["mqtt.allow_calls", "\"sendmsg/*\"", "send_msg/text"]),
        ("[mqtt]\nresponse_topics = [\"a/#/b\"]", &["mqtt.response_topics", "\"a/#/b\"", "filter"]),
        ("[mqtt]\nsession_expiry = 0", &["mqtt.session_expiry"]),
        ("[mqtt]\nsession_expiry = \"1500ms\"", &["mqtt.session_expiry", "whole seconds"]),
        ("[mqtt]\nmax_packet = \"1GiB\"", &["mqtt.max_packet", "between"]),
        ("[outbound]\nttl = \"0s\"", &["outbound.ttl"]),
        ("[outbound]\nambiguous = \"guess\"", &["outbound.ambiguous", "\"retry\" or \"report\""]),
        ("[outbound]\nambiguous_tries = -1", &["outbound.ambiguous_tries = -1", "between 0 and 1000"]),
        ("[outbound]\nconcurrency = -1", &["outbound.concurrency = -1", "between 1 and 256"]),
        ("[outbound]\nrate_per_s = 1.5", &["outbound.rate_per_s = 1.5", "whole number"]),
        ("[spool]\nmax_bytes = 0", &["spool.max_bytes"]),
        ("[log]\nlevel = \"loud\"", &["log.level", "\"trace\""]),
        ("[log]\nformat = \"xml\"", &["log.format", "\"json\""]),
        ("state_dir = \"\"", &["state_dir", "path"]),
    ] {
        refused(toml, &[says, &["config.toml"]].concat());
    }
}

#[test]
fn values_of_variables_are_told_with_the_variable() {
    let name = "ILINK2MQTT_OUTBOUND__CONCURRENCY";
    assert_says(&load_variables(&[(name, "many")]).unwrap_err(), &[name, "outbound.concurrency = \"many\""]);
    let name = "ILINK2MQTT_INBOUND__ALLOW_FROM";
    assert_says(&load_variables(&[(name, "413,414")]).unwrap_err(), &[name, "TOML array"]);
}

#[test]
fn a_variable_that_is_not_text_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let name = "ILINK2MQTT_ILINK__UID";
    let environment: Environment = [(name, std::ffi::OsStr::from_bytes(b"\xff"))].into_iter().collect();
    let place = Place::new("");
    assert_says(&Config::load(Some(&place.file()), &environment).unwrap_err(), &[name, "UTF-8"]);
}

#[test]
fn values_that_do_not_go_together() {
    let place = Place::new("");
    let file = place.put("some.pem", "").display().to_string();
    let never = "[callback]\nregister = \"never\"\n";
    for (toml, says) in [
        (never.to_owned(), &["callback.token is not set", "callback.path_secret is not set", "never"][..]),
        (format!("[callback]\ntls.cert = \"{file}\""), &["callback.tls.cert", "callback.tls.key"]),
        ("[mqtt]\npassword = \"x\"".to_owned(), &["mqtt.password", "mqtt.username"]),
        (format!("[mqtt]\nbroker = \"mqtts://b\"\ntls.key = \"{file}\""), &["mqtt.tls.cert", "mqtt.tls.key"]),
        (format!("[mqtt]\ntls.ca = \"{file}\""), &["mqtt.tls", "mqtts://"]),
        ("[admin]\nlisten = \"0.0.0.0:8788\"".to_owned(), &["admin.token is not set", "0.0.0.0:8788", "not loopback"]),
        (
            "[homeassistant]\ncontacts = [{ uid = \"1\", name = \"a\" }, { uid = \"1\", name = \"b\" }]".to_owned(),
            &["homeassistant.contacts", "\"1\" is there twice"],
        ),
        (
            "[homeassistant]\nenabled = true\ndiscovery_prefix = \"ilink/ha\"".to_owned(),
            &["homeassistant.discovery_prefix", "under it"],
        ),
    ] {
        refused(&toml, says);
    }
    load("[admin]\nlisten = \"0.0.0.0:8788\"\ntoken = \"t\"").unwrap();
    load(&format!("{never}token = \"abc\"\npath_secret = \"abcdefghij-klmnopqrs_22\"")).unwrap();
}
