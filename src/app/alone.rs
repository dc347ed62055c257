//! The operator's verbs without a running daemon. They hold the state directory's lock, and start only the parts they need.
//! Also `ilink2mqtt report`: one archive for a bug report, whether the bridge runs or not.
//!
//! A running bridge gathers the report's content itself ([`crate::operate::control`]); otherwise it comes from the state
//! directory. It contains no messages and no secrets, and ids are pseudonyms ([`crate::operate::status::bundle`]).

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use secrecy::{ExposeSecret, SecretString};
use tar::{Builder, Header};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::core::Core;
use super::error::AppError;
use super::seat::Seat;
use super::supervisor::{Step, Supervisor};
use super::{listeners, parts};
use crate::cli::EXIT_UNAVAILABLE;
use crate::cloud::{self, ConfigQuota, Endpoint, RegisterPolicy, Registry, SessionConfig};
use crate::config::{Config, ConfigError, Register};
use crate::operate::control::{self, Answer, Verb, answer, internal, outcome, parse_call, url};
use crate::operate::set_aside::Desk;
use crate::operate::status::bundle::{Bundle, Pseudonyms};
use crate::os::tasks::Shutdown;
use crate::os::{clock, files};
use crate::protocol::{Reply, SetConfig};
use crate::state_dir::StateDir;
use crate::store::Queue;

/// How long a call waits for the session to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(15);

/// Carries out `verb`, alone.
///
/// # Errors
/// If the state directory cannot be had, or the configuration's files cannot be used.
pub async fn execute(config: &Config, verb: Verb) -> Result<Answer, AppError> {
    if let Some(text) = not_answering(config) {
        return Ok(Answer { exit: EXIT_UNAVAILABLE, text });
    }
    if let Verb::Status { healthy: true, .. } = verb {
        // Without the lock, for which a daemon that is just starting would have to wait.
        let text = format!("no bridge of this user's runs on {}", config.state_dir.display());
        return Ok(Answer { exit: EXIT_UNAVAILABLE, text });
    }
    if config.cluster.is_on() || matches!(verb, Verb::StepDown) {
        let text = format!(
            "no bridge of this user's runs on {}: in a cluster, only running members carry out commands",
            config.state_dir.display()
        );
        return Ok(Answer { exit: EXIT_UNAVAILABLE, text });
    }
    let (core, mut election) = Core::open(config)?;
    let result = match verb {
        Verb::Call { name, json } => call(config, &core, &name, &json).await,
        Verb::CallbackUrl => Ok(url(&config.callback_url(&core.identity.path_secret()))),
        Verb::Status { json, .. } => Ok(status(config, &core, json)),
        Verb::Register { .. } | Verb::Unregister | Verb::Query if config.callback.register == Register::Never => {
            let text = "callback.register is \"never\": somebody else registers the callback".to_owned();
            Ok(Answer { exit: crate::cli::EXIT_USAGE, text })
        }
        Verb::Report | Verb::StepDown => {
            let text = "the bridge has just stopped: try again".to_owned();
            Ok(Answer { exit: EXIT_UNAVAILABLE, text })
        }
        Verb::SetAside(what) => {
            let desk = |seat: Seat| Desk::new(seat.store, std::sync::Arc::clone(&core.counters), None);
            let desk = election.uncontested().map(desk);
            Ok(control::set_aside(desk.as_ref(), what).await)
        }
        Verb::Query => query(config, &core).await,
        Verb::Register { new_secret } => register(config, &core, new_secret).await,
        Verb::Unregister => unregister(config, &core).await,
    };
    core.close().await;
    result
}

/// That a member of a cluster runs here and does not answer, if so.
pub(super) fn not_answering(config: &Config) -> Option<String> {
    let is_there = config.cluster.is_on() && StateDir::is_locked(&config.state_dir);
    is_there.then(|| {
        format!(
            "a bridge runs on {} and does not answer: it is just starting or stopping; try again, or look into its log",
            config.state_dir.display()
        )
    })
}

