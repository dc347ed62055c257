//! Tells a push that iLink sends again from a new one where several bridges take pushes: by tokens, which all of them see.
//!
//! A token is put with the row of each push, in one commit. It says that its push is *in hand*: whoever put it answers, now. If the
//! answer leaves, the token is removed a little later (or says nothing any more). If it does not, the token says *unanswered* from
//! then on, and the next try, at whichever member, is a repeat: that member takes the push in hand, and answers.
//!
//! A push is stored within the time for which iLink waits, or not at all: later, another member may have stored and answered it,
//! and removed its token. If it is not certain that this has been so (nobody waits any more when it is stored), the token is left as
//! it is, and does not say *unanswered*: the next push of these bytes may be a new one.
//!
//! Who finds a push in another's hand waits for what becomes of it. If that does not show in time, the other was killed, stands
//! still, or does not reach etcd, and nobody can tell whether it has answered. Then the push is stored once more, as a copy: with
//! the same id, as everything that is sent again. So nothing that was answered is ever lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::record::Record;
use super::repeats::{Digest, Progress, WINDOW};
use super::room::NewRow;
use crate::os::clock::{Stamp, boot_now, millis};
use crate::store::{AppendError, Once, SpoolError, Token, Tokens};

/// What becomes of a push in another's hand is looked at first after this time, then after twice as much, and so on: for a
/// second and a half in all.
const FIRST_LOOK: Duration = Duration::from_millis(25);
const LOOKS: u32 = 6;
/// For so long after it was asked for, a push in hand is in no other's: that one looks for longer what becomes of it.
const SURELY_OWN: Duration = Duration::from_millis(1400);
/// iLink waits for 5 s, and then tries elsewhere: what is not stored a little before that must not be stored for this try any
/// more.
const IN_TIME: Duration = Duration::from_millis(4500);

/// Until when a push may be stored: in time for the last of its tries. In milliseconds of the boot-time clock.
pub(super) struct Term(AtomicU64);

impl Term {
    /// For a try that waits since then.
    pub(super) fn of(since: Duration) -> Self {
        Self(AtomicU64::new(end(since)))
    }

    /// There is another try, which waits since then.
    pub(super) fn extend(&self, since: Duration) {
        self.0.fetch_max(end(since), Ordering::Relaxed);
    }

    /// Until when, by the boot-time clock.
    pub(super) fn end(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// The end for one try.
fn end(since: Duration) -> u64 {
    millis(since + IN_TIME)
}

/// What a token says of its push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Word {
    /// By which every copy goes.
    pub(super) id: [u8; 16],
    /// When it was first stored.
    pub(super) at: Stamp,
    /// Its answer did not leave.
    pub(super) is_unanswered: bool,
}

impl Word {
    pub(super) fn encode(self) -> Bytes {
        postcard::to_stdvec(&self).unwrap_or_default().into()
    }

    /// What a token says, if that can be read and is not outdated.
    fn decode(value: &[u8]) -> Option<Self> {
        postcard::from_bytes(value).ok().filter(|word: &Self| word.at.age() < WINDOW)
    }
}

/// A push in hand. Dropped before its answer left, it is unanswered.
pub struct Due {
    tokens: Arc<dyn Tokens>,
    tasks: TaskTracker,
    runtime: Handle,
    digest: Digest,
    /// Of its token.
    version: u64,
    word: Word,
    /// Before it was asked for, by the boot-time clock.
    since: Duration,
    /// Nobody else can have stored and answered it before.
    is_certain: bool,
    has_left: AtomicBool,
    /// It was stored before this try.
    pub(super) is_repeat: bool,
}

impl Due {
    /// The answer left: the same bytes are a new message from here on.
    pub(super) fn left(&self) {
        if !self.has_left.swap(true, Ordering::Relaxed) {
            self.tokens.end(self.digest, self.version, self.since + SURELY_OWN);
        }
    }

    /// The token says that no answer left, unless the push is in another's hand by now.
    fn stayed(&self) {
        let value = Word { is_unanswered: true, ..self.word }.encode();
        let token = Token { name: self.digest, value, replaces: self.version };
        let tokens = Arc::clone(&self.tokens);
        // If that cannot be stored, the same bytes make a copy.
        self.tasks.spawn_on(async move { drop(tokens.put(token).await) }, &self.runtime);
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        if !*self.has_left.get_mut() && self.is_certain {
            self.stayed();
        }
    }
}

/// A push to be taken in hand.
pub(super) struct New<'a> {
    pub(super) tokens: &'a Arc<dyn Tokens>,
    pub(super) tasks: &'a TaskTracker,
    pub(super) digest: Digest,
    pub(super) term: &'a Term,
    pub(super) row: &'a NewRow,
    pub(super) tell: &'a watch::Sender<Progress>,
}

