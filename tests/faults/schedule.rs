//! Which faults, in which order, with which parameters: a pure function of the seed.
//!
//! Faults are dealt from a deck that is shuffled anew for each round, so that a short run meets every kind and a long one
//! meets them in ever other orders and with other parameters. Nothing here looks at a clock or at the system under test.

use std::fmt;

/// A small generator (`SplitMix64`): the schedule must not change when a crate does.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut rng = Self(seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        rng.next();
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// At least `low`, less than `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.between(0, from.len() as u64)).unwrap()]
    }
}

/// One of the three connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// The bridge's to the broker.
    Mqtt,
    /// The bridge's to iLink.
    Api,
    /// iLink's to the bridge.
    Callback,
}

/// Which way bytes go that are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From who opened the connection.
    Up,
    /// To who opened it.
    Down,
    Both,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Net {
    /// After so many more bytes all connections end in the middle of what they carry.
    Cut { after: u64 },
    /// Nothing passes for a while; then it does.
    Stall { way: Way, ms: u64 },
    /// What is sent vanishes and nobody says so; at the end the connections are closed.
    HalfOpen { way: Way, ms: u64 },
    /// A few bytes at a time.
    Slow { ms: u64 },
    /// Present connections are cut, new ones closed at once.
    Refuse { ms: u64 },
}

/// What the simulated service does with the next calls of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ill {
    pub(crate) path: &'static str,
    pub(crate) mode: &'static str,
    /// A result code, or an HTTP status.
    pub(crate) code: Option<i64>,
    pub(crate) delay_ms: u64,
    pub(crate) times: u64,
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL of the bridge; started again after a while.
    BridgeKill {
        down_ms: u64,
    },
    /// Killed, and killed again that long after its start, whatever it is doing then.
    BridgeKillTwice {
        down_ms: u64,
        again_ms: u64,
    },
    /// Killed and started while there is no broker.
    BridgeKillWithoutBroker {
        down_ms: u64,
    },
    /// Killed and started while iLink cannot be reached.
    BridgeKillWithoutApi {
        down_ms: u64,
    },
    BridgeTerm {
        down_ms: u64,
    },
    BrokerKill {
        down_ms: u64,
    },
    BrokerTerm {
        down_ms: u64,
    },
    /// SIGSTOP, SIGCONT.
    BrokerPause {
        ms: u64,
    },
    /// Another client connects under the bridge's client id; `wipe`: and ends its session.
    Takeover {
        hold_ms: u64,
        wipe: bool,
    },
    Network {
        side: Side,
        net: Net,
    },
    Service(Ill),
    /// The service forgets all tokens.
    Expire,
    /// The service forgets all registrations.
    Forget,
    /// The bridge's wall clock jumps.
    Clock {
        seconds: i64,
    },
    /// One sync fails, and the kernel then says that all is well.
    SyncFails {
        file: &'static str,
        number: u64,
    },
    /// For a while each sync takes that long.
    DiskHangs {
        ms: u64,
        for_ms: u64,
    },
    /// So long away that the waits between attempts show: a connection refused,
    Outage {
        side: Side,
        ms: u64,
    },
    /// or the service answering 500 to everything.
    ServiceDown {
        ms: u64,
    },
    /// The broker refuses every publish with this reason code for a while: 0x97, quota exceeded, or another that passes.
    BrokerBusy {
        code: u8,
        ms: u64,
    },
    /// It refuses one publish of a push.
    BrokerRefusesOnce {
        code: u8,
    },
    /// It ends the connection at each publish of a push or a result.
    BrokerDies {
        ms: u64,
    },
    /// Nothing new until the bridge says that it is ready.
    Calm,
}

impl Fault {
    /// How many SIGKILLs of the bridge it holds.
    pub(crate) fn kills(self) -> u64 {
        match self {
            Self::BridgeKill { .. } | Self::BridgeKillWithoutBroker { .. } | Self::BridgeKillWithoutApi { .. } => 1,
            Self::BridgeKillTwice { .. } => 2,
            _ => 0,
        }
    }

