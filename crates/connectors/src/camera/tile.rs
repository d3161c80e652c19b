//! A ground tile of metal under a lamp, to learn from before photographs of real ones.
//!
//! The model, for a pixel at `(u, v)`, both from 0 to 1, `v` along the grinding marks:
//!
//! ```text
//! brightness = base · lamp · bands · tone · (1 + polish · marks + speckle) + lines, out of focus, plus sensor noise
//! lamp       = 1 − fall · |2 (u − middle)|^power, times up to six soft spots, brighter or darker
//! bands      = strips at the sides, darker or brighter, and a dark arc above or below where the tile ends
//! marks      = noise across the marks that changes slowly along them, fine and coarse, with few bright ones
//! polish     = how deep the marks are: changes softly over a good tile
//! tone       = what a stain or a defect leaves of the light
//! ```
//!
//! | what | how it looks | truth |
//! |---|---|---|
//! | stains, smudges, specks | soft spots with a rim, small ragged dark spots without a sharp boundary, dark dots | no defect |
//! | hairs, webs, rings | thin faint curves, one by one or many about one place, or closed | no defect |
//! | blowhole | one or two dark pits of 0.5 to 3 % of a side, sharply bounded | defect |
//! | break | a dark patch with facets at an edge or a corner, or a few deep gouges | defect |
//! | crack | a dark, jagged line, more often along the marks than not | defect |
//! | fray | a patch without marks that is sharply bounded, or a strip of torn, glittering metal at a side | defect |
//! | uneven | a part that was ground more deeply than the rest, with a sharp, ragged boundary across the marks | defect |
//!
//! Everything is drawn far wider than on any one kind of tile, its proportions too: the tile is stretched to a square, as the network sees it. A tile depends on its seed alone.

use std::f32::consts::TAU;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::StandardNormal;

use super::{canvas::Canvas, scene::Scene};

/// What a tile can have; the first is nothing.
pub const CLASSES: [&str; 6] = ["good", "blowhole", "break", "crack", "fray", "uneven"];

/// Draws a tile of `side` pixels a side, which has a defect with the probability `defects`.
#[must_use]
pub fn draw(seed: u64, side: usize, defects: f64) -> Scene {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x711e_0000);
    let rng = &mut rng;
    let class = if rng.random_bool(defects.clamp(0.0, 1.0)) { rng.random_range(1..CLASSES.len()) } else { 0 };
    let mut tile = Tile::draw(side, rng);
    let mut canvas = Canvas::new(side);
    match class {
        1 => tile.blowholes(rng),
        2 => tile.broken(rng),
        3 => tile.crack(rng),
        4 => tile.frayed(rng),
        5 => tile.uneven(rng),
        _ => {}
    }
    tile.paint(&mut canvas, rng);
    canvas.blur(rng.random_range(0.0f32..=1.2) * side as f32 / 384.0);
    let (rgb, mask) = canvas.develop([1.0; 3], rng);
    Scene { side, rgb, mask, class }
}

/// A part of the tile with a boundary of its own.
#[derive(Debug, Clone)]
enum Shape {
    /// A rounded patch: centre, half axes, direction, and how far harmonics of the angle bend its boundary: share of the axes and phase.
    Patch { centre: (f32, f32), half: (f32, f32), turn: f32, bends: [(f32, f32); 5] },
    /// What lies between two lines along the marks and two across, which slope, wave and are ragged from mark to mark.
    Sheet { across: (f32, f32), along: (f32, f32), slope: f32, wave: (f32, f32, f32), ragged: f32 },
}

/// A shape, and what the surface is like within it.
#[derive(Debug, Clone)]
struct Region {
    shape: Shape,
    /// Brightness and depth of the marks within, as a share of those without.
    tone: f32,
    polish: f32,
    /// Width of the boundary, shares of a side.
    soft: f32,
    /// What is added to the tone just inside the boundary.
    rim: f32,
    defect: bool,
}

/// A line drawn on the surface; brightness is a share of the base.
#[derive(Debug, Clone)]
struct Line {
    path: Vec<(f32, f32)>,
    width: f32,
    brightness: f32,
    defect: bool,
}

