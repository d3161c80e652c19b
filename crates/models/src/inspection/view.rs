//! What the network looks at: a picture's brightness, small enough, with its light taken out.
//!
//! A picture is reduced by averaging areas, never by skipping pixels: a scratch that is one pixel wide grows fainter but does not vanish. Then its mean is
//! subtracted and the rest divided by its standard deviation, so that a lamp that is dimmed as a whole changes nothing. A second channel does the same with
//! the neighbourhood of each pixel: a lamp that stands elsewhere changes little there, and a network of few steps of training finds defects in it sooner.

use crate::error::ModelError;

/// Side lengths handed to the network are multiples of this.
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

    /// Continues the picture to the right and below until both sides are multiples of [`ALIGN`].
    #[must_use]
    pub fn aligned(self) -> Self {
        let (width, height) = (self.width.next_multiple_of(ALIGN), self.height.next_multiple_of(ALIGN));
        if (width, height) == (self.width, self.height) {
            return self;
        }
        Self::from_fn(width, height, |x, y| self.values[y.min(self.height - 1) * self.width + x.min(self.width - 1)])
    }
}

/// Reduces a picture of brightness from 0 to 255 so that its longer side has at most `side` pixels; each new pixel is the mean of the area it covers.
///
/// # Errors
/// [`ModelError::Input`] for a side of 0, or if there are not `width · height` pixels.
pub fn reduce(width: usize, height: usize, pixels: &[u8], side: usize) -> Result<Plane, ModelError> {
    if width == 0 || height == 0 || side == 0 || width.checked_mul(height) != Some(pixels.len()) {
        return Err(ModelError::Input {
            place: "picture".to_owned(),
            found: format!("{width} by {height} with {} pixels, to be reduced to {side}", pixels.len()),
            allowed: "sides of at least 1, and as many pixels as they say".to_owned(),
        });
    }
    let longer = width.max(height);
    let scaled = |length: usize| if longer <= side { length } else { ((length * side + longer / 2) / longer).max(1) };
    let (columns, rows) = (scaled(width), scaled(height));
    let across = spans(width, columns);
    let mut values = vec![0f32; columns * rows];
    let mut line = vec![0f32; width];
    for (out, down) in values.chunks_exact_mut(columns).zip(spans(height, rows)) {
        line.fill(0.0);
        for (y, weight) in down.weights() {
            for (sum, &pixel) in line.iter_mut().zip(&pixels[y * width..][..width]) {
                *sum += f32::from(pixel) * weight;
            }
        }
        for (value, span) in out.iter_mut().zip(&across) {
            *value = span.weights().map(|(x, weight)| line[x] * weight).sum();
        }
    }
    Plane::try_new(columns, rows, values)
}

/// The stretch of old pixels that a new one covers.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: f32,
    to: f32,
}

impl Span {
    /// Returns the old pixels with their shares, which add up to 1.
    fn weights(self) -> impl Iterator<Item = (usize, f32)> {
        let (from, to) = (self.from, self.to);
        let last = (to - 1e-3) as usize;
        (from as usize..=last).map(move |i| {
            let covered = to.min((i + 1) as f32) - from.max(i as f32);
            (i, covered / (to - from))
        })
    }
}

fn spans(old: usize, new: usize) -> Vec<Span> {
    let edge = |i: usize| (i as f64 * old as f64 / new as f64) as f32;
    (0..new).map(|i| Span { from: edge(i), to: edge(i + 1) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reducing_averages_areas() {
        let pixels: Vec<u8> = vec![0, 100, 200, 40, 20, 80, 60, 180];
        let half = reduce(4, 2, &pixels, 2).unwrap();
        assert_eq!((half.width(), half.height()), (2, 1));
        assert!((half.values()[0] - 50.0).abs() < 1e-3 && (half.values()[1] - 120.0).abs() < 1e-3);
        // Three columns become two: the middle one counts half on either side.
        let uneven = reduce(3, 1, &[0, 90, 30], 2).unwrap();
        assert!((uneven.values()[0] - 30.0).abs() < 1e-3 && (uneven.values()[1] - 50.0).abs() < 1e-3);
    }

    #[test]
    fn reducing_keeps_the_mean() {
        let pixels: Vec<u8> = (0..601 * 397).map(|i| (i * 7919 % 251) as u8).collect();
        let mean = pixels.iter().map(|&p| f64::from(p)).sum::<f64>() / pixels.len() as f64;
        let plane = reduce(601, 397, &pixels, 320).unwrap();
        assert_eq!((plane.width(), plane.height()), (320, 211));
        let reduced = plane.values().iter().map(|&v| f64::from(v)).sum::<f64>() / plane.values().len() as f64;
        assert!((mean - reduced).abs() < 0.05, "{mean} {reduced}");
    }

    #[test]
    fn small_pictures_stay_as_they_are() {
        let plane = reduce(2, 1, &[3, 9], 320).unwrap();
        assert_eq!(plane.values(), [3.0, 9.0]);
        let aligned = plane.aligned();
        assert_eq!((aligned.width(), aligned.height()), (16, 16));
        assert_eq!((aligned.at(0.0, 9.0), aligned.at(15.0, 15.0)), (3.0, 9.0));
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
