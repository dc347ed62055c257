//! Secrets: three places each, one at a time, and never shown.

use secrecy::{ExposeSecret, SecretString};

use super::*;

const SECRET: &str = "hunter2hunter2hunter2hu";

fn of(config: &Config, key: &str) -> Option<SecretString> {
    match key {
        "ilink.secretkey" => Some(config.ilink.secretkey.clone()),
        "callback.token" => config.callback.token.clone(),
        "callback.path_secret" => config.callback.path_secret.clone(),
        "mqtt.password" => config.mqtt.password.clone(),
        "admin.token" => config.admin.token.clone(),
        _ => panic!("{key}"),
    }
}

const KEYS: [&str; 5] = ["ilink.secretkey", "callback.token", "callback.path_secret", "mqtt.password", "admin.token"];

const ACCOUNT: &str =
    "ilink.appkey = \"a\"\nilink.uid = 1\ncallback.public_url = \"https://b\"\nmqtt.username = \"u\"\n";

/// `ACCOUNT`, with the secret key unless that is the one being tried.
fn base(key: &str) -> String {
    let secretkey = if key == "ilink.secretkey" { "" } else { "ilink.secretkey = \"other\"\n" };
    format!("{ACCOUNT}{secretkey}")
}

#[test]
fn each_is_found_at_its_key_in_its_file_and_among_the_credentials() {
    for key in KEYS {
        let place = Place::new("");
        let secret_file = place.put("secret", &format!("{SECRET}\n")).display().to_string();
        place.put("config.toml", &format!("{}{key} = \"{SECRET}\"", base(key)));
        let direct = place.load(&[]).unwrap();
        place.put("config.toml", &format!("{}{key}_file = \"{secret_file}\"", base(key)));
        let in_file = place.load(&[]).unwrap();
        place.put("config.toml", &base(key));
        place.put(key, &format!("{SECRET}\r\n"));
        let directory = place.directory.path().display().to_string();
        let credential = place.load(&[("CREDENTIALS_DIRECTORY", &directory)]).unwrap();
        let variable = format!("ILINK2MQTT_{}_FILE", key.to_uppercase().replace('.', "__"));
        let by_variable = place.load(&[(&variable, &secret_file)]).unwrap();
        for (config, way) in [(direct, "key"), (in_file, "file"), (credential, "credential"), (by_variable, "variable")]
        {
            assert_eq!(of(&config, key).unwrap().expose_secret(), SECRET, "{key} by {way}");
            for shown in [format!("{config:?}"), config.describe()] {
                assert!(!shown.contains("hunter2"), "{key} by {way}: {shown}");
            }
            assert!(config.describe().contains("********"), "{key} by {way}");
        }
    }
}

#[test]
fn only_one_place_may_be_set_but_credentials_give_way() {
    for key in KEYS {
        let place = Place::new("");
        let secret_file = place.put("secret", SECRET).display().to_string();
        let file = place.put("config.toml", &format!("{}{key}_file = \"{secret_file}\"", base(key)));
        let variable = format!("ILINK2MQTT_{}", key.to_uppercase().replace('.', "__"));
        let error = place.load(&[(&variable, SECRET)]).unwrap_err().to_string();
        let says = [key, &format!("{key}_file"), &variable, &file.display().to_string(), "both"];
        assert!(says.iter().all(|what| error.contains(what)), "{error}");
        assert!(!error.contains("hunter2"));

        place.put(key, "hunter3hunter3hunter3hu");
        let directory = place.directory.path().display().to_string();
        let config = place.load(&[("CREDENTIALS_DIRECTORY", &directory)]).unwrap();
        assert_eq!(of(&config, key).unwrap().expose_secret(), SECRET);
    }
}