#[derive(Debug)]
struct Tile {
    side: usize,
    base: f32,
    /// Lengths of a physical unit, the root of the tile's area, across and along the marks.
    unit: (f32, f32),
    fall: (f32, f32, f32),
    spots: Vec<Spot>,
    bands: Vec<Band>,
    ends: [Option<End>; 2],
    marks: Marks,
    speckle: f32,
    regions: Vec<Region>,
    lines: Vec<Line>,
}

/// A soft spot: centre, width, what it adds to the light and to the depth of the marks.
#[derive(Debug)]
struct Spot {
    centre: (f32, f32),
    width: (f32, f32),
    light: f32,
    polish: f32,
}

/// A strip along the marks.
#[derive(Debug)]
struct Band {
    from: f32,
    to: f32,
    soft: f32,
    light: f32,
    polish: f32,
}

/// Where the tile ends: how far from the picture's edge, how curved, and how dark it is beyond.
#[derive(Debug)]
struct End {
    at: f32,
    bow: f32,
    ragged: f32,
    dark: f32,
}

/// Grinding marks: rows of noise, one beside the other along the marks, between which they are interpolated.
#[derive(Debug)]
struct Marks {
    columns: usize,
    rows: usize,
    values: Vec<f32>,
    /// How far the rows of each column are moved, shares of a row, so that the rows do not show.
    offsets: Vec<f32>,
    tilt: f32,
}

fn normal(rng: &mut StdRng) -> f32 {
    rng.sample(StandardNormal)
}

/// Draws from a range whose logarithm is uniform.
fn spread(rng: &mut StdRng, from: f32, to: f32) -> f32 {
    rng.random_range(from.ln()..=to.ln()).exp()
}

/// Rises from 0 to 1 about 0, over a width.
fn step(x: f32, width: f32) -> f32 {
    (0.5 + x / width.max(1e-4)).clamp(0.0, 1.0)
}

impl Marks {
    fn draw(rng: &mut StdRng) -> Self {
        let (columns, rows) = (768, rng.random_range(3..=16));
        let (fine, coarse, bright) = (spread(rng, 0.02, 0.16), spread(rng, 0.01, 0.08), spread(rng, 0.02, 0.5));
        let (width, wide) = (rng.random_range(1..=5usize), rng.random_range(8..=50usize));
        let seldom = rng.random_range(0.005..=0.06);
        let lasting = rng.random_range(0.5f32..=0.98);
        let mean = |noise: &[f32], i: usize, width: usize| {
            let own = &noise[i..(i + width).min(noise.len())];
            own.iter().sum::<f32>() / (width as f32).sqrt()
        };
        let mut values = Vec::with_capacity(columns * rows);
        let mut noise: Vec<f32> = (0..columns + wide).map(|_| normal(rng)).collect();
        let mut flashes = vec![0f32; columns + width];
        for _ in 0..rows {
            for x in &mut noise {
                *x = lasting * *x + (1.0 - lasting * lasting).sqrt() * normal(rng);
            }
            for x in &mut flashes {
                if rng.random_bool(f64::from(1.0 - lasting)) || *x == 0.0 {
                    *x = if rng.random_bool(seldom) { -rng.random_range(0.05f32..=1.0).ln() } else { 0.0 };
                }
            }
            values.extend((0..columns).map(|i| {
                fine * mean(&noise, i, width) + coarse * mean(&noise, i, wide) + bright * mean(&flashes, i, width)
            }));
        }
        let offsets = (0..columns).map(|_| rng.random_range(0.0..=1.0)).collect();
        Self { columns, rows, values, offsets, tilt: 0.05 * normal(rng) * rng.random_range(0.0f32..=1.0) }
    }

    fn at(&self, u: f32, v: f32) -> f32 {
        let column = (u + self.tilt * (v - 0.5)).rem_euclid(1.0) * self.columns as f32;
        let column = (column as usize).min(self.columns - 1);
        let row = v.clamp(0.0, 1.0) * (self.rows - 2) as f32 + self.offsets[column];
        let above = (row as usize).min(self.rows - 2);
        let value = |row: usize| self.values[row * self.columns + column];
        value(above) + (value(above + 1) - value(above)) * (row - above as f32)
    }
}

