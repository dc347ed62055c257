//! What stands right before a request: looked at after everything that may take long, so that nothing leaves too late.

use std::convert::Infallible;
use std::future::Future;

/// What a caller wants looked at before each request that is made on its behalf: a call may be posted again with a new token.
pub trait Gate: Send + Sync {
    /// Why a request must not leave.
    type Shut: Send;

    /// Resolves when the request may leave, and that at once. Quick: the session has nothing left to wait for.
    fn pass(&self) -> impl Future<Output = Result<(), Self::Shut>> + Send;

    /// What has left was refused for certain; before it leaves again, something is renewed, which may take long.
    fn refused(&self) {}
}

/// Never shut: for a call that may be made at any time.
pub(super) struct Open;

impl Gate for Open {
    type Shut = Infallible;

    async fn pass(&self) -> Result<(), Infallible> {
        Ok(())
    }
}
