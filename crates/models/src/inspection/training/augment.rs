//! Changes that a picture may undergo without becoming another one.
//!
//! Geometry: size, proportions, small turns, flips; quarter turns where the surface has no grain. Light: gain, gamma, a lamp that stands elsewhere, saturation,
//! noise, a lens slightly out of focus. The mask goes through the same geometry.
//!
//! An example shows the whole piece, or nearly: a defect may be larger than any window on it, as the shaded half of a tile is. It is as large as what the network
//! will see; what is shrunk or moved is surrounded by what its edges go on with.

use rand::{RngExt, rngs::StdRng};
use rand_distr::StandardNormal;

use super::sample::Sample;
use crate::inspection::{network::CELL, view::Plane};

/// What surfaces differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// The surface looks alike from all sides: quarter turns are the same surface.
    None,
    /// It has a direction, such as grinding marks: it is flipped, but not turned.
    Upright,
}

/// A picture to be learned from.
#[derive(Debug, Clone)]
pub struct Example {
    /// What the network is shown, normalised.
    pub picture: Plane,
    /// Share of each cell of the map that is defect, row by row; `None` if it is not known.
    pub cells: Option<Vec<f32>>,
    /// The class.
    pub class: usize,
}

/// Tries for a change that still shows the defect.
const TRIES: usize = 8;
/// Cells, at least, that an example must show of a defect.
pub(super) const VISIBLE: f32 = 0.5;
/// How much an example may differ in size and in proportions (natural logarithms), in direction (radians) and in place (shares of a side), either way.
const SIZE: f32 = 0.18;
const PROPORTION: f32 = 0.07;
const TURN: f32 = 0.07;
const SHIFT: f32 = 0.04;

/// Draws an example of `side` × `side` pixels from a sample.
pub fn example(sample: &Sample, side: usize, grain: Grain, rng: &mut StdRng) -> Example {
    let known = match (sample.mask(), sample.class) {
        (None, 1..) => None,
        (mask, _) => Some(mask),
    };
    for attempt in 0.. {
        let strength = if attempt < TRIES { 1.0 } else { 0.0 };
        let warp = Warp::draw(sample.picture(), side, grain, strength, rng);
        let cells = known.map(|mask| warp.cells(mask));
        let seen = cells.as_ref().map_or(f32::INFINITY, |cells| cells.iter().sum());
        if sample.class == 0 || seen >= VISIBLE || attempt >= TRIES {
            return Example { picture: relit(sample.picture(), warp, rng), cells, class: sample.class };
        }
    }
    unreachable!("the last attempt returns")
}

/// Takes a picture under another light.
pub(super) fn relit(whole: &Plane, warp: Warp, rng: &mut StdRng) -> Plane {
    let light = Light::draw(rng);
    let mut picture = warp.picture(whole, &light);
    if light.blur > 0.0 {
        blur(&mut picture, light.blur);
    }
    for value in picture.values_mut() {
        *value = (*value + light.noise * rng.sample::<f32, _>(StandardNormal)).clamp(0.0, 255.0);
    }
    picture.normalise();
    picture
}

/// An affine map from the example's pixels to the sample's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Warp {
    side: usize,
    /// Sample's column and row for the example's origin, a step right and a step down.
    origin: (f32, f32),
    right: (f32, f32),
    down: (f32, f32),
}

impl Warp {
    pub fn draw(picture: &Plane, side: usize, grain: Grain, strength: f32, rng: &mut StdRng) -> Self {
        let mut spread = |most: f32| strength * most * rng.random_range(-1.0f32..=1.0);
        let whole = picture.width() as f32;
        let size = side as f32 / whole * spread(SIZE).exp();
        let proportion = spread(PROPORTION).exp();
        let (scale_x, scale_y) = (size * proportion, size / proportion);
        let (sine, cosine) = spread(TURN).sin_cos();
        let mut right = (cosine / scale_x, sine / scale_y);
        let mut down = (-sine / scale_x, cosine / scale_y);
        let centre = (whole * (0.5 + spread(SHIFT)) - 0.5, whole * (0.5 + spread(SHIFT)) - 0.5);
        if rng.random_bool(0.5) {
            right = (-right.0, -right.1);
        }
        if rng.random_bool(0.5) {
            down = (-down.0, -down.1);
        }
        if grain == Grain::None && rng.random_bool(0.5) {
            (right, down) = (down, right);
        }
        let half = (side - 1) as f32 / 2.0;
        let origin = (centre.0 - half * (right.0 + down.0), centre.1 - half * (right.1 + down.1));
        Self { side, origin, right, down }
    }

    /// The map of a sample that is as large as the example onto itself.
    pub fn none(side: usize) -> Self {
        Self { side, origin: (0.0, 0.0), right: (1.0, 0.0), down: (0.0, 1.0) }
    }

    /// Moves what the example shows by up to so many of its pixels along either side.
    pub fn moved(mut self, most: f32, rng: &mut StdRng) -> Self {
        let (x, y) = (rng.random_range(-most..=most), rng.random_range(-most..=most));
        self.origin = self.source(x, y);
        self
    }

