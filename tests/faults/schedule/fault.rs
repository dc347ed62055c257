//! What can go wrong, with its parameters: plain data.

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
    /// One sync fails, after a while, and the kernel then says that all is well.
    SyncFails {
        file: &'static str,
        number: u64,
        after_ms: u64,
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
            Self::SyncFails { after_ms: 0, .. } => "disk: a sync fails".to_owned(),
            Self::SyncFails { .. } => "disk: a sync hangs, and fails".to_owned(),
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
