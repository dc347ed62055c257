//! What a new leader reads before it begins: the names of the rows, page by page, not their data; notes, keys of redelivered
//! commands, and which numbers were given last.

use std::collections::HashSet;

use super::client::Client;
use super::config::{Keys, end_of};
use super::error::EtcdError;
use super::rows::{Mark, RowName, number};
use super::state::State;
use super::wire::{KeyValue, Number, Range, Step, Transaction};
use crate::store::types::Queue;

/// So many names are read at once. For each page etcd walks through all names from there on, so pages are not small.
/// Where etcd does not answer that in time, fewer are asked for.
const PAGE: u64 = 5_000;
const PAGE_LEAST: u64 = 1_000;
/// So many rows with data of another size than their name says are read at once, or so many as they lie; fewer where they turn
/// out to be large.
const VALUES: usize = 100;
const SPAN: usize = 2_000;
const LARGE_VALUES: usize = 8;
/// About so many bytes of data are read at once.
const BYTES: usize = 2 * 1024 * 1024;

/// Reads everything into `state`, and gives the revision in which it was so.
pub(super) async fn load(client: &Client, keys: &Keys, state: &mut State) -> Result<u64, EtcdError> {
    let revision = rows(client, keys, state).await?;
    for (name, kv) in all(client, keys.notes(), 500).await? {
        state.notes.insert(name, kv.value.0.to_vec());
    }
    for (name, kv) in all(client, keys.redeliveries(), PAGE).await? {
        if let (Ok(pkid), Ok(digest)) = (name.parse(), kv.value.0.as_ref().try_into()) {
            state.redeliveries.insert(pkid, digest);
        }
    }
    for (_, kv) in all(client, keys.writers(), 500).await? {
        let highest = Mark::highest(&kv);
        // What was appended after `revision` is still to be seen.
        for queue in Queue::ALL {
            let last = *highest.get(queue);
            if last > 0 && last < number(revision + 1, 0) {
                state.given(queue, last);
            }
        }
    }
    Ok(revision)
}

/// Reads which rows there are. Those that are known already change nothing.
pub(super) async fn rows(client: &Client, keys: &Keys, state: &mut State) -> Result<u64, EtcdError> {
    let mut found = Vec::new();
    let names = Range { limit: Number(PAGE), keys_only: true, ..folder(&keys.queues()) };
    let revision =
        pages(client, names, Pages::OfOneRevision, |kvs| found.extend(kvs.iter().filter_map(|kv| named(keys, kv))))
            .await?;
    // They came as they lie, queue by queue.
    found.retain(|row: &Listed| !state.is_there(row.queue, row.number));
    for rows in found.chunk_by(|one, next| one.queue == next.queue) {
        let (replaced, appended): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.replaced);
        if replaced.len() > appended.len() {
            sizes(client, keys, &rows.iter().collect::<Vec<_>>(), Reading::AsTheyLie, state).await?;
            continue;
        }
        for row in appended {
            state.listed(row.queue, row.number, row.name, row.name.size);
        }
        sizes(client, keys, &replaced, Reading::OneByOne, state).await?;
    }
    Ok(revision)
}

/// How data is read: all between the first row and the last, which is several times quicker, or only some.
#[derive(Clone, Copy)]
enum Reading {
    AsTheyLie,
    OneByOne,
}

impl Reading {
    /// The most rows at once.
    fn most(self) -> usize {
        match self {
            Self::AsTheyLie => SPAN,
            Self::OneByOne => VALUES,
        }
    }

    async fn read(self, client: &Client, keys: &Keys, rows: &[&Listed]) -> Result<Vec<KeyValue>, EtcdError> {
        let key = |row: &Listed| keys.queue(row.queue) + &row.name.encode();
        match self {
            Self::OneByOne => {
                let success = rows.iter().map(|row| Step::get(key(row))).collect();
                let carried = client.transact(&Transaction { success, ..Transaction::default() }).await?;
                Ok(carried.found().flatten().collect())
            }
            Self::AsTheyLie => {
                let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(Vec::new()) };
                let range = Range { key: key(first).into(), end: (key(last) + "\0").into(), ..Range::default() };
                Ok(client.range(&range).await?.kvs)
            }
        }
    }
}

