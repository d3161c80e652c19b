//! A picture, as a camera sends it.
//!
//! On the wire it is the JPEG or PNG file itself, viewable by anything, with its own fields in one extra segment (`container.rs` says where); a file without that
//! segment, from any other producer, is a picture too. Its pixels are decoded once, when something first asks for them: a stage that inspects a picture reads
//! the very pixels its signals were measured on.

mod container;
mod pixels;

use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use driftline_stage::{CodecError, Payload, Scale, SchemaId, Signal, SignalVisitor};
use serde::{Deserialize, Serialize};

pub use container::Format;
pub use pixels::{Measures, Pixels};

/// Most bytes of a file.
pub const MAX_BYTES: usize = 16 << 20;
/// Most pixels of a picture: what a file of a few bytes may unfold to.
pub const MAX_PIXELS: u64 = 16 << 20;

/// What a picture's file does not say by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shot {
    /// The camera; also the record's key. Empty if only the key names it.
    pub camera: String,
    /// The number of the picture among those of its camera, from 0; `None` if nobody counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame: Option<u64>,
    /// What the picture is called, such as the path of its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Pictures of the camera lost right before this one.
    pub missing: u32,
}

/// A picture: a JPEG or PNG file and where it comes from.
#[derive(Clone, Debug)]
pub struct Image {
    /// Where it comes from.
    pub shot: Shot,
    format: Format,
    file: Bytes,
    pixels: OnceLock<Result<Pixels, CodecError>>,
}

impl Image {
    /// Takes a file. Its pixels are not looked at.
    ///
    /// # Errors
    /// If it is too large, or begins as neither JPEG nor PNG do.
    pub fn try_new(shot: Shot, file: impl Into<Bytes>) -> Result<Self, CodecError> {
        let file = file.into();
        if file.len() > MAX_BYTES {
            return Err(CodecError::new("file", format!("{} bytes", file.len()), format!("at most {MAX_BYTES}")));
        }
        let format = Format::of(&file)?;
        Ok(Self { shot, format, file, pixels: OnceLock::new() })
    }

    /// Compresses red, green and blue pixels, row by row, into a picture. JPEG is stored with `quality` from 1 to 100; PNG without loss.
    ///
    /// # Errors
    /// If there are not `3 · width · height` bytes, or too many.
    pub fn from_rgb(
        shot: Shot,
        format: Format,
        quality: u8,
        (width, height): (u32, u32),
        rgb: &[u8],
    ) -> Result<Self, CodecError> {
        // The pixels are those of the file: what JPEG takes away is missing here as it is for every reader.
        Self::try_new(shot, pixels::compress(format, quality, (width, height), rgb)?)
    }

    /// Returns the file, byte for byte.
    #[must_use]
    pub fn file(&self) -> &Bytes {
        &self.file
    }

    /// Returns the file's format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the pixels, turned upright where a JPEG says how its camera was held; the first call decodes them.
    ///
    /// # Errors
    /// If the file is damaged, or unfolds to more than [`MAX_PIXELS`]; the same error each time.
    pub fn pixels(&self) -> Result<&Pixels, CodecError> {
        self.pixels.get_or_init(|| pixels::decode(self.format, &self.file)).as_ref().map_err(Clone::clone)
    }
}

/// Pictures are equal if their files and fields are, whether or not they were decoded.
impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        self.shot == other.shot && self.file == other.file
    }
}

static BRIGHTNESS: Signal =
    Signal::number("image.brightness", "1", "mean brightness, 0 to 255", Scale::Linear { lo: 0.0, hi: 255.0 });
static CONTRAST: Signal =
    Signal::number("image.contrast", "1", "standard deviation of the brightness", Scale::Linear { lo: 0.0, hi: 128.0 });
static SHARPNESS: Signal = Signal::number(
    "image.sharpness",
    "1",
    "difference of squares of 4 by 4 pixels from their neighbours, without noise, against the mean brightness",
    Scale::Log { lo: 1e-4, hi: 1.0 },
);
static CLIPPED: Signal = Signal::number(
    "image.clipped",
    "1",
    "share of the pixels that are as bright as can be",
    Scale::Linear { lo: 0.0, hi: 1.0 },
);
static SLOPE_X: Signal = Signal::number(
    "image.light_across",
    "1",
    "brightness of the right half less that of the left, against the mean",
    Scale::Linear { lo: -2.0, hi: 2.0 },
);
static SLOPE_Y: Signal = Signal::number(
    "image.light_down",
    "1",
    "brightness of the lower half less that of the upper, against the mean",
    Scale::Linear { lo: -2.0, hi: 2.0 },
);
static WARMTH: Signal = Signal::number(
    "image.warmth",
    "1",
    "logarithm of red against blue, missing for a picture without colour",
    Scale::Linear { lo: -2.0, hi: 2.0 },
);
static PIXELS: Signal =
    Signal::number("image.size", "{pixel}", "pixels of the picture", Scale::Log { lo: 256.0, hi: 16_777_216.0 });
static FORMAT: Signal = Signal::category("image.format", "format of the file");
static MISSING: Signal = Signal::number(
    "image.missing_frames",
    "{frame}",
    "pictures of the camera lost right before this one",
    Scale::Linear { lo: 0.0, hi: 32.0 },
);

impl Payload for Image {
    const SCHEMA: SchemaId = SchemaId::new("image.v1");
    const CONTENT_TYPE: &'static str = "image/*";

    fn content_type(&self) -> &'static str {
        match self.format {
            Format::Jpeg => "image/jpeg",
            Format::Png => "image/png",
        }
    }

    fn encode(&self, out: &mut BytesMut) -> Result<(), CodecError> {
        container::join(self.format, &self.shot, &self.file, out)
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let (shot, file) = container::split(bytes)?;
        Self::try_new(shot, file)
    }

    fn signals(&self, visit: &mut dyn SignalVisitor) {
        // Of a picture that cannot be decoded everything is missing that only its pixels tell.
        let measures = self.pixels().ok().map(Pixels::measures);
        visit.number(&BRIGHTNESS, measures.map(|m| m.brightness));
        visit.number(&CONTRAST, measures.map(|m| m.contrast));
        visit.number(&SHARPNESS, measures.and_then(|m| m.sharpness));
        visit.number(&CLIPPED, measures.map(|m| m.clipped));
        visit.number(&SLOPE_X, measures.and_then(|m| m.light_across));
        visit.number(&SLOPE_Y, measures.and_then(|m| m.light_down));
        visit.number(&WARMTH, measures.and_then(|m| m.warmth));
        visit.number(&PIXELS, measures.map(|m| m.pixels as f64));
        visit.category(&FORMAT, Some(self.format.name()));
        visit.number(&MISSING, Some(f64::from(self.shot.missing)));
    }
}

#[cfg(test)]
mod tests;
