//! The arguments of `set-aside`.

use clap::{Args, Subcommand};

/// Arguments of `set-aside`.
#[derive(Debug, Args)]
pub struct SetAside {
    /// What to do.
    #[command(subcommand)]
    pub command: SetAsideCommand,
}

/// What to do with what is set aside.
#[derive(Debug, Subcommand)]
pub enum SetAsideCommand {
    /// List them: id, kind, sender, and each topic with the reason and the remedy
    List {
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
    /// Send messages again, in their order and with their ids; do this when the cause is gone
    Retry(Chosen),
    /// Forget messages
    Drop(Chosen),
}

/// Which messages.
#[derive(Debug, Args)]
pub struct Chosen {
    /// Those with these ids; `set-aside list` prints the ids
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    pub ids: Vec<String>,
    /// All of them
    #[arg(long)]
    pub all: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(arguments: &[&str]) -> Option<SetAsideCommand> {
        let cli = Cli::try_parse_from(["ilink2mqtt", "set-aside"].iter().chain(arguments)).ok()?;
        let Command::SetAside(SetAside { command }) = cli.into_command() else { panic!() };
        Some(command)
    }

    #[test]
    fn what_is_put_back_or_dropped_is_said() {
        assert!(matches!(parse(&["list", "--json"]), Some(SetAsideCommand::List { json: true })));
        let Some(SetAsideCommand::Retry(Chosen { ids, all: false })) = parse(&["retry", "01A", "01B"]) else {
            panic!()
        };
        assert_eq!(ids, ["01A", "01B"]);
        assert!(matches!(parse(&["drop", "--all"]), Some(SetAsideCommand::Drop(Chosen { all: true, .. }))));
        for wrong in [&["retry"][..], &["drop"], &["retry", "01A", "--all"], &[]] {
            assert!(parse(wrong).is_none(), "{wrong:?}");
        }
    }
}
