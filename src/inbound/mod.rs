//! iLink → MQTT: the callback's two handlers and the relay loop.
//!
//! A push's way through the files here:
//!
//! 1. **accept**: [`crate::http::listener`] takes the connection, [`server`] checks the address, [`callback`] path, size and shape;
//! 2. **make durable**: [`store`] appends it to the spool, once, however often iLink tries ([`repeats`], `answered`), within the memory
//!    that pushes may take ([`room`]);
//! 3. **answer the sender**: `{"code":0}`; [`crate::http::answered`] notes the moment the whole answer left. What could
//!    not be made durable is not answered at all;
//! 4. **deliver**: [`relay`] publishes it (`render`) in the order of its sender ([`crate::delivery::lanes`]), and with it what
//!    the routes make of it (`routed`);
//! 5. **complete**: the relay removes it from the spool once the broker has acknowledged every publish of it.
//!
//! The broker being down changes nothing before step 4.

mod answered;
pub mod callback;
pub mod presence;
pub mod record;
pub mod relay;
mod render;
pub mod repeats;
pub mod room;
pub mod server;
pub mod store;
