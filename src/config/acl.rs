//! The lines of a Mosquitto ACL file that give the bridge the access it needs (`check --acl`).

use std::collections::BTreeSet;
use std::fmt::Write;

use super::{Config, Mqtt};
use crate::route::FromRoute;

/// What the bridge writes, under the base.
const WRITES: [&str; 8] = [
    "recv/#",
    "presence/#",
    "event/#",
    "result/#",
    "by/+/result/#",
    "by/+/ack/#",
    "bridge/#",
    // Its probe of the lines above: the one command topic that it may write to.
    "call/self_test/+",
];

/// What it reads besides commands, under the base: whether another bridge is there already.
const READS: [&str; 2] = ["bridge/state", "bridge/info"];

impl Config {
    /// Filters of what the bridge publishes to and may be tried with an empty payload. What others act upon is not among them:
    /// what routes say to devices, Home Assistant's discovery (where it removes a device), and a response topic without a
    /// wildcard, which is where somebody waits.
    #[must_use]
    pub fn writes_to_try(&self) -> Vec<String> {
        let base = self.mqtt.base_topic.as_str();
        let own = WRITES.iter().map(|write| format!("{base}/{write}"));
        let responses = self.mqtt.response_topics.iter().filter(|filter| filter.contains(['+', '#']));
        own.chain(responses.cloned()).collect()
    }

    /// Filters of what the bridge subscribes to.
    #[must_use]
    pub fn reads(&self) -> Vec<String> {
        let base = self.mqtt.base_topic.as_str();
        let mut filters: Vec<String> = self.mqtt.base_topic.command_filters().into();
        filters.dedup();
        let looks = READS.iter().map(|read| format!("{base}/{read}"));
        let births = self.discovery().map(|discovery| discovery.birth_topic());
        filters.into_iter().chain(looks).chain(births).chain(self.routes.subscriptions().iter().cloned()).collect()
    }

    /// The lines of Mosquitto's ACL file that let this bridge work and nothing more, and an example for devices.
    #[must_use]
    pub fn mosquitto_acl(&self) -> String {
        let Mqtt { username, base_topic, response_topics, .. } = &self.mqtt;
        let base = base_topic.as_str();
        let mut lines = String::new();
        let mut line = |text: &str| {
            let _ = writeln!(lines, "{text}");
        };
        match username {
            Some(username) => line(&format!("user {username}")),
            None => line(
                "# mqtt.username is not set: these lines go before the first \"user\", and hold for everybody without a name.",
            ),
        }
        for filter in base_topic.command_filters() {
            line(&format!("topic read {filter}"));
        }
        for read in READS {
            line(&format!("topic read {base}/{read}"));
        }
        for write in WRITES {
            line(&format!("topic write {base}/{write}"));
        }
        line("# Where MQTT 5 requesters may ask for their results (mqtt.response_topics).");
        for filter in response_topics {
            line(&format!("topic write {filter}"));
        }
        if let Some(discovery) = self.discovery() {
            line("# Home Assistant: when it has started, and the entities that it is told of.");
            line(&format!("topic read {}", discovery.birth_topic()));
            line(&format!("topic write {}", discovery.filter()));
            line(&format!("topic write {}", base_topic.pictures()));
        }
        if self.routes.is_empty() {
            line("# Routes to and from devices' own topics need lines of their own; this configuration has none.");
        } else {
            line("# What the routes hear and say.");
        }
        for filter in self.routes.subscriptions() {
            line(&format!("topic read {filter}"));
        }
        let outputs: BTreeSet<String> = self.routes.from_routes().iter().map(FromRoute::output).collect();
        for output in outputs {
            line(&format!("topic write {output}"));
        }
        line("");
        line("# A device sends under its own user name and hears its own results; add the topics it may listen to.");
        for own in [
            "write {base}/by/%u/send/#",
            "write {base}/by/%u/call/#",
            "read {base}/by/%u/result/#",
            "read {base}/by/%u/ack/#",
        ] {
            line(&format!("# pattern {}", own.replace("{base}", base)));
        }
        lines
    }
}
