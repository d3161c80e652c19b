//! What the network looks at: a picture's brightness, brought to a square of one size, with its light taken out.
//!
//! Every picture becomes a square, whatever its shape: so each counts alike in the moments of a batch, and mean and largest value go over equally many cells. That
//! is done by averaging areas, never by skipping pixels: a scratch that is one pixel wide grows fainter but does not vanish. Then the mean is
//! subtracted and the rest divided by its standard deviation, so that a lamp that is dimmed as a whole changes nothing. A second channel does the same with
//! the neighbourhood of each pixel: a lamp that stands elsewhere changes little there, and a network of few steps of training finds defects in it sooner.

use crate::error::ModelError;

/// The side of the square is a multiple of this.
pub const ALIGN: usize = 16;
/// Channels of [`Plane::channels`].
pub const CHANNELS: usize = 2;
/// The least standard deviation that is divided by, of brightness from 0 to 255: noise in an even picture stays small.
pub(crate) const LEAST_DEVIATION: f32 = 4.0;
/// Pixels on either side that belong to a pixel's neighbourhood.
const NEIGHBOURS: usize = 8;
/// Added to the standard deviation of a neighbourhood, of a picture whose own is 1.
const CALM: f32 = 0.15;
/// The largest value of the second channel, either way.
const STEEPEST: f32 = 5.0;

/// A picture of one value a pixel, rows from the top.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    width: usize,
    height: usize,
    values: Vec<f32>,
}

impl Plane {
    /// Takes the values of a picture, row by row.
    ///
    /// # Errors
    /// [`ModelError::Input`] for a side of 0, or if there are not `width · height` values.
    pub fn try_new(width: usize, height: usize, values: Vec<f32>) -> Result<Self, ModelError> {
        if width == 0 || height == 0 || width.checked_mul(height) != Some(values.len()) {
            return Err(ModelError::Input {
                place: "picture".to_owned(),
                found: format!("{width} by {height} with {} values", values.len()),
                allowed: "sides of at least 1, and as many values as pixels".to_owned(),
            });
        }
        Ok(Self { width, height, values })
    }

    /// Makes a picture from a function of column and row.
    pub fn from_fn(width: usize, height: usize, mut value: impl FnMut(usize, usize) -> f32) -> Self {
        let values = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| value(x, y)).collect();
        Self { width, height, values }
    }

    /// Returns the pixels of a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the number of rows.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// Returns the values, row by row.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Returns the values for change.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Returns the value between four pixels; beyond the edges those of the edge go on.
    #[must_use]
    pub fn at(&self, x: f32, y: f32) -> f32 {
        let x = x.clamp(0.0, (self.width - 1) as f32);
        let y = y.clamp(0.0, (self.height - 1) as f32);
        let (left, top) = (x as usize, y as usize);
        let (right, bottom) = ((left + 1).min(self.width - 1), (top + 1).min(self.height - 1));
        let (dx, dy) = (x - left as f32, y - top as f32);
        let row = |y: usize| {
            let row = &self.values[y * self.width..][..self.width];
            row[left] + (row[right] - row[left]) * dx
        };
        let above = row(top);
        above + (row(bottom) - above) * dy
    }

    /// Returns the picture seen in a mirror: from the other side, upside down, or both.
    #[must_use]
    pub fn mirrored(&self, sideways: bool, upside_down: bool) -> Self {
        let (width, height) = (self.width, self.height);
        Self::from_fn(width, height, |x, y| {
            let x = if sideways { width - 1 - x } else { x };
            let y = if upside_down { height - 1 - y } else { y };
            self.values[y * width + x]
        })
    }

    /// Subtracts the mean and divides by the standard deviation.
    pub fn normalise(&mut self) {
        let count = self.values.len() as f32;
        let mean = self.values.iter().sum::<f32>() / count;
        let variance = self.values.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / count;
        let scale = variance.sqrt().max(LEAST_DEVIATION).recip();
        self.values.iter_mut().for_each(|v| *v = (*v - mean) * scale);
    }

    /// Lays two values a pixel side by side: the pixel's own, and how many standard deviations of its neighbourhood it differs from the mean of that.
    #[must_use]
    pub fn channels(&self) -> Vec<f32> {
        let (width, height) = (self.width, self.height);
        // Sums of everything above and to the left.
        let mut sums = vec![[0f64; 2]; (width + 1) * (height + 1)];
        for (y, row) in self.values.chunks_exact(width).enumerate() {
            let mut line = [0f64; 2];
            for (x, &value) in row.iter().enumerate() {
                let value = f64::from(value);
                line = [line[0] + value, line[1] + value * value];
                let above = sums[y * (width + 1) + x + 1];
                sums[(y + 1) * (width + 1) + x + 1] = [above[0] + line[0], above[1] + line[1]];
            }
        }
        let mut channels = Vec::with_capacity(CHANNELS * self.values.len());
        for (y, row) in self.values.chunks_exact(width).enumerate() {
            let (top, bottom) = (y.saturating_sub(NEIGHBOURS), (y + NEIGHBOURS + 1).min(height));
            for (x, &value) in row.iter().enumerate() {
                let (left, right) = (x.saturating_sub(NEIGHBOURS), (x + NEIGHBOURS + 1).min(width));
                let sum = |k: usize| {
                    let at = |y: usize, x: usize| sums[y * (width + 1) + x][k];
                    at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left)
                };
                let count = ((bottom - top) * (right - left)) as f64;
                let mean = sum(0) / count;
                let deviation = (sum(1) / count - mean * mean).max(0.0).sqrt() as f32;
                let local = (value - mean as f32) / (deviation + CALM);
                channels.extend([value, local.clamp(-STEEPEST, STEEPEST)]);
            }
        }
        channels
    }
}

