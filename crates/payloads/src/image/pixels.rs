//! From a file to pixels, with limits, and what is measured on them.

use std::{fmt::Display, io::Cursor};

use driftline_stage::CodecError;
use image::{
    ColorType, DynamicImage, ExtendedColorType, GrayImage, ImageDecoder, ImageEncoder, ImageError, Limits,
    codecs::{jpeg, png},
    metadata::Orientation,
};
use zune_jpeg::{
    JpegDecoder,
    errors::DecodeErrors,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use super::{Format, MAX_PIXELS};

/// Most pixels that are kept of a picture; of a larger one every four become one until it fits.
const KEPT: usize = 1 << 20;
/// Bytes that a decoder may take besides the picture: tables, text and colour profiles.
const MAX_OVERHEAD: u64 = 16 << 20;

/// Side of the squares whose differences are the sharpness, pixels, and that for a picture with a side under [`SMALL`].
const SQUARE: usize = 4;
const SMALL_SQUARE: usize = 2;
const SMALL: usize = 32;

/// A picture's brightness, and what was measured on the whole of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    width: usize,
    height: usize,
    luma: Vec<u8>,
    measures: Measures,
}

/// What describes a picture as a whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measures {
    /// Mean brightness, 0 to 255.
    pub brightness: f64,
    /// Standard deviation of the brightness.
    pub contrast: f64,
    /// Difference of a square of 4 × 4 pixels (2 × 2 if a side is under 32) from the mean of its four neighbours, root
    /// mean square without what noise adds to it, against the mean brightness; `None` for a black picture or one of
    /// fewer than three squares a side.
    pub sharpness: Option<f64>,
    /// Share of the pixels that are as bright as can be, 0 to 1.
    pub clipped: f64,
    /// Brightness of the right half less that of the left, against the mean, -2 to 2; `None` for a black picture.
    pub light_across: Option<f64>,
    /// Brightness of the lower half less that of the upper, against the mean, -2 to 2; `None` for a black picture.
    pub light_down: Option<f64>,
    /// Logarithm of red against blue; `None` for a picture without colour.
    pub warmth: Option<f64>,
    /// Pixels of the file.
    pub pixels: u64,
}

impl Pixels {
    fn of_luma(width: u32, height: u32, luma: Vec<u8>, warmth: Option<f64>) -> Self {
        let (width, height) = (width as usize, height as usize);
        let measures = Measures { warmth, ..measure(width, height, &luma) };
        let mut pixels = Self { width, height, luma, measures };
        while pixels.luma.len() > KEPT && pixels.width > 1 && pixels.height > 1 {
            pixels.halve();
        }
        pixels
    }

    fn halve(&mut self) {
        let (width, height) = (self.width / 2, self.height / 2);
        let mut luma = Vec::with_capacity(width * height);
        for y in 0..height {
            let above = &self.luma[2 * y * self.width..][..2 * width];
            let below = &self.luma[(2 * y + 1) * self.width..][..2 * width];
            for (a, b) in above.as_chunks::<2>().0.iter().zip(below.as_chunks::<2>().0) {
                let sum = u16::from(a[0]) + u16::from(a[1]) + u16::from(b[0]) + u16::from(b[1]);
                luma.push(((sum + 2) / 4) as u8);
            }
        }
        (self.width, self.height, self.luma) = (width, height, luma);
    }

    /// Returns the pixels of a kept row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the number of kept rows.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// Returns the brightness of the kept pixels, row by row.
    #[must_use]
    pub fn luma(&self) -> &[u8] {
        &self.luma
    }

    /// Returns what was measured.
    #[must_use]
    pub fn measures(&self) -> &Measures {
        &self.measures
    }
}

/// Returns the brightness and the warmth of red, green and blue.
fn luma_of(rgb: &[u8]) -> (Vec<u8>, Option<f64>) {
    let (mut red, mut blue) = (0u64, 0u64);
    let luma = rgb
        .as_chunks::<3>()
        .0
        .iter()
        .map(|&[r, g, b]| {
            red += u64::from(r);
            blue += u64::from(b);
            // ITU-R BT.601, as JPEG has it.
            ((77 * u32::from(r) + 150 * u32::from(g) + 29 * u32::from(b) + 128) >> 8) as u8
        })
        .collect();
    (luma, (red > 0 && blue > 0).then(|| (red as f64 / blue as f64).ln()))
}