#[test]
fn what_only_root_may_read_is_handed_over() {
    for key in KEYS {
        let place = Place::new(&format!("{}{key}_file = \"/nonexistent/secret\"", base(key)));
        let directory = place.directory.path().display().to_string();
        let environment = [("CREDENTIALS_DIRECTORY", directory.as_str())];
        // An empty line: systemd's default for a file that is not there.
        place.put(key, "\n");
        let error = place.load(&environment).unwrap_err().to_string();
        assert!(error.contains(&format!("{key}_file")) && error.contains("/nonexistent/secret"), "{error}");
        place.put(key, &format!("{SECRET}\n"));
        let config = place.load(&environment).unwrap();
        assert_eq!(of(&config, key).unwrap().expose_secret(), SECRET, "{key}");
    }
    let place = Place::new(&base("mqtt.password"));
    place.put("mqtt.password", "\n");
    let directory = place.directory.path().display().to_string();
    let config = place.load(&[("CREDENTIALS_DIRECTORY", directory.as_str())]).unwrap();
    assert!(of(&config, "mqtt.password").is_none());
}

#[test]
fn files_of_secrets_must_exist_and_hold_something() {
    for key in KEYS {
        let place = Place::new(&format!("{}{key}_file = \"/nonexistent/secret\"", base(key)));
        let error = place.load(&[]).unwrap_err().to_string();
        assert!(error.contains(&format!("{key}_file")) && error.contains("/nonexistent/secret"), "{error}");
        let empty = place.put("empty", "\n").display().to_string();
        place.put("config.toml", &format!("{}{key}_file = \"{empty}\"", base(key)));
        let error = place.load(&[]).unwrap_err().to_string();
        assert!(error.contains(&empty) && error.contains("the file is empty"), "{error}");
        let two = place.put("two", &format!("{SECRET}\n{SECRET}\n")).display().to_string();
        place.put("config.toml", &format!("{}{key}_file = \"{two}\"", base(key)));
        let error = place.load(&[]).unwrap_err().to_string();
        assert!(error.contains(&two) && error.contains("more than one line") && !error.contains(SECRET), "{error}");
        place.put("two", &format!("{SECRET}\n\n"));
        assert_eq!(of(&place.load(&[]).unwrap(), key).unwrap().expose_secret(), SECRET);
    }
}

#[test]
fn a_refused_secret_is_not_repeated() {
    for (toml, key) in [
        ("callback.token = \"hunter2!\"", "callback.token"),
        ("callback.path_secret = \"hunter2-short\"", "callback.path_secret"),
        ("callback.path_secret = \"hunter2/with/slashes/hunter2\"", "callback.path_secret"),
        ("mqtt.password = [\"hunter2\"]", "mqtt.password"),
        ("mqtt.broker = \"mqtt://ann:hunter2@broker\"", "mqtt.broker"),
        ("mqtt.broker = \"mqttx://ann:hunter2@broker\"", "mqtt.broker"),
        ("ilink.proxy = \"socks5://ann:hunter2@proxy\"", "ilink.proxy"),
        ("ilink.api = \"https://ann:hunter2@api\"", "ilink.api"),
        ("ilink.proxy = \"ann:hunter2@proxy\"", "ilink.proxy"),
        ("ilink.proxy = [\"http://ann:hunter2@proxy\"]", "ilink.proxy"),
    ] {
        let error = load(toml).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(key) && !text.contains("hunter2"), "{text}");
    }
    let integer = load("mqtt.username = \"u\"\nmqtt.password = 12345678").unwrap_err().to_string();
    assert!(integer.contains("mqtt.password") && !integer.contains("12345678"), "{integer}");
}

#[test]
fn passwords_in_urls_are_not_shown() {
    let variables = [
        ("ILINK2MQTT_ILINK__PROXY", "http://ann:hunter2@proxy:3128"),
        ("ILINK2MQTT_CALLBACK__PUBLIC_URL", "https://bridge.example.org/?key=hunter2"),
    ];
    let config = load_variables(&variables).unwrap();
    for shown in [format!("{config:?}"), config.describe()] {
        assert!(!shown.contains("hunter2") && shown.contains("bridge.example.org"), "{shown}");
    }
}
