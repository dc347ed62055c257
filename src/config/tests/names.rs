//! `[names]`: read, shown, and put in the place of ids.

use super::*;
use crate::protocol::Receiver;

const NAMES: &str = r#"
[names]
ann = "413"
bob = 412
"张三" = "411"
family = { group = "4cdad356-85b4-008627" }
lamp = { subject = "home/lamp" }
"#;

#[test]
fn names_stand_for_ids_wherever_they_are_written() {
    let config = load(&format!(
        r#"{NAMES}
        [ilink]
        subscribe.topics = [{{ subject = "@lamp" }}, {{ subject = "@@x" }}]
        subscribe.presence = ["@ann", "7"]
        [inbound]
        allow_from = ["@ann", "@张三", 412, "@@me"]
        [homeassistant]
        contacts = [{{ uid = "@ann" }}, {{ uid = "@bob", name = "Bob" }}, {{ group = "@family" }}, {{ subject = "@lamp" }}]
        [[route.from_ilink]]
        name = "in"
        from = "group/@family/@ann"
        topic = "x"
        [[route.to_ilink]]
        name = "out"
        subscribe = "stat/+"
        to = "user/@bob/text"
        "#
    ))
    .unwrap();
    let shown = |ids: &[crate::protocol::Uid]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&config.inbound.allow_from), ["413", "411", "412", "@me"]);
    assert_eq!(shown(&config.ilink.presence), ["413", "7"]);
    let subjects: Vec<_> = config.ilink.topics.iter().map(|(subject, _)| subject.as_str()).collect();
    assert_eq!(subjects, ["home/lamp", "@x"]);
    let contacts: Vec<_> = config.homeassistant.contacts.iter().map(|c| (c.id.as_str(), c.name.as_str())).collect();
    let things = [("4cdad356-85b4-008627", "family"), ("home/lamp", "lamp")];
    assert_eq!(contacts, [&[("413", "ann"), ("412", "Bob")][..], &things].concat());
    assert_eq!(config.routes.names().iter().count(), 5);
    // What is shown is what was written.
    let described = config.describe();
    for line in
        ["ann = \"413\"", "bob = \"412\"", "\"张三\" = \"411\"", "family = { group = \"4cdad356-85b4-008627\" }"]
    {
        assert!(described.lines().any(|other| other == line), "{line} in\n{described}");
    }
    assert!(described.contains("from = \"group/@family/@ann\"") && described.contains("allow_from = [\"@ann\""));
    let names = described.find("[names]").map(|at| described[at..].to_owned()).unwrap();
    assert_eq!(load(&names).unwrap().routes.names(), config.routes.names());
}

