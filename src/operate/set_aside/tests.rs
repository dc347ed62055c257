//! The desk, on a store of its own.

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::delivery::Part;
use crate::inbound::record::Record;
use crate::local::Publication;
use crate::mqtt::Refusal;
use crate::store::sqlite::Spool;
use crate::store::{Append as _, Limits};

const LIMITS: Limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };

struct Room {
    spool: Arc<Spool>,
    desk: Desk,
    dir: TempDir,
}

impl Room {
    fn new(limits: Limits, activity: Activity) -> Self {
        let dir = TempDir::new().unwrap();
        let (spool, _) = Spool::open(dir.path(), limits).unwrap();
        let counters = Counters { activity, ..Counters::default() };
        let desk = Desk::new(spool.clone(), Arc::new(counters), None);
        Self { spool, desk, dir }
    }

    /// Sets a text of this sender aside, whose raw publish was refused; its id.
    async fn keep(&self, from: &str, text: &str) -> String {
        let content = crate::protocol::content::encode(text.as_bytes());
        let body = format!(r#"{{"to_uid":"414","from_uid":"{from}","msg_type":1,"content":"{content}"}}"#);
        let record = Record::push(Bytes::from(body));
        let Record::Push { id, .. } = &record else { panic!() };
        let id = Ulid::from_bytes(*id).to_string();
        let publication = Publication::raw(format!("ilink/recv/user/{from}/text"), text.to_owned());
        let part = Part::plain(publication);
        let row = record.again(&[&part]).encode();
        let refusal = Refusal { reason: "not authorized".to_owned(), remedy: "add a line".to_owned() };
        self.keep_row(&Kept::new(Queue::Inbound, &[(part, refusal)], row.into())).await;
        id
    }

    async fn keep_row(&self, kept: &Kept) {
        let row = crate::delivery::codec::encode(kept);
        self.spool.append(Queue::SetAside, row.into(), None).await.unwrap();
    }

    /// The ids in the inbound queue, in its order.
    async fn queued(&self) -> Vec<String> {
        queued(&*self.spool).await
    }

    async fn listed(&self) -> Vec<String> {
        self.desk.list().await.unwrap().into_iter().map(|entry| entry.id).collect()
    }
}

async fn queued(spool: &dyn Store) -> Vec<String> {
    let rows = spool.read_after(Queue::Inbound, 0, 1000, 1 << 20).await.unwrap();
    let id = |row: Row| match Record::decode(&row.data).unwrap() {
        Record::PushAgain { id, .. } => Ulid::from_bytes(id).to_string(),
        other => panic!("{other:?}"),
    };
    rows.into_iter().map(id).collect()
}

fn ids(ids: &[&String]) -> Which {
    Which::Ids(ids.iter().map(|id| (*id).clone()).collect())
}

#[tokio::test]
async fn what_is_listed_says_who_what_and_why_and_no_content() {
    let room = Room::new(LIMITS, Activity::new(false));
    let id = room.keep("413", "a private word").await;
    let list = room.desk.list().await.unwrap();
    let [entry] = &list[..] else { panic!("{list:?}") };
    assert_eq!((&entry.id, &*entry.kind, entry.from.as_deref()), (&id, "text", Some("413")));
    let [Publish { topic, bytes: 14, why }] = &entry.refused[..] else { panic!("{entry:?}") };
    assert_eq!((&**topic, &**why), ("ilink/recv/user/413/text", "not authorized; add a line"));
    assert!(!serde_json::to_string(&list).unwrap().contains("private") && !text(&list).contains("private"));

    let open = Room::new(LIMITS, Activity::new(true));
    open.keep("413", "a private word").await;
    assert!(text(&open.desk.list().await.unwrap()).contains("a private word"));
    assert_eq!(text(&[]), "nothing is set aside");
}

#[tokio::test]
async fn messages_go_back_in_their_order_and_once() {
    let room = Room::new(LIMITS, Activity::default());
    let mut all = Vec::new();
    for n in 0..600 {
        all.push(room.keep("413", &n.to_string()).await);
    }
    // Chosen in whatever order and case: in theirs.
    let chosen = Which::Ids(vec![all[7].to_lowercase(), all[3].clone(), all[7].clone()]);
    assert_eq!(room.desk.retry(&chosen).await, Ok(2));
    assert_eq!(room.queued().await, [all[3].clone(), all[7].clone()]);
    assert_eq!(room.desk.drop(&ids(&[&all[0]])).await, Ok(1));
    let left: Vec<_> = all.iter().enumerate().filter(|(n, _)| ![0, 3, 7].contains(n)).map(|(_, id)| id).collect();
    assert_eq!(room.listed().await.iter().collect::<Vec<_>>(), left);
    assert_eq!(room.desk.retry(&Which::All).await, Ok(597));
    assert_eq!(room.queued().await.iter().skip(2).collect::<Vec<_>>(), left);
    assert_eq!(room.desk.retry(&Which::All).await, Ok(0));
    assert!(room.listed().await.is_empty());
    assert_eq!(room.desk.counters.set_aside_retried.get(), 599);
}

#[tokio::test]
async fn an_unknown_id_moves_nothing() {
    let room = Room::new(LIMITS, Activity::default());
    let id = room.keep("413", "x").await;
    let unknown = "01UNKNOWN".to_owned();
    let no = Err(NotDone::NoSuchId(unknown.clone()));
    assert_eq!(room.desk.retry(&ids(&[&id, &unknown])).await, no);
    assert_eq!(room.desk.drop(&ids(&[&id, &unknown])).await, no);
    assert_eq!(room.desk.retry(&Which::Ids(Vec::new())).await, Err(NotDone::NoneNamed));
    assert_eq!(room.listed().await, [id]);
    assert!(room.queued().await.is_empty());
}

#[tokio::test]
async fn a_full_queue_leaves_the_rest_where_it_is() {
    let room = Room::new(Limits { inbound: 500, ..LIMITS }, Activity::default());
    let mut all = Vec::new();
    for n in 0..10 {
        all.push(room.keep("413", &n.to_string()).await);
    }
    let Err(NotDone::Full(done)) = room.desk.retry(&Which::All).await else { panic!() };
    assert!((1..10).contains(&done), "{done}");
    assert_eq!(room.queued().await, all[..done]);
    assert_eq!(room.listed().await, all[done..]);
}

#[tokio::test]
async fn what_cannot_be_read_stays_until_it_is_dropped() {
    let room = Room::new(LIMITS, Activity::default());
    room.spool.append(Queue::SetAside, Bytes::from_static(b"of another version"), None).await.unwrap();
    room.keep_row(&Kept::new(Queue::Outbound, &[], Bytes::new())).await;
    let id = room.keep("413", "x").await;
    assert_eq!(room.desk.retry(&Which::All).await, Err(NotDone::Unreadable { done: 1, left: 2 }));
    assert_eq!(room.queued().await, [id]);
    assert_eq!(room.listed().await, ["ROW-1", "ROW-2"]);
    assert_eq!(room.desk.drop(&Which::Ids(vec!["row-1".to_owned()])).await, Ok(1));
    assert_eq!(room.listed().await, ["ROW-2"]);
}

#[tokio::test]
async fn a_crash_on_the_way_back_makes_a_copy_at_most() {
    let room = Room::new(LIMITS, Activity::default());
    let mut all = Vec::new();
    for n in 0..20 {
        all.push(room.keep("413", &n.to_string()).await);
    }
    assert_eq!(room.desk.retry(&Which::All).await, Ok(20));
    // What the disk has without what is still lazy: the log first, a checkpoint between the two then does no harm.
    let copy = TempDir::new().unwrap();
    for name in ["spool.db-wal", "spool.db"] {
        std::fs::copy(room.dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let (after, _) = Spool::open(copy.path(), LIMITS).unwrap();
    assert_eq!(queued(&*after).await, all, "appended before anything is completed");
    let desk = Desk::new(after.clone(), Arc::default(), None);
    let left = desk.list().await.unwrap();
    assert!(left.iter().all(|entry| all.contains(&entry.id)), "{left:?}");
}

#[tokio::test]
async fn what_was_put_back_or_dropped_is_so_also_if_the_bridge_is_killed() {
    let room = Room::new(LIMITS, Activity::new(false));
    room.spool.simulate();
    let (first, second) = (room.keep("1", "a").await, room.keep("1", "b").await);
    let third = room.keep("1", "c").await;
    assert_eq!(room.desk.retry(&ids(&[&first])).await, Ok(1));
    room.spool.lose_lazy();
    assert_eq!(room.queued().await, [first]);
    assert_eq!(room.listed().await, [second.clone(), third.clone()]);
    assert_eq!(room.desk.drop(&ids(&[&second])).await, Ok(1));
    room.spool.lose_lazy();
    assert_eq!(room.listed().await, [third]);
}
