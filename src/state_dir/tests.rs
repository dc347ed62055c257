//! The directory is one process's. The identity is made once, kept, never silently replaced, never shown.

use std::fs;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::*;
use crate::cloud::Registry;

fn state() -> (tempfile::TempDir, StateDir) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path()).unwrap();
    (directory, state)
}

fn open(state: &StateDir) -> Identity {
    Identity::open(state.directory(), Overrides::default()).unwrap()
}

fn values(identity: &Identity) -> [String; 2] {
    [identity.handshake_token(), identity.path_secret()].map(|secret| secret.expose_secret().to_owned())
}

#[test]
fn both_values_are_made_once_and_kept() {
    let (_directory, state) = state();
    let first = values(&open(&state));
    assert!(first[0].len() == 32 && first[0].bytes().all(|b| b.is_ascii_alphanumeric()));
    assert!(first[1].len() == 32 && crate::config::check_path_secret(&first[1]).is_ok());
    assert_eq!(values(&open(&state)), first);
    let path = state.path().join("identity.json");
    assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
    let (_other_directory, other) = self::state();
    assert_ne!(values(&open(&other)), first);
}

#[test]
fn only_what_is_not_configured_is_said_to_be_made() {
    let overrides = |token: bool, secret: bool| Overrides {
        handshake_token: token.then(|| "token".into()),
        path_secret: secret.then(|| "x".repeat(22).into()),
    };
    for (token, secret, made) in [
        (false, false, "handshake token and callback secret"),
        (false, true, "handshake token"),
        (true, false, "callback secret"),
        (true, true, ""),
    ] {
        assert_eq!(overrides(token, secret).not_set(), made);
    }
}

#[test]
fn the_configuration_wins_and_leaves_the_file_alone() {
    let (_directory, state) = state();
    let own = values(&open(&state));
    let overrides = Overrides { handshake_token: Some("token".into()), path_secret: Some("x".repeat(22).into()) };
    let identity = Identity::open(state.directory(), overrides).unwrap();
    assert_eq!(values(&identity), ["token".to_owned(), "x".repeat(22)]);
    assert!(matches!(identity.new_secret(), Err(IdentityError::Configured)));
    assert_eq!(identity.accepted_secrets().len(), 1);
    assert_eq!(values(&open(&state)), own);
}

#[test]
fn a_damaged_file_is_an_error_that_says_what_to_do_and_stays() {
    let (_directory, state) = state();
    let secrets = values(&open(&state));
    let path = state.path().join("identity.json");
    let good = fs::read_to_string(&path).unwrap();
    let cut = good[..good.len() / 2].to_owned();
    let short = good.replace(&secrets[1], "short");
    let newer = good.replace("\"v\": 1", "\"v\": 2");
    let typed = good.replace("\"handshake_token\": ", "\"handshake_token\": 5, \"x\": ");
    for damaged in [String::new(), cut, short, newer, typed, "[]".to_owned()] {
        fs::write(&path, &damaged).unwrap();
        let error = Identity::open(state.directory(), Overrides::default()).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(matches!(error, IdentityError::Damaged { .. }), "{text}");
        assert!(text.contains("identity.json") && text.contains("restore it from a backup"), "{text}");
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "{text}");
        assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
    }
}

#[test]
fn an_unreadable_file_is_no_reason_for_a_new_one() {
    let (_directory, state) = state();
    fs::create_dir(state.path().join("identity.json")).unwrap();
    let error = Identity::open(state.directory(), Overrides::default()).unwrap_err();
    assert!(matches!(error, IdentityError::Inaccessible { action: "read", .. }), "{error}");
}

#[test]
fn the_old_secret_is_accepted_until_the_new_one_is_registered() {
    let (_directory, state) = state();
    let identity = Arc::new(open(&state));
    let registry = IdentityRegistry::new(Arc::clone(&identity), "https://api", "key", "414");
    let url = |secret: &SecretString| SecretString::from(format!("https://bridge/{}", secret.expose_secret()));
    let (token, old) = (identity.handshake_token(), identity.path_secret());
    registry.record(&url(&old), &token).unwrap();
    assert_eq!(identity.accepted_secrets().len(), 1);

    identity.new_secret().unwrap();
    let new = identity.new_secret().unwrap();
    let accepted = |identity: &Identity| {
        identity.accepted_secrets().iter().map(|secret| secret.expose_secret().to_owned()).collect::<Vec<_>>()
    };
    let both = [new.expose_secret().to_owned(), old.expose_secret().to_owned()];
    assert_eq!(accepted(&identity), both);
    assert_eq!(accepted(&open(&state)), both, "it survives a restart");
    registry.record(&url(&old), &token).unwrap();
    assert_eq!(accepted(&identity), both, "the old URL's confirmation changes nothing");
    registry.record(&url(&new), &token).unwrap();
    assert_eq!(accepted(&identity), both[..1]);
}

