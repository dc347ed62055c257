//! Registering with its handshake, tokens, and the public client.

use std::time::Duration;

use axum::http::StatusCode;
use ilink2mqtt::protocol::{Accepted, Variant};
use ilink2mqtt::sim::Options;
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::deserted::Deserted;

use super::harness::{Behaviour, Callback, HANDSHAKE_TOKEN, Service, Session, account, options, registration};

#[tokio::test]
async fn registering_makes_the_handshake_before_it_answers() {
    for variant in Variant::ALL {
        let service = Service::start(Options { signature: variant, ..options() }).await;
        let mut callback = Callback::accepting(Accepted::Only(variant)).await;
        let mut body = registration("414", &format!("{}?room=1", callback.url));
        body.as_object_mut().unwrap().remove("action_type");
        assert_eq!(service.code("set_config", &body).await, 0, "{variant}");
        let uri = callback.handshakes.try_recv().expect("the GET came before the answer");
        assert!(uri.query().unwrap().starts_with("room=1&signature="), "{uri}");
        assert_eq!(service.state().await["handshakes"][0]["result"], "verified");
    }
}

#[tokio::test]
async fn a_handshake_that_fails_registers_nothing_and_keeps_the_old_registration() {
    let service = Service::start(Options { answer_limit: Duration::from_secs(3), ..options() }).await;
    let callback = Callback::start().await;
    let query = account(&json!({"uid": "414", "url": callback.url, "action_type": 2}));
    for (behaviour, result) in [
        (Behaviour::Answer(StatusCode::OK, "something else"), "wrong_answer"),
        (Behaviour::Answer(StatusCode::FORBIDDEN, ""), "error_status"),
        (Behaviour::Answer(StatusCode::FOUND, ""), "error_status"),
        (Behaviour::Hang, "unanswered"),
    ] {
        callback.next_answers([behaviour]);
        assert_eq!(service.code("set_config", &registration("414", &callback.url)).await, 1006);
        let state = service.state().await;
        assert_eq!(state["handshakes"].as_array().unwrap().last().unwrap()["result"], result);
        assert_eq!(service.code("set_config", &query).await, 1007);
    }
    let deserted = Deserted::new();
    let nobody = deserted.address();
    assert_eq!(service.code("set_config", &registration("414", &format!("http://{nobody}/"))).await, 1006);

    assert_eq!(service.code("set_config", &registration("414", &callback.url)).await, 0);
    assert_eq!(service.code("set_config", &query).await, 0);
    assert_eq!(service.code("set_config", &registration("414", &format!("http://{nobody}/"))).await, 1006);
    assert_eq!(service.code("set_config", &query).await, 0);
}

