//! `setup`: from nothing to a configuration that the bridge starts with, each answer tried at once.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::mosquitto::{Mosquitto, free_port};
use crate::support::process::PROGRAM;
use crate::support::sim::{APPKEY, SECRETKEY, Sim};

/// Runs `setup` with these flags and `input` on a pipe.
fn setup(config: &Path, flags: &[&str], input: &str) -> Output {
    let mut child = Command::new(PROGRAM)
        .env_clear()
        .args(["--config".as_ref(), config.as_os_str(), "setup".as_ref()])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(output: &Output) -> String {
    let text = String::from_utf8([output.stdout.as_slice(), output.stderr.as_slice()].concat()).unwrap();
    assert!(!text.contains(SECRETKEY), "{text}");
    text
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A world without a bridge, and where its configuration is to be.
struct Place {
    sim: Sim,
    broker: Mosquitto,
    dir: tempfile::TempDir,
    listen: String,
}

impl Place {
    async fn new() -> Self {
        Self {
            sim: Sim::start(&[]).await,
            broker: Mosquitto::start(""),
            dir: tempfile::tempdir().unwrap(),
            listen: format!("127.0.0.1:{}", free_port()),
        }
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("etc/config.toml")
    }

    fn around(&self) -> [String; 4] {
        ["--api".to_owned(), self.sim.url(), "--listen".to_owned(), self.listen.clone()]
    }

    fn run(&self, flags: &[&str], input: &str) -> Output {
        let around = self.around();
        let flags: Vec<&str> = around.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        setup(&self.config(), &flags, input)
    }

    /// One answer a line, in the order of the questions.
    fn answers(&self, secretkey: &str, broker: &str) -> String {
        format!("{APPKEY}\n{secretkey}\n414\n{broker}\n\nhttp://{}\n", self.listen)
    }
}

#[tokio::test]
async fn from_answers_to_a_configuration_that_checks() {
    let place = Place::new().await;
    let done = place.run(&[], &place.answers(SECRETKEY, &place.broker.url()));
    let said = text(&done);
    assert!(done.status.success(), "{said}");
    for tried in ["iLink accepts them", "it lets us in", "leads to callback.listen", "next: "] {
        assert!(said.contains(tried), "{tried}: {said}");
    }
    let (config, secret) = (place.config(), place.dir.path().join("etc/secretkey"));
    assert_eq!((mode(&config), mode(&secret)), (0o644, 0o600));
    assert_eq!(fs::read_to_string(&secret).unwrap(), format!("{SECRETKEY}\n"));
    assert!(!fs::read_to_string(&config).unwrap().contains(SECRETKEY));
    assert!(!place.dir.path().join("etc/mqtt-password").exists(), "no password was given");
    let check = Command::new(PROGRAM).env_clear().arg("--config").arg(&config).arg("check").output().unwrap();
    assert!(check.status.success(), "{check:?}");
    assert_eq!(place.sim.calls("get_access_token").await.len(), 0, "a token would end another's");
}

#[tokio::test]
async fn an_answer_that_does_not_work_is_told_and_nothing_is_written() {
    let place = Place::new().await;
    let nobody = format!("mqtt://127.0.0.1:{}", free_port());
    for (secretkey, broker, words) in [
        ("another", place.broker.url(), "does not accept them (1000)"),
        (SECRETKEY, nobody, "refuses the connection"),
        (SECRETKEY, "http://127.0.0.1".to_owned(), "mqtt.broker"),
    ] {
        let done = place.run(&[], &place.answers(secretkey, &broker));
        let said = text(&done);
        assert!(said.contains(words), "{words}: {said}");
        assert!(matches!(done.status.code(), Some(64 | 69)), "{said}");
        assert!(!place.config().exists(), "{said}");
    }
}

#[tokio::test]
async fn every_answer_is_a_flag_too_and_what_is_missing_is_named() {
    let place = Place::new().await;
    let (broker, public_url) = (place.broker.url(), format!("http://{}", place.listen));
    let secretkey = place.dir.path().join("given");
    fs::write(&secretkey, format!("{SECRETKEY}\n")).unwrap();
    let all = [
        ("--appkey", APPKEY),
        ("--secretkey-file", secretkey.to_str().unwrap()),
        ("--uid", "414"),
        ("--broker", &broker),
        ("--mqtt-username", "me"),
        ("--mqtt-password", "its password"),
        ("--public-url", &public_url),
    ];
    for left_out in ["--appkey", "--secretkey-file", "--uid", "--public-url"] {
        let flags: Vec<&str> =
            all.iter().filter(|(flag, _)| *flag != left_out).flat_map(|(flag, value)| [*flag, *value]).collect();
        let blank = place.dir.path().join("blank");
        fs::write(&blank, "\n").unwrap();
        let blank = if left_out.ends_with("-file") { blank.to_str().unwrap() } else { " " };
        for flags in [flags.clone(), [&flags[..], &[left_out, blank]].concat()] {
            let done = place.run(&flags, "");
            assert_eq!(done.status.code(), Some(64), "{}", text(&done));
            assert!(text(&done).contains(left_out), "{left_out}: {}", text(&done));
        }
    }
    let flags: Vec<&str> = all.iter().flat_map(|(flag, value)| [*flag, *value]).collect();
    let done = place.run(&flags, "");
    assert!(done.status.success(), "{}", text(&done));
    let password = place.dir.path().join("etc/mqtt-password");
    assert_eq!((fs::read_to_string(&password).unwrap().as_str(), mode(&password)), ("its password\n", 0o600));
}

#[tokio::test]
async fn nothing_is_replaced_unasked() {
    let place = Place::new().await;
    fs::create_dir(place.dir.path().join("etc")).unwrap();
    fs::write(place.config(), "mine").unwrap();
    let answers = place.answers(SECRETKEY, &place.broker.url());
    for (input, code) in [(String::new(), 64), (format!("n\n{answers}"), 64), (format!("y\n{answers}"), 0)] {
        let done = place.run(&[], &input);
        assert_eq!(done.status.code(), Some(code), "{}", text(&done));
        assert_eq!(fs::read_to_string(place.config()).unwrap() == "mine", code != 0);
    }
    assert_eq!(fs::read_to_string(place.dir.path().join("etc/config.toml.old")).unwrap(), "mine");
    assert!(place.run(&["--replace"], &answers).status.success());
}

#[tokio::test]
async fn a_secret_that_is_in_its_place_already_is_left_there() {
    let place = Place::new().await;
    fs::create_dir(place.dir.path().join("etc")).unwrap();
    let password = place.dir.path().join("etc/mqtt-password");
    fs::write(&password, "its password\n").unwrap();
    let answers = format!("{APPKEY}\n{SECRETKEY}\n414\nhttp://{}\n", place.listen);
    let flags = ["--broker", &place.broker.url(), "--mqtt-username", "me", "--mqtt-password-file"];
    let done = place.run(&[&flags[..], &[password.to_str().unwrap()]].concat(), &answers);
    assert!(done.status.success(), "{}", text(&done));
    assert_eq!((fs::read_to_string(&password).unwrap().as_str(), mode(&password)), ("its password\n", 0o600));
    assert!(!place.dir.path().join("etc/mqtt-password.old").exists());
}

#[tokio::test]
async fn where_nothing_can_be_written_nothing_is_asked() {
    let place = Place::new().await;
    let in_the_way = place.dir.path().join("etc");
    fs::write(&in_the_way, "").unwrap();
    let output = place.run(&[], "");
    let text = text(&output);
    assert_eq!(output.status.code(), Some(70), "{text}");
    assert!(text.contains(&format!("{} cannot be written", in_the_way.display())), "{text}");
    assert!(!text.contains("AppKey"), "{text}");
}
