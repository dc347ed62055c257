//! What an operator sees: `status`, `/readyz` and the log.

use serde_json::Value;

use crate::support::bridge::Bridge;

/// One look at it.
pub(super) struct Shown {
    status: String,
    ready: Value,
}

impl Shown {
    pub(super) async fn of(bridge: &Bridge) -> Self {
        let ready = bridge.admin("readyz").await.json();
        let status = bridge.verb(&["status"]).await;
        assert_eq!(status.code, Some(0), "{status:?}");
        Self { status: status.text, ready }
    }

    /// A line of `status` begins so and says all of this.
    #[track_caller]
    pub(super) fn status_says(&self, begins: &str, says: &[&str]) {
        let found =
            self.status.lines().any(|line| line.starts_with(begins) && says.iter().all(|says| line.contains(says)));
        assert!(found, "no line {begins:?} with {says:?} in\n{}", self.status);
    }

    /// Whether `status` has such a line.
    pub(super) fn status_has(&self, begins: &str) -> bool {
        self.status.lines().any(|line| line.starts_with(begins))
    }

    /// `/readyz` names the part, with its cause and since when.
    #[track_caller]
    pub(super) fn not_ready(&self, part: &str, says: &[&str]) {
        let part = &self.ready[part];
        let cause = part["cause"].as_str().unwrap_or_default();
        assert!(part["ready"] == false && says.iter().all(|says| cause.contains(says)), "{says:?}: {}", self.ready);
        assert!(part["since"].as_str().is_some_and(|since| humantime::parse_rfc3339(since).is_ok()), "{}", self.ready);
    }

    /// The log tells it in one line of this level, however many attempts there were.
    #[track_caller]
    pub(super) fn one_line(&self, log: &str, level: &str, holds: &str, says: &[&str]) {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(holds)).collect();
        assert!(
            matches!(lines.as_slice(), [line] if line.contains(&format!(" {level} ")) && says.iter().all(|says| line.contains(says))),
            "not one {level} with {says:?}: {lines:#?}\n{}",
            self.status
        );
    }
}
