//! The questions, the answers, and the configuration they produce.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use crate::app::AppError;
use crate::cli::{EXIT_INTERNAL, EXIT_UNAVAILABLE, EXIT_USAGE, Setup};

/// Why nothing was set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// An answer is missing, or of no use.
    #[error("{0}")]
    Answer(String),
    /// An answer was tried and failed.
    #[error("nothing is written: {0}; correct it, or say --untried")]
    Tried(String),
    /// A file cannot be written.
    #[error("{path} cannot be written: {source}{remedy}")]
    Write {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// Standard input or output is gone.
    #[error("the terminal cannot be used: {0}")]
    Terminal(#[from] std::io::Error),
    /// A part that is to be tried cannot be.
    #[error("{0}")]
    Part(#[from] AppError),
}

impl SetupError {
    /// The process's exit code for it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Answer(_) => EXIT_USAGE,
            Self::Tried(_) => EXIT_UNAVAILABLE,
            Self::Write { .. } | Self::Terminal(_) => EXIT_INTERNAL,
            Self::Part(error) => error.exit_code(),
        }
    }
}

/// What can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Api,
    Appkey,
    Secretkey,
    Uid,
    Broker,
    Username,
    Password,
    PublicUrl,
    Listen,
}

impl Key {
    /// Whether it is asked for, and has no default.
    fn must_be_answered(self) -> bool {
        STEPS.iter().flat_map(|step| step.questions).any(|question| question.key == self && question.default.is_none())
    }
}

fn is_blank(answer: &SecretString) -> bool {
    answer.expose_secret().trim().is_empty()
}

/// One question.
pub(super) struct Question {
    pub(super) key: Key,
    pub(super) text: &'static str,
    /// What an empty answer means; none if there must be one.
    pub(super) default: Option<&'static str>,
    /// Not shown while it is typed.
    pub(super) secret: bool,
    /// The flag that answers it.
    pub(super) flag: &'static str,
}

/// How a step's answers are tried.
pub(super) enum Tries {
    Account,
    Broker,
    Callback,
}

/// Questions that are tried together.
pub(super) struct Step {
    pub(super) title: &'static str,
    pub(super) questions: &'static [Question],
    pub(super) tries: Tries,
}

const fn open(key: Key, text: &'static str, flag: &'static str) -> Question {
    Question { key, text, default: None, secret: false, flag }
}

pub(super) const STEPS: [Step; 3] = [
    Step {
        title: "iLink: the account for applications",
        questions: &[
            open(Key::Appkey, "AppKey", "--appkey"),
            Question { secret: true, ..open(Key::Secretkey, "SecretKey (not shown)", "--secretkey-file") },
            open(Key::Uid, "uid that the bridge is to be", "--uid"),
        ],
        tries: Tries::Account,
    },
    Step {
        title: "The MQTT broker",
        questions: &[
            Question {
                default: Some("mqtt://127.0.0.1:1883"),
                ..open(Key::Broker, "broker (mqtts:// for TLS)", "--broker")
            },
            Question { default: Some(""), ..open(Key::Username, "user name there (empty: none)", "--mqtt-username") },
            Question {
                secret: true,
                default: Some(""),
                ..open(Key::Password, "its password (not shown)", "--mqtt-password-file")
            },
        ],
        tries: Tries::Broker,
    },
    Step {
        title: "The callback: how iLink reaches this machine",
        questions: &[open(Key::PublicUrl, "URL, such as https://bridge.example.org/ilink", "--public-url")],
        tries: Tries::Callback,
    },
];

/// What was answered so far. An empty answer is one where the question has a default.
#[derive(Debug, Default)]
pub(super) struct Answers(BTreeMap<Key, SecretString>);

impl Answers {
    /// Those that were given as flags.
    pub(super) fn of(arguments: Setup) -> Result<Self, SetupError> {
        let in_file = |path: Option<std::path::PathBuf>| path.map(|path| first_line(&path)).transpose();
        let plain = |text: Option<String>| text.map(SecretString::from);
        let given = [
            (Key::Api, plain(arguments.api)),
            (Key::Appkey, plain(arguments.appkey)),
            (Key::Secretkey, arguments.secretkey.or(in_file(arguments.secretkey_file)?)),
            (Key::Uid, plain(arguments.uid)),
            (Key::Broker, plain(arguments.broker)),
            (Key::Username, plain(arguments.mqtt_username)),
            (Key::Password, arguments.mqtt_password.or(in_file(arguments.mqtt_password_file)?)),
            (Key::PublicUrl, plain(arguments.public_url)),
            (Key::Listen, plain(arguments.listen)),
        ];
        let answered = given.into_iter().filter_map(|(key, answer)| Some((key, answer?)));
        Ok(Self(answered.filter(|(key, answer)| !key.must_be_answered() || !is_blank(answer)).collect()))
    }

    pub(super) fn has(&self, key: Key) -> bool {
        self.0.contains_key(&key)
    }

    /// Whether the question makes sense after the answers so far.
    pub(super) fn wants(&self, key: Key) -> bool {
        key != Key::Password || self.get(Key::Username).is_some()
    }

    pub(super) fn set(&mut self, key: Key, answer: SecretString) {
        self.0.insert(key, answer);
    }

    /// They are asked for again.
    pub(super) fn forget(&mut self, step: &Step) {
        for question in step.questions {
            self.0.remove(&question.key);
        }
    }

    /// None if there is no answer, or an empty one.
    pub(super) fn get(&self, key: Key) -> Option<&str> {
        self.0.get(&key).map(SecretString::expose_secret).filter(|answer| !answer.is_empty())
    }

