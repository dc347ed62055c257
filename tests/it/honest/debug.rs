//! `Debug` of what holds a secret: the form in which it would turn up in a message nobody thought of.

use std::sync::Arc;

use ilink2mqtt::cli::Cli;
use ilink2mqtt::cloud::{Client, ClientConfig, RegisterPolicy, SessionConfig, Timing};
use ilink2mqtt::config::{Config, Environment};
use ilink2mqtt::mqtt::{LinkConfig, Protocol};
use ilink2mqtt::operate::control::Answer;
use ilink2mqtt::os::tls::ClientFiles;
use ilink2mqtt::protocol::{Account, Reply, SetConfig, TokenGrant, get_access_token};
use ilink2mqtt::sim;
use ilink2mqtt::state_dir::{Identity, IdentityRegistry, Overrides, StateDir};
use secrecy::SecretString;

use super::canary::{self, ACCESS, ADMIN, HANDSHAKE, PASSWORD, PATH, PROXY_PASSWORD, QUERY, SECRETKEY};

#[test]
fn nothing_that_holds_a_secret_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    let text = format!(
        "ilink.appkey = \"a\"\nilink.secretkey = \"{SECRETKEY}\"\nilink.uid = 1\nilink.proxy = \"http://u:{PROXY_PASSWORD}@p\"\n\
         callback.public_url = \"https://u:{QUERY}@b/?k={QUERY}\"\ncallback.token = \"{HANDSHAKE}\"\n\
         callback.path_secret = \"{PATH}\"\nmqtt.username = \"u\"\nmqtt.password = \"{PASSWORD}\"\nadmin.token = \"{ADMIN}\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let environment: Environment = [("ILINK2MQTT_ILINK__SECRETKEY", SECRETKEY)].into_iter().collect();
    let config = Config::load(Some(&file), &environment).unwrap();
    let url = config.callback_url(&SecretString::from(PATH));
    let account =
        Account { appkey: "a".to_owned(), secretkey: SECRETKEY.into(), uid: "1".parse().unwrap(), presence_action: 2 };
    let (url_text, token) = (format!("https://b/{PATH}"), SecretString::from(HANDSHAKE));
    let register = SetConfig::Register { url: &url_text, token: HANDSHAKE };
    let reply = Reply::decode(format!(r#"{{"code":0,"access_token":"{ACCESS}"}}"#).as_bytes()).unwrap();
    let client = ClientConfig {
        api: "http://a".parse().unwrap(),
        timeout: std::time::Duration::from_secs(1),
        proxy: Some(format!("http://u:{PROXY_PASSWORD}@p").parse().unwrap()),
        extra_ca: None,
    };
    let session = SessionConfig {
        account: account.clone(),
        api: "http://a".parse().unwrap(),
        state_dir: dir.path().into(),
        register: RegisterPolicy::IfNeeded,
        callback_url: url.clone(),
        handshake_token: token.clone(),
        verify_every: std::time::Duration::ZERO,
        topics: Vec::new(),
        presence: Vec::new(),
        timing: Timing::default(),
    };
    let base: ilink2mqtt::local::Base = "ilink".parse().unwrap();
    let link = LinkConfig {
        credentials: Some(("u".to_owned(), PASSWORD.into())),
        protocol: Protocol::V5,
        tls: ClientFiles::default(),
        base,
        ..crate::link::config(1)
    };
    let state = StateDir::open(&dir.path().join("state")).unwrap();
    let overrides = || Overrides { handshake_token: Some(HANDSHAKE.into()), path_secret: Some(PATH.into()) };
    let identity = Arc::new(Identity::open(state.directory(), overrides()).unwrap());
    let registry = IdentityRegistry::new(Arc::clone(&identity), "http://a", "a", "1");
    let cli = <Cli as clap::Parser>::try_parse_from(["ilink2mqtt", "sim", "--appkey", "a", "--secretkey", SECRETKEY]);
    for shown in [
        format!("{environment:?} {config:?} {} {:?}", config.describe(), config.callback.public_url),
        format!("{account:?} {register:?} {:?} {:?}", register.request(&account), get_access_token(&account)),
        format!("{reply:?} {:?}", TokenGrant::from_reply(&reply)),
        format!("{client:?} {:?} {session:?} {link:?}", Client::new(&client).unwrap()),
        format!("{:?} {identity:?} {registry:?}", overrides()),
        format!("{:?} {cli:?}", sim::Options::new("a".to_owned(), SECRETKEY)),
        format!("{:?}", Answer { exit: 0, text: url_text.clone() }),
    ] {
        assert!(!shown.is_empty());
        canary::none("Debug", &shown);
    }
}
