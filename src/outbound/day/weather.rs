//! What goes wrong in a day, and when: a pure function of the seed.

use std::time::Duration;

/// A small generator (`SplitMix64`).
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Self(seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        rng.next();
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// At least `low`, less than `high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.between(0, 100) < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.between(0, from.len() as u64)).unwrap()]
    }

    fn seconds(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low * 1000, high * 1000))
    }
}

/// What may be wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// This code. Behind 1017 the call may have been executed, behind no other.
    Code(i64),
    /// No connection.
    Unsent,
    /// Somebody else answers, and asks for so many seconds.
    InFront(u64),
    /// No answer in time, one that breaks off, one that cannot be read: the call may have been executed.
    Unanswered,
    BrokenOff,
    Unreadable,
    /// It takes so many milliseconds.
    Slow(u64),
    /// A second client of the account has taken a token, and ours is dead.
    TokenTaken,
    /// The service has forgotten our callback.
    Forgotten,
    /// Tokens live so many seconds.
    Life(u64),
}

/// Trouble for a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spell {
    pub(super) from: Duration,
    pub(super) to: Duration,
    /// With which path; none is all.
    pub(super) path: Option<&'static str>,
    pub(super) trouble: Trouble,
    /// How many of the calls meet it.
    pub(super) percent: u64,
}

impl Spell {
    /// Whether it is bad weather for the calls of `path`: one endpoint in trouble, and no other, is none for the others.
    pub(super) fn is_felt(&self, path: &str, spells: &[Self]) -> bool {
        let overlaps = |other: &Self| other.from < self.to && self.from < other.to;
        let spreads = || spells.iter().any(|other| other.path != self.path && overlaps(other));
        self.path.is_none_or(|own| own == path || !PATHS.contains(&own)) || spreads()
    }
}

/// How the bridge is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// In good order.
    Stop,
    /// `kill -9`.
    Kill,
    /// `kill -9` while the disk is at work.
    KillAtWork,
    /// The power: what was stored without a sync is lost, and the machine boots.
    Power,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    End(End, Duration),
    /// The configuration is read again, with a callback URL of this number.
    Reload(u64),
    /// So many commands at once.
    Commands(u64),
}

/// `set_config`, `get_access_token`, and the paths of commands.
pub(super) const CONFIG: &str = "set_config";
pub(super) const TOKEN: &str = "get_access_token";
pub(super) const PATHS: [&str; 5] = ["send_msg", "ham_topic", "ham_group", "ham_user", "ham_add_user"];

/// The longest that the bridge may hold a command back after this was answered. The figures are those of `cloud/transport.rs`
/// (`Timing`), `cloud/session/budget.rs` and `outbound/attempt.rs` (`WAIT`, `QUOTA_WAIT`); of those that such an answer may
/// set, for all calls, for its endpoint, or for the command alone, each is the longest, in seconds.
pub(super) fn back_off(path: &str, trouble: Trouble) -> Duration {
    // To `set_config` or `get_access_token`, and to a command.
    let (own, command) = match trouble {
        Trouble::Slow(_) | Trouble::Life(_) => (0, 0),
        // `quota`; to a command, `conflict` and `QUOTA_WAIT`.
        Trouble::Code(1004 | 1009) => (7200, 300),
        // `config`.
        Trouble::Code(1000 | 1005) => (900, 900),
        // `callback`; to a command, `conflict`.
        Trouble::Code(1006) => (600, 300),
        // `conflict`, and the budget of `set_config`, which leaves one registration in ten minutes.
        Trouble::Code(1007) | Trouble::Forgotten => (600, 600),
        // `conflict`, and the budget of `get_access_token`, which leaves one token in five.
        Trouble::Code(1002 | 1003 | 1008 | 1015) | Trouble::TokenTaken | Trouble::Unreadable => (300, 300),
        // `link`, and `WAIT`.
        Trouble::Code(1016 | 1017) | Trouble::Unsent | Trouble::Unanswered | Trouble::BrokenOff => (60, 60),
        Trouble::InFront(after) => (after.max(60), after.max(60)),
        // To a command it is the last word; otherwise `config`.
        Trouble::Code(_) => (900, 0),
    };
    // Whatever is answered, the budget's pace; a registration without an answer waits as long as `callback`, which is no
    // longer.
    Duration::from_secs(match path {
        CONFIG => own.max(600),
        TOKEN => own.max(300),
        _ => command,
    })
}