#[tokio::test]
async fn registration_refuses_what_the_manual_refuses() {
    let service = Service::start(options()).await;
    let callback = Callback::start().await;
    let good = registration("414", &callback.url);
    for (field, value, code) in [
        ("appkey", json!("B"), 1000),
        ("secretkey", json!("wrong"), 1000),
        ("secretkey", json!(null), 1010),
        ("uid", json!(""), 1010),
        ("url", json!("http:xxx.com"), 1005),
        ("url", json!("ftp://example.org/"), 1005),
        ("url", json!("http://"), 1005),
        ("url", json!(null), 1010),
        ("token", json!("ab"), 1010),
        ("token", json!("with-hyphen"), 1010),
        ("token", json!("a".repeat(33)), 1010),
        ("action_type", json!(3), 1012),
        ("action_type", json!("x"), 1010),
    ] {
        let mut body = good.clone();
        body[field] = value.clone();
        assert_eq!(service.code("set_config", &body).await, code, "{field} = {value}");
    }
    for body in ["", "[]", "{\"appkey\":", "\u{1}"] {
        let reply = service.send("set_config", body).await.unwrap();
        assert_eq!(reply.text().await.unwrap(), r#"{"code":1010}"#);
    }
    assert!(service.state().await["registrations"].as_array().unwrap().is_empty());

    assert_eq!(service.code("set_config", &good).await, 0);
    let unregister = account(&json!({"uid": "414", "action_type": 1}));
    assert_eq!(service.code("set_config", &unregister).await, 0);
    assert_eq!(service.code("set_config", &unregister).await, 1007);
}

#[tokio::test]
async fn a_new_token_ends_the_old_one() {
    let service = Service::start(Options { expires_in: Duration::from_mins(1), ..options() }).await;
    let callback = Callback::start().await;
    assert_eq!(service.code("get_access_token", &account(&json!({"uid": "414"}))).await, 1007);
    assert_eq!(service.code("get_access_token", &json!({"appkey": "A", "secretkey": "x", "uid": "414"})).await, 1000);
    let list = json!({"send_uid": "414", "action_type": 3});
    assert_eq!(service.code("ham_group?access_token=x", &list).await, 1007);
    assert_eq!(service.code("set_config", &registration("414", &callback.url)).await, 0);
    assert_eq!(service.code("ham_group?access_token=x", &list).await, 1015);

    let old = service.login("414").await;
    assert_eq!(old.code("ham_group", json!({"action_type": 3})).await, 0);
    assert_eq!(service.code("ham_group", &list).await, 1008);
    let new = service.login("414").await;
    assert_eq!(old.code("ham_group", json!({"action_type": 3})).await, 1008);
    assert_eq!(new.code("ham_group", json!({"action_type": 3})).await, 0);
    assert_eq!(service.post("sim/expire", &json!({})).await.1["expired"], 1);
    assert_eq!(new.code("ham_group", json!({"action_type": 3})).await, 1008);
    let third = service.login("414").await;
    assert_eq!(service.post("sim/forget", &json!({})).await.1["forgotten"], 1);
    assert_eq!(third.code("ham_group", json!({"action_type": 3})).await, 1007);
    let state = service.state().await;
    assert_eq!((state["tokens_issued"].as_u64(), state["handshakes_total"].as_u64()), (Some(3), Some(1)));
}

#[tokio::test]
async fn a_token_lives_as_long_as_it_was_told() {
    let service = Service::start(Options { expires_in: Duration::ZERO, ..options() }).await;
    let callback = Callback::start().await;
    let session = service.register("414", &callback).await;
    assert_eq!(session.code("ham_group", json!({"action_type": 3})).await, 1008);
}

/// As the Egg.js client of 2018 does it: with fields that the tables do not list, and without `action_type`.
#[tokio::test]
async fn the_public_client_finds_what_it_expects() {
    let service = Service::start(options()).await;
    let mut callback = Callback::start().await;
    let names = json!({"username": "google", "nickname": "google home"});
    let (_, user) = service.post("ham_add_user", &account(&names)).await;
    let uid = user["userid"].as_str().unwrap().to_owned();
    let (_, again) = service.post("ham_add_user", &account(&names)).await;
    assert_eq!(again["userid"], uid.as_str());
    let mut everything = account(&names);
    everything["uid"] = json!(uid);
    everything["url"] = json!(callback.url);
    everything["token"] = json!(HANDSHAKE_TOKEN);
    assert_eq!(service.code("set_config", &everything).await, 0);
    let (_, granted) = service.post("get_access_token", &everything).await;
    assert_eq!((&granted["code"], &granted["expires_in"]), (&json!(0), &json!(7200)));
    let token = granted["access_token"].as_str().unwrap().to_owned();
    let session = Session { service: &service, uid: uid.clone(), token };
    let message = json!({"accept_uid": uid, "msg_type": 1, "content": "dGVzdA=="});
    assert_eq!(session.code("send_msg", message).await, 0);
    assert_eq!(callback.push().await["content"], "dGVzdA==");
    let states = session.call("ham_user", json!({"action_type": 1, "uid_list": []})).await;
    assert_eq!(states, json!({"code": 0, "uid_state_list": []}));
}

/// A callback's certificate is its operator's business: one of its own making will do.
#[tokio::test]
async fn an_https_callback_may_have_any_certificate() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let service = Service::start(options()).await;
    let certified = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut head = [0; 4096];
        let length = stream.read(&mut head).await.unwrap();
        let line = std::str::from_utf8(&head[..length]).unwrap().split(' ').nth(1).unwrap().to_owned();
        let echostr = line.split("echostr=").nth(1).unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{echostr}", echostr.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    });
    assert_eq!(service.code("set_config", &registration("414", &url)).await, 0);
}
