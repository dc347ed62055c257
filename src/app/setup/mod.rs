//! `ilink2mqtt setup`: asks for what the bridge needs, tries each answer at once, writes the configuration, and prints the next
//! command.
//!
//! There are three steps: account, broker, callback. Each one asks, checks the form, tries the answer with the steps of `check
//! --connect`, and goes on or asks again. Nothing is written before the last step has succeeded, and nothing is overwritten
//! without asking.

mod answers;

use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use secrecy::SecretString;

use self::answers::{Answers, Key, Question, STEPS, Step, Tries};
use super::checkup::{self, Findings};
use crate::app::AppError;
use crate::cli::Setup;
use crate::config::{Config, Environment};
use crate::os::files;

pub use answers::SetupError;

/// Where the configuration goes when nobody says.
const DEFAULT_PATH: &str = "/etc/ilink2mqtt/config.toml";

/// Sets up the bridge, with the answers in `arguments` and those of whoever is at the terminal.
///
/// # Errors
/// Why nothing, or not everything, was written.
pub async fn run(arguments: Setup, path: Option<PathBuf>, environment: &Environment) -> Result<(), SetupError> {
    let path = path.unwrap_or_else(|| PathBuf::from(DEFAULT_PATH));
    let (untried, replace) = (arguments.untried, arguments.replace);
    let mut conversation =
        Conversation { terminal: Terminal::of_process(), answers: Answers::of(arguments)?, environment, untried };
    check_place(&path)?;
    conversation.may_replace(&path, replace)?;
    for step in &STEPS {
        conversation.take(step).await?;
    }
    let Conversation { mut terminal, answers, .. } = conversation;
    let written = write_all(&path, &answers)?;
    terminal.say("")?;
    for file in &written {
        terminal.say(&format!("written: {}", file.display()))?;
    }
    terminal.say(&next(&path))?;
    Ok(())
}

/// How the service is started for good, by what is there where it is installed.
const SERVICES: [(&str, &str, &str); 3] = [
    ("/etc/rc.common", "/etc/init.d/ilink2mqtt", "/etc/init.d/ilink2mqtt enable && /etc/init.d/ilink2mqtt start"),
    ("/sbin/openrc-run", "/etc/init.d/ilink2mqtt", "rc-update add ilink2mqtt && rc-service ilink2mqtt start"),
    ("/run/systemd/system", "/run/systemd/system", "systemctl enable --now ilink2mqtt"),
];

/// What to type next.
fn next(path: &Path) -> String {
    let there =
        |(manager, service, _): &&(&str, &str, &str)| Path::new(manager).exists() && Path::new(service).exists();
    match SERVICES.iter().find(there) {
        Some((_, _, start)) if path == Path::new(DEFAULT_PATH) => format!("\nnext: {start}, then: ilink2mqtt status"),
        _ => format!("\nnext: ilink2mqtt --config {} run", path.display()),
    }
}

struct Conversation<'a> {
    terminal: Terminal,
    answers: Answers,
    environment: &'a Environment,
    untried: bool,
}

