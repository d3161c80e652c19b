//! What the generated camera sees: a phone's screen, switched off, under a lamp.
//!
//! The model, for a pixel at `(u, v)`, both from -½ to ½:
//!
//! ```text
//! brightness = glass · (ambient + light · (diffuse + lobe + windows)) · (1 + smears) + light · (dust + lint + defects), out of focus, plus sensor noise
//! diffuse    = 1 + tilt · (u cos a + v sin a)                 the lamp stands at angle a
//! lobe       = exp(-d² / 2 w²)                                 its reflection, d from a point on the lamp's side
//! windows    = up to two soft rectangles                      what else is reflected; moves from picture to picture
//! smears     = smooth noise                                   what fingers leave
//! ```
//!
//! | what | how it looks | truth |
//! |---|---|---|
//! | dust | bright spots of 1 to 3 pixels | no defect |
//! | lint | short, wide, faint curves | no defect |
//! | scratch | a long, thin, nearly straight line, brightest across the light: `0.35 + 0.65 · |sin|` of the angle between it and the lamp | defect |
//! | crack | jagged lines that branch from a point, bright on one side and dark on the other | defect |
//! | chip | a rough, bright patch at the screen's edge | defect |
//!
//! A scene depends on its seed and parameters alone. With the same seed, another light shows the same screen with the same defects.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::StandardNormal;

use super::canvas::Canvas;

/// What a screen can have; the first is none.
pub const CLASSES: [&str; 4] = ["good", "scratch", "crack", "chip"];

/// The conditions a picture is taken under.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// Strength of the lamp; 1 is how it was set up, 0 is off. 0 to 4.
    pub light: f64,
    /// Where the lamp stands, degrees; 0 is right, 90 below.
    pub light_angle: f64,
    /// Colour temperature of the lamp, kelvin, 2,000 to 12,000; the camera is balanced for 5,000.
    pub colour_temperature: f64,
    /// How far the lens is out of focus: standard deviation in pixels of a picture of 512, 0 to 8.
    pub blur: f64,
    /// How much dust and lint there is; 1 is a usual day. 0 to 20.
    pub dust: f64,
    /// Share of the screens with a defect, 0 to 1.
    pub defects: f64,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { light: 1.0, light_angle: 35.0, colour_temperature: 5_000.0, blur: 0.6, dust: 1.0, defects: 0.15 }
    }
}

/// A picture with the truth about it.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Pixels of a side.
    pub side: usize,
    /// Red, green and blue, row by row.
    pub rgb: Vec<u8>,
    /// Not 0 where a pixel belongs to a defect.
    pub mask: Vec<u8>,
    /// An index into [`CLASSES`].
    pub class: usize,
}

/// Cells of the grid on which what changes slowly is computed.
const GRID: usize = 48;

impl Scene {
    /// Draws a screen of `side` pixels a side.
    #[must_use]
    pub fn draw(seed: u64, side: usize, conditions: Conditions) -> Self {
        // The screen and the dust have streams of their own, so that conditions change neither.
        let mut screen = StdRng::seed_from_u64(seed ^ 0x5c4e_e000);
        let mut dirt = StdRng::seed_from_u64(seed ^ 0xd057_0000);
        let mut sensor = StdRng::seed_from_u64(seed ^ 0x5e45_0000);
        let mut canvas = Canvas::new(side);
        let glass = Glass::draw(&mut screen);
        let light = conditions.light as f32;
        let angle = conditions.light_angle.to_radians() as f32 + 0.1 * screen.sample::<f32, _>(StandardNormal);
        canvas.fill_smooth(GRID, |u, v| glass.brightness(u, v, light, angle));
        litter(&mut canvas, light, conditions.dust as f32, &mut dirt);
        let class = if screen.random_bool(conditions.defects.clamp(0.0, 1.0)) { screen.random_range(1..=3) } else { 0 };
        match class {
            1 => scratches(&mut canvas, light, angle, &mut screen),
            2 => crack(&mut canvas, light, &mut screen),
            3 => chip(&mut canvas, light, &mut screen),
            _ => {}
        }
        canvas.blur(conditions.blur as f32 * side as f32 / 512.0);
        let (rgb, mask) = canvas.develop(tint(conditions.colour_temperature as f32), &mut sensor);
        Self { side, rgb, mask, class }
    }
}

/// Gains of red, green and blue under a lamp of a colour temperature, where 5,000 K is white: a straight line in the logarithm, as a black body nearly is.
fn tint(kelvin: f32) -> [f32; 3] {
    let warm = (5_000.0 / kelvin.clamp(2_000.0, 12_000.0)).ln();
    [(0.55 * warm).exp(), 1.0, (-0.75 * warm).exp()]
}

/// A soft rectangle that the glass reflects.
#[derive(Clone, Copy, Debug)]
struct Window {
    centre: (f32, f32),
    half: (f32, f32),
    strength: f32,
}

