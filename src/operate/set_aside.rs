//! What is set aside: listed, retried, or dropped, for the verb `set-aside` and for the status page.
//!
//! A retry has two steps: the message is appended to its queue, durably, and then its row here is completed. A crash in between
//! leaves both: a copy with the same id, and nothing lost. What is said to be done is durable. A message that is refused again is
//! not retried twice in the same run.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc};
use ulid::Ulid;

use crate::delivery::refused::{Kept, RefusedPublish};
use crate::inbound;
use crate::local::CommandResult;
use crate::observe::activity::{Activity, harmless, shown};
use crate::observe::counters::Counters;
use crate::os::clock;
use crate::outbound;
use crate::protocol::{Push, Uid};
use crate::store::{AppendError, Queue, Row, SpoolError, Store};

/// Rows that are read at once, and their bytes.
const READ_ROWS: usize = 256;
const READ_BYTES: usize = 512 * 1024;

/// A message that is set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The bridge's id of it, as in envelopes and results; `ROW-…` if it has none.
    pub id: String,
    /// A push's kind, `states`, `result`, `publish` if the disk has damaged the message meanwhile, or `unreadable`.
    pub kind: String,
    /// When it was set aside: RFC 3339, UTC.
    pub at: String,
    /// The sender's uid, clipped.
    pub from: Option<String>,
    /// What was refused of it.
    pub refused: Vec<Publish>,
    /// The beginning of its content, if that is to be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// A publish that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Publish {
    /// Where to, clipped.
    pub topic: String,
    /// The size of its payload.
    pub bytes: u64,
    /// Why, and what to do about it.
    pub why: String,
}

/// Which of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// Every one.
    All,
    /// Those of these ids.
    Ids(Vec<String>),
}

/// Why not all of it was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// Nothing was done.
    #[error("nothing with the id {0} is set aside: see `ilink2mqtt set-aside list`")]
    NoSuchId(String),
    /// Nobody said which.
    #[error("say which: ids of `ilink2mqtt set-aside list`, or --all")]
    NoneNamed,
    /// The queue has no more room.
    #[error("{0} put back; the others stay set aside, because the queue is full: try again when it has drained")]
    Full(usize),
    /// These cannot be put back.
    #[error(
        "{done} put back; {left} cannot be put back and stay set aside: another version wrote them, or the disk has damaged \
         them; `ilink2mqtt set-aside list` shows what is known of each; \
         `ilink2mqtt set-aside drop` drops them"
    )]
    Unreadable {
        /// Put back.
        done: usize,
        /// Not.
        left: usize,
    },
    /// The spool did not do it.
    #[error("{0}")]
    Spool(#[from] SpoolError),
}

/// Where it is done.
pub struct Desk {
    spool: Arc<dyn Store>,
    counters: Arc<Counters>,
    /// Told of results that are put back; none without a running bridge, which finds them when it starts.
    results: Option<mpsc::UnboundedSender<u64>>,
    /// Two at once would put back everything twice.
    one_at_a_time: Mutex<()>,
}

impl Desk {
    /// For what is set aside in `spool`.
    #[must_use]
    pub fn new(spool: Arc<dyn Store>, counters: Arc<Counters>, results: Option<mpsc::UnboundedSender<u64>>) -> Self {
        Self { spool, counters, results, one_at_a_time: Mutex::new(()) }
    }

    /// All of it, the oldest first.
    ///
    /// # Errors
    /// If the spool cannot be read.
    pub async fn list(&self) -> Result<Vec<Entry>, SpoolError> {
        let (mut all, mut pages) = (Vec::new(), self.pages(u64::MAX));
        while let Some(rows) = pages.next().await? {
            all.extend(rows.iter().map(|row| entry(row, &self.counters.activity)));
        }
        Ok(all)
    }

    /// The oldest few, for who only looks.
    pub(super) async fn oldest(&self, most: usize) -> Vec<Entry> {
        let rows = self.spool.read_after(Queue::SetAside, 0, most, READ_BYTES).await;
        rows.unwrap_or_default().iter().map(|row| entry(row, &self.counters.activity)).collect()
    }

