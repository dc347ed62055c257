//! Answers: in the order of the rows, and none is lost with a row that is given up.

use std::sync::Mutex;

use super::*;
use crate::delivery::refused::AllBusy;
use crate::delivery::routing::RouteState;
use crate::local::Publication;
use crate::mqtt::NotNow;
use crate::observe::counters::Counters;
use crate::protocol::Call;
use crate::store::Limits;
use crate::store::sqlite::Spool;

#[derive(Default)]
struct NoMemo;

impl Memo for NoMemo {
    fn settle(&mut self, _: Vec<Part>, _: bool) {}
    fn unsettle(&mut self) {}
}

/// An owner that takes its time for the first answer.
struct Slow {
    spool: Arc<dyn Store>,
    set_aside: SetAside,
    busy: BusyBoard,
    answered: Mutex<Vec<u8>>,
    lost: Mutex<Vec<u64>>,
}

impl Owner for Slow {
    const QUEUE: Queue = Queue::Inbound;
    type Lane = u8;
    type Row = u8;
    type Memo = NoMemo;
    type Done = ();

    fn decode(&self, _: &Stored) -> Option<u8> {
        None
    }
    fn lane(row: &u8) -> u8 {
        *row
    }
    fn done(&self, _: u8, _: bool) {}
    fn answer(&self, reply: Reply) -> BoxFuture<'_, bool> {
        async move {
            let [number, ..] = reply.id;
            if number == 1 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            self.answered.lock().unwrap().push(number);
            true
        }
        .boxed()
    }
    fn completed(&self, _: u64, (): ()) {}
    fn lost(&self, seq: u64) {
        self.lost.lock().unwrap().push(seq);
    }
    fn again(&self, _: &[u8], _: &[&Part]) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
    fn spool(&self) -> &Arc<dyn Store> {
        &self.spool
    }
    fn publisher(&self) -> &Publisher {
        unreachable!("nothing is published here")
    }
    fn set_aside(&self) -> &SetAside {
        &self.set_aside
    }
    fn busy(&self) -> &BusyBoard {
        &self.busy
    }
}

fn courier(dir: &tempfile::TempDir, patience: Patience) -> Courier<Slow> {
    let (spool, _) =
        Spool::open(dir.path(), Limits { inbound: 1 << 20, outbound: 1 << 20, set_aside: 1 << 20 }).unwrap();
    let set_aside = SetAside::new(spool.clone(), Arc::new(Counters::default()));
    let (busy, _) = tokio::sync::watch::channel(AllBusy::new());
    let busy = BusyBoard::new("messages", Arc::new(busy));
    let owner = Slow { spool, set_aside, busy, answered: Mutex::default(), lost: Mutex::default() };
    Courier::new(Arc::new(owner), patience, 100, 1 << 20)
}

fn reply(number: u8) -> Reply {
    let call = Call::SendText { to: "413".parse().unwrap(), content: vec![number] };
    Reply { id: [number; 16], recv: "user/413/text".to_owned(), call, route: Arc::new(RouteState::default()) }
}

fn refused() -> Vec<(Part, Refusal)> {
    let part = Part::plain(Publication::raw("out/x".to_owned(), "x"));
    vec![(part, Refusal { reason: "no".to_owned(), remedy: String::new() })]
}

#[tokio::test]
async fn answers_are_stored_in_the_order_of_their_rows() {
    let dir = tempfile::tempdir().unwrap();
    let mut courier = courier(&dir, Patience::default());
    for (seq, refused, replies) in
        [(1, refused(), vec![reply(1), reply(2)]), (2, Vec::new(), vec![reply(3)]), (3, Vec::new(), vec![reply(4)])]
    {
        courier.complete(seq, Done { row: (), refused, replies });
    }
    courier.drain().await;
    assert_eq!(*courier.owner.answered.lock().unwrap(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn what_the_broker_took_of_a_row_is_answered_though_the_row_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let at_once = Patience { rest_min: Duration::ZERO, rest_max: Duration::ZERO, blame_after: Duration::ZERO };
    let mut courier = courier(&dir, at_once);
    let why = ForNow { cause: "busy".to_owned(), how: NotNow::Busy };
    let mut ticket = courier.lanes.arrive(&1, 1);
    for seq in 2..50 {
        let taken = Part { reply: Some(Box::new(reply(7))), ..Part::plain(Publication::raw("out/y".to_owned(), "y")) };
        let left = vec![Part::plain(Publication::raw("out/x".to_owned(), "x"))];
        let settled = Settled::ForNow { taken: vec![taken], left, why: why.clone() };
        let Some(failed) = ticket else { break };
        courier.ended(Ended { ticket: failed, row: 1, size: 0, settled });
        // Another's message is taken meanwhile, by which the row is to blame.
        let other = courier.lanes.arrive(&2, seq).unwrap();
        let settled = Settled::All { refused: Vec::new(), acked: true, replies: Vec::new() };
        courier.ended(Ended { ticket: other, row: 2, size: 0, settled });
        ticket = courier.lanes.next(clock::boot_now() + Duration::from_secs(1));
    }
    assert!(!courier.keeping.is_empty(), "it is given up");
    courier.drain().await;
    assert_eq!(*courier.owner.answered.lock().unwrap(), [7]);
}

#[tokio::test]
async fn the_owner_is_told_of_a_row_that_is_gone_when_it_is_to_be_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let at_once = Patience { rest_min: Duration::ZERO, rest_max: Duration::ZERO, ..Patience::default() };
    let mut courier = courier(&dir, at_once);
    let ticket = courier.lanes.arrive(&1, 7).unwrap();
    let why = ForNow { cause: "busy".to_owned(), how: NotNow::Busy };
    let left = vec![Part::plain(Publication::raw("out/x".to_owned(), "x"))];
    courier.ended(Ended { ticket, row: 1, size: 0, settled: Settled::ForNow { taken: Vec::new(), left, why } });
    assert!(courier.go_on(|_, _, _| Vec::new(), &CancellationToken::new()).await.unwrap());
    assert_eq!(*courier.owner.lost.lock().unwrap(), [7]);
}
