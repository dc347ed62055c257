//! Tells a push that iLink sends again from a new one where several bridges take pushes: by tokens, which all of them see.
//!
//! A token is stored with each push, and stands for the answer that is due. A bridge takes it before it answers, and only one
//! can. So whoever finds the token of a push knows that the push is stored and was not answered, whichever member stored it and
//! whatever was killed since. The push is then not stored again, and who takes the token answers.
//!
//! For each answer a token was taken, and for each token there is a row: nothing that was answered is lost, not even when
//! several members have the same bytes in hand at once. If the answer does not leave, the token is put back. If the bridge is
//! killed in between, a further try is stored a second time, which is better than a lost push.

use bytes::Bytes;

use super::repeats::{Digest, WINDOW};
use crate::os::clock::Stamp;
use crate::store::{AppendError, Once, SpoolError, Token, Tokens};

/// The answer to a push that is stored.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    digest: Digest,
    version: u64,
    /// When the push was first stored.
    at: Stamp,
    /// It was stored already.
    pub(super) is_repeat: bool,
}

/// Appends the push in `row`, unless it is there already and its answer is due.
pub(super) async fn append(tokens: &dyn Tokens, row: Bytes, digest: Digest) -> Result<Due, AppendError> {
    let now = Stamp::now();
    let mut replaces = 0;
    loop {
        let token = Token { name: digest, value: encode(now), replaces };
        match tokens.append_once(row.clone(), token).await? {
            Once::Stored { version, .. } => return Ok(Due { digest, version, at: now, is_repeat: false }),
            Once::Known { version, value } => match postcard::from_bytes::<Stamp>(&value) {
                Ok(at) if at.age() < WINDOW => return Ok(Due { digest, version, at, is_repeat: true }),
                Ok(_) | Err(_) => replaces = version,
            },
        }
    }
}

/// Takes the right to answer. False: the push is answered elsewhere, or is a new one by now.
pub(super) async fn take(tokens: &dyn Tokens, due: Due) -> Result<bool, SpoolError> {
    tokens.take(due.digest, due.version).await
}

/// The answer did not leave: a further try is a repeat, as before. If that cannot be stored, it becomes a second message.
pub(super) async fn put_back(tokens: &dyn Tokens, due: Due) {
    let _ = tokens.put_back(due.digest, encode(due.at)).await;
}

fn encode(at: Stamp) -> Bytes {
    postcard::to_stdvec(&at).unwrap_or_default().into()
}
