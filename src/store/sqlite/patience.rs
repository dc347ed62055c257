//! What the disk does not do now is asked of it again, ever less often, for as long as the bridge is not to stop.

use std::time::Duration;

use super::request::{Reply, Request};
use super::types::{Queue, SpoolError};
use super::{Spool, Task};

/// The first pause between two tries, and the longest.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

impl Spool {
    /// The bridge stops: whatever is refused is no longer tried again.
    pub fn stop_trying(&self) {
        self.inner.no_more_tries.cancel();
    }

    /// As [`Self::set_aside`], but tries on while the disk refuses; `refused` is told the cause each time.
    ///
    /// # Errors
    ///
    /// As [`Self::set_aside`]; `Unwritable` only after [`Self::stop_trying`].
    pub async fn set_aside_in_the_end(&self, data: Vec<u8>, refused: impl Fn(&SpoolError)) -> Result<(), SpoolError> {
        let data = bytes::Bytes::from(data);
        let mut pause = FIRST;
        loop {
            let task = Task::Append { queue: Queue::SetAside, data: data.clone(), key: None };
            match self.store(task).await {
                Err(error @ SpoolError::Unwritable(_)) => {
                    refused(&error);
                    if !self.pause(&mut pause).await {
                        return Err(error);
                    }
                }
                stored => return stored.map(|_| ()),
            }
        }
    }

    /// Asks for what is only read: a disk that does not give it now may do so in a moment.
    pub(super) async fn look<T>(&self, request: impl Fn(Reply<T>) -> Request) -> Result<T, SpoolError> {
        let mut pause = FIRST;
        loop {
            match self.ask(&request).await {
                Err(error @ SpoolError::Unwritable(_)) => {
                    if !self.pause(&mut pause).await {
                        return Err(error);
                    }
                }
                found => return found,
            }
        }
    }

    /// Waits before the next try; false if there is to be none.
    async fn pause(&self, pause: &mut Duration) -> bool {
        let stopped = self.inner.no_more_tries.run_until_cancelled(tokio::time::sleep(*pause)).await.is_none();
        *pause = (*pause * 2).min(LONGEST);
        !stopped
    }
}