impl Shape {
    /// Draws a patch; `rough` is how far its boundary is from an ellipse.
    fn patch(centre: (f32, f32), half: (f32, f32), turn: f32, rough: f32, rng: &mut StdRng) -> Self {
        let bends = std::array::from_fn(|k| (rough * normal(rng) / (k + 1) as f32, rng.random_range(0.0..TAU)));
        Self::Patch { centre, half, turn, bends }
    }

    /// Returns how far inside a point lies, shares of a side; negative outside.
    fn depth(&self, u: f32, v: f32, marks: &Marks) -> f32 {
        match self {
            Self::Patch { centre, half, turn, bends } => {
                let (dx, dy) = (u - centre.0, v - centre.1);
                let least = half.0.min(half.1);
                // Far away, where nothing soft reaches, the angle does not matter.
                if dx.abs().max(dy.abs()) > 1.6 * half.0.max(half.1) + 0.06 {
                    return -1.0;
                }
                let (sine, cosine) = turn.sin_cos();
                let (x, y) = ((dx * cosine + dy * sine) / half.0, (dy * cosine - dx * sine) / half.1);
                let angle = y.atan2(x);
                let bend: f32 =
                    bends.iter().zip(1..).map(|(&(size, phase), k)| size * (k as f32 * angle + phase).sin()).sum();
                (1.0 + bend - x.hypot(y)) * least
            }
            Self::Sheet { across, along, slope, wave: (size, pitch, phase), ragged } => {
                let sway = slope * (u - 0.5) + size * (pitch * u + phase).sin() + ragged * marks.at(u, 0.37);
                let (low, high) = (along.0 + sway, along.1 + sway);
                let drift = 0.3 * size * (pitch * v).sin();
                (u - across.0 - drift).min(across.1 - drift - u).min(v - low).min(high - v)
            }
        }
    }
}

impl Tile {
    /// Draws a good tile.
    fn draw(side: usize, rng: &mut StdRng) -> Self {
        let aspect = spread(rng, 0.36, 2.6);
        let unit = (aspect.sqrt().recip(), aspect.sqrt());
        let spots = (0..rng.random_range(1..=6))
            .map(|_| Spot {
                centre: (rng.random_range(-0.1..=1.1), rng.random_range(-0.1..=1.1)),
                width: (spread(rng, 0.06, 0.5), spread(rng, 0.06, 0.5)),
                light: 0.3 * normal(rng),
                polish: 0.8 * normal(rng),
            })
            .collect();
        let mut tile = Self {
            side,
            base: spread(rng, 45.0, 150.0),
            unit,
            fall: (rng.random_range(0.0f32..=0.6), rng.random_range(0.35..=0.65), rng.random_range(1.5..=5.0)),
            spots,
            bands: Vec::new(),
            ends: [(); 2].map(|()| {
                rng.random_bool(0.4).then(|| End {
                    at: spread(rng, 0.004, 0.06),
                    bow: rng.random_range(-0.04..=0.04),
                    ragged: spread(rng, 0.001, 0.01),
                    dark: rng.random_range(0.15..=0.7),
                })
            }),
            marks: Marks::draw(rng),
            speckle: spread(rng, 0.01, 0.08),
            regions: Vec::new(),
            lines: Vec::new(),
        };
        tile.edge(rng);
        tile.soil(rng);
        tile
    }

    /// Draws strips: dark and bright ones at the sides, faint ones anywhere.
    fn edge(&mut self, rng: &mut StdRng) {
        for right in [false, true] {
            let mut at = 0.0;
            for dark in [true, false] {
                if !rng.random_bool(0.45) {
                    continue;
                }
                let width = spread(rng, 0.008, 0.07);
                let light = if dark { rng.random_range(0.15f32..=0.8) } else { rng.random_range(1.1f32..=2.2) };
                let (from, to) = if at == 0.0 { (-1.0, width) } else { (at, at + width) };
                at = to;
                let (from, to) = if right { (1.0 - to, 1.0 - from) } else { (from, to) };
                let soft = spread(rng, 0.002, 0.03);
                self.bands.push(Band { from, to, soft, light, polish: rng.random_range(0.3..=1.8) });
            }
        }
        for _ in 0..rng.random_range(0..=2) {
            let from = rng.random_range(0.0f32..=0.9);
            let to = from + spread(rng, 0.03, 0.4);
            let light = rng.random_range(0.85f32..=1.15);
            self.bands.push(Band { from, to, soft: spread(rng, 0.003, 0.08), light, polish: spread(rng, 0.6, 1.6) });
        }
    }

