//! The simulated iLink: what it answers in which weather, and what it remembers of the commands.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::weather::{CONFIG, Rng, Spell, TOKEN, Trouble};
use crate::cloud::{Post, TransportError};
use crate::protocol::{Reply, Request, ResultCode};

/// `ilink.timeout`.
const TIMEOUT: Duration = Duration::from_secs(10);

type Answer = Result<Reply, TransportError>;

/// What a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Code(i64),
    /// There was no connection.
    Unsent,
    /// Somebody in front of the service answered.
    InFront,
    /// Nothing, or nothing that can be read.
    Nothing,
}

/// One request on behalf of a command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Try {
    pub(super) at: Instant,
    pub(super) executed: bool,
    pub(super) said: Said,
    /// When the bridge had the answer; none if it was gone by then.
    pub(super) heard: Option<Instant>,
}

/// The service; all clones are one.
#[derive(Clone)]
pub(super) struct Service(Arc<Mutex<Inner>>);

struct Inner {
    rng: Rng,
    began: Instant,
    spells: Vec<Spell>,
    registered: bool,
    /// The living token, and when it dies.
    token: Option<(String, Instant)>,
    tokens: u64,
    answered: Instant,
    memory: Memory,
}

/// What is left to be looked at.
#[derive(Default)]
pub(super) struct Memory {
    /// By the commands' marks.
    pub(super) tries: HashMap<String, Vec<Try>>,
    /// Each `set_config` and `get_access_token` that reached the service.
    pub(super) own: Vec<(&'static str, Instant)>,
    /// Each answer that may make the bridge wait.
    pub(super) odd: Vec<(Instant, &'static str, Trouble)>,
}

/// The mark of the command that a request was made for.
fn mark(request: &Request) -> Option<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let body = &request.body;
    let named = body.get("group_name").or(body.get("username")).and_then(text);
    let content = || String::from_utf8(STANDARD.decode(body.get("content")?.as_str()?).ok()?).ok();
    let first = || body.get("uid_list")?.get(0).and_then(text);
    named.or_else(content).or_else(first).filter(|mark| mark.starts_with('c'))
}

impl Service {
    pub(super) fn new(seed: u64, spells: Vec<Spell>) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            rng: Rng::new(seed, 2),
            began: Instant::now(),
            spells,
            registered: false,
            token: None,
            tokens: 0,
            answered: Instant::now(),
            memory: Memory::default(),
        })))
    }

    /// How long ago a command was answered.
    pub(super) fn quiet_for(&self) -> Duration {
        self.0.lock().unwrap().answered.elapsed()
    }

    pub(super) fn memory(&self) -> Memory {
        std::mem::take(&mut self.0.lock().unwrap().memory)
    }
}

impl Post for Service {
    fn post<'a>(
        &'a self,
        request: &'a Request,
        token: Option<&'a SecretString>,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        Box::pin(async move {
            // It is executed when it arrives; that the bridge is killed meanwhile undoes nothing.
            let (answer, takes, of) = self.0.lock().unwrap().arrives(request, token.map(SecretString::expose_secret));
            sleep(takes).await;
            if let Some((mark, number)) = of {
                let mut inner = self.0.lock().unwrap();
                inner.answered = Instant::now();
                inner.memory.tries.get_mut(&mark).unwrap()[number].heard = Some(Instant::now());
            }
            answer
        })
    }
}

