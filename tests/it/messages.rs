//! `deploy/messages.md` has every message that the program can log at WARN or above, with its cause and its remedy.
//!
//! Twice: here against the source, and in every test that runs the program, against what it printed (`support::messages`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::support::messages::{Row, VARIES, logged, root, rows, unknown};

/// Where messages are made that are logged as a whole (`warn!("{cause}")`): every text there is one, if it is a sentence.
const MADE_BY: [(&str, &str); 5] = [
    ("config/mod.rs", "warnings"),
    ("store/sqlite/recovery.rs", "open"),
    ("store/fullness.rs", "full_words"),
    ("cloud/session/explanations.rs", "config_quota"),
    ("observe/log.rs", "describe"),
];

/// A message as the source has it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    /// `None`: made elsewhere, and logged at the level of the table.
    level: Option<&'static str>,
    message: String,
    file: String,
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("the source").map(|entry| entry.expect("an entry").path()) {
        let name = entry.file_name().and_then(|name| name.to_str()).expect("a name");
        match (entry.is_dir(), name) {
            (_, "tests" | "tests.rs") => {}
            (true, _) => sources(&entry, found),
            (false, _) if entry.extension() != Some("rs".as_ref()) => {}
            (false, _) => found.push(entry),
        }
    }
}

fn said() -> BTreeSet<Said> {
    let (src, mut files) = (root().join("src"), Vec::new());
    sources(&src, &mut files);
    let mut all = BTreeSet::new();
    let mut makers = MADE_BY.to_vec();
    for path in files {
        let file = path.strip_prefix(&src).expect("below it").to_str().expect("a name").to_owned();
        let text = std::fs::read_to_string(&path).expect("a source");
        let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
        let mut add = |level, message: String| {
            all.insert(Said { level, message, file: file.clone() });
        };
        logging(tokens.clone(), &mut add);
        for (_, function) in MADE_BY.into_iter().filter(|(of, _)| *of == file) {
            let body = body(tokens.clone(), function).unwrap_or_else(|| panic!("{file} has no {function}"));
            sentences(body, &mut add);
            makers.retain(|maker| *maker != (&*file, function));
        }
    }
    assert!(makers.is_empty(), "these do not exist: {makers:?}");
    all
}

/// Finds `warn!(…)` and `error!(…)`, but in modules of tests.
fn logging(tokens: TokenStream, add: &mut impl FnMut(Option<&'static str>, String)) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let before = |back: usize| at.checked_sub(back).map(|at| tokens[at].to_string()).unwrap_or_default();
        if before(2) == "mod" && before(1) == "tests" {
            continue;
        }
        let level = match before(2).as_str() {
            _ if before(1) != "!" => None,
            "warn" => Some("WARN"),
            "error" => Some("ERROR"),
            _ => None,
        };
        match level {
            Some(level) => {
                let message = message(group.stream());
                // Made elsewhere: see `MADE_BY`.
                if message != VARIES {
                    add(Some(level), message);
                }
            }
            None => logging(group.stream(), add),
        }
    }
}

/// The message among the arguments of a logging macro: the first string that is no field's value.
fn message(arguments: TokenStream) -> String {
    let mut before = String::new();
    for token in arguments {
        if let (TokenTree::Literal(_), false) = (&token, before == "=")
            && let Some(text) = string(&token)
        {
            return shape(&text);
        }
        before = token.to_string();
    }
    panic!("a log line without a message");
}

/// The block of a function.
fn body(tokens: TokenStream, function: &str) -> Option<TokenStream> {
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(word)
                if word == "fn" && tokens.next().is_some_and(|name| name.to_string() == function) =>
            {
                return tokens.find_map(|token| match token {
                    TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(group.stream()),
                    _ => None,
                });
            }
            TokenTree::Group(group) => {
                if let Some(found) = body(group.stream(), function) {
                    return Some(found);
                }
            }
            _ => {}
        }
    }
    None
}

/// The strings of a block that are messages.
fn sentences(block: TokenStream, add: &mut impl FnMut(Option<&'static str>, String)) {
    for token in block {
        match &token {
            TokenTree::Group(group) => sentences(group.stream(), add),
            TokenTree::Literal(_) => {
                if let Some(text) = string(&token).filter(|text| text.len() > 30) {
                    add(None, shape(&text));
                }
            }
            _ => {}
        }
    }
}

fn string(token: &TokenTree) -> Option<String> {
    let literal: syn::LitStr = syn::parse_str(&token.to_string()).ok()?;
    Some(literal.value())
}

/// A format string with each of its arguments as `…`.
fn shape(format: &str) -> String {
    let (mut shape, mut rest) = (String::new(), format);
    while let Some((before, behind)) = rest.split_once('{') {
        shape += before;
        shape += VARIES;
        rest = behind.split_once('}').map_or("", |(_, rest)| rest);
    }
    shape + rest
}

#[test]
fn the_table_has_every_message_and_no_other() {
    let (said, rows) = (said(), rows());
    assert!(said.len() > 50, "the source is read: {said:?}");
    let is_it =
        |row: &Row, said: &Said| row.message == said.message && said.level.is_none_or(|level| level == row.level);
    let missing: Vec<_> = said.iter().filter(|said| !rows.iter().any(|row| is_it(row, said))).collect();
    assert!(missing.is_empty(), "deploy/messages.md lacks: {missing:#?}");
    let stale: Vec<_> = rows.iter().filter(|row| !said.iter().any(|said| is_it(row, said))).collect();
    assert!(stale.is_empty(), "the program says none of these: {stale:#?}");
}

#[test]
fn lines_of_a_log_are_told_apart() {
    let known = "2026-01-02T03:04:05.678Z  WARN cannot connect to the broker; messages wait cause=\"x\"";
    let other = "2026-01-02T03:04:05.678Z ERROR cannot connect to the broker; messages wait";
    let info = "2026-01-02T03:04:05.678Z  INFO WARN said by somebody";
    assert_eq!(unknown(&[known, other, info].join("\n")), [other]);
    assert_eq!(logged(info), None);
}