    /// Draws what is no defect: stains, smudges, specks, hairs, webs of faint scratches, rings.
    fn soil(&mut self, rng: &mut StdRng) {
        for _ in 0..rng.random_range(0..=4) {
            let size = spread(rng, 0.02, 0.2);
            let shape = self.anywhere(size, 3.0, 0.15, rng);
            let tone = 1.0 + 0.08 * normal(rng);
            let rim = if rng.random_bool(0.5) { -rng.random_range(0.0f32..=0.12) } else { 0.0 };
            let soft = spread(rng, 0.01, 0.1);
            self.regions.push(Region { shape, tone, polish: rng.random_range(0.7..=1.2), soft, rim, defect: false });
        }
        let crowd = if rng.random_bool(0.3) { 30 } else { 6 };
        let home = (rng.random_range(0.0f32..=1.0), rng.random_range(0.0f32..=1.0));
        for _ in 0..rng.random_range(0..=crowd) {
            let place = if crowd > 6 {
                (home.0 + 0.08 * normal(rng), home.1 + 0.08 * normal(rng))
            } else {
                (rng.random_range(0.0..=1.0), rng.random_range(0.0..=1.0))
            };
            let brightness = -rng.random_range(0.04f32..=0.25);
            self.lines.push(Line { path: vec![place], width: spread(rng, 0.5, 2.0), brightness, defect: false });
        }
        for _ in 0..rng.random_range(0..=5) {
            let (from, length, bend) = (home_or(rng, home), spread(rng, 0.03, 0.5), rng.random_range(-3.0f32..=3.0));
            self.hair(from, length, bend, 0.25, rng);
        }
        if rng.random_bool(0.25) {
            let web = (rng.random_range(0.1f32..=0.9), rng.random_range(0.1f32..=0.9));
            for _ in 0..rng.random_range(6..=30) {
                let from = (web.0 + 0.12 * self.unit.0 * normal(rng), web.1 + 0.12 * self.unit.1 * normal(rng));
                let (length, bend) = (spread(rng, 0.02, 0.25), rng.random_range(-2.0f32..=2.0));
                self.hair(from, length, bend, 0.25, rng);
            }
        }
        for _ in 0..rng.random_range(0..=3) {
            if rng.random_bool(0.3) {
                // A walk that turns once around as it goes, or nearly.
                let from = (rng.random_range(0.05..=0.95), rng.random_range(0.05..=0.95));
                let (length, bend) = (TAU * spread(rng, 0.012, 0.06), rng.random_range(4.0..=TAU));
                self.hair(from, length, bend, 0.05, rng);
            }
            if rng.random_bool(0.25) {
                let size = spread(rng, 0.008, 0.05);
                let shape = self.anywhere(size, 4.0, 0.4, rng);
                let (tone, soft) = (rng.random_range(0.72f32..=0.95), spread(rng, 0.012, 0.05));
                self.regions.push(Region { shape, tone, polish: 0.9, soft, rim: 0.0, defect: false });
            }
        }
    }

    /// Draws a thin faint curve of this physical length that sets out in any direction and turns by `bend`, trembling by `jitter`.
    fn hair(&mut self, from: (f32, f32), length: f32, bend: f32, jitter: f32, rng: &mut StdRng) {
        let turn = rng.random_range(0.0..TAU);
        let path = self.path(from, turn, length, bend, jitter, rng);
        let brightness = if rng.random_bool(0.8) { -1.0 } else { 1.0 } * rng.random_range(0.03f32..=0.13);
        self.lines.push(Line { path, width: spread(rng, 0.5, 1.6), brightness, defect: false });
    }

    /// Returns the half axes of a patch of this physical size that is `long` squared times longer than wide.
    fn half_axes(&self, size: f32, long: f32) -> (f32, f32) {
        (size * self.unit.0 / long, size * self.unit.1 * long)
    }

    /// Returns a patch of this physical size somewhere, up to so many times longer than wide.
    fn anywhere(&self, size: f32, longest: f32, rough: f32, rng: &mut StdRng) -> Shape {
        let long = spread(rng, 1.0, longest).sqrt();
        let half = self.half_axes(size, long);
        let centre = (rng.random_range(0.02..=0.98), rng.random_range(0.02..=0.98));
        Shape::patch(centre, half, rng.random_range(-0.8..=0.8), rough, rng)
    }

