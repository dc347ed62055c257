//! The embedded broker of the demo, all in memory.

use std::io;
use std::net::SocketAddr;

use mqtt5::broker::config::{StorageBackend, StorageConfig};
use mqtt5::broker::{BrokerConfig, MqttBroker};
use tokio_util::sync::CancellationToken;

/// Starts it on `listen`, else on a free loopback port, until `stop`; returns where it listens.
///
/// # Errors
/// If it cannot listen there.
pub(super) async fn start(listen: Option<SocketAddr>, stop: CancellationToken) -> io::Result<SocketAddr> {
    let config = BrokerConfig {
        bind_addresses: vec![listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))],
        storage_config: StorageConfig {
            backend: StorageBackend::Memory,
            enable_persistence: false,
            ..StorageConfig::default()
        },
        sys_topics_enabled: false,
        ..BrokerConfig::default()
    };
    let mut broker = MqttBroker::with_config(config).await.map_err(io::Error::other)?;
    let address = broker.local_addr().ok_or_else(|| io::Error::other("the embedded broker does not listen"))?;
    let handle = broker.shutdown_handle();
    tokio::spawn(async move { broker.run().await });
    tokio::spawn(async move {
        stop.cancelled().await;
        handle.shutdown();
    });
    Ok(address)
}
