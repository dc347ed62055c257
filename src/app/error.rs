//! Why the daemon did not start, or stopped unasked.

use crate::cli::{EXIT_INTERNAL, EXIT_STATE_DIR, EXIT_USAGE};

/// Why the daemon did not start, or stopped unasked.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The state directory is locked or unusable.
    #[error("{0}")]
    State(String),
    /// What the configuration names cannot be used.
    #[error("{0}")]
    Config(String),
    /// What the command line names cannot be used.
    #[error("{0}")]
    Argument(String),
    /// A socket could not be opened.
    #[error("cannot listen on {what}: {source}")]
    Listen {
        /// Which: the configuration's key and value.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A part failed while running.
    #[error("{0}")]
    Failed(String),
}

impl AppError {
    /// The process's exit code for it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::State(_) => EXIT_STATE_DIR,
            Self::Config(_) | Self::Argument(_) => EXIT_USAGE,
            Self::Listen { .. } | Self::Failed(_) => EXIT_INTERNAL,
        }
    }
}
