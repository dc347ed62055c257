//! Publishes the discovery configurations for Home Assistant, and removes those that are no longer configured.
//!
//! They are retained. They are sent again on each connection, like everything about the bridge itself, and whenever Home
//! Assistant announces that it has started. Before a configuration or a contact's picture is published, its topic is noted in
//! the spool. So the next run knows what to remove, even if discovery has been switched off by then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::inbound::relay::RelaySettings;
use crate::local::{Discovery, Publication};
use crate::mqtt::Publisher;
use crate::store::Store;

/// The note of the topics that may have a configuration of ours, or a picture.
const NOTE: &str = "homeassistant/topics";

/// What makes us publish again.
pub(super) struct Heard {
    /// Home Assistant started.
    pub(super) births: watch::Receiver<u64>,
    /// Whose presence we are told may have changed.
    pub(super) settings: watch::Receiver<Arc<RelaySettings>>,
}

/// Runs until `stop`. Without a `discovery`, it takes back what earlier runs published.
pub(super) async fn run(
    discovery: Option<Discovery>,
    mut heard: Heard,
    publisher: Publisher,
    spool: Arc<dyn Store>,
    stop: CancellationToken,
) {
    let mut known = noted(&*spool).await;
    let (mut clearing, mut being_cleared) = (FuturesUnordered::new(), BTreeSet::new());
    loop {
        let presence = Arc::clone(&heard.settings.borrow_and_update());
        let entities = discovery.iter().flat_map(|discovery| discovery.entities(&presence.presence));
        // The relay publishes the pictures; here it is known which may be there.
        let pictures = discovery.iter().flat_map(Discovery::pictures).map(|topic| (topic, None));
        let entities = entities.map(|entity| (entity.topic.clone(), Some(entity)));
        let wanted: BTreeMap<String, Option<Publication>> = entities.chain(pictures).collect();
        let stale: Vec<&String> = known.iter().filter(|topic| !wanted.contains_key(*topic)).collect();
        let new = wanted.keys().filter(|topic| !known.contains(*topic)).count();
        let mut taken_back = 0;
        for topic in stale {
            if being_cleared.insert(topic.clone()) {
                let (topic, cleared) = (topic.clone(), publisher.clear(topic.clone()));
                clearing.push(async move { (topic, cleared.await) });
                taken_back += 1;
            }
        }
        if new + taken_back > 0 {
            info!(new, taken_back, "what Home Assistant is told of us has changed");
        }
        if new > 0 {
            known.extend(wanted.keys().cloned());
            note(&*spool, &known);
        }
        for entity in wanted.values().flatten() {
            publisher.set_state(entity.clone());
        }
        // What is published stands until one of these says otherwise. All arms only observe, or take one finished clearing out.
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = heard.births.changed() => {
                    debug!("Home Assistant has started: publishing its entities again");
                    break;
                }
                Ok(()) = heard.settings.changed() => break,
                Some((topic, cleared)) = clearing.next() => {
                    being_cleared.remove(&topic);
                    if wanted.contains_key(&topic) {
                        continue;
                    }
                    // It was wanted again in between.
                    if !cleared {
                        break;
                    }
                    known.remove(&topic);
                    note(&*spool, &known);
                }
            }
        }
    }
}

async fn noted(spool: &dyn Store) -> BTreeSet<String> {
    // A spool that cannot be read has ended the bridge already.
    let notes = spool.notes(NOTE).await.unwrap_or_default();
    notes.first().and_then(|(_, note)| postcard::from_bytes(note).ok()).unwrap_or_default()
}

fn note(spool: &dyn Store, topics: &BTreeSet<String>) {
    if topics.is_empty() {
        spool.remove_note(NOTE);
    } else if let Ok(note) = postcard::to_stdvec(topics) {
        spool.put_note(NOTE, note);
    }
}