    /// Returns the point of the sample that a point of the example shows.
    pub fn source(&self, x: f32, y: f32) -> (f32, f32) {
        (self.origin.0 + x * self.right.0 + y * self.down.0, self.origin.1 + x * self.right.1 + y * self.down.1)
    }

    fn picture(&self, picture: &Plane, light: &Light) -> Plane {
        Plane::from_fn(self.side, self.side, |x, y| {
            let (x, y) = self.source(x as f32, y as f32);
            light.shine(picture, x, y)
        })
    }

    /// Returns the share of every cell that is defect, from four points a cell.
    fn cells(&self, mask: Option<&Plane>) -> Vec<f32> {
        let count = self.side / CELL;
        let Some(mask) = mask else { return vec![0.0; count * count] };
        let mut cells = Vec::with_capacity(count * count);
        for row in 0..count {
            for column in 0..count {
                let mut sum = 0.0;
                for (dx, dy) in [(0.5, 0.5), (2.5, 0.5), (0.5, 2.5), (2.5, 2.5)] {
                    let (x, y) = self.source((column * CELL) as f32 + dx, (row * CELL) as f32 + dy);
                    sum += mask.at(x, y);
                }
                cells.push(sum / 4.0);
            }
        }
        cells
    }
}

/// Another light, another camera.
#[derive(Debug, Clone, Copy)]
struct Light {
    gain: f32,
    gamma: f32,
    offset: f32,
    /// A lamp elsewhere: brightness changes smoothly over the picture.
    tilt: [f32; 5],
    noise: f32,
    blur: f32,
}

impl Light {
    fn draw(rng: &mut StdRng) -> Self {
        Self {
            gain: rng.random_range(-0.25f32..=0.25).exp(),
            gamma: rng.random_range(-0.12f32..=0.12).exp(),
            offset: rng.random_range(-6.0f32..=6.0),
            tilt: std::array::from_fn(|_| 0.1 * rng.sample::<f32, _>(StandardNormal)),
            noise: rng.random_range(0.0f32..=1.0).powi(2) * 3.0,
            blur: if rng.random_bool(0.3) { rng.random_range(0.1..=1.0) } else { 0.0 },
        }
    }

    /// Returns the brightness of a point of a picture under this light.
    fn shine(&self, picture: &Plane, x: f32, y: f32) -> f32 {
        let (u, v) = (x / picture.width() as f32 - 0.5, y / picture.height() as f32 - 0.5);
        let [a, b, c, d, e] = self.tilt;
        let lamp = (1.0 + a * u + b * v + c * u * v + d * u * u + e * v * v).max(0.2);
        let plain = (picture.at(x, y) / 255.0).max(0.0);
        (255.0 * plain.powf(self.gamma) * self.gain * lamp + self.offset).clamp(0.0, 255.0)
    }
}

/// Mixes every pixel with its four neighbours.
fn blur(picture: &mut Plane, share: f32) {
    let (width, height) = (picture.width(), picture.height());
    let sharp = picture.clone();
    let old = sharp.values();
    for (y, row) in picture.values_mut().chunks_exact_mut(width).enumerate() {
        let (above, below) = (y.saturating_sub(1) * width, (y + 1).min(height - 1) * width);
        for (x, pixel) in row.iter_mut().enumerate() {
            let beside = old[y * width + x.saturating_sub(1)] + old[y * width + (x + 1).min(width - 1)];
            let around = (beside + old[above + x] + old[below + x]) / 4.0;
            *pixel += share * (around - *pixel);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_mask_goes_where_the_picture_goes() {
        // A bright square on dark ground, and its mask.
        let inside = |i: usize| (30..60).contains(&(i % 120)) && (20..50).contains(&(i / 120));
        let pixels: Vec<u8> = (0..120 * 80).map(|i| if inside(i) { 220 } else { 40 }).collect();
        let mask: Vec<u8> = (0..120 * 80).map(|i| u8::from(inside(i))).collect();
        let sample = Sample::try_new("s", "", 0, 1, (120, 80), &pixels, Some(&mask), 96).unwrap();
        assert!((sample.area.unwrap() - 900.0 / 9600.0).abs() < 1e-9);
        let mut rng = StdRng::seed_from_u64(7);
        for grain in [Grain::None, Grain::Upright] {
            for _ in 0..50 {
                let example = example(&sample, 96, grain, &mut rng);
                let (columns, cells) = (example.picture.width() / CELL, example.cells.unwrap());
                assert_eq!((example.picture.width(), example.picture.height()), (96, 96));
                assert_eq!(cells.len(), columns * columns);
                let mean = |wanted: fn(f32) -> bool| {
                    let (mut sum, mut count) = (0.0, 0.0f32);
                    for (i, _) in cells.iter().enumerate().filter(|(_, share)| wanted(**share)) {
                        let (x, y) = (i % columns * CELL + 1, i / columns * CELL + 1);
                        sum += example.picture.values()[y * example.picture.width() + x];
                        count += 1.0;
                    }
                    sum / count.max(1.0)
                };
                assert!(mean(|share| share > 0.99) > mean(|share| share < 0.01) + 0.5);
            }
        }
    }
}
