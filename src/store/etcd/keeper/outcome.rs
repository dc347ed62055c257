//! What has become of a transaction: who is answered, and what is tried again. Rows to iLink keep their order also where etcd
//! refuses one of them for now: whoever asked for it asks again, and what came behind it must not be there before.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::super::commit::{Committer, NotDone};
use super::super::compose::{Flight, Place, Waiter};
use super::super::error::EtcdError;
use super::super::rows::number;
use super::super::tokens::{Asked, ENOUGH, TokenOp, Verdict};
use super::search::Next;
use super::{Aboard, Behind, Keeper, RETRY_EVERY, Refused, Stop, View};
use crate::os::clock::boot_now;
use crate::store::request::{New, Op};
use crate::store::shared::add;
use crate::store::types::{Queue, SpoolError};

/// Who was refused knows it after so long, and lets nobody pass who comes later. To ask again takes twice as long.
const KNOWN_AFTER: Duration = Duration::from_millis(50);

impl Keeper {
    pub(super) fn landed(&mut self, committer: Committer, outcome: Result<u64, NotDone>) -> Result<(), Stop> {
        self.committer = Some(committer);
        let Some((_, aboard)) = self.going.take() else { return Ok(()) };
        match (outcome, aboard) {
            (Ok(revision), Aboard::Rows(flight)) => self.stored(revision, flight),
            (Ok(_), Aboard::Removals) => {
                self.common.state().landed();
                self.set_removals_failed(false);
            }
            (Ok(_), Aboard::Probe) => self.accept_again(),
            (Err(NotDone::Refused(cause)), Aboard::Rows(flight)) => self.turned_back(&cause, flight),
            (Err(NotDone::Tokens(verdicts)), Aboard::Rows(flight)) => self.known(flight, verdicts),
            (Err(NotDone::Late), Aboard::Rows(flight)) => {
                let verdicts = flight.tokens.iter().map(|_| Ok(())).collect();
                self.known(flight, verdicts);
            }
            // These carry no tokens.
            (Err(NotDone::Tokens(_) | NotDone::Late), Aboard::Removals | Aboard::Probe) => {}
            (Err(NotDone::Refused(cause)), Aboard::Removals) => {
                self.common.state().lazies.turned_back();
                self.refuse(cause);
                self.set_removals_failed(true);
            }
            (Err(NotDone::Refused(cause)), Aboard::Probe) => {
                self.refuse(cause);
                self.set_removals_failed(false);
            }
            (Err(NotDone::Deposed), _) => return Err(self.deposed()),
            (Err(NotDone::Fatal(cause)), _) => {
                error!(cause, "nothing more can be stored in etcd");
                self.common.shared.fail(cause);
                return Err(Stop);
            }
        }
        self.show();
        Ok(())
    }

