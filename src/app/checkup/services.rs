//! Checks the two services the bridge connects to. iLink: is it reachable, do the clocks agree, are the credentials right? The
//! broker: does it accept the bridge, and does its ACL allow what the bridge does?
//!
//! The credentials are tried by querying the registration: that needs no access token and changes nothing.

use std::time::{Duration, SystemTime};

use secrecy::ExposeSecret as _;
use tokio::sync::watch;
use url::Url;

use super::findings::{Findings, Us, brokers, callback_url, random};
use crate::app::{AppError, cluster, parts};
use crate::cloud::{Client, ConfigQuota};
use crate::config::{Config, MqttProtocol};
use crate::mqtt::{self, LinkConfig, Rights, RightsError, RouteFilters, Verdict, Wanted};
use crate::operate::control::{self, Answer, Verb};
use crate::os::clock;
use crate::protocol::{Class, ResultCode, SetConfig};

const CLOCK: &str = "clock";
const API: &str = "api";
const CREDENTIALS: &str = "credentials";
pub(super) const REGISTRATION: &str = "registration";
const SESSION: &str = "session";
/// What stands between iLink and a callback that it cannot verify.
const REACH: &str = "can the internet reach callback.public_url (DNS, port forward, firewall, proxy)?";

/// A clock that is further off than this will be noticed in times and expiries.
const NEAR: Duration = Duration::from_mins(1);
/// Further off than this, tokens and certificates are judged wrongly.
const FAR: Duration = Duration::from_mins(15);
/// 2025-01-01: before it this program did not exist.
const EARLIEST_MS: u64 = 1_735_689_600_000;

pub(super) async fn check_ilink(config: &Config, client: &Client, us: &Us, findings: &mut Findings) {
    let now = SystemTime::now();
    let time = client.time().await;
    judge_clock(now, time.as_ref().ok().copied().flatten(), findings);
    if let Err(error) = time {
        findings.fail(API, error.cause());
        return;
    }
    let host = config.ilink.api.host_str().unwrap_or_default();
    findings.ok(API, format!("{host} answers"));
    match us {
        Us::Running { .. } => match control::ask(config, &Verb::Query).await {
            Ok(Some(Answer { exit: 0 | 1, text })) => match code(&text) {
                Some(code) => judge(code, true, findings),
                None => {
                    findings.warn(CREDENTIALS, "the running bridge's answer cannot be read: is it another version?");
                }
            },
            Ok(Some(Answer { text, .. })) => {
                findings.warn(CREDENTIALS, format!("the running bridge does not ask now: {text}"));
            }
            Ok(None) => findings.warn(CREDENTIALS, "the bridge has just stopped: try again"),
            Err(error) => findings.warn(CREDENTIALS, format!("the running bridge did not answer: {error}")),
        },
        Us::Stopped { .. } | Us::Unknown => ask(config, client, us, findings).await,
    }
}

async fn ask(config: &Config, client: &Client, us: &Us, findings: &mut Findings) {
    let account = parts::account(config);
    let quota = ConfigQuota::new(config.state_dir.as_path(), &config.ilink.api, &account);
    if let Some(held) = quota.held() {
        findings.warn(CREDENTIALS, format!("not asked now: {held}"));
        return;
    }
    let url = callback_url(config, us);
    match client.post(&SetConfig::Query { url: url.expose_secret() }.request(&account), None).await {
        Ok(reply) => {
            if config.state_dir.is_dir() {
                let _ = quota.heard(reply.code);
            }
            judge(reply.code, false, findings);
        }
        Err(error) => findings.fail(API, error.cause()),
    }
}

/// The code in a verb's answer.
fn code(text: &str) -> Option<ResultCode> {
    let answer: serde_json::Value = serde_json::from_str(text).ok()?;
    answer.get("code")?.as_i64().map(ResultCode::new)
}

