//! The ACL lines follow the configuration.

use super::*;

#[test]
fn they_name_the_user_the_base_and_the_response_topics() {
    let config =
        load("[mqtt]\nbase_topic = \"home/ilink\"\nusername = \"bridge\"\nresponse_topics = [\"answers/+\"]").unwrap();
    let acl = config.mosquitto_acl();
    assert!(acl.starts_with("user bridge\n"), "{acl}");
    for line in [
        "topic read home/ilink/send/#",
        "topic read home/ilink/by/+/call/#",
        "topic read home/ilink/bridge/info",
        "topic write home/ilink/recv/#",
        "topic write home/ilink/call/self_test/+",
        "topic write answers/+",
        "# pattern write home/ilink/by/%u/send/#",
    ] {
        assert!(acl.lines().any(|other| other == line), "{line} in\n{acl}");
    }
}

#[test]
fn without_a_user_they_say_for_whom_they_hold() {
    let acl = load("").unwrap().mosquitto_acl();
    assert!(
        !acl.lines().any(|line| line.starts_with("user")) && acl.starts_with("# mqtt.username is not set"),
        "{acl}"
    );
}

/// The shipped file grants the bridge what is printed for the default configuration, and devices what is offered there.
#[test]
fn the_shipped_file_says_what_is_printed() {
    let granted = |acl: &str| -> Vec<String> {
        acl.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
    };
    let printed = load("[mqtt]\nusername = \"ilink2mqtt\"").unwrap().mosquitto_acl();
    let shipped = granted(include_str!("../../../deploy/mosquitto/ilink2mqtt.acl"));
    let bridge = granted(&printed);
    let (own, others) = shipped.split_at(bridge.len());
    assert_eq!(own, bridge);
    let offered =
        printed.lines().filter_map(|line| line.strip_prefix("# ").filter(|line| line.starts_with("pattern ")));
    assert!(others[0].starts_with("pattern "), "the bridge has no more lines than those: {others:?}");
    for line in offered {
        assert!(others.iter().any(|other| other == line), "{line} in {others:?}");
    }
}

#[test]
fn routes_have_lines_of_their_own() {
    let acl = load(super::routes::EXAMPLES).unwrap().mosquitto_acl();
    let lines: Vec<_> = acl.lines().skip_while(|line| !line.starts_with("# What the routes")).take(7).collect();
    assert_eq!(
        lines,
        [
            "# What the routes hear and say.",
            "topic read stat/+/POWER",
            "topic read tele/+/SENSOR",
            "topic write cmnd/+/POWER",
            "topic write cmnd/heater/POWER",
            "topic write cmnd/light/POWER",
            "topic write zigbee2mqtt/lamp/set",
        ]
    );
}

#[test]
fn nobody_who_waits_for_a_response_gets_a_trial() {
    let config = load("[mqtt]\nresponse_topics = [\"answers/+\", \"panel/answer\"]").unwrap();
    let tried = config.writes_to_try();
    assert!(tried.iter().any(|filter| filter == "answers/+"), "{tried:?}");
    assert!(!tried.iter().any(|filter| filter == "panel/answer"), "{tried:?}");
    assert!(config.mosquitto_acl().contains("topic write panel/answer\n"));
}
