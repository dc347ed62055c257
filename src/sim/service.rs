//! The listener, and the way of one call from its body to its answer: recorded, met by its fault if there is one,
//! executed, answered.
//!
//! It uses hyper itself and not axum's server, because a fault may have to close a connection without an answer.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, ORIGIN, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fault::{Mode, Odd};
use super::fields::Fields;
use super::records::{CallRecord, Done, Now, Path, masked};
use super::refusal::INVALID_PARAMETER;
use super::simulator::Simulator;
use super::{Options, calls};
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
        accept(self, &listener, &shutdown).await;
        self.end().await;
        Ok(())
    }

    /// One call: noted, met by its fault if there is one, executed, answered.
    async fn call(&self, path: Path, token: Option<SecretString>, body: &[u8]) -> Result<Response<Body>, Dropped> {
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
                    return Ok(plain_answer(&self.reply(number, path, Err(ResultCode::new(code)))));
                }
                Mode::Status(status) => {
                    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                    return Ok(problem(status, "a fault"));
                }
                Mode::Garbage => return Ok(page(StatusCode::OK, "<html>not JSON</html>")),
                Mode::Gateway(status, retry_after) => return Ok(gateway(status, retry_after)),
                Mode::Redirect => return Ok(elsewhere()),
                Mode::Drop => return Err(Dropped),
                Mode::Hang => std::future::pending().await,
            }
        }
        let executed = match &object {
            Some(object) => self.execute(path, token.as_ref(), object).await,
            None => Err(INVALID_PARAMETER),
        };
        let reply = self.reply(number, path, executed);
        tokio::time::sleep(late).await;
        Ok(odd.map_or_else(|| plain_answer(&reply), |odd| odd_answer(odd, &reply)))
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
            calls::set_config(self, fields, now).await?
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

/// The largest body of a request.
const MAX_BODY: usize = 16 << 20;
/// How long a client may take over its head, and again over its body.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("a fault closes this connection")]
struct Dropped;

/// Takes connections until `shutdown`.
async fn accept(service: &Simulator, listener: &TcpListener, shutdown: &CancellationToken) {
    // `accept` loses no connection when it is dropped.
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                service.spawn(connection(service.clone(), stream));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Out of file descriptors, most likely: nothing gets better by asking at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(service: Simulator, stream: TcpStream) {
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_LIMIT)
        .serve_connection(TokioIo::new(stream), service_fn(|request| respond(&service, request)))
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

async fn respond(service: &Simulator, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().trim_start_matches('/');
    let call = Path::find(path);
    let method = match (call, path) {
        (None, "sim/state") => Method::GET,
        (Some(_), _) | (None, "sim/push" | "sim/fault" | "sim/expire" | "sim/forget") => Method::POST,
        (None, _) => return Ok(problem(StatusCode::NOT_FOUND, "no such path")),
    };
    if head.method != method {
        let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "wrong method");
        if let Ok(allowed) = HeaderValue::from_str(method.as_str()) {
            answer.headers_mut().insert(ALLOW, allowed);
        }
        return Ok(answer);
    }
    if call.is_none() && head.headers.contains_key(ORIGIN) {
        return Ok(problem(StatusCode::FORBIDDEN, "not for web pages"));
    }
    let body: Bytes = match tokio::time::timeout(REQUEST_LIMIT, to_bytes(Body::new(body), MAX_BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return Ok(problem(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or was cut off")),
        Err(_) => return Ok(problem(StatusCode::REQUEST_TIMEOUT, "the body did not arrive")),
    };
    if let Some(call) = call {
        let token = parameter(&head.uri, "access_token").map(SecretString::from);
        return service.call(call, token, &body).await;
    }
    let (status, answer) = service.control(path, &body, parameter(&head.uri, "to")).await;
    Ok(json_answer(status, answer))
}

fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn json_answer(status: StatusCode, answer: String) -> Response<Body> {
    let mut response = Response::new(Body::from(answer));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    response
}

fn plain_answer(reply: &Map<String, Value>) -> Response<Body> {
    json_answer(StatusCode::OK, json!(reply).to_string())
}

fn problem(status: StatusCode, what: &str) -> Response<Body> {
    json_answer(status, json!({ "error": what }).to_string())
}

fn page(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}

fn odd_answer(odd: Odd, reply: &Map<String, Value>) -> Response<Body> {
    let mut response = json_answer(StatusCode::OK, String::new());
    let (body, length) = odd.body(reply);
    *response.body_mut() = body;
    if let Some(length) = length {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response
}

fn gateway(status: u16, retry_after: Option<u32>) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut response = page(status, "<html>the service cannot be reached</html>");
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn elsewhere() -> Response<Body> {
    let mut response = page(StatusCode::FOUND, "<html>moved</html>");
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("/moved"));
    response
}
