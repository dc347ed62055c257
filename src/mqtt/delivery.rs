//! The outcome of a publication, and what a PUBACK says.

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The broker has it.
    Acked {
        /// The broker said that nobody subscribes to the topic.
        no_subscribers: bool,
    },
    /// The broker will never take it: set it aside.
    Refused(Refusal),
    /// The broker does not take it now. The caller decides when to try again and what has to wait for it.
    ForNow(ForNow),
    /// Its caller withdrew it before it was sent on this connection. An earlier connection may have delivered it.
    Withdrawn,
    /// Its deadline passed before it was acknowledged.
    Expired,
    /// The link has stopped; whether the broker has it is unknown.
    Closed,
}

/// Why a publication was refused for good, in words for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

/// Why a publication was not taken for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForNow {
    /// In words for an operator.
    pub cause: String,
    /// For programs.
    pub how: NotNow,
}

/// In which way the broker refused something for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNow {
    /// It said that a quota is exceeded.
    Busy,
    /// It gave another reason that may pass.
    Refused,
    /// It ended the connection while this publication alone was in flight.
    Fatal,
}

impl NotNow {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Busy, Self::Refused, Self::Fatal];

    /// Its name in `bridge/health` and the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Refused => "refused_for_now",
            Self::Fatal => "ends_connection",
        }
    }
}

/// What a PUBACK says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    Done {
        no_subscribers: bool,
    },
    NotAuthorized,
    TopicInvalid,
    PayloadInvalid,
    /// The broker takes no message of this size.
    TooLarge,
    /// The broker as a whole takes no more for now.
    QuotaExceeded,
    /// The broker could not take this publication; it may take it another time.
    Failed(&'static str),
}
