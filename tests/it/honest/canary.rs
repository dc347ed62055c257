//! Secrets and contents that are recognised wherever they turn up: each has the word `canary` in it.

use std::path::Path;

use crate::support::bridge::base64;

pub(super) const APPKEY: &str = "canary-appkey";
pub(super) const SECRETKEY: &str = "canary-secretkey-7f3a";
pub(super) const PASSWORD: &str = "canary-password-11c2";
pub(super) const PROXY_PASSWORD: &str = "canary-proxy-81d0";
pub(super) const QUERY: &str = "canary-query-5be4";
pub(super) const PATH: &str = "canary-path-0123456789abcdef";
pub(super) const HANDSHAKE: &str = "canaryHandshake0123456789";
pub(super) const ADMIN: &str = "canary-admin-96aa";
pub(super) const ACCESS: &str = "canary-access-token-d41d";

/// What only the bridge, iLink and the broker may know.
pub(super) const SECRETS: [&str; 8] = [SECRETKEY, PASSWORD, PROXY_PASSWORD, QUERY, PATH, HANDSHAKE, ADMIN, ACCESS];

/// The word in the forms it can hide in: plain, as bytes in `Debug`, in hexadecimal, in base64 at each offset.
const FORMS: [&str; 6] = ["canary", "99, 97, 110, 97, 114, 121", "63616e617279", "Y2FuYXJ5", "jYW5hcn", "NhbmFye"];

/// No canary at all is in it.
#[track_caller]
pub(super) fn none(what: &str, text: &str) {
    let lower = text.to_ascii_lowercase();
    for form in FORMS {
        let at = text.find(form).or_else(|| lower.find(form));
        assert!(at.is_none(), "{what} shows a canary: …{}…", around(text, at.unwrap_or_default()));
    }
}

/// None of the secrets is in it; contents may be.
#[track_caller]
pub(super) fn no_secret(what: &str, text: &str) {
    for secret in SECRETS {
        for form in [secret.to_owned(), base64(secret.as_bytes())] {
            let at = text.find(&form);
            assert!(at.is_none(), "{what} shows a secret: …{}…", around(text, at.unwrap_or_default()));
        }
    }
}

/// No file under this directory shows a canary, but for those that are made to hold them.
#[track_caller]
pub(super) fn no_file(dir: &Path, but: &[&str]) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_file() && !but.iter().any(|but| name.starts_with(but)) {
            none(&name, &String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()));
        }
    }
}

fn around(text: &str, at: usize) -> String {
    let bytes = text.as_bytes();
    let part = &bytes[at.saturating_sub(200)..bytes.len().min(at + 200)];
    String::from_utf8_lossy(part).into_owned()
}

#[test]
fn a_canary_is_recognised_in_every_form() {
    let found = |text: &str| std::panic::catch_unwind(|| none("it", text)).is_err();
    for text in ["a CANARY", "[99, 97, 110, 97, 114, 121]", "x=63616e617279"] {
        assert!(found(text), "{text}");
    }
    for before in ["", "x", "xy"] {
        assert!(found(&base64(format!("{before}{SECRETKEY}").as_bytes())), "{before}");
    }
    assert!(!found("nothing to see"));
}
