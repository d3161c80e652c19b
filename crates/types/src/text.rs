//! Words for messages.

/// Writes a count of things whose plural ends in an `s`: `1 window`, `2 windows`.
#[must_use]
pub fn counted(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}