/// A day's plan.
pub(super) struct Weather {
    pub(super) spells: Vec<Spell>,
    pub(super) events: Vec<(Duration, Event)>,
}

impl Weather {
    pub(super) fn new(seed: u64, day: Duration) -> Self {
        let mut rng = Rng::new(seed, 1);
        let mut spells = Vec::new();
        let mut at = rng.seconds(60, 1200);
        while at < day {
            let end = at + rng.seconds(120, 2700);
            let begun = spells.len();
            // Sometimes one endpoint alone is in trouble, and the commands to all others are not to suffer.
            let one = rng.percent(40).then(|| rng.pick(&PATHS));
            for _ in 0..rng.between(1, 5) {
                spells.push(spell(&mut rng, at, end, one));
            }
            // Mostly it is fine for so long that everything must have recovered; sometimes it is not.
            let waits = spells[begun..]
                .iter()
                .map(|spell| spell.path.map_or(Duration::from_mins(10), |path| back_off(path, spell.trouble)));
            let longest = waits.max().unwrap_or_default();
            at = end + if rng.percent(65) { longest + rng.seconds(200, 900) } else { rng.seconds(5, 300) };
        }
        let mut events = Vec::new();
        let mut at = Duration::ZERO;
        while at < day {
            events.push((at, Event::Commands(if rng.percent(4) { rng.between(5, 15) } else { 1 })));
            at += rng.seconds(0, 100);
        }
        let mut at = Duration::ZERO;
        while at < day {
            // Sometimes one after the other, as where a supervisor starts it again and again.
            at += if rng.percent(25) { rng.seconds(0, 20) } else { rng.seconds(60, 4800) };
            let end = rng.pick(&[End::Stop, End::Kill, End::KillAtWork, End::KillAtWork, End::Power]);
            let away = if rng.percent(60) { Duration::ZERO } else { rng.seconds(1, 200) };
            events.push((at, if rng.percent(15) { Event::Reload(rng.between(0, 5)) } else { Event::End(end, away) }));
        }
        events.sort_by_key(|(at, _)| *at);
        Self { spells, events }
    }
}

fn spell(rng: &mut Rng, from: Duration, to: Duration, one: Option<&'static str>) -> Spell {
    let half = to.saturating_sub(from) / 2;
    let mut part = || half * u32::try_from(rng.between(0, 100)).unwrap() / 100;
    let (from, to) = (from + part(), to.saturating_sub(part()));
    let percent = rng.pick(&[10, 40, 80, 100, 100]);
    let path = match rng.between(0, 10) {
        0..5 => Some(rng.pick(&PATHS)),
        5..7 => Some(rng.pick(&[CONFIG, TOKEN])),
        _ => None,
    };
    let codes = [1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1015, 1016, 1016, 1017, 1017, 1017, 1010, 7];
    let trouble = match rng.between(0, 24) {
        0..7 => Trouble::Code(rng.pick(&codes)),
        7 => Trouble::Code(rng.pick(&[1004, 1009])),
        8 | 9 => Trouble::Unsent,
        10 | 11 => Trouble::InFront(rng.pick(&[0, 0, 7, 300, 600])),
        12..15 => Trouble::Unanswered,
        15 => Trouble::BrokenOff,
        16 | 17 => Trouble::Unreadable,
        18 | 19 => Trouble::Slow(rng.between(1000, 9500)),
        20 | 21 => Trouble::TokenTaken,
        22 => Trouble::Forgotten,
        _ => Trouble::Life(rng.pick(&[1, 30, 700])),
    };
    // What is true of the account is so on all paths.
    let path = if matches!(trouble, Trouble::TokenTaken | Trouble::Forgotten | Trouble::Life(_)) {
        None
    } else {
        one.or(path)
    };
    Spell { from, to, path, trouble, percent }
}
