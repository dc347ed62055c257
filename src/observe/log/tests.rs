use tracing::Level;

use super::*;

#[test]
fn the_level_is_the_programs_own_and_libraries_never_get_beyond_warn() {
    let chatty = filter(LevelFilter::TRACE);
    assert!(chatty.would_enable("ilink2mqtt::cloud::client", &Level::TRACE));
    assert!(chatty.would_enable("hyper", &Level::WARN) && !chatty.would_enable("hyper", &Level::INFO));
    assert!(!chatty.would_enable("rumqttc::v5::state", &Level::ERROR), "it logs whole packets");
    let quiet = filter(LevelFilter::ERROR);
    assert!(!quiet.would_enable("ilink2mqtt", &Level::WARN) && !quiet.would_enable("hyper", &Level::WARN));
}

#[test]
fn ten_lines_a_minute_and_the_next_one_tells_of_the_rest() {
    let (few, start) = (Few::default(), Instant::now());
    let lines: Vec<_> = (0..1000).filter_map(|n| few.line_at(start + Duration::from_millis(n))).collect();
    assert_eq!(lines, [0; 10]);
    assert_eq!(few.line_at(start + Few::PERIOD), Some(990));
    assert_eq!(few.line_at(start + Few::PERIOD), Some(0));
}

#[test]
fn what_is_said_seldom_is_said_once_a_minute() {
    let seldom = Seldom::default();
    assert_eq!([seldom.may(), seldom.may(), seldom.may()], [true, false, false]);
    *seldom.0.lock().unwrap() = Instant::now().checked_sub(Seldom::EVERY);
    assert!(seldom.may());
    let said = SaidOnce::default();
    assert_eq!((0..1000).filter(|n| said.is_new((n % 200).to_string())).count(), SaidOnce::AT_MOST);
}

#[test]
fn the_newest_lines_are_kept_within_bounds() {
    let recent = Recent::default();
    for n in 0..2 * LINES {
        recent.keep(format!("{n}\n").as_bytes());
    }
    let lines = recent.lines();
    assert!(lines.starts_with(&format!("{LINES}\n")) && lines.ends_with(&format!("{}\n", 2 * LINES - 1)), "{lines}");
    for _ in 0..10 {
        recent.keep(&vec![b'x'; BYTES / 4]);
    }
    assert_eq!(recent.lines().len(), BYTES);
    recent.keep(&vec![b'x'; 2 * BYTES]);
    assert_eq!(recent.lines(), "", "a line that is too large for the whole store is not kept");
}
