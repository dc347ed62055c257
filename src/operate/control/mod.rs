//! The control socket: the operator's verbs, carried out by a running daemon.
//!
//! `control.sock` in the state directory, open to its owner alone. One request and one answer for each connection, each a
//! JSON document on one line. What the verbs are and do is in [`verbs`].

pub mod verbs;

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::os::children::Children;
use verbs::Verbs;
pub use verbs::{Answer, Verb};

/// The largest request: a call's JSON.
const REQUEST_MAX: u64 = 4 * 1024 * 1024;
/// A verb waits for iLink, which has its own time-outs; this is beyond all of them.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// The path of the control socket in a state directory.
#[must_use]
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Opens the socket; the caller holds the state directory's lock, so a file that is there is a leftover.
///
/// # Errors
/// If it cannot be made.
pub fn bind(state_dir: &Path) -> io::Result<UnixListener> {
    let path = socket(state_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers on `listener` until `stop`.
pub async fn serve(listener: UnixListener, verbs: Arc<Verbs>, stop: CancellationToken) {
    let mut children = Children::default();
    loop {
        // accept() and ended() are cancel-safe.
        let accepted = tokio::select! {
            () = stop.cancelled() => return children.all_ended().await,
            () = children.ended() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let verbs = Arc::clone(&verbs);
        children.spawn(async move {
            if let Err(error) = answer(stream, &verbs).await {
                debug!(%error, "a connection on the control socket ended early");
            }
        });
    }
}

async fn answer(mut stream: UnixStream, verbs: &Verbs) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    timeout(Duration::from_secs(5), BufReader::new(read.take(REQUEST_MAX)).read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        Ok(verb) => verbs.execute(verb).await,
        // Without the parser's own message, which may quote a call's content.
        Err(_) => {
            Answer { exit: 64, text: "the daemon does not understand this verb: is it another version?".to_owned() }
        }
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await?;
    write.shutdown().await
}

/// Has a running daemon carry out `verb`; none if no daemon listens there.
///
/// # Errors
/// If a daemon was reached and did not answer.
pub async fn ask(state_dir: &Path, verb: &Verb) -> io::Result<Option<Answer>> {
    let mut stream = match UnixStream::connect(socket(state_dir)).await {
        Ok(stream) => stream,
        Err(error) => {
            // No daemon of ours listens there; whoever then takes the state directory's lock says what is wrong with it.
            let none = matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::NotADirectory
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::InvalidInput
            );
            return if none { Ok(None) } else { Err(error) };
        }
    };
    let mut bytes = serde_json::to_vec(verb)?;
    bytes.push(b'\n');
    stream.write_all(&bytes).await?;
    let mut answer = String::new();
    timeout(ANSWER_TIMEOUT, stream.read_to_string(&mut answer)).await??;
    // Without the parser's own message, which may quote the answer.
    let unreadable = |_| io::Error::other("its answer cannot be read: is it another version?");
    serde_json::from_str(&answer).map(Some).map_err(unreadable)
}
