//! Shell completions and the manual page, generated from the command line's own definition. Packages install them.

use std::io;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;

const NAME: &str = "ilink2mqtt";

/// What the definition of the command line does not know.
const REST: &str = r"
.SH FILES
.TP
.I /etc/ilink2mqtt/config.toml
The configuration, in TOML. `ilink2mqtt check` prints every key, its value and where the value comes from.
.TP
.I /etc/ilink2mqtt/secretkey, /etc/ilink2mqtt/mqtt\-password
Secrets. The systemd unit hands them to the service.
.TP
.I /var/lib/ilink2mqtt
The state: identity.json (back it up), token.json, spool.db, control.sock.
.SH ENVIRONMENT
.TP
.B ILINK2MQTT_CONFIG
The configuration file.
.TP
.B ILINK2MQTT_<SECTION>__<KEY>
Overrides a key of the configuration file, for example ILINK2MQTT_MQTT__BROKER.
.TP
.B CREDENTIALS_DIRECTORY, STATE_DIRECTORY, NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS
Set by systemd for a service.
.SH SIGNALS
SIGTERM and SIGINT stop the bridge cleanly; a second one stops it at once. SIGHUP reads the configuration again.
.SH EXIT STATUS
.TP
0
The command succeeded, or the bridge stopped cleanly.
.TP
1
iLink answered a call with an error code.
.TP
64
A wrong command line or configuration.
.TP
69
No answer: the call got none, or a step of `check \-\-connect` failed.
.TP
70
An internal failure, or an address that is in use.
.TP
73
The state directory is in use or unusable.
.SH SEE ALSO
.BR mosquitto (8),
.BR systemctl (1)
";

/// The completions of the command line for a shell.
#[must_use]
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command(), NAME, &mut text);
    text
}

/// The manual page, in roff: all verbs in one page.
///
/// # Errors
/// Never, as long as writing into memory does not fail.
pub fn page() -> io::Result<String> {
    let mut command = command();
    command.build();
    let whole = Man::new(command.clone()).title("ILINK2MQTT").manual("System Manager's Manual");
    let mut text = Vec::new();
    whole.render_title(&mut text)?;
    whole.render_name_section(&mut text)?;
    whole.render_synopsis_section(&mut text)?;
    whole.render_description_section(&mut text)?;
    whole.render_options_section(&mut text)?;
    let mut text = utf8(&text);
    text.push_str(".SH COMMANDS\n");
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        text.extend([".SS ", &verb.get_name().replace('-', "\\-"), "\n"]);
        text.push_str(&described(verb)?);
    }
    text.push_str(REST.trim_start());
    Ok(text)
}

fn command() -> Command {
    Cli::command().name(NAME)
}

/// A verb under a heading of its own: its sections without theirs.
fn described(verb: &Command) -> io::Result<String> {
    let man = Man::new(verb.clone().disable_help_flag(true));
    let mut text = Vec::new();
    man.render_description_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    if verb
        .get_arguments()
        .any(|argument| !argument.is_hide_set() && !argument.is_global_set() && argument.get_id() != "help")
    {
        man.render_options_section(&mut text)?;
    }
    let text = utf8(&text);
    let lines = text.lines().map(|line| if line.starts_with(".SH ") { ".PP" } else { line });
    Ok(lines.flat_map(|line| [line, "\n"]).collect())
}

fn utf8(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_verb_and_none_that_is_hidden() {
        let page = page().unwrap();
        let definition = command();
        for verb in definition.get_subcommands() {
            let heading = format!(".SS {}\n", verb.get_name().replace('-', "\\-"));
            assert_eq!(page.contains(&heading), !verb.is_hide_set(), "{heading}");
        }
        for part in [".TH ", ".SH NAME", ".SH SYNOPSIS", ".SH FILES", ".SH EXIT STATUS", "\\-\\-new\\-secret"] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }

    #[test]
    fn each_shell_has_completions() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = utf8(&completions(shell));
            assert!(text.contains("callback-url") && text.contains("ilink2mqtt"), "{shell}");
        }
    }
}
