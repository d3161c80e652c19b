//! What a payload says of itself: its signals, declared once and visited in a fixed order.
//!
//! ```
//! use driftline_stats::{Scale, Signal, SignalVisitor};
//!
//! static LEVEL: Signal = Signal::number("level", "dBFS", "Root mean square level.", Scale::Linear { lo: -90.0, hi: 0.0 });
//! static FORMAT: Signal = Signal::category("format", "Container of the recording.");
//!
//! fn signals(level: Option<f64>, visit: &mut dyn SignalVisitor) {
//!     visit.number(&LEVEL, level);
//!     visit.category(&FORMAT, Some("wav"));
//! }
//! ```

/// A monitored quantity of a payload. Declare it in a `static`, so that it is found by address.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// The name, unique within its payload: lower case, words joined by `_`.
    pub name: &'static str,
    /// The unit as shown to people, such as `s` or `dBFS`; empty if it has none.
    pub unit: &'static str,
    /// One sentence for people.
    pub help: &'static str,
    /// What kind of value it takes.
    pub kind: SignalKind,
}

/// The kind of value a signal takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SignalKind {
    /// A number, on a declared scale.
    Number {
        /// The range expected, and how bins are spread over it until a reference exists.
        scale: Scale,
    },
    /// One of a set of words, open or closed.
    Category,
    /// A vector of a fixed length.
    Embedding {
        /// The number of components.
        dims: usize,
    },
}

/// The range that a number is expected in. Values outside are counted too, as below or above.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Bins of equal width over `lo..=hi`; finite, `lo < hi`.
    Linear {
        /// The lowest value expected.
        lo: f64,
        /// The highest value expected.
        hi: f64,
    },
    /// Bins of equal ratio over `lo..=hi`; finite, `0 < lo < hi`.
    Log {
        /// The lowest value expected.
        lo: f64,
        /// The highest value expected.
        hi: f64,
    },
}

impl Signal {
    /// Declares a number.
    #[must_use]
    pub const fn number(name: &'static str, unit: &'static str, help: &'static str, scale: Scale) -> Self {
        Self { name, unit, help, kind: SignalKind::Number { scale } }
    }

    /// Declares a category.
    #[must_use]
    pub const fn category(name: &'static str, help: &'static str) -> Self {
        Self { name, unit: "", help, kind: SignalKind::Category }
    }

    /// Declares an embedding of `dims` components.
    #[must_use]
    pub const fn embedding(name: &'static str, help: &'static str, dims: usize) -> Self {
        Self { name, unit: "", help, kind: SignalKind::Embedding { dims } }
    }
}

/// Receives the signals of one payload. A payload visits all of them, always in the same order;
/// `None` says that the value is missing, which is a value like any other.
pub trait SignalVisitor {
    /// Takes a number; NaN and infinities are counted apart.
    fn number(&mut self, signal: &'static Signal, value: Option<f64>);
    /// Takes a category; the empty text is a value.
    fn category(&mut self, signal: &'static Signal, value: Option<&str>);
    /// Takes an embedding.
    fn embedding(&mut self, signal: &'static Signal, value: Option<&[f32]>);
}
