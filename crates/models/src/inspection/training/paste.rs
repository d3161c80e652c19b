//! Defects of one piece on the surface of another (copy and paste; Ghiasi et al., "Simple Copy-Paste", 2021).
//!
//! Defective pieces are few, and a network that has seen each defect on one surface only may learn the surface. A small defect is cut out along its mask, put somewhere else on
//! a good piece, as bright against its surroundings as it was, and faded in at its edge. A large one stays where it belongs: half a tile that is shaded cannot be moved.

use rand::rngs::StdRng;

use super::{
    augment::{Example, Grain, VISIBLE, Warp, relit},
    sample::Sample,
};
use crate::inspection::{network::CELL, view::Plane};

/// The largest share of a picture that a defect which is moved may cover.
const LARGEST: f64 = 0.05;
/// How far a defect may be moved, as a share of the side, either way.
const FAR: f32 = 0.4;
/// Pixels about the mask that go with the defect; over as many it fades in.
const EDGE: usize = 2;
/// Pixels about those by which brightness is compared.
const AROUND: usize = 6;
/// Tries for a place where the defect is seen.
const TRIES: usize = 4;

/// Says whether the defect of a sample can be put on another.
pub(super) fn is_movable(sample: &Sample) -> bool {
    sample.class > 0 && sample.mask().is_some() && sample.area.is_some_and(|area| area <= LARGEST)
}

/// Draws an example of the defect of one sample on the surface of another, which is good; `None` if the defect is nowhere to be seen there.
pub(super) fn pasted(ground: &Sample, donor: &Sample, side: usize, grain: Grain, rng: &mut StdRng) -> Option<Example> {
    let mask = donor.mask()?;
    let under = Warp::draw(ground.picture(), side, grain, 1.0, rng);
    for _ in 0..TRIES {
        let over = Warp::draw(donor.picture(), side, grain, 1.0, rng).moved(side as f32 * FAR, rng);
        let marked = marked(mask, over, side);
        let cells = means(&marked);
        if cells.iter().sum::<f32>() < VISIBLE {
            continue;
        }
        let whole = grown(&marked, EDGE);
        let around = grown(&whole, AROUND);
        let (old, new) = (seen(donor.picture(), over, side), seen(ground.picture(), under, side));
        let ring = |picture: &Plane| {
            let at = around.values().iter().zip(whole.values()).zip(picture.values());
            let (sum, count) = at
                .filter(|((around, whole), _)| **around > 0.0 && **whole == 0.0)
                .fold((0.0, 0.0), |(sum, count), (_, value)| (sum + value, count + 1.0f32));
            sum / count.max(1.0)
        };
        let gain = ring(&new) / ring(&old).max(1.0);
        let faded = faded(&whole, EDGE);
        let mixed = faded.values().iter().zip(old.values()).zip(new.values());
        let values = mixed.map(|((share, old), new)| new + share * (old * gain - new)).collect();
        let picture = Plane::try_new(side, side, values).ok()?;
        return Some(Example {
            picture: relit(&picture, Warp::none(side), rng),
            cells: Some(cells),
            class: donor.class,
        });
    }
    None
}

/// Returns a mask as seen through a warp: beyond the edges of the sample nothing is marked.
fn marked(mask: &Plane, warp: Warp, side: usize) -> Plane {
    let (right, bottom) = ((mask.width() - 1) as f32, (mask.height() - 1) as f32);
    Plane::from_fn(side, side, |x, y| {
        let (x, y) = warp.source(x as f32, y as f32);
        if (0.0..=right).contains(&x) && (0.0..=bottom).contains(&y) { mask.at(x, y) } else { 0.0 }
    })
}

/// Returns the mean of every cell.
fn means(plane: &Plane) -> Vec<f32> {
    let columns = plane.width() / CELL;
    let mut cells = vec![0.0; columns * (plane.height() / CELL)];
    for (y, row) in plane.values().chunks_exact(plane.width()).enumerate() {
        for (x, value) in row.iter().enumerate() {
            cells[y / CELL * columns + x / CELL] += value / (CELL * CELL) as f32;
        }
    }
    cells
}

