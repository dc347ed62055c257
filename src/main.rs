//! Arguments, configuration, logging, then [`ilink2mqtt::app`] or a verb; and the exit code.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;

use ilink2mqtt::app::{self, AppError, Source};
use ilink2mqtt::cli::set_aside::{Chosen, SetAsideCommand};
use ilink2mqtt::cli::{
    Cli, Command, EXIT_INTERNAL, EXIT_UNAVAILABLE, EXIT_USAGE, Route, RouteCommand, RouteTest, Setup, dry_run, manual,
};
use ilink2mqtt::config::{Config, Environment, Log, LogFormat};
use ilink2mqtt::observe::log;
use ilink2mqtt::operate::control::{self, Answer, SetAside, Verb};
use ilink2mqtt::operate::set_aside::Which;
use ilink2mqtt::operate::systemd::Sockets;
use ilink2mqtt::sim::{self, demo};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    log::panics();
    // Whatever is written is ours alone, from the first moment on.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let cli = Cli::parse_or_exit();
    // While there is one thread alone.
    let sockets = match Sockets::take() {
        Ok(sockets) => sockets,
        Err(error) => return ExitCode::from(fail(EXIT_USAGE, &error.to_string())),
    };
    // One thread: nothing here computes for long, and a push that wakes no other thread costs less.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let code = match runtime {
        Ok(runtime) => runtime.block_on(execute(cli, sockets)),
        Err(error) => fail(EXIT_INTERNAL, &format!("cannot start: {error}")),
    };
    ExitCode::from(code)
}

async fn execute(cli: Cli, sockets: Sockets) -> u8 {
    let path = cli.config.clone();
    let environment = Environment::of_process();
    let load = || Config::load(path.as_deref(), &environment);
    let verb = match cli.into_command() {
        Command::Completions(arguments) => return print_bytes(&manual::completions(arguments.shell)),
        Command::Man => {
            return match manual::page() {
                Ok(page) => print_bytes(page.as_bytes()),
                Err(error) => fail(EXIT_INTERNAL, &error.to_string()),
            };
        }
        Command::Schema(arguments) => {
            return match arguments.document.text() {
                Ok(text) => print_bytes(text.as_bytes()),
                Err(error) => fail(EXIT_INTERNAL, &error.to_string()),
            };
        }
        Command::Sim(arguments) => return run_sim(arguments).await,
        Command::Demo(arguments) => return demo::run(arguments).await,
        Command::DemoProcess(arguments) => return demo::become_process(arguments),
        Command::Setup(arguments) => return setup(arguments, path, &environment).await,
        command @ (Command::Run | Command::Check(_) | Command::Route(_)) => {
            let config = match load() {
                Ok(config) => config,
                Err(error) => return fail(EXIT_USAGE, &error.to_string()),
            };
            return match command {
                Command::Check(arguments) if arguments.connect => connect(&config).await,
                Command::Check(arguments) => check(&config, arguments.acl),
                Command::Route(Route { command }) => try_routes(&config, command),
                _ => Box::pin(run(config, Source { path, environment, level: None }, sockets)).await,
            };
        }
        Command::Report(arguments) => {
            let _ = log::start(Log { level: tracing::level_filters::LevelFilter::WARN, format: LogFormat::Text });
            return match app::alone::report(load(), arguments.file).await {
                Ok(path) => print_bytes(format!("written: {}\n", path.display()).as_bytes()),
                Err(error) => fail_with(&error),
            };
        }
        Command::Call(call) => Verb::Call { name: call.name, json: call.json },
        Command::Register(register) => Verb::Register { new_secret: register.new_secret },
        Command::Unregister => Verb::Unregister,
        Command::Query => Verb::Query,
        Command::CallbackUrl => Verb::CallbackUrl,
        Command::SetAside(arguments) => Verb::SetAside(set_aside(arguments.command)),
        Command::StepDown => Verb::StepDown,
        Command::Status(status) => Verb::Status { healthy: status.healthy, json: status.json },
    };
    match load() {
        Ok(config) => ask(&config, verb).await,
        Err(error) => fail(EXIT_USAGE, &error.to_string()),
    }
}

fn set_aside(command: SetAsideCommand) -> SetAside {
    let which = |chosen: Chosen| if chosen.all { Which::All } else { Which::Ids(chosen.ids) };
    match command {
        SetAsideCommand::List { json } => SetAside::List { json },
        SetAsideCommand::Retry(chosen) => SetAside::Retry(which(chosen)),
        SetAsideCommand::Drop(chosen) => SetAside::Drop(which(chosen)),
    }
}

/// Says what it does on standard output: it is a conversation.
async fn setup(arguments: Setup, path: Option<PathBuf>, environment: &Environment) -> u8 {
    let _ = log::start(Log { level: tracing::level_filters::LevelFilter::ERROR, format: LogFormat::Text });
    match app::setup::run(arguments, path, environment).await {
        Ok(()) => 0,
        Err(error) => fail(error.exit_code(), &error.to_string()),
    }
}