#[test]
fn a_confirmation_is_of_one_url_token_api_appkey_and_uid_and_survives() {
    let (_directory, state) = state();
    let identity = Arc::new(open(&state));
    let registry =
        |identity: &Arc<Identity>, api, appkey, uid| IdentityRegistry::new(Arc::clone(identity), api, appkey, uid);
    let (url, token, other) = (SecretString::from("u"), SecretString::from("t"), SecretString::from("o"));
    let ours = registry(&identity, "api", "key", "414");
    assert!(!ours.confirmed(&url, &token));
    ours.record(&url, &token).unwrap();
    let identity = Arc::new(open(&state));
    let ours = registry(&identity, "api", "key", "414");
    assert!(ours.confirmed(&url, &token) && !ours.confirmed(&other, &token) && !ours.confirmed(&url, &other));
    for (api, appkey, uid) in [("x", "key", "414"), ("api", "x", "414"), ("api", "key", "x")] {
        assert!(!registry(&identity, api, appkey, uid).confirmed(&url, &token));
    }
    ours.forget().unwrap();
    assert!(!ours.confirmed(&url, &token) && !IdentityRegistry::confirmed(&ours, &url, &token));
    ours.set_unregistered_by_operator(true).unwrap();
    assert!(open(&state).unregistered_by_operator());
    ours.set_unregistered_by_operator(false).unwrap();
    assert!(!open(&state).unregistered_by_operator());
}

#[test]
fn what_cannot_be_written_is_not_believed_either() {
    let (_directory, state) = state();
    let identity = open(&state);
    let before = values(&identity);
    fs::create_dir(state.path().join("identity.json.tmp")).unwrap();
    assert!(matches!(identity.new_secret(), Err(IdentityError::Inaccessible { action: "written", .. })));
    assert!(identity.set_unregistered_by_operator(true).is_err() && !identity.unregistered_by_operator());
    assert_eq!(values(&identity), before);
}

#[test]
fn debug_shows_no_secret() {
    let (_directory, state) = state();
    let identity = Arc::new(open(&state));
    let url = SecretString::from(format!("https://bridge/{}", identity.path_secret().expose_secret()));
    let registry = IdentityRegistry::new(Arc::clone(&identity), "a", "k", "u");
    let registered = registry.registered(&url, &identity.handshake_token());
    let shown = format!("{identity:?} {registered:?}");
    assert!(values(&identity).iter().all(|secret| !shown.contains(secret)), "{shown}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn it_is_made_with_its_parents_and_closed_to_others() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("a/b");
    let state = StateDir::open(&path).unwrap();
    assert_eq!(state.path(), path);
    assert_eq!((mode(&path), mode(&path.join("lock"))), (0o700, 0o600));
}

#[test]
fn an_open_one_is_tightened() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let _state = StateDir::open(directory.path()).unwrap();
    assert_eq!(mode(directory.path()), 0o700);
}

#[test]
fn a_second_holder_is_turned_away_until_the_first_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let first = StateDir::open(directory.path()).unwrap();
    let error = StateDir::open(directory.path()).unwrap_err();
    assert!(matches!(error, StateDirError::Locked { holder: Some(pid), .. } if pid == std::process::id()));
    assert!(error.to_string().contains("in use by another ilink2mqtt (process "), "{error}");
    drop(first);
    StateDir::open(directory.path()).unwrap();
}

#[test]
fn a_file_in_its_place_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "").unwrap();
    let error = StateDir::open(&path).unwrap_err();
    assert!(matches!(error, StateDirError::Unusable { .. }) && error.to_string().contains("/file"), "{error}");
}

#[test]
fn what_others_could_read_is_closed_to_them_and_a_link_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(elsewhere.path(), Permissions::from_mode(0o644)).unwrap();
    for name in ["identity.json", "lock", "spool.db-wal", "token.json.tmp", "spool.db.damaged-1"] {
        let file = directory.path().join(name);
        fs::write(&file, "").unwrap();
        fs::set_permissions(file, Permissions::from_mode(0o666)).unwrap();
    }
    std::os::unix::fs::symlink(elsewhere.path(), directory.path().join("a link")).unwrap();
    let state = StateDir::open(directory.path()).unwrap();
    assert_eq!(mode(state.path()), 0o700);
    for entry in fs::read_dir(state.path()).unwrap().map(Result::unwrap) {
        if entry.file_name() != "a link" {
            assert_eq!(mode(&entry.path()), 0o600, "{entry:?}");
        }
    }
    assert_eq!(mode(elsewhere.path()), 0o644);
}
