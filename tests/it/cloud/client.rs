//! One POST: its form, and why there is no reply.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use ilink2mqtt::cloud::{Client, ClientConfig, ClientError, TransportError};
use ilink2mqtt::os::lease::Lease;
use ilink2mqtt::protocol::{Account, Call, Reply};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use secrecy::SecretString;
use tokio::net::TcpListener;
use url::Url;

use crate::support::deserted::Deserted;
use crate::support::scripted_cloud::{Behaviour, ScriptedCloud};

const TOKEN: &str = "tok/3n?&s3cret";

fn config(api: &Url) -> ClientConfig {
    ClientConfig { api: api.clone(), timeout: Duration::from_secs(20), proxy: None, extra_ca: None }
}

/// For tests that wait for it. Which of the two time-outs ran out, the one of connecting or the whole, must not depend on a
/// busy machine.
fn impatient(api: &Url) -> ClientConfig {
    ClientConfig { timeout: Duration::from_secs(4), ..config(api) }
}

fn account() -> Account {
    Account { appkey: "app".to_owned(), secretkey: "keys3cret".into(), uid: "414".parse().unwrap(), presence_action: 2 }
}

fn call() -> Call {
    Call::SendText { to: "413".parse().unwrap(), content: b"hello".to_vec() }
}

async fn post(config: &ClientConfig) -> Result<Reply, TransportError> {
    let client = Client::new(config).unwrap();
    let answer = client.post(&call().request(&account()), Some(&SecretString::from(TOKEN))).await;
    if let Err(error) = &answer {
        let shown = format!("{error} {error:?} {client:?} {config:?}");
        for secret in ["s3cret", "access_token", "tok"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
    answer
}

/// Why there is no reply although the request may have been read; also the name of the kind.
async fn lost(config: &ClientConfig) -> (&'static str, String) {
    match post(config).await {
        Err(TransportError::InFront { cause, .. }) => ("in front", cause),
        Err(TransportError::Unanswered { cause }) => ("unanswered", cause),
        Err(TransportError::BrokenOff { cause }) => ("broken off", cause),
        Err(TransportError::Unreadable { cause }) => ("unreadable", cause),
        other => panic!("not ambiguous: {other:?}"),
    }
}

async fn unsent(config: &ClientConfig) -> String {
    match post(config).await {
        Err(TransportError::Unsent { cause }) => cause,
        other => panic!("not unsent: {other:?}"),
    }
}

fn says(cause: &str, words: &[&str]) {
    for word in words {
        assert!(cause.contains(word), "{word:?} is missing: {cause}");
    }
}

#[tokio::test]
async fn a_call_is_a_post_of_json_with_the_token_in_the_query() {
    let cloud = ScriptedCloud::start().await;
    cloud.script([Behaviour::reply(r#"{"code":7,"x":[1]}"#)]);
    let reply = post(&config(&cloud.api)).await.unwrap();
    assert_eq!((reply.code.value(), &reply.extra["x"][0]), (7, &serde_json::json!(1)));
    let seen = &cloud.seen()[0];
    assert_eq!(seen.line, "POST /send_msg?access_token=tok%2F3n%3F%26s3cret HTTP/1.1");
    assert!(seen.headers.contains("content-type: application/json"), "{}", seen.headers);
    assert_eq!(seen.body["content"], "aGVsbG8=");
}

#[tokio::test]
async fn a_base_path_is_kept_and_a_call_by_keys_carries_no_token() {
    let cloud = ScriptedCloud::start().await;
    let client = Client::new(&config(&cloud.api.join("/v2/").unwrap())).unwrap();
    let call = Call::AddUser { username: "u".to_owned(), nickname: "n".to_owned() };
    client.post(&call.request(&account()), Some(&TOKEN.into())).await.unwrap();
    assert_eq!(cloud.seen()[0].line, "POST /v2/ham_add_user HTTP/1.1");
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    let nobody = Deserted::new();
    let api = nobody.url("http").parse().unwrap();
    says(&unsent(&config(&api)).await, &["refuses connections", "ilink.api", &nobody.address().to_string()]);

    let api = "http://nowhere.invalid:8184".parse().unwrap();
    says(&unsent(&config(&api)).await, &["nowhere.invalid:8184", "DNS"]);

    // Accepts connections and never speaks TLS.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("https://{}", mute.local_addr().unwrap()).parse().unwrap();
    says(&unsent(&impatient(&api)).await, &["no connection", "within 2 s"]);
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_named_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            use tokio::io::AsyncWriteExt as _;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            // Kept open: a reset would hide what was said.
            tokio::spawn(async move {
                let _open = stream;
                std::future::pending::<()>().await;
            });
        }
    });
    says(&unsent(&config(&api)).await, &["does not speak TLS"]);
}

#[tokio::test]
async fn once_a_connection_stood_the_request_may_have_been_read() {
    let cloud = ScriptedCloud::start().await;
    let moved = Behaviour::response("302 Found", "Location: /elsewhere\r\n", "");
    let broken = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"code\":0".to_vec();
    let long = format!(r#"{{"code":0,"x":"{}"}}"#, "x".repeat(5 * 1024 * 1024));
    let cases: [(&str, Behaviour, &[&str]); 13] = [
        ("unanswered", Behaviour::Close, &["closed the connection without an answer"]),
        ("unreadable", Behaviour::response("502 Bad Gateway", "", r#"{"code":0}"#), &["HTTP status 502 Bad Gateway"]),
        ("in front", Behaviour::response("502 Bad Gateway", "", r#"{"code":502}"#), &["HTTP status 502 Bad Gateway"]),
        ("in front", Behaviour::response("404 Not Found", "", ""), &["HTTP status 404", "ilink.api"]),
        ("in front", Behaviour::response("407 Proxy Authentication Required", "", ""), &["ilink.proxy"]),
        ("in front", moved, &["HTTP status 302", "redirects are not followed"]),
        ("unreadable", Behaviour::reply("<html>hello</html>"), &["not JSON"]),
        ("unreadable", Behaviour::reply(r#"{"ok":true}"#), &["not JSON with an integer code"]),
        ("unreadable", Behaviour::reply(""), &["not JSON"]),
        ("unreadable", Behaviour::response("204 No Content", "", ""), &["not JSON"]),
        ("broken off", Behaviour::Bytes(broken), &["broke off"]),
        ("unreadable", Behaviour::reply(&long), &["longer than 4 MiB"]),
        ("unreadable", Behaviour::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), &["failed"]),
    ];
    let wanted = cases.len();
    for (kind, behaviour, words) in cases {
        cloud.script([behaviour]);
        let (met, cause) = lost(&config(&cloud.api)).await;
        assert_eq!(met, kind, "{cause}");
        says(&cause, words);
    }
    assert_eq!(cloud.seen().len(), wanted, "something was repeated or followed");
    cloud.script([Behaviour::Hang]);
    let (kind, cause) = lost(&impatient(&cloud.api)).await;
    assert_eq!(kind, "unanswered");
    says(&cause, &["no answer", "within 4 s"]);
    let unfinished = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"code\":".to_vec();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = listener.accept().await.unwrap();
        // An answer before the question would be another fault.
        stream.read_u8().await.unwrap();
        stream.write_all(&unfinished).await.unwrap();
        std::future::pending::<()>().await;
    });
    let (kind, cause) = lost(&impatient(&api)).await;
    assert_eq!(kind, "broken off");
    says(&cause, &["did not finish its answer within 4 s"]);
}

#[tokio::test]
async fn an_odd_answer_that_says_its_code_is_an_answer() {
    let cloud = ScriptedCloud::start().await;
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(br#"{"code":0}"#).unwrap();
    let gzip = packer.finish().unwrap();
    let odd: [&[u8]; 8] = [
        br#"{"code":"0"}"#,
        br#"{"code":0.0}"#,
        b"\xef\xbb\xbf{\"code\":0}",
        b"{\"code\":0}\0",
        b"\r\n {\"code\":0}\n",
        b"{\"code\":0,\"msg\":\"\xb3\xc9\xb9\xa6\"}",
        br#"{"code":0,"msg":"\ud83d"}"#,
        &gzip,
    ];
    for body in odd {
        for header in ["", "Content-Encoding: gzip\r\n", "Content-Type: text/html; charset=gbk\r\n"] {
            cloud.script([Behaviour::response("200 OK", header, body)]);
            assert!(post(&config(&cloud.api)).await.unwrap().code.is_ok(), "{body:?} {header}");
        }
    }
    // More is announced than comes, and the object is whole.
    cloud.script([Behaviour::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"code\":7}".to_vec())]);
    assert_eq!(post(&config(&cloud.api)).await.unwrap().code.value(), 7);
}

#[tokio::test]
async fn interim_answers_without_end_hold_up_no_other_call() {
    const OTHERS: usize = 20;
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
    let endless = ScriptedCloud::start().await;
    endless.script([Behaviour::Endless(Vec::new(), interim)]);
    let cloud = ScriptedCloud::start().await;
    let others = async {
        for _ in 0..OTHERS {
            assert!(post(&config(&cloud.api)).await.unwrap().code.is_ok());
        }
    };
    let lasting = config(&endless.api);
    // One thread has them all.
    tokio::select! {
        biased;
        () = others => {}
        lost = lost(&lasting) => panic!("it ended first: {lost:?}"),
    }
    assert_eq!((cloud.seen().len(), endless.seen().len()), (OTHERS, 1));
}

#[tokio::test]
async fn who_stands_in_front_may_ask_for_patience() {
    let cloud = ScriptedCloud::start().await;
    for (header, wanted) in [("", None), ("Retry-After: 17\r\n", Some(17)), ("Retry-After: 864000\r\n", Some(600))] {
        cloud.script([Behaviour::response("503 Service Unavailable", header, "<html>later</html>")]);
        let Err(TransportError::InFront { status, retry_after, .. }) = post(&config(&cloud.api)).await else {
            panic!()
        };
        assert_eq!((status, retry_after), (503, wanted.map(Duration::from_secs)));
    }
}

#[tokio::test]
async fn the_configured_proxy_is_used() {
    let proxy = ScriptedCloud::start().await;
    let through = |proxy: &Url| ClientConfig {
        proxy: Some(proxy.clone()),
        ..config(&"http://api.invalid:8184".parse().unwrap())
    };
    assert!(post(&through(&proxy.api)).await.unwrap().code.is_ok());
    assert!(proxy.seen()[0].line.starts_with("POST http://api.invalid:8184/send_msg?"), "{}", proxy.seen()[0].line);

    let nobody = Deserted::new();
    let absent = format!("http://user:proxys3cret@{}", nobody.address()).parse().unwrap();
    says(&unsent(&through(&absent)).await, &["refuses connections", "ilink.proxy", &nobody.address().to_string()]);

    proxy.script([Behaviour::response("403 Forbidden", "", "")]);
    let tunnel = ClientConfig { api: "https://api.invalid:8183".parse().unwrap(), ..through(&proxy.api) };
    says(&unsent(&tunnel).await, &["the proxy", "does not connect to api.invalid:8183"]);
}

/// A certificate for these names, its own root.
fn certificate(names: &[&str]) -> (rcgen::Certificate, rustls::ServerConfig) {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (made.cert, server)
}

#[tokio::test]
async fn a_certificate_is_trusted_by_the_configured_roots() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let (root, server) = certificate(&["127.0.0.1"]);
    std::fs::write(&ca, root.pem()).unwrap();
    let cloud = ScriptedCloud::start_tls(server).await;
    let trusting = |api: &Url| ClientConfig { extra_ca: Some(ca.clone()), ..config(api) };
    assert!(post(&trusting(&cloud.api)).await.unwrap().code.is_ok());

    let (_, other) = certificate(&["127.0.0.1"]);
    let stranger = ScriptedCloud::start_tls(other).await;
    says(&unsent(&trusting(&stranger.api)).await, &["not trusted", "ilink.tls.ca"]);

    let (root, server) = certificate(&["else.example"]);
    std::fs::write(&ca, root.pem()).unwrap();
    let misnamed = ScriptedCloud::start_tls(server).await;
    says(&unsent(&trusting(&misnamed.api)).await, &["for another name"]);
    assert!(stranger.seen().is_empty() && misnamed.seen().is_empty());
}

#[tokio::test]
async fn a_call_whose_bytes_did_not_leave_in_time_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let (root, server) = certificate(&["127.0.0.1"]);
    std::fs::write(&ca, root.pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&over);
    let lease = Lease::until(move || if asked.load(Ordering::Relaxed) { Duration::ZERO } else { Duration::MAX });
    let client = Client::new(&ClientConfig { extra_ca: Some(ca), ..config(&api) }).unwrap().under(lease);
    let accepting = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        // It was let go when it was begun; it is over before there is a connection to write to.
        over.store(true, Ordering::Relaxed);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut read = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut read).await;
        read
    });
    let posted = client.post(&call().request(&account()), None).await;
    let Err(TransportError::Unsent { cause }) = posted else { panic!("{posted:?}") };
    says(&cause, &["does not lead"]);
    assert_eq!(accepting.await.unwrap(), b"");
}

#[test]
fn roots_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "nothing\n").unwrap();
    for path in [PathBuf::from("/nonexistent/ca.pem"), empty] {
        let config = ClientConfig { extra_ca: Some(path.clone()), ..config(&"https://api.example".parse().unwrap()) };
        let error = Client::new(&config).unwrap_err();
        assert!(matches!(error, ClientError::ExtraCa { .. }));
        says(&error.to_string(), &["ilink.tls.ca", path.to_str().unwrap()]);
    }
}
