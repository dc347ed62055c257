//! The search for what is too large for etcd, among what went together: fewer go at once, until it is alone.
//!
//! What is lazy may be at fault, too, so it goes before, by itself. More of it comes all the time: the rest is suspected, and not
//! what has come since, unless that is the larger part of what goes with a suspect that is alone.

use super::super::compose::Flight;

/// Who is suspected.
#[derive(Default)]
pub(super) struct Search {
    /// So many go once what is lazy has gone.
    then: Option<usize>,
    /// What is lazy has just gone by itself.
    lazies_went: bool,
}

/// What is to be done about a transaction that was too large.
pub(super) enum Next {
    /// At most so many of those that it carried go with the next one.
    Fewer(usize),
    /// It is found.
    Refuse,
}

impl Search {
    /// A transaction for at most so many goes. If what is lazy leaves no room for them, they go next.
    pub(super) fn goes(&mut self, most: usize, flight: &Flight) {
        if flight.carries() == 0 && most > 0 && most < usize::MAX {
            self.then = Some(most);
        }
    }

    /// A transaction was stored. How many may go next, if not all.
    pub(super) fn stored(&mut self, flight: &Flight) -> Option<usize> {
        let then = self.then.take().filter(|_| flight.carries() == 0);
        self.lazies_went = then.is_some();
        then
    }

    /// A transaction was too large.
    pub(super) fn too_large(&mut self, flight: &Flight) -> Next {
        let carried = flight.carries();
        let lazies_went = std::mem::take(&mut self.lazies_went);
        let lazies_first = flight.lazy && (!lazies_went || carried == 1 && flight.mostly_lazy);
        self.then = lazies_first.then_some(carried);
        match carried {
            _ if lazies_first => Next::Fewer(0),
            1 => Next::Refuse,
            _ => Next::Fewer(carried / 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ulid::Ulid;

    use super::super::super::tokens::TokenOp;
    use super::*;

    fn flight(carries: u8, mostly_lazy: bool) -> Flight {
        let tokens = (0..carries).map(|n| (Instant::now(), TokenOp::End { name: [n; 32], version: 1 }, None));
        Flight {
            transaction: Ulid::nil(),
            ops: Vec::new(),
            tokens: tokens.collect(),
            lazy: true,
            mostly_lazy,
            refused: false,
        }
    }

    #[test]
    fn what_is_small_is_not_refused_for_what_is_lazy_and_has_come_since() {
        let mut search = Search::default();
        for mostly_lazy in [false, true, true] {
            assert!(matches!(search.too_large(&flight(1, mostly_lazy)), Next::Fewer(0)));
            assert_eq!(search.stored(&flight(0, true)), Some(1));
        }
        assert!(matches!(search.too_large(&flight(1, false)), Next::Refuse));
    }
}
