//! ilink2mqtt makes iLink, an IoT and instant-messaging cloud, and a local MQTT broker one system.
//!
//! Both directions are the same five steps: **accept → make durable → answer the sender → deliver → complete.**
//!
//! # Walkthroughs
//!
//! **A push** ([`inbound`]). Connection ([`listener`]) → POST → path and body cap → [`protocol::Push::decode`] → [`store`] append (group commit, sync) →
//! `{"code":0}` → relay loop → publish QoS 1 → PUBACK → complete. The broker being down changes nothing before the relay loop.
//!
//! **A command** ([`outbound`]). PUBLISH arrives, unacknowledged → [`local::command::decode`] → spool append → PUBACK → deliver
//! loop: lane by lane, token, (a durable "sent" mark where a call must not be repeated,) POST → one commit replaces the command
//! by its result → result published → its PUBACK → complete. On start a result row is published, a "sent" row becomes
//! `uncertain`, anything else is delivered.
//!
//! **Registration** ([`cloud::session`]). The callback is bound and served first: iLink calls back *during* `set_config`. Then
//! query, register if needed, fetch a token, keep the configured subscriptions, read the presence of the configured uids.
//!
//! **Stopping** ([`app`]). No more commands; both loops drain; results drain; the session; the link says `offline` and
//! disconnects; the callback closes last; then the spool. A part that ends unasked stops the process with a failure; then
//! the callback is cut first, and nothing is answered any more.
//!
//! # Layers
//!
//! Arrows go down only: `main → app → {inbound, outbound, admin, control, report} → {store, mqtt, cloud} → local → protocol`.
//! [`protocol`] (what iLink's manual says), [`local`] (what we promise on MQTT) and above them [`route`] (what existing devices
//! say and hear) know no sockets, files, clocks or randomness, and a test keeps it so; [`routing`] puts routes to work. The
//! three adapters [`store`], [`mqtt`] and [`cloud`] never import each other. [`app`] hands plain values from [`config`] down;
//! there are no globals. What is beside the arrows serves many and imports none of them: [`listener`] (HTTP for [`inbound`]
//! and [`admin`]), [`open_files`], [`children`], [`clock`], [`log`], [`files`], [`secret`], [`tls`] and their like; [`systemd`] is how a
//! service manager hands us sockets and hears how we are. [`sim`] is iLink as we understand it, for the tests, the demo and
//! people without an account.

pub mod admin;
pub mod app;
pub mod children;
pub mod cli;
pub mod clock;
pub mod cloud;
pub mod config;
pub mod control;
pub mod counters;
pub mod delivery;
pub mod demo;
pub mod dry_run;
pub mod files;
pub mod inbound;
pub mod listener;
pub mod local;
pub mod log;
pub mod manual;
pub mod mqtt;
pub mod open_files;
pub mod outbound;
pub mod progress;
pub mod protocol;
pub mod report;
pub mod route;
pub mod routing;
pub mod row;
pub mod secret;
pub mod series;
pub mod set_aside;
pub mod shutdown;
pub mod sim;
pub mod state_dir;
pub mod store;
pub mod systemd;
pub mod tls;
pub mod trail;