    /// Puts messages back into their queues, in their order; how many.
    ///
    /// # Errors
    /// [`NotDone`].
    pub async fn retry(&self, which: &Which) -> Result<usize, NotDone> {
        let _one = self.one_at_a_time.lock().await;
        let done = self.put_all_back(which).await;
        if !matches!(done, Ok(0) | Err(NotDone::NoneNamed | NotDone::NoSuchId(_))) {
            self.spool.flush().await?;
        }
        done
    }

    async fn put_all_back(&self, which: &Which) -> Result<usize, NotDone> {
        let (mut done, mut left) = (0, 0);
        // Not what comes meanwhile: it may be the same messages, refused again.
        let mut pages = self.pages(*self.spool.appended(Queue::SetAside).borrow());
        let meant = self.meant(which).await?;
        while let Some(rows) = pages.next().await? {
            for row in rows.iter().filter(|row| meant.has(row.seq)) {
                match self.put_back(row).await {
                    Ok(true) => done += 1,
                    Ok(false) => left += 1,
                    Err(AppendError::Full) => return Err(NotDone::Full(done)),
                    Err(AppendError::Spool(error)) => return Err(error.into()),
                }
            }
        }
        if left == 0 { Ok(done) } else { Err(NotDone::Unreadable { done, left }) }
    }

    /// False if there is nothing in the row that could be put back.
    async fn put_back(&self, row: &Row) -> Result<bool, AppendError> {
        let Ok(Kept { queue, row: back, .. }) = Kept::decode(&row.data) else { return Ok(false) };
        if back.is_empty() {
            return Ok(false);
        }
        let again = self.spool.append(queue, back, None).await?;
        self.spool.complete(Queue::SetAside, row.seq);
        if let (Queue::Outbound, Some(results)) = (queue, &self.results) {
            // A loop that has ended leaves the row to the next run.
            let _ = results.send(again);
        }
        self.counters.set_aside_retried.add();
        Ok(true)
    }

    /// Drops messages; how many.
    ///
    /// # Errors
    /// [`NotDone`].
    pub async fn drop(&self, which: &Which) -> Result<usize, NotDone> {
        let _one = self.one_at_a_time.lock().await;
        let (mut done, mut pages) = (0, self.pages(*self.spool.appended(Queue::SetAside).borrow()));
        let meant = self.meant(which).await?;
        while let Some(rows) = pages.next().await? {
            for row in rows.iter().filter(|row| meant.has(row.seq)) {
                self.spool.complete(Queue::SetAside, row.seq);
                done += 1;
            }
        }
        self.spool.flush().await?;
        Ok(done)
    }

    /// Which rows are meant. One id may have several: a message is set aside again if it is refused again.
    async fn meant(&self, which: &Which) -> Result<Meant, NotDone> {
        let Which::Ids(ids) = which else { return Ok(Meant::All) };
        if ids.is_empty() {
            return Err(NotDone::NoneNamed);
        }
        let mut found: HashMap<String, bool> = ids.iter().map(|id| (id.to_ascii_uppercase(), false)).collect();
        let (mut seqs, mut pages) = (HashSet::new(), self.pages(u64::MAX));
        while let Some(rows) = pages.next().await? {
            for row in &rows {
                if let Some(found) = found.get_mut(&Told::of(row).id(row.seq)) {
                    *found = true;
                    seqs.insert(row.seq);
                }
            }
        }
        match found.into_iter().find(|(_, found)| !found) {
            Some((id, _)) => Err(NotDone::NoSuchId(shown(&id))),
            None => Ok(Meant::Rows(seqs)),
        }
    }

    /// What is set aside, up to number `last`.
    fn pages(&self, last: u64) -> Pages<'_> {
        Pages { spool: self.spool.as_ref(), after: 0, last }
    }
}

/// Rows of what is set aside, in their order, some at a time.
struct Pages<'a> {
    spool: &'a dyn Store,
    after: u64,
    last: u64,
}

