//! Whom the questions are put to: a person at a terminal, or a program that writes answers into a pipe.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use secrecy::SecretString;

use super::answers::{Question, SetupError};

/// Standard input and output.
pub(super) struct Terminal {
    person: bool,
    out: io::Stdout,
}

impl Terminal {
    pub(super) fn of_process() -> Self {
        Self { person: io::stdin().is_terminal(), out: io::stdout() }
    }

    /// Whether somebody is there to be asked again.
    pub(super) fn is_a_person(&self) -> bool {
        self.person
    }

    pub(super) fn say(&mut self, text: &str) -> Result<(), SetupError> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// The answer, or the default for an empty one.
    pub(super) fn ask(&mut self, question: &Question) -> Result<SecretString, SetupError> {
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
    pub(super) fn confirm(&mut self, question: &str, flag: &str) -> Result<bool, SetupError> {
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
