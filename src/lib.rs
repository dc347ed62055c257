//! ilink2mqtt makes iLink, an IoT and instant-messaging cloud, and a local MQTT broker one system.
//!
//! Both directions are the same five steps: **accept → make durable → answer the sender → deliver → complete.**
//!
//! # Walkthroughs
//!
//! **A push** ([`inbound`]). Connection ([`http::listener`]) → POST → path and body cap → [`protocol::Push::decode`] → [`store`] append (group commit, sync) →
//! `{"code":0}` → relay loop → publish QoS 1 → PUBACK → complete. The broker being down changes nothing before the relay loop.
//!
//! **A command** ([`outbound`]). PUBLISH arrives, unacknowledged → [`local::command::decode`] → [`store`] append → PUBACK →
//! deliver loop: lane by lane, token, a durable mark that the call may have been made, POST → one commit replaces the command by
//! its result → result published → its PUBACK → complete. On start a result row is published. A command whose mark says that it
//! must not be made again, or not once more, becomes `uncertain`. Any other is delivered.
//!
//! **Registration** ([`cloud::session`]). The callback is bound and served first: iLink calls back *during* `set_config`. Then
//! query, register if needed, fetch a token, keep the configured subscriptions, read the presence of the configured uids.
//!
//! **Stopping** ([`app`]). No more commands; both loops drain; results drain; the session ends; the link says `offline` and
//! disconnects; the callback closes last; then the store. A part that ends unasked stops the process with a failure. Then
//! the callback is cut first, and nothing is answered any more.
//!
//! **A takeover** ([`app`], in a cluster). Every member serves the callback and stores pushes in etcd. One leads: what it does
//! starts when it has won the election and ends, as one, when it has lost it. Its lease is asked right before each write.
//!
//! `src/README.md` has the same walks file by file, and says where to begin to add a call, a metric, a config key, and so on.
//!
//! # Rooms
//!
//! | room | what is in it |
//! |---|---|
//! | [`app`] | builds the parts, starts them in order, stops them in order; the verbs that need no running bridge |
//! | [`cli`] | the command line: its arguments, the manual page, the dry run of routes |
//! | [`config`] | TOML, environment and credentials become checked values |
//! | [`inbound`], [`outbound`], [`delivery`] | the two directions, and what both use: order, routes at work, what is set aside |
//! | [`store`], [`state_dir`] | the durable queues; the directory with the identity, the token and the lock |
//! | [`mqtt`], [`cloud`], [`http`] | the link to the broker; the session with iLink and its calls; the listener for untrusted networks |
//! | [`protocol`], [`local`], [`route`] | pure: iLink's manual; our MQTT topics and payloads; the rules that connect the topics of existing devices |
//! | [`observe`] | what the parts record: log, counters, recent messages, signs of life |
//! | [`operate`] | what the operator sees and asks: status, admin pages, control socket, service manager |
//! | [`os`] | clocks, files, tasks, signals, certificate files, causes of errors |
//! | [`sim`] | a simulated iLink, for the tests, for people without an account, and for the demo |
//!
//! # Layers
//!
//! Arrows go down only: `main → sim → app → operate → {inbound, outbound} → delivery → {store, mqtt, cloud, http} →
//! observe → config → route → local → protocol`. Neither files nor rooms import each other in a circle. [`protocol`],
//! [`local`] and [`route`] know no sockets, files, clocks or randomness. The adapters [`store`], [`mqtt`], [`cloud`] and
//! [`http`] never import each other. Tests (`architecture.rs`) keep all of this so. [`app`] alone names [`store::sqlite`] and
//! [`store::etcd`]; everything else knows the traits of [`store`]. [`app`] hands plain values from [`config`] down, and all
//! of it to the operator's verbs; there are no globals.

pub mod app;
#[cfg(test)]
mod architecture;
pub mod cli;
pub mod cloud;
pub mod config;
pub mod delivery;
pub mod http;
pub mod inbound;
pub mod local;
pub mod mqtt;
pub mod observe;
pub mod operate;
pub mod os;
pub mod outbound;
pub mod protocol;
pub mod route;
pub mod sim;
pub mod state_dir;
pub mod store;
