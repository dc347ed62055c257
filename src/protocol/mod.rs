//! What the vendor's manual says, and nothing else: identifiers, the handshake's signature, message content, pushes,
//! calls, replies and result codes. Section signs (§) in this module's documentation are the manual's.
//!
//! Place in the flow: the lowest layer. The callback decodes what iLink sends ([`Push::decode`], [`signature::verify`]),
//! the session and the client encode what iLink is sent ([`Call::request`], [`Reply::decode`]), and `local` translates
//! between these types and the MQTT topics.
//!
//! It performs nothing: no sockets, files, clocks, randomness, threads or MQTT. A test below keeps it so.

pub mod account;
pub mod call;
pub mod code;
pub mod content;
mod fields;
pub mod ids;
pub mod lenient;
pub mod push;
pub mod reply;
pub mod signature;

pub use account::{Account, Request, SetConfig, get_access_token};
pub use call::{Call, Qos, Receiver};
pub use code::{Class, ResultCode};
pub use content::Content;
pub use ids::{EmptyId, GroupId, Subject, Uid};
pub use push::{Kind, Message, NotAnObject, Push};
pub use reply::{NotAReply, Reply, TokenGrant};
pub use signature::{Accepted, Variant};

#[cfg(test)]
mod golden;
#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

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

    fn files_in(dir: &Path) -> Vec<PathBuf> {
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

    #[test]
    fn every_fixture_is_used() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        for file in files_in(&fixtures) {
            let name = file.strip_prefix(&fixtures).unwrap().display().to_string();
            assert!(include_str!("golden.rs").contains(&format!("fixture!(\"{name}\")")), "{name}");
        }
    }
}
