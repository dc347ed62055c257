//! The command line: what may be typed, and nothing about what it does.
//!
//! `main` parses with [`Cli::parse_or_exit`] and hands the command on.

pub mod dry_run;
pub mod manual;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use secrecy::SecretString;
use url::Url;

use crate::protocol::Variant;

/// Exit code of a wrong command line or configuration (`EX_USAGE`).
pub const EXIT_USAGE: u8 = 64;
/// Exit code when there is nothing to talk to (`EX_UNAVAILABLE`).
pub const EXIT_UNAVAILABLE: u8 = 69;
/// Exit code of an internal failure (`EX_SOFTWARE`).
pub const EXIT_INTERNAL: u8 = 70;
/// Exit code when the state directory is locked or unusable (`EX_CANTCREAT`).
pub const EXIT_STATE_DIR: u8 = 73;

const CONFIG_HELP: &str = "Configuration file [default: $ILINK2MQTT_CONFIG, else /etc/ilink2mqtt/config.toml, else \
                           ./config.toml]";

/// Bridges iLink and a local MQTT broker, losing nothing on the way.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true)]
pub struct Cli {
    /// Configuration file.
    #[arg(long, value_name = "FILE", global = true, help = CONFIG_HELP)]
    pub config: Option<PathBuf>,
    /// What to do; `run` when nothing is said.
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the bridge (also the default)
    Run,
    /// Ask for what the bridge needs, try each answer, and write the configuration
    Setup(Setup),
    /// Check the configuration and print what it amounts to
    Check(Check),
    /// Show the state of the bridge
    Status(Status),
    /// Write what a bug report needs into one archive: no secrets, no content, ids as pseudonyms
    Report(Report),
    /// Make one call to iLink and print its result
    Call(Call),
    /// Register the callback URL at iLink
    Register(Register),
    /// Remove the callback URL at iLink; the bridge stays unregistered until `register`
    Unregister,
    /// Ask iLink whether the callback URL is registered
    Query,
    /// Print the callback URL with its secret
    CallbackUrl,
    /// Try the routes on a message, or list them; nothing is sent
    Route(Route),
    /// Serve a simulated iLink, for trying things out without an account
    Sim(Sim),
    /// Show the bridge at work: a simulated iLink, a broker and the bridge in one process
    Demo(Demo),
    /// Print completions for a shell
    #[command(hide = true)]
    Completions(Completions),
    /// Print the manual page
    #[command(hide = true)]
    Man,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// Which shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Arguments of `setup`: every answer. What is not said here is asked for.
#[derive(Debug, Default, Args)]
pub struct Setup {
    /// Another iLink.
    #[arg(long, value_name = "URL", help = "iLink's address, if it is not the real service")]
    pub api: Option<String>,
    /// The account.
    #[arg(long, help = "The AppKey of your account")]
    pub appkey: Option<String>,
    /// The account's secret.
    #[arg(
        long,
        conflicts_with = "secretkey_file",
        help = "The SecretKey; others on this machine can see it in the list of processes: better let it be asked for"
    )]
    pub secretkey: Option<SecretString>,
    /// The same, in a file.
    #[arg(long, value_name = "FILE", help = "A file with the SecretKey")]
    pub secretkey_file: Option<PathBuf>,
    /// The uid that the bridge is to be
    #[arg(long)]
    pub uid: Option<String>,
    /// The broker.
    #[arg(long, value_name = "URL", help = "The broker: mqtt://HOST:1883, or mqtts://HOST:8883 for TLS")]
    pub broker: Option<String>,
    /// Our user name at the broker; empty for none
    #[arg(long, value_name = "NAME")]
    pub mqtt_username: Option<String>,
    /// Its password; see --secretkey
    #[arg(long, value_name = "PASSWORD", conflicts_with = "mqtt_password_file")]
    pub mqtt_password: Option<SecretString>,
    /// A file with its password
    #[arg(long, value_name = "FILE")]
    pub mqtt_password_file: Option<PathBuf>,
    /// The callback's public URL.
    #[arg(long, value_name = "URL", help = "How iLink reaches this machine: https://bridge.example.org/ilink")]
    pub public_url: Option<String>,
    /// Where the bridge listens for iLink, if not on port 8787 of all addresses
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Replace files that are there already; each is kept as FILE.old
    #[arg(long)]
    pub replace: bool,
    /// Write the answers without trying them
    #[arg(long)]
    pub untried: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Print the lines that this configuration needs in Mosquitto's ACL file
    #[arg(long, conflicts_with = "connect")]
    pub acl: bool,
    /// Try out the broker, iLink and the callback, step by step; nothing is changed
    #[arg(long)]
    pub connect: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Only say whether the bridge runs and makes progress, by the exit code too: for the health checks of containers
    #[arg(long)]
    pub healthy: bool,
    /// Print it as JSON
    #[arg(long, conflicts_with = "healthy")]
    pub json: bool,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// The archive.
    #[arg(help = "The archive [default: ilink2mqtt-report-<time>.tar.gz in this directory]")]
    pub file: Option<PathBuf>,
}

