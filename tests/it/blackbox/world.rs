//! A broker, a simulated service, a bridge between them and a device that hears everything.

use crate::support::bridge::Bridge;
use crate::support::client::Client;
use crate::support::mosquitto::Mosquitto;
use crate::support::sim::Sim;

pub(crate) struct World {
    pub(crate) bridge: Bridge,
    pub(crate) sim: Sim,
    pub(crate) client: Client,
    pub(crate) broker: Mosquitto,
}

impl World {
    /// All of it, ready.
    pub(crate) async fn ready() -> Self {
        Self::ready_with(|bridge| bridge).await
    }

    /// All of it, ready, with the bridge configured by `configure`.
    pub(crate) async fn ready_with(configure: impl FnOnce(Bridge) -> Bridge) -> Self {
        let mut world = Self::prepared(&[], configure).await;
        world.bridge.start().await;
        world
    }

    /// All of it, with the admin listener on every address and this token.
    pub(crate) async fn with_open_admin_listener(token: &str) -> Self {
        let mut world = Self::prepared(&[], |bridge| {
            let listen = format!("0.0.0.0:{}", bridge.admin_port());
            bridge.with("admin.listen", &listen).with("admin.token", token)
        })
        .await;
        world.bridge.spawn();
        world.client.expect_text("ilink/bridge/cloud", "online").await;
        world
    }

    /// All of it but the bridge, which is configured and not started.
    pub(crate) async fn prepared(sim_args: &[&str], configure: impl FnOnce(Bridge) -> Bridge) -> Self {
        Self::prepared_on("", sim_args, configure).await
    }

    /// As [`Self::prepared`], with these lines in the broker's configuration.
    pub(crate) async fn prepared_on(
        broker_conf: &str,
        sim_args: &[&str],
        configure: impl FnOnce(Bridge) -> Bridge,
    ) -> Self {
        let broker = Mosquitto::start(broker_conf);
        let sim = Sim::start(sim_args).await;
        let bridge = configure(Bridge::new(&broker, &sim));
        let client = Client::connect(&broker).await;
        client.subscribe("ilink/#").await;
        Self { bridge, sim, client, broker }
    }
}
