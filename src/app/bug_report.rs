//! `ilink2mqtt report`: one archive for a bug report, of a bridge that runs or of one that does not.
//!
//! What it tells is gathered by the bridge itself where one runs ([`crate::operate::control`]), else from what it left. Content and
//! secrets are not in it, and ids are pseudonyms ([`crate::operate::status::bundle`]).

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use secrecy::SecretString;
use tar::{Builder, Header};

use super::alone;
use super::core::{Core, ids};
use super::error::AppError;
use crate::config::{Config, ConfigError};
use crate::operate::control::{self, Answer, Verb};
use crate::operate::status::bundle::{Bundle, Pseudonyms};
use crate::os::clock;
use crate::os::files;

/// Lines of the journal that are asked for.
const LINES: &str = "500";

/// Writes the report to `file`, or to a file in this directory whose name says when it was made; its path.
///
/// # Errors
/// If the state directory cannot be had, or the file not be written.
pub async fn run(config: Result<Config, ConfigError>, file: Option<PathBuf>) -> Result<PathBuf, AppError> {
    let now = clock::rfc3339(clock::wall_now_ms());
    let mut bundle = match &config {
        Ok(config) => gather(config).await?,
        Err(error) => {
            let mut bundle = Bundle::default();
            bundle.add("config.toml", format!("# it cannot be used:\n{error}\n"));
            bundle.with(&Pseudonyms::new(&SecretString::from(now.clone()), []))
        }
    };
    bundle.add("about.txt", about(&now, config.as_ref().ok().map(|config| config.state_dir.as_path())));
    let stamp: String = now.chars().take(19).filter(char::is_ascii_alphanumeric).collect();
    let file = file.unwrap_or_else(|| PathBuf::from(format!("ilink2mqtt-report-{stamp}.tar.gz")));
    pack(&file, &bundle).map_err(|error| {
        let remedy = files::remedy(&error);
        AppError::Failed(format!("{} cannot be written: {error}{remedy}", file.display()))
    })?;
    Ok(file)
}

/// By the running bridge, or from what the last one left.
async fn gather(config: &Config) -> Result<Bundle, AppError> {
    let asked = control::ask(&config.state_dir, &Verb::Report).await;
    let answer = match asked {
        Ok(Some(Answer { exit: 0, text })) => match serde_json::from_str(&text) {
            Ok(bundle) => return Ok(bundle),
            Err(_) => "its answer cannot be read: is it another version?".to_owned(),
        },
        Ok(Some(Answer { text, .. })) => text,
        Ok(None) => "it does not run".to_owned(),
        Err(error) => format!("it does not answer: {error}"),
    };
    let mut bundle = Bundle::default();
    bundle.add("config.toml", config.describe());
    bundle.add("log.txt", journal());
    let mut status = format!("{answer}\n");
    // A stable secret for the pseudonyms, if the state directory can be read.
    let secret = match Core::open(config) {
        Ok(core) => {
            status.push_str(&alone::status(config, &core, false).text);
            let secret = core.identity.handshake_token();
            core.close().await;
            secret
        }
        Err(error) => {
            status.push_str(&error.to_string());
            SecretString::from(clock::rfc3339(clock::wall_now_ms()))
        }
    };
    bundle.add("status.txt", status);
    Ok(bundle.with(&Pseudonyms::new(&secret, ids(config))))
}

/// The last lines that the service wrote, as far as this user may read them.
fn journal() -> String {
    let asked = Command::new("journalctl")
        .args(["--unit", "ilink2mqtt", "--lines", LINES, "--no-pager", "--output", "short-iso", "--quiet"])
        .stdin(Stdio::null())
        .output();
    match asked {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        Ok(output) => format!("journalctl: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            format!("there is no journal to read: {error}; where the service's log goes, add its last lines\n")
        }
    }
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
