//! The table of messages in `deploy/messages.md`, and what of a log it does not have.

use std::path::PathBuf;
use std::sync::OnceLock;

/// What varies in a message.
pub(crate) const VARIES: &str = "…";

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) level: String,
    pub(crate) message: String,
}

/// The table.
pub(crate) fn rows() -> &'static [Row] {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    ROWS.get_or_init(|| {
        let text = std::fs::read_to_string(root().join("deploy/messages.md")).expect("the table");
        text.lines().filter(|line| line.starts_with("| WARN |") || line.starts_with("| ERROR |")).map(row).collect()
    })
}

fn row(line: &str) -> Row {
    let (level, rest) = line.trim_start_matches("| ").split_once(" | `").expect("a level");
    let (message, rest) = rest.split_once("` | ").unwrap_or_else(|| panic!("a message in backticks: {line}"));
    let words: Vec<&str> = rest.trim_end_matches('|').split(" | ").map(str::trim).collect();
    assert!(words.len() == 2 && words.iter().all(|word| !word.is_empty()), "cause and remedy: {line}");
    Row { level: level.to_owned(), message: message.to_owned() }
}

/// The top of the repository.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The lines of a log at WARN or above that the table does not have.
pub(crate) fn unknown(log: &str) -> Vec<&str> {
    log.lines().filter(|line| logged(line).is_some_and(|(level, message)| !is_known(level, message))).collect()
}

/// Level and message of a line, if it is one that counts.
pub(crate) fn logged(line: &str) -> Option<(&'static str, &str)> {
    ["WARN", "ERROR"].into_iter().find_map(|level| {
        let (before, after) = line.split_once(level)?;
        let message = after.strip_prefix(' ')?;
        // A time stamp before it, or a journal's priority: not the word in some other line.
        let before = before.trim();
        let begins = humantime::parse_rfc3339(before).is_ok() || ["<3>", "<4>"].contains(&before);
        // A library's lines begin with the path of the part they come from.
        let is_librarys = message.split_once(": ").is_some_and(|(path, _)| path.contains("::") && !path.contains(' '));
        (begins && !is_librarys).then_some((level, message))
    })
}

fn is_known(level: &str, message: &str) -> bool {
    rows().iter().any(|row| row.level == level && begins_as(message, &row.message))
}

/// Whether a text begins with the words of a message, in their order.
fn begins_as(text: &str, message: &str) -> bool {
    let mut parts = message.split(VARIES);
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    true
}
