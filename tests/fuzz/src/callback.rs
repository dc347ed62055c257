//! What reaches the callback listener once HTTP is parsed: path, handshake, refused bodies, and where a request came from.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode, Uri};
use ilink2mqtt::cloud::HandshakeLog;
use ilink2mqtt::http::answered::Answer;
use ilink2mqtt::http::listener::Visit;
use ilink2mqtt::inbound::callback::{Callback, CallbackConfig};
use ilink2mqtt::inbound::server::Access;
use ilink2mqtt::inbound::store::{Recognition, Store};
use ilink2mqtt::protocol::signature::sign;
use ilink2mqtt::protocol::{Accepted, Variant};
use ilink2mqtt::store::Limits;
use ilink2mqtt::store::sqlite::Spool;
use ipnet::IpNet;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::input::{parts, switches, text};

const SECRET: &str = "c4n4ry7c4n4ry7c4n4ry7c4n4";
const TOKEN: &str = "weixin";
const MAX_BODY: usize = 1000;

/// Switches; path; query; then timestamp, echostr and signature of a handshake, or the body of a push; then, for the
/// address, trusted networks and `X-Forwarded-For`, one header a line.
pub fn run(data: &[u8]) {
    let [options, path, query, timestamp, echostr, signature, trusted, forwarded] = parts(data);
    let [post, own_path, append, signed, other_method, one, ..] = switches(options);
    check_access(&text(trusted), forwarded);

    let (timestamp, echostr) = (text(timestamp), text(echostr));
    let variant = Variant::ALL[usize::from(signed) + usize::from(one)];
    let signature = if signed { sign(variant, TOKEN, &timestamp, &echostr) } else { text(signature) };
    let own = if own_path { format!("/{SECRET}/") } else { String::new() };
    let mut appended = url::form_urlencoded::Serializer::new(String::new());
    if append {
        let signed = [("signature", &signature), ("timestamp", &timestamp), ("echostr", &echostr)];
        appended.append_pair("", "").extend_pairs(signed);
    }
    let target = format!("/{}{own}?{}{}", text(path), text(query), appended.finish());
    let Ok(uri) = target.parse::<Uri>() else { return };
    let method = match (post, other_method) {
        (false, false) => Method::GET,
        (true, false) => Method::POST,
        _ => Method::PUT,
    };
    if method == Method::POST && (1..=MAX_BODY).contains(&echostr.len()) {
        // It would be stored; decoding is another target's.
        return;
    }
    // A `?` or `#` in what comes before would make it something else.
    let whole = own_path && append && !text(path).contains(['?', '#']) && !text(query).contains('#');
    let handshake = (whole && signed && method == Method::GET).then_some(echostr.as_str());
    check_request(&method, uri, &echostr, handshake);
}

/// A callback that never stores anything.
struct Bench {
    callback: Arc<Callback>,
    runtime: Runtime,
    _dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let (spool, _) = Spool::open(dir.path(), Limits { inbound: 0, outbound: 0, set_aside: 0 }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let within = runtime.enter();
        let store = Arc::new(Store::new(spool, Recognition::Off, MAX_BODY, Arc::default(), TaskTracker::new()));
        let config = CallbackConfig {
            path_secrets: watch::channel(vec![SECRET.into()]).1,
            handshake_token: TOKEN.into(),
            accepted: Accepted::Any,
            max_body: MAX_BODY,
            uid: "413".parse().unwrap(),
            strict_to_uid: false,
        };
        let callback = Callback::new(config, store, HandshakeLog::default(), Arc::default(), Arc::default());
        drop(within);
        Self { callback: Arc::new(callback), runtime, _dir: dir }
    }

    fn answer(&self, request: Request<Body>) -> (Response<()>, Bytes) {
        let peer = IpAddr::from([192, 0, 2, 1]);
        let visit = Visit::alone(peer).unwrap();
        self.runtime.block_on(async {
            let response: Response<Answer> =
                self.callback.handle(request, peer, &visit).await.expect("nothing is stored here");
            let (head, body) = response.into_parts();
            (Response::from_parts(head, ()), to_bytes(Body::new(body), usize::MAX).await.unwrap())
        })
    }
}