fn judge(code: ResultCode, running: bool, findings: &mut Findings) {
    let meaning = code.meaning();
    match code.value() {
        0 => findings.ok(CREDENTIALS, "iLink accepts them, and a callback is registered"),
        1007 if running => {
            findings.warn(CREDENTIALS, "iLink accepts them, but has no callback of ours: `ilink2mqtt status` says why");
        }
        1007 => findings.ok(CREDENTIALS, "iLink accepts them; the bridge will register its callback when it starts"),
        1000 => findings.fail(CREDENTIALS, "iLink does not accept them (1000): correct ilink.appkey and ilink.secretkey"),
        1001 => findings.fail(CREDENTIALS, "iLink does not know our uid (1001): correct ilink.uid"),
        1002 => findings.fail(CREDENTIALS, "our uid is logged in elsewhere (1002): stop the other program that uses it"),
        1003 => findings.fail(CREDENTIALS, "iLink refuses our address (1003): a uid belongs to one address; stop the other program, or fix your outgoing address"),
        1004 => findings.warn(CREDENTIALS, "iLink was asked too often (1004): try again in ten minutes, not before"),
        1005 => findings.fail(REGISTRATION, "iLink calls the callback URL malformed (1005): correct callback.public_url"),
        1006 if running => findings.fail(REGISTRATION, format!("iLink could not verify the callback (1006): {REACH}")),
        1006 => findings.fail(
            REGISTRATION,
            format!("iLink could not verify the callback (1006): {REACH}. If it tried just now, no bridge was there to answer: start it, and check again"),
        ),
        _ if code.class() == Class::Transient => {
            findings.warn(CREDENTIALS, format!("not verified: iLink is in trouble ({code}: {meaning}): try again later"));
        }
        _ => findings.warn(
            CREDENTIALS,
            format!("iLink does not say whether it accepts them ({code}: {meaning}): are ilink.appkey, ilink.uid and callback.public_url what it expects?"),
        ),
    }
}

/// What a running bridge says of its own connection to iLink. Asked before iLink is: to hear that no callback is registered
/// sets the bridge to registering it.
pub(super) async fn check_session(config: &Config, us: &Us, findings: &mut Findings) {
    let Us::Running { .. } = us else { return };
    let status = control::ask(config, &Verb::Status { healthy: false, json: true }).await;
    let Ok(Some(Answer { exit: 0, text })) = status else { return };
    let Ok(status) = serde_json::from_str::<serde_json::Value>(&text) else { return };
    let said = |pointer| status.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default();
    if said("/ready/role") != "standby" {
        judge_session(said("/health/cloud/state"), said("/health/cloud/cause"), findings);
    }
}

fn judge_session(state: &str, cause: &str, findings: &mut Findings) {
    let text = format!("the running bridge's connection to iLink is {state}: {cause}");
    match state {
        "online" => findings.ok(SESSION, "the running bridge's connection to iLink is online"),
        "auth_error" => findings.fail(SESSION, text),
        "degraded" if needs_somebody(cause) => findings.fail(SESSION, text),
        // It passes, or the bridge has just started, or was told to be so, or iLink will not answer this check either.
        _ => findings.warn(SESSION, text),
    }
}

/// Whether the cause names a result code that no repetition mends. What a single endpoint met comes last in it, and passes.
fn needs_somebody(cause: &str) -> bool {
    let whole = cause.split(" does not work: ").next().unwrap_or_default();
    let words = whole.split('(').skip(1).filter_map(|rest| rest.split(' ').next());
    words
        .filter_map(|word| word.parse().ok())
        .map(ResultCode::new)
        .any(|code| matches!(code.class(), Class::FatalConfig | Class::Conflict | Class::Callback | Class::Session))
}

fn judge_clock(now: SystemTime, there: Option<SystemTime>, findings: &mut Findings) {
    let shown = clock::rfc3339(clock::wall_now_ms());
    if clock::wall_now_ms() < EARLIEST_MS {
        findings.fail(
            CLOCK,
            format!("it says {shown}, which is past: set it, and have it kept (timedatectl set-ntp true)"),
        );
        return;
    }
    let Some(there) = there else {
        findings.warn(CLOCK, format!("it says {shown}; there is no answer of iLink's with a time to compare it with"));
        return;
    };
    let (off, way) = match there.duration_since(now) {
        Ok(off) => (off, "behind"),
        Err(ahead) => (ahead.duration(), "ahead of"),
    };
    let text = format!("it is {} {way} iLink's", humantime::format_duration(Duration::from_secs(off.as_secs())));
    let remedy = "set it, and have it kept (timedatectl set-ntp true): certificates, tokens and the age of messages depend on it";
    match off {
        off if off <= NEAR => findings.ok(CLOCK, "it agrees with iLink's"),
        off if off <= FAR => findings.warn(CLOCK, format!("{text}: {remedy}")),
        _ => findings.fail(CLOCK, format!("{text}: {remedy}")),
    }
}

