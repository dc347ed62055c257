//! The command line: its verbs and arguments, and nothing about what they do.
//!
//! `main` parses with [`Cli::parse_or_exit`] and runs the command.

mod demo;
pub mod dry_run;
pub mod manual;
pub mod schema;
pub mod set_aside;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
pub use demo::{Demo, DemoProcess};
use secrecy::SecretString;

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

/// Connects iLink and a local MQTT broker, and loses no acknowledged message.
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
    /// Run the bridge (default)
    Run,
    /// Ask for what the bridge needs, try each answer, and write the configuration
    Setup(Setup),
    /// Check the configuration and print the effective values
    Check(Check),
    /// Show the state of the bridge
    Status(Status),
    /// Write an archive for a bug report, without secrets or message content; pseudonyms replace the ids
    Report(Report),
    /// Make one call to iLink and print its result
    Call(Call),
    /// Register the callback URL at iLink
    Register(Register),
    /// Remove the callback URL from iLink; the bridge stays unregistered until you run `register`
    Unregister,
    /// Ask iLink whether the callback URL is registered
    Query,
    /// Print the callback URL with its secret
    CallbackUrl,
    /// List the messages that the broker refused for good, put them back into their queue, or drop them
    SetAside(set_aside::SetAside),
    /// Hand the leadership of the cluster over to another member
    StepDown,
    /// Test the routes on a message, or list them; sends nothing
    Route(Route),
    /// Print the schema of the configuration or of what the bridge publishes, for editors and programs
    Schema(schema::Schema),
    /// Run a simulated iLink, to try things out without an account
    Sim(Sim),
    /// Run a demo: a simulated iLink, a broker and the bridge in one process
    Demo(Demo),
    /// Print completions for a shell
    #[command(hide = true)]
    Completions(Completions),
    /// Print the manual page
    #[command(hide = true)]
    Man,
    /// Become a process that ends with the demo
    #[command(hide = true)]
    DemoProcess(DemoProcess),
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
        help = "The SecretKey. Other users can see it in the process list: it is safer to let setup ask for it"
    )]
    pub secretkey: Option<SecretString>,
    /// The same, in a file.
    #[arg(long, value_name = "FILE", help = "A file with the SecretKey")]
    pub secretkey_file: Option<PathBuf>,
    /// The bridge's uid at iLink
    #[arg(long)]
    pub uid: Option<String>,
    /// The broker.
    #[arg(long, value_name = "URL", help = "The broker: mqtt://HOST:1883, or mqtts://HOST:8883 for TLS")]
    pub broker: Option<String>,
    /// The bridge's user name at the broker; empty for none
    #[arg(long, value_name = "NAME")]
    pub mqtt_username: Option<String>,
    /// The password of that user. Other users can see it in the process list, as with --secretkey
    #[arg(long, value_name = "PASSWORD", conflicts_with = "mqtt_password_file")]
    pub mqtt_password: Option<SecretString>,
    /// A file with the password of that user
    #[arg(long, value_name = "FILE")]
    pub mqtt_password_file: Option<PathBuf>,
    /// The callback's public URL.
    #[arg(
        long,
        value_name = "URL",
        help = "The URL by which iLink reaches this machine: https://bridge.example.org/ilink"
    )]
    pub public_url: Option<String>,
    /// The address on which the bridge listens for iLink; without it port 8787 of all addresses
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Replace files that exist already; keeps each old file as FILE.old
    #[arg(long)]
    pub replace: bool,
    /// Write the answers without testing them
    #[arg(long)]
    pub untried: bool,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Print the lines that Mosquitto's ACL file needs for this configuration
    #[arg(long, conflicts_with = "connect")]
    pub acl: bool,
    /// Test the connections to the broker, iLink and the callback, step by step; changes nothing
    #[arg(long)]
    pub connect: bool,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Only say whether the bridge runs and makes progress, also by the exit code; for container health checks
    #[arg(long)]
    pub healthy: bool,
    /// Print the state as JSON
    #[arg(long, conflicts_with = "healthy")]
    pub json: bool,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// The archive.
    #[arg(help = "The archive to write [default: ilink2mqtt-report-<time>.tar.gz in this directory]")]
    pub file: Option<PathBuf>,
}

