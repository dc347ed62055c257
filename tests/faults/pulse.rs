//! Notes when the machine itself stands still: a sync of its disk that takes long, or a timer that comes late. What the
//! bridge could not note meanwhile is not its fault.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::records::{Recorder, SECOND};

const EVERY: Duration = Duration::from_millis(100);

/// Writes and syncs a byte again and again until `stop`.
pub(crate) async fn watch(file: PathBuf, recorder: Arc<Recorder>, stop: CancellationToken) {
    let file = Arc::new(File::create(file).expect("the logs can be written"));
    let mut last = recorder.now();
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        let file = Arc::clone(&file);
        let synced = tokio::task::spawn_blocking(move || (&*file).write_all(b".").and_then(|()| file.sync_data()));
        synced.await.expect("it runs").expect("the logs can be written");
        let now = recorder.now();
        if now - last > SECOND / 4 {
            recorder.lock().hiccups.push((last, now));
        }
        last = now;
    }
}
