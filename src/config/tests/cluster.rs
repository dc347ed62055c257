//! `[cluster]`: off without endpoints; what is wrong is told.

use super::*;

#[test]
fn without_endpoints_this_bridge_is_alone() {
    assert!(!load("[homeassistant]\nenabled = true").unwrap().discovery().unwrap().cluster);
    let cluster = load("").unwrap().cluster;
    assert!(!cluster.is_on() && cluster.endpoints.is_empty());
    assert_eq!((cluster.prefix.as_str(), cluster.takeover.as_secs()), ("/ilink2mqtt/414", 6));
    assert!(!cluster.member.is_empty() && cluster.max_bytes == 256 << 20);
}

#[test]
fn all_keys_are_read_and_the_password_is_not_shown() {
    let place = Place::new("");
    let file = place.put("some.pem", "").display().to_string();
    let password = place.put("password", "hunter2\n").display().to_string();
    place.put(
        "config.toml",
        &format!(
            "[cluster]\nendpoints = [\"https://a:2379\", \"https://b:2379\"]\nprefix = \"/x/\"\nmember = \"a\"\n\
             username = \"u\"\npassword_file = \"{password}\"\ntls.ca = \"{file}\"\ntls.cert = \"{file}\"\n\
             tls.key = \"{file}\"\ntakeover = \"2s\"\nmax_bytes = \"1GiB\""
        ),
    );
    let config = place.load(&LEAST).unwrap();
    let cluster = &config.cluster;
    assert!(cluster.is_on() && cluster.endpoints.len() == 2 && cluster.tls.key.is_some());
    assert_eq!((cluster.prefix.as_str(), cluster.member.as_str()), ("/x", "a"));
    place.put("config.toml", "[cluster]\nendpoints = [\"http://a\"]\n[homeassistant]\nenabled = true");
    assert!(place.load(&LEAST).unwrap().discovery().unwrap().cluster);
    assert!(
        config.describe().contains("endpoints = [\"https://a:2379/\", \"https://b:2379/\"]"),
        "{}",
        config.describe()
    );
    assert!(!format!("{} {config:?}", config.describe()).contains("hunter2"));
}

#[test]
fn what_is_wrong_is_told() {
    let place = Place::new("");
    let file = place.put("some.pem", "").display().to_string();
    let on = "[cluster]\nendpoints = [\"http://a:2379\"]\n";
    for (toml, says) in [
        ("[cluster]\nendpoints = [\"a:2379\"]".to_owned(), &["cluster.endpoints", "http://"][..]),
        ("[cluster]\nendpoints = [\"http://a:2379/v3\"]".to_owned(), &["cluster.endpoints", "nothing else"]),
        ("[cluster]\nendpoints = [\"http://u:hunter2@a\"]".to_owned(), &["cluster.endpoints", "cluster.username"]),
        (format!("{on}takeover = \"1s\""), &["cluster.takeover", "between"]),
        (format!("{on}takeover = \"61s\""), &["cluster.takeover", "between"]),
        (format!("{on}member = \"a/b\""), &["cluster.member", "without a slash"]),
        (format!("{on}member = \"\""), &["cluster.member", "without a slash"]),
        (format!("{on}prefix = \"x\""), &["cluster.prefix", "begin with /"]),
        (format!("{on}prefix = \"/\""), &["cluster.prefix", "at least one level"]),
        (format!("{on}max_bytes = 0"), &["cluster.max_bytes", "between"]),
        (format!("{on}username = \"u\""), &["cluster.username", "cluster.password"]),
        (format!("{on}password = \"p\""), &["cluster.username", "cluster.password"]),
        (format!("{on}tls.cert = \"{file}\""), &["cluster.tls.cert", "cluster.tls.key"]),
        (format!("{on}tls.ca = \"{file}\""), &["cluster.tls", "https://"]),
        (format!("{on}[callback]\nmax_body = \"2MiB\""), &["callback.max_body", "1MiB", "cluster.endpoints"]),
        (
            format!("{on}[outbound]\nmax_content = \"2MiB\""),
            &["config.toml: outbound.max_content", "1MiB", "cluster.endpoints"],
        ),
    ] {
        let text = load(&toml).unwrap_err().to_string();
        assert!(says.iter().all(|what| text.contains(what)) && !text.contains("hunter2"), "{says:?} in:\n{text}");
    }
    load("[callback]\nmax_body = \"2MiB\"\n[outbound]\nmax_content = \"2MiB\"").unwrap();
}

#[test]
fn a_queue_with_no_room_for_the_largest_is_warned_of() {
    let warnings = |toml: &str| load(toml).unwrap().warnings();
    let small = "[cluster]\nendpoints = [\"http://a:2379\"]\nmax_bytes = \"1MiB\"\n";
    // A push of 1 MiB, as by default, and what is stored beside it.
    assert!(
        matches!(warnings(small)[..], [push] if push.starts_with("cluster.max_bytes") && push.contains("callback.max_body"))
    );
    let commands = format!("{small}[callback]\nmax_body = \"256KiB\"\n[outbound]\nmax_content = \"900KiB\"");
    assert!(matches!(warnings(&commands)[..], [command] if command.contains("outbound.max_content")));
    for fine in [
        format!("{small}[callback]\nmax_body = \"512KiB\""),
        small.replace("1MiB", "2MiB"),
        // Alone, it does not count.
        "[cluster]\nmax_bytes = \"1MiB\"".to_owned(),
        // In a cluster, this one does not.
        "[cluster]\nendpoints = [\"http://a:2379\"]\n[spool]\nmax_bytes = \"4KiB\"".to_owned(),
    ] {
        assert!(warnings(&fine).is_empty(), "{fine}");
    }
}

#[test]
fn a_change_needs_a_restart() {
    let old = load("").unwrap();
    let new = load("[cluster]\nendpoints = [\"http://a:2379\"]\ntakeover = \"7s\"").unwrap();
    assert_eq!(old.restart_needed(&new), ["cluster.endpoints", "cluster.takeover"]);
}
