//! What an error of SQLite means for the store: try again later, repair, or stop.

use std::io;
use std::path::Path;

use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::os::files::sync_failed;

/// In words, with the remedy.
const FULL: &str = "the disk is full: free some space on it";

/// What to do about an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing was changed, and it may work later.
    Unwritable(String),
    /// The disk did not give back what it holds. It may do so in a moment; if it goes on, it is damage.
    Unread(String),
    /// The file does not hold what it should: rebuild it from what can be read.
    Damaged(String),
    /// What the disk holds is unknown from here on: stop, so that nothing is promised that is not kept.
    Fatal(String),
}

impl Fault {
    /// Whether there is merely no room.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Unwritable(cause) if cause == FULL)
    }

    /// After a failed sync the kernel may count the lost pages as written; a second sync would succeed and lie.
    pub(super) fn of_sync(path: &Path, error: &io::Error) -> Self {
        Self::Fatal(sync_failed(&format_args!("{}: {error}", path.display())))
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        let Some(sqlite) = error.sqlite_error() else {
            // A value of a type that was never written.
            return Self::Damaged(error.to_string());
        };
        match sqlite.extended_code {
            // After a failed sync the kernel may count the lost pages as written; a second sync would succeed and lie.
            ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC => {
                return Self::Fatal(sync_failed(&error));
            }
            ffi::SQLITE_IOERR_READ => return Self::Unread(error.to_string()),
            ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS => {
                return Self::Damaged(error.to_string());
            }
            // The index of the log is given its room before it is used; that is all that can go wrong there.
            ffi::SQLITE_IOERR_SHMSIZE => return Self::Unwritable(FULL.to_owned()),
            ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_TRUNCATE => {
                // SQLite does not tell a quota from the rest.
                let cause = "the disk refuses writes: a quota may be used up, or the disk be failing or read-only; \
                     look at the quota and into the kernel's log (dmesg)";
                return Self::Unwritable(format!("{cause} ({error})"));
            }
            _ => {}
        }
        match sqlite.code {
            ErrorCode::DiskFull => Self::Unwritable(FULL.to_owned()),
            ErrorCode::ReadOnly => Self::Unwritable(
                "spool.db or its disk is read-only: correct the rights in state_dir, or mount it writable".to_owned(),
            ),
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                Self::Unwritable("another program has locked spool.db: close that program".to_owned())
            }
            ErrorCode::CannotOpen => Self::Unwritable(format!("{error}: see that its owner may read and write it")),
            // The rest are faults of content: a table that is gone, a number that is taken, a type that never was.
            ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::Unknown
            | ErrorCode::SchemaChanged
            | ErrorCode::ConstraintViolation
            | ErrorCode::TypeMismatch => Self::Damaged(error.to_string()),
            _ => Self::Unwritable(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(code: i32) -> Fault {
        Fault::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }

    #[test]
    fn a_failed_sync_is_fatal_and_a_failed_write_is_not() {
        assert!(matches!(fault(ffi::SQLITE_IOERR_FSYNC), Fault::Fatal(_)));
        assert!(matches!(fault(ffi::SQLITE_IOERR_DIR_FSYNC), Fault::Fatal(_)));
        assert!(matches!(fault(ffi::SQLITE_IOERR_WRITE), Fault::Unwritable(_)));
        assert!(fault(ffi::SQLITE_FULL).is_full());
        let Fault::Unwritable(refused) = fault(ffi::SQLITE_IOERR_WRITE) else { panic!() };
        assert!(refused.contains("quota") && refused.contains("dmesg"), "{refused}");
        assert!(!fault(ffi::SQLITE_IOERR_WRITE).is_full());
        assert!(matches!(fault(ffi::SQLITE_BUSY), Fault::Unwritable(_)));
    }

    #[test]
    fn what_cannot_be_read_is_damage() {
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB, ffi::SQLITE_IOERR_SHORT_READ, ffi::SQLITE_ERROR] {
            assert!(matches!(fault(code), Fault::Damaged(_)), "{code}");
        }
        // In the end: see `Unread`.
        assert!(matches!(fault(ffi::SQLITE_IOERR_READ), Fault::Unread(_)));
        for code in [ffi::SQLITE_BUSY, ffi::SQLITE_NOMEM, ffi::SQLITE_CANTOPEN, ffi::SQLITE_IOERR_NOMEM] {
            assert!(matches!(fault(code), Fault::Unwritable(_)), "{code}");
        }
    }
}
