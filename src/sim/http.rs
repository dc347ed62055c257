//! The listener: connections, paths, and the answers of calls and control endpoints on the wire.
//!
//! It is written on hyper rather than on axum's server because a fault may have to close a connection without an answer.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, ORIGIN, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::odd::Odd;
use super::records::Path;
use super::simulator::{Answer, Simulator};

/// The largest body of a request.
const MAX_BODY: usize = 16 << 20;
/// How long a client may take over its head, and again over its body.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("a fault closes this connection")]
struct Dropped;

/// Takes connections until `shutdown`.
pub(super) async fn accept(service: &Simulator, listener: &TcpListener, shutdown: &CancellationToken) {
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
        return match service.call(call, token, &body).await {
            Answer::Reply(reply) => Ok(json_answer(StatusCode::OK, Value::Object(reply).to_string())),
            Answer::Status(status) => {
                Ok(problem(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), "a fault"))
            }
            Answer::Garbage => Ok(page(StatusCode::OK, "<html>not JSON</html>")),
            Answer::Odd(odd, reply) => Ok(odd_answer(odd, &reply)),
            Answer::Gateway(status, retry_after) => Ok(gateway(status, retry_after)),
            Answer::Redirect => Ok(elsewhere()),
            Answer::Nothing => Err(Dropped),
        };
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