/// How a try ended.
enum Found {
    InHand(Due),
    Elsewhere {
        version: u64,
        word: Word,
    },
    /// To be tried at once, in the place of this version.
    Outdated(u64),
}

/// Why a push was not taken in hand.
pub(super) enum NotTaken {
    /// It could not be stored in time.
    Late,
    /// It is not stored for now, or never will be.
    Refused(AppendError),
}

impl<E: Into<AppendError>> From<E> for NotTaken {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

impl New<'_> {
    /// Takes the push in hand: stores it, unless it is stored and unanswered.
    pub(super) async fn take(&self) -> Result<Due, NotTaken> {
        let NewRow { id, at, .. } = *self.row;
        let word = Word { id, at, is_unanswered: false };
        let mut replaces = 0;
        let mut looks = 0;
        loop {
            match self.append(self.row.bytes.clone(), word, replaces).await? {
                Found::InHand(due) => return Ok(due),
                Found::Outdated(version) => replaces = version,
                Found::Elsewhere { .. } if looks < LOOKS => {
                    sleep(FIRST_LOOK * 2_u32.pow(looks)).await;
                    (replaces, looks) = (0, looks + 1);
                }
                Found::Elsewhere { version, word } => {
                    if let Found::InHand(copy) = self.append(self.copy(word)?, word, version).await? {
                        return Ok(copy);
                    }
                    // Something has become of it after all.
                    (replaces, looks) = (0, 0);
                }
            }
        }
    }

    async fn append(&self, row: Bytes, word: Word, replaces: u64) -> Result<Found, NotTaken> {
        let (digest, since) = (self.digest, boot_now());
        let token = Token { name: digest, value: word.encode(), replaces };
        let (version, value) = match self.tokens.append_once(row, token, self.term.end()).await? {
            Once::Stored { version, .. } => {
                // A token that it replaced has been there all the time.
                let is_certain = replaces != 0 || self.is_waited_for();
                return Ok(Found::InHand(self.due(version, word, since, is_certain)));
            }
            Once::Known { version, value } => (version, value),
            Once::Late => return Err(NotTaken::Late),
        };
        if self.tell.is_closed() {
            return Err(NotTaken::Late);
        }
        let Some(there) = Word::decode(&value) else { return Ok(Found::Outdated(version)) };
        // An earlier attempt of this one may have been carried out, though etcd said no.
        let is_own = there.id == self.row.id;
        if !there.is_unanswered && !is_own {
            return Ok(Found::Elsewhere { version, word: there });
        }
        let word = Word { is_unanswered: false, ..there };
        let (token, since) = (Token { name: digest, value: word.encode(), replaces: version }, boot_now());
        let Some(version) = self.tokens.put(token).await? else { return Ok(Found::Outdated(0)) };
        let is_certain = !is_own || self.is_waited_for();
        let mut due = self.due(version, word, since, is_certain);
        due.is_repeat = !is_own;
        Ok(Found::InHand(due))
    }

    /// Whether one of its tries waits, and for so short a time that iLink cannot have gone on to another member.
    fn is_waited_for(&self) -> bool {
        !self.tell.is_closed() && boot_now() < self.term.end()
    }

    fn due(&self, version: u64, word: Word, since: Duration, is_certain: bool) -> Due {
        let (tokens, tasks, runtime) = (Arc::clone(self.tokens), self.tasks.clone(), Handle::current());
        let (digest, has_left, is_repeat) = (self.digest, AtomicBool::new(false), false);
        Due { tokens, tasks, runtime, digest, version, word, since, is_certain, has_left, is_repeat }
    }

    /// The row once more, as it was stored first.
    fn copy(&self, word: Word) -> Result<Bytes, SpoolError> {
        let row = Record::decode(&self.row.bytes).map_err(|error| SpoolError::Unwritable(error.to_string()))?;
        Ok(row.copy_of(word.id, word.at).encode().into())
    }
}
