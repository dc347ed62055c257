//! The simulated iLink service as a process of its own: `ilink2mqtt sim`.

use std::time::Instant;

use serde_json::{Value, json};

use super::http::{Answer, http};
use super::mosquitto::free_port;
use super::process::Process;
use super::{DEADLINE, eventually, pace};

pub(crate) const APPKEY: &str = "an-appkey";
pub(crate) const SECRETKEY: &str = "a-secretkey-nobody-may-see";

/// What the simulator shows of a secret.
pub(crate) const MASK: &str = "********";

/// A running simulator.
pub(crate) struct Sim {
    port: u16,
    args: Vec<String>,
    process: Option<Process>,
    http: reqwest::Client,
}

impl Sim {
    /// Starts one with these extra arguments and waits until it answers.
    pub(crate) async fn start(args: &[&str]) -> Self {
        let mut sim = Self::absent(args);
        sim.restart().await;
        sim
    }

    /// One that is not started yet: its address refuses connections.
    pub(crate) fn absent(args: &[&str]) -> Self {
        Self { port: free_port(), args: args.iter().map(|&arg| arg.to_owned()).collect(), process: None, http: http() }
    }

    /// Starts it on the same address, remembering nothing.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        let listen = format!("127.0.0.1:{}", self.port);
        let mut args = vec!["sim", "--listen", &listen, "--appkey", APPKEY, "--secretkey", SECRETKEY];
        args.extend(self.args.iter().map(String::as_str));
        let mut process = Process::start("sim", args, &[]);
        eventually("the simulator to answer", async || {
            assert!(process.is_running(), "the simulator ended:\n{}", process.output());
            self.try_state().await
        })
        .await;
        self.process = Some(process);
    }

    /// Ends it: its address refuses connections.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it where it is: it takes connections and requests, and answers none until [`Self::resume`].
    pub(crate) fn pause(&self) {
        self.process.as_ref().expect("it runs").pause();
    }

    pub(crate) fn resume(&self) {
        self.process.as_ref().expect("it runs").resume();
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The base URL for `ilink.api`.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn output(&self) -> String {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }

    /// `GET /sim/state`.
    pub(crate) async fn state(&self) -> Value {
        self.try_state().await.expect("the simulator's state")
    }

    async fn try_state(&self) -> Option<Value> {
        let answer = Answer::try_of(self.http.get(format!("{}/sim/state", self.url()))).await.ok()?;
        (answer.status == 200).then(|| answer.json())
    }

    /// The calls of one path, oldest first.
    pub(crate) async fn calls(&self, path: &str) -> Vec<Call> {
        calls_of(&self.state().await, path)
    }

    /// Waits until the calls of one path satisfy `enough`: as long as more come, however slowly.
    pub(crate) async fn calls_until(
        &self,
        path: &str,
        what: &str,
        mut enough: impl FnMut(&[Call]) -> bool,
    ) -> Vec<Call> {
        let (mut pace, mut seen, mut since) = (pace(), 0, Instant::now());
        loop {
            pace.tick().await;
            let calls = self.calls(path).await;
            if enough(&calls) {
                return calls;
            }
            if calls.len() != seen {
                (seen, since) = (calls.len(), Instant::now());
            }
            assert!(since.elapsed() < DEADLINE, "waited for {what} at {path}; the simulator has seen {seen} calls");
        }
    }

    /// `POST /sim/push`: a push to the registered callback.
    pub(crate) async fn push(&self, body: &Value) -> Answer {
        self.control("push", body).await
    }

    /// `POST /sim/fault`.
    pub(crate) async fn fault(&self, fault: &Value) {
        let answer = self.control("fault", fault).await;
        assert_eq!(answer.status, 200, "{fault}: {}", answer.body);
    }

    /// The next `times` calls of `path` are answered with this result code.
    pub(crate) async fn answer_code(&self, path: &str, code: i64, times: u32) {
        self.fault(&json!({"path": path, "mode": "code", "code": code, "times": times})).await;
    }

    /// `POST /sim/expire`: the token is no longer valid.
    pub(crate) async fn expire(&self) {
        assert_eq!(self.control("expire", &json!({})).await.status, 200);
    }

    /// `POST /sim/forget`: the registration is gone.
    pub(crate) async fn forget(&self) {
        assert_eq!(self.control("forget", &json!({})).await.status, 200);
    }

    /// A call as any client of the service makes it; the reply as JSON.
    pub(crate) async fn post(&self, path: &str, token: Option<&str>, body: &Value) -> Value {
        let query = token.map(|token| format!("?access_token={token}")).unwrap_or_default();
        Answer::of(self.http.post(format!("{}/{path}{query}", self.url())).json(body)).await.json()
    }

    async fn control(&self, what: &str, body: &Value) -> Answer {
        Answer::of(self.http.post(format!("{}/sim/{what}", self.url())).json(body)).await
    }
}

/// A call that the simulator has seen.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) body: Value,
    /// The result code it answered; none when a fault kept it from answering with one.
    pub(crate) code: Option<i64>,
    /// Whether it carried an access token.
    pub(crate) with_token: bool,
}

fn calls_of(state: &Value, path: &str) -> Vec<Call> {
    state["calls"]
        .as_array()
        .expect("calls is a list")
        .iter()
        .filter(|call| call["path"].as_str().is_some_and(|seen| seen.trim_start_matches('/') == path))
        .map(|call| Call {
            body: call["body"].clone(),
            code: call["code"].as_i64(),
            with_token: call["with_token"] == true,
        })
        .collect()
}
