use super::*;
use crate::store::Limits;
use crate::store::sqlite::Spool;

struct Tested {
    book: PresenceBook,
    spool: Arc<dyn Store>,
    _dir: tempfile::TempDir,
}

async fn open(configured: &[&str]) -> Tested {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
    let (spool, _) = Spool::open(dir.path(), limits).unwrap();
    let configured = configured.iter().map(|uid| uid.parse().unwrap()).collect();
    Tested { book: PresenceBook::open(spool.clone(), configured).await.unwrap(), spool, _dir: dir }
}

fn uid(name: &str) -> Uid {
    name.parse().unwrap()
}

#[tokio::test]
async fn an_older_push_is_no_news_and_a_later_row_is_newer() {
    let mut book = open(&[]).await.book;
    let ann = uid("ann");
    let now = seconds_now();
    assert!(book.note(&ann, true, Some(now), 1));
    assert!(!book.note(&ann, false, Some(now - 1), 2));
    assert!(book.note(&ann, false, Some(now), 3), "within one second the later row is newer");
    assert!(book.note(&ann, true, None, 5), "a state that was read is as of now");
    assert!(!book.note(&ann, false, Some(now), 4), "a row that had to wait overwrites nothing that came after it");
    assert_eq!(book.all().collect::<Vec<_>>(), [(&ann, true)]);
}

#[tokio::test]
async fn a_time_far_in_the_future_counts_as_now_and_freezes_nobody() {
    let mut tested = open(&[]).await;
    let (ann, bob) = (uid("ann"), uid("bob"));
    let now = seconds_now();
    assert!(tested.book.note(&ann, true, Some(now + 10 * AHEAD_MOST), 1));
    assert!(tested.book.note(&ann, false, Some(now + 1), 2));
    // Within a day it is believed.
    assert!(tested.book.note(&bob, true, Some(now + 3600), 3));
    assert!(!tested.book.note(&bob, false, Some(now), 4));
    // What an earlier version noted.
    let frozen = Known { time: Some(i64::MAX), online: true, configured: false };
    tested.spool.put_note("presence/eve", postcard::to_stdvec(&frozen).unwrap());
    let mut book = PresenceBook::open(tested.spool.clone(), HashSet::new()).await.unwrap();
    assert!(book.note(&uid("eve"), false, Some(now - 5), 5));
}

#[tokio::test]
async fn the_book_is_bounded_and_who_is_configured_or_lately_heard_of_stays() {
    let mut tested = open(&["home"]).await;
    let now = seconds_now();
    assert!(tested.book.note(&uid("home"), true, Some(now - 2 * LONG), 1));
    assert!(tested.book.note(&uid("old"), true, Some(now - LONG - 1), 2));
    assert!(tested.book.note(&uid("young"), true, Some(now - LONG + 60), 3));
    let day = LOOK_EVERY;
    assert_eq!(tested.book.prune(day), [uid("old")]);
    assert!(tested.book.is_dropped(&uid("old")) && !tested.book.is_dropped(&uid("young")));
    assert!(tested.book.prune(day * 2).is_empty(), "it is being cleared already");
    // Heard of again before its topic was cleared.
    assert!(tested.book.note(&uid("old"), true, Some(now), 4));
    assert!(!tested.book.forget_dropped(&uid("old")));
    for n in 0..=i64::try_from(MOST + SLACK).unwrap() {
        let _ = tested.book.note(&uid(&format!("n{n}")), true, Some(now - 100_000 + n), 5);
    }
    let pruned = tested.book.prune(day * 2);
    // Besides these many there are `old` and `young`, and that is the one heard of longest ago.
    assert_eq!(pruned.len(), SLACK + 3);
    assert_eq!(pruned[..2], [uid("young"), uid("n0")]);
    for uid in &pruned {
        assert!(tested.book.forget_dropped(uid));
    }
    assert_eq!(tested.book.all().count(), MOST + 1);
    assert_eq!(tested.spool.notes(PREFIX).await.unwrap().len(), MOST + 1);
    assert!(tested.book.all().any(|(known, _)| *known == uid("home")));
}

#[tokio::test]
async fn what_was_stored_before_a_contact_was_dropped_does_not_bring_its_presence_back() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
    let (spool, _) = Spool::open(dir.path(), limits).unwrap();
    let (ann, bob): (Uid, Uid) = ("ann".parse().unwrap(), "bob".parse().unwrap());
    let both = HashSet::from([ann.clone(), bob.clone()]);
    let mut book = PresenceBook::open(spool, both.clone()).await.unwrap();
    assert!(book.note(&ann, true, Some(1), 1));
    assert_eq!(book.reconfigure(HashSet::new(), 5), std::slice::from_ref(&ann));
    // One that waited comes before the broker has acknowledged the clearing, one afterwards.
    assert!(!book.note(&ann, false, Some(2), 4));
    assert!(book.forget_dropped(&ann));
    assert!(!book.note(&ann, false, Some(2), 5));
    // Nothing had been published of this one yet.
    assert!(!book.note(&bob, true, None, 5));
    assert_eq!(book.all().count(), 0);
    // Later ones are news; and whoever is configured again is as before.
    assert!(book.note(&bob, true, Some(2), 6));
    assert!(book.reconfigure(both, 7).is_empty());
    assert!(book.note(&ann, true, None, 3));
}

#[tokio::test]
async fn a_clear_that_something_newer_overtook_is_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 };
    let (spool, _) = Spool::open(dir.path(), limits).unwrap();
    let ann: Uid = "ann".parse().unwrap();
    let mut book = PresenceBook::open(spool, HashSet::from([ann.clone()])).await.unwrap();
    assert!(book.note(&ann, true, Some(1), 1));
    assert_eq!(book.reconfigure(HashSet::new(), 1), std::slice::from_ref(&ann));
    // Published between the clearing and its acknowledgement: nothing may be forgotten yet.
    assert!(book.note(&ann, false, Some(2), 2));
    assert!(!book.forget_dropped(&ann) && book.is_dropped(&ann));
    book.dropped.insert(ann.clone());
    assert!(book.forget_dropped(&ann) && !book.is_dropped(&ann));
    assert_eq!(book.all().count(), 0);
}
