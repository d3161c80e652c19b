//! Brightness that things are drawn on, and the mask of those that are defects.

use rand::{RngExt, rngs::StdRng};

/// A square of brightness. Positions are shares of a side, from 0 to 1; widths are pixels.
#[derive(Debug)]
pub(super) struct Canvas {
    side: usize,
    values: Vec<f32>,
    mask: Vec<u8>,
}

/// Standard deviation of the sensor's noise.
const NOISE: f32 = 1.6;
/// Share of a stroke's full brightness from which a pixel belongs to it.
const PART: f32 = 0.4;

impl Canvas {
    pub(super) fn new(side: usize) -> Self {
        Self { side, values: vec![0.0; side * side], mask: vec![0; side * side] }
    }

    pub(super) fn side(&self) -> usize {
        self.side
    }

    /// Fills the canvas with a function of `(u, v)`, both from -½ to ½, that is computed on a grid and interpolated.
    pub(super) fn fill_smooth(&mut self, cells: usize, value: impl Fn(f32, f32) -> f32) {
        let at = |i: usize| i as f32 / cells as f32 - 0.5;
        let grid: Vec<f32> =
            (0..=cells).flat_map(|y| (0..=cells).map(move |x| (x, y))).map(|(x, y)| value(at(x), at(y))).collect();
        let place = |i: usize| {
            let exact = i as f32 * cells as f32 / self.side as f32;
            let cell = (exact as usize).min(cells - 1);
            (cell, exact - cell as f32)
        };
        let columns: Vec<(usize, f32)> = (0..self.side).map(place).collect();
        let mut line = vec![0f32; cells + 1];
        for (y, row) in self.values.chunks_exact_mut(self.side).enumerate() {
            let (cell, share) = place(y);
            let (above, below) = (&grid[cell * (cells + 1)..], &grid[(cell + 1) * (cells + 1)..]);
            for ((mixed, a), b) in line.iter_mut().zip(above).zip(below) {
                *mixed = a + (b - a) * share;
            }
            for (pixel, &(cell, share)) in row.iter_mut().zip(&columns) {
                *pixel = line[cell] + (line[cell + 1] - line[cell]) * share;
            }
        }
    }

    /// Paints every pixel with a function of its place, shares of a side from 0 to 1: its brightness, and whether it belongs to a defect.
    pub(super) fn paint(&mut self, mut pixel: impl FnMut(f32, f32) -> (f32, bool)) {
        let at = |i: usize| (i as f32 + 0.5) / self.side as f32;
        for (i, (value, mask)) in self.values.iter_mut().zip(&mut self.mask).enumerate() {
            let (brightness, defect) = pixel(at(i % self.side), at(i / self.side));
            *value = brightness;
            *mask = if defect { u8::MAX } else { 0 };
        }
    }

    /// Adds a round spot of this standard deviation.
    pub(super) fn spot(&mut self, centre: (f32, f32), width: f32, brightness: f32) {
        self.stroke(&[centre], width, brightness, false);
    }

    /// Adds a line through points, of this standard deviation across; a defect marks the mask.
    pub(super) fn stroke(&mut self, path: &[(f32, f32)], width: f32, brightness: f32, defect: bool) {
        let side = self.side as f32;
        let points: Vec<(f32, f32)> = path.iter().map(|&(x, y)| (x * side, y * side)).collect();
        let Some(&first) = points.first() else { return };
        let reach = 3.0 * width + 1.0;
        // Where pieces of the line meet, the nearer one counts, so that joints are no brighter.
        let bound = |pick: fn(f32, f32) -> f32, start: (f32, f32)| {
            points.iter().fold(start, |(x, y), p| (pick(x, p.0), pick(y, p.1)))
        };
        let (low, high) = (bound(f32::min, first), bound(f32::max, first));
        let clip = |v: f32| v.clamp(0.0, side) as usize;
        let (left, right) = (clip(low.0 - reach), clip(high.0 + reach));
        let (top, bottom) = (clip(low.1 - reach), clip(high.1 + reach));
        if left >= right || top >= bottom {
            return;
        }
        let columns = right - left;
        let mut nearest = vec![f32::INFINITY; columns * (bottom - top)];
        let single = [(first, first)];
        let pieces: Vec<((f32, f32), (f32, f32))> = points.windows(2).map(|two| (two[0], two[1])).collect();
        for &(from, to) in if pieces.is_empty() { &single[..] } else { &pieces } {
            let (dx, dy) = (to.0 - from.0, to.1 - from.1);
            let length = (dx * dx + dy * dy).max(1e-6);
            let rows = clip(from.1.min(to.1) - reach)..clip(from.1.max(to.1) + reach);
            for y in rows {
                for x in clip(from.0.min(to.0) - reach)..clip(from.0.max(to.0) + reach) {
                    let (px, py) = (x as f32 + 0.5 - from.0, y as f32 + 0.5 - from.1);
                    let along = ((px * dx + py * dy) / length).clamp(0.0, 1.0);
                    let (ex, ey) = (px - along * dx, py - along * dy);
                    let slot = &mut nearest[(y - top) * columns + x - left];
                    *slot = slot.min(ex * ex + ey * ey);
                }
            }
        }
        for (i, &distance) in nearest.iter().enumerate().filter(|(_, d)| d.is_finite()) {
            let share = (-distance / (2.0 * width * width)).exp();
            let place = (top + i / columns) * self.side + left + i % columns;
            self.values[place] += brightness * share;
            if defect && share > PART {
                self.mask[place] = u8::MAX;
            }
        }
    }

