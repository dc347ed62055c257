//! Against a real etcd.

mod adopt;
mod client;
mod clocks;
mod conformance;
mod election;
mod foreign;
mod large;
mod missed;
mod order;
mod proxy;
mod server;
mod space;
mod store;
mod tokens;

use std::time::Duration;

pub(crate) use proxy::Proxy;
pub(crate) use server::{Server, shared};
use url::Url;

use super::EtcdConfig;
use crate::os::tls::ClientFiles;
use crate::store::Limits;

const ROOMY: Limits = Limits { inbound: 1 << 30, outbound: 1 << 30, set_aside: 1 << 24 };
/// How long anything may take on a loaded machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// A place of its own in an etcd.
pub(crate) fn config(endpoint: &str, member: &str) -> EtcdConfig {
    EtcdConfig {
        endpoints: vec![Url::parse(endpoint).unwrap()],
        prefix: format!("/test/{}", ulid::Ulid::generate()),
        member: member.to_owned(),
        login: None,
        tls: ClientFiles::default(),
        // Longer than a loaded machine keeps anybody waiting.
        takeover: Duration::from_secs(20),
        limits: ROOMY,
    }
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("in time")
}