    /// Walks from a point for a physical length; direction 0 is across the marks.
    fn path(
        &self,
        from: (f32, f32),
        mut direction: f32,
        length: f32,
        bend: f32,
        jitter: f32,
        rng: &mut StdRng,
    ) -> Vec<(f32, f32)> {
        let (mut at, mut path, count) = (from, vec![from], (length / 0.02).ceil().clamp(3.0, 50.0));
        for _ in 0..count as usize {
            direction += bend / count + jitter * normal(rng);
            let way = length / count;
            at = (at.0 + way * self.unit.0 * direction.cos(), at.1 + way * self.unit.1 * direction.sin());
            path.push(at);
        }
        path
    }

    fn blowholes(&mut self, rng: &mut StdRng) {
        for _ in 0..if rng.random_bool(0.8) { 1 } else { 2 } {
            let size = spread(rng, 0.007, 0.03);
            let shape = self.anywhere(size, 2.5, 0.12, rng);
            let rim = if rng.random_bool(0.3) { rng.random_range(-0.2f32..=0.3) } else { 0.0 };
            let soft = spread(rng, 0.003, 0.01);
            let tone = rng.random_range(0.2..=0.65);
            self.regions.push(Region { shape, tone, polish: 0.5, soft, rim, defect: true });
        }
    }

    /// Draws a place at an edge or, as often, a corner.
    fn brink(rng: &mut StdRng) -> (f32, f32) {
        let along = rng.random_range(0.0f32..=1.0);
        let along = if rng.random_bool(0.5) { along.round() } else { along };
        let end = if rng.random_bool(0.5) { 0.0 } else { 1.0 };
        if rng.random_bool(0.5) { (end, along) } else { (along, end) }
    }

    fn broken(&mut self, rng: &mut StdRng) {
        let centre = Self::brink(rng);
        let size = spread(rng, 0.03, 0.16);
        if rng.random_bool(0.25) {
            // Gouges, a little inside.
            let turn = rng.random_range(0.6f32..=2.5);
            for _ in 0..rng.random_range(1..=4) {
                let inside = |x: f32, rng: &mut StdRng| x + (0.5 - x) * rng.random_range(0.05f32..=0.4);
                let from = (inside(centre.0, rng), inside(centre.1, rng));
                let path = self.path(from, turn + 0.2 * normal(rng), size, 0.3, 0.1, rng);
                let brightness = -rng.random_range(0.25f32..=0.6);
                self.lines.push(Line { path, width: spread(rng, 1.0, 3.0), brightness, defect: true });
            }
            return;
        }
        let long = spread(rng, 0.4, 2.5).sqrt();
        let half = self.half_axes(size, long);
        let shape = Shape::patch(centre, half, rng.random_range(-0.6..=0.6), 0.25, rng);
        let (tone, rim) = (rng.random_range(0.3f32..=0.8), 0.35 * normal(rng));
        let soft = spread(rng, 0.003, 0.012);
        self.regions.push(Region { shape, tone, polish: 0.15, soft, rim, defect: true });
        for _ in 0..rng.random_range(0..=8) {
            let from = (centre.0 + half.0 * 0.5 * normal(rng), centre.1 + half.1 * 0.5 * normal(rng));
            let path = self.path(from, rng.random_range(0.0..TAU), size * 0.6, 1.0, 0.2, rng);
            let brightness = rng.random_range(-0.4f32..=0.3);
            self.lines.push(Line { path, width: spread(rng, 0.7, 2.5), brightness, defect: true });
        }
    }

    fn crack(&mut self, rng: &mut StdRng) {
        for _ in 0..if rng.random_bool(0.75) { 1 } else { 2 } {
            let from = if rng.random_bool(0.5) {
                Self::brink(rng)
            } else {
                (rng.random_range(0.05..=0.95), rng.random_range(0.05..=0.95))
            };
            let towards = (0.5 - from.1).atan2(0.5 - from.0);
            let turn = if rng.random_bool(0.6) {
                TAU / 4.0 * if from.1 > 0.5 { -1.0 } else { 1.0 } + 0.25 * normal(rng)
            } else {
                towards + 0.7 * normal(rng)
            };
            let length = spread(rng, 0.07, 0.9);
            let path = self.path(from, turn, length, 0.5 * normal(rng), 0.22, rng);
            let brightness = -rng.random_range(0.25f32..=0.7);
            let width = spread(rng, 0.9, 2.2);
            let thick = path[..path.len() * 2 / 3].to_vec();
            self.lines.push(Line { path, width, brightness, defect: true });
            if rng.random_bool(0.5) {
                self.lines.push(Line { path: thick, width, brightness: 0.5 * brightness, defect: true });
            }
        }
    }

