//! The admin listener: `/healthz`, `/readyz` and `/metrics`.
//!
//! It must be safe to have on by default: it answers only to names it was told (a web page in the operator's browser cannot
//! reach it under another), and off loopback only to who has the token. It shows states, never content or secrets.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::listener::{self, Serve, Visit};
use crate::progress::{self, Progress};
use crate::report::{self, Report};
use crate::secret;

/// What the listener shows and to whom.
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Demanded off loopback.
    pub token: Option<SecretString>,
    /// Names and addresses it answers to, besides loopback's.
    pub hosts: Vec<String>,
    /// The parts' states.
    pub report: Arc<Report>,
    /// The loops that must make progress, by name.
    pub loops: Vec<(&'static str, Progress)>,
}

/// Serves on `listener`, at most `room` connections at once, until `stop`.
pub async fn serve(listener: TcpListener, admin: Admin, room: usize, stop: CancellationToken) {
    let admin = Arc::new(admin);
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .layer(middleware::from_fn_with_state(Arc::clone(&admin), guard))
        .with_state(admin);
    listener::serve(listener, "admin.listen", room, None, Pages(TowerToHyperService::new(router)), stop).await;
}

/// The router, as the listener wants it.
struct Pages(TowerToHyperService<Router>);

impl Serve for Pages {
    type Body = Body;

    async fn serve(&self, request: axum::http::Request<Incoming>, _: &Visit) -> Response {
        match self.0.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

async fn healthz(State(admin): State<Arc<Admin>>) -> Response {
    let stuck = progress::stuck(&admin.loops);
    if stuck.is_empty() {
        text(StatusCode::OK, "ok\n".to_owned())
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, format!("no progress for 30 s: {}\n", stuck.join(", ")))
    }
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let ready = admin.report.ready();
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string_pretty(&ready).unwrap_or_default() + "\n";
    respond(status, "application/json", body)
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    respond(StatusCode::OK, report::metrics::CONTENT_TYPE, admin.report.metrics().await)
}

async fn guard(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !admin.answers_to(host) {
        let body = "this name is not one of admin.hosts\n".to_owned();
        return text(StatusCode::FORBIDDEN, body);
    }
    let open = admin.listen.ip().is_loopback() || request.uri().path() == "/healthz";
    if !open && !admin.knows(request.headers()) {
        let mut response =
            text(StatusCode::UNAUTHORIZED, "admin.token is needed, as Bearer or as password\n".to_owned());
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"ilink2mqtt\""));
        return response;
    }
    next.run(request).await
}

impl Admin {
    fn answers_to(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
            _ => host,
        };
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        // The address it was told to listen on is no name that a web page could have made point here.
        let own = |address: std::net::IpAddr| address.is_loopback() || address == self.listen.ip();
        bare.parse().is_ok_and(own)
            || bare.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name) || known.eq_ignore_ascii_case(host))
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return false };
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let given = match given.split_once(' ') {
            Some((scheme, bearer)) if scheme.eq_ignore_ascii_case("bearer") => bearer.trim().as_bytes().to_vec(),
            Some((scheme, basic)) if scheme.eq_ignore_ascii_case("basic") => {
                let pair = STANDARD.decode(basic.trim()).unwrap_or_default();
                let colon = pair.iter().position(|byte| *byte == b':').map_or(pair.len(), |at| at + 1);
                pair.get(colon..).unwrap_or_default().to_vec()
            }
            _ => return false,
        };
        secret::is(&given, token)
    }
}

fn text(status: StatusCode, body: String) -> Response {
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
