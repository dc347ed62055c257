//! What devices on the LAN may do to the bridge, by malice or by mistake: the real program, a real Mosquitto (or a broker that
//! does what no real one does), the simulated service.
//!
//! Each test is a storm of one kind, with good commands before, amid and after it. After each, [`Storm::is_over`] looks at what
//! must hold whatever happened: the process lives, its memory is bounded, the log was not flooded, the spool is empty, nothing
//! spins.
//!
//! The sizes are small enough for every run of the tests. `ILINK2MQTT_STORM=20` makes them twenty times as large, and
//! `--nocapture` prints the figures:
//!
//! ```sh
//! ILINK2MQTT_STORM=20 tests/run --test it hostile_devices -- --nocapture --test-threads 1
//! ```

mod accounts;
mod floods;
mod malformed;
mod properties;
mod redelivery;
mod retained;
mod sizes;
mod storm;
mod v4_broker;

use storm::Storm;

/// How many times larger than in every run.
fn scaled(n: usize) -> usize {
    let scale = std::env::var("ILINK2MQTT_STORM").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1);
    n * scale
}
