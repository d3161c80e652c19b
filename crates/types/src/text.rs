//! Words for messages.

/// Writes a count of things whose plural ends in an `s`: `1 window`, `2 windows`.
#[must_use]
pub fn counted(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// Writes control characters but those of `kept` as `\u{1b}`: what the name of a file holds must not steer a terminal.
#[must_use]
pub fn visible(text: &str, kept: &[char]) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && !kept.contains(&character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_written_out() {
        assert_eq!(visible("a\u{1b}[2J\r\tb\n\u{9b}é", &['\n', '\t']), "a\\u{1b}[2J\\r\tb\n\\u{9b}é");
        assert_eq!(visible("a\nb", &[]), "a\\nb");
    }
}