/// Lists rows that have been replaced: only their data tells how large they are.
async fn sizes(
    client: &Client,
    keys: &Keys,
    rows: &[&Listed],
    reading: Reading,
    state: &mut State,
) -> Result<(), EtcdError> {
    let (mut rest, mut most) = (rows, LARGE_VALUES);
    while !rest.is_empty() {
        let (some, others) = rest.split_at(most.min(rest.len()));
        match reading.read(client, keys, some).await {
            Ok(kvs) => {
                // Between them may lie what has come since: that is still to be seen.
                let meant: HashSet<_> = some.iter().map(|row| row.number).collect();
                let there = kvs.iter().filter_map(|kv| Some((named(keys, kv)?, kv.value.0.len())));
                let mut bytes = 0;
                for (row, size) in there.filter(|(row, _)| meant.contains(&row.number)) {
                    state.listed(row.queue, row.number, row.name, u32::try_from(size).unwrap_or(u32::MAX));
                    bytes += size;
                }
                rest = others;
                most = (BYTES * some.len() / bytes.max(1)).clamp(LARGE_VALUES, reading.most());
            }
            // The answer may be too long: so many of the largest fit.
            Err(_) if most > LARGE_VALUES => most = LARGE_VALUES,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A row that was found.
struct Listed {
    queue: Queue,
    number: u64,
    name: RowName,
    replaced: bool,
}

fn named(keys: &Keys, kv: &KeyValue) -> Option<Listed> {
    let (queue, name) = row_of(keys, kv)?;
    let number = number(kv.create_revision.0, name.place);
    Some(Listed { queue, number, name, replaced: kv.version.0 > 1 })
}

/// Which row a key is.
pub(super) fn row_of(keys: &Keys, kv: &KeyValue) -> Option<(Queue, RowName)> {
    let key = std::str::from_utf8(&kv.key.0).ok()?;
    Queue::ALL.into_iter().find_map(|queue| Some((queue, RowName::parse(key.strip_prefix(&keys.queue(queue))?)?)))
}

/// Everything in a folder, by name.
async fn all(client: &Client, prefix: String, limit: u64) -> Result<Vec<(String, KeyValue)>, EtcdError> {
    let mut all = Vec::new();
    let named = |kv: KeyValue| {
        let name = std::str::from_utf8(&kv.key.0).ok()?.strip_prefix(&prefix)?.to_owned();
        Some((name, kv))
    };
    let range = Range { limit: Number(limit), ..folder(&prefix) };
    pages(client, range, Pages::AsTheyAre, |kvs| all.extend(kvs.into_iter().filter_map(named))).await?;
    Ok(all)
}

fn folder(prefix: &str) -> Range {
    Range { key: prefix.to_owned().into(), end: end_of(prefix).into(), ..Range::default() }
}

/// How a range is read that has several pages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pages {
    /// All as it was when the first one was read. If etcd is compacted meanwhile, that cannot be done.
    OfOneRevision,
    /// Each as it is when it is read.
    AsTheyAre,
}

/// Reads a range page by page; gives the revision in which the first one was read.
async fn pages(
    client: &Client,
    mut range: Range,
    how: Pages,
    mut each: impl FnMut(Vec<KeyValue>),
) -> Result<u64, EtcdError> {
    let mut first = None;
    loop {
        let page = match client.range(&range).await {
            Err(EtcdError::Unanswered { .. }) if range.limit.0 > PAGE_LEAST => {
                range.limit = Number(PAGE_LEAST);
                continue;
            }
            page => page?,
        };
        let revision = *first.get_or_insert(page.header.revision.0);
        if how == Pages::OfOneRevision {
            range.revision = Number(revision);
        }
        let last = page.kvs.last().map(|kv| kv.key.0.to_vec());
        each(page.kvs);
        let Some(mut next) = last.filter(|_| page.more) else { return Ok(revision) };
        next.push(0);
        range.key = next.into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::runtime::Handle;
    use tokio::task::block_in_place;

    use super::*;
    use crate::store::etcd::client::EACH;
    use crate::store::etcd::tests::{Server, config};

    #[tokio::test(flavor = "multi_thread")]
    async fn what_need_not_be_of_one_revision_is_read_also_if_etcd_is_compacted_meanwhile() {
        let server = Server::start(&[]);
        let client = Client::new(&config(&server.url(), "a")).unwrap();
        let put = |n: u8| Transaction { success: vec![Step::put(format!("/n/{n}"), "")], ..Transaction::default() };
        for n in 0..3 {
            client.transact(&put(n)).await.unwrap();
        }
        let compact = async || {
            let revision = client.transact(&put(9)).await.unwrap().header.revision.0;
            let compact = json!({"revision": revision.to_string(), "physical": true});
            client.ask::<Value>("/v3/kv/compaction", &compact, EACH).await.unwrap();
        };
        let mut read = Vec::new();
        let range = Range { limit: Number(1), ..folder("/n/") };
        let each = |kvs: Vec<KeyValue>| {
            read.extend(kvs);
            block_in_place(|| Handle::current().block_on(compact()));
        };
        pages(&client, range.clone(), Pages::AsTheyAre, each).await.unwrap();
        assert_eq!(read.len(), 4);
        let each = |_| block_in_place(|| Handle::current().block_on(compact()));
        assert_eq!(pages(&client, range, Pages::OfOneRevision, each).await, Err(EtcdError::Compacted));
    }
}
