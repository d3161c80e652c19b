//! Pictures to train on: a folder of classes, or generated.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use driftline_connectors::camera::{
    scene::{self, Conditions, Scene},
    tile,
};
use driftline_models::inspection::{Surface, training::sample::Sample};
use driftline_payloads::{
    Image,
    image::{Format, Shot},
};

use crate::exit::Failure;

/// Labelled pictures.
pub(super) struct Pictures {
    pub samples: Vec<Sample>,
    /// Names of the classes, *good* first.
    pub classes: Vec<String>,
    /// How many pieces they show.
    pub pieces: usize,
}

/// Pixels of a side of generated screens, as the source `camera` has them, and of tiles.
const SCREEN: usize = 512;
const TILE: usize = 384;
/// Share of generated pictures with a defect.
const DEFECTIVE: f64 = 0.5;

/// Reads `folder/<class>/<slice>_…_<number>.jpg`, each with a mask `.png` beside it or none. Pictures whose numbers are at most `gap` apart show one piece.
pub(super) fn read(folder: &Path, good: Option<&str>, gap: u64, side: usize) -> Result<Pictures, Failure> {
    let unreadable = |path: &Path, error: io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let list = |path: &Path| -> Result<Vec<PathBuf>, Failure> {
        let entries = fs::read_dir(path).map_err(|error| unreadable(path, error))?;
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()
            .map_err(|e| unreadable(path, e))?;
        paths.sort();
        Ok(paths)
    };
    let mut classes: Vec<PathBuf> = list(folder)?.into_iter().filter(|path| path.is_dir()).collect();
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let names: Vec<String> = classes.iter().map(|path| name(path)).collect();
    let is_good = |name: &str| good.map_or_else(|| looks_good(name), |good| good == name);
    if names.is_empty() {
        let message = "found no folders in it, allowed is a folder a class, with its pictures";
        return Err(Failure::usage(format!("{}: {message}", folder.display())));
    }
    let Some(place) = names.iter().position(|name| is_good(name)) else {
        let found = names.join(", ");
        let message = format!("{}: found the classes {found}, allowed is one that --good names", folder.display());
        return Err(Failure::usage(message));
    };
    classes[..=place].rotate_right(1);

    let mut files: Vec<(Option<u64>, usize, PathBuf)> = Vec::new();
    for (class, path) in classes.iter().enumerate() {
        let pictures = list(path)?.into_iter().filter(|file| is_picture(file));
        files.extend(pictures.map(|file| (number(&file), class, file)));
    }
    files.sort();
    let mut pieces = 0;
    let mut last = None;
    let mut samples = Vec::with_capacity(files.len());
    for (number, class, file) in files {
        // A file without a number is a piece of its own.
        let same = matches!((last, number), (Some(before), Some(now)) if now - before <= gap);
        if !same {
            pieces += 1;
        }
        last = number;
        let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let slice = stem.split_once('_').map_or("all", |(slice, _)| slice).to_owned();
        samples.push(sample(&file, slice, pieces - 1, class, side)?);
    }
    Ok(Pictures { samples, classes: classes.iter().map(|path| name(path)).collect(), pieces })
}

fn sample(file: &Path, slice: String, piece: usize, class: usize, side: usize) -> Result<Sample, Failure> {
    let picture = luma(file)?;
    let (width, height, pixels) = &picture;
    let beside = file.with_extension("png");
    let mask = if beside != file && beside.is_file() {
        let mask = luma(&beside)?;
        if (mask.0, mask.1) != (*width, *height) {
            let found = format!("a mask of {} by {}", mask.0, mask.1);
            return Err(Failure::usage(format!("{}: found {found}, allowed is {width} by {height}", beside.display())));
        }
        Some(mask.2)
    } else {
        None
    };
    let name = file.display().to_string();
    Sample::try_new(name, slice, piece, class, (*width, *height), pixels, mask.as_deref(), side)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))
}

/// Reads the brightness of a picture, under the limits of the pipelines.
fn luma(file: &Path) -> Result<(usize, usize, Vec<u8>), Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", file.display()));
    let bytes = fs::read(file).map_err(|error| wrong(&error))?;
    let image = Image::try_new(Shot::default(), bytes).map_err(|error| wrong(&error))?;
    let pixels = image.pixels().map_err(|error| wrong(&error))?;
    Ok((pixels.width(), pixels.height(), pixels.luma().to_vec()))
}

fn looks_good(name: &str) -> bool {
    let name = name.to_lowercase();
    ["good", "ok", "free", "normal"].iter().any(|word| name == *word || name.ends_with(&format!("_{word}")))
}

