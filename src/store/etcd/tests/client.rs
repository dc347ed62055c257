//! Who answers, who does not, and what is said of it.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use url::Url;

use super::server::{Server, shared};
use super::{config, in_time};
use crate::os::tls::ClientFiles;
use crate::store::etcd::client::{Client, EACH};
use crate::store::etcd::error::EtcdError;
use crate::store::etcd::wire::{Range, Step, Transaction};
use crate::store::etcd::{Etcd, EtcdConfig};

/// Whoever it is, it answers everything with this.
async fn somebody(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 4096];
            let _ = stream.read(&mut asked).await;
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    at
}

async fn get(config: &EtcdConfig) -> Result<usize, EtcdError> {
    let found = in_time(Client::new(config)?.range(&Range { key: "/a".to_owned().into(), ..Range::default() })).await?;
    Ok(found.kvs.len())
}

#[tokio::test]
async fn what_is_not_an_etcd_of_ours_is_told_for_what_it_is() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = get(&config(&format!("http://{nobody}"), "a")).await.unwrap_err();
    assert!(matches!(&error, EtcdError::Unreachable { at, .. } if at.ends_with(&nobody.port().to_string())), "{error}");
    for (status, body, says) in [
        ("200 OK", "hello", "not etcd"),
        ("404 Not Found", "<html>", "404"),
        ("200 OK", r#"{"etcdserver":"3.3.27","etcdcluster":"3.3.0"}"#, "3.4 or later"),
        ("400 Bad Request", "Client sent an HTTP request to an HTTPS server.\n", "https://"),
    ] {
        let error = get(&config(&somebody(status, body).await, "a")).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let other = Server::start(&[]);
    let mut two = config(shared(), "a");
    two.endpoints.push(Url::parse(&other.url()).unwrap());
    let etcd = Etcd::open(&two).unwrap();
    let told = in_time(etcd.endpoints(Duration::from_secs(10))).await;
    assert_eq!(told.iter().filter(|(_, told)| told.is_ok()).count(), 1);
    let foreign = told.iter().find_map(|(_, told)| told.as_ref().err()).unwrap();
    assert!(matches!(foreign, EtcdError::Foreign { .. }), "{foreign}");
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_for_the_next() {
    let paused = Server::start(&[]);
    let mut config = config(&paused.url(), "a");
    config.endpoints.insert(0, Url::parse(&somebody("200 OK", "hello").await).unwrap());
    let client = Client::new(&config).unwrap();
    let put = Transaction { success: vec![Step::put("/k".to_owned(), "v")], ..Transaction::default() };
    in_time(client.transact(&put)).await.unwrap();
    assert_eq!(client.current(), 1, "and stays with it");

    // One that stands still takes the time of a try, and whether it was carried out is not known.
    paused.pause();
    let etcd = Etcd::open(&config).unwrap();
    let told = in_time(etcd.endpoints(Duration::from_millis(200))).await;
    assert!(told.iter().any(|(_, told)| matches!(told, Err(EtcdError::Unanswered { .. }))), "{told:?}");
    let (failed, unknown) = client.try_within(&put, Duration::from_millis(300)).await;
    assert!(failed.is_err() && unknown, "{failed:?}");
    paused.resume();
    in_time(client.ask::<Value>("/v3/kv/txn", &put, EACH)).await.unwrap();
}

#[tokio::test]
async fn a_silent_endpoint_is_not_waited_for_and_is_asked_last_afterwards() {
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(shared(), "a");
    config.endpoints.insert(0, format!("http://{}", hole.local_addr().unwrap()).parse().unwrap());
    let client = Client::new(&config).unwrap();
    let begun = Instant::now();
    let (answer, may_come_late) = in_time(client.try_within(&Transaction::default(), EACH)).await;
    assert!(begun.elapsed() < EACH, "{:?}", begun.elapsed());
    assert!(answer.is_ok() && may_come_late, "the silent one may do it yet: {answer:?}");
    assert_eq!(client.current(), 1);
    let (answer, may_come_late) = in_time(client.try_within(&Transaction::default(), EACH)).await;
    assert!(answer.is_ok() && !may_come_late, "{answer:?}");
}

#[test]
fn a_url_with_a_password_is_refused_without_being_shown() {
    let error = Client::new(&config("http://root:geheim@127.0.0.1:1", "a")).unwrap_err().to_string();
    assert!(error.contains("cluster.password") && !error.contains("geheim"), "{error}");
    let error = Client::new(&config("ftp://127.0.0.1", "a")).unwrap_err().to_string();
    assert!(error.contains("https://"), "{error}");
}

#[tokio::test]
async fn users_log_in_and_again_when_their_token_is_no_good_any_more() {
    let server = Server::start(&[]);
    let anybody = config(&server.url(), "a");
    let admin = Client::new(&anybody).unwrap();
    for (path, question) in [
        ("user/add", json!({"name": "root", "password": "r"})),
        ("user/add", json!({"name": "bridge", "password": "geheim"})),
        ("role/add", json!({"name": "root"})),
        ("role/add", json!({"name": "bridges"})),
        (
            "role/grant",
            json!({"name": "bridges", "perm": {"permType": "READWRITE", "key": "L2E=", "range_end": "L2I="}}),
        ),
        ("user/grant", json!({"user": "root", "role": "root"})),
        ("user/grant", json!({"user": "bridge", "role": "bridges"})),
        ("enable", json!({})),
    ] {
        in_time(admin.ask::<Value>(&format!("/v3/auth/{path}"), &question, EACH)).await.unwrap();
    }
    assert!(matches!(get(&anybody).await, Err(EtcdError::Auth(_))));
    let as_user = |password: &str| {
        let login = Some(("bridge".to_owned(), SecretString::from(password.to_owned())));
        EtcdConfig { login, ..anybody.clone() }
    };
    let error = get(&as_user("guess")).await.unwrap_err();
    assert!(matches!(&error, EtcdError::Auth(_)) && !error.to_string().contains("guess"), "{error}");

    let right = as_user("geheim");
    assert!(!format!("{right:?}").contains("geheim"));
    let client = Client::new(&right).unwrap();
    let asked = Range { key: "/a".to_owned().into(), ..Range::default() };
    in_time(client.range(&asked)).await.unwrap();
    client.spoil_token();
    in_time(client.range(&asked)).await.unwrap();
    let beyond = Range { key: "/z".to_owned().into(), ..Range::default() };
    assert!(matches!(in_time(client.range(&beyond)).await, Err(EtcdError::Auth(_))));
}

#[tokio::test]
async fn both_sides_may_want_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca_cert = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let (ca, cert, key) = (file("ca", &ca_cert.pem()), file("cert", &leaf.pem()), file("key", &key.serialize_pem()));
    let flag = |name: &str, path: &std::path::Path| format!("--{name}={}", path.display());
    let flags = [
        flag("cert-file", &cert),
        flag("key-file", &key),
        flag("trusted-ca-file", &ca),
        "--client-cert-auth".to_owned(),
    ];
    let server = Server::start(&flags.iter().map(String::as_str).collect::<Vec<_>>());

    let mut config = config(&server.url(), "a");
    let error = get(&config).await.unwrap_err();
    assert!(matches!(&error, EtcdError::Tls { .. }) && error.to_string().contains("cluster.tls.ca"), "{error}");
    config.tls = ClientFiles { ca: Some(ca), ..ClientFiles::default() };
    let error = get(&config).await.unwrap_err();
    assert!(!matches!(error, EtcdError::Unreachable { .. }), "{error}");
    config.tls.cert = Some(cert);
    config.tls.key = Some(key);
    let etcd = Etcd::open(&config).unwrap();
    in_time(etcd.session().wait_for(Result::is_ok)).await.unwrap();
    let plain = Url::parse(&server.url().replace("https", "http")).unwrap();
    let error = get(&EtcdConfig { endpoints: vec![plain], ..config }).await.unwrap_err().to_string();
    assert!(error.contains("https://"), "{error}");
}
