//! Lines of bounded length.

use std::io::{self, BufRead};

/// Most bytes of a line, without its end.
pub(crate) const MAX_LINE: usize = 1 << 20;

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line without its end.
    Whole(Vec<u8>),
    /// A line that is too long: its first [`MAX_LINE`] bytes, and how many it has.
    TooLong(Vec<u8>, u64),
    /// The input ends inside a line, of which this is there.
    Unended(Vec<u8>),
    /// The input ends.
    End,
}

/// Reads a line, and says how many bytes it took from the input. Memory is bounded by
/// [`MAX_LINE`]. After [`Line::Unended`] the line is gone: only a caller that can go back reads the
/// rest of it.
pub(crate) fn read_line(input: &mut impl BufRead) -> io::Result<(Line, u64)> {
    let mut line = Vec::new();
    let mut taken = 0u64;
    loop {
        let buffer = match input.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if buffer.is_empty() {
            return Ok((if taken == 0 { Line::End } else { Line::Unended(line) }, taken));
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let text = &buffer[..end.unwrap_or(buffer.len())];
        line.extend_from_slice(&text[..text.len().min(MAX_LINE - line.len())]);
        let used = end.map_or(buffer.len(), |end| end + 1);
        taken += used as u64;
        input.consume(used);
        if end.is_some() {
            let length = taken - 1;
            return Ok((if length > MAX_LINE as u64 { Line::TooLong(line, length) } else { Line::Whole(line) }, taken));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_nothing_is_lost_after_a_long_one() {
        let long = [b'x'; MAX_LINE + 1];
        let text = [b"a\r\n\n" as &[u8], &long, b"\nlast"].concat();
        let mut input = io::BufReader::with_capacity(100, &text[..]);
        let mut lines = Vec::new();
        let mut bytes = 0;
        loop {
            let (line, taken) = read_line(&mut input).unwrap();
            bytes += taken;
            lines.push(line.clone());
            if line == Line::End {
                break;
            }
        }
        assert_eq!(bytes, text.len() as u64);
        let too_long = Line::TooLong(long[..MAX_LINE].to_vec(), MAX_LINE as u64 + 1);
        let expected =
            [Line::Whole(b"a\r".to_vec()), Line::Whole(vec![]), too_long, Line::Unended(b"last".to_vec()), Line::End];
        assert_eq!(lines, expected);
    }
}