/// Tells whether a file is a picture and not another one's mask.
fn is_picture(file: &Path) -> bool {
    let suffix = file.extension().map(|suffix| suffix.to_string_lossy().to_lowercase()).unwrap_or_default();
    match suffix.as_str() {
        "jpg" | "jpeg" => true,
        "png" => !file.with_extension("jpg").is_file() && !file.with_extension("jpeg").is_file(),
        _ => false,
    }
}

/// Returns the number after the last `_` of a file's stem.
fn number(file: &Path) -> Option<u64> {
    file.file_stem()?.to_string_lossy().rsplit('_').next()?.parse().ok()
}

/// Draws a picture of a surface: a screen under conditions as they vary from day to day, or a tile.
fn draw(surface: Surface, seed: u64) -> Scene {
    match surface {
        Surface::PhoneScreen => {
            let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let share = |shift: u32| f64::from((mixed >> shift) as u16) / 65_535.0;
            let conditions = Conditions {
                light: 0.75 + 0.5 * share(0),
                light_angle: 20.0 + 30.0 * share(16),
                dust: 0.5 + 1.5 * share(32),
                blur: 0.4 + 0.6 * share(48),
                defects: DEFECTIVE,
                ..Conditions::default()
            };
            Scene::draw(seed, SCREEN, conditions)
        }
        Surface::GroundTile => tile::draw(seed, TILE, DEFECTIVE),
    }
}

/// Generates pictures, each of a piece of its own.
pub(super) fn generate(surface: Surface, count: usize, seed: u64, side: usize) -> Result<Pictures, Failure> {
    let mut samples = Vec::with_capacity(count);
    for piece in 0..count {
        // Seeds far from those of the source, so that no pipeline shows a screen that was trained on.
        let scene = draw(surface, (seed << 32) ^ (piece as u64) ^ 0x7241_1e00_0000_0000);
        // Through a JPEG, as a camera sends it.
        let size = (scene.side as u32, scene.side as u32);
        let image = Image::from_rgb(Shot::default(), Format::Jpeg, 90, size, &scene.rgb).map_err(Failure::running)?;
        let pixels = image.pixels().map_err(Failure::running)?;
        let name = format!("{} {piece}", surface.name());
        let size = (pixels.width(), pixels.height());
        let sample = Sample::try_new(name, "all", piece, scene.class, size, pixels.luma(), Some(&scene.mask), side);
        samples.push(sample.map_err(Failure::running)?);
    }
    let classes: &[&str] = match surface {
        Surface::PhoneScreen => &scene::CLASSES,
        Surface::GroundTile => &tile::CLASSES,
    };
    Ok(Pictures { samples, classes: classes.iter().map(ToString::to_string).collect(), pieces: count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_classes_is_read_by_piece() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, shade: u8, format| {
            let rgb = vec![shade; 3 * 40 * 30];
            let image = Image::from_rgb(Shot::default(), format, 90, (40, 30), &rgb).unwrap();
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, image.file()).unwrap();
        };
        file("MT_Crack/exp1_num_100.jpg", 90, Format::Jpeg);
        file("MT_Crack/exp1_num_100.png", 255, Format::Png);
        file("MT_Crack/exp2_num_150.jpg", 120, Format::Jpeg);
        file("MT_Free/exp1_num_211.jpg", 90, Format::Jpeg);
        file("MT_Free/other.png", 90, Format::Png);
        let found = read(folder.path(), None, 60, 32).unwrap();
        assert_eq!(found.classes, ["MT_Free", "MT_Crack"]);
        let samples: Vec<_> = found.samples.iter().map(|s| (s.class, s.slice.as_str(), s.piece, s.area)).collect();
        let expected = [(0, "all", 0, None), (1, "exp1", 1, Some(1.0)), (1, "exp2", 1, None), (0, "exp1", 2, None)];
        assert_eq!(samples, expected);
        assert_eq!(found.pieces, 3);
        assert!(read(folder.path(), Some("good"), 60, 32).is_err());
        let empty = tempfile::tempdir().unwrap();
        assert!(read(empty.path(), None, 60, 32).is_err_and(|error| error.message.contains("found no folders")));
        file("MT_Crack/exp2_num_150.png", 255, Format::Png);
        fs::write(folder.path().join("MT_Crack/exp2_num_150.png"), b"x").unwrap();
        assert!(read(folder.path(), None, 60, 32).is_err());
    }

    #[test]
    fn generated_pictures_have_their_truth() {
        for surface in Surface::ALL {
            let found = generate(surface, 8, 1, 64).unwrap();
            assert_eq!((found.samples.len(), found.pieces), (8, 8));
            for sample in &found.samples {
                assert_eq!(sample.class > 0, sample.area.unwrap() > 0.0);
            }
        }
    }
}
