//! Distances between two counts over the same slots, for people to look at.
//!
//! p and q are the shares of each slot. None of these is a test: under no change n·m/(n + m)·PSI is
//! χ² with K − 1 degrees of freedom, so a fixed threshold fires by sample size alone.
//!
//! All are 0 for equal shares and `None` if either side is empty or their lengths differ.

/// Returns the population stability index Σ (p − q)·ln(p / q), symmetric, 0 or more, in nats.
///
/// A slot that only one side has would make it infinite, so half a record is added to every slot
/// that either side has (Krichevsky, Trofimov 1981); slots that neither has do not count.
#[must_use]
pub fn psi(left: &[u64], right: &[u64]) -> Option<f64> {
    if !comparable(left, right) {
        return None;
    }
    let used =
        || left.iter().zip(right).filter(|&(&a, &b)| a > 0 || b > 0).map(|(&a, &b)| (a as f64 + 0.5, b as f64 + 0.5));
    let (n, m) = used().fold((0.0, 0.0), |(n, m), (a, b)| (n + a, m + b));
    Some(used().map(|(a, b)| (a / n - b / m) * (a * m / (b * n)).ln()).sum())
}

/// Returns the Jensen–Shannon divergence ½ KL(p ‖ h) + ½ KL(q ‖ h), h = (p + q)/2, in bits: 0 to 1
/// (Lin 1991). Its square root is the distance that SciPy's `jensenshannon(p, q, base=2)` returns.
#[must_use]
pub fn jensen_shannon(left: &[u64], right: &[u64]) -> Option<f64> {
    Some(divergence(shares(left, right)?))
}

/// Returns the Jensen–Shannon divergence of two laws, in bits, from the two shares of each slot.
pub(crate) fn divergence(shares: impl Iterator<Item = (f64, f64)>) -> f64 {
    let half = |p: f64, h: f64| if p > 0.0 { 0.5 * p * (p / h).log2() } else { 0.0 };
    let sum: f64 = shares.map(|(p, q)| half(p, 0.5 * (p + q)) + half(q, 0.5 * (p + q))).sum();
    sum.max(0.0)
}

/// Returns the Hellinger distance √(½ Σ (√p − √q)²): 0 to 1.
#[must_use]
pub fn hellinger(left: &[u64], right: &[u64]) -> Option<f64> {
    Some((0.5 * shares(left, right)?.map(|(p, q)| (p.sqrt() - q.sqrt()).powi(2)).sum::<f64>()).sqrt())
}

/// Returns the Wasserstein-1 distance in u, the rank among the reference's bins: Σ |P(k) − Q(k)| / K
/// over cumulative shares, 0 to 1 and without a unit. Bins that hold equal mass under the reference
/// make u the reference's distribution function, to within 1/K. Pass the slots in ascending order,
/// [below to above](crate::NumberProfile::ordered).
#[must_use]
pub fn wasserstein(left: &[u64], right: &[u64]) -> Option<f64> {
    let mut ahead = 0.0f64;
    let slots = left.len().saturating_sub(1).max(1) as f64;
    let moved = shares(left, right)?.map(|(p, q)| {
        ahead += p - q;
        ahead.abs()
    });
    Some(moved.take(left.len().saturating_sub(1)).sum::<f64>() / slots)
}

fn comparable(left: &[u64], right: &[u64]) -> bool {
    left.len() == right.len() && left.iter().any(|&count| count > 0) && right.iter().any(|&count| count > 0)
}

fn shares<'a>(left: &'a [u64], right: &'a [u64]) -> Option<impl Iterator<Item = (f64, f64)> + 'a> {
    if !comparable(left, right) {
        return None;
    }
    let total = |counts: &[u64]| counts.iter().map(|&count| count as f64).sum::<f64>();
    let (n, m) = (total(left), total(right));
    Some(left.iter().zip(right).map(move |(&a, &b)| (a as f64 / n, b as f64 / m)))
}
