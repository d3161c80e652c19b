//! One recording as a microphone would send it: pieces of equal length at 16 kHz, in real time
//! one a tick.
//!
//! What cannot be decoded is lost as on a bad line. A gap inside a piece is silence there; a piece
//! that is lost as a whole is not sent, and the next one says how many are missing. A recording
//! that ends before its header says so ends with an empty piece that says how many are missing.
//!
//! The pieces of a recording depend on the file and the length of a piece alone.

use std::{collections::VecDeque, path::Path};

use driftline_payloads::wav;

use super::{
    decode::{Block, Decoder},
    pitch::AHEAD,
    refused::Refused,
    resample::Resampler,
};

/// A piece of a recording.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    /// Its number; those that are lost are counted.
    pub number: u32,
    /// Where it begins, in samples at 16 kHz.
    pub start: u64,
    /// Share of the recording's samples at full scale.
    pub clipped: f32,
    /// Pieces lost right before it.
    pub missing: u32,
    /// Whether the recording ends with it.
    pub last: bool,
    /// Samples at 16 kHz, in [-1, 1].
    pub samples: Vec<f32>,
}

/// What a tick brings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tick {
    /// A piece.
    Piece(Piece),
    /// The piece of this tick is lost.
    Lost,
}

/// An open recording.
pub(crate) struct Recording {
    decoder: Decoder,
    resampler: Resampler,
    /// Samples of a piece at 16 kHz.
    length: usize,
    block: Block,
    /// What is known of the frames of the pieces from `number` on.
    tallies: VecDeque<Tally>,
    /// Samples at 16 kHz that no piece has taken yet.
    ready: Vec<f32>,
    /// Frames of the recording so far, lost ones included.
    frames: u64,
    /// Frames decoded.
    heard: u64,
    decoded: bool,
    number: u32,
    missing: u32,
}

/// What happened to the frames of one piece, before resampling.
#[derive(Clone, Copy, Default)]
struct Tally {
    frames: u64,
    lost: u64,
    clipped: u64,
}

impl Recording {
    /// Opens a recording to be sent in pieces of `length` samples at 16 kHz.
    ///
    /// # Errors
    /// As [`Decoder::open`].
    pub(crate) fn open(path: &Path, length: usize, max_seconds: u64) -> Result<Self, Refused> {
        let decoder = Decoder::open(path, max_seconds)?;
        Ok(Self {
            resampler: Resampler::try_new(decoder.rate())?,
            decoder,
            length: length.max(1),
            block: Block::default(),
            tallies: VecDeque::new(),
            ready: Vec::new(),
            frames: 0,
            heard: 0,
            decoded: false,
            number: 0,
            missing: 0,
        })
    }

    /// Returns the samples a second of the file.
    pub(crate) fn rate(&self) -> u32 {
        self.decoder.rate()
    }

    /// Returns the channels of the file.
    pub(crate) fn channels(&self) -> u16 {
        self.decoder.channels()
    }

    /// Returns the piece that ends the recording where it stands: empty, and without those before
    /// it that were lost.
    pub(crate) fn end(&self) -> Piece {
        Piece {
            number: self.number,
            start: self.position(),
            clipped: 0.0,
            missing: self.missing,
            last: true,
            samples: Vec::new(),
        }
    }

    /// Returns what comes after the last piece, as far as it is decoded: at least [`AHEAD`] samples, or up to the end.
    pub(crate) fn ahead(&self) -> &[f32] {
        &self.ready
    }

    /// Advances by one piece. Not called again after the last one.
    ///
    /// # Errors
    /// As [`Decoder::next`], and if nothing at all can be decoded.
    pub(crate) fn next(&mut self) -> Result<Tick, Refused> {
        while !self.decoded && self.ready.len() <= self.length + AHEAD {
            self.read()?;
        }
        if self.decoded && self.heard == 0 && (self.frames > 0 || self.decoder.claimed() > Some(0)) {
            let allowed = format!("{} frames, or a part of them", self.decoder.claimed().unwrap_or(self.frames));
            return Err(Refused::new("stream", "nothing that can be decoded", allowed));
        }
        // An empty recording has one empty piece; so has one cut off at the end of a piece.
        if self.decoded && self.ready.is_empty() {
            return Ok(Tick::Piece(self.cut_off().unwrap_or_else(|| self.end())));
        }
        let tally = self.tallies.pop_front().unwrap_or_default();
        let samples = self.ready.drain(..self.length.min(self.ready.len()));
        // The filter rings beyond full scale where the recording is clipped.
        // As they will be on the wire, so that what is described here is what is read there.
        let samples: Vec<f32> = samples.map(|sample| wav::from_16_bits(wav::to_16_bits(sample))).collect();
        let last = self.decoded && self.ready.is_empty() && self.cut_off().is_none();
        let mut piece = Piece { last, samples, ..self.end() };
        self.number = self.number.saturating_add(1);
        if tally.frames > 0 && tally.lost == tally.frames {
            self.missing += 1;
            return Ok(if last { Tick::Piece(self.end()) } else { Tick::Lost });
        }
        self.missing = 0;
        let heard = (tally.frames - tally.lost) * u64::from(self.decoder.channels());
        piece.clipped = tally.clipped as f32 / heard.max(1) as f32;
        Ok(Tick::Piece(piece))
    }

