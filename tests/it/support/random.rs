//! Pseudo-random numbers from a fixed seed, so that a failure can be seen again.

pub(crate) struct Random(u64);

impl Random {
    /// The seed must not be 0.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`.
    pub(crate) fn below<T: TryFrom<u64>>(&mut self, end: u64) -> T {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        T::try_from(self.0 % end).unwrap_or_else(|_| panic!("a number below {end} of this type"))
    }
}