/// Returns what a picture looks like through a warp.
fn seen(picture: &Plane, warp: Warp, side: usize) -> Plane {
    Plane::from_fn(side, side, |x, y| {
        let (x, y) = warp.source(x as f32, y as f32);
        picture.at(x, y)
    })
}

/// Returns the largest value within so many pixels along rows and columns.
fn grown(mask: &Plane, by: usize) -> Plane {
    within(&within(mask, by, Axis::Row, f32::max), by, Axis::Column, f32::max)
}

/// Returns the mean of the values within so many pixels along rows and columns.
fn faded(mask: &Plane, by: usize) -> Plane {
    let sum = |a, b| a + b;
    let mut mean = within(&within(mask, by, Axis::Row, sum), by, Axis::Column, sum);
    let count = (2 * by + 1).pow(2) as f32;
    mean.values_mut().iter_mut().for_each(|v| *v /= count);
    mean
}

#[derive(Clone, Copy)]
enum Axis {
    Row,
    Column,
}

/// Puts together the values within so many pixels of each along an axis; beyond the edges those of the edge go on.
fn within(plane: &Plane, by: usize, axis: Axis, both: impl Fn(f32, f32) -> f32) -> Plane {
    let (width, height) = (plane.width(), plane.height());
    let near = |at: usize, count: usize, i: usize| (at + i).saturating_sub(by).min(count - 1);
    Plane::from_fn(width, height, |x, y| {
        let value = |i| match axis {
            Axis::Row => plane.values()[y * width + near(x, width, i)],
            Axis::Column => plane.values()[near(y, height, i) * width + x],
        };
        (1..=2 * by).fold(value(0), |sum, i| both(sum, value(i)))
    })
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// A sample of even brightness with a spot that is so much of it.
    fn sample(class: usize, brightness: f32, spot: f32) -> Sample {
        let inside = |i: usize| class > 0 && (i % 64).abs_diff(20) < 4 && (i / 64).abs_diff(30) < 4;
        let pixels: Vec<u8> = (0..64 * 64).map(|i| (brightness * if inside(i) { spot } else { 1.0 }) as u8).collect();
        let mask: Vec<u8> = (0..64 * 64).map(|i| u8::from(inside(i))).collect();
        Sample::try_new("s", "", 0, class, (64, 64), &pixels, Some(&mask), 64).unwrap()
    }

    #[test]
    fn a_defect_is_moved_with_its_mask_and_stands_out_as_before() {
        let (ground, donor) = (sample(0, 200.0, 1.0), sample(2, 80.0, 0.25));
        assert!(is_movable(&donor) && !is_movable(&ground));
        let mut rng = StdRng::seed_from_u64(5);
        let mut places = Vec::new();
        for _ in 0..40 {
            let Some(example) = pasted(&ground, &donor, 64, Grain::Upright, &mut rng) else { continue };
            let (cells, picture) = (example.cells.unwrap(), &example.picture);
            assert_eq!(example.class, 2);
            let most = (0..cells.len()).max_by(|&a, &b| cells[a].total_cmp(&cells[b])).unwrap();
            let (x, y) = (most % 16 * 4 + 2, most / 16 * 4 + 2);
            places.push((x, y));
            // An even surface under any lamp is far from four deviations of a picture with a black spot.
            let darkest = picture.values()[y * 64 + x];
            assert!(darkest < -2.0, "{darkest} at {x}, {y}");
            let bright = picture.values().iter().filter(|&&v| v > -2.0).count();
            assert!(bright > 64 * 64 * 9 / 10, "{bright}");
        }
        let spread = |of: fn(&(usize, usize)) -> usize| {
            let values: Vec<usize> = places.iter().map(of).collect();
            values.iter().max().unwrap() - values.iter().min().unwrap()
        };
        assert!(places.len() > 30 && spread(|p| p.0) > 30 && spread(|p| p.1) > 30, "{places:?}");
    }
}