const FIELDS_HELP: &str = r#"Its fields, such as {"accept_uid":"414","content":"hello"}; only ham_group/list has none"#;

/// Arguments of `call`.
#[derive(Debug, Args)]
pub struct Call {
    /// The call's name.
    #[arg(value_name = "API/ACTION", help = "The call as its MQTT topic names it, such as send_msg/text")]
    pub name: String,
    /// The call's fields; empty if none were given.
    #[arg(value_name = "JSON", default_value = "", hide_default_value = true, help = FIELDS_HELP)]
    pub json: String,
}

/// Arguments of `register`.
#[derive(Debug, Args)]
pub struct Register {
    /// Make a new secret for the callback URL first
    #[arg(long)]
    pub new_secret: bool,
}

/// Arguments of `route`.
#[derive(Debug, Args)]
pub struct Route {
    /// What to do.
    #[command(subcommand)]
    pub command: RouteCommand,
}

/// What to do with the routes.
#[derive(Debug, Subcommand)]
pub enum RouteCommand {
    /// Show what the routes make of a message, or why they make nothing of it
    Test(RouteTest),
    /// List the routes
    List,
}

/// Arguments of `route test`.
#[derive(Debug, Args)]
pub struct RouteTest {
    /// The levels under recv/ of a message from iLink, such as user/413/text
    #[arg(long, value_name = "LEVELS", required_unless_present = "topic", conflicts_with = "topic")]
    pub from: Option<String>,
    /// The topic of a device's message
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// The message
    pub message: OsString,
}

/// Arguments of `sim`.
#[derive(Debug, Args)]
pub struct Sim {
    /// Address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8184")]
    pub listen: SocketAddr,
    /// The right application key.
    #[arg(long, help = "The AppKey that is right")]
    pub appkey: String,
    /// The right application secret.
    #[arg(long, help = "The SecretKey that is right")]
    pub secretkey: SecretString,
    /// How handshakes are signed: chars, params or plain
    #[arg(long, value_name = "VARIANT", default_value = "chars")]
    pub signature: Variant,
    /// Life of an access token, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 7200)]
    pub expires_in: u64,
    /// Refuse fields that the manual does not have
    #[arg(long)]
    pub strict: bool,
    /// Try a push again after an error status, too
    #[arg(long)]
    pub retry_on_error: bool,
    /// Allow an address that is not loopback
    #[arg(long)]
    pub allow_remote: bool,
}

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Use this broker, under the base topic ilink-demo, instead of the embedded one
    #[arg(long, value_name = "URL", conflicts_with = "mqtt_listen")]
    pub broker: Option<Url>,
    /// Address of the embedded broker [default: a free port of 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    pub mqtt_listen: Option<SocketAddr>,
}