    /// Blurs by repeated averages, which together are nearly a Gaussian of this standard deviation.
    pub(super) fn blur(&mut self, deviation: f32) {
        if deviation < 0.05 {
            return;
        }
        // Mixing a pixel with w of either neighbour adds a variance of 2w; up to ¼ of each nothing rings.
        let variance = deviation * deviation;
        let passes = (variance / 0.5).ceil().max(1.0);
        let weight = variance / passes / 2.0;
        for _ in 0..passes as usize {
            self.average(weight);
        }
    }

    fn average(&mut self, weight: f32) {
        let side = self.side;
        for row in self.values.chunks_exact_mut(side) {
            let mut before = row[0];
            for x in 0..side {
                let (here, after) = (row[x], row[(x + 1).min(side - 1)]);
                row[x] = here + weight * (before + after - 2.0 * here);
                before = here;
            }
        }
        let mut before: Vec<f32> = self.values[..side].to_vec();
        for y in 0..side {
            let (upper, lower) = self.values.split_at_mut(((y + 1) * side).min(side * side));
            let here = &mut upper[y * side..];
            let below: &[f32] = if lower.is_empty() { &[] } else { &lower[..side] };
            for x in 0..side {
                let value = here[x];
                let after = below.get(x).copied().unwrap_or(value);
                here[x] = value + weight * (before[x] + after - 2.0 * value);
                before[x] = value;
            }
        }
    }

    /// Exposes the canvas: colour, noise, eight bits.
    pub(super) fn develop(self, gains: [f32; 3], rng: &mut StdRng) -> (Vec<u8>, Vec<u8>) {
        let mut rgb = Vec::with_capacity(3 * self.values.len());
        for &value in &self.values {
            // Two bytes of noise added up are nearly normal, and a picture has a quarter of a million pixels.
            let bits = rng.random::<u64>();
            let byte = |k: u32| (bits >> (8 * k) & 255) as f32 - 127.5;
            for (k, gain) in gains.into_iter().enumerate() {
                let k = k as u32;
                // The sum of two uniform bytes has a standard deviation of 104.5.
                let noise = (byte(2 * k) + byte(2 * k + 1)) * (NOISE / 104.5);
                rgb.push((value * gain + noise).clamp(0.0, 255.0) as u8);
            }
        }
        (rgb, self.mask)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn strokes_lie_where_they_are_drawn_and_blur_keeps_the_light() {
        let mut canvas = Canvas::new(64);
        canvas.stroke(&[(0.25, 0.5), (0.5, 0.5), (0.75, 0.5)], 1.0, 100.0, true);
        // The joint in the middle is no brighter than the rest.
        let row = &canvas.values[32 * 64..33 * 64];
        assert!((row[32] - row[24]).abs() < 1e-3 && row[32] > 80.0 && row[4] == 0.0, "{row:?}");
        assert!(canvas.mask[32 * 64 + 32] > 0 && canvas.mask[20 * 64 + 32] == 0);
        let sum = |canvas: &Canvas| canvas.values.iter().sum::<f32>();
        let before = (sum(&canvas), canvas.values[32 * 64 + 32]);
        canvas.blur(2.0);
        assert!((sum(&canvas) / before.0 - 1.0).abs() < 1e-3 && canvas.values[32 * 64 + 32] < 0.7 * before.1);
        // Partly outside.
        canvas.stroke(&[(-0.5, -0.5), (1.5, 1.5)], 1.0, 10.0, false);
        canvas.stroke(&[(-0.5, 0.5)], 1.0, 10.0, false);
    }

    #[test]
    fn what_changes_slowly_is_interpolated() {
        let mut canvas = Canvas::new(64);
        canvas.fill_smooth(8, |u, v| 10.0 * u + 100.0 * v);
        let at = |x: usize, y: usize| canvas.values[y * 64 + x];
        assert!((at(32, 32)).abs() < 1e-3 && (at(0, 0) + 55.0).abs() < 1e-3 && (at(16, 48) - 22.5).abs() < 1e-3);
        let (rgb, _) = canvas.develop([1.0; 3], &mut StdRng::seed_from_u64(1));
        assert_eq!(rgb.len(), 3 * 64 * 64);
    }
}
