//! Processes that end with the demo, also if it is killed.
//!
//! Only a process itself can ask the kernel for that. So each begins as this program (`demo-process`), asks, and becomes the one
//! that is wanted, under the same number.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::cli::{DemoProcess, EXIT_INTERNAL};

/// As shells have it.
pub(super) const NOT_FOUND: u8 = 127;

/// Runs this program as one that ends with us.
pub(super) fn command(program: impl AsRef<OsStr>) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["demo-process", &std::process::id().to_string(), "--"]).arg(program);
    Ok(command)
}

/// Becomes the program; returns the exit code if that fails.
#[must_use]
pub fn become_process(DemoProcess { demo, program }: DemoProcess) -> u8 {
    let mut words = program.iter();
    let error = match (tie(demo), words.next()) {
        (Ok(()), Some(program)) => Command::new(program).args(words).exec(),
        (Ok(()), None) => io::ErrorKind::NotFound.into(),
        (Err(error), _) => error,
    };
    eprintln!("ilink2mqtt demo-process: {error}");
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { EXIT_INTERNAL }
}

#[cfg(target_os = "linux")]
fn tie(demo: i32) -> io::Result<()> {
    use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before that.
    let parent = getppid().map(Pid::as_raw_nonzero);
    if parent.is_some_and(|parent| parent.get() == demo) { Ok(()) } else { Err(io::Error::other("the demo has ended")) }
}

#[cfg(not(target_os = "linux"))]
fn tie(_demo: i32) -> io::Result<()> {
    Ok(())
}
