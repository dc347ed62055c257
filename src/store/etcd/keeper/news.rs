//! What comes from etcd unasked: rows, whoever appended them, and how much the queues hold.

use std::time::Instant;

use super::super::feed::News;
use super::super::load;
use super::super::rows::number;
use super::super::state::State;
use super::super::wire::Event;
use super::{Heard, Keeper, Stop, View};
use crate::store::types::{Count, PerQueue, Queue};

impl Keeper {
    pub(super) async fn hear(&mut self, news: Heard) -> Result<(), Stop> {
        match news {
            Heard::Estimated => {
                if let View::Estimate(estimate) = &self.view {
                    self.common.state().set_counts(estimate.counts());
                }
            }
            Heard::News(News::Changes(changes)) => self.see(changes),
            Heard::News(News::Missed) => self.look_again().await,
            Heard::News(News::Deposed) => return Err(self.deposed()),
        }
        self.show();
        Ok(())
    }

    fn see(&mut self, changes: Vec<Event>) {
        let mut state = self.common.state();
        let before = *state.counts();
        for event in changes {
            if !event.is_put() || event.kv.version.0 > 1 {
                continue;
            }
            let Some((queue, name)) = load::row_of(&self.keys, &event.kv) else { continue };
            let seq = number(event.kv.create_revision.0, name.place);
            state.seen(queue, seq, name, Some(event.kv.value.0));
            self.seen = self.seen.max(seq);
        }
        drop(state);
        self.have_come(&before);
    }

    /// The watch could not tell everything.
    async fn look_again(&mut self) {
        let mut found = State::new(self.keys.clone());
        let read = load::rows(&self.client, &self.keys, &mut found).await;
        let View::Rows(feed) = &mut self.view else { return };
        let Ok(revision) = read else {
            // It says so again.
            feed.go_on_from(1);
            return;
        };
        feed.go_on_from(revision + 1);
        let mut state = self.common.state();
        let before = *state.counts();
        for queue in Queue::ALL {
            state.catch_up(queue, &found);
        }
        self.seen = self.seen.max(number(revision + 1, 0) - 1);
        drop(state);
        self.have_come(&before);
    }

    /// Rows have come, perhaps: before, the queues held this.
    fn have_come(&mut self, before: &PerQueue<Count>) {
        let counts = *self.common.state().counts();
        self.stale |= Queue::ALL.iter().any(|queue| before.get(*queue).next != counts.get(*queue).next);
        if self.stale {
            self.lazy_since.get_or_insert_with(Instant::now);
        }
        let new = self.common.shared.count(&counts);
        // Whoever appended a row knows its number before anybody can read and complete it.
        self.answer_seen();
        self.common.shared.wake(&new);
    }
}