    /// Its name in the table of the report.
    pub(crate) fn kind(self) -> String {
        match self {
            Self::BridgeKill { .. } => "bridge: SIGKILL".to_owned(),
            Self::BridgeKillTwice { .. } => "bridge: SIGKILL, and again while starting".to_owned(),
            Self::BridgeKillWithoutBroker { .. } => "bridge: SIGKILL while the broker is away".to_owned(),
            Self::BridgeKillWithoutApi { .. } => "bridge: SIGKILL while iLink is away".to_owned(),
            Self::BridgeTerm { .. } => "bridge: SIGTERM".to_owned(),
            Self::BrokerKill { .. } => "broker: SIGKILL".to_owned(),
            Self::BrokerTerm { .. } => "broker: SIGTERM".to_owned(),
            Self::BrokerPause { .. } => "broker: SIGSTOP, SIGCONT".to_owned(),
            Self::Takeover { wipe: false, .. } => "client id taken over".to_owned(),
            Self::Takeover { wipe: true, .. } => "client id taken over, session ended".to_owned(),
            Self::Network { side, net } => {
                let side = match side {
                    Side::Mqtt => "bridge→broker",
                    Side::Api => "bridge→iLink",
                    Side::Callback => "iLink→callback",
                };
                let net = match net {
                    Net::Cut { .. } => "cut after n bytes",
                    Net::Stall { .. } => "stalled",
                    Net::HalfOpen { .. } => "half-open",
                    Net::Slow { .. } => "slow",
                    Net::Refuse { .. } => "refused",
                };
                format!("{side}: {net}")
            }
            Self::Service(Ill { mode: "code", .. }) => "iLink: a result code of §6".to_owned(),
            Self::Service(Ill { mode, .. }) => format!("iLink: {mode}"),
            Self::Expire => "iLink: token expired".to_owned(),
            Self::Forget => "iLink: registration forgotten".to_owned(),
            Self::Clock { seconds } if seconds > 0 => "clock: forward".to_owned(),
            Self::Clock { .. } => "clock: backward".to_owned(),
            Self::SyncFails { .. } => "disk: a sync fails".to_owned(),
            Self::DiskHangs { .. } => "disk: syncs hang".to_owned(),
            Self::Outage { side: Side::Mqtt, .. } => "outage: broker, 25 s".to_owned(),
            Self::Outage { .. } => "outage: iLink refuses, 25 s".to_owned(),
            Self::ServiceDown { .. } => "outage: iLink answers 500, 25 s".to_owned(),
            Self::BrokerBusy { .. } => "broker: busy (refuses all for now)".to_owned(),
            Self::BrokerRefusesOnce { .. } => "broker: refuses one for now".to_owned(),
            Self::BrokerDies { .. } => "broker: dies at each message".to_owned(),
            Self::Calm => "(calm)".to_owned(),
        }
    }
}

/// A fault and the load that follows before the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) fault: Fault,
    pub(crate) gap_ms: u64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, then {} ms", self.fault, self.gap_ms)
    }
}

/// The result codes of §6, and one that it does not list.
const CODES: [i64; 19] =
    [1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 1015, 1016, 1017, 4711];
/// Odd answers that say their code all the same.
const READABLE: [&str; 7] = ["string_code", "integral_code", "bom", "nul", "gzip", "gbk", "deep"];
/// Reason codes of a PUBACK that refuses for now: unspecified, implementation specific, quota exceeded.
const FOR_NOW: [u8; 3] = [0x80, 0x83, 0x97];
const WORKING_PATHS: [&str; 3] = ["send_msg", "ham_topic", "ham_group"];
const OUTAGE_MS: u64 = 25_000;
/// Cards of a round.
pub(crate) const ROUND: u64 = 52;

/// Steps until `kills` SIGKILLs of the bridge are reached, always in whole rounds.
pub(crate) fn schedule(seed: u64, kills: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut killed = 0;
    for number in 0.. {
        if killed >= kills {
            break;
        }
        for step in round(seed, number) {
            killed += step.fault.kills();
            steps.push(step);
        }
    }
    steps
}

/// All of it, a line for each step.
pub(crate) fn listed(steps: &[Step]) -> String {
    let line = |(number, step): (usize, &Step)| format!("step {number}: {step}\n");
    steps.iter().enumerate().map(line).collect::<Vec<_>>().concat()
}

/// One digest over all steps, for comparing two runs at a glance.
pub(crate) fn digest(steps: &[Step]) -> String {
    format!("{:08x}", crc32fast::hash(listed(steps).as_bytes()))
}

fn round(seed: u64, number: u64) -> Vec<Step> {
    let mut rng = Rng::new(seed, number);
    let mut faults: Vec<Fault> = (0..ROUND).map(|card| deal(card, number, &mut rng)).collect();
    for at in (1..faults.len()).rev() {
        faults.swap(at, usize::try_from(rng.between(0, at as u64 + 1)).unwrap());
    }
    faults.into_iter().map(|fault| Step { fault, gap_ms: rng.between(100, 1200) }).collect()
}

