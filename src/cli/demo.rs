//! The demo's arguments, and those of the processes that it starts.

use std::ffi::OsString;
use std::net::SocketAddr;

use clap::Args;
use url::Url;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Use this broker instead of the embedded one, with the base topic ilink-demo
    #[arg(long, value_name = "URL", conflicts_with = "mqtt_listen")]
    pub broker: Option<Url>,
    /// The address of the embedded broker [default: a free port of 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    pub mqtt_listen: Option<SocketAddr>,
    /// Several bridges.
    #[arg(
        long,
        value_name = "BRIDGES",
        value_parser = clap::value_parser!(u8).range(2..=5),
        help = "Run so many bridges (2 to 5) for one account, with etcd, which must be installed: kill one and watch"
    )]
    pub cluster: Option<u8>,
}

/// Arguments of `demo-process`.
#[derive(Debug, Args)]
pub struct DemoProcess {
    /// The demo's number
    pub demo: i32,
    /// What to run instead of this program
    #[arg(last = true, required = true)]
    pub program: Vec<OsString>,
}
