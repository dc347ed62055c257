//! The gate stands right before every request: behind the token, and again behind its renewal.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;
use crate::cloud::Gate;

/// Counts who passes; shut from the moment it is told.
#[derive(Default)]
struct Counting {
    passed: AtomicU32,
    refused: AtomicU32,
    shut: AtomicBool,
}

impl Gate for Counting {
    type Shut = &'static str;

    async fn pass(&self) -> Result<(), &'static str> {
        if self.shut.load(Ordering::SeqCst) {
            return Err("too late");
        }
        self.passed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn refused(&self) {
        self.refused.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_leaves_through_a_shut_gate() {
    let world = World::registered();
    let running = world.ready().await;
    let gate = Counting { shut: true.into(), ..Counting::default() };
    assert_eq!(running.session.call_through(&gate, &text("413")).await, Err("too late"));
    assert_eq!(world.service.count("send_msg"), 0);
}

#[tokio::test(start_paused = true)]
async fn the_gate_is_asked_again_after_a_renewal() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.next("send_msg", [code(1008)]);
    let gate = Counting::default();
    assert_eq!(replied(&running.session.call_through(&gate, &text("413")).await.unwrap()), 0);
    assert_eq!((gate.passed.into_inner(), world.service.count("send_msg")), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn the_gate_hears_of_a_refusal_before_the_renewal() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.next("send_msg", [code(1008)]);
    world.service.hold("get_access_token");
    let gate = Counting::default();
    let (send, held) = (text("413"), async {
        world.service.held("get_access_token").await;
        assert_eq!((gate.passed.load(Ordering::SeqCst), gate.refused.load(Ordering::SeqCst)), (1, 1));
        world.service.let_go("get_access_token");
    });
    let (called, ()) = tokio::join!(running.session.call_through(&gate, &send), held);
    assert_eq!((replied(&called.unwrap()), gate.refused.into_inner()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_late_after_a_slow_renewal_does_not_leave() {
    let world = World::registered();
    let running = world.ready().await;
    world.service.next("send_msg", [code(1008)]);
    let gate = Counting::default();
    let called = async {
        let called = running.session.call_through(&gate, &text("413")).await;
        assert_eq!(called, Err("too late"));
    };
    let shut = async {
        while gate.passed.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        gate.shut.store(true, Ordering::SeqCst);
    };
    tokio::join!(called, shut);
    assert_eq!((world.service.count("send_msg"), world.service.count("get_access_token")), (1, 2));
}