impl Cli {
    /// Reads the process's arguments. For `--help`, `--version` and a wrong command line this prints what there is to say and
    /// ends the process, the latter with [`EXIT_USAGE`].
    #[must_use]
    pub fn parse_or_exit() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            let _ = error.print();
            std::process::exit(exit_code(&error))
        })
    }

    /// The command, `run` by default.
    #[must_use]
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Run)
    }
}

fn exit_code(error: &clap::Error) -> i32 {
    if error.use_stderr() { i32::from(EXIT_USAGE) } else { 0 }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, i32> {
        Cli::try_parse_from(["ilink2mqtt"].iter().chain(arguments)).map_err(|error| exit_code(&error))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_is_the_default_and_the_file_may_be_said_anywhere() {
        let cli = parse(&["--config", "a.toml"]).unwrap();
        assert_eq!(cli.config, Some(PathBuf::from("a.toml")));
        assert!(matches!(cli.into_command(), Command::Run));
        assert_eq!(parse(&["check", "--acl", "--config", "a.toml"]).unwrap().config, Some(PathBuf::from("a.toml")));
    }

    #[test]
    fn usage_errors_are_64_and_help_is_none() {
        for wrong in [&["nonsense"][..], &["run", "--nonsense"], &["call"], &["sim"], &["--config"]] {
            assert_eq!(parse(wrong).unwrap_err(), 64, "{wrong:?}");
        }
        for fine in [&["--help"][..], &["--version"], &["sim", "--help"]] {
            assert_eq!(parse(fine).unwrap_err(), 0, "{fine:?}");
        }
    }

    #[test]
    fn every_verb_parses() {
        for verb in ["run", "check", "status", "unregister", "query", "callback-url", "register", "demo"] {
            parse(&[verb]).unwrap();
        }
        let Command::Call(call) = parse(&["call", "ham_group/list"]).unwrap().into_command() else { panic!() };
        assert_eq!((call.name.as_str(), call.json.as_str()), ("ham_group/list", ""));
        parse(&["register", "--new-secret"]).unwrap();
        let Command::Status(status) = parse(&["status", "--healthy"]).unwrap().into_command() else { panic!() };
        assert!(status.healthy);
        parse(&["completions", "bash"]).unwrap();
        parse(&["man"]).unwrap();
        parse(&["status", "--json"]).unwrap();
        parse(&["demo", "--mqtt-listen", "0.0.0.0:1883"]).unwrap();
        parse(&["demo", "--broker", "mqtt://127.0.0.1:1883"]).unwrap();
    }

    #[test]
    fn routes_are_tried_one_way_or_the_other() {
        let test = |arguments: &[&str]| parse(&[&["route", "test"], arguments].concat()).map(Cli::into_command);
        let Ok(Command::Route(Route { command: RouteCommand::Test(test_it) })) =
            test(&["--from", "user/413/text", "lamp on"])
        else {
            panic!()
        };
        assert_eq!((test_it.from.as_deref(), test_it.message.as_os_str()), (Some("user/413/text"), "lamp on".as_ref()));
        test(&["--topic", "stat/x/POWER", "ON"]).unwrap();
        for wrong in [&["x"][..], &["--from", "a", "--topic", "b", "x"], &["--from", "a"]] {
            assert_eq!(test(wrong).unwrap_err(), 64, "{wrong:?}");
        }
        parse(&["route", "list"]).unwrap();
    }

    #[test]
    fn the_simulators_flags_and_its_secret_stays_hidden() {
        let arguments =
            ["sim", "--appkey", "A", "--secretkey", "hunter2", "--signature", "plain", "--expires-in", "60"];
        let cli = parse(&[&arguments[..], &["--strict", "--retry-on-error", "--allow-remote"]].concat()).unwrap();
        assert!(!format!("{cli:?}").contains("hunter2"));
        let Command::Sim(sim) = cli.into_command() else { panic!() };
        assert_eq!((sim.signature, sim.expires_in), (Variant::Plain, 60));
        assert_eq!(sim.listen, "127.0.0.1:8184".parse().unwrap());
        assert!(sim.strict && sim.retry_on_error && sim.allow_remote);
    }
}
