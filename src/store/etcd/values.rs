//! Small values that all members share: what a single bridge keeps in files.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::client::Client;
use super::config::Keys;
use super::election::Leadership;
use super::error::EtcdError;
use super::watch::Watch;
use super::wire::{Blob, Compare, KeyValue, Range, Step, Transaction};
use super::{Etcd, EtcdConfig};
use crate::store::shared::Unexpected;

/// Between two tries of what has failed.
const PAUSE: Duration = Duration::from_millis(500);
/// A watch may hang with the endpoint that it comes from: after this long the value is read again.
const READ_AGAIN: Duration = Duration::from_secs(30);

impl Etcd {
    /// A value that all members share, for who is no member.
    ///
    /// # Errors
    ///
    /// As [`Self::look_at`]; or if etcd does not tell.
    pub async fn peek(config: &EtcdConfig, name: &str) -> Result<Option<Vec<u8>>, EtcdError> {
        let there = read(&Client::new(config)?, &Keys::below(&config.prefix).file(name)).await?.1;
        Ok(there.map(|there| there.value.0.to_vec()))
    }

    /// A small value that all members share.
    ///
    /// # Errors
    ///
    /// If etcd does not tell.
    pub async fn get(&self, name: &str) -> Result<Option<Vec<u8>>, EtcdError> {
        Ok(read(&self.client, &self.keys.file(name)).await?.1.map(|there| there.value.0.to_vec()))
    }

    /// The value of this name; if there is none, it is this one from now on.
    ///
    /// # Errors
    ///
    /// If etcd does not take or tell it.
    pub async fn get_or_create(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, EtcdError> {
        let key = self.keys.file(name);
        let transaction = Transaction {
            compare: vec![Compare::created(key.clone(), 0)],
            success: vec![Step::put(key.clone(), Bytes::copy_from_slice(value))],
            failure: vec![Step::get(key)],
        };
        let carried = self.client.transact(&transaction).await?;
        let there = carried.found().flatten().next();
        Ok(there.map_or_else(|| value.to_vec(), |there| there.value.0.to_vec()))
    }

    /// Puts a value that all members share, or removes it: as long as this member leads. On the condition that it is as it was
    /// read: a request that is carried out late changes nothing.
    ///
    /// # Errors
    ///
    /// [`EtcdError::Deposed`] if it does not; or if etcd does not take it.
    pub async fn put(&self, leadership: &Leadership, name: &str, value: Option<&[u8]>) -> Result<(), EtcdError> {
        let key = self.keys.file(name);
        let step = match value {
            Some(value) => Step::put(key.clone(), Bytes::copy_from_slice(value)),
            None => Step::delete(key.clone()),
        };
        loop {
            let there = read(&self.client, &key).await?.1;
            let transaction = Transaction {
                compare: vec![
                    leadership.fence(),
                    Compare::changed(key.clone(), there.map_or(0, |there| there.mod_revision.0)),
                ],
                success: vec![step.clone()],
                failure: vec![Step::Range(leadership.question()), Step::get(key.clone())],
            };
            let carried = self.client.transact(&transaction).await?;
            if carried.succeeded {
                return Ok(());
            }
            let mut found = carried.found();
            if !leadership.is_of(found.next().unwrap_or_default().first()) {
                leadership.depose("another member leads");
                return Err(EtcdError::Deposed);
            }
            let now = found.next().unwrap_or_default().into_iter().next();
            if now.as_ref().map(|now| now.value.0.as_ref()) == value {
                return Ok(());
            }
        }
    }

    /// The value of this name as it is, once it is known, and then as it changes.
    #[must_use]
    pub fn follow(&self, name: &str) -> watch::Receiver<Option<Vec<u8>>> {
        let (to, value) = watch::channel(None);
        let (client, key, ended) = (Arc::clone(&self.client), self.keys.file(name), self.ended.clone());
        let following = async move { ended.run_until_cancelled(follow(&client, &key, &to)).await };
        tokio::spawn(Unexpected(Arc::clone(&self.shared)).watch(following));
        value
    }
}

/// The revision of the answer, and what is there.
async fn read(client: &Client, key: &str) -> Result<(u64, Option<KeyValue>), EtcdError> {
    let found = client.range(&Range { key: key.to_owned().into(), ..Range::default() }).await?;
    Ok((found.header.revision.0, found.kvs.into_iter().next()))
}

/// Follows a value until nobody listens any more.
async fn follow(client: &Client, key: &str, to: &watch::Sender<Option<Vec<u8>>>) {
    let following = async {
        loop {
            if let Ok((revision, there)) = read(client, key).await {
                tell(to, there.map(|there| there.value));
                let _ = timeout(READ_AGAIN, changes(client, key, revision + 1, to)).await;
            } else {
                sleep(PAUSE).await;
            }
        }
    };
    tokio::select! {
        () = following => {}
        () = to.closed() => {}
    }
}

async fn changes(client: &Client, key: &str, from: u64, to: &watch::Sender<Option<Vec<u8>>>) -> Result<(), EtcdError> {
    let mut watch = Watch::open(client, key, Vec::new(), from, &[]).await?;
    loop {
        for event in watch.next().await? {
            let put = event.is_put();
            tell(to, put.then_some(event.kv.value));
        }
    }
}

fn tell(to: &watch::Sender<Option<Vec<u8>>>, value: Option<Blob>) {
    let value = value.map(|value| value.0.to_vec());
    to.send_if_modified(|told| {
        let changed = *told != value;
        *told = value;
        changed
    });
}