    fn stored(&mut self, revision: u64, flight: Flight) {
        self.alone = self.search.stored(&flight);
        let shared = &self.common.shared;
        let durable = !flight.ops.is_empty() || !flight.tokens.is_empty();
        if durable {
            add(&shared.commits_synced, 1);
        } else if flight.lazy {
            add(&shared.commits_lazy, 1);
        }
        let mut adds = false;
        let mut rows = Vec::new();
        let mut state = self.common.state();
        state.landed();
        let mut answers = Vec::new();
        for (_, op, place) in flight.ops {
            match place {
                Place::Row(queue, place) => {
                    if let Op::Append(New { key: Some(key), .. }, _) = &op
                        && key.connection >= self.session_began
                    {
                        state.redeliveries.insert(key.pkid, key.digest);
                        state.lazies.forget(&self.keys.redelivery(key.pkid));
                    }
                    adds |= queue != Queue::SetAside;
                    rows.push((number(revision, place), op));
                }
                Place::Replaced(queue, seq, size) => {
                    if state.is_there(queue, seq) {
                        state.replaced(queue, seq, size);
                    }
                    answers.push(op);
                }
                Place::SessionForgotten => {
                    state.redeliveries.clear();
                    answers.push(op);
                }
                Place::Flushed => answers.push(op),
            }
        }
        let with_tokens = flight.tokens.iter().filter(|(.., row)| row.is_some());
        let with_tokens: Vec<_> = with_tokens.map(|(_, op, _)| (Queue::Inbound, op.size())).collect();
        adds |= !with_tokens.is_empty();
        if let View::Estimate(estimate) = &mut self.view {
            let sizes: Vec<_> = rows.iter().filter_map(|(_, op)| op.adds()).chain(with_tokens).collect();
            if !sizes.is_empty() {
                estimate.appended(revision, sizes.into_iter());
            }
            state.not_coming(flight.transaction);
            state.set_counts(estimate.counts());
        }
        drop(state);
        if adds && (self.refused.is_some() || !self.told.is_empty()) {
            self.accept_again();
        }
        for op in answers {
            op.stored(0);
        }
        for (_, op, row) in flight.tokens {
            op.done(revision, row);
        }
        match self.view {
            View::Estimate(_) => {
                for (number, op) in rows {
                    op.stored(number);
                }
            }
            View::Rows(_) => {
                self.unseen.extend(rows);
                self.answer_seen();
            }
        }
    }

    /// Who waits for a row that has been seen is answered: all that came before it have been seen, too.
    pub(super) fn answer_seen(&mut self) {
        while self.unseen.front().is_some_and(|(number, _)| *number <= self.seen) {
            if let Some((number, op)) = self.unseen.pop_front() {
                op.stored(number);
            }
        }
    }

    /// Some tokens were not as they were thought to be, or something's time was over, and nothing was carried out. Everything else
    /// goes again.
    fn known(&mut self, flight: Flight, verdicts: Vec<Verdict>) {
        self.take_back(&flight);
        let mut again: Vec<_> =
            flight.ops.into_iter().map(|(since, op, _)| Waiter { since, asked: op.into() }).collect();
        for ((since, op, _), verdict) in flight.tokens.into_iter().zip(verdicts) {
            match verdict {
                Ok(()) => again.push(Waiter { since, asked: op.into() }),
                Err(there) => op.known(there),
            }
        }
        self.alone = (!again.is_empty()).then_some(again.len());
        for waiter in again.into_iter().rev() {
            self.waiting.push_front(waiter);
        }
        if !self.common.state().lazies.is_empty() {
            self.lazy_since.get_or_insert_with(Instant::now);
        }
    }

    fn take_back(&mut self, flight: &Flight) {
        let mut state = self.common.state();
        state.lazies.turned_back();
        state.not_coming(flight.transaction);
        drop(state);
        self.stale = matches!(self.view, View::Rows(_));
    }

    fn turned_back(&mut self, cause: &EtcdError, flight: Flight) {
        self.take_back(&flight);
        if *cause == EtcdError::TooLarge && flight.carries() > 0 && self.refused.is_none() {
            return self.too_large(cause, flight);
        }
        let (adding, rest): (Vec<_>, Vec<_>) =
            flight.ops.into_iter().partition(|(.., place)| matches!(place, Place::Row(..)));
        if adding.iter().any(|(.., place)| matches!(place, Place::Row(Queue::Outbound, _))) {
            self.passed_over(cause);
        }
        // Results may still fit where new rows do not: once more without those.
        let again = *cause == EtcdError::NoSpace && !adding.is_empty();
        self.refuse(cause.clone());
        let (refused, again) =
            if again { (adding, rest) } else { (adding.into_iter().chain(rest).collect(), Vec::new()) };
        for (since, op, _) in again.into_iter().rev() {
            self.waiting.push_front(Waiter { since, asked: op.into() });
        }
        for (_, op, _) in refused {
            op.refused(SpoolError::Unwritable(cause.to_string()));
        }
        for (_, op, _) in flight.tokens {
            self.refuse_asked(op.into(), SpoolError::Unwritable(cause.to_string()));
        }
    }