async fn run(config: Config, mut source: Source, sockets: Sockets) -> u8 {
    source.level = log::start(config.log).ok();
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    match app::run(config, source, sockets, CancellationToken::new()).await {
        Ok(()) => 0,
        Err(error) => fail_with(&error),
    }
}

fn check(config: &Config, acl: bool) -> u8 {
    if acl {
        print(&config.mosquitto_acl());
    } else if let Err(error) = app::checkup::files(config) {
        return fail_with(&error);
    } else {
        print(&config.describe());
    }
    for warning in config.warnings() {
        eprintln!("warning: {warning}");
    }
    for note in config.notes() {
        eprintln!("note: {note}");
    }
    0
}

/// Shows what the routes would do.
fn try_routes(config: &Config, command: RouteCommand) -> u8 {
    let text = match command {
        RouteCommand::List => Ok(dry_run::list(&config.routes)),
        RouteCommand::Test(RouteTest { from, sender, topic, message }) => match (from, topic) {
            (Some(from), _) => {
                let senders = dry_run::Senders { own: &config.ilink.uid, allow_from: &config.inbound.allow_from };
                dry_run::from_ilink(&config.routes, senders, &from, sender.as_deref(), message.as_bytes())
            }
            (None, topic) => Ok(dry_run::to_ilink(&config.routes, &topic.unwrap_or_default(), message.as_bytes())),
        },
    };
    match text {
        Ok(text) => {
            print(&text);
            0
        }
        Err(error) => fail(EXIT_USAGE, &error),
    }
}

/// Prints every step, also those that failed: they are what was asked for.
async fn connect(config: &Config) -> u8 {
    let _ = log::start(Log { level: tracing::level_filters::LevelFilter::ERROR, ..config.log });
    for warning in config.warnings() {
        print(&format!("{:<6}{:<13}{warning}\n", "warn", "config"));
    }
    match app::checkup::run(config).await {
        Ok(Answer { exit, text }) => {
            print(&format!("{text}\n"));
            exit
        }
        Err(error) => fail_with(&error),
    }
}

/// Has the running daemon carry out a verb, or does it here if there is none.
async fn ask(config: &Config, verb: Verb) -> u8 {
    let answer = match control::ask(config, &verb).await {
        Ok(Some(answer)) => answer,
        Ok(None) => {
            let _ = log::start(Log { level: tracing::level_filters::LevelFilter::WARN, ..config.log });
            match app::alone::execute(config, verb).await {
                Ok(answer) => answer,
                Err(error) => return fail_with(&error),
            }
        }
        Err(error) => {
            let cause = format!("the running daemon did not answer: {error}");
            return match verb {
                Verb::Call { .. } => {
                    fail(EXIT_UNAVAILABLE, &format!("the call may or may not have been executed: {cause}"))
                }
                _ => fail(EXIT_INTERNAL, &cause),
            };
        }
    };
    let Answer { exit, text } = answer;
    if exit == 0 {
        print(&format!("{text}\n"));
    } else {
        eprintln!("{text}");
    }
    exit
}

async fn run_sim(arguments: ilink2mqtt::cli::Sim) -> u8 {
    let _ = log::start(Log { level: tracing::level_filters::LevelFilter::INFO, format: LogFormat::Text });
    let options = sim::Options {
        signature: arguments.signature,
        expires_in: std::time::Duration::from_secs(arguments.expires_in),
        strict: arguments.strict,
        retry_on_error: arguments.retry_on_error,
        allow_remote: arguments.allow_remote,
        ..sim::Options::new(arguments.appkey, arguments.secretkey)
    };
    let listener = match tokio::net::TcpListener::bind(arguments.listen).await {
        Ok(listener) => listener,
        Err(error) => return fail(EXIT_INTERNAL, &format!("cannot listen on {}: {error}", arguments.listen)),
    };
    // Any other address is about to be refused.
    let serves = |address: &std::net::SocketAddr| arguments.allow_remote || address.ip().is_loopback();
    if let Some(address) = listener.local_addr().ok().filter(serves) {
        eprintln!("the simulated iLink service listens on http://{address}");
    }
    let stop = CancellationToken::new();
    tokio::spawn(ilink2mqtt::os::tasks::cancel_on_signal(stop.clone()));
    match sim::serve(listener, options, stop).await {
        Ok(()) => 0,
        Err(error) => fail(
            if error.kind() == std::io::ErrorKind::InvalidInput { EXIT_USAGE } else { EXIT_INTERNAL },
            &error.to_string(),
        ),
    }
}

/// As [`print`], for what ends there.
fn print_bytes(bytes: &[u8]) -> u8 {
    let _ = std::io::stdout().write_all(bytes);
    0
}

/// To standard output; a reader that has gone (`… | head`) is no error.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn fail_with(error: &AppError) -> u8 {
    fail(error.exit_code(), &error.to_string())
}

fn fail(code: u8, error: &str) -> u8 {
    eprintln!("ilink2mqtt: {error}");
    code
}
