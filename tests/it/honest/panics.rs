//! A panic's message may quote anything: it is not shown.

use std::process::Command;

use super::canary;

/// Set in the process that is to panic.
const INSIDE: &str = "ILINK2MQTT_TEST_PANICS";

/// Panics as a slip in any library might: with the text it worked on in the message.
#[test]
fn inside() {
    if std::env::var_os(INSIDE).is_some() {
        ilink2mqtt::observe::log::panics();
        let text = format!("{} ünd", canary::SECRETKEY);
        let _ = std::panic::catch_unwind(|| text[..text.len() - 3].len());
        let _ = std::panic::catch_unwind(|| panic!("a literal"));
        let _ = std::panic::catch_unwind(|| panic!("{} {}", canary::PASSWORD, 1));
    }
}

#[test]
fn a_panic_is_told_with_its_place_and_without_what_it_quotes() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "honest::panics::inside", "--nocapture"])
        .env(INSIDE, "1")
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(text.matches("a bug in the program, at tests/it/honest/panics.rs:").count(), 3, "{text}");
    assert!(text.contains(": a literal; please report it") && text.contains("honest::panics::inside"), "{text}");
    canary::none("a panic", &text);
}