impl Conversation<'_> {
    fn may_replace(&mut self, path: &Path, replace: bool) -> Result<(), SetupError> {
        let there = would_replace(path, &self.answers);
        if there.is_empty() || replace {
            return Ok(());
        }
        let names = there.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
        let question = format!("{names}: there already. Replace what is asked for now (each is kept as FILE.old)?");
        if self.terminal.confirm(&question, "--replace")? {
            return Ok(());
        }
        Err(SetupError::Answer("nothing is changed".to_owned()))
    }

    /// Asks and tries until the step's answers are good, or kept all the same.
    async fn take(&mut self, step: &Step) -> Result<(), SetupError> {
        self.terminal.say(&format!("\n{}", step.title))?;
        loop {
            self.ask(step)?;
            let Some(config) = self.draft()? else {
                self.answers.forget(step);
                continue;
            };
            if self.untried {
                return Ok(());
            }
            let answer = try_out(step, &config).await?.answer();
            self.terminal.say(&answer.text)?;
            if answer.exit == 0 {
                return Ok(());
            }
            if !self.terminal.is_a_person() {
                return Err(SetupError::Tried(failures(&answer.text)));
            }
            if self.terminal.confirm("Keep these answers all the same?", "--untried")? {
                return Ok(());
            }
            self.answers.forget(step);
        }
    }

    /// Asks for what the step still lacks.
    fn ask(&mut self, step: &Step) -> Result<(), SetupError> {
        for question in step.questions {
            if self.answers.has(question.key) || !self.answers.wants(question.key) {
                continue;
            }
            let answer = self.terminal.ask(question)?;
            self.answers.set(question.key, answer);
        }
        Ok(())
    }

    /// The configuration so far. None if an answer is of the wrong form, which was said then, and somebody is there to be asked
    /// again.
    fn draft(&mut self) -> Result<Option<Config>, SetupError> {
        match Config::of_text("the answers", &self.answers.draft(), self.environment) {
            Ok(config) => Ok(Some(config)),
            Err(error) if self.terminal.is_a_person() => {
                self.terminal.say(&error.to_string())?;
                Ok(None)
            }
            Err(error) => Err(SetupError::Answer(error.to_string())),
        }
    }
}

async fn try_out(step: &Step, config: &Config) -> Result<Findings, AppError> {
    match step.tries {
        Tries::Account => checkup::account(config).await,
        Tries::Broker => checkup::broker(config).await,
        Tries::Callback => checkup::callback(config).await,
    }
}

/// The lines of the steps that failed.
fn failures(lines: &str) -> String {
    let failed = lines.lines().filter_map(|line| line.strip_prefix("fail"));
    failed.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("; ")
}

/// A service's own user reads it, and no secret is in it.
const READABLE: u32 = 0o644;

/// The configuration and, beside it, the secrets: that of the account, and our password at the broker.
fn paths(config: &Path) -> [PathBuf; 3] {
    let directory = config.parent().unwrap_or(Path::new(""));
    [config.to_owned(), directory.join("secretkey"), directory.join("mqtt-password")]
}

/// Which of them are there, and are not what is to be written already.
fn would_replace(config: &Path, answers: &Answers) -> Vec<PathBuf> {
    let keys = [None, Some(Key::Secretkey), Some(Key::Password)];
    let differs = |(path, key): &(PathBuf, Option<Key>)| {
        let known = key.and_then(|key| answers.get(key)).map(line);
        path.symlink_metadata().is_ok() && (known.is_none() || fs::read_to_string(path).ok() != known)
    };
    paths(config).into_iter().zip(keys).filter(differs).map(|(path, _)| path).collect()
}

/// Whether they can be written at all: found out before anybody has answered for nothing.
fn check_place(config: &Path) -> Result<(), SetupError> {
    let config = std::path::absolute(config).map_err(|error| failed(config, error))?;
    let there = config.ancestors().skip(1).find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        return Err(failed(there, io::ErrorKind::NotADirectory.into()));
    }
    rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| failed(&config, error.into()))
}

/// A secret as its file holds it.
fn line(secret: &str) -> String {
    format!("{secret}\n")
}

/// Writes all of them, the configuration last: what it names is there by then. Old ones are kept as `FILE.old`.
fn write_all(config: &Path, answers: &Answers) -> Result<Vec<PathBuf>, SetupError> {
    let config = std::path::absolute(config).map_err(|error| failed(config, error))?;
    let [_, secretkey, password] = paths(&config);
    let directory = config.parent().unwrap_or(Path::new("/"));
    if !directory.is_dir() {
        fs::create_dir_all(directory)
            .and_then(|()| fs::set_permissions(directory, Permissions::from_mode(0o755)))
            .map_err(|error| failed(directory, error))?;
    }
    let mut written = Vec::new();
    for (path, key) in [(&secretkey, Key::Secretkey), (&password, Key::Password)] {
        if let Some(secret) = answers.get(key) {
            write(path, &line(secret), files::MODE)?;
            written.push(path.clone());
        }
    }
    write(&config, &answers.configuration(&secretkey, &password), READABLE)?;
    written.push(config);
    Ok(written)
}

