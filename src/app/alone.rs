//! The operator's verbs without a running daemon: under the state directory's lock, with just the parts each needs.

use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::core::Core;
use super::error::AppError;
use super::supervisor::{Step, Supervisor};
use super::{listeners, parts};
use crate::cli::EXIT_UNAVAILABLE;
use crate::cloud::{self, ConfigQuota, Endpoint, RegisterPolicy, Registry, SessionConfig};
use crate::config::{Config, Register};
use crate::operate::control::{Answer, Verb, answer, internal, outcome, parse_call, url};
use crate::os::tasks::Shutdown;
use crate::protocol::{Reply, SetConfig};
use crate::store::Queue;
use secrecy::ExposeSecret;

/// How long a call waits for the session to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(15);

/// Carries out `verb`, alone.
///
/// # Errors
/// If the state directory cannot be had, or the configuration's files cannot be used.
pub async fn execute(config: &Config, verb: Verb) -> Result<Answer, AppError> {
    if let Verb::Status { healthy: true, .. } = verb {
        // Without the lock, for which a daemon that is just starting would have to wait.
        let text = format!("no bridge of this user's runs on {}", config.state_dir.display());
        return Ok(Answer { exit: EXIT_UNAVAILABLE, text });
    }
    let core = Core::open(config)?;
    let result = match verb {
        Verb::Call { name, json } => call(config, &core, &name, &json).await,
        Verb::CallbackUrl => Ok(url(&config.callback_url(&core.identity.path_secret()))),
        Verb::Status { json, .. } => Ok(status(config, &core, json)),
        Verb::Register { .. } | Verb::Unregister | Verb::Query if config.callback.register == Register::Never => {
            let text = "callback.register is \"never\": somebody else registers the callback".to_owned();
            Ok(Answer { exit: crate::cli::EXIT_USAGE, text })
        }
        Verb::Report => {
            let text = "the bridge has just stopped: try again".to_owned();
            Ok(Answer { exit: EXIT_UNAVAILABLE, text })
        }
        Verb::Query => query(config, &core).await,
        Verb::Register { new_secret } => register(config, &core, new_secret).await,
        Verb::Unregister => unregister(config, &core).await,
    };
    core.close().await;
    result
}

async fn call(config: &Config, core: &Core, name: &str, json: &str) -> Result<Answer, AppError> {
    let call = match parse_call(name, json, config.outbound.max_content) {
        Ok(call) => call,
        Err(refused) => return Ok(refused),
    };
    let shutdown = Shutdown::default();
    // Only the token is wanted: registering is the daemon's business.
    let session = SessionConfig { register: RegisterPolicy::Never, ..core.session_config(config) };
    let registry = std::sync::Arc::new(core.registry(config));
    let (session, task) =
        cloud::start(core.client(config)?, session, registry, core.handshakes.clone(), shutdown.session.clone());
    let made = if let Ok(()) = timeout(READY_TIMEOUT, session.ready_for(Endpoint::of(&call))).await {
        outcome(session.call(&call).await)
    } else {
        let cause = session.status().borrow().cause.clone();
        Answer { exit: EXIT_UNAVAILABLE, text: format!("the call was not executed: {cause}") }
    };
    shutdown.session.cancel();
    let _ = task.await;
    Ok(made)
}

async fn query(config: &Config, core: &Core) -> Result<Answer, AppError> {
    let url = config.callback_url(&core.identity.path_secret());
    Ok(answer(post(config, core, &SetConfig::Query { url: url.expose_secret() }).await?))
}

async fn unregister(config: &Config, core: &Core) -> Result<Answer, AppError> {
    let reply = post(config, core, &SetConfig::Unregister).await?;
    // Not registered (1007) is what was wanted, too.
    if reply.as_ref().is_ok_and(|reply| matches!(reply.code.value(), 0 | 1007)) {
        let registry = core.registry(config);
        if let Err(error) = registry.forget().and_then(|()| registry.set_unregistered_by_operator(true)) {
            return Ok(internal(&error));
        }
    }
    Ok(answer(reply))
}

/// Registers while serving the callback, because iLink calls back during the registration; pushes that arrive meanwhile are
/// stored for the daemon.
async fn register(config: &Config, core: &Core, new_secret: bool) -> Result<Answer, AppError> {
    if new_secret && let Err(error) = core.identity.new_secret() {
        return Ok(Answer { exit: crate::cli::EXIT_USAGE, text: error.to_string() });
    }
    core.path_secrets.send_replace(core.identity.accepted_secrets());
    let shutdown = Shutdown::default();
    let mut serving = Supervisor::default();
    let listener = listeners::bind("callback.listen", config.callback.listen)?;
    core.serve_callback(config, listener, &shutdown, &mut serving)?;
    let (url, token) = (config.callback_url(&core.identity.path_secret()), core.identity.handshake_token());
    let register = SetConfig::Register { url: url.expose_secret(), token: token.expose_secret() };
    let reply = post(config, core, &register).await?;
    shutdown.callback.cancel();
    serving.join(Step::Callback, None).await;
    if reply.as_ref().is_ok_and(|reply| reply.code.is_ok()) {
        let registry = core.registry(config);
        let recorded = registry.record(&url, &token).and_then(|()| registry.set_unregistered_by_operator(false));
        if let Err(error) = recorded {
            return Ok(internal(&error));
        }
    }
    Ok(answer(reply))
}

async fn post(config: &Config, core: &Core, request: &SetConfig<'_>) -> Result<Result<Reply, String>, AppError> {
    let (client, account) = (core.client(config)?, parts::account(config));
    let quota = ConfigQuota::new(core.state_dir.directory(), &config.ilink.api, &account);
    if let Some(held) = quota.held() {
        return Ok(Err(held));
    }
    let reply = client.post(&request.request(&account), None).await;
    if let Ok(reply) = &reply
        && let Err(error) = quota.heard(reply.code)
    {
        warn!(%error, "that iLink was asked too often could not be recorded: a restart asks it again at once");
    }
    Ok(reply.map_err(|error| error.cause().to_owned()))
}

pub(super) fn status(config: &Config, core: &Core, json: bool) -> Answer {
    if json {
        let queue = |queue: Queue| {
            let stats = core.spool.stats(queue);
            (queue.as_str().to_owned(), serde_json::json!({"depth": stats.depth, "bytes": stats.bytes}))
        };
        let queues: serde_json::Map<_, _> =
            [Queue::Inbound, Queue::Outbound, Queue::SetAside].map(queue).into_iter().collect();
        let text = serde_json::json!({"running": false, "state_dir": config.state_dir, "queues": queues});
        return Answer { exit: 0, text: serde_json::to_string_pretty(&text).unwrap_or_default() };
    }
    let queue = |queue: Queue| {
        let stats = core.spool.stats(queue);
        let what = if queue == Queue::SetAside { "kept" } else { "waiting" };
        format!("{:<11} {} {what}, {} bytes", queue.as_str(), stats.depth, stats.bytes)
    };
    let queues = [Queue::Inbound, Queue::Outbound, Queue::SetAside].map(queue).join("\n");
    let text = format!("the bridge is not running on {}\n{queues}", config.state_dir.display());
    Answer { exit: 0, text }
}