fn measure(width: usize, height: usize, luma: &[u8]) -> Measures {
    let count = luma.len().max(1) as f64;
    let (mut sum, mut squares, mut clipped) = (0u64, 0u64, 0u64);
    let (mut left, mut right, mut upper, mut lower) = (0u64, 0u64, 0u64, 0u64);
    // The middle column and row of odd sides count on neither side.
    let (half_width, half_height) = (width / 2, height / 2);
    for (y, row) in luma.chunks_exact(width.max(1)).enumerate() {
        let part = |row: &[u8]| row.iter().map(|&p| u64::from(p)).sum::<u64>();
        let (near, rest) = row.split_at(half_width);
        let (middle, far) = rest.split_at(rest.len() - half_width);
        let (near, far) = (part(near), part(far));
        let row_sum = near + part(middle) + far;
        sum += row_sum;
        squares += row.iter().map(|&p| u64::from(p) * u64::from(p)).sum::<u64>();
        clipped += row.iter().filter(|&&p| p == u8::MAX).count() as u64;
        left += near;
        right += far;
        if y < half_height {
            upper += row_sum;
        } else if y >= height - half_height {
            lower += row_sum;
        }
    }
    let brightness = sum as f64 / count;
    let variance = (squares as f64 / count - brightness * brightness).max(0.0);
    let lit = sum > 0;
    // Means of the halves; both have as many pixels.
    let slope = |near: u64, far: u64, size: usize| {
        (lit && size > 0).then(|| (far as f64 - near as f64) / (size as f64 * brightness))
    };
    Measures {
        brightness,
        contrast: variance.sqrt(),
        sharpness: detail(width, height, luma).filter(|_| lit).map(|detail| detail / brightness),
        clipped: clipped as f64 / count,
        light_across: slope(left, right, half_width * height),
        light_down: slope(upper, lower, half_height * width),
        warmth: None,
        pixels: luma.len() as u64,
    }
}

/// Returns the root mean square difference of squares from the mean of their neighbours, without what noise adds;
/// `None` without an inside.
///
/// Each square is summed up twice, over the upper left and the lower right quarter, and over the two others. Both sums
/// see the same picture, each its own noise: in the mean of the products of their differences the noise of the sensor
/// cancels out. Of what JPEG spreads over eight pixels some is left; less than if every second pixel were summed up.
fn detail(width: usize, height: usize, luma: &[u8]) -> Option<f64> {
    let square = if width.min(height) < SMALL { SMALL_SQUARE } else { SQUARE };
    let (columns, rows) = (width / square, height / square);
    if columns < 3 || rows < 3 {
        return None;
    }
    let half = square / 2;
    let (mut one, mut other) = (vec![0i32; columns * rows], vec![0i32; columns * rows]);
    for (y, row) in luma.chunks_exact(width).take(rows * square).enumerate() {
        let upper = (y / half).is_multiple_of(2);
        let (left, right) = if upper { (&mut one, &mut other) } else { (&mut other, &mut one) };
        let start = y / square * columns;
        let sums = left[start..][..columns].iter_mut().zip(&mut right[start..][..columns]);
        for ((left, right), pixels) in sums.zip(row.chunks_exact(square)) {
            let part = |pixels: &[u8]| pixels.iter().map(|&p| i32::from(p)).sum::<i32>();
            *left += part(&pixels[..half]);
            *right += part(&pixels[half..]);
        }
    }
    let mut products = 0i64;
    for y in 1..rows - 1 {
        for at in y * columns + 1..(y + 1) * columns - 1 {
            let difference =
                |sums: &[i32]| 4 * sums[at] - sums[at - 1] - sums[at + 1] - sums[at - columns] - sums[at + columns];
            products += i64::from(difference(&one)) * i64::from(difference(&other));
        }
    }
    let inside = ((columns - 2) * (rows - 2)) as f64;
    // A sum is of half a square's pixels, and what is left of noise may be negative.
    Some((products.max(0) as f64 / inside).sqrt() / (4 * square * square / 2) as f64)
}

/// Decodes a file.
///
/// # Errors
/// If it is damaged, empty, or more than [`MAX_PIXELS`]; the size is checked before anything of that size is allocated.
pub(super) fn decode(format: Format, file: &[u8]) -> Result<Pixels, CodecError> {
    match format {
        Format::Jpeg => decode_jpeg(file),
        Format::Png => decode_png(file),
    }
}