    fn frayed(&mut self, rng: &mut StdRng) {
        if rng.random_bool(0.5) {
            // A patch that the stone did not reach, more often than not at an end.
            let (size, long) = (spread(rng, 0.08, 0.32), spread(rng, 0.8, 2.5).sqrt());
            let half = self.half_axes(size, long);
            let end = if rng.random_bool(0.5) { half.1 } else { 1.0 - half.1 };
            let v = if rng.random_bool(0.7) { end } else { rng.random_range(0.2..=0.8) };
            let centre = (rng.random_range(0.15f32..=0.85), v);
            let shape = Shape::patch(centre, half, 0.15 * normal(rng), 0.08, rng);
            let tone = if rng.random_bool(0.8) { rng.random_range(0.5f32..=0.9) } else { rng.random_range(1.1..=1.3) };
            let (soft, rim) = (spread(rng, 0.003, 0.015), 0.08 * normal(rng));
            let polish = rng.random_range(0.0..=0.25);
            self.regions.push(Region { shape, tone, polish, soft, rim, defect: true });
            return;
        }
        // Torn metal along a side.
        let right = rng.random_bool(0.5);
        let (width, height) = (spread(rng, 0.02, 0.1), spread(rng, 0.08, 0.5));
        let v = rng.random_range(0.0f32..=1.0);
        let u = if right { 1.0 - 0.6 * width } else { 0.6 * width };
        let shape = Shape::patch((u, v), (width, height), 0.05 * normal(rng), 0.2, rng);
        let (tone, soft) = (rng.random_range(0.5f32..=1.4), spread(rng, 0.003, 0.02));
        self.regions.push(Region { shape, tone, polish: 0.3, soft, rim: 0.2 * normal(rng), defect: true });
        for _ in 0..rng.random_range(10..=60) {
            let from = (u + 0.5 * width * normal(rng), v + 0.5 * height * normal(rng));
            let path = self.path(from, rng.random_range(0.0..TAU), spread(rng, 0.005, 0.03), 1.0, 0.3, rng);
            let brightness = rng.random_range(-0.35f32..=0.8);
            self.lines.push(Line { path, width: spread(rng, 0.5, 1.6), brightness, defect: true });
        }
    }

    fn uneven(&mut self, rng: &mut StdRng) {
        let height = spread(rng, 0.06, 0.5);
        let along = match rng.random_range(0..10) {
            0..4 => (-1.0, height),
            4..8 => (1.0 - height, 2.0),
            _ => {
                let from = rng.random_range(0.1..=0.8);
                (from, from + height)
            }
        };
        let mut across = (-1.0, 2.0);
        if rng.random_bool(0.35) {
            across.0 = rng.random_range(0.02..=0.5);
        }
        if rng.random_bool(0.35) {
            across.1 = rng.random_range(0.55..=0.98);
        }
        let (slope, wave) = (0.12 * normal(rng), (0.02 * normal(rng), rng.random_range(2.0..=14.0), normal(rng)));
        let shape = Shape::Sheet { across, along, slope, wave, ragged: spread(rng, 0.005, 0.1) };
        let bright = rng.random_bool(0.8);
        let tone = if bright { rng.random_range(1.06f32..=1.5) } else { rng.random_range(0.7f32..=0.95) };
        let polish = if rng.random_bool(0.85) { spread(rng, 1.3, 4.0) } else { spread(rng, 0.1, 0.7) };
        let (soft, rim) = (spread(rng, 0.002, 0.02), 0.05 * normal(rng));
        self.regions.push(Region { shape, tone, polish, soft, rim, defect: true });
        if polish > 1.0 {
            // What is left of the tile has shallower marks.
            for spot in &mut self.spots {
                spot.polish *= 0.5;
            }
            self.bands.push(Band { from: -1.0, to: 2.0, soft: 0.01, light: 1.0, polish: rng.random_range(0.3..=0.9) });
        }
    }