#[derive(Debug)]
struct Glass {
    base: f32,
    tilt: f32,
    lobe: (f32, f32),
    windows: Vec<Window>,
    smears: [(f32, f32, f32, f32); 5],
}

impl Glass {
    fn draw(rng: &mut StdRng) -> Self {
        let windows = rng.random_range(0..=2);
        Self {
            base: 62.0 * rng.random_range(0.85f32..=1.15),
            tilt: rng.random_range(0.2..=0.5),
            lobe: (rng.random_range(0.25..=0.4), rng.random_range(0.14..=0.26)),
            windows: (0..windows)
                .map(|_| Window {
                    centre: (rng.random_range(-0.5..=0.5), rng.random_range(-0.5..=0.5)),
                    half: (rng.random_range(0.05..=0.25), rng.random_range(0.05..=0.25)),
                    strength: rng.random_range(0.1..=0.4),
                })
                .collect(),
            smears: std::array::from_fn(|_| {
                (
                    rng.random_range(-14.0..=14.0),
                    rng.random_range(-14.0..=14.0),
                    rng.random_range(0.0..=std::f32::consts::TAU),
                    rng.random_range(0.0..=0.03),
                )
            }),
        }
    }

    fn brightness(&self, u: f32, v: f32, light: f32, angle: f32) -> f32 {
        let (sine, cosine) = angle.sin_cos();
        let diffuse = 1.0 + self.tilt * (u * cosine + v * sine);
        let (distance, width) = self.lobe;
        let (du, dv) = (u - distance * cosine, v - distance * sine);
        let lobe = (-(du * du + dv * dv) / (2.0 * width * width)).exp();
        let edge = |x: f32| 1.0 / (1.0 + (-60.0 * x).exp());
        let windows: f32 = self
            .windows
            .iter()
            .map(|w| w.strength * edge(w.half.0 - (u - w.centre.0).abs()) * edge(w.half.1 - (v - w.centre.1).abs()))
            .sum();
        let smears: f32 = self.smears.iter().map(|&(x, y, phase, size)| size * (x * u + y * v + phase).sin()).sum();
        self.base * (0.12 + light * (diffuse + lobe + windows)) * (1.0 + smears)
    }
}

/// Spreads dust and lint.
fn litter(canvas: &mut Canvas, light: f32, amount: f32, rng: &mut StdRng) {
    let scale = canvas.side() as f32 / 512.0;
    let spots = (24.0 * amount * rng.random_range(0.4f32..=1.6)) as usize;
    for _ in 0..spots {
        let centre = (rng.random_range(0.0..1.0), rng.random_range(0.0..1.0));
        canvas.spot(centre, scale * rng.random_range(0.6f32..=1.6), light * rng.random_range(15.0f32..=90.0));
    }
    let fibres = (2.0 * amount * rng.random_range(0.0f32..=1.6)) as usize;
    for _ in 0..fibres {
        let mut at = (rng.random_range(0.0f32..1.0), rng.random_range(0.0f32..1.0));
        let mut direction = rng.random_range(0.0..std::f32::consts::TAU);
        let bend = rng.random_range(-0.9f32..=0.9);
        let mut path = vec![at];
        for _ in 0..rng.random_range(4..9) {
            direction += bend;
            at = (at.0 + 0.009 * direction.cos(), at.1 + 0.009 * direction.sin());
            path.push(at);
        }
        canvas.stroke(&path, scale * rng.random_range(1.6f32..=2.6), light * rng.random_range(10.0f32..=30.0), false);
    }
}

/// Draws one to three scratches.
fn scratches(canvas: &mut Canvas, light: f32, lamp: f32, rng: &mut StdRng) {
    let scale = canvas.side() as f32 / 512.0;
    for _ in 0..rng.random_range(1..=3) {
        let mut at = (rng.random_range(0.1f32..0.9), rng.random_range(0.1f32..0.9));
        let mut direction = rng.random_range(0.0..std::f32::consts::TAU);
        let length = rng.random_range(0.08f32..=0.5);
        let bend = 0.12 * rng.sample::<f32, _>(StandardNormal);
        let steps = 12;
        let mut path = vec![at];
        let shine = 0.35 + 0.65 * (direction - lamp).sin().abs();
        for _ in 0..steps {
            direction += bend / steps as f32;
            at = (at.0 + length / steps as f32 * direction.cos(), at.1 + length / steps as f32 * direction.sin());
            path.push(at);
        }
        let brightness = light * shine * rng.random_range(45.0f32..=120.0);
        canvas.stroke(&path, scale * rng.random_range(0.5f32..=1.1), brightness, true);
    }
}

