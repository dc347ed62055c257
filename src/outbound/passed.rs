//! What those who watch are shown of a command that has its result.

use crate::local::{CommandResult, Status};
use crate::observe::trail::{Passed, Trail, Verdict, Way, shown};
use crate::os::clock;

/// A command of this kind (its call's name) to this receiver; of one that was refused, its topic.
pub(super) fn passed(
    kind: &str,
    to: Option<&str>,
    content: Option<&[u8]>,
    result: &CommandResult,
    trail: &Trail,
) -> Passed {
    let verdict = if result.status == Status::Ok { Verdict::Good } else { Verdict::Bad };
    let outcome = match result.status.as_str() {
        status if status == result.name => status.to_owned(),
        status => format!("{status}: {}", result.name),
    };
    Passed {
        at: clock::rfc3339(clock::wall_now_ms()),
        way: Way::ToIlink,
        kind: kind.to_owned(),
        id: result.id.to_string(),
        from: None,
        to: to.map(shown),
        bytes: content.map(<[u8]>::len),
        verdict,
        outcome,
        took_ms: result.elapsed_ms,
        content: content.and_then(|content| trail.content(content)),
    }
}
