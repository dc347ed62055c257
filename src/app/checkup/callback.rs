//! Checks that the callback's public URL leads to this listener.
//!
//! It looks from this machine, which is not always how iLink sees it: many routers do not let their own network reach their
//! public address. So failing to reach the URL is a warning; reaching a different server is a failure.

use std::future::ready;
use std::io;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::body::Body;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::findings::{Findings, Us, callback_url, random};
use crate::app::{AppError, listeners};
use crate::cloud::http::{self, Client, Options};
use crate::config::Config;
use crate::http::listener::{self, Answered, NoAnswer, Serve, Visit};
use crate::os::tls;

const STEP: &str = "callback";
const LIMIT: Duration = Duration::from_secs(10);
/// Our own answer is a word.
const MAX_ANSWER: usize = 64 * 1024;
/// What is served while no bridge runs: one or two requests of our own.
const ROOM: usize = 8;

/// How the request ended.
enum Got {
    Answer(StatusCode, String),
    Untrusted,
    Nothing(String),
}

pub(super) async fn check(config: &Config, us: &Us, findings: &mut Findings) -> Result<(), AppError> {
    match us {
        Us::Running { url } => match get(url).await {
            // What our listener says to a GET that is no handshake.
            Got::Answer(StatusCode::BAD_REQUEST, _) => findings.ok(STEP, "its public URL leads to the running bridge"),
            got => told(&got, config, findings),
        },
        Us::Stopped { .. } => beside_nobody(config, us, findings).await?,
        Us::Unknown => findings.warn(STEP, "not tried: its secret path is not known to this user"),
    }
    Ok(())
}

/// Listens for a moment in the bridge's place.
async fn beside_nobody(config: &Config, us: &Us, findings: &mut Findings) -> Result<(), AppError> {
    let listener = match listeners::bind("callback.listen", config.callback.listen) {
        Ok(listener) => listener,
        Err(AppError::Listen { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {
            findings.warn(STEP, format!(
                "not tried: callback.listen = \"{}\" is in use; unless that is ilink2mqtt.socket, stop what has it, or choose another port",
                config.callback.listen
            ));
            return Ok(());
        }
        Err(error) => {
            findings.fail(STEP, error.to_string());
            return Ok(());
        }
    };
    let serving = match &config.callback.tls {
        None => None,
        Some(files) => {
            let tls = tls::server_config(&files.cert, &files.key).map_err(AppError::Config)?;
            Some(Arc::new(RwLock::new(tls)))
        }
    };
    let (word, stop) = (random(), CancellationToken::new());
    let echo = Echo(word.clone());
    let served =
        tokio::spawn(listener::serve(listener, "callback.listen", ROOM, serving, Box::new(echo), stop.clone()));
    let got = get(&with_word(&callback_url(config, us), &word)).await;
    stop.cancel();
    let _ = served.await;
    match got {
        Got::Answer(StatusCode::OK, body) if body == word => {
            findings.ok(STEP, "its public URL leads to callback.listen, path and query unchanged");
        }
        Got::Answer(StatusCode::OK, body) if body == NO_WORD => findings.fail(
            STEP,
            "its public URL leads to callback.listen, but something on the way drops the query or changes the path's end: correct the proxy",
        ),
        got => told(&got, config, findings),
    }
    Ok(())
}

fn told(got: &Got, config: &Config, findings: &mut Findings) {
    let public = config.callback.public_url.expose();
    let host = public.host_str().unwrap_or_default();
    match got {
        Got::Answer(StatusCode::FORBIDDEN, _) if !config.callback.allow.is_empty() => {
            findings.warn(STEP, "this machine's own address is not in callback.allow, so its way cannot be tried from here");
        }
        Got::Answer(status, _) => findings.fail(STEP, format!(
            "its public URL leads to something else than the bridge ({status} from {host}): correct callback.public_url, the proxy, or the port forward (a router that answers for itself shows nothing: then try from outside)"
        )),
        Got::Untrusted => findings.warn(STEP, format!(
            "the certificate of {host} is not trusted by this machine, and perhaps not by iLink: use one of a public authority"
        )),
        Got::Nothing(cause) => findings.warn(STEP, format!(
            "its public URL cannot be reached from this machine ({cause}). Many routers do not let their own network in by the public address: try it from outside, for example with a phone. If it does not answer there either: DNS, port forward, firewall, proxy"
        )),
    }
}

/// The URL with a word of ours in its query, beside what the URL may have there.
fn with_word(url: &SecretString, word: &str) -> SecretString {
    let Ok(mut parsed) = url::Url::parse(url.expose_secret()) else { return url.clone() };
    parsed.query_pairs_mut().append_pair("word", word);
    String::from(parsed).into()
}

async fn get(url: &SecretString) -> Got {
    let tls = match tls::client_config(tls::system_roots()) {
        Ok(tls) => tls,
        Err(error) => return Got::Nothing(error.to_string()),
    };
    let client = Client::new(Options { tls, proxy: None, connect: LIMIT, timeout: LIMIT, keep: None });
    match client.get(url.expose_secret()).await {
        Ok(answer) => {
            let (status, (body, _)) = (answer.status, answer.read(MAX_ANSWER).await);
            Got::Answer(status, String::from_utf8_lossy(&body).into_owned())
        }
        Err(error) if matches!(error.find(), Some(rustls::Error::InvalidCertificate(_))) => Got::Untrusted,
        Err(http::Error::TimedOut) => Got::Nothing(format!("no answer within {} s", LIMIT.as_secs())),
        Err(error) => Got::Nothing(error.innermost()),
    }
}

/// The answer to a request without our word.
const NO_WORD: &str = "no word";

/// Repeats our own word to whoever says it. What is posted is iLink's, which repeats it only if it gets no answer at all.
struct Echo(String);

impl Serve for Echo {
    fn serve<'a>(&'a self, request: Request<Incoming>, _: &'a Visit) -> BoxFuture<'a, Answered> {
        let query = request.uri().query().unwrap_or_default();
        let said = url::form_urlencoded::parse(query.as_bytes()).any(|(name, value)| name == "word" && value == self.0);
        let word = if said { self.0.clone() } else { NO_WORD.to_owned() };
        let asked = request.method() == Method::GET;
        Box::pin(ready(asked.then(|| Response::new(Body::from(word))).ok_or(NoAnswer)))
    }
}
