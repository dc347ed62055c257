//! `ilink2mqtt setup`: asks for what the bridge needs, tries each answer at once, writes the configuration, and says what to
//! type next.
//!
//! Three steps (account, broker, callback), each the same: ask, check the form, try it by the steps of `check --connect`,
//! and go on or ask again. Nothing is written before the last step has gone well, and nothing is replaced unasked.

mod answers;
mod terminal;
mod write;

use std::path::{Path, PathBuf};

use self::answers::{Answers, STEPS, Step, Tries};
use self::terminal::Terminal;
use super::checkup::{self, Findings};
use crate::app::AppError;
use crate::cli::Setup;
use crate::config::{Config, Environment};
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
    write::place(&path)?;
    conversation.may_replace(&path, replace)?;
    for step in &STEPS {
        conversation.take(step).await?;
    }
    let Conversation { mut terminal, answers, .. } = conversation;
    let written = write::all(&path, &answers)?;
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
        let there = write::would_replace(path, &self.answers);
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