const ETCD: &str = "etcd";

/// Tries every endpoint, and the rights of the user, if this bridge is a member of a cluster.
pub(super) async fn check_etcd(config: &Config, findings: &mut Findings) -> Result<(), AppError> {
    if !config.cluster.is_on() {
        return Ok(());
    }
    let endpoints = cluster::endpoints(config).await?;
    let any = endpoints.iter().any(|(_, version)| version.is_ok());
    for (endpoint, version) in endpoints {
        match version {
            Ok(version) => findings.ok(ETCD, format!("{endpoint} answers: version {version}")),
            Err(cause) => findings.fail(ETCD, format!("{endpoint}: {cause}")),
        }
    }
    if any {
        let denied = cluster::denied(config).await?;
        if denied.is_empty() {
            findings.ok(ETCD, format!("it lets us read and write below {}/", config.cluster.prefix));
        }
        for cause in denied {
            findings.fail(ETCD, cause);
        }
    }
    Ok(())
}

const BROKER: &str = "broker";
const PUBLISH: &str = "publish";
const SUBSCRIBE: &str = "subscribe";

/// Tries every address.
pub(super) async fn check_broker(config: &Config, findings: &mut Findings) -> Result<(), AppError> {
    for broker in brokers(config) {
        if !config.mqtt.other_brokers.is_empty() {
            findings.ok(BROKER, format!("{broker}:"));
        }
        check_one(config, broker, findings).await?;
    }
    Ok(())
}

async fn check_one(config: &Config, broker: &Url, findings: &mut Findings) -> Result<(), AppError> {
    let random = random();
    // Another one than the bridge's: that may be connected.
    let client_id = format!("{}-{random}", config.mqtt.client_id);
    let wanted = Wanted { writes: config.writes_to_try(), reads: config.reads() };
    let (_routes, none) = watch::channel(RouteFilters::default());
    let link = LinkConfig { broker: broker.clone(), other_brokers: Vec::new(), ..parts::link(config, none) };
    match mqtt::try_out(link, client_id, &random, wanted).await {
        Ok(rights) => {
            findings.ok(BROKER, "it lets us in");
            tell(&rights, config.mqtt.protocol == MqttProtocol::V311, findings);
            Ok(())
        }
        Err(RightsError::NoConnection(cause)) => {
            findings.fail(BROKER, cause);
            Ok(())
        }
        Err(RightsError::Start(error)) => Err(AppError::Config(error.to_string())),
    }
}

fn tell(rights: &Rights, silent: bool, findings: &mut Findings) {
    verdicts(PUBLISH, &rights.writes, silent, findings);
    verdicts(SUBSCRIBE, &rights.reads, false, findings);
    match rights.heard {
        Some(true) => findings.ok(SUBSCRIBE, "a message to a command topic arrives"),
        Some(false) => findings.fail(
            SUBSCRIBE,
            "a message to a command topic does not arrive, though the subscription was granted: the broker's ACL drops it; `ilink2mqtt check --acl` prints the lines it needs",
        ),
        None => {}
    }
    if let Some(uid) = &rights.other {
        findings.fail(
            BROKER,
            format!(
                "the bridge of uid {uid} is online under this base topic: each account needs its own mqtt.base_topic"
            ),
        );
    }
}