/// Decodes JPEG, upright as viewers show it. The decoder is the one that `image` uses, but `image` lets it fill with
/// grey what a damaged file lacks.
fn decode_jpeg(file: &[u8]) -> Result<Pixels, CodecError> {
    let refused = |error: DecodeErrors| damaged(Format::Jpeg, &error);
    // What cameras write between the headers need not be clean.
    let options = DecoderOptions::default().set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(refused)?;
    // Sides have 16 bits.
    let (width, height) = decoder.dimensions().unwrap_or_default();
    let (width, height) = (width as u32, height as u32);
    check_size(width, height)?;
    let held = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    let grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let color = if grey { ColorSpace::Luma } else { ColorSpace::RGB };
    // In the scans nothing is forgiven.
    let options = decoder.options().jpeg_set_out_colorspace(color).set_strict_mode(true);
    decoder.set_options(options);
    let mut bytes = vec![0u8; width as usize * height as usize * color.num_components()];
    decoder.decode_into(&mut bytes).map_err(refused)?;
    // Nor does a decoder that has every pixel look at what comes after them.
    if !has_end(file) {
        return Err(damaged(Format::Jpeg, &"the end-of-image marker is missing"));
    }
    let (luma, warmth) = if grey { (bytes, None) } else { luma_of(&bytes) };
    let Some(luma) = GrayImage::from_raw(width, height, luma) else {
        return Err(damaged(Format::Jpeg, &"fewer pixels than the header says"));
    };
    let mut picture = DynamicImage::ImageLuma8(luma);
    picture.apply_orientation(held.unwrap_or(Orientation::NoTransforms));
    Ok(Pixels::of_luma(picture.width(), picture.height(), picture.into_bytes(), warmth))
}

/// Says whether a JPEG file has its end-of-image marker, not only that of a thumbnail in one of its segments.
fn has_end(file: &[u8]) -> bool {
    let mut rest = file;
    // Stuffing, fill bytes, restarts and the start of the image are followed by no segment.
    let is_marker = |two: &[u8]| two[0] == 0xff && !matches!(two[1], 0x00 | 0x01 | 0xd0..=0xd8 | 0xff);
    while let Some(at) = rest.windows(2).position(is_marker) {
        if rest[at + 1] == 0xd9 {
            return true;
        }
        rest = &rest[at + 2..];
        let length = rest.first_chunk::<2>().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
        rest = rest.get(length..).unwrap_or_default();
    }
    false
}

fn decode_png(file: &[u8]) -> Result<Pixels, CodecError> {
    let refused = |error: ImageError| damaged(Format::Png, &error);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_PIXELS * 8 + MAX_OVERHEAD);
    let mut decoder = png::PngDecoder::with_limits(Cursor::new(file), limits).map_err(refused)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(decoder.total_bytes() + MAX_OVERHEAD);
    decoder.set_limits(limits).map_err(refused)?;
    let color = decoder.color_type();
    let mut bytes = vec![0u8; usize::try_from(decoder.total_bytes()).unwrap_or(usize::MAX)];
    decoder.read_image(&mut bytes).map_err(refused)?;
    // Channels of 16 bits come in the order of this machine; the higher byte is enough.
    if matches!(color, ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16) {
        bytes = bytes.as_chunks::<2>().0.iter().map(|&two| (u16::from_ne_bytes(two) >> 8) as u8).collect();
    }
    let (luma, warmth) = match color.channel_count() {
        1 => (bytes, None),
        2 => (bytes.as_chunks::<2>().0.iter().map(|two| two[0]).collect(), None),
        3 => luma_of(&bytes),
        _ => {
            let rgb: Vec<u8> = bytes.as_chunks::<4>().0.iter().flat_map(|four| [four[0], four[1], four[2]]).collect();
            luma_of(&rgb)
        }
    };
    Ok(Pixels::of_luma(width, height, luma, warmth))
}

fn check_size(width: u32, height: u32) -> Result<(), CodecError> {
    let count = u64::from(width) * u64::from(height);
    if count == 0 || count > MAX_PIXELS {
        let allowed = format!("1 to {MAX_PIXELS} pixels");
        return Err(CodecError::new("size", format!("{width} by {height}"), allowed));
    }
    Ok(())
}

fn damaged(format: Format, error: &dyn Display) -> CodecError {
    CodecError::new(format.name(), format!("a file that cannot be decoded ({error})"), "a whole file of this format")
}

/// Compresses red, green and blue pixels.
///
/// # Errors
/// If there are not `3 · width · height` bytes, or more than [`MAX_PIXELS`] pixels.
pub(super) fn compress(
    format: Format,
    quality: u8,
    (width, height): (u32, u32),
    rgb: &[u8],
) -> Result<Vec<u8>, CodecError> {
    let count = u64::from(width) * u64::from(height);
    if count == 0 || count > MAX_PIXELS || rgb.len() as u64 != 3 * count {
        let found = format!("{width} by {height} with {} bytes", rgb.len());
        return Err(CodecError::new("pixels", found, format!("1 to {MAX_PIXELS} pixels of three bytes")));
    }
    let mut file = Vec::new();
    let written = match format {
        Format::Jpeg => jpeg::JpegEncoder::new_with_quality(&mut file, quality.clamp(1, 100)).write_image(
            rgb,
            width,
            height,
            ExtendedColorType::Rgb8,
        ),
        Format::Png => png::PngEncoder::new(&mut file).write_image(rgb, width, height, ExtendedColorType::Rgb8),
    };
    written.map_err(|error| damaged(format, &error))?;
    Ok(file)
}
