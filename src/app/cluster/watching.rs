//! What every member watches, leader or not: whether etcd accepts what has to be stored, and the shared identity.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::os::tasks;
use crate::state_dir::{IDENTITY, Identity};
use crate::store::etcd::{Etcd, EtcdError};

/// Says when this member cannot take part, until `stop`. Trouble that is over within `patience` is not worth a line: a member
/// that was killed and started again waits for its former lease.
pub(in crate::app) async fn tell_trouble(
    mut session: watch::Receiver<Result<(), EtcdError>>,
    patience: Duration,
    stop: CancellationToken,
) {
    let mut told = false;
    loop {
        let trouble = session.borrow_and_update().clone().err().map(|error| error.to_string());
        match trouble {
            Some(cause) if !told && lasts(&mut session, patience).await => {
                warn!(
                    cause,
                    "this member cannot take part in the cluster: it cannot begin to lead, and it may be unable to store pushes"
                );
                told = true;
            }
            None if told => {
                info!("this member takes part in the cluster again");
                told = false;
            }
            _ => {}
        }
        if !matches!(stop.run_until_cancelled(session.changed()).await, Some(Ok(()))) {
            return;
        }
    }
}

/// Whether the trouble is not over soon.
async fn lasts(session: &mut watch::Receiver<Result<(), EtcdError>>, patience: Duration) -> bool {
    timeout(patience, session.wait_for(Result::is_ok)).await.is_err()
}

/// Takes over what another member made of the identity, until `stop`.
pub(in crate::app) async fn follow_identity(
    etcd: Arc<Etcd>,
    identity: Arc<Identity>,
    path_secrets: watch::Sender<Vec<SecretString>>,
    stop: CancellationToken,
) {
    let mut content = etcd.follow(IDENTITY);
    while let Some(Ok(())) = stop.run_until_cancelled(content.changed()).await {
        content.mark_unchanged();
        let reading = Arc::clone(&identity);
        match tokio::task::spawn_blocking(move || reading.read_again()).await {
            Ok(Ok(())) => {
                path_secrets.send_if_modified(|secrets| {
                    let accepted = identity.accepted_secrets();
                    let exposed =
                        |all: &[SecretString]| all.iter().map(|one| one.expose_secret().to_owned()).collect::<Vec<_>>();
                    let changed = exposed(secrets) != exposed(&accepted);
                    *secrets = accepted;
                    changed
                });
            }
            Ok(Err(error)) => warn!(%error, "the changed identity cannot be read; the one before stays in force"),
            Err(error) => tasks::fault(error),
        }
    }
}