/// One line for what is well, and one for each that is not.
fn verdicts(step: &'static str, verdicts: &[(String, Verdict)], silent: bool, findings: &mut Findings) {
    let granted = verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Granted).count();
    if granted > 0 {
        let of = if granted == verdicts.len() { String::new() } else { format!(" of {}", verdicts.len()) };
        findings.ok(step, format!("granted for {granted}{of} topics"));
    }
    for (filter, verdict) in verdicts {
        match verdict {
            Verdict::Granted => {}
            Verdict::Refused(remedy) => findings.fail(step, format!("{filter} is refused: {remedy}")),
            Verdict::Unknown(_) if silent => {}
            Verdict::Unknown(why) => findings.warn(step, format!("{filter}: the broker did not say ({why})")),
        }
    }
    if silent {
        findings.warn(
            step,
            "MQTT 3.1.1 does not tell what the broker's ACL drops: compare it with `ilink2mqtt check --acl`, or set mqtt.protocol = \"5\"",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::checkup::findings::Level;

    #[test]
    fn clocks_may_differ_a_little() {
        let now = SystemTime::now();
        for (off, level, says) in [
            (0, Level::Ok, "agrees"),
            (-50, Level::Ok, "agrees"),
            (120, Level::Warn, "2m behind"),
            (-120, Level::Warn, "2m ahead of"),
            (-90_000, Level::Fail, "1day 1h ahead of"),
        ] {
            let span = Duration::from_secs(i64::unsigned_abs(off));
            let there = if off < 0 { now - span } else { now + span };
            let mut findings = Findings::default();
            judge_clock(now, Some(there), &mut findings);
            let finding = &findings.0[0];
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.text.contains(says), "{finding:?}");
        }
        let mut findings = Findings::default();
        judge_clock(now, None, &mut findings);
        assert_eq!(findings.0[0].level, Level::Warn);
    }

    #[test]
    fn what_no_repetition_mends_is_a_fault_with_its_remedy() {
        for (code, level, step, says) in [
            (0, Level::Ok, CREDENTIALS, "registered"),
            (1000, Level::Fail, CREDENTIALS, "ilink.secretkey"),
            (1001, Level::Fail, CREDENTIALS, "ilink.uid"),
            (1002, Level::Fail, CREDENTIALS, "stop the other program"),
            (1003, Level::Fail, CREDENTIALS, "stop the other program"),
            (1004, Level::Warn, CREDENTIALS, "ten minutes"),
            (1005, Level::Fail, REGISTRATION, "callback.public_url"),
            (1006, Level::Fail, REGISTRATION, "callback.public_url"),
            (1010, Level::Warn, CREDENTIALS, "ilink.appkey"),
            (1016, Level::Warn, CREDENTIALS, "try again later"),
            (7, Level::Warn, CREDENTIALS, "7 unlisted_code"),
        ] {
            let mut findings = Findings::default();
            judge(ResultCode::new(code), false, &mut findings);
            let finding = &findings.0[0];
            assert_eq!((finding.level, finding.step), (level, step), "{code}: {finding:?}");
            assert!(finding.text.contains(says), "{code}: {finding:?}");
        }
    }

    #[test]
    fn a_session_whose_trouble_passes_is_no_fault() {
        let refused = "iLink could not verify the callback at http://h/… (1006 callback_verification_failed): seen";
        let elsewhere = "our uid 1 is logged in elsewhere (1002 uid_logged_in_elsewhere): stop the other program";
        let unknown = "iLink does not accept the credentials (1000 bad_credentials): correct ilink.appkey";
        let busy = "iLink cannot do it now: no IM server is available (1016 no_im_server); all calls wait together";
        let quota =
            "iLink says that no callback is registered (1007), and was asked to register too often before (1004)";
        let closed = "send_msg does not work: a proxy answers (502 Bad Gateway); what goes there waits";
        let refusing =
            "send_msg does not work: iLink refuses our address (1003 ip_mismatch): why; what goes there waits";
        let both = format!("{refused}; {closed}");
        for (state, cause, level) in [
            ("online", "", Level::Ok),
            ("degraded", refused, Level::Fail),
            ("degraded", elsewhere, Level::Fail),
            ("degraded", both.as_str(), Level::Fail),
            ("auth_error", unknown, Level::Fail),
            ("degraded", busy, Level::Warn),
            ("degraded", quota, Level::Warn),
            ("degraded", closed, Level::Warn),
            ("degraded", refusing, Level::Warn),
            ("offline", "starting: iLink has not answered yet", Level::Warn),
        ] {
            let mut findings = Findings::default();
            judge_session(state, cause, &mut findings);
            assert_eq!(findings.0[0].level, level, "{:?}", findings.0[0]);
        }
    }
}
