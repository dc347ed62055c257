//! A real Chromium, headless, driven by its own driver over HTTP, as the W3C specifies it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::http::http;
use crate::support::mosquitto::free_port;
use crate::support::{DEADLINE, within};

/// What a page is looked at with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// The viewport, in CSS pixels.
    pub(super) size: (u32, u32),
    pub(super) dark: bool,
    pub(super) scripts: bool,
    /// The language that the browser prefers.
    pub(super) language: &'static str,
}

/// A browser with one page.
pub(super) struct Chromium {
    driver: Child,
    port: u16,
    session: String,
    http: reqwest::Client,
    profile: TempDir,
}

impl Chromium {
    pub(super) async fn start(look: Look) -> Self {
        let port = free_port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver (`apt-get install chromium-driver`; .ci/page does so by itself)");
        let profile = tempfile::Builder::new().prefix("chromium-").tempdir().expect("a temporary directory");
        let mut this = Self { driver, port, session: String::new(), http: http(), profile };
        within(4 * DEADLINE, "the driver to answer", async || {
            let status = this.http.get(this.url("/status")).send().await.ok()?.json::<Value>().await.ok()?;
            (status["value"]["ready"] == true).then_some(())
        })
        .await;
        let mut args: Vec<String> = [
            "headless",
            "no-sandbox",
            "disable-gpu",
            "disable-quic",
            "disable-dev-shm-usage",
            "no-first-run",
            "no-proxy-server",
            "disable-background-networking",
            "disable-component-update",
            "disable-sync",
            "disable-features=MediaRouter,OptimizationHints",
        ]
        .map(|flag| format!("--{flag}"))
        .into();
        args.push(format!("--user-data-dir={}", this.profile.path().display()));
        args.extend([format!("--lang={}", look.language), format!("--accept-lang={}", look.language)]);
        if look.dark {
            args.push("--blink-settings=preferredColorScheme=0".to_owned());
        }
        let (width, height) = look.size;
        let options = json!({
            "args": args,
            "mobileEmulation": {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1.0, "mobile": width < 600}},
            "prefs": {"intl.accept_languages": look.language, "intl.selected_languages": look.language, "profile.managed_default_content_settings.javascript": if look.scripts { 1 } else { 2 }},
        });
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let session = this.command("/session", &capabilities).await;
        session["sessionId"].as_str().expect("a session").clone_into(&mut this.session);
        this
    }

    /// Opens a page and waits until it is there.
    pub(super) async fn open(&self, url: &str) {
        self.of_session("/url", &json!({"url": url})).await;
    }

    /// What a script of the test's returns.
    pub(super) async fn evaluate(&self, script: &str) -> Value {
        self.of_session("/execute/sync", &json!({"script": script, "args": []})).await
    }

    /// Waits until a script returns true.
    pub(super) async fn until(&self, what: &str, script: &str) {
        within(2 * DEADLINE, what, async || (self.evaluate(script).await == true).then_some(())).await;
    }

    /// What the page has complained of, by itself or by the browser's mouth.
    pub(super) async fn complaints(&self) -> Vec<String> {
        let entries = self.of_session("/se/log", &json!({"type": "browser"})).await;
        let entries = entries.as_array().expect("a list").iter().map(ToString::to_string);
        // Not what the browser says of its own pages.
        entries.filter(|entry| !entry.contains("chrome://")).collect()
    }

    /// The URLs that the page has asked for.
    pub(super) async fn requests(&self) -> Vec<String> {
        let entries = self.of_session("/se/log", &json!({"type": "performance"})).await;
        let url_of = |entry: &Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let asks = message["message"]["method"] == "Network.requestWillBeSent";
            let url = message["message"]["params"]["request"]["url"].as_str()?;
            asks.then(|| url.to_owned())
        };
        entries.as_array().expect("a list").iter().filter_map(url_of).collect()
    }

    /// The page as a PNG.
    pub(super) async fn screenshot(&self) -> Vec<u8> {
        let answer = self.http.get(self.url(&format!("/session/{}/screenshot", self.session))).send().await;
        let answer: Value = answer.expect("the driver answers").json().await.expect("JSON");
        let png = answer["value"].as_str().expect("a picture");
        base64::engine::general_purpose::STANDARD.decode(png).expect("base64")
    }

    async fn of_session(&self, path: &str, body: &Value) -> Value {
        self.command(&format!("/session/{}{path}", self.session), body).await
    }

    async fn command(&self, path: &str, body: &Value) -> Value {
        let sent = self.http.post(self.url(path)).timeout(4 * DEADLINE).json(body).send().await;
        let answer = sent.expect("the driver answers");
        let (status, answer) = (answer.status(), answer.json::<Value>().await.expect("JSON"));
        assert!(status.is_success(), "{path}: {answer}");
        answer["value"].clone()
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Chromium {
    /// The driver ends its browser when its session ends, not when it is killed.
    fn drop(&mut self) {
        if !self.session.is_empty()
            && let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port))
        {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
            let request = format!(
                "DELETE /session/{} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\r\n",
                self.session, self.port
            );
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.read(&mut [0; 1024]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
