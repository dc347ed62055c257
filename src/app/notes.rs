//! What is noted in the spool beside the messages' way: what iLink tells of presence, what the broker has of us.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::core::Core;
use super::error::AppError;
use super::parts;
use crate::config::Config;
use crate::inbound::record::Record;
use crate::mqtt::{LinkConfig, LinkState, RouteFilters};
use crate::protocol::Uid;
use crate::store::{Queue, SpoolError, Store};

/// The note by which the next run knows that the broker has a session of ours.
const SESSION_NOTE: &str = "mqtt/session";

/// The link's configuration, with whether an earlier run left a session at the broker.
pub(super) async fn link_config(
    config: &Config,
    core: &Core,
    routes: watch::Receiver<RouteFilters>,
) -> Result<LinkConfig, AppError> {
    let notes = core.spool.notes(SESSION_NOTE).await.map_err(|error| AppError::State(error.to_string()))?;
    let session = session_name(config);
    Ok(LinkConfig { expect_session: notes.iter().any(|(_, value)| *value == session), ..parts::link(config, routes) })
}

/// Names the session that a broker may hold for us.
pub(super) fn session_name(config: &Config) -> Vec<u8> {
    let mqtt = &config.mqtt;
    let brokers = std::iter::once(&mqtt.broker).chain(&mqtt.other_brokers).map(url::Url::as_str);
    brokers.chain([mqtt.client_id.as_str()]).collect::<Vec<_>>().join(" ").into_bytes()
}

/// Notes, once connected, that the broker has a session of ours from here on.
pub(super) async fn remember_session(
    mut link: watch::Receiver<LinkState>,
    spool: Arc<dyn Store>,
    name: Vec<u8>,
    stop: CancellationToken,
) {
    if let Some(Ok(_)) = stop.run_until_cancelled(link.wait_for(|link| link.connected)).await {
        spool.put_note(SESSION_NOTE, name);
    }
}

/// Queues what `ham_user/states` told between the pushes, so that neither overtakes the other.
pub(super) async fn queue_presence(
    mut states: watch::Receiver<Vec<(Uid, bool)>>,
    spool: Arc<dyn Store>,
    stop: CancellationToken,
) {
    while let Some(Ok(())) = stop.run_until_cancelled(states.changed()).await {
        let states = states.borrow_and_update().clone();
        if states.is_empty() {
            continue;
        }
        let Ok(row) = (Record::States { states }).encode() else { continue };
        match spool.append(Queue::Inbound, row.into(), None).await {
            Ok(_) => {}
            Err(SpoolError::Failed(_)) => return,
            Err(error) => {
                warn!(%error, "the presence that iLink told could not be queued; it is read again when the cloud comes back");
            }
        }
    }
}
