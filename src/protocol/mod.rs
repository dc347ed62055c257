//! What the vendor's manual says, and nothing else: identifiers, the handshake's signature, message content, pushes,
//! calls, replies and result codes. Section signs (§) in this module's documentation are the manual's.
//!
//! Place in the flow: the lowest layer. The callback decodes what iLink sends ([`Push::decode`],
//! [`signature::verify`]). The session and the client encode what iLink is sent ([`Call::request`]) and decode what it
//! answers ([`Reply::decode`]). `local` translates between these types and the MQTT topics.
//!
//! It performs nothing: no sockets, files, clocks, randomness, threads or MQTT. A test (`architecture.rs`) keeps it so.

pub mod account;
pub mod call;
pub mod code;
pub mod content;
mod fields;
pub mod ids;
pub mod lenient;
pub mod push;
pub mod reply;
pub mod signature;

pub use account::{Account, Request, SetConfig, get_access_token};
pub use call::{Call, Qos, Receiver};
pub use code::{Class, ResultCode};
pub use content::Content;
pub use ids::{EmptyId, GroupId, Subject, Uid};
pub use push::{Kind, Message, NotAnObject, Push};
pub use reply::{NotAReply, Reply, TokenGrant};
pub use signature::{Accepted, Variant};

#[cfg(test)]
mod golden;
#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::architecture::files_in;

    #[test]
    fn every_fixture_is_used() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        for file in files_in(&fixtures) {
            let name = file.strip_prefix(&fixtures).unwrap().display().to_string();
            assert!(include_str!("golden.rs").contains(&format!("fixture!(\"{name}\")")), "{name}");
        }
    }
}
