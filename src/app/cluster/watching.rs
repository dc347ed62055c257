//! What every member watches, leader or not: whether etcd accepts what has to be stored, and the shared identity.

use std::collections::HashSet;
use std::mem::discriminant;
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

/// Says when this member cannot take part, until `stop`: each kind of cause once, until it takes part again. Trouble that is over
/// within `patience` is not worth a line: a member that was killed and started again waits for its former lease.
pub(in crate::app) async fn tell_trouble(
    mut session: watch::Receiver<Result<(), EtcdError>>,
    patience: Duration,
    stop: CancellationToken,
) {
    let mut told = HashSet::new();
    loop {
        let news = session.borrow_and_update().as_ref().err().map(|error| !told.contains(&discriminant(error)));
        match news {
            Some(true) if stop.run_until_cancelled(lasts(&mut session, patience)).await == Some(true) => {
                // The cause by now: at first it may be that nothing is known yet.
                let trouble = session.borrow().clone().err();
                if let Some(error) = trouble
                    && told.insert(discriminant(&error))
                {
                    let cause = error.to_string();
                    warn!(
                        cause,
                        "this member cannot take part in the cluster: it cannot begin to lead, and it may be unable to store pushes"
                    );
                }
            }
            None if !told.is_empty() => {
                info!("this member takes part in the cluster again");
                told.clear();
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