    /// One is at fault, and always will be: it is looked for by sending fewer.
    fn too_large(&mut self, cause: &EtcdError, flight: Flight) {
        let next = self.search.too_large(&flight);
        let ops = flight.ops.into_iter().map(|(since, op, _)| Waiter { since, asked: op.into() });
        let tokens = flight.tokens.into_iter().map(|(since, op, _)| Waiter { since, asked: op.into() });
        let all: Vec<_> = ops.chain(tokens).collect();
        match next {
            Next::Refuse => {
                for waiter in all {
                    waiter.asked.refused(SpoolError::TooLarge(cause.to_string()));
                }
                self.show();
            }
            Next::Fewer(most) => {
                self.alone = Some(most);
                for waiter in all.into_iter().rev() {
                    self.waiting.push_front(waiter);
                }
            }
        }
    }

    /// Tokens that may soon be in another's hand are not removed, but emptied if they are not: once etcd takes something.
    pub(super) fn end_late_tokens(&mut self) {
        let late = self.common.state().late_ends(boot_now() + ENOUGH);
        self.late_ends.extend(late);
        if self.refused.is_none() {
            let ends = self.late_ends.drain(..).map(|(name, version)| Asked::Token(TokenOp::End { name, version }));
            self.waiting.extend(ends.map(|asked| Waiter { since: Instant::now(), asked }));
        }
    }

    /// Who asked for something is told that it was not done; the end of a token, of which nobody is told, is tried again.
    pub(super) fn refuse_asked(&mut self, asked: Asked, error: SpoolError) {
        match asked {
            Asked::Token(TokenOp::End { name, version }) => self.late_ends.push((name, version)),
            asked => asked.refused(error),
        }
    }

    fn refuse(&mut self, cause: EtcdError) {
        self.warn(&cause);
        let removals_failed = self.refused.as_ref().is_some_and(|refused| refused.removals_failed);
        self.refused = Some(Refused { cause, again: Instant::now() + RETRY_EVERY, removals_failed });
        self.show();
    }

    fn set_removals_failed(&mut self, failed: bool) {
        if let Some(refused) = &mut self.refused {
            refused.removals_failed = failed;
        }
    }

    /// Tells the operator, once for each cause until rows are stored again.
    pub(super) fn warn(&mut self, cause: &EtcdError) {
        let cause = cause.to_string();
        if !self.told.contains(&cause) {
            warn!(cause, "etcd does not take what is to be stored; trying again");
            self.told.push(cause);
        }
    }

    fn accept_again(&mut self) {
        self.refused = None;
        self.told.clear();
        if !self.common.state().lazies.is_empty() {
            self.lazy_since.get_or_insert_with(Instant::now);
        }
        self.show();
        info!("etcd takes what is to be stored again");
    }

    /// A row to iLink is refused for this cause, and will be asked for again, unless only an operator can help.
    pub(super) fn passed_over(&mut self, cause: &EtcdError) {
        if *cause != EtcdError::NoSpace {
            self.behind = Some(Behind { cause: cause.to_string(), since: Instant::now() });
        }
    }

    /// Refuses the rows to iLink that are behind a refused one: those that wait, and those that come while etcd is in trouble.
    pub(super) fn turn_away(&mut self) {
        let Some(Behind { cause, since }) = &self.behind else { return };
        let refuses = self.refused.as_ref().is_some_and(|refused| refused.cause != EtcdError::NoSpace);
        if !refuses && self.trouble.borrow().is_none() && since.elapsed() >= KNOWN_AFTER {
            self.behind = None;
            return;
        }
        let (behind, others): (VecDeque<_>, _) =
            self.waiting.drain(..).partition(|waiter| waiter.asked.goes_to_ilink());
        self.waiting = others;
        for waiter in behind {
            waiter.asked.refused(SpoolError::Unwritable(cause.clone()));
        }
    }
}
