//! What goes wrong in a cluster: its deck, dealt in rounds as the other one.

use super::Step;
use super::rng::Rng;

/// A fault of a cluster. Each waits for a leader that works, or says which state it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// SIGKILL of the leader; started again after a while, before or after another has taken over.
    LeaderKill {
        down_ms: u64,
    },
    /// SIGKILL of the leader, and of its successor as soon as that leads.
    SuccessorKill {
        down_ms: u64,
    },
    StandbyKill {
        down_ms: u64,
    },
    /// SIGTERM of the leader.
    LeaderTerm {
        down_ms: u64,
    },
    StepDown,
    /// SIGSTOP of the leader; it goes on when another has led for a while.
    LeaderPause {
        ms: u64,
    },
    /// The leader does not reach etcd; `silent`: and nobody says so.
    LeaderCut {
        ms: u64,
        silent: bool,
    },
    /// The leader does not reach the broker.
    LinkCut {
        ms: u64,
    },
    EtcdKill {
        which: usize,
        down_ms: u64,
    },
    /// Two of three are killed.
    MajorityKill {
        which: usize,
        down_ms: u64,
    },
    /// A member of etcd stands still again and again, as if its disk were slow.
    EtcdSlow {
        which: usize,
        ms: u64,
    },
    /// The leader's wall clock is wrong when it hands over to another, and when it takes over from that.
    Clock {
        seconds: i64,
    },
}

/// Cards of a round.
const ROUND: u64 = 12;

impl Broken {
    /// Its name in the table of the report.
    pub(crate) fn kind(&self) -> String {
        let name = match self {
            Self::LeaderKill { .. } => "leader: SIGKILL",
            Self::SuccessorKill { .. } => "leader: SIGKILL, and its successor as soon as it leads",
            Self::StandbyKill { .. } => "standby: SIGKILL",
            Self::LeaderTerm { .. } => "leader: SIGTERM",
            Self::StepDown => "leader: step-down",
            Self::LeaderPause { .. } => "leader: SIGSTOP, SIGCONT",
            Self::LeaderCut { silent: false, .. } => "leader→etcd: refused",
            Self::LeaderCut { silent: true, .. } => "leader→etcd: half-open",
            Self::LinkCut { .. } => "leader→broker: refused",
            Self::EtcdKill { .. } => "etcd: SIGKILL of one",
            Self::MajorityKill { .. } => "etcd: SIGKILL of two",
            Self::EtcdSlow { .. } => "etcd: one is slow (SIGSTOP and SIGCONT by turns)",
            Self::Clock { .. } => "leader: wrong wall clock, hands over",
        };
        name.to_owned()
    }
}

/// So many faults, or one round.
pub(crate) fn broken(seed: u64, faults: Option<usize>, takeover_ms: u64) -> Vec<Step<Broken>> {
    let rounds = (0..).map(|number| round(seed, number, takeover_ms));
    rounds.flatten().take(faults.unwrap_or(usize::try_from(ROUND).unwrap())).collect()
}

/// So many kills of the leader, each followed by a clean handing over.
pub(crate) fn takeovers(count: usize) -> Vec<Step<Broken>> {
    let pair = [Broken::LeaderKill { down_ms: 1000 }, Broken::StepDown];
    (0..count).flat_map(|_| pair).map(|fault| Step { fault, gap_ms: 2000 }).collect()
}

fn round(seed: u64, number: u64, takeover_ms: u64) -> Vec<Step<Broken>> {
    // Another stream than the other deck's.
    let mut rng = Rng::new(seed ^ 0xC105_7E12, number);
    let mut faults: Vec<Broken> = (0..ROUND).map(|card| deal(card, number, takeover_ms, &mut rng)).collect();
    rng.shuffle(&mut faults);
    faults.into_iter().map(|fault| Step { fault, gap_ms: rng.between(100, 2000) }).collect()
}

fn deal(card: u64, round: u64, takeover_ms: u64, rng: &mut Rng) -> Broken {
    let down_ms = rng.between(0, 4000);
    let which = rng.pick(&[0, 1, 2]);
    match card {
        0 => Broken::LeaderKill { down_ms },
        1 => Broken::SuccessorKill { down_ms },
        2 => Broken::StandbyKill { down_ms },
        3 => Broken::LeaderTerm { down_ms },
        4 => Broken::StepDown,
        // Half a minute is too long for the short run, which is the first round.
        5 => Broken::LeaderPause { ms: if round % 3 == 1 { 30_000 } else { takeover_ms + 3000 } },
        6 => Broken::LeaderCut { ms: takeover_ms + rng.between(0, 3000), silent: round.is_multiple_of(2) },
        7 => Broken::LinkCut { ms: rng.between(300, 3000) },
        8 => Broken::EtcdKill { which, down_ms },
        9 => Broken::MajorityKill { which, down_ms: rng.between(500, takeover_ms + 2000) },
        10 => Broken::EtcdSlow { which, ms: rng.between(1000, 5000) },
        _ => Broken::Clock { seconds: rng.pick(&[-86_400, -600, -30, 30, 600, 7200]) },
    }
}

pub(super) fn self_check() {
    let (short, long) = (broken(7, None, 3000), broken(7, Some(200), 3000));
    assert_eq!((short.len(), long.len()), (12, 200));
    assert!(long.starts_with(&short));
    assert_ne!(short, broken(8, None, 3000));
    let kinds = |steps: &[Step<Broken>]| super::Brief::of(steps, Broken::kind).kinds.len();
    assert_eq!((kinds(&short), kinds(&long)), (12, 13));
    assert_eq!(kinds(&takeovers(3)), 2);
}
