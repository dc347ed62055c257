//! How each broker is run: as little configuration as it needs.

use std::path::Path;
use std::process::Command;

use super::broker::unpacked;
use crate::support::mosquitto::free_port;

/// Mosquitto 2.1 as the drop-in configuration says it for that version: every change goes to SQLite.
pub(super) fn mosquitto_2_1(dir: &Path, port: u16) -> Command {
    let plugin = unpacked("forky-mosquitto/usr/lib");
    let plugin = find(&plugin, "mosquitto_persist_sqlite.so");
    let user = if rustix::process::geteuid().is_root() { "user root\n" } else { "" };
    let conf = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\n{user}persistence_location {}/\nglobal_plugin {}\nplugin_opt_flush_period 1\n",
        dir.display(),
        plugin.display()
    );
    write(dir, "mosquitto.conf", &conf);
    let mut command = Command::new(unpacked("forky-mosquitto/usr/sbin/mosquitto"));
    command.arg("-c").arg(dir.join("mosquitto.conf"));
    command
}

/// NATS of Debian 12.
pub(super) fn nats_2_9(dir: &Path, port: u16) -> Command {
    nats(dir, port, "bookworm-nats-server/usr/sbin/nats-server")
}

/// The newest NATS.
pub(super) fn nats_2_15(dir: &Path, port: u16) -> Command {
    nats(dir, port, "bin/nats-server")
}

fn nats(dir: &Path, port: u16, program: &str) -> Command {
    // MQTT needs a server name and JetStream.
    let conf = format!(
        "server_name: house\nlisten: \"127.0.0.1:{}\"\njetstream {{ store_dir: \"{}\" }}\nmqtt {{ listen: \"127.0.0.1:{port}\" }}\n",
        free_port(),
        dir.join("store").display()
    );
    write(dir, "nats.conf", &conf);
    let mut command = Command::new(unpacked(program));
    command.arg("-c").arg(dir.join("nats.conf"));
    command
}

/// `RabbitMQ` of Debian 12.
pub(super) fn rabbitmq_3_10(dir: &Path, port: u16) -> Command {
    rabbitmq(dir, port, "bookworm-rabbitmq-server", "3.10.8")
}

/// `RabbitMQ` of Debian 13.
pub(super) fn rabbitmq_4_0(dir: &Path, port: u16) -> Command {
    rabbitmq(dir, port, "trixie-rabbitmq-server", "4.0.5")
}

fn rabbitmq(dir: &Path, port: u16, root: &str, version: &str) -> Command {
    let erlang = unpacked(root).join("usr/lib/erlang/bin");
    let amqp = free_port();
    let conf = format!(
        "listeners.tcp.1 = 127.0.0.1:{amqp}\nmqtt.listeners.tcp.1 = 127.0.0.1:{port}\nmqtt.allow_anonymous = true\n"
    );
    write(dir, "rabbitmq.conf", &conf);
    write(dir, "plugins", "[rabbitmq_mqtt].\n");
    let path = std::env::var("PATH").unwrap_or_default();
    // Erlang's port mapper outlives whoever started it, so it is one of our own, in the same process group.
    let script = "epmd -address 127.0.0.1 & exec \"$0\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(unpacked(root).join(format!("usr/lib/rabbitmq/lib/rabbitmq_server-{version}/sbin/rabbitmq-server")))
        .env("PATH", format!("{}:{path}", erlang.display()))
        .env("HOME", dir)
        // Killed, it would leave a dump in the tests' working directory.
        .env("ERL_CRASH_DUMP_SECONDS", "0")
        .env("ERL_EPMD_PORT", free_port().to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODENAME", format!("house{port}@localhost"))
        .env("RABBITMQ_DIST_PORT", free_port().to_string())
        .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("plugins"))
        .env("RABBITMQ_MNESIA_BASE", dir.join("data"))
        .env("RABBITMQ_LOG_BASE", dir.join("log-files"))
        .env("RABBITMQ_LOGS", "-")
        .env("RABBITMQ_CONF_ENV_FILE", dir.join("none"));
    command
}

/// aedes, in a server as small as its manual's.
pub(super) fn aedes(_dir: &Path, port: u16) -> Command {
    let mut command = Command::new(unpacked("bin/node"));
    command.arg(script("aedes_server.mjs")).arg(unpacked("node_modules/aedes/aedes.js")).arg(port.to_string());
    command
}

/// amqtt, by its own command.
pub(super) fn amqtt(dir: &Path, port: u16) -> Command {
    let conf = format!(
        "listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{port}\nplugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
    );
    write(dir, "amqtt.yaml", &conf);
    let mut command = Command::new(unpacked("bin/amqtt"));
    command.arg("-c").arg(dir.join("amqtt.yaml"));
    command
}

fn script(name: &str) -> String {
    format!("{}/tests/it/brokers/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn write(dir: &Path, name: &str, content: &str) {
    std::fs::write(dir.join(name), content).expect("a configuration file");
}

/// The file of this name somewhere below: Debian puts libraries into a directory named by the machine.
fn find(dir: &Path, name: &str) -> std::path::PathBuf {
    let below = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    below(dir)
        .flat_map(|dir| below(&dir).chain([dir]).collect::<Vec<_>>())
        .flat_map(|dir| below(&dir).chain([dir]).collect::<Vec<_>>())
        .find(|path| path.ends_with(name))
        .unwrap_or_else(|| panic!("no {name} below {}: run these tests by .ci/brokers", dir.display()))
}
