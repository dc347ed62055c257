//! What a store does not do now is asked of it again, ever less often, for as long as the bridge is not to stop.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::types::SpoolError;

/// The first pause between two tries, and the longest.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// How long what is refused for now is tried again: until the bridge stops.
#[derive(Debug, Default)]
pub struct Patience {
    ended: CancellationToken,
}

impl Patience {
    /// The bridge stops: whatever is refused is no longer tried again.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// Tries until it is no longer refused; `refused` is told the cause each time.
    ///
    /// # Errors
    ///
    /// As the attempt; `Unwritable` only after [`Self::end`].
    pub async fn retry<T, F>(&self, attempt: impl Fn() -> F, refused: impl Fn(&SpoolError)) -> Result<T, SpoolError>
    where
        F: Future<Output = Result<T, SpoolError>>,
    {
        let mut pause = FIRST;
        loop {
            match attempt().await {
                Err(error @ SpoolError::Unwritable(_)) => {
                    refused(&error);
                    if self.ended.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return Err(error);
                    }
                    pause = (pause * 2).min(LONGEST);
                }
                outcome => return outcome,
            }
        }
    }
}
