//! A real nginx in front of the callback, configured as `deploy/docs/reach.md` says: where the bridge gives no answer, neither
//! does the proxy.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::Method;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::world::World;
use crate::support::bridge::{SECRET, text_push};
use crate::support::eventually;
use crate::support::http::{Answer, http, raw_connection, raw_post, read_to_close};
use crate::support::mosquitto::free_port;

struct Nginx {
    port: u16,
    process: Child,
    _dir: TempDir,
}

impl Nginx {
    /// With the part of the document that is a `server`'s, for a bridge whose callback has this port.
    async fn start(bridge: u16) -> Self {
        let document = include_str!("../../../deploy/docs/reach.md");
        let locations = document.split("```nginx\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        assert!(locations.contains("127.0.0.1:8787"), "{locations}");
        let locations = locations.replace("127.0.0.1:8787", &format!("127.0.0.1:{bridge}"));
        let (dir, port) = (TempDir::new().unwrap(), free_port());
        let at = dir.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {at}/{what};\n"))
            .concat();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/log;\nevents {{}}\n\
             http {{\n{temporary}server {{ listen 127.0.0.1:{port};\n{locations}}}\n}}\n"
        );
        fs::write(dir.path().join("nginx.conf"), config).unwrap();
        let process = Command::new("nginx")
            .args(["-p", &at.to_string(), "-e", "stderr", "-c", "nginx.conf"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("nginx is installed (tests/run does it)");
        let nginx = Self { port, process, _dir: dir };
        eventually("nginx to listen", async || TcpStream::connect(("127.0.0.1", port)).await.ok()).await;
        nginx
    }

    /// Everything that it answers to a push, until it closes the connection.
    async fn push(&self, text: &str) -> String {
        let body = text_push("413", text).to_string();
        let request = String::from_utf8(raw_post(&format!("/ilink/{SECRET}"), body.as_bytes())).unwrap();
        let request = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let mut stream = raw_connection(self.port, request.as_bytes()).await;
        read_to_close(&mut stream, Duration::from_mins(1)).await
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn nginx_gives_no_answer_where_the_bridge_gives_none() {
    let mut world = World::ready_with(|bridge| {
        bridge.with("spool.max_bytes", "1MiB").with_toml("callback.trusted_proxies", r#"["127.0.0.1/32"]"#)
    })
    .await;
    let nginx = Nginx::start(world.bridge.callback_port()).await;
    let through = nginx.push("through nginx").await;
    assert!(through.starts_with("HTTP/1.1 200") && through.ends_with("{\"code\":0}"), "{through}");
    world.client.expect_text("ilink/recv/user/413/text", "through nginx").await;
    // What is no push of ours is told so.
    let url = |path: &str| format!("http://127.0.0.1:{}/ilink/{path}", nginx.port);
    assert_eq!(Answer::of(http().get(url("x"))).await.status, 404);
    assert_eq!(Answer::of(http().request(Method::PUT, url(SECRET))).await.status, 405);

    // The spool is full.
    world.broker.stop();
    let large = "x".repeat(200_000);
    let mut answered = 0;
    let cut = loop {
        let answer = nginx.push(&format!("{answered} {large}")).await;
        if !answer.starts_with("HTTP/1.1 200") {
            break answer;
        }
        answered += 1;
        assert!(answered < 100, "the cap does not hold");
    };
    assert_eq!(cut, "", "nginx answers for the bridge");
    // The bridge is gone.
    world.bridge.kill();
    assert_eq!(nginx.push("gone").await, "", "nginx answers for the bridge");
    // And takes pushes again.
    world.broker.restart();
    world.bridge.start().await;
    world.bridge.waiting("inbound", 0).await;
    let again = nginx.push("again").await;
    assert!(again.starts_with("HTTP/1.1 200"), "{again}");
    world.client.expect_text("ilink/recv/user/413/text", "again").await;
}