#[test]
fn mistakes_name_the_key_the_file_and_the_nearest_name() {
    let route = |from: &str, to: &str| {
        format!(
            "[[route.from_ilink]]\nname = \"in\"\nfrom = \"{from}\"\ntopic = \"x\"\n\
             [[route.to_ilink]]\nname = \"out\"\nsubscribe = \"stat/+\"\nto = \"{to}\"\n"
        )
    };
    for (toml, says) in [
        ("[inbound]\nallow_from = [\"@an\"]".to_owned(), &["inbound.allow_from", "@an;", "did you mean @ann?"][..]),
        ("[inbound]\nallow_from = [\"@lamp\"]".to_owned(), &["inbound.allow_from", "@lamp is a subject", "a user"]),
        ("[ilink]\nsubscribe.presence = [\"@annn\"]".to_owned(), &["ilink.subscribe.presence", "@ann?"]),
        ("[ilink]\nsubscribe.topics = [{ subject = \"@ann\" }]".to_owned(), &["ilink.subscribe.topics", "a user"]),
        ("[homeassistant]\ncontacts = [{ uid = \"@Bob\" }]".to_owned(), &["homeassistant.contacts", "@bob?"]),
        (
            "[homeassistant]\ncontacts = [{ uid = \"@bob\" }, { uid = 412, name = \"B\" }]".to_owned(),
            &["homeassistant.contacts", "\"412\" is there twice"],
        ),
        (route("user/@an/text", "user/1/text"), &["route.from_ilink 1 (\"in\"): from", "did you mean @ann?"]),
        (route("group/@ann/413", "user/1/text"), &["from", "@ann is a user", "not a group"]),
        (route("topic/@lam", "user/1/text"), &["from", "@lamp?"]),
        (route("user/1/text", "user/@famly/text"), &["route.to_ilink 1 (\"out\"): to = ", "no name @famly"]),
        (route("user/1/text", "group/@famly"), &["(\"out\"): to = ", "did you mean @family?"]),
        (route("user/1/text", "user/@${1}/text"), &["(\"out\"): to = ", "fixed text"]),
        (route("user/1/text", "user/@ann${1}/text"), &["(\"out\"): to = ", "fixed text"]),
        (route("user/1/text", "topic/@lamp/x"), &["(\"out\"): to = ", "no name @lamp/x"]),
    ] {
        let error = load(&format!("{NAMES}{toml}")).unwrap_err().to_string();
        for what in says {
            assert!(error.contains(what), "{what} in:\n{error}");
        }
    }
    for (toml, says) in [
        ("names = 1", &["config.toml: names = 1", "[names]"][..]),
        ("[names]\nann = \"\"", &["names.ann = \"\"", "ann = \"413\""]),
        ("[names]\nann = { user = \"1\" }", &["names.ann = {…}", "{ group = "]),
        ("[names]\nann = { group = \"1\", subject = \"2\" }", &["names.ann"]),
        ("[names]\nlamp = { subject = \"a/#\" }", &["names.lamp", "may not contain + or #"]),
        ("[names]\n\"a/b\" = \"1\"", &["names.\"a/b\"", "letters, digits"]),
        ("[names]\n\"@ann\" = \"1\"", &["names.\"@ann\"", "letters, digits"]),
        ("[names]\nann = \"1\"\nmum = \"1\"", &["names.mum = \"1\"", "\"ann\" stands for the same id"]),
        ("[names]\na.b = \"1\"", &["names.a"]),
    ] {
        let error = load(toml).unwrap_err().to_string();
        assert!(says.iter().all(|what| error.contains(what)), "{toml}: {error}");
    }
    // One mistake is told once: what goes by broken names is not called broken.
    let error = load("[names]\nann = \"\"\n[inbound]\nallow_from = [\"@ann\"]").unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
}

#[test]
fn a_uid_of_ones_own_is_no_name() {
    let own = load_variables(&[("ILINK2MQTT_ILINK__UID", "@ann")]).unwrap();
    assert_eq!(own.ilink.uid.as_str(), "@ann");
    let error = load_variables(&[("ILINK2MQTT_NAMES__ANN", "413")]).unwrap_err().to_string();
    assert!(error.contains("ILINK2MQTT_NAMES__ANN"), "{error}");
    // The section's own variable would be no remedy.
    for (variable, section) in [
        ("ILINK2MQTT_NAMES", "[names]"),
        ("ILINK2MQTT_NAMES__ANN", "[names]"),
        ("ILINK2MQTT_ROUTE__FROM_ILINK", "[[route.…]]"),
        ("ILINK2MQTT_ROUTE__FROM", "[[route.…]]"),
    ] {
        let error = load_variables(&[(variable, "413")]).unwrap_err().to_string();
        assert!(error.contains(&format!("{section} can only be set in the file")), "{error}");
        assert!(error.contains(variable) && !error.contains("did you mean"), "{error}");
    }
}

#[test]
fn an_id_that_begins_with_at_is_written_with_two_also_as_what_a_name_stands_for() {
    let written = "[names]\ng = { group = \"@@g\" }\nq = \"@@q\"\ns = { subject = \"@@@s/t\" }\n";
    let config = load(written).unwrap();
    let ids: Vec<_> = config.routes.names().iter().map(|(name, target)| (name, target.as_str())).collect();
    assert_eq!(ids, [("g", "@g"), ("q", "@q"), ("s", "@@s/t")]);
    let described = config.describe();
    assert!(described.contains(written), "{described}");
    for value in ["\"@b\"", "\"@\"", "{ group = \"@b\" }", "{ subject = \"@b\" }"] {
        let error = load(&format!("[names]\na = {value}\nb = \"1\"")).unwrap_err().to_string();
        assert!(error.contains("names.a") && error.contains("@@"), "{value}: {error}");
    }
}

#[test]
fn an_id_of_digits_is_its_text() {
    let config = load(NAMES).unwrap();
    let bob = config.routes.names().iter().find(|(name, _)| *name == "bob").unwrap().1;
    assert_eq!(*bob, Receiver::User("412".parse().unwrap()));
}
