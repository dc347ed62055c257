//! The last lines of the log, kept in memory for `report`.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// What is kept at most, in lines and in bytes.
const LINES: usize = 500;
const BYTES: usize = 128 * 1024;

/// The last lines; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Recent(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Recent {
    /// The oldest first.
    #[must_use]
    pub fn lines(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.lines.iter().map(String::as_str).collect()
    }

    fn keep(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(line).into_owned();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += line.len();
        kept.lines.push_back(line);
        while kept.lines.len() > LINES || kept.bytes > BYTES {
            let Some(oldest) = kept.lines.pop_front() else { break };
            kept.bytes -= oldest.len();
        }
    }
}

/// The subscriber writes each line at once.
pub struct Line(Recent);

impl io::Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.keep(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Recent {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_within_bounds() {
        let recent = Recent::default();
        for n in 0..2 * LINES {
            recent.keep(format!("{n}\n").as_bytes());
        }
        let lines = recent.lines();
        assert!(
            lines.starts_with(&format!("{LINES}\n")) && lines.ends_with(&format!("{}\n", 2 * LINES - 1)),
            "{lines}"
        );
        for _ in 0..10 {
            recent.keep(&vec![b'x'; BYTES / 4]);
        }
        assert_eq!(recent.lines().len(), BYTES);
        recent.keep(&vec![b'x'; 2 * BYTES]);
        assert_eq!(recent.lines(), "", "a line that is too large for the whole store is not kept");
    }
}
