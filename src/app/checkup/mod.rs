//! `check --connect`: checks, step by step, that everything the bridge needs can be reached and used. Each problem comes with
//! its cause and its remedy.
//!
//! It changes nothing. It does not ask for a token (a new one would end the one that a running bridge uses), registers nothing,
//! retains nothing, and connects to the broker under a different client id. If a bridge is running, iLink is asked through it.

mod addresses;
mod callback;
mod findings;
mod services;

use std::path::Path;

use secrecy::SecretString;

use super::{AppError, alone, parts};
use crate::config::Config;
use crate::operate::control::{self, Answer, Verb};
use crate::state_dir::{Identity, Overrides, StateDir};
pub(super) use findings::Findings;
use findings::Us;

/// Reads the files that the configuration names.
///
/// # Errors
/// What is wrong with them.
pub fn files(config: &Config) -> Result<(), AppError> {
    parts::check_files(config)
}

/// Carries out all steps.
///
/// # Errors
/// If the configuration names files that cannot be used.
pub async fn run(config: &Config) -> Result<Answer, AppError> {
    files(config)?;
    let client = parts::client(config)?;
    let mut findings = Findings::default();
    let us = us(config, &mut findings).await;
    addresses::check_names(config, &mut findings).await;
    services::check_session(config, &us, &mut findings).await;
    services::check_ilink(config, &client, &us, &mut findings).await;
    services::check_broker(config, &mut findings).await?;
    services::check_etcd(config, &mut findings).await?;
    callback::check(config, &us, &mut findings).await?;
    addresses::check_certificates(config, &mut findings).await;
    Ok(findings.answer())
}

/// The account alone: does iLink answer, and does it accept us? What it says of a callback URL is for later.
pub(super) async fn account(config: &Config) -> Result<Findings, AppError> {
    let client = parts::client(config)?;
    let mut findings = Findings::default();
    let us = us(config, &mut Findings::default()).await;
    services::check_ilink(config, &client, &us, &mut findings).await;
    findings.0.retain(|finding| finding.step != services::REGISTRATION);
    Ok(findings)
}

/// The broker alone.
pub(super) async fn broker(config: &Config) -> Result<Findings, AppError> {
    let mut findings = Findings::default();
    services::check_broker(config, &mut findings).await?;
    Ok(findings)
}

/// The callback's public URL alone.
pub(super) async fn callback(config: &Config) -> Result<Findings, AppError> {
    let mut findings = Findings::default();
    let us = us(config, &mut Findings::default()).await;
    callback::check(config, &us, &mut findings).await?;
    addresses::check_certificates(config, &mut findings).await;
    Ok(findings)
}

async fn us(config: &Config, findings: &mut Findings) -> Us {
    let dir = &config.state_dir;
    match control::ask(config, &Verb::CallbackUrl).await {
        Ok(Some(Answer { exit: 0, text })) => {
            findings.ok("bridge", format!("it runs on {}: `ilink2mqtt status` has its own view", dir.display()));
            Us::Running { url: text.trim().to_owned().into() }
        }
        Ok(Some(Answer { text, .. })) => {
            findings.warn("bridge", format!("it runs, and does not say its callback URL: {text}"));
            Us::Unknown
        }
        Err(error) => {
            findings.warn("bridge", format!("it runs, and does not answer: {error}; see its log"));
            Us::Unknown
        }
        Ok(None) => not_running(config, findings),
    }
}

/// Who does not answer runs not, or not yet.
fn not_running(config: &Config, findings: &mut Findings) -> Us {
    if let Some(not_answering) = alone::not_answering(config) {
        findings.warn("bridge", not_answering);
        return Us::Unknown;
    }
    let dir = &config.state_dir;
    match stored_secret(config, dir) {
        Ok(secret) => {
            findings.ok("bridge", format!("it does not run on {}", dir.display()));
            Us::Stopped { url: secret.map(|secret| config.callback_url(&secret)) }
        }
        Err(error) => {
            findings.warn("bridge", format!("{error}; run this as root or as the bridge's user"));
            Us::Unknown
        }
    }
}

/// The path secret of the next run, if it is decided already. Holds the state directory's lock no longer than it takes to read.
fn stored_secret(config: &Config, dir: &Path) -> Result<Option<SecretString>, String> {
    if let Some(secret) = &config.callback.path_secret {
        return Ok(Some(secret.clone()));
    }
    match dir.join("identity.json").try_exists() {
        Ok(false) => return Ok(None),
        Ok(true) => {}
        Err(error) => return Err(format!("the state directory {} cannot be read: {error}", dir.display())),
    }
    let state = StateDir::open(dir).map_err(|error| error.to_string())?;
    let overrides = Overrides { handshake_token: config.callback.token.clone(), path_secret: None };
    let identity = Identity::open(state.directory(), overrides).map_err(|error| error.to_string())?;
    Ok(Some(identity.path_secret()))
}
