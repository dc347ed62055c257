//! iLink → MQTT: the callback's two handlers and the relay loop.
//!
//! A push's way through the files here:
//!
//! 1. **accept**: [`crate::http::listener`] takes the connection, [`server`] checks the address, [`callback`] path, size and
//!    shape;
//! 2. **make durable**: [`store`] appends it to the spool, once, however often iLink repeats it ([`repeats`], `answered`);
//!    [`room`] bounds the memory that pushes take;
//! 3. **answer the sender**: `{"code":0}`; [`crate::http::answered`] notes the moment when the whole answer has left. A push
//!    that could not be made durable gets no answer;
//! 4. **deliver**: [`relay`] publishes it (`render`), with what the routes make of it (`routed`), in the order of its sender
//!    ([`crate::delivery::lanes`]); answers of routes go to iLink;
//! 5. **complete**: the relay removes it from the spool once the broker has acknowledged every publish of it.
//!
//! Steps 1 to 3 do not need the broker.

mod answered;
pub mod callback;
pub mod due;
mod hands;
mod pictures;
pub mod presence;
pub mod record;
pub mod relay;
mod render;
pub mod repeats;
pub mod room;
mod routed;
pub mod server;
pub mod store;
