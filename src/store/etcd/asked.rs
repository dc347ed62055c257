//! What a handle asks of its keeper: what every store can do, and what is done with tokens.

use super::tokens::TokenOp;
use crate::store::request::Op;
use crate::store::types::{Queue, SpoolError};

/// Something to make durable, and who waits for it.
#[derive(Debug)]
pub(super) enum Asked {
    Plain(Op),
    Token(TokenOp),
}

impl From<Op> for Asked {
    fn from(op: Op) -> Self {
        Self::Plain(op)
    }
}

impl From<TokenOp> for Asked {
    fn from(op: TokenOp) -> Self {
        Self::Token(op)
    }
}

impl Asked {
    /// About how many bytes it brings into a transaction.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Plain(op) => op.weight(),
            Self::Token(op) => op.weight(),
        }
    }

    /// Whether it adds a row to the queue to iLink.
    pub(super) fn goes_to_ilink(&self) -> bool {
        matches!(self, Self::Plain(op) if op.adds().is_some_and(|(queue, _)| queue == Queue::Outbound))
    }

    /// It was not stored.
    pub(super) fn refused(self, error: SpoolError) {
        match self {
            Self::Plain(op) => op.refused(error),
            Self::Token(op) => op.refused(error),
        }
    }
}
