//! One call from its body to its answer: noted, met by its fault if there is one, executed, answered.

use std::io;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fault::Mode;
use super::fields::Fields;
use super::journal::{CallRecord, masked};
use super::options::Options;
use super::records::{Done, Now, Path};
use super::refusal::INVALID_PARAMETER;
use super::simulator::{Answer, Simulator};
use super::{calls, http, set_config};
use crate::os::clock;
use crate::protocol::ResultCode;

/// Runs a simulated service on `listener` until `shutdown`, which cuts what is under way.
///
/// # Errors
/// When the listener is reachable from other machines and the options do not allow that, or the HTTP client that makes
/// the pushes cannot be built.
pub async fn serve(listener: TcpListener, options: Options, shutdown: CancellationToken) -> io::Result<()> {
    Simulator::new(options)?.serve(listener, shutdown).await
}

impl Simulator {
    /// Answers on `listener` until `shutdown`, then cuts what is under way.
    ///
    /// # Errors
    /// When the listener is reachable from other machines and the options do not allow that.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() && !self.options().allow_remote {
            let why = format!("{address} is reachable from other machines; allow that with --allow-remote");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        tracing::info!(%address, "simulated iLink service listening");
        http::accept(self, &listener, &shutdown).await;
        self.end().await;
        Ok(())
    }

    /// One call: noted, met by its fault if there is one, executed, answered.
    pub(super) async fn call(&self, path: Path, token: Option<SecretString>, body: &[u8]) -> Answer {
        let object: Option<Map<String, Value>> = serde_json::from_slice(body).ok();
        let number = self.journal().calls.note(
            CallRecord {
                at: clock::rfc3339(clock::wall_now_ms()),
                path,
                body: masked(object.as_ref(), body.len()),
                with_token: token.is_some(),
                code: None,
                fault: None,
            },
            body.len() + 200,
        );
        let fault = self.faults().meet(path);
        let (mut late, mut odd) = (std::time::Duration::ZERO, None);
        if let Some(fault) = fault {
            if let Some(entry) = self.journal().calls.entry(number) {
                entry.fault = Some(fault.mode.as_str());
            }
            tracing::debug!(?path, fault = fault.mode.as_str(), "call met a fault");
            if fault.mode != Mode::Delay {
                tokio::time::sleep(fault.delay).await;
            }
            match fault.mode {
                Mode::Delay => late = fault.delay,
                Mode::Odd(mode) => odd = Some(mode),
                Mode::Code(code) => {
                    return Answer::Reply(self.reply(number, path, Err(ResultCode::new(code))));
                }
                Mode::Status(status) => return Answer::Status(status),
                Mode::Garbage => return Answer::Garbage,
                Mode::Gateway(status, retry_after) => return Answer::Gateway(status, retry_after),
                Mode::Redirect => return Answer::Redirect,
                Mode::Drop => return Answer::Nothing,
                Mode::Hang => std::future::pending().await,
            }
        }
        let executed = match &object {
            Some(object) => self.execute(path, token.as_ref(), object).await,
            None => Err(INVALID_PARAMETER),
        };
        let reply = self.reply(number, path, executed);
        tokio::time::sleep(late).await;
        match odd {
            Some(odd) => Answer::Odd(odd, reply),
            None => Answer::Reply(reply),
        }
    }

    async fn execute(
        &self,
        path: Path,
        token: Option<&SecretString>,
        object: &Map<String, Value>,
    ) -> Result<Map<String, Value>, ResultCode> {
        let fields = Fields::new(object, self.options().strict);
        let now = Now { instant: Instant::now(), ms: clock::wall_now_ms() };
        let Done { extra, pushes, sent } = if path == Path::SetConfig {
            set_config::execute(self, fields, now).await?
        } else {
            let token = token.map(ExposeSecret::expose_secret);
            calls::execute(&mut self.world(), self.options(), path, fields, token, now)?
        };
        for push in pushes {
            self.enqueue(push);
        }
        if let Some(sent) = sent {
            self.tell(sent);
        }
        Ok(extra)
    }

    fn reply(&self, number: u64, path: Path, executed: Result<Map<String, Value>, ResultCode>) -> Map<String, Value> {
        let (code, mut reply) = match executed {
            Ok(extra) => (ResultCode::OK, extra),
            Err(code) => (code, Map::new()),
        };
        if let Some(entry) = self.journal().calls.entry(number) {
            entry.code = Some(code.value());
        }
        tracing::debug!(?path, %code, "call answered");
        reply.insert("code".to_owned(), json!(code.value()));
        reply
    }
}
