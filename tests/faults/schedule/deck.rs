//! The deck that a round is dealt from: which kinds it holds, how many of each, and their parameters.

use super::fault::{Fault, Ill, Net, Side, Way};
use super::rng::Rng;

/// The result codes of §6, and one that it does not list.
pub(super) const CODES: [i64; 19] =
    [1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 1015, 1016, 1017, 4711];
/// Odd answers that say their code all the same.
pub(super) const READABLE: [&str; 7] = ["string_code", "integral_code", "bom", "nul", "gzip", "gbk", "deep"];
/// Reason codes of a PUBACK that refuses for now: unspecified, implementation specific, quota exceeded.
const FOR_NOW: [u8; 3] = [0x80, 0x83, 0x97];
const WORKING_PATHS: [&str; 3] = ["send_msg", "ham_topic", "ham_group"];
const OUTAGE_MS: u64 = 25_000;
/// Cards of a round.
pub(super) const ROUND: u64 = 52;

/// The card of that number, in that round.
pub(super) fn deal(card: u64, round: u64, rng: &mut Rng) -> Fault {
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
        47..=49 => {
            let slow_ms = if round == 0 { 1500 } else { 20_000 };
            let after_ms = rng.pick(&[0, 0, slow_ms]);
            let (file, number) = match card {
                47 | 48 => ("spool.db-wal", rng.between(1, 60)),
                _ => (rng.pick(&["spool.db$", "token.json", "/state$"]), 1),
            };
            Fault::SyncFails { file, number, after_ms }
        }
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
