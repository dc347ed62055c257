//! The broker: does it let us in, and may we do there what the bridge does?

use tokio::sync::watch;
use url::Url;

use super::findings::{Findings, brokers, random};
use crate::app::{AppError, parts};
use crate::config::{Config, MqttProtocol};
use crate::mqtt::{self, LinkConfig, Rights, RightsError, RouteFilters, Verdict, Wanted};

const BROKER: &str = "broker";
const PUBLISH: &str = "publish";
const SUBSCRIBE: &str = "subscribe";

/// Tries every address.
pub(super) async fn check(config: &Config, findings: &mut Findings) -> Result<(), AppError> {
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