async fn call(config: &Config, core: &Core, name: &str, json: &str) -> Result<Answer, AppError> {
    let call = match parse_call(name, json, config.outbound.max_content, config.routes.names()) {
        Ok(call) => call,
        Err(refused) => return Ok(refused),
    };
    let stop = CancellationToken::new();
    // Only the token is wanted: registering is the daemon's business.
    let session = SessionConfig { register: RegisterPolicy::Never, ..core.session_config(config) };
    let registry = std::sync::Arc::new(core.registry(config));
    let (session, task) = cloud::start(core.client(config)?, session, registry, core.handshakes.clone(), stop.clone());
    let made = if let Ok(()) = timeout(READY_TIMEOUT, session.ready_for(Endpoint::of(&call))).await {
        outcome(session.call(&call).await)
    } else {
        let cause = session.status().borrow().cause.clone();
        Answer { exit: EXIT_UNAVAILABLE, text: format!("the call was not executed: {cause}") }
    };
    stop.cancel();
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
    let quota = ConfigQuota::new(core.files.clone(), &config.ilink.api, &account);
    if let Some(held) = quota.held() {
        return Ok(Err(held));
    }
    let request = request.request(&account);
    let ask = async || {
        let reply = client.post(&request, None).await;
        if let Ok(reply) = &reply
            && let Err(error) = quota.heard(reply.code)
        {
            warn!(%error, "could not record that iLink asked for a pause: a restart would call it again at once");
        }
        reply.map_err(|error| error.cause().to_owned())
    };
    let reply = ask().await;
    // Our address may have changed since the last token: as the session does it, once.
    let refused = reply.as_ref().is_ok_and(|reply| reply.code.value() == 1003);
    if refused && quota.renew_token(&client, &account).await && quota.held().is_none() {
        return Ok(ask().await);
    }
    Ok(reply)
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

/// Lines of the journal that are asked for.
const LINES: &str = "500";

/// Writes the report to `file`, or to a file in this directory whose name says when it was made; its path.
///
/// # Errors
/// If the state directory cannot be had, or the file not be written.
pub async fn report(config: Result<Config, ConfigError>, file: Option<PathBuf>) -> Result<PathBuf, AppError> {
    let now = clock::rfc3339(clock::wall_now_ms());
    let mut bundle = match &config {
        Ok(config) => gather(config).await?,
        Err(error) => {
            let mut bundle = Bundle::default();
            bundle.add("config.toml", format!("# it cannot be used:\n{error}\n"));
            bundle.with(&Pseudonyms::new(&SecretString::from(now.clone()), None, Vec::new()))
        }
    };
    bundle.add("about.txt", about(&now, config.as_ref().ok().map(|config| config.state_dir.as_path())));
    let stamp: String = now.chars().take(19).filter(char::is_ascii_alphanumeric).collect();
    let file = file.unwrap_or_else(|| PathBuf::from(format!("ilink2mqtt-report-{stamp}.tar.gz")));
    pack(&file, &bundle).map_err(|error| not_written(&file, &error))?;
    Ok(file)
}

/// Why there is no report: a mistake in the file's name, if another one would do.
fn not_written(file: &Path, error: &io::Error) -> AppError {
    let why = match error.kind() {
        io::ErrorKind::AlreadyExists => "it is there already: name another file, or move it away".to_owned(),
        io::ErrorKind::NotFound => "its directory does not exist: make it, or name another file".to_owned(),
        io::ErrorKind::NotADirectory => "its directory is a file: name another file".to_owned(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            format!("{error}: name a file in a directory where this user may write")
        }
        _ => return AppError::Failed(format!("{} cannot be written: {error}{}", file.display(), files::remedy(error))),
    };
    AppError::Argument(format!("{} cannot be written: {why}", file.display()))
}

/// By the running bridge, or from what the last one left.
async fn gather(config: &Config) -> Result<Bundle, AppError> {
    let asked = control::ask(config, &Verb::Report).await;
    let answer = match asked {
        Ok(Some(Answer { exit: 0, text })) => match serde_json::from_str(&text) {
            Ok(bundle) => return Ok(bundle),
            Err(_) => "its answer cannot be read: is it another version?".to_owned(),
        },
        Ok(Some(Answer { text, .. })) => text,
        Ok(None) => not_answering(config).unwrap_or_else(|| "it does not run".to_owned()),
        Err(error) => format!("it does not answer: {error}"),
    };
    let mut bundle = Bundle::default();
    bundle.add("config.toml", config.describe());
    bundle.add("log.txt", journal());
    let mut status = format!("{answer}\n");
    let (left, secret) = left_behind(config).await;
    status.push_str(&left);
    bundle.add("status.txt", status);
    Ok(bundle.with(&Pseudonyms::for_config(&secret, config, &[])))
}

/// What waits, as far as it is known without a running bridge, and a secret for the pseudonyms: a stable one, if there is one.
async fn left_behind(config: &Config) -> (String, SecretString) {
    let left = if config.cluster.is_on() {
        // Opened, the state directory would get an identity and a spool that are not the cluster's.
        "The queues and the identity are in etcd, and only a running member can read them: please also add a report made where a member runs.\n"
            .to_owned()
    } else {
        match Core::open(config) {
            Ok((core, _)) => {
                let (left, secret) = (status(config, &core, false).text, core.identity.handshake_token());
                core.close().await;
                return (left, secret);
            }
            Err(error) => error.to_string(),
        }
    };
    (left, SecretString::from(clock::rfc3339(clock::wall_now_ms())))
}

const NO_LINES: &str = "the journal shows this user no line of the unit ilink2mqtt: make the report as root (sudo), or, if the \
                        bridge's log goes elsewhere, add its last lines\n";

/// The last lines that the service wrote, as far as this user may read them.
fn journal() -> String {
    let asked = Command::new("journalctl")
        .args(["--unit", "ilink2mqtt", "--lines", LINES, "--no-pager", "--output", "short-iso", "--quiet"])
        .stdin(Stdio::null())
        .output();
    match asked {
        Ok(output) if output.status.success() => lines(&output.stdout),
        Ok(output) => format!("journalctl: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            format!("there is no journal to read: {error}; where the service's log goes, add its last lines\n")
        }
    }
}

fn lines(journal: &[u8]) -> String {
    if journal.trim_ascii().is_empty() { NO_LINES.to_owned() } else { String::from_utf8_lossy(journal).into_owned() }
}

/// The program and the machine.
fn about(now: &str, state_dir: Option<&Path>) -> String {
    let system = rustix::system::uname();
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    line("ilink2mqtt", env!("CARGO_PKG_VERSION"));
    line("made", now);
    line("system", &named("/etc/os-release", "PRETTY_NAME=").unwrap_or_default());
    line("kernel", &format!("{} {}", system.release().to_string_lossy(), system.machine().to_string_lossy()));
    line("cores", &std::thread::available_parallelism().map_or_else(|_| "?".to_owned(), |cores| cores.to_string()));
    line("memory", &named("/proc/meminfo", "MemTotal:").unwrap_or_default());
    if let Some(dir) = state_dir {
        if let Ok(disk) = rustix::fs::statvfs(dir) {
            line(
                "disk",
                &format!("{} MiB free of {}", mib(disk.f_bavail, disk.f_frsize), mib(disk.f_blocks, disk.f_frsize)),
            );
        }
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let size = entry.metadata().map(|metadata| metadata.len()).unwrap_or_default();
            line("state", &format!("{} {size} bytes", entry.file_name().to_string_lossy()));
        }
    }
    text
}

