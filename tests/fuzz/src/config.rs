//! The configuration: any file and any environment is a configuration or a list of what is wrong, and neither shows a secret.

use std::fmt::Write;
use std::fs;

use ilink2mqtt::config::{Config, Environment};
use ilink2mqtt::local::filter::is_valid_filter;
use tempfile::TempDir;

use super::input::{parts, text};

/// The secret. It is a valid path secret and a valid handshake token too.
const SECRET: &str = "c4n4ry7c4n4ry7c4n4ry7c4n4";
/// No part of it may be shown that is as long as this.
const SHOWN_AT_MOST: usize = 6;

/// Where the secret stands in the file: before what the fuzzer writes, which goes on in the same section.
const PLACES: [&str; 30] = [
    "",
    "[ilink]\nsecretkey = \"@@\"\n",
    "[mqtt]\nusername = \"u\"\npassword = '@@'\n",
    "[admin]\ntoken = \"\"\"@@\"\"\"\n",
    "[callback]\ntoken = \"@@\"\n",
    "[callback]\npath_secret = \"@@\"\n",
    "[callback]\ntoken = \"@@!\"\n",
    "[callback]\npath_secret = \"@@ @@\"\n",
    // Wrong in the ways in which people write secrets wrong.
    "[ilink]\nsecretkey = @@\n",
    "[ilink]\nsecretkey = \"@@\n",
    "[ilink]\nsecretkey = @@\"\n",
    "[ilink]\nsecretkey = 12@@\n",
    "[ilink]\nsecretkey = \"@@\" @@\n",
    "[ilink]\nsecretkey = \"\\q@@\"\n",
    "[ilink]\nsecretkey = [\"@@\"]\n",
    "[ilink]\nsecretkey = { value = \"@@\" }\n",
    "[ilink.secretkey]\nvalue = \"@@\"\n",
    "[[ilink.secretkey]]\nvalue = \"@@\"\n",
    "[ilink]\nsecretkey: @@\n",
    "[ilink]\nsecretkye = \"@@\"\n",
    "[ilink]\nsecretkey = \"@@\"\nsecretkey = \"@@\"\n",
    "secretkey = \"@@\"\n",
    "[ilink]\nsecretkey = \"@@\"\nsecretkey_file = \"/dev/null\"\n",
    // Inside of URLs.
    "[ilink]\nproxy = \"http://user:@@@host\"\n",
    "[ilink]\nproxy = \"ftp://user:@@@host\"\n",
    "[ilink]\napi = \"https://user:@@@host\"\n",
    "[callback]\npublic_url = \"https://host/path?key=@@\"\n",
    "[callback]\npublic_url = \"https://host:port/path?key=@@\"\n",
    "[mqtt]\nbroker = \"mqtt://user:@@@host\"\n",
    "[mqtt]\nbroker = \"mqtt://host/?password=@@\"\n",
];

/// Where it stands in the environment.
const VARIABLES: [&str; 8] = [
    "ILINK2MQTT_ILINK__SECRETKEY=@@",
    "ILINK2MQTT_MQTT__PASSWORD=@@",
    "ILINK2MQTT_CALLBACK__PATH_SECRET=@@",
    "ILINK2MQTT_CALLBACK__TOKEN=!@@",
    "ILINK2MQTT_ILINK__SECRETKEY__X=@@",
    "ILINK2MQTT_SECRETKEY=@@",
    "ILINK2MQTT_ILINK__PROXY=http://user:@@@",
    "ILINK2MQTT_MQTT__BROKER=mqtt://user:@@@host",
];

/// What must be set, as variables: so that the rest of a configuration is reached.
const REQUIRED: [(&str, &str); 4] = [
    ("ILINK2MQTT_ILINK__APPKEY", "A"),
    ("ILINK2MQTT_ILINK__SECRETKEY", "S"),
    ("ILINK2MQTT_ILINK__UID", "413"),
    ("ILINK2MQTT_CALLBACK__PUBLIC_URL", "https://bridge.example.org"),
];

/// A place in the file, one in the environment, whether what must be set is; variables, one a line; the file.
pub fn run(data: &[u8]) {
    let [places, variables, file] = parts(data);
    // A variable holds no NUL.
    let (variables, file) = (text(variables).replace('\0', ""), text(file));
    if has_secret(&variables) || has_secret(&file) {
        return;
    }
    let place = |n: usize| usize::from(places.get(n).copied().unwrap_or_default());
    let with_secret = |text: &str| text.replace("@@", SECRET);
    let file = with_secret(PLACES[place(0) % PLACES.len()]) + &file;
    let own = VARIABLES.get(place(1) % 16).map(|variable| with_secret(variable));
    let required = REQUIRED.into_iter().filter(|_| place(2) % 2 == 1).map(|(name, value)| format!("{name}={value}"));
    let given = variables.lines().map(|line| format!("ILINK2MQTT_{line}"));
    let all = required.chain(given).chain(own);
    let environment: Environment =
        all.filter_map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))).collect();

    thread_local! {
        static DIR: TempDir = TempDir::new().unwrap();
    }
    DIR.with(|dir| {
        let path = dir.path().join("config.toml");
        fs::write(&path, &file).unwrap();
        let mut shown = format!("{environment:?}");
        match Config::load(Some(&path), &environment) {
            Ok(config) => {
                check(&config);
                let _ = write!(shown, "{config:?}{}{:?}", config.describe(), config.warnings());
                assert!(config.restart_needed(&config.clone()).is_empty());
            }
            Err(error) => {
                assert!(!error.problems.is_empty());
                let _ = write!(shown, "{error}{error:?}");
            }
        }
        assert!(!has_secret(&shown), "a secret is shown: {shown}");
    });
}

fn has_secret(text: &str) -> bool {
    SECRET.as_bytes().windows(SHOWN_AT_MOST).any(|part| text.contains(std::str::from_utf8(part).unwrap()))
}

/// What the parts are handed is what they can use.
fn check(config: &Config) {
    assert!(!config.ilink.appkey.is_empty() && !config.state_dir.as_os_str().is_empty());
    assert!(config.mqtt.response_topics.iter().all(|filter| is_valid_filter(filter)));
    assert!(matches!(config.mqtt.broker.scheme(), "mqtt" | "mqtts") && config.mqtt.broker.port().is_some());
    assert!(matches!(config.ilink.api.scheme(), "http" | "https") && config.ilink.api.host_str().is_some());
    assert_eq!(config.mqtt.session_expiry.subsec_nanos(), 0);
    assert!(config.mqtt.password.is_none() || config.mqtt.username.is_some());
    assert!(!config.ilink.timeout.is_zero());
    // Deadlines are made of these.
    let now = ilink2mqtt::os::clock::Stamp::now();
    let _ = (now.plus(config.outbound.ttl), now.plus(config.callback.verify_every));
}
