//! The admin listener: `/healthz`, `/readyz`, `/metrics`, and the status page `/` with its `/events`.
//!
//! It must be safe to have on by default. It answers only to host names it knows, so a web page in the operator's browser
//! cannot reach it under another name. Off loopback it requires the token, unless the request comes through an ingress that
//! authenticates users itself (Home Assistant's, which shows the page in a frame). It shows states, never secrets, and message
//! contents only if the operator asked for them. Event streams are limited, so there is always room for a `/healthz`.

mod counted;
mod forms;
mod headline;
mod language;
mod live;
mod page;
mod units;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, RawQuery, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, LOCATION,
    REFERRER_POLICY, RETRY_AFTER, VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::language::Language;
use crate::http;
use crate::http::listener::{self, Answered, Serve, Visit};
use crate::observe::progress;
use crate::operate::status::{self, Overview, Report, Reports};

/// So many streams of events at once; fewer where the listener has little room.
const STREAMS_AT_MOST: usize = 8;

/// What the listener shows and to whom.
pub struct Admin {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Demanded off loopback.
    pub token: Option<SecretString>,
    /// Names and addresses it answers to, besides loopback's.
    pub hosts: Vec<String>,
    /// Addresses of proxies that let only those through who may see everything, under whatever name.
    pub trusted_ingress: Vec<IpAddr>,
    /// The parts' states.
    pub reports: Reports,
}

/// What the handlers share.
struct Shared {
    admin: Admin,
    /// What a form must hold.
    word: Option<SecretString>,
    streams: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Shared {
    /// What the page's forms hold; none if it is to have none.
    fn form_word(&self) -> Option<&SecretString> {
        self.word.as_ref().filter(|_| self.admin.token.is_some())
    }

    fn report(&self) -> Arc<Report> {
        Arc::clone(&self.admin.reports.borrow())
    }
}

/// By which a handler can have its connection cut.
#[derive(Clone)]
struct Cut(CancellationToken);

/// Who is at the other end of the connection.
#[derive(Clone, Copy)]
struct Peer(IpAddr);

/// Serves on `listener`, at most `room` connections at once, until `stop`.
pub async fn serve(listener: TcpListener, admin: Admin, room: usize, stop: CancellationToken) {
    let streams = Arc::new(Semaphore::new((room / 4).clamp(1, STREAMS_AT_MOST)));
    let word = forms::word();
    let shared = Arc::new(Shared { admin, word, streams, stop: stop.clone() });
    let router = Router::new()
        .route("/", get(status_page))
        .route("/events", get(events))
        .route("/set-aside", post(set_aside))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(async || text(StatusCode::NOT_FOUND, "there is no such page\n".to_owned()))
        .method_not_allowed_fallback(async || text(StatusCode::METHOD_NOT_ALLOWED, "not this method\n".to_owned()))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), guard))
        .with_state(shared);
    listener::serve(listener, "admin.listen", room, None, Box::new(Pages(TowerToHyperService::new(router))), stop)
        .await;
}

/// The router, as the listener wants it.
struct Pages(TowerToHyperService<Router>);

impl Serve for Pages {
    fn serve<'a>(&'a self, mut request: axum::http::Request<Incoming>, visit: &'a Visit) -> BoxFuture<'a, Answered> {
        request.extensions_mut().insert(Cut(visit.cut()));
        request.extensions_mut().insert(Peer(visit.peer));
        Box::pin(async { self.0.call(request).await.map_err(|never| match never {}) })
    }
}

async fn status_page(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let language = Language::of(&headers);
    let overview = Overview::of(&shared.report()).await;
    let page = page::page(&overview, shared.form_word(), language);
    let mut response = in_language(language, respond(StatusCode::OK, "text/html; charset=utf-8", page));
    if let Ok(policy) = HeaderValue::from_str(&page::POLICY) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

async fn events(
    State(shared): State<Arc<Shared>>,
    Extension(Cut(cut)): Extension<Cut>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Ok(permit) = Arc::clone(&shared.streams).try_acquire_owned() else {
        let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "too many status pages are open\n".to_owned());
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("15"));
        return response;
    };
    let (reports, word) = (shared.admin.reports.clone(), shared.form_word().cloned());
    let language = Language::of_page(query.as_deref(), &headers);
    in_language(language, live::events(reports, word, language, permit, shared.stop.clone(), cut))
}

