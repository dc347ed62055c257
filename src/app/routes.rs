//! The routes' common parts: what is in force, what was sent last, and what is subscribed to; and their reload.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::error::AppError;
use crate::config::Config;
use crate::delivery::routing::{RouteStates, Routing};
use crate::mqtt::{LinkState, RouteFilters, Subscriptions};
use crate::outbound::route_book::RouteBook;
use crate::store::Store;

/// The note by which the next run knows what the broker's session may still be subscribed to, so that it can unsubscribe.
const FILTERS_NOTE: &str = "mqtt/route_filters";

/// The routes' common parts.
pub(super) struct RouteParts {
    pub(super) states: Arc<RouteStates>,
    pub(super) book: RouteBook,
    routing: watch::Sender<Arc<Routing>>,
    filters: watch::Sender<RouteFilters>,
    /// Home Assistant's, which is heard the same way.
    birth: Option<String>,
    spool: Arc<dyn Store>,
}

impl RouteParts {
    pub(super) async fn open(config: &Config, spool: &Arc<dyn Store>) -> Result<Self, AppError> {
        let failed = |error: crate::store::SpoolError| AppError::State(error.to_string());
        let book = RouteBook::open(spool.clone(), &config.routes).await.map_err(failed)?;
        let notes = spool.notes(FILTERS_NOTE).await.map_err(failed)?;
        let filters: Vec<String> =
            notes.first().and_then(|(_, note)| postcard::from_bytes(note).ok()).unwrap_or_default();
        let states = Arc::new(RouteStates::default());
        let routing = watch::Sender::new(states.routing(&config.routes));
        let filters = watch::Sender::new(RouteFilters { wanted: filters, gone: Vec::new() });
        let birth = config.discovery().map(|discovery| discovery.birth_topic());
        let parts = Self { states, book, routing, filters, birth, spool: spool.clone() };
        parts.subscribe(config);
        Ok(parts)
    }

    /// Puts the rules of a reloaded configuration in force.
    pub(super) fn reload(&self, config: &Config) {
        self.book.reconfigure(&config.routes);
        self.routing.send_replace(self.states.routing(&config.routes));
        self.subscribe(config);
    }

    pub(super) fn routing(&self) -> watch::Receiver<Arc<Routing>> {
        self.routing.subscribe()
    }

    pub(super) fn filters(&self) -> watch::Receiver<RouteFilters> {
        self.filters.subscribe()
    }

    /// Keeps the note of the filters in step with the broker, until `stop`.
    pub(super) fn remember(
        &self,
        link: watch::Receiver<LinkState>,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        remember_filters(self.filters(), link, self.spool.clone(), stop)
    }

    /// Subscribes to what the rules want, and unsubscribes from what is, or may be, subscribed to beside.
    fn subscribe(&self, config: &Config) {
        let wanted = config.routes.subscriptions_and(self.birth.as_deref());
        self.filters.send_if_modified(|filters| {
            if filters.wanted == wanted && filters.gone.is_empty() {
                return false;
            }
            let all: BTreeSet<String> = filters.wanted.drain(..).chain(filters.gone.drain(..)).collect();
            filters.gone = all.into_iter().filter(|filter| !wanted.contains(filter)).collect();
            wanted.clone_into(&mut filters.wanted);
            true
        });
        let filters = self.filters.borrow();
        // Before any of it is asked of the broker.
        note(&*self.spool, &[filters.wanted.as_slice(), &filters.gone].concat());
    }
}

/// Notes what is left to unsubscribe from, once the broker has done what was asked.
async fn remember_filters(
    mut filters: watch::Receiver<RouteFilters>,
    mut link: watch::Receiver<LinkState>,
    spool: Arc<dyn Store>,
    stop: CancellationToken,
) {
    loop {
        let done = |link: &LinkState| link.connected && link.subscriptions == Subscriptions::Granted;
        if !matches!(stop.run_until_cancelled(link.wait_for(done)).await, Some(Ok(_))) {
            return;
        }
        let wanted = filters.borrow_and_update().wanted.clone();
        note(&*spool, &wanted);
        if !matches!(stop.run_until_cancelled(filters.changed()).await, Some(Ok(()))) {
            return;
        }
    }
}

fn note(spool: &dyn Store, filters: &[String]) {
    if let Ok(note) = postcard::to_stdvec(filters) {
        spool.put_note(FILTERS_NOTE, note);
    }
}
