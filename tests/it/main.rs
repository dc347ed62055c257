//! Integration tests: one binary, so that they share their support and link once. A folder is one side of the bridge, a file one
//! promise or walkthrough. `blackbox/smoke.rs` is the one to read first; `support/` is what all of them are made of.
//!
//! | where | what it proves |
//! |---|---|
//! | **`admin/`** | the admin listener, as an operator's tools see it |
//! | `admin/browser.rs` | the status page in a real browser (only `.ci/page` runs it) |
//! | `admin/chromium.rs` | helper: that browser, by its driver |
//! | `admin/ingress.rs` | the page behind a proxy that says who may see it: `admin.trusted_ingress` |
//! | `admin/logs.rs` | the log as JSON and in the journal |
//! | `admin/metrics.rs` | `/metrics` after traffic that is known |
//! | `admin/page.rs` | what the page says, never says, and to whom |
//! | `admin/prometheus.rs` | helper: a strict reader of the metrics' format |
//! | `admin/sse.rs` | helper: the page's stream of events |
//! | **`blackbox/`** | the contract with the users: real processes, a real broker, the simulated service |
//! | `blackbox/callback.rs` | handshakes, refusals and repeats at the callback |
//! | `blackbox/codes.rs` | each result code of the manual has its reaction |
//! | `blackbox/commands.rs` | each command has exactly the manual's fields, and gets its result |
//! | `blackbox/delivery.rs` | between acknowledgement and result: expiry, repeats, lanes |
//! | `blackbox/durability.rs` | `kill -9` at any moment loses nothing that was taken |
//! | `blackbox/fairness.rs` | one client's flood is no other's wait |
//! | `blackbox/faults.rs` | a task that panics ends the process, and nothing is answered after it |
//! | `blackbox/for_now.rs` | a broker that refuses for now: nothing is lost, the order stays |
//! | `blackbox/lifecycle.rs` | exit codes, the state directory, configuration errors, signals |
//! | `blackbox/names.rs` | `[names]`: reached by name, called by name, read again |
//! | `blackbox/outages.rs` | broker or service away, at the start or later |
//! | `blackbox/proxy.rs` | a real nginx before the callback |
//! | `blackbox/pushes.rs` | a push of each kind arrives on its topics, in both forms |
//! | `blackbox/rejections.rs` | a wrong command is refused by name, and the service never hears of it |
//! | `blackbox/results.rs` | results that the broker does not take at once |
//! | `blackbox/rights.rs` | the ACL that is shipped for Mosquitto |
//! | `blackbox/security.rs` | TLS on every side, passwords, who may see the admin listener |
//! | `blackbox/set_aside.rs` | what the broker refused comes after all, when the cause is gone |
//! | `blackbox/smoke.rs` | a push becomes a message, a message becomes a call |
//! | `blackbox/state.rs` | retained topics, readiness, presence, two bridges with one base |
//! | `blackbox/states.rs` | what keeps messages from passing is told alike in all four places |
//! | `blackbox/tries.rs` | how often a command leaves, how late, and what a crash leaves of that knowledge |
//! | `blackbox/verbs.rs` | the operator's commands, beside a running daemon and without one |
//! | `blackbox/world.rs` | helper: broker, simulator, bridge and a device |
//! | **`blackbox/callers/`** | hostile callers: a push passes, nothing of theirs is stored, little is logged |
//! | `blackbox/callers/access.rs` | `callback.allow`, `callback.trusted_proxies` |
//! | `blackbox/callers/attackers.rs` | helper: slow connections by the thousand |
//! | `blackbox/callers/bodies.rs` | bodies that nobody should send, from who knows the secret |
//! | `blackbox/callers/crowds.rs` | more connections than there is room for |
//! | `blackbox/callers/floods.rs` | as many requests as callers can send, bad and good |
//! | `blackbox/callers/mutations.rs` | requests with random damage, random bytes |
//! | `blackbox/callers/paths.rs` | guessing teaches nothing about the secret |
//! | `blackbox/callers/peers.rs` | peers that leave, half leave or do not listen |
//! | `blackbox/callers/wire.rs` | bytes that are not quite HTTP, requests hidden in others |
//! | **`brokers/`** | the same walk at every broker that people have (only `.ci/brokers` runs it) |
//! | `brokers/broker.rs` | helper: a broker's process |
//! | `brokers/device.rs` | helper: an MQTT 3.1.1 device |
//! | `brokers/kinds.rs` | helper: how each broker is run |
//! | `brokers/walk.rs` | the walk, and what differs between them |
//! | **`cloud/`** | the way to iLink |
//! | `cloud/client.rs` | one POST: its form, and why there is no reply |
//! | `cloud/odd_answers.rs` | odd answers: believed, or uncertain and not sent twice; others go on |
//! | `cloud/session.rs` | registration and token against the simulator (the reaction to codes: `src`, paused clock) |
//! | **`cluster/`** | several bridges for one account, with a real etcd: takeover, hand-over, no majority |
//! | `cluster/etcds.rs` | an etcd of three: one dies, two die; TLS, users |
//! | `cluster/large.rs` | what is too large for etcd blocks nothing |
//! | `cluster/majority.rs` | commands that come while etcd has no majority |
//! | `cluster/repeats.rs` | a push that is tried at two members is one message |
//! | `cluster/rights.rs` | what the etcd user may not do is named |
//! | `cluster/shares.rs` | a client's share is counted also by a process that led before |
//! | `cluster/silent.rs` | a takeover while one of etcd's endpoints swallows what it is told |
//! | `cluster/space.rs` | an etcd that is out of space: who cannot lead says so |
//! | `cluster/stops.rs` | members that stop together, half-way, or without etcd |
//! | `cluster/waiting.rs` | a member that waits for etcd before it begins says so, and begins when etcd comes |
//! | `cluster/wrong.rs` | what is configured wrongly is told |
//! | **`demo/`** | `demo`: both directions at work, and somebody joining in |
//! | `demo/clients.rs` | the clients that people have, at its embedded broker (only `.ci/demo` runs it) |
//! | `demo/cluster.rs` | `demo --cluster`: a bridge is killed, and messages go on |
//! | **`disk/`** | power cuts and disks that are full, slow, damaged or fail |
//! | `disk/bridge_cuts.rs` | the whole bridge: at any power cut all that it promised is there |
//! | `disk/child.rs` | helper: a process that uses the spool while it is recorded |
//! | `disk/damage.rs` | something else, or something damaged, where a file of ours should be |
//! | `disk/failed_syncs.rs` | whichever sync fails: what was answered is there, and nothing is answered after it |
//! | `disk/failing.rs` | a disk that fails while the bridge runs, or from the start |
//! | `disk/full.rs` | a full disk: nothing is answered that was not stored |
//! | `disk/hanging.rs` | a disk that hangs: nothing is answered, what waits is bounded |
//! | `disk/platter.rs` | helper: a disk that loses power |
//! | `disk/promises.rs` | helper: what a recorded bridge had promised when |
//! | `disk/recording.rs` | helper: the history that `recorder.c` writes |
//! | `disk/small_disk.rs` | helper: a disk that can be filled |
//! | `disk/spool_cuts.rs` | the spool alone: what may and what must be found after a power cut |
//! | `disk/told.rs` | full, refusing for now, failed for good: told apart |
//! | **`honest/`** | every failure is shown with cause and remedy, and nothing shows a secret |
//! | `honest/broker_states.rs` | what the broker can do to us, as it is told |
//! | `honest/canary.rs` | helper: secrets that are recognised wherever they turn up |
//! | `honest/cloud_states.rs` | what iLink can do to us, as it is told |
//! | `honest/debug.rs` | `Debug` of what holds a secret |
//! | `honest/modes.rs` | who may read what the bridge writes |
//! | `honest/own_states.rs` | our own limits, and who attacks us, as it is told |
//! | `honest/panics.rs` | a panic's message is not shown |
//! | `honest/secret_errors.rs` | our own errors about what holds a secret |
//! | `honest/secret_peers.rs` | peers that repeat what they were told |
//! | `honest/secrets.rs` | every verb, page, topic and log level, with a canary in every secret |
//! | `honest/shown.rs` | helper: what an operator sees |
//! | **`hostile_devices/`** | what devices on the LAN may do, by malice or by mistake |
//! | `hostile_devices/accounts.rs` | forgeries on the bridge's own topics |
//! | `hostile_devices/floods.rs` | floods, to one receiver, to very many, of results |
//! | `hostile_devices/malformed.rs` | topics and payloads that mean nothing, at full speed |
//! | `hostile_devices/properties.rs` | MQTT 5 properties as no honest device sets them |
//! | `hostile_devices/redelivery.rs` | what a broker delivers twice is executed once |
//! | `hostile_devices/retained.rs` | a mine-field of retained commands |
//! | `hostile_devices/sizes.rs` | giants |
//! | `hostile_devices/storm.rs` | helper: the world of a storm, and what must hold after it |
//! | `hostile_devices/v4_broker.rs` | helper: a scripted broker for MQTT 3.1.1 |
//! | **`link/`** | the link to the broker alone: nothing lost, nothing acknowledged falsely |
//! | `link/attempts.rs` | attempts that fail: how often, and what is said of them |
//! | `link/cuts.rs` | connections cut in the middle of packets |
//! | `link/hostile.rs` | brokers that break, bend or barely keep the rules |
//! | `link/inbox.rs` | received messages and their acknowledgements |
//! | `link/lanes.rs` | the relay: what waits, what goes on, in which order it ends |
//! | `link/mosquitto.rs` | a real Mosquitto: authorisation, session, last words |
//! | `link/outbox.rs` | publications refused for now or for good, or outlived |
//! | `link/results.rs` | results from the spool to the broker |
//! | `link/standing.rs` | what should stand at the broker comes to stand there |
//! | `link/tls.rs` | `mqtts://` with and without a client certificate |
//! | **`routes/`** | routes: devices with topics and payloads of their own |
//! | `routes/answers.rs` | routes that answer: to whom, after what, and never themselves |
//! | `routes/durable.rs` | `kill -9` may repeat, and leaves out nothing |
//! | `routes/examples.rs` | the examples of routes.md, Tasmota, zigbee2mqtt, `ESPHome` |
//! | `routes/limits.rs` | what does not fire a route, and how often one may |
//! | `routes/numbers.rs` | numbers that cross a limit: Tasmota, zigbee2mqtt, `ESPHome`, Shelly |
//! | `routes/reload.rs` | SIGHUP: all or nothing |
//! | `routes/verbs.rs` | `route test`, `route list`, `check` |
//! | **`sim/`** | the simulated service itself, driven over HTTP |
//! | `sim/account.rs` | registering with its handshake, tokens |
//! | `sim/calls.rs` | what the calls do with its memory |
//! | `sim/control.rs` | faults, its state, its listener |
//! | `sim/harness.rs` | helper: a simulator, a client of it, a scripted callback |
//! | `sim/pushes.rs` | tries, order and receivers of pushes |
//! | **`systemd/`** | the bridge under a service manager |
//! | `systemd/notify.rs` | what it says at a `NOTIFY_SOCKET` |
//! | `systemd/sockets.rs` | sockets that outlive the process: an upgrade refuses nobody |
//! | **`support/`** | helpers of all |
//! | `support/bridge.rs` | the bridge as a process |
//! | `support/client.rs` | an MQTT 5 device that keeps what it was sent |
//! | `support/deserted.rs` | an address where nobody listens |
//! | `support/etcd.rs` | a real etcd of one member or three |
//! | `support/http.rs` | HTTP, proper and byte for byte |
//! | `support/messages.rs` | `deploy/messages.md`, and what of a log it does not have |
//! | `support/mosquitto.rs` | a real Mosquitto |
//! | `support/pki.rs` | a certificate authority |
//! | `support/process.rs` | a process: its output, its signals, its end |
//! | `support/proxy.rs` | a TCP proxy that cuts |
//! | `support/random.rs` | numbers from a fixed seed |
//! | `support/reacting_broker.rs` | a broker that takes, refuses or dies at each publish |
//! | `support/schema.rs` | a validator of JSON Schema |
//! | `support/scripted_broker.rs` | a broker that does what a test says, packet by packet |
//! | `support/scripted_cloud.rs` | an HTTP server that misbehaves as told |
//! | `support/sim.rs` | the simulated service as a process |
//! | `bug_report.rs` | `report`: no secret, no content, nobody's name |
//! | `checkup.rs` | `check --connect`: each step names cause and remedy |
//! | `fuzz.rs` | every input that the fuzzer found (`tests/fuzz/`) |
//! | `homeassistant.rs` | Home Assistant's discovery, as its integration reads it |
//! | `messages.rs` | `deploy/messages.md` has every WARN and ERROR, and no other |
//! | `schemas.rs` | the schemas that are shipped, held against real messages and the example configuration |
//! | `setup.rs` | `setup`: from nothing to a configuration that works |
//! | `spool.rs` | the files of the SQLite store: at rest, closed, damaged (what any store promises: `src/store/conformance`) |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is tests; clippy's exception for tests does not reach their helpers"
)]

