//! Numbers for tests that look as if they were drawn.

/// Knuth's MMIX, a linear congruential generator.
pub(crate) struct Noise(u64);

impl Noise {
    /// Numbers of near seeds are alike at first.
    pub(crate) fn new(seed: u64) -> Self {
        let mut noise = Self(seed);
        (0..8).for_each(|_| {
            noise.uniform();
        });
        noise
    }

    /// Draws from 0 to 1, neither included.
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Draws from a standard normal law.
    pub(crate) fn normal(&mut self) -> f64 {
        crate::normal::quantile(self.uniform())
    }
}
