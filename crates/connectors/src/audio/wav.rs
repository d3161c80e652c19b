//! WAV files as they really are: headers written by recorders that crashed, by programs that write
//! to a pipe and cannot know the length, and for more than 4 GiB (RF64).
//!
//! The decoder believes the lengths in the header; here they are compared with the file first.
//! [`WavFile`] presents the file with lengths that fit it, so that every sample that is there is
//! read, and [`WavHeader`] keeps what was claimed, so that what is missing can be counted.
//!
//! ```text
//! 0  "RIFF" or "RF64"   4  u32 length   8  "WAVE"
//! 12 chunks: id, u32 length, body, padded to even length; "fmt " before "data"
//! ```

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use symphonia::core::io::MediaSource;

use super::refused::Refused;

/// Lengths that programs write which do not know the length.
const UNKNOWN: [u32; 3] = [0, 0x7fff_ffff, u32::MAX];
/// Most chunks that are looked at before `data`.
const MAX_CHUNKS: usize = 1_000;

/// What the header of a WAV file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WavHeader {
    /// Samples a second.
    pub rate: u32,
    /// Channels.
    pub channels: u16,
    /// Bytes a second, as stated or worked out.
    byte_rate: u64,
    /// Bytes of audio the header claims; `None` if it does not know.
    claimed: Option<u64>,
    /// Where the length of the audio stands, from the start of the file.
    data_length_at: u64,
    /// Bytes of audio that are there.
    available: u64,
}

impl WavHeader {
    /// Reads the header; `None` if the file is no WAV. The position of the file does not matter
    /// and is the start afterwards.
    ///
    /// # Errors
    /// If the file cannot be read, or has a WAV header without `fmt ` or `data`.
    pub(crate) fn read(file: &mut File) -> io::Result<Result<Option<Self>, Refused>> {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(0))?;
        let header = Self::scan(file, length);
        file.seek(SeekFrom::Start(0))?;
        match header {
            // The file ends inside its header.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(if length < 12 {
                Ok(None)
            } else {
                Err(Refused::new("header", format!("a WAV that ends at byte {length}"), "chunks \"fmt \" and \"data\""))
            }),
            other => other,
        }
    }

    fn scan(file: &mut File, length: u64) -> io::Result<Result<Option<Self>, Refused>> {
        let mut form = [0; 12];
        file.read_exact(&mut form)?;
        if !matches!(&form[..4], b"RIFF" | b"RF64") || &form[8..] != b"WAVE" {
            return Ok(Ok(None));
        }
        let mut format = None;
        for _ in 0..MAX_CHUNKS {
            let mut chunk = [0; 8];
            file.read_exact(&mut chunk)?;
            let at = file.stream_position()?;
            let size = u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]);
            match &chunk[..4] {
                b"fmt " => {
                    let mut body = [0; 16];
                    file.read_exact(&mut body)?;
                    format = Some(body);
                }
                b"data" => {
                    let Some(format) = format else { break };
                    return Ok(Ok(Some(Self::of(&format, size, at, length))));
                }
                _ => {}
            }
            file.seek(SeekFrom::Start(at + u64::from(size) + u64::from(size % 2)))?;
        }
        Ok(Err(Refused::new("header", "no chunk \"fmt \" before \"data\"", "chunks \"fmt \" and \"data\"")))
    }

    fn of(format: &[u8; 16], size: u32, data_at: u64, length: u64) -> Self {
        let read_u16 = |at: usize| u16::from_le_bytes([format[at], format[at + 1]]);
        let read_u32 = |at: usize| u32::from_le_bytes([format[at], format[at + 1], format[at + 2], format[at + 3]]);
        let (rate, align) = (read_u32(4), read_u16(12));
        let byte_rate = match read_u32(8) {
            0 => u64::from(rate) * u64::from(align),
            stated => u64::from(stated),
        };
        let left = length.saturating_sub(data_at);
        let claimed = (!UNKNOWN.contains(&size)).then_some(u64::from(size));
        let available = claimed.unwrap_or(left).min(left);
        Self { rate, channels: read_u16(2), byte_rate, claimed, data_length_at: data_at - 4, available }
    }

    /// Returns the frames the header claims, or `None` if it does not know.
    pub(crate) fn claimed_frames(&self) -> Option<u64> {
        let frames = u128::from(self.claimed?) * u128::from(self.rate) / u128::from(self.byte_rate.max(1));
        Some(u64::try_from(frames).unwrap_or(u64::MAX))
    }
}

/// A WAV file whose lengths read as what is there.
pub(crate) struct WavFile {
    file: File,
    position: u64,
    patches: [(u64, [u8; 4]); 3],
}

impl WavFile {
    /// Wraps a file that stands at its start.
    pub(crate) fn new(file: File, header: &WavHeader) -> Self {
        // An unknown length of the whole keeps it from being compared with the parts; audio of
        // unknown length is read to the end of the file.
        let available = u32::try_from(header.available).unwrap_or(u32::MAX);
        let patches = [(0, *b"RIFF"), (4, u32::MAX.to_le_bytes()), (header.data_length_at, available.to_le_bytes())];
        Self { file, position: 0, patches }
    }
}

impl Read for WavFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        for (at, bytes) in &self.patches {
            for (at, byte) in (*at..).zip(bytes) {
                let place = at.checked_sub(self.position).and_then(|place| usize::try_from(place).ok());
                if let Some(place) = place.filter(|&place| place < read) {
                    buffer[place] = *byte;
                }
            }
        }
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for WavFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = self.file.seek(to)?;
        Ok(self.position)
    }
}

impl MediaSource for WavFile {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        self.file.metadata().ok().map(|metadata| metadata.len())
    }
}