mod admin;
mod blackbox;
mod brokers;
mod bug_report;
mod checkup;
mod cloud;
mod cluster;
mod demo;
mod disk;
mod fuzz;
mod homeassistant;
mod honest;
mod hostile_devices;
mod link;
mod messages;
mod routes;
mod schemas;
mod setup;
mod sim;
mod spool;
mod support;
mod systemd;

use std::collections::BTreeSet;
use std::path::Path;

/// What is below this folder, as the map names it: folders end in `/` and stand for their `mod.rs`.
fn places(root: &Path, below: &str, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(root.join(below)).unwrap().flatten() {
        let name = format!("{below}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            let folder = format!("{name}/");
            places(root, &folder, found);
            found.insert(folder);
        } else if Path::new(&name).extension().is_some_and(|kind| kind == "rs")
            && name != "main.rs"
            && !name.ends_with("/mod.rs")
        {
            found.insert(name);
        }
    }
}

#[test]
fn the_map_names_every_file_and_no_other() {
    let named: Vec<_> = include_str!("main.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! | ")?.split_once('|'))
        .filter_map(|(place, _)| Some(place.split_once('`')?.1.split_once('`')?.0.to_owned()))
        .collect();
    let mut there = BTreeSet::new();
    places(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it"), "", &mut there);
    let once: BTreeSet<_> = named.iter().cloned().collect();
    assert_eq!(once, there);
    assert_eq!(named.len(), once.len(), "a file is named twice");
}