fn deal(card: u64, round: u64, rng: &mut Rng) -> Fault {
    let down_ms = rng.between(0, 400);
    match card {
        0..=9 => Fault::BridgeKill { down_ms },
        10..=12 => Fault::BridgeKillTwice { down_ms, again_ms: rng.between(0, 900) },
        13 | 14 => Fault::BridgeKillWithoutBroker { down_ms: rng.between(300, 1500) },
        15 => Fault::BridgeKillWithoutApi { down_ms: rng.between(300, 1500) },
        16 | 17 => Fault::BridgeTerm { down_ms },
        18 => Fault::BrokerKill { down_ms: rng.between(50, 1500) },
        19 => Fault::BrokerTerm { down_ms: rng.between(50, 1500) },
        20 => Fault::BrokerPause { ms: rng.between(300, 2500) },
        21 => Fault::Takeover { hold_ms: rng.between(50, 500), wipe: round % 2 == 1 },
        // Every side meets a cut in each round, and one of the others.
        22..=24 => Fault::Network { side: side(card - 22), net: Net::Cut { after: rng.between(1, 6000) } },
        25..=27 => Fault::Network { side: side(card - 25), net: trouble(rng) },
        28 => Fault::Service(ill("drop", None, rng)),
        29 => Fault::Service(ill("hang", None, rng)),
        30 => {
            let status = rng.pick(&[400, 403, 429, 500, 502, 503]);
            Fault::Service(ill("status", Some(status), rng))
        }
        31 => {
            let mode = rng.pick(&["garbage", "page", "cut_short"]);
            Fault::Service(ill(mode, None, rng))
        }
        32 => {
            let delay_ms = rng.between(200, 3000);
            Fault::Service(Ill { delay_ms, ..ill("delay", None, rng) })
        }
        // All codes within a few rounds.
        33..=36 => {
            let code = CODES[usize::try_from((round * 4 + card - 33) % CODES.len() as u64).unwrap()];
            Fault::Service(Ill { times: rng.between(1, 3), ..ill("code", Some(code), rng) })
        }
        37 => {
            // What only the session's own calls are told.
            let (path, code) = rng.pick(&[
                ("set_config", 1004),
                ("set_config", 1006),
                ("set_config", 1016),
                ("get_access_token", 1009),
            ]);
            Fault::Service(Ill { path, mode: "code", code: Some(code), delay_ms: 0, times: 1 })
        }
        38 => Fault::Expire,
        39 => Fault::Forget,
        40 => Fault::Clock { seconds: rng.pick(&[-86_400, -600, -30, 30, 600, 7200]) },
        // All of them within a few rounds.
        41 => {
            let mode = READABLE[usize::try_from(round % READABLE.len() as u64).unwrap()];
            Fault::Service(ill(mode, None, rng))
        }
        42 => {
            let status = rng.pick(&[429, 502, 503, 504]);
            let mode = rng.pick(&["gateway", "redirect"]);
            Fault::Service(ill(mode, Some(status), rng))
        }
        43 => {
            let ms = rng.between(500, if round == 0 { 3000 } else { 40_000 });
            Fault::BrokerBusy { code: rng.pick(&FOR_NOW), ms }
        }
        44 | 45 => Fault::BrokerRefusesOnce { code: rng.pick(&FOR_NOW) },
        46 => Fault::BrokerDies { ms: rng.between(500, if round == 0 { 3000 } else { 25_000 }) },
        47 | 48 => Fault::SyncFails { file: "spool.db-wal", number: rng.between(1, 60) },
        49 => Fault::SyncFails { file: rng.pick(&["spool.db$", "token.json", "/state$"]), number: 1 },
        50 => Fault::DiskHangs { ms: rng.between(300, 2500), for_ms: rng.between(1000, 5000) },
        // Too long for the short run, which is the first round.
        _ => match round % 4 {
            0 => Fault::Calm,
            1 => Fault::Outage { side: Side::Mqtt, ms: OUTAGE_MS },
            2 => Fault::Outage { side: Side::Api, ms: OUTAGE_MS },
            _ => Fault::ServiceDown { ms: OUTAGE_MS },
        },
    }
}

fn side(number: u64) -> Side {
    match number {
        0 => Side::Mqtt,
        1 => Side::Api,
        _ => Side::Callback,
    }
}

fn trouble(rng: &mut Rng) -> Net {
    let ms = rng.between(300, 2500);
    let way = rng.pick(&[Way::Up, Way::Down, Way::Both]);
    match rng.between(0, 4) {
        0 => Net::Stall { way, ms },
        1 => Net::HalfOpen { way, ms },
        2 => Net::Slow { ms },
        _ => Net::Refuse { ms },
    }
}

fn ill(mode: &'static str, code: Option<i64>, rng: &mut Rng) -> Ill {
    let path = if rng.coin() { "send_msg" } else { rng.pick(&WORKING_PATHS) };
    Ill { path, mode, code, delay_ms: 0, times: rng.between(1, 6) }
}

/// The schedule must be the same for the same seed, another for another, and hold every kind.
pub(crate) fn self_check() {
    let (one, again, other) = (schedule(7, 40), schedule(7, 40), schedule(8, 40));
    assert_eq!(digest(&one), digest(&again), "the same seed gives another schedule");
    assert_ne!(digest(&one), digest(&other), "another seed gives the same schedule");
    // A longer run begins as the shorter one.
    assert!(schedule(7, 80).starts_with(&one));
    assert!(one.iter().map(|step| step.fault.kills()).sum::<u64>() >= 40);
    let long = schedule(7, 200);
    for code in CODES {
        let met = |step: &Step| matches!(step.fault, Fault::Service(Ill { code: Some(met), .. }) if met == code);
        assert!(long.iter().any(met), "code {code} is in no long run");
    }
    for mode in READABLE {
        let met = |step: &Step| matches!(step.fault, Fault::Service(ill) if ill.mode == mode);
        assert!(long.iter().any(met), "{mode} is in no long run");
    }
    assert_eq!(digest(&schedule(1, 1)), KNOWN, "the generator has changed: old seeds mean something else now");
}

/// Of `--seed 1 --kills 1`:
const KNOWN: &str = "81b66489";
