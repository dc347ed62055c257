//! What holds the house together, as tests: files form a tree, rooms stand on floors, the lowest rooms are pure.

mod imports;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use imports::{Imports, imports};

/// What a pure module must not name: runtimes, adapters' libraries, the outside world, clocks and randomness.
const IMPURE: [&str; 20] = [
    "tokio",
    "axum",
    "hyper",
    "rumqttc",
    "reqwest",
    "rusqlite",
    "rustix",
    "getrandom",
    "tracing",
    "std::fs",
    "std::io",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant",
    "boot_now",
    "awake_now",
    "Ulid::generate",
];

pub(crate) fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_in(&path)) } else { files.push(path) }
    }
    files
}

/// The offences of a source text: names of [`IMPURE`], and `crate::` paths into other than the `allowed` modules.
/// Comments and what follows the first test module do not count.
fn offences(source: &str, allowed: &[&str]) -> Vec<String> {
    // Reading from a slice is no input.
    let source = source.replace("use std::io::Read as _;", "");
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
        // A brace group would hide which part of std is used.
        let named = IMPURE.iter().chain(&["std::{", "crate::{"]).any(|name| line.contains(name));
        let mut paths = line.split("crate::").skip(1);
        if named || paths.any(|path| !allowed.iter().any(|module| path.starts_with(&format!("{module}::")))) {
            found.push(line.trim().to_owned());
        }
    }
    found
}

#[test]
fn the_lower_layers_are_pure() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (layer, allowed) in [
        ("protocol", &["protocol"][..]),
        ("local", &["local", "protocol"][..]),
        ("route", &["route", "local", "protocol"][..]),
    ] {
        for file in files_in(&src.join(layer)) {
            let found = offences(&std::fs::read_to_string(&file).unwrap(), allowed);
            assert!(found.is_empty(), "{} is not pure: {found:#?}", file.display());
        }
    }
}

#[test]
fn an_offence_is_found() {
    let count = |source: &str| offences(source, &["protocol"]).len();
    assert_eq!(count("use std::fs;\nuse std::time::SystemTime;\nlet a = tokio::spawn(b);"), 3);
    assert_eq!(count("use std::{fmt, fs};\nuse crate::mqtt::Link;\nuse crate::protocol::Uid;"), 2);
    assert_eq!(count("use std::io::Read as _;\nuse std::io::Read;\nlet a = std::io::stdin();"), 2);
    assert_eq!(count("use std::time::Duration;\n// tokio\n#[cfg(test)]\nmod tests { use std::fs; }"), 0);
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The room of a file: the folder below `src/`.
fn room(file: &str) -> String {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs").to_owned()
}

/// The same between rooms; each is imported by way of one of its files.
fn between_rooms(files: &Imports) -> Imports {
    let mut rooms = Imports::new();
    for (file, targets) in files {
        let from = rooms.entry(room(file)).or_default();
        for (target, said) in targets.iter().filter(|(target, _)| room(target) != room(file)) {
            from.entry(room(target)).or_insert_with(|| format!("{file}: {said}"));
        }
    }
    rooms
}

/// The shortest circle, if there is one: each step with the import that makes it.
fn circle(imports: &Imports) -> Option<Vec<String>> {
    let circles = imports.keys().filter_map(|start| {
        let mut before: BTreeMap<&String, &String> = BTreeMap::new();
        let mut next = VecDeque::from([start]);
        while let Some(at) = next.pop_front() {
            for target in imports.get(at).into_iter().flat_map(BTreeMap::keys) {
                if before.contains_key(target) {
                    continue;
                }
                before.insert(target, at);
                if target == start {
                    let mut steps = Vec::new();
                    let mut to = target;
                    loop {
                        let from = before[to];
                        steps.push(format!("{from} imports {to} ({})", imports[from][to]));
                        if from == start {
                            break;
                        }
                        to = from;
                    }
                    steps.reverse();
                    return Some(steps);
                }
                next.push_back(target);
            }
        }
        None
    });
    circles.min_by_key(Vec::len)
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    assert_eq!(circle(&imports(&src())), None, "what both need belongs into a third file");
}

#[test]
fn no_rooms_import_each_other_in_a_circle() {
    assert_eq!(circle(&between_rooms(&imports(&src()))), None, "what both need belongs into a lower room");
}

#[test]
fn the_adapters_know_nothing_of_each_other() {
    const ADAPTERS: [&str; 4] = ["store", "mqtt", "cloud", "http"];
    for (from, to) in between_rooms(&imports(&src())) {
        if ADAPTERS.contains(&&*from) {
            let known: Vec<_> = to.iter().filter(|(room, _)| ADAPTERS.contains(&&***room)).collect();
            assert!(known.is_empty(), "{from} knows {known:?}");
        }
    }
}

#[test]
fn a_circle_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    file("lib.rs", "pub mod a;\npub mod b;\n");
    // A re-export is no import by itself, nor is what tests alone use.
    file("a/mod.rs", "mod one;\nmod two;\npub use one::One;\n#[cfg(test)]\nmod tests { use crate::b::B; }");
    file("a/one.rs", "use super::two::{self, Two as Other};\npub struct One(Other);");
    file("a/two.rs", "pub struct Two;");
    file("b.rs", "use crate::a;\npub struct B(a::One);");
    let found = imports(dir.path());
    assert_eq!(circle(&found), None, "{found:?}");
    assert_eq!(found["b.rs"].keys().collect::<BTreeSet<_>>(), BTreeSet::from([&"a/one.rs".to_owned()]));

    file("a/two.rs", "pub struct Two(Option<Box<crate::a::One>>);");
    let found = imports(dir.path());
    let steps = ["a/one.rs imports a/two.rs (a::two::Two)", "a/two.rs imports a/one.rs (crate::a::One)"];
    assert_eq!(circle(&found).unwrap(), steps);
    assert_eq!(circle(&between_rooms(&found)), None);

    file("a/two.rs", "pub struct Two(fn() -> crate::b::B);");
    let found = between_rooms(&imports(dir.path()));
    let steps = ["a imports b (a/two.rs: crate::b::B)", "b imports a (b.rs: a::One)"];
    assert_eq!(circle(&found).unwrap(), steps);

    // A parent that its child needs, and that needs the child.
    file("a/two.rs", "pub struct Two(super::Own);");
    file("a/mod.rs", "mod one;\nmod two;\npub use one::One;\npub struct Own;\nfn own() { two::make(); }");
    let steps = ["a/mod.rs imports a/two.rs (two::make)", "a/two.rs imports a/mod.rs (super::Own)"];
    assert_eq!(circle(&imports(dir.path())).unwrap(), steps);
}

/// Words in backquotes that are files, or folders, by their form.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let is_path = |word: &&str| {
        word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
            && [".rs", ".md", ".json", ".toml"].iter().any(|end| word.ends_with(end))
    };
    text.split('`').skip(1).step_by(2).filter(is_path)
}

#[test]
fn the_walk_leads_to_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(src().join("README.md")).unwrap();
    let gone: Vec<_> = named(&text).filter(|path| !src().join(path).is_file() && !root.join(path).is_file()).collect();
    assert!(gone.is_empty(), "src/README.md names what is not there: {gone:?}");
    assert!(named(&text).count() > 80, "the walk was not read");
}
