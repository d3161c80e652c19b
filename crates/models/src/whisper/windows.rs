//! Cuts a recording into windows by the timestamps the model writes, and its output into timed segments.
//!
//! The rules are the reference decoder's (Radford et al. 2022, section 3.8): two timestamps in a row end a segment; the next
//! window starts at the last such pair, unless a single timestamp ends the output, which says that nothing follows.

/// How far one timestamp is from the next, in milliseconds.
const TIMESTAMP_MS: u64 = 20;
/// Frames of features for a timestamp's step.
const FRAMES_PER_TIMESTAMP: usize = 2;
const FRAME_MS: u64 = 10;

/// A stretch of a window's tokens with its time in the recording.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub start_ms: u64,
    pub end_ms: u64,
    pub tokens: Vec<u32>,
}

/// Cuts the tokens of the window at `seek`, of `frames` frames, and says how many frames to go on.
///
/// `begin` is the id of `<|0.00|>`. The way on is never 0, so that decoding ends.
pub(super) fn cut(tokens: &[u32], seek: usize, frames: usize, begin: u32) -> (Vec<Piece>, usize) {
    let offset = seek as u64 * FRAME_MS;
    let is_timestamp = |token: u32| token >= begin;
    let steps = |token: u32| u64::from(token.saturating_sub(begin));
    let mut ends: Vec<usize> =
        (1..tokens.len()).filter(|&i| is_timestamp(tokens[i - 1]) && is_timestamp(tokens[i])).collect();
    let single_ending = matches!(tokens, [.., before, last] if !is_timestamp(*before) && is_timestamp(*last));
    let Some(last_end) = ends.last_mut() else {
        let last = tokens.iter().rev().find(|&&t| is_timestamp(t)).filter(|&&t| t != begin);
        let end = last.map_or((frames / FRAMES_PER_TIMESTAMP) as u64, |&t| steps(t));
        let piece = Piece { start_ms: offset, end_ms: offset + end * TIMESTAMP_MS, tokens: tokens.to_vec() };
        return (vec![piece], frames);
    };
    if single_ending {
        ends.push(tokens.len());
    } else {
        // The second timestamp of the last pair stays, to show that the ending is not a single one.
        *last_end += 1;
    }
    let mut pieces = Vec::with_capacity(ends.len());
    let mut from = 0;
    for (i, &to) in ends.iter().enumerate() {
        let piece = &tokens[from..to];
        let closing = if i + 1 < ends.len() || single_ending { 1 } else { 2 };
        pieces.push(Piece {
            start_ms: offset + steps(piece[0]) * TIMESTAMP_MS,
            end_ms: offset + steps(piece[piece.len().saturating_sub(closing)]) * TIMESTAMP_MS,
            tokens: piece.to_vec(),
        });
        from = to;
    }
    let way = if single_ending { frames } else { steps(tokens[from - 2]) as usize * FRAMES_PER_TIMESTAMP };
    (pieces, if way == 0 { frames } else { way })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: u32 = 100;

    #[test]
    fn without_timestamps_a_window_is_one_piece() {
        let (pieces, way) = cut(&[1, 2], 3000, 1000, BEGIN);
        assert_eq!(pieces, [Piece { start_ms: 30_000, end_ms: 40_000, tokens: vec![1, 2] }]);
        assert_eq!(way, 1000);
        assert_eq!(cut(&[], 0, 3000, BEGIN).1, 3000);
    }

    #[test]
    fn an_unfinished_segment_is_left_to_the_next_window() {
        let (pieces, way) = cut(&[100, 1, 150, 150, 2, 3], 100, 3000, BEGIN);
        assert_eq!(pieces, [Piece { start_ms: 1000, end_ms: 2000, tokens: vec![100, 1, 150, 150] }]);
        assert_eq!(way, 100);
    }

    #[test]
    fn a_single_timestamp_at_the_end_closes_the_window() {
        let (pieces, way) = cut(&[100, 1, 150, 160, 2, 200], 0, 3000, BEGIN);
        assert_eq!(pieces[0], Piece { start_ms: 0, end_ms: 1000, tokens: vec![100, 1, 150] });
        assert_eq!(pieces[1], Piece { start_ms: 1200, end_ms: 2000, tokens: vec![160, 2, 200] });
        assert_eq!(way, 3000);
    }

    #[test]
    fn decoding_goes_on_even_where_a_pair_stands_at_the_start() {
        assert_eq!(cut(&[100, 100], 0, 3000, BEGIN).1, 3000);
    }

    #[test]
    fn one_timestamp_bounds_the_only_piece() {
        let (pieces, way) = cut(&[100, 1, 150], 0, 3000, BEGIN);
        assert_eq!(pieces, [Piece { start_ms: 0, end_ms: 1000, tokens: vec![100, 1, 150] }]);
        assert_eq!(way, 3000);
    }
}