    fn paint(&self, canvas: &mut Canvas, rng: &mut StdRng) {
        let pixel = 1.0 / self.side as f32;
        let (fall, middle, power) = self.fall;
        canvas.paint(|u, v| {
            let mut light = 1.0 - fall * (2.0 * (u - middle)).abs().min(1.0).powf(power);
            let mut polish = 1.0f32;
            for Spot { centre, width, light: more, polish: deeper } in &self.spots {
                let (dx, dy) = ((u - centre.0) / width.0, (v - centre.1) / width.1);
                let near = (-0.5 * (dx * dx + dy * dy)).exp();
                light *= (1.0 + more * near).max(0.2);
                polish *= (1.0 + deeper * near).max(0.1);
            }
            for Band { from, to, soft, light: more, polish: deeper } in &self.bands {
                let inside = step(u - from, *soft) * step(to - u, *soft);
                light *= 1.0 + (more - 1.0) * inside;
                polish *= 1.0 + (deeper - 1.0) * inside;
            }
            let mut defect = false;
            for Region { shape, tone, polish: deeper, soft, rim, defect: is } in &self.regions {
                let depth = shape.depth(u, v, &self.marks);
                let inside = step(depth, *soft);
                if inside > 0.0 {
                    let border = (1.0 - (depth / (2.0 * soft)).powi(2)).max(0.0);
                    light *= 1.0 + (tone - 1.0) * inside + rim * border;
                    polish *= 1.0 + (deeper - 1.0) * inside;
                    defect |= *is && depth > 0.0;
                }
            }
            for (end, from) in self.ends.iter().zip([v, 1.0 - v]) {
                if let Some(End { at, bow, ragged, dark }) = end {
                    let edge = at + bow * (2.0 * u - 1.0).powi(2) + ragged * self.marks.at(0.5 + 0.3 * u, 0.5);
                    light *= dark + (1.0 - dark) * step(from - edge, 3.0 * pixel);
                }
            }
            let texture = 1.0 + polish * self.marks.at(u, v) + self.speckle * normal(rng);
            ((self.base * light * texture).clamp(0.0, 320.0), defect)
        });
        let scale = self.side as f32 / 384.0;
        for Line { path, width, brightness, defect } in &self.lines {
            canvas.stroke(path, scale * width, self.base * brightness, *defect);
        }
    }
}

/// Returns a place near another, or anywhere.
fn home_or(rng: &mut StdRng, home: (f32, f32)) -> (f32, f32) {
    if rng.random_bool(0.4) {
        (home.0 + 0.1 * normal(rng), home.1 + 0.1 * normal(rng))
    } else {
        (rng.random_range(0.0..=1.0), rng.random_range(0.0..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_a_tile_and_defects_are_marked() {
        let mut classes = [0usize; CLASSES.len()];
        for seed in 0..60 {
            let tile = draw(seed, 96, 0.5);
            assert_eq!(tile.rgb, draw(seed, 96, 0.5).rgb);
            assert_eq!((tile.rgb.len(), tile.mask.len()), (3 * 96 * 96, 96 * 96));
            assert_eq!(tile.class > 0, tile.mask.iter().any(|&m| m > 0), "seed {seed}: {}", CLASSES[tile.class]);
            classes[tile.class] += 1;
        }
        assert!((18..42).contains(&classes[0]) && classes.iter().all(|count| *count > 0), "{classes:?}");
        assert_eq!(draw(1, 96, 0.0).class, 0);
    }

    /// Neighbours along the marks resemble each other more than those across.
    #[test]
    fn marks_run_along() {
        let (mut along, mut across) = (0.0, 0.0);
        for seed in 0..20 {
            let luma: Vec<f32> = draw(seed, 96, 0.0).rgb.iter().step_by(3).map(|&v| f32::from(v)).collect();
            along += luma.windows(97).map(|w| (w[96] - w[0]).abs()).sum::<f32>();
            across += luma.windows(2).map(|w| (w[1] - w[0]).abs()).sum::<f32>();
        }
        assert!(across > 1.2 * along, "{across} {along}");
    }
}