/// An answer that another browser would get in another language.
fn in_language(language: Language, mut response: Response) -> Response {
    response.headers_mut().insert(CONTENT_LANGUAGE, HeaderValue::from_static(language.tag()));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Language"));
    response
}

/// The page's forms.
async fn set_aside(
    State(shared): State<Arc<Shared>>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let language = Language::of(&head.headers);
    let no = |status, why: &str| in_language(language, text(status, format!("{why}\n")));
    let Some(word) = shared.form_word() else {
        let why = language.say(
            "only with admin.token: use `ilink2mqtt set-aside`",
            "需要设置 admin.token；请改用 `ilink2mqtt set-aside`",
        );
        return no(StatusCode::FORBIDDEN, why);
    };
    let by_ingress = shared.admin.trusted_ingress.contains(&peer);
    if !by_ingress && !shared.admin.knows(&head.headers) {
        return unauthorized();
    }
    let asked = match forms::read(&head.headers, body, by_ingress, word, language).await {
        Ok(asked) => asked,
        Err((status, why)) => return no(status, why),
    };
    let report = shared.report();
    let Some(desk) = report.desk.as_deref() else {
        let why = language.say(
            "this member stands by: use the status page of the one that leads",
            "本成员待命：请使用主成员的状态页",
        );
        return no(StatusCode::CONFLICT, why);
    };
    if let Err(why) = asked.done(desk, language).await {
        return no(StatusCode::CONFLICT, &why);
    }
    let mut response = text(StatusCode::SEE_OTHER, String::new());
    // Relative: a proxy may have put the page anywhere.
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("./#set_aside"));
    response
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    let stuck = progress::stuck(&shared.report().loops);
    if stuck.is_empty() {
        text(StatusCode::OK, "ok\n".to_owned())
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, format!("no progress for 30 s: {}\n", stuck.join(", ")))
    }
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let ready = shared.report().ready();
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string_pretty(&ready).unwrap_or_default() + "\n";
    respond(status, "application/json", body)
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    respond(StatusCode::OK, status::metrics::CONTENT_TYPE, shared.report().metrics().await)
}

/// Who may ask, and what every answer says to browsers.
async fn guard(
    State(shared): State<Arc<Shared>>,
    Extension(Peer(peer)): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let by_ingress = shared.admin.trusted_ingress.contains(&peer);
    let mut response = match shared.admin.refuse(&request, by_ingress) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let (frame, ancestors) = if by_ingress { ("SAMEORIGIN", "'self'") } else { ("DENY", "'none'") };
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static(frame));
    // Not none: then a browser would not say where the page's own form comes from.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    let resource_policy = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(resource_policy, HeaderValue::from_static("same-origin"));
    let policy = headers.get(CONTENT_SECURITY_POLICY).and_then(|policy| policy.to_str().ok());
    let policy = format!("{}; frame-ancestors {ancestors}", policy.unwrap_or("default-src 'none'"));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

impl Admin {
    fn refuse(&self, request: &Request, by_ingress: bool) -> Option<Response> {
        let headers = request.headers();
        let text_of = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !by_ingress && !self.answers_to(text_of(HOST)) {
            return Some(text(StatusCode::FORBIDDEN, "this name is not one of admin.hosts\n".to_owned()));
        }
        let path = request.uri().path();
        // Another page in the operator's browser cannot read a stream, but it could take all there are.
        let site = text_of(HeaderName::from_static("sec-fetch-site"));
        if path == "/events" && !["", "same-origin", "none"].contains(&site) {
            return Some(text(StatusCode::FORBIDDEN, "only for the status page\n".to_owned()));
        }
        let open = by_ingress || self.listen.ip().is_loopback() || path == "/healthz";
        if open || self.knows(headers) {
            return None;
        }
        Some(unauthorized())
    }

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
        http::is_secret(&given, token)
    }
}

fn unauthorized() -> Response {
    let body = "admin.token is needed, as Bearer or as password\n".to_owned();
    let mut response = text(StatusCode::UNAUTHORIZED, body);
    let basic = HeaderValue::from_static("Basic realm=\"ilink2mqtt\", charset=\"UTF-8\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, basic);
    response
}

fn text(status: StatusCode, body: String) -> Response {
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
