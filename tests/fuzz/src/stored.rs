//! What is read back from the state directory: rows of the spool, results in them, notes, and `identity.json`.
//!
//! The spool's checksums keep damage out; what is decoded here may still come from another version, or from somebody's hands.

use std::fs;
use std::time::Duration;

use ilink2mqtt::delivery::refused::Kept;
use ilink2mqtt::inbound::presence::Known;
use ilink2mqtt::inbound::record::Record as Inbound;
use ilink2mqtt::local::CommandResult;
use ilink2mqtt::os::clock::{Stamp, rfc3339};
use ilink2mqtt::outbound::record::Record as Outbound;
use ilink2mqtt::protocol::{Push, Uid};
use ilink2mqtt::state_dir::{Identity, Overrides, StateDir};
use ilink2mqtt::store::Queue;
use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::input::{account, base, parts};

/// What is read (`i`nbound, `o`utbound, `r`esult, set `a`side, `p`resence, `j`son of the identity), then its bytes.
pub fn run(data: &[u8]) {
    let [kind, bytes] = parts(data);
    match kind.first() {
        Some(b'i') => check_inbound(bytes),
        Some(b'o') => check_outbound(bytes),
        Some(b'r') => check_result(bytes),
        Some(b'a') => check_set_aside(bytes),
        Some(b'p') => drop(postcard::from_bytes::<Known>(bytes)),
        Some(b'j') => check_identity(bytes),
        _ => {}
    }
}

fn check_stamp(at: &Stamp) {
    let _ = (at.age(), rfc3339(at.wall_ms()));
    // As by a raw_max_age, the longest of which is no more than this.
    let _ = at.plus(Duration::from_secs(u64::MAX / 2));
}

fn check_inbound(bytes: &[u8]) {
    let Ok(record) = Inbound::decode(bytes) else { return };
    assert_eq!(Inbound::decode(&record.encode()).unwrap(), record);
    match record {
        Inbound::Push { at, body, .. } | Inbound::PushAgain { at, body, .. } => {
            check_stamp(&at);
            let _ = Push::decode(&body);
        }
        Inbound::States { states } | Inbound::StatesAgain { states } => {
            for (uid, _) in &states {
                super::input::assert_publishable(&base(), &base().presence(uid));
            }
        }
    }
}

fn check_outbound(bytes: &[u8]) {
    let Ok(record) = Outbound::decode(bytes) else { return };
    assert_eq!(Outbound::decode(&record.encode()).unwrap(), record);
    match record {
        Outbound::Command(command) => {
            let _ = (command.deadline(), command.has_expired(), command.elapsed_ms());
            let _ = (command.call.receiver(), format!("{:?}", command.call));
            assert!(command.call.name().starts_with(command.call.request(&account()).path));
            let id = ulid::Ulid::from_bytes(command.id);
            let result = CommandResult::uncertain(id, command.reference, None, "", command.attempts, 0);
            assert!(serde_json::from_slice::<serde_json::Value>(&result.to_json()).is_ok());
            let _ = command.reply_to.publications(&base(), &result);
        }
        Outbound::Result(stored) => {
            check_stamp(&stored.at);
            if let Ok(result) = CommandResult::from_json(&stored.json) {
                let _ = stored.reply_to.publications(&base(), &result);
            }
        }
    }
}

fn check_set_aside(bytes: &[u8]) {
    let Ok(kept) = Kept::decode(bytes) else { return };
    let _ = (kept.age(), rfc3339(kept.at_ms));
    match kept.queue {
        Queue::Inbound => check_inbound(&kept.row),
        Queue::Outbound => check_outbound(&kept.row),
        Queue::SetAside => {}
    }
}

fn check_result(json: &[u8]) {
    if let Ok(result) = CommandResult::from_json(json) {
        assert_eq!(CommandResult::from_json(&result.to_json()).unwrap(), result);
    }
}

/// `identity.json` is used as it is or refused, and the refusal holds nothing of it.
fn check_identity(bytes: &[u8]) {
    thread_local! {
        static STATE: (TempDir, StateDir) = {
            let dir = TempDir::new().unwrap();
            let state = StateDir::open(dir.path()).unwrap();
            (dir, state)
        };
    }
    STATE.with(|(dir, state)| {
        let file = dir.path().join("identity.json");
        fs::write(&file, bytes).unwrap();
        match Identity::open(state.directory(), Overrides::default()) {
            Ok(identity) => {
                let (token, secret) = (identity.handshake_token(), identity.path_secret());
                let shown = format!("{identity:?}");
                assert!(token.expose_secret().len() >= 3 && secret.expose_secret().len() >= 22);
                assert!(!shown.contains(secret.expose_secret()));
                assert_eq!(identity.accepted_secrets().len() > 1, identity.accepted_secrets().len() == 2);
                let _ = secret.expose_secret().parse::<Uid>();
            }
            Err(error) => {
                let shown = format!("{error} {error:?}").replace(&*dir.path().to_string_lossy(), "");
                for word in String::from_utf8_lossy(bytes).split(|c: char| !c.is_ascii_alphanumeric()) {
                    assert!(word.len() < 22 || !shown.contains(word), "{shown}");
                }
            }
        }
        assert_eq!(fs::read(&file).unwrap(), bytes, "a damaged identity must not be replaced");
    });
}