/// Brings a picture of values, row by row, to `side` × `side` pixels, whatever its shape. Each new pixel is the mean of the area it covers, or of as much as an old
/// pixel about its centre, whichever is larger: a picture that is enlarged is interpolated.
///
/// # Errors
/// [`ModelError::Input`] for a side of 0, or if there are not `width · height` values.
pub fn square<T: Copy + Into<f32>>(
    width: usize,
    height: usize,
    pixels: &[T],
    side: usize,
) -> Result<Plane, ModelError> {
    if width == 0 || height == 0 || side == 0 || width.checked_mul(height) != Some(pixels.len()) {
        return Err(ModelError::Input {
            place: "picture".to_owned(),
            found: format!("{width} by {height} with {} pixels, to be brought to a side of {side}", pixels.len()),
            allowed: "sides of at least 1, and as many pixels as they say".to_owned(),
        });
    }
    let across = spans(width, side);
    let mut values = vec![0f32; side * side];
    let mut line = vec![0f32; width];
    for (out, down) in values.chunks_exact_mut(side).zip(spans(height, side)) {
        line.fill(0.0);
        for (y, weight) in down.weights() {
            for (sum, &pixel) in line.iter_mut().zip(&pixels[y * width..][..width]) {
                *sum += pixel.into() * weight;
            }
        }
        for (value, span) in out.iter_mut().zip(&across) {
            *value = span.weights().map(|(x, weight)| line[x] * weight).sum();
        }
    }
    Plane::try_new(side, side, values)
}

/// The stretch of old pixels whose mean a new one is.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: f32,
    to: f32,
    /// The last old pixel of it.
    last: usize,
}

impl Span {
    /// Returns the old pixels with their shares, which add up to 1.
    fn weights(self) -> impl Iterator<Item = (usize, f32)> {
        let Self { from, to, last } = self;
        (from as usize..=last).map(move |i| {
            let covered = to.min((i + 1) as f32) - from.max(i as f32);
            (i, covered / (to - from))
        })
    }
}

