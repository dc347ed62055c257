//! A status page's stream of events, as its script reads it.

use std::collections::HashMap;

use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::support::bridge::Bridge;
use crate::support::http::http;
use crate::support::{DEADLINE, eventually};

/// An open stream.
pub(super) struct Stream {
    response: Response,
    read: Vec<u8>,
    /// The page as it would be now.
    sections: HashMap<String, String>,
}

/// Opens a stream if the bridge lets us.
pub(super) async fn try_open(bridge: &Bridge) -> Result<Stream, StatusCode> {
    try_open_in(bridge, "").await
}

async fn try_open_in(bridge: &Bridge, language: &str) -> Result<Stream, StatusCode> {
    let url = format!("http://127.0.0.1:{}/events", bridge.admin_port());
    let request = http().get(url).header("accept-language", language).timeout(10 * DEADLINE);
    let response = request.send().await.expect("an answer");
    if response.status() != StatusCode::OK {
        return Err(response.status());
    }
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    Ok(Stream { response, read: Vec::new(), sections: HashMap::new() })
}

/// Opens a stream, once the bridge lets us.
pub(super) async fn open(bridge: &Bridge) -> Stream {
    eventually("a stream", async || try_open(bridge).await.ok()).await
}

/// The same for a browser that prefers this language.
pub(super) async fn open_in(bridge: &Bridge, language: &str) -> Stream {
    eventually("a stream", async || try_open_in(bridge, language).await.ok()).await
}

impl Stream {
    /// The next section: its id and its HTML. None at a clean end; panics if it was cut.
    async fn next(&mut self) -> Option<(String, String)> {
        loop {
            if let Some(end) = self.read.windows(2).position(|two| two == b"\n\n") {
                let rest = self.read.split_off(end + 2);
                let event = String::from_utf8(std::mem::replace(&mut self.read, rest)).expect("UTF-8");
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                if event.lines().any(|line| line == "event: section") {
                    let section: Value = serde_json::from_str(data.expect("a section has data")).expect("JSON");
                    let text = |name: &str| section[name].as_str().expect("text").to_owned();
                    return Some((text("id"), text("html")));
                }
                continue;
            }
            let chunk = self.response.chunk().await.expect("a stream that is not cut")?;
            self.read.extend_from_slice(&chunk);
        }
    }

    /// Waits until this section of the page holds all of this.
    #[track_caller]
    pub(super) fn shows(&mut self, id: &str, all: &[&str]) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let waiting = async {
                loop {
                    let shown = self.sections.get(id);
                    if shown.is_some_and(|html| all.iter().all(|text| html.contains(text))) {
                        return;
                    }
                    let (section, html) = self.next().await.expect("the stream goes on");
                    self.sections.insert(section, html);
                }
            };
            let shown = tokio::time::timeout(DEADLINE, waiting).await;
            shown.unwrap_or_else(|_| panic!("{caller}: {id} does not show {all:?} but {:?}", self.sections.get(id)));
        }
    }

    /// Waits until the bridge ends it; panics if it cuts it instead.
    pub(super) async fn ended(&mut self) {
        tokio::time::timeout(DEADLINE, async { while self.next().await.is_some() {} }).await.expect("its end");
    }
}