    /// Returns the frames there were and those that the header claims, if the recording ended a piece or more before that.
    pub(crate) fn cut_short(&self) -> Option<(u64, u64)> {
        self.cut_off()?;
        Some((self.frames, self.decoder.claimed()?))
    }

    /// Where the next piece begins, in samples at 16 kHz.
    fn position(&self) -> u64 {
        u64::from(self.number) * self.length as u64
    }

    /// Returns the piece that ends a recording which was cut off a piece or more before the end
    /// its header claims.
    fn cut_off(&self) -> Option<Piece> {
        let start = self.resampler.at_output(self.decoder.claimed()?);
        let claimed = start.div_ceil(self.length as u64);
        let sent = self.resampler.at_output(self.frames).div_ceil(self.length as u64);
        let lost = u32::try_from(claimed.checked_sub(sent)?).unwrap_or(u32::MAX);
        let number = u32::try_from(claimed).unwrap_or(u32::MAX);
        let missing = self.missing.saturating_add(lost);
        (lost > 0).then(|| Piece { number, start, missing, ..self.end() })
    }

    /// Decodes one block, or finds the end.
    fn read(&mut self) -> Result<(), Refused> {
        let more = self.decoder.next(&mut self.block)?;
        self.fill_gap(self.block.lost)?;
        if !more {
            self.decoded = true;
            return self.resampler.finish(&mut self.ready);
        }
        let first = self.frames;
        self.heard += self.block.mono.len() as u64;
        self.account(self.block.mono.len() as u64, |tally, frames| tally.frames += frames);
        for index in 0..self.block.clipped.len() {
            let piece = self.piece_of(first + u64::from(self.block.clipped[index]));
            self.tally(piece).clipped += 1;
        }
        self.resampler.push(&self.block.mono, &mut self.ready)
    }

    /// Puts silence where frames are lost.
    fn fill_gap(&mut self, lost: u64) -> Result<(), Refused> {
        self.account(lost, |tally, frames| {
            tally.frames += frames;
            tally.lost += frames;
        });
        const SILENCE: [f32; 4_096] = [0.0; 4_096];
        let mut left = lost;
        while left > 0 {
            let part = left.min(SILENCE.len() as u64);
            self.resampler.push(&SILENCE[..part as usize], &mut self.ready)?;
            left -= part;
        }
        Ok(())
    }

    /// Spreads the next `frames` frames over the tallies of their pieces.
    fn account(&mut self, frames: u64, add: impl Fn(&mut Tally, u64)) {
        let end = self.frames + frames;
        while self.frames < end {
            let piece = self.piece_of(self.frames);
            // The first frame of the piece after it.
            let next = u128::from(piece + 1) * self.length as u128 * u128::from(self.decoder.rate());
            let next = next.div_ceil(u128::from(driftline_payloads::SAMPLE_RATE)) as u64;
            let part = next.min(end) - self.frames;
            add(self.tally(piece), part);
            self.frames += part;
        }
    }

    /// Returns the number of the piece a frame falls into.
    fn piece_of(&self, frame: u64) -> u64 {
        let samples = u128::from(frame) * u128::from(driftline_payloads::SAMPLE_RATE) / u128::from(self.decoder.rate());
        samples as u64 / self.length as u64
    }

    fn tally(&mut self, piece: u64) -> &mut Tally {
        let at = piece.saturating_sub(u64::from(self.number)) as usize;
        if self.tallies.len() <= at {
            self.tallies.resize(at + 1, Tally::default());
        }
        &mut self.tallies[at]
    }
}
