//! Where a picture's own fields stand in its file.
//!
//! | format | place | content |
//! |---|---|---|
//! | JPEG | an APP10 segment, right after the first marker | `driftline` and a zero, then JSON |
//! | PNG | a chunk `drFt`, right after the header | JSON |
//!
//! Both are places that the formats reserve for others' data, which every reader skips. Removing the segment gives the file as it was, byte for byte.

use bytes::{BufMut, Bytes, BytesMut};
use driftline_stage::CodecError;

use super::Shot;
use crate::json;

const JPEG: &[u8] = &[0xff, 0xd8];
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Length of a PNG's signature and header.
const PNG_HEAD: usize = 33;
/// The marker of the segment in a JPEG file.
const SEGMENT: &[u8] = &[0xff, 0xea];
const NAME: &[u8] = b"driftline\0";
/// The type of the chunk in a PNG file: ancillary, private, safe to copy.
const CHUNK: &[u8] = b"drFt";
/// Most bytes of the fields: what a JPEG segment holds.
const MAX_FIELDS: usize = 65_535 - 2 - NAME.len();

/// The format of a picture's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
}

impl Format {
    /// Tells the format by a file's first bytes.
    ///
    /// # Errors
    /// If they are neither JPEG's nor PNG's.
    pub(super) fn of(file: &[u8]) -> Result<Self, CodecError> {
        if file.starts_with(JPEG) {
            Ok(Self::Jpeg)
        } else if file.starts_with(PNG) {
            Ok(Self::Png)
        } else {
            let found = format!("{} bytes that begin neither as JPEG nor as PNG", file.len());
            Err(CodecError::new("byte 0", found, "a JPEG or PNG file"))
        }
    }

    /// Returns the name, as in suffixes.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
        }
    }
}

/// Appends a file with the fields in it.
///
/// # Errors
/// If the fields are longer than a segment holds, or a PNG file ends before its header does.
pub(super) fn join(format: Format, shot: &Shot, file: &Bytes, out: &mut BytesMut) -> Result<(), CodecError> {
    let mut text = BytesMut::new();
    json::encode(shot, &mut text)?;
    if text.len() > MAX_FIELDS {
        return Err(CodecError::new("fields", format!("{} bytes", text.len()), format!("at most {MAX_FIELDS}")));
    }
    out.reserve(file.len() + text.len() + 32);
    match format {
        Format::Jpeg => {
            out.put_slice(JPEG);
            out.put_slice(SEGMENT);
            out.put_u16((2 + NAME.len() + text.len()) as u16);
            out.put_slice(NAME);
            out.put_slice(&text);
            out.put_slice(&file[JPEG.len()..]);
        }
        Format::Png => {
            let Some((head, rest)) = file.split_at_checked(PNG_HEAD) else { return Err(no_header(file)) };
            out.put_slice(head);
            out.put_u32(text.len() as u32);
            let mut sum = crc32fast::Hasher::new();
            sum.update(CHUNK);
            sum.update(&text);
            out.put_slice(CHUNK);
            out.put_slice(&text);
            out.put_u32(sum.finalize());
            out.put_slice(rest);
        }
    }
    Ok(())
}

/// Returns the fields, and the file without them; a file that has none has those of a shot of which nothing is known.
///
/// # Errors
/// If the bytes are no such file, or the fields are not what they should be.
pub(super) fn split(bytes: &Bytes) -> Result<(Shot, Bytes), CodecError> {
    let found = match Format::of(bytes)? {
        Format::Jpeg => jpeg_fields(bytes)?,
        Format::Png => png_fields(bytes)?,
    };
    let Some((text, whole)) = found else { return Ok((Shot::default(), bytes.clone())) };
    let mut file = BytesMut::with_capacity(bytes.len() - whole.len());
    file.put_slice(&bytes[..whole.start]);
    file.put_slice(&bytes[whole.end..]);
    Ok((json::decode(&bytes[text])?, file.freeze()))
}

type Range = std::ops::Range<usize>;

/// Finds the fields in a JPEG file, and the segment they stand in.
fn jpeg_fields(bytes: &[u8]) -> Result<Option<(Range, Range)>, CodecError> {
    let after = JPEG.len() + SEGMENT.len();
    if !bytes[JPEG.len()..].starts_with(SEGMENT) || !bytes.get(after + 2..).is_some_and(|body| body.starts_with(NAME)) {
        return Ok(None);
    }
    let length = usize::from(u16::from_be_bytes([bytes[after], bytes[after + 1]]));
    let end = after + length;
    if length < 2 + NAME.len() || end > bytes.len() {
        return Err(outside("segment APP10", length, bytes.len() - after));
    }
    Ok(Some((after + 2 + NAME.len()..end, JPEG.len()..end)))
}

/// Finds the fields in a PNG file, and the chunk they stand in.
fn png_fields(bytes: &[u8]) -> Result<Option<(Range, Range)>, CodecError> {
    if bytes.len() < PNG_HEAD {
        return Err(no_header(bytes));
    }
    if bytes.get(PNG_HEAD + 4..PNG_HEAD + 8) != Some(CHUNK) {
        return Ok(None);
    }
    let length = [bytes[PNG_HEAD], bytes[PNG_HEAD + 1], bytes[PNG_HEAD + 2], bytes[PNG_HEAD + 3]];
    let length = u32::from_be_bytes(length) as usize;
    let start = PNG_HEAD + 8;
    let left = bytes.len() - start;
    if length > MAX_FIELDS || length + 4 > left {
        return Err(outside("chunk drFt", length, left));
    }
    Ok(Some((start..start + length, PNG_HEAD..start + length + 4)))
}

fn outside(place: &str, length: usize, left: usize) -> CodecError {
    CodecError::new(place, format!("a length of {length} with {left} bytes left"), "fields inside the file")
}

fn no_header(file: &[u8]) -> CodecError {
    CodecError::new("PNG header", format!("a file of {} bytes", file.len()), format!("at least {PNG_HEAD}"))
}