/// Only who knows the path is told more than 404, and only who knows the token is answered. `handshake` is the echostr of a
/// handshake made as iLink makes it.
fn check_request(method: &Method, uri: Uri, body: &str, handshake: Option<&str>) {
    thread_local! {
        static BENCH: Bench = Bench::new();
    }
    let ours = uri.path().split('/').rfind(|segment| !segment.is_empty()) == Some(SECRET);
    let asked = asked(uri.query().unwrap_or_default());
    let mut request = Request::new(Body::from(body.to_owned()));
    (*request.method_mut(), *request.uri_mut()) = (method.clone(), uri);
    let (response, answer) = BENCH.with(|bench| bench.answer(request));
    let status = response.status();
    let expected = match *method {
        _ if !ours => StatusCode::NOT_FOUND,
        Method::POST if body.len() > MAX_BODY => StatusCode::PAYLOAD_TOO_LARGE,
        Method::POST => StatusCode::OK,
        Method::GET => asked.as_ref().map_or_else(|status| *status, |_| StatusCode::OK),
        _ => StatusCode::METHOD_NOT_ALLOWED,
    };
    assert_eq!(status, expected);
    assert_eq!(response.headers().contains_key(ALLOW), status == StatusCode::METHOD_NOT_ALLOWED);
    if status == StatusCode::OK && *method == Method::POST {
        assert_eq!(answer, r#"{"code":0}"#);
    } else if status == StatusCode::OK {
        assert_eq!(answer, asked.unwrap());
        assert_eq!(response.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
    } else {
        assert!(answer.is_empty() && response.headers()[CONNECTION] == "close");
    }
    if let Some(echostr) = handshake {
        assert_eq!((status, answer.as_ref()), (StatusCode::OK, echostr.as_bytes()), "iLink's handshake is refused");
    }
}

/// The echostr to be answered, or the status that refuses the handshake.
fn asked(query: &str) -> Result<String, StatusCode> {
    let last = |wanted: &str| {
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.filter(|(name, _)| name == wanted).last().map(|(_, value)| value.into_owned())
    };
    let (Some(signature), Some(timestamp), Some(echostr)) = (last("signature"), last("timestamp"), last("echostr"))
    else {
        return Err(StatusCode::BAD_REQUEST);
    };
    let right = |variant| sign(variant, TOKEN, &timestamp, &echostr).eq_ignore_ascii_case(&signature);
    if Variant::ALL.into_iter().any(right) { Ok(echostr) } else { Err(StatusCode::FORBIDDEN) }
}

/// Nobody chooses the address that they are taken for, but through proxies that are trusted.
fn check_access(networks: &str, forwarded: &[u8]) {
    let networks: Vec<IpNet> = networks.split_whitespace().filter_map(|net| net.parse().ok()).collect();
    let access = Access::new(&networks, &networks);
    let headers = |spoofed: Option<&'static str>| {
        let values = forwarded.split(|byte| *byte == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok());
        let mut headers = HeaderMap::new();
        for value in spoofed.map(HeaderValue::from_static).into_iter().chain(values) {
            headers.append("x-forwarded-for", value);
        }
        headers
    };
    let is_one_of_them = |address: IpAddr| networks.iter().any(|net| holds(net, address));
    for peer in [IpAddr::from([127, 0, 0, 1]), IpAddr::from([192, 0, 2, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])] {
        let client = access.client(peer, &headers(None));
        assert!(is_one_of_them(peer) || client == Some(peer));
        assert!(client.is_none_or(|client| client == client.to_canonical()));
        assert_eq!(access.allows(client), networks.is_empty() || client.is_some_and(is_one_of_them));
        let spoofed = access.client(peer, &headers(Some("203.0.113.9")));
        assert!(client.is_some_and(is_one_of_them) || spoofed == client, "{client:?} becomes {spoofed:?}");
    }
}

/// A network of mapped IPv4 addresses holds the IPv4 addresses themselves.
fn holds(net: &IpNet, address: IpAddr) -> bool {
    let mapped = match (net, address) {
        (IpNet::V6(net), IpAddr::V4(address)) if net.prefix_len() >= 96 => net.contains(&address.to_ipv6_mapped()),
        _ => false,
    };
    mapped || net.contains(&address)
}
