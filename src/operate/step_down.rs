//! Hands over the leadership of a cluster: the verb asks, the leader answers.

use tokio::sync::{mpsc, oneshot};

/// Somebody asks for it, and waits for this: why not, if not.
pub type Asked = oneshot::Sender<Result<(), &'static str>>;

/// Asks for it.
///
/// # Errors
///
/// Why it was not done.
pub(super) async fn ask(to: &mpsc::Sender<Asked>) -> Result<(), &'static str> {
    const STOPPING: &str = "the bridge is stopping";
    let (answer, answered) = oneshot::channel();
    to.send(answer).await.map_err(|_| STOPPING)?;
    answered.await.unwrap_or(Err(STOPPING))
}
