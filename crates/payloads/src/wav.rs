//! Audio on the wire: RIFF WAVE, one channel, 16-bit PCM, 16 kHz, with one extra chunk `drft` that
//! holds the payload's other fields as JSON.
//!
//! ```text
//! "RIFF" u32 "WAVE"
//! "fmt " 16   format 1 (PCM), channels 1, rate 16000, byte rate, block align 2, bits 16
//! "drft" n    JSON, padded to even length
//! "data" n    samples, little-endian i16
//! ```
//!
//! Reading also takes 32-bit float samples (format 3), since other producers may write them; what
//! is beyond [-1, 1] is clipped, and what is not finite is refused with its index.

use bytes::{BufMut, BytesMut};
use driftline_stage::CodecError;
use serde::{Serialize, de::DeserializeOwned};

use crate::{SAMPLE_RATE, json};

/// Media type of the encoding.
pub const CONTENT_TYPE: &str = "audio/wav";

/// Most seconds of audio one message may hold.
pub const MAX_SECONDS: usize = 60;

const FIELDS: &[u8; 4] = b"drft";

/// Appends samples in [-1, 1] (beyond is clipped, NaN becomes 0) and the fields of a payload.
///
/// # Errors
/// If the audio is longer than [`MAX_SECONDS`].
pub(crate) fn encode(fields: &impl Serialize, samples: &[f32], out: &mut BytesMut) -> Result<(), CodecError> {
    if samples.len() > MAX_SECONDS * SAMPLE_RATE as usize {
        return Err(too_long(samples.len()));
    }
    let mut text = BytesMut::new();
    json::encode(fields, &mut text)?;
    if text.len() % 2 == 1 {
        text.put_u8(b' ');
    }
    let data = samples.len() * 2;
    out.reserve(60 + text.len() + data);
    out.put_slice(b"RIFF");
    out.put_u32_le((4 + 24 + 8 + text.len() + 8 + data) as u32);
    out.put_slice(b"WAVEfmt ");
    out.put_u32_le(16);
    out.put_u16_le(1);
    out.put_u16_le(1);
    out.put_u32_le(SAMPLE_RATE);
    out.put_u32_le(SAMPLE_RATE * 2);
    out.put_u16_le(2);
    out.put_u16_le(16);
    out.put_slice(FIELDS);
    out.put_u32_le(text.len() as u32);
    out.put_slice(&text);
    out.put_slice(b"data");
    out.put_u32_le(data as u32);
    for &sample in samples {
        out.put_i16_le(to_16_bits(sample));
    }
    Ok(())
}

/// Full scale of a 16-bit sample.
const FULL_SCALE: f32 = 32_767.0;

/// Brings a sample to 16 bits; what is beyond [-1, 1] is clipped, NaN becomes 0.
#[must_use]
pub fn to_16_bits(sample: f32) -> i16 {
    (sample.clamp(-1.0, 1.0) * FULL_SCALE).round() as i16
}

/// Returns the sample of 16 bits, in [-1, 1]: -32,768 is as loud as -32,767.
#[must_use]
pub fn from_16_bits(sample: i16) -> f32 {
    (f32::from(sample) / FULL_SCALE).max(-1.0)
}

/// Reads the fields and the samples, in [-1, 1].
///
/// # Errors
/// If the bytes are no such WAV; the error names the place, what stands there and what may.
pub(crate) fn decode<F: DeserializeOwned>(bytes: &[u8]) -> Result<(F, Vec<f32>), CodecError> {
    if bytes.len() < 12 || &bytes[..4] != b"RIFF" || &bytes[8..12] != b"WAVE" {
        return Err(CodecError::new(
            "byte 0",
            format!("{} bytes that do not begin with a WAV header", bytes.len()),
            "RIFF WAVE",
        ));
    }
    let (mut format, mut fields, mut data) = (None, None, None);
    let mut at = 12;
    while at + 8 <= bytes.len() {
        let id = &bytes[at..at + 4];
        let length = read_u32(bytes, at + 4) as usize;
        let Some(body) = bytes.get(at + 8..(at + 8).saturating_add(length)) else {
            return Err(CodecError::new(
                format!("chunk {:?} at byte {at}", String::from_utf8_lossy(id)),
                format!("a length of {length} with {} bytes left", bytes.len() - at - 8),
                "a chunk inside the message",
            ));
        };
        match id {
            b"fmt " => format = Some(Format::read(body)?),
            b"data" => data = Some(body),
            id if id == FIELDS => fields = Some(body),
            _ => {}
        }
        at = (at + 8).saturating_add(length).saturating_add(length % 2);
    }
    let missing =
        |name: &str| CodecError::new("WAV", format!("no chunk {name:?}"), "chunks \"fmt \", \"drft\" and \"data\"");
    let format = format.ok_or_else(|| missing("fmt "))?;
    let fields = fields.ok_or_else(|| missing("drft"))?;
    let data = data.ok_or_else(|| missing("data"))?;
    Ok((json::decode(fields)?, format.samples(data)?))
}

#[derive(Clone, Copy)]
enum Format {
    Pcm16,
    Float32,
}

impl Format {
    fn read(body: &[u8]) -> Result<Self, CodecError> {
        if body.len() < 16 {
            return Err(CodecError::new("chunk \"fmt \"", format!("{} bytes", body.len()), "at least 16 bytes"));
        }
        let read_u16 = |at| u16::from_le_bytes([body[at], body[at + 1]]);
        let (tag, channels, rate, bits) = (read_u16(0), read_u16(2), read_u32(body, 4), read_u16(14));
        let format = match (tag, bits) {
            (1, 16) => Some(Self::Pcm16),
            (3, 32) => Some(Self::Float32),
            _ => None,
        };
        match format {
            Some(format) if channels == 1 && rate == SAMPLE_RATE => Ok(format),
            _ => Err(CodecError::new(
                "chunk \"fmt \"",
                format!("format {tag}, {channels} channels, {rate} Hz, {bits} bits"),
                format!("format 1 with 16 bits or 3 with 32, 1 channel, {SAMPLE_RATE} Hz"),
            )),
        }
    }

    fn samples(self, data: &[u8]) -> Result<Vec<f32>, CodecError> {
        let width = match self {
            Self::Pcm16 => 2,
            Self::Float32 => 4,
        };
        if !data.len().is_multiple_of(width) {
            return Err(CodecError::new(
                "chunk \"data\"",
                format!("{} bytes", data.len()),
                format!("a multiple of {width}"),
            ));
        }
        if data.len() / width > MAX_SECONDS * SAMPLE_RATE as usize {
            return Err(too_long(data.len() / width));
        }
        match self {
            Self::Pcm16 => Ok(data.chunks_exact(2).map(|b| from_16_bits(i16::from_le_bytes([b[0], b[1]]))).collect()),
            Self::Float32 => {
                let samples = data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                let samples: Vec<f32> = samples.collect();
                match samples.iter().position(|s| !s.is_finite()) {
                    None => Ok(samples.into_iter().map(|sample| sample.clamp(-1.0, 1.0)).collect()),
                    Some(at) => Err(CodecError::new(format!("sample {at}"), samples[at].to_string(), "finite samples")),
                }
            }
        }
    }
}

fn too_long(samples: usize) -> CodecError {
    CodecError::new("samples", format!("{samples}"), format!("at most {}", MAX_SECONDS * SAMPLE_RATE as usize))
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