fn mib(blocks: u64, size: u64) -> u64 {
    blocks.saturating_mul(size) >> 20
}

/// What stands behind a word in one of the system's files.
fn named(path: &str, word: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(word))?;
    Some(rest.trim().trim_matches('"').to_owned())
}

fn pack(path: &Path, bundle: &Bundle) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(files::MODE).open(path)?;
    let mut archive = Builder::new(GzEncoder::new(file, Compression::default()));
    for (name, text) in bundle.files() {
        let mut header = Header::new_gnu();
        header.set_size(u64::try_from(text.len()).unwrap_or_default());
        header.set_mode(0o644);
        header.set_mtime(clock::wall_now_ms() / 1000);
        archive.append_data(&mut header, Path::new("ilink2mqtt-report").join(name), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_journal_says_why() {
        assert_eq!(lines(b"a line\n"), "a line\n");
        for empty in [&b""[..], b"\n"] {
            assert!(lines(empty).contains("no line of the unit ilink2mqtt"));
        }
    }

    #[test]
    fn a_file_that_cannot_be_made_is_told_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        std::fs::write(&there, "mine").unwrap();
        for (file, why) in [
            (there.clone(), "it is there already: name another"),
            (dir.path().join("no/report"), "its directory does not exist"),
            (there.join("report"), "its directory is a file"),
            (dir.path().to_owned(), "it is there already"),
        ] {
            let error = not_written(&file, &pack(&file, &Bundle::default()).unwrap_err());
            assert_eq!(error.exit_code(), crate::cli::EXIT_USAGE, "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
        assert_eq!(std::fs::read(&there).unwrap(), b"mine");
        let full = not_written(&there, &io::ErrorKind::StorageFull.into());
        assert_eq!(full.exit_code(), crate::cli::EXIT_INTERNAL, "{full}");
    }
}