/// Draws a crack: jagged lines from a point, each of which may branch once.
fn crack(canvas: &mut Canvas, light: f32, rng: &mut StdRng) {
    let scale = canvas.side() as f32 / 512.0;
    let centre = (rng.random_range(0.1f32..0.9), rng.random_range(0.1f32..0.9));
    let mut arms: Vec<((f32, f32), f32, usize)> =
        (0..rng.random_range(2..=5)).map(|_| (centre, rng.random_range(0.0..std::f32::consts::TAU), 1)).collect();
    while let Some((mut at, mut direction, branches)) = arms.pop() {
        let mut path = vec![at];
        for _ in 0..rng.random_range(4..12) {
            direction += 0.35 * rng.sample::<f32, _>(StandardNormal);
            let step = rng.random_range(0.012f32..=0.035);
            at = (at.0 + step * direction.cos(), at.1 + step * direction.sin());
            path.push(at);
            if branches > 0 && rng.random_bool(0.12) {
                arms.push((at, direction + rng.random_range(-1.0f32..=1.0), 0));
            }
        }
        let brightness = light * rng.random_range(50.0f32..=110.0);
        canvas.stroke(&path, scale * rng.random_range(0.7f32..=1.3), brightness, true);
        let beside: Vec<_> = path.iter().map(|&(x, y)| (x + 1.6 / 512.0, y + 1.6 / 512.0)).collect();
        canvas.stroke(&beside, scale * 0.9, -0.5 * brightness, true);
    }
}

/// Draws a chip: many small bright facets in a patch at an edge.
fn chip(canvas: &mut Canvas, light: f32, rng: &mut StdRng) {
    let scale = canvas.side() as f32 / 512.0;
    let along = rng.random_range(0.05f32..0.95);
    let (centre, size) = match rng.random_range(0..4) {
        0 => ((along, 0.0), 0.0),
        1 => ((along, 1.0), 0.0),
        2 => ((0.0, along), 0.0),
        _ => ((1.0, along), 0.0f32),
    };
    let size = size + rng.random_range(0.02f32..=0.06);
    for _ in 0..60 {
        let offset = (size * rng.sample::<f32, _>(StandardNormal), size * rng.sample::<f32, _>(StandardNormal));
        let at = (centre.0 + offset.0, centre.1 + offset.1);
        let to =
            (at.0 + 0.012 * rng.sample::<f32, _>(StandardNormal), at.1 + 0.012 * rng.sample::<f32, _>(StandardNormal));
        let brightness = light * rng.random_range(-30.0f32..=90.0);
        canvas.stroke(&[at, to], scale * rng.random_range(1.0f32..=2.6), brightness, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(scene: &Scene, channel: usize) -> f64 {
        scene.rgb.iter().skip(channel).step_by(3).map(|&v| f64::from(v)).sum::<f64>() / (scene.rgb.len() / 3) as f64
    }

    #[test]
    fn a_seed_names_a_screen_and_the_light_changes_nothing_about_its_defects() {
        for seed in 0..20 {
            let usual = Scene::draw(seed, 128, Conditions { defects: 0.5, ..Conditions::default() });
            let again = Scene::draw(seed, 128, Conditions { defects: 0.5, ..Conditions::default() });
            assert_eq!((&usual.rgb, &usual.mask), (&again.rgb, &again.mask));
            let dim = Conditions { defects: 0.5, light: 0.6, light_angle: 80.0, dust: 3.0, ..Conditions::default() };
            let dim = Scene::draw(seed, 128, dim);
            assert_eq!((usual.class, &usual.mask), (dim.class, &dim.mask));
            assert_eq!(usual.class > 0, usual.mask.iter().any(|&m| m > 0));
        }
    }

    #[test]
    fn every_condition_shows_in_the_picture() {
        let usual = Conditions { defects: 0.0, ..Conditions::default() };
        let scene = |conditions| Scene::draw(3, 256, conditions);
        let base = scene(usual);
        assert!((40.0..130.0).contains(&mean(&base, 1)), "{}", mean(&base, 1));
        assert!(mean(&scene(Conditions { light: 0.6, ..usual }), 1) < 0.75 * mean(&base, 1));
        let warm = scene(Conditions { colour_temperature: 3_000.0, ..usual });
        assert!(mean(&warm, 0) / mean(&warm, 2) > 1.5 * mean(&base, 0) / mean(&base, 2));
        let halves = |scene: &Scene| {
            let columns = scene.rgb.chunks(3 * 256).flat_map(|row| row.chunks(3).enumerate());
            columns.map(|(x, p)| if x < 128 { -f64::from(p[1]) } else { f64::from(p[1]) }).sum::<f64>()
        };
        assert!(halves(&base) > 0.0 && halves(&scene(Conditions { light_angle: 180.0, ..usual })) < 0.0);
        let rough = |scene: &Scene| {
            scene
                .rgb
                .chunks(3)
                .map(|p| f64::from(p[1]))
                .collect::<Vec<_>>()
                .windows(2)
                .map(|w| (w[0] - w[1]).abs())
                .sum::<f64>()
        };
        assert!(rough(&scene(Conditions { dust: 10.0, ..usual })) > rough(&base));
    }
}