const FIELDS_HELP: &str =
    r#"The fields of the call, such as {"accept_uid":"414","content":"hello"}; only ham_group/list has none"#;

/// Arguments of `call`.
#[derive(Debug, Args)]
pub struct Call {
    /// The call's name.
    #[arg(value_name = "API/ACTION", help = "The call, written as in its MQTT topic, such as send_msg/text")]
    pub name: String,
    /// The call's fields; empty if none were given.
    #[arg(value_name = "JSON", default_value = "", hide_default_value = true, help = FIELDS_HELP)]
    pub json: String,
}

/// Arguments of `register`.
#[derive(Debug, Args)]
pub struct Register {
    /// First make a new secret for the callback URL
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
    /// Show what the routes do with a message, or why they do not fire
    Test(RouteTest),
    /// List the routes
    List,
}

/// Arguments of `route test`.
#[derive(Debug, Args)]
pub struct RouteTest {
    /// Test a message from iLink: its topic levels under recv/, such as user/413/text
    #[arg(long, value_name = "LEVELS", required_unless_present = "topic", conflicts_with = "topic")]
    pub from: Option<String>,
    /// Who publishes, if LEVELS name a topic: a uid or its @name
    #[arg(long, value_name = "UID", requires = "from", conflicts_with = "topic")]
    pub sender: Option<String>,
    /// Test a message from a device: its topic
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// The payload of the message
    pub message: OsString,
}

/// Arguments of `sim`.
#[derive(Debug, Args)]
pub struct Sim {
    /// The address to listen on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8184")]
    pub listen: SocketAddr,
    /// The right application key.
    #[arg(long, help = "The AppKey that the simulator accepts")]
    pub appkey: String,
    /// The right application secret.
    #[arg(long, help = "The SecretKey that the simulator accepts")]
    pub secretkey: SecretString,
    /// How the simulator signs handshakes: chars, params or plain
    #[arg(long, value_name = "VARIANT", default_value = "chars")]
    pub signature: Variant,
    /// Lifetime of an access token, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 7200)]
    pub expires_in: u64,
    /// Refuse fields that iLink's manual does not have
    #[arg(long)]
    pub strict: bool,
    /// Repeat a push also after an HTTP error status
    #[arg(long)]
    pub retry_on_error: bool,
    /// Allow --listen on an address that is not loopback
    #[arg(long)]
    pub allow_remote: bool,
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
        let alone = &["demo", "--cluster", "1"][..];
        for wrong in [&["nonsense"][..], &["run", "--nonsense"], &["call"], &["sim"], &["--config"], alone] {
            assert_eq!(parse(wrong).unwrap_err(), 64, "{wrong:?}");
        }
        for fine in [&["--help"][..], &["--version"], &["sim", "--help"]] {
            assert_eq!(parse(fine).unwrap_err(), 0, "{fine:?}");
        }
    }

    #[test]
    fn every_verb_parses() {
        for verb in ["run", "check", "status", "unregister", "query", "callback-url", "register", "step-down", "demo"] {
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
        parse(&["demo", "--cluster", "3"]).unwrap();
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
        for wrong in [
            &["x"][..],
            &["--from", "a", "--topic", "b", "x"],
            &["--from", "a"],
            &["--topic", "a", "--sender", "b", "x"],
        ] {
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

    #[test]
    fn the_reference_has_every_verb_in_both_languages() {
        for reference in
            [include_str!("../../deploy/docs/reference.md"), include_str!("../../deploy/docs/zh/reference.md")]
        {
            for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
                assert!(reference.contains(&format!("`{}", verb.get_name())), "`{}` is missing", verb.get_name());
            }
        }
    }
}