    /// The configuration as far as it is known, with its secrets in it, to be tried and never written. What is not known yet
    /// has a value that is none of anybody's.
    pub(super) fn draft(&self) -> String {
        toml(|key, file| match (self.get(key), key) {
            _ if file => None,
            (Some(answer), _) => Some(answer.to_owned()),
            (None, Key::Uid) => Some("0".to_owned()),
            (None, Key::PublicUrl) => Some("https://setup.invalid".to_owned()),
            (None, Key::Appkey | Key::Secretkey) => Some("unknown".to_owned()),
            (None, _) => None,
        })
    }

    /// The configuration with its secrets in the files beside it.
    pub(super) fn configuration(&self, secretkey: &Path, password: &Path) -> String {
        let head = "# Written by `ilink2mqtt setup`. Every other key, with its default, is in config.example.toml.\n\
                    # No secret is in here: each has a file of its own.\n";
        let body = toml(|key, file| match (key, file) {
            (Key::Secretkey, true) => Some(secretkey.display().to_string()),
            (Key::Password, true) => self.get(key).map(|_| password.display().to_string()),
            (Key::Secretkey | Key::Password, false) => None,
            (_, _) => self.get(key).map(str::to_owned),
        });
        format!("{head}{body}")
    }
}

/// A key's name, the answer it comes from, and whether it names the file of a secret.
type Line = (&'static str, Key, bool);

const LAYOUT: [(&str, &[Line]); 3] = [
    (
        "ilink",
        &[
            ("api", Key::Api, false),
            ("appkey", Key::Appkey, false),
            ("secretkey", Key::Secretkey, false),
            ("secretkey_file", Key::Secretkey, true),
            ("uid", Key::Uid, false),
        ],
    ),
    ("callback", &[("public_url", Key::PublicUrl, false), ("listen", Key::Listen, false)]),
    (
        "mqtt",
        &[
            ("broker", Key::Broker, false),
            ("username", Key::Username, false),
            ("password", Key::Password, false),
            ("password_file", Key::Password, true),
        ],
    ),
];

/// The sections, with what `value` says for each line.
fn toml(value: impl Fn(Key, bool) -> Option<String>) -> String {
    let mut text = String::new();
    for (section, lines) in LAYOUT {
        let _ = write!(text, "\n[{section}]\n");
        for (name, key, file) in lines {
            if let Some(value) = value(*key, *file) {
                let _ = writeln!(text, "{name} = {}", quoted(&value));
            }
        }
    }
    text
}

/// As a string of TOML, which JSON's are but for one character.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

fn first_line(path: &Path) -> Result<SecretString, SetupError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| SetupError::Answer(format!("{} cannot be read: {error}", path.display())))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment};

    fn answers(all: &[(Key, &str)]) -> Answers {
        Answers(all.iter().map(|(key, answer)| (*key, SecretString::from(*answer))).collect())
    }

    #[test]
    fn an_empty_draft_can_be_loaded() {
        Config::of_text("the answers", &Answers::default().draft(), &Environment::default()).unwrap();
    }

    #[test]
    fn what_is_written_is_what_was_answered_and_no_secret() {
        let odd = "a\"b\\c\u{7f}\t#'";
        let answers = answers(&[
            (Key::Appkey, odd),
            (Key::Secretkey, "hunter2"),
            (Key::Uid, "480"),
            (Key::Broker, "mqtt://127.0.0.1:1883"),
            (Key::Username, "me"),
            (Key::Password, "hunter3"),
            (Key::PublicUrl, "https://b.example.org/ilink"),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let (secret, password) = (dir.path().join("secretkey"), dir.path().join("mqtt-password"));
        std::fs::write(&secret, "hunter2\n").unwrap();
        std::fs::write(&password, "hunter3\n").unwrap();
        let text = answers.configuration(&secret, &password);
        assert!(!text.contains("hunter"), "{text}");
        let config = Config::of_text("file", &text, &Environment::default()).unwrap();
        assert_eq!(config.ilink.appkey, odd);
        assert_eq!(config.ilink.secretkey.expose_secret(), "hunter2");
        assert_eq!(config.mqtt.username.as_deref(), Some("me"));
    }

    #[test]
    fn a_blank_flag_is_no_answer_where_there_must_be_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = |text: &str| Some(text.to_owned());
        for blank in ["", " ", "\t\n"] {
            let arguments = Setup {
                appkey: text(blank),
                secretkey_file: Some(file.path().to_owned()),
                uid: text(blank),
                broker: text(""),
                mqtt_username: text(""),
                public_url: text(blank),
                ..Setup::default()
            };
            let answers = Answers::of(arguments).unwrap();
            for key in [Key::Appkey, Key::Secretkey, Key::Uid, Key::PublicUrl] {
                assert!(!answers.has(key), "{key:?} {blank:?}");
            }
            assert!(answers.has(Key::Broker) && answers.has(Key::Username));
        }
        assert!(!Answers::of(Setup { secretkey: Some(" ".into()), ..Setup::default() }).unwrap().has(Key::Secretkey));
        assert!(Answers::of(Setup { uid: text("414"), ..Setup::default() }).unwrap().has(Key::Uid));
    }

    #[test]
    fn a_password_is_asked_for_only_with_a_user() {
        assert!(!answers(&[(Key::Username, "")]).wants(Key::Password));
        assert!(answers(&[(Key::Username, "me")]).wants(Key::Password));
    }
}
