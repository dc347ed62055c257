//! What becomes of a publication, and what the broker says of it.

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The broker has it.
    Acked {
        /// It says that nobody subscribes to the topic.
        no_subscribers: bool,
    },
    /// It will never be taken: set it aside.
    Refused(Refusal),
    /// The broker does not take it now. When to try again, and what must wait for it, is the caller's to say.
    ForNow(ForNow),
    /// It was wanted back before it was on the wire (again); an earlier connection may have delivered it.
    Withdrawn,
    /// Its deadline passed before it was acknowledged.
    Expired,
    /// The link has stopped; whether the broker has it is unknown.
    Closed,
}

/// Why a publication was refused for good, for people.
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
    /// In plain words.
    pub cause: String,
    /// The same for programs.
    pub how: NotNow,
}

/// How the broker does not take something for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotNow {
    /// It says that a quota is exceeded.
    Busy,
    /// It refuses it, for another reason that passes.
    Refused,
    /// It ended the connection at it, when it was sent alone.
    Fatal,
}

impl NotNow {
    /// Every one.
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
    /// The broker as a whole takes no more for now.
    QuotaExceeded,
    /// This one failed, and may succeed another time.
    Failed(&'static str),
}