fn spans(old: usize, new: usize) -> Vec<Span> {
    let step = old as f64 / new as f64;
    let half = step.max(1.0) / 2.0;
    let span = |i: usize| {
        let centre = (i as f64 + 0.5) * step;
        let (from, to) = ((centre - half).max(0.0) as f32, (centre + half).min(old as f64) as f32);
        // What rounding put beyond the edge of a pixel is none of the next. Of a large number `f32` has no thousandths.
        Span { from, to, last: ((to - 1e-3) as usize).min(old - 1) }
    };
    (0..new).map(span).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_averaged_whatever_the_shape() {
        let pixels: [u8; 8] = [0, 100, 200, 40, 20, 80, 60, 180];
        let two = square(4, 2, &pixels, 2).unwrap();
        assert_eq!(two.values(), [50.0, 120.0, 50.0, 120.0]);
        assert_eq!(square(4, 2, &pixels, 1).unwrap().values(), [85.0]);
        // Three columns become two: the middle one counts half on either side.
        let uneven = square(3, 1, &[0u8, 90, 30], 2).unwrap();
        assert!((uneven.values()[0] - 30.0).abs() < 1e-3 && (uneven.values()[1] - 50.0).abs() < 1e-3);
        assert!(square(4, 2, &pixels[1..], 2).is_err() && square::<u8>(0, 0, &[], 2).is_err());
    }

    #[test]
    fn reducing_keeps_the_mean() {
        let pixels: Vec<u8> = (0..601 * 397).map(|i| (i * 7919 % 251) as u8).collect();
        let mean = pixels.iter().map(|&p| f64::from(p)).sum::<f64>() / pixels.len() as f64;
        let plane = square(601, 397, &pixels, 320).unwrap();
        let reduced = plane.values().iter().map(|&v| f64::from(v)).sum::<f64>() / plane.values().len() as f64;
        assert!((mean - reduced).abs() < 0.05, "{mean} {reduced}");
    }

    #[test]
    fn a_picture_as_narrow_as_a_thread_is_reduced_too() {
        for (width, height) in [(40_000, 2), (2, 40_000), (1, 1 << 24), (32_768, 1), (65_535, 3)] {
            let pixels: Vec<u8> = (0..width * height).map(|i| if i < width * height / 2 { 50 } else { 150 }).collect();
            let plane = square(width, height, &pixels, 320).unwrap();
            assert!(plane.values().iter().all(|value| (49.0..151.0).contains(value)), "{width} by {height}");
            let mean = plane.values().iter().sum::<f32>() / plane.values().len() as f32;
            assert!((mean - 100.0).abs() < 1.0, "{width} by {height}: {mean}");
        }
    }

    #[test]
    fn small_pictures_are_interpolated() {
        let plane = square(2, 1, &[0f32, 8.0], 4).unwrap();
        assert_eq!(plane.values(), [[0.0, 2.0, 6.0, 8.0]; 4].concat());
        let same = square(2, 2, &[1u8, 2, 3, 4], 2).unwrap();
        assert_eq!(same.values(), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn light_is_taken_out() {
        let picture = |gain: f32, offset: f32| {
            let mut plane = Plane::from_fn(20, 10, |x, y| gain * ((x * y) % 17) as f32 * 8.0 + offset);
            plane.normalise();
            plane
        };
        let (bright, dim) = (picture(1.0, 40.0), picture(0.5, 10.0));
        assert!(bright.values().iter().zip(dim.values()).all(|(a, b)| (a - b).abs() < 1e-4));
        // A lamp from the side: the second channel hardly notices.
        let mut side = Plane::from_fn(20, 10, |x, y| (((x * y) % 17) as f32 * 8.0 + 40.0) * (1.0 + x as f32 / 40.0));
        side.normalise();
        let local = |plane: &Plane| plane.channels().into_iter().skip(1).step_by(CHANNELS).collect::<Vec<_>>();
        let pairs = local(&bright).into_iter().zip(local(&side));
        let difference = pairs.map(|(a, b)| (a - b).abs()).sum::<f32>() / 200.0;
        assert!(difference < 0.25, "{difference}");
        let mut even = Plane::from_fn(8, 8, |_, _| 100.0);
        even.normalise();
        assert!(even.channels().iter().all(|v| v.abs() < 1e-6));
    }
}
