//! The rows that are appended, by whichever member: a watch, which is opened again whenever it ends.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::sleep;

use super::client::Client;
use super::config::{Keys, end_of};
use super::election::Leadership;
use super::error::EtcdError;
use super::watch::Watch;
use super::wire::Event;

/// Before a watch that has ended is opened again.
const PAUSE: Duration = Duration::from_millis(100);

/// What the feed tells.
#[derive(Debug)]
pub(super) enum News {
    Changes(Vec<Event>),
    /// Some of it is gone: what is there is to be read.
    Missed,
    /// Another member leads.
    Deposed,
}

/// The rows of all queues, as they are appended.
pub(super) struct Feed {
    client: Arc<Client>,
    prefix: String,
    leadership: Leadership,
    every: Duration,
    source: Source,
    check: BoxFuture<'static, Result<bool, EtcdError>>,
    /// Everything before this revision has been told.
    from: u64,
}

enum Source {
    Opening(BoxFuture<'static, Result<Watch, EtcdError>>),
    Open(Box<Watch>),
}

enum Step {
    Opened(Result<Watch, EtcdError>),
    News(Result<Vec<Event>, EtcdError>),
    Checked(Result<bool, EtcdError>),
}

impl Feed {
    /// Begins with this revision. `every` so often it checks that the watch's endpoint still belongs to the majority.
    pub(super) fn new(client: Arc<Client>, keys: &Keys, leadership: Leadership, from: u64, every: Duration) -> Self {
        let prefix = keys.queues();
        let source = opening(Arc::clone(&client), prefix.clone(), from, Duration::ZERO);
        let check = futures_util::future::pending().boxed();
        Self { client, prefix, leadership, every, source, check, from }
    }

    /// The next news. Cancel-safe: what is under way is kept.
    pub(super) async fn next(&mut self) -> News {
        loop {
            let step = match &mut self.source {
                Source::Opening(opening) => Step::Opened(opening.await),
                // The loser keeps its place: a watch keeps what it has read of a line, the check is the same future.
                Source::Open(watch) => tokio::select! {
                    changes = watch.next() => Step::News(changes),
                    checked = &mut self.check => Step::Checked(checked),
                },
            };
            match step {
                Step::Opened(Ok(watch)) => {
                    self.check = self.checking(watch.endpoint);
                    self.source = Source::Open(Box::new(watch));
                }
                Step::News(Ok(changes)) if changes.is_empty() => {}
                Step::News(Ok(changes)) => {
                    if let Some(last) = changes.last() {
                        // A large revision comes in parts: after a break it is read again from its start.
                        self.from = last.kv.mod_revision.0;
                    }
                    return News::Changes(changes);
                }
                Step::Opened(Err(EtcdError::Compacted)) | Step::News(Err(EtcdError::Compacted)) => return News::Missed,
                Step::Opened(Err(_)) | Step::News(Err(_)) => self.open_again(PAUSE),
                Step::Checked(Ok(true)) => {
                    if let Source::Open(watch) = &self.source {
                        self.check = self.checking(watch.endpoint);
                    }
                }
                Step::Checked(Ok(false)) => return News::Deposed,
                Step::Checked(Err(_)) => {
                    if let Source::Open(watch) = &self.source {
                        self.client.leave(watch.endpoint);
                    }
                    self.open_again(Duration::ZERO);
                }
            }
        }
    }

    /// Everything before this revision is known.
    pub(super) fn go_on_from(&mut self, from: u64) {
        self.from = from;
        self.open_again(PAUSE);
    }

    fn open_again(&mut self, pause: Duration) {
        self.source = opening(Arc::clone(&self.client), self.prefix.clone(), self.from, pause);
    }

    /// A member of etcd that is cut off from the others, or is suspended, keeps the watch open and sends nothing. A linearizable read
    /// at the same member fails then.
    fn checking(&self, endpoint: usize) -> BoxFuture<'static, Result<bool, EtcdError>> {
        let (client, leadership, every) = (Arc::clone(&self.client), self.leadership.clone(), self.every);
        async move {
            sleep(every).await;
            let found = client.range_at(endpoint, &leadership.question(), every).await?;
            Ok(leadership.is_of(found.kvs.first()))
        }
        .boxed()
    }
}

fn opening(client: Arc<Client>, prefix: String, from: u64, pause: Duration) -> Source {
    let end = end_of(&prefix);
    Source::Opening(
        async move {
            sleep(pause).await;
            Watch::open(&client, &prefix, end, from, &[]).await
        }
        .boxed(),
    )
}