impl Pages<'_> {
    /// The next ones; none at the end.
    async fn next(&mut self) -> Result<Option<Vec<Row>>, SpoolError> {
        if self.after >= self.last {
            return Ok(None);
        }
        let mut rows = self.spool.read_after(Queue::SetAside, self.after, READ_ROWS, READ_BYTES).await?;
        rows.retain(|row| row.seq <= self.last);
        let Some(newest) = rows.last() else { return Ok(None) };
        self.after = newest.seq;
        Ok(Some(rows))
    }
}

enum Meant {
    All,
    Rows(HashSet<u64>),
}

impl Meant {
    fn has(&self, seq: u64) -> bool {
        match self {
            Self::All => true,
            Self::Rows(seqs) => seqs.contains(&seq),
        }
    }
}

fn entry(row: &Row, activity: &Activity) -> Entry {
    let told = Told::of(row);
    let publish = |RefusedPublish { topic, bytes, why }: &RefusedPublish| Publish {
        topic: shown(topic),
        bytes: *bytes,
        // Our own words, and a line for the broker's ACL: not clipped.
        why: harmless(why),
    };
    let (at_ms, refused) = told.kept.as_ref().map_or((None, &[][..]), |kept| (Some(kept.at_ms), &kept.refused));
    Entry {
        id: told.id(row.seq),
        kind: told.kind.to_owned(),
        at: at_ms.map(clock::rfc3339).unwrap_or_default(),
        from: told.from.as_ref().map(|from| shown(from.as_str())),
        refused: refused.iter().map(publish).collect(),
        content: told.content.as_deref().and_then(|content| activity.content(content)),
    }
}

/// What a row tells of its message.
struct Told {
    kept: Option<Kept>,
    id: Option<Ulid>,
    kind: &'static str,
    from: Option<Uid>,
    content: Option<Vec<u8>>,
}

impl Told {
    fn of(row: &Row) -> Self {
        let nothing = |kept| Self { kept, id: None, kind: "unreadable", from: None, content: None };
        let Ok(kept) = Kept::decode(&row.data) else { return nothing(None) };
        if kept.row.is_empty() {
            return Self { kind: "publish", ..nothing(Some(kept)) };
        }
        match kept.queue {
            Queue::Inbound => match inbound::record::Record::decode(&kept.row) {
                Ok(
                    inbound::record::Record::Push { id, body, .. }
                    | inbound::record::Record::PushAgain { id, body, .. },
                ) => {
                    let message = Push::decode(&body).unwrap_or_else(|_| Push::unreadable(&body)).message;
                    let content = message.content().map(|content| content.bytes.clone());
                    let from = message.from_uid().cloned();
                    Self {
                        id: Some(Ulid::from_bytes(id)),
                        kind: message.kind().as_str(),
                        from,
                        content,
                        kept: Some(kept),
                    }
                }
                Ok(inbound::record::Record::States { .. } | inbound::record::Record::StatesAgain { .. }) => {
                    Self { kind: "states", ..nothing(Some(kept)) }
                }
                Err(_) => nothing(Some(kept)),
            },
            _ => match outbound::record::Record::decode(&kept.row) {
                Ok(outbound::record::Record::Result(result)) => {
                    let id = CommandResult::from_json(&result.json).ok().map(|result| result.id);
                    Self { id, kind: "result", content: Some(result.json), ..nothing(Some(kept)) }
                }
                _ => nothing(Some(kept)),
            },
        }
    }

    fn id(&self, seq: u64) -> String {
        self.id.map_or_else(|| format!("ROW-{seq}"), |id| id.to_string())
    }
}

/// For people.
#[must_use]
pub fn text(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "nothing is set aside".to_owned();
    }
    let mut text = String::new();
    for Entry { id, kind, at, from, refused, content } in entries {
        let from = from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{id}  {kind}{from}, set aside {at}");
        for Publish { topic, bytes, why } in refused {
            let _ = writeln!(text, "    {topic}, {bytes} bytes: {why}");
        }
        if let Some(content) = content {
            let _ = writeln!(text, "    {}", content.replace('\n', " "));
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests;