fn write(path: &Path, content: &str, mode: u32) -> Result<(), SetupError> {
    if fs::read_to_string(path).is_ok_and(|there| there == content) {
        return fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|error| failed(path, error));
    }
    let mut old = path.as_os_str().to_owned();
    old.push(".old");
    let kept = if path.symlink_metadata().is_ok() { keep(path, Path::new(&old)) } else { Ok(()) };
    kept.and_then(|()| files::write_atomically(path, content.as_bytes()))
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(|error| failed(path, error))
}

/// Gives what is there a second name: it stays under the first until the new one is written, also on a full disk.
fn keep(path: &Path, old: &Path) -> io::Result<()> {
    match fs::remove_file(old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Not every file system has second names (FAT).
    fs::hard_link(path, old).or_else(|_| fs::copy(path, old).map(drop))
}

fn failed(path: &Path, source: io::Error) -> SetupError {
    let remedy = match source.kind() {
        io::ErrorKind::PermissionDenied => ": run it as root (sudo), or name another place with --config",
        _ => files::remedy(&source),
    };
    SetupError::Write { path: path.display().to_string(), source, remedy }
}

/// Standard input and output.
struct Terminal {
    person: bool,
    out: io::Stdout,
}

impl Terminal {
    fn of_process() -> Self {
        Self { person: io::stdin().is_terminal(), out: io::stdout() }
    }

    /// Whether somebody is there to be asked again.
    fn is_a_person(&self) -> bool {
        self.person
    }

    fn say(&mut self, text: &str) -> Result<(), SetupError> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// The answer, or the default for an empty one.
    fn ask(&mut self, question: &Question) -> Result<SecretString, SetupError> {
        loop {
            match question.default.filter(|default| !default.is_empty()) {
                Some(default) => self.prompt(&format!("  {} [{default}]: ", question.text))?,
                None => self.prompt(&format!("  {}: ", question.text))?,
            }
            let line = if question.secret && self.person { Some(rpassword::read_password()?) } else { self.line()? };
            let Some(line) = line else {
                return Err(SetupError::Answer(format!(
                    "there is no answer for \"{}\": give it as {}",
                    question.text, question.flag
                )));
            };
            match (line.trim(), question.default) {
                ("", Some(default)) => return Ok(default.into()),
                ("", None) => self.say("  it must be answered")?,
                (answer, _) => return Ok(answer.into()),
            }
        }
    }

    /// Yes or no; without an answer it is no, and the flag that would say yes is named.
    fn confirm(&mut self, question: &str, flag: &str) -> Result<bool, SetupError> {
        self.prompt(&format!("{question} [y/N] "))?;
        match self.line()? {
            Some(line) => Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes")),
            None => Err(SetupError::Answer(format!("{question} There is no answer: say {flag} for yes"))),
        }
    }

    fn prompt(&mut self, text: &str) -> Result<(), SetupError> {
        write!(self.out, "{text}")?;
        Ok(self.out.flush()?)
    }

    /// None at the end of the input.
    fn line(&mut self) -> Result<Option<String>, SetupError> {
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line)?;
        if !self.person {
            // What was typed is not on the screen.
            self.say("")?;
        }
        Ok((read > 0).then_some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_replaced_stays_until_the_new_file_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("secretkey"), dir.path().join("secretkey.old"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        write(&path, "one", files::MODE).unwrap();
        assert!(!old.exists());
        // The new file cannot be written.
        let in_the_way = dir.path().join("secretkey.tmp");
        fs::create_dir(&in_the_way).unwrap();
        write(&path, "two", files::MODE).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        fs::remove_dir(&in_the_way).unwrap();
        write(&path, "two", READABLE).unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap(), fs::read_to_string(&old).unwrap()),
            ("two".into(), "one".into())
        );
        assert_eq!((mode(&path), mode(&old)), (READABLE, files::MODE));
    }
}
