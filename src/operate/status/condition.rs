//! What can be wrong, by kind. The status page has a sentence for each kind: what it is, and what it means for messages.

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Messages wait or are lost because of it.
    Grave,
    /// Somebody should see to it; the other messages pass.
    Odd,
    /// Advice.
    Advice,
}

macro_rules! conditions {
    ($($(#[doc = $doc:literal])+ $name:ident: $weight:ident,)+) => {
        /// What is wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Condition { $($(#[doc = $doc])+ $name,)+ }

        impl Condition {
            /// Every one.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)+];

            /// How much it matters.
            #[must_use]
            pub const fn weight(self) -> Weight {
                match self { $(Self::$name => Weight::$weight,)+ }
            }
        }
    };
}

conditions! {
    /// This member has not begun: it waits for etcd.
    AwaitsEtcd: Grave,
    /// etcd does not do what the cluster needs.
    NoEtcd: Grave,
    /// The first connection to the broker is not there yet.
    BrokerNotYet: Grave,
    /// There is no connection to the broker.
    BrokerUnreachable: Grave,
    /// The broker does not let the bridge in.
    BrokerTurnsAway: Grave,
    /// Another account uses the base topic.
    BaseTopicTaken: Grave,
    /// The broker has not answered for the subscriptions yet.
    CommandsNotYet: Grave,
    /// The broker does not pass commands on to the bridge.
    CommandsDenied: Grave,
    /// The inbound queue is full.
    InboundFull: Grave,
    /// The outbound queue is full.
    OutboundFull: Grave,
    /// The disk, or etcd, does not take messages for now.
    StoreRefuses: Grave,
    /// The store has failed for good.
    StoreFailed: Grave,
    /// iLink cannot be reached.
    IlinkUnreachable: Grave,
    /// Something at iLink does not work.
    IlinkDegraded: Grave,
    /// iLink does not accept the configuration.
    IlinkRefuses: Grave,
    /// Somebody has unregistered the bridge, or who should register it has not.
    IlinkUnregistered: Grave,
    /// iLink does not know the callback.
    CallbackMissing: Grave,
    /// The broker refuses publishes for good.
    PublishesRefused: Grave,
    /// The broker is busy.
    BrokerBusy: Grave,
    /// The broker refuses messages for now.
    BrokerRefusesForNow: Grave,
    /// The broker ends the connection at a message.
    BrokerCutsOff: Grave,
    /// The inbound queue is nearly full.
    InboundNearlyFull: Odd,
    /// The outbound queue is nearly full.
    OutboundNearlyFull: Odd,
    /// Messages are set aside.
    SetAside: Odd,
    /// iLink said something that does not hold up calls.
    IlinkRemark: Advice,
    /// It could not be tried whether commands arrive.
    Unverified: Advice,
    /// Something in the configuration is unwise.
    Configuration: Advice,
}
