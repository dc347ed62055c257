//! Every committed input of the fuzzer, run as ordinary tests: the seeds, and what was found and fixed (`tests/fuzz/`).

use std::fs;
use std::path::{Path, PathBuf};

#[allow(unreachable_pub, reason = "the fuzzer's library is one more module here")]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use targets::TARGETS;

fn inputs(kind: &str, target: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(kind).join(target);
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Runs every input of a target; a panic is told with the file it came from.
fn replay(name: &str) {
    let (_, run) = TARGETS.into_iter().find(|(target, _)| *target == name).unwrap();
    let seeds = inputs("seeds", name);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for file in seeds.into_iter().chain(inputs("findings", name)) {
        let data = fs::read(&file).unwrap();
        let outcome = std::panic::catch_unwind(|| run(&data));
        assert!(outcome.is_ok(), "{} fails", file.display());
    }
}

macro_rules! replayed {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_replayed() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($name)),*]);
        }
    };
}

replayed! { callback command config push reply stored topic }