impl Inner {
    fn arrives(&mut self, request: &Request, token: Option<&str>) -> (Answer, Duration, Option<(String, usize)>) {
        let now = Instant::now();
        let troubles = self.troubles(request.path, now);
        let mut takes = Duration::from_millis(self.rng.between(5, 80));
        let mut answers = None;
        for trouble in troubles {
            match trouble {
                Trouble::Slow(ms) => takes += Duration::from_millis(ms),
                Trouble::TokenTaken => self.token = None,
                Trouble::Forgotten => self.registered = false,
                Trouble::Life(_) => {}
                other => answers = answers.or(Some(other)),
            }
            self.memory.odd.push((now, request.path, trouble));
        }
        let perhaps = self.rng.percent(50);
        let (answer, said, executed) = match answers {
            None => {
                let (code, extra) = self.execute(request, token, now);
                if code != 0 {
                    self.memory.odd.push((now, request.path, Trouble::Code(code)));
                }
                (Ok(Reply { code: ResultCode::new(code), extra }), Said::Code(code), code == 0)
            }
            Some(trouble) => {
                let may = matches!(
                    trouble,
                    Trouble::Code(1017) | Trouble::Unanswered | Trouble::BrokenOff | Trouble::Unreadable
                );
                let executed = may && perhaps && self.execute(request, token, now).0 == 0;
                if trouble == Trouble::Unanswered {
                    takes = TIMEOUT;
                }
                let (answer, said) = odd(trouble);
                (answer, said, executed)
            }
        };
        if [CONFIG, TOKEN].contains(&request.path) && said != Said::Unsent {
            self.memory.own.push((request.path, now));
        }
        let of = mark(request).map(|mark| {
            let tries = self.memory.tries.entry(mark.clone()).or_default();
            tries.push(Try { at: now, executed, said, heard: None });
            (mark, tries.len() - 1)
        });
        (answer, takes, of)
    }

    /// Those that a call of this path meets now.
    fn troubles(&mut self, path: &str, now: Instant) -> Vec<Trouble> {
        let (since, rng) = (now - self.began, &mut self.rng);
        let here = self.spells.iter().filter(|spell| spell.from <= since && since < spell.to);
        let here = here.filter(|spell| spell.path.is_none_or(|only| only == path));
        here.filter(|spell| rng.percent(spell.percent)).map(|spell| spell.trouble).collect()
    }

    /// What the service does on a good day: the code, and what else it replies.
    fn execute(&mut self, request: &Request, token: Option<&str>, now: Instant) -> (i64, Map<String, Value>) {
        let mut extra = Map::new();
        let action = request.body.get("action_type").and_then(Value::as_i64);
        let code = match request.path {
            CONFIG if action == Some(0) => {
                self.registered = true;
                0
            }
            _ if !self.registered => 1007,
            CONFIG => 0,
            TOKEN => {
                self.tokens += 1;
                let life = self.troubles(TOKEN, now).into_iter().find_map(|trouble| match trouble {
                    Trouble::Life(life) => Some(life),
                    _ => None,
                });
                let (token, life) = (format!("token-{}", self.tokens), life.unwrap_or(7200));
                extra.insert("access_token".to_owned(), json!(token));
                extra.insert("expires_in".to_owned(), json!(life));
                self.token = Some((token, now + Duration::from_secs(life)));
                0
            }
            _ if request.with_token => {
                let lives = self.token.as_ref().is_some_and(|(living, dies)| token == Some(living) && now < *dies);
                if lives { 0 } else { 1008 }
            }
            _ => 0,
        };
        (code, extra)
    }
}

fn odd(trouble: Trouble) -> (Answer, Said) {
    let cause = format!("{trouble:?}");
    match trouble {
        Trouble::Code(code) => (Ok(Reply { code: ResultCode::new(code), extra: Map::new() }), Said::Code(code)),
        Trouble::Unsent => (Err(TransportError::Unsent { cause }), Said::Unsent),
        Trouble::InFront(after) => {
            let retry_after = (after > 0).then(|| Duration::from_secs(after));
            (Err(TransportError::InFront { cause, status: 503, retry_after }), Said::InFront)
        }
        Trouble::BrokenOff => (Err(TransportError::BrokenOff { cause }), Said::Nothing),
        Trouble::Unreadable => (Err(TransportError::Unreadable { cause }), Said::Nothing),
        _ => (Err(TransportError::Unanswered { cause }), Said::Nothing),
    }
}
