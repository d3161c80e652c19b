//! Pictures to train on: a folder of classes, or generated.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
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
    let places: Vec<usize> = (0..names.len()).filter(|&place| is_good(&names[place])).collect();
    let place = match places[..] {
        [place] => place,
        [] => {
            let found = names.join(", ");
            let message = format!("{}: found the classes {found}, allowed is one that --good names", folder.display());
            return Err(Failure::usage(message));
        }
        _ => {
            let found: Vec<&str> = places.iter().map(|&place| names[place].as_str()).collect();
            let found = found.join(", ");
            let message = format!("{}: found {found}, which all look good, allowed is one: name it", folder.display());
            return Err(Failure::usage(format!("{message} with --good")));
        }
    };
    classes[..=place].rotate_right(1);

    let mut files: Vec<(Option<u64>, usize, PathBuf, Option<PathBuf>)> = Vec::new();
    for (class, path) in classes.iter().enumerate() {
        let pictures = with_masks(list(path)?);
        if pictures.is_empty() {
            let message = "found no picture in it, allowed is a folder a class, with its pictures";
            return Err(Failure::usage(format!("{}: {message}", path.display())));
        }
        files.extend(pictures.into_iter().map(|(file, mask)| (number(&file), class, file, mask)));
    }
    files.sort();
    let mut pieces = 0;
    let mut last = None;
    let mut samples = Vec::with_capacity(files.len());
    for (number, class, file, mask) in files {
        // A file without a number is a piece of its own.
        let same = matches!((last, number), (Some(before), Some(now)) if now - before <= gap);
        if !same {
            pieces += 1;
        }
        last = number;
        let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let slice = stem.split_once('_').map_or("all", |(slice, _)| slice).to_owned();
        samples.push(sample(&file, mask.as_deref(), slice, pieces - 1, class, side)?);
    }
    Ok(Pictures { samples, classes: classes.iter().map(|path| name(path)).collect(), pieces })
}

fn sample(
    file: &Path,
    mask: Option<&Path>,
    slice: String,
    piece: usize,
    class: usize,
    side: usize,
) -> Result<Sample, Failure> {
    let picture = luma(file)?;
    let (width, height, pixels) = &picture;
    let mask = match mask {
        None => None,
        Some(beside) => {
            let mask = luma(beside)?;
            if (mask.0, mask.1) != (*width, *height) {
                let found = format!("found a mask of {} by {}, allowed is {width} by {height}", mask.0, mask.1);
                return Err(Failure::usage(format!("{}: {found}", beside.display())));
            }
            Some(mask.2)
        }
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

/// Returns the pictures among the files of a folder, each with its mask: a PNG with the stem of a JPEG is no picture.
/// Suffixes may be in capitals.
fn with_masks(mut files: Vec<PathBuf>) -> Vec<(PathBuf, Option<PathBuf>)> {
    let suffix = |file: &Path| {
        let suffix = file.extension().map(|suffix| suffix.to_string_lossy().to_lowercase());
        suffix.unwrap_or_default()
    };
    files.retain(|file| matches!(suffix(file).as_str(), "jpg" | "jpeg" | "png"));
    let (pngs, jpegs): (Vec<PathBuf>, Vec<PathBuf>) = files.into_iter().partition(|file| suffix(file) == "png");
    let masks: HashMap<Option<&OsStr>, &PathBuf> = pngs.iter().map(|file| (file.file_stem(), file)).collect();
    let stems: HashSet<Option<&OsStr>> = jpegs.iter().map(|file| file.file_stem()).collect();
    let alone = pngs.iter().filter(|file| !stems.contains(&file.file_stem())).map(|file| (file.clone(), None));
    let masked = jpegs.iter().map(|file| (file.clone(), masks.get(&file.file_stem()).copied().cloned()));
    masked.chain(alone).collect()
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
        // Masks are those of pictures with suffixes in capitals, too, and with their own.
        file("MT_Crack/exp3_num_300.JPG", 90, Format::Jpeg);
        file("MT_Crack/exp3_num_300.png", 255, Format::Png);
        file("MT_Crack/exp3_num_400.jpeg", 90, Format::Jpeg);
        file("MT_Crack/exp3_num_400.PNG", 255, Format::Png);
        let masked = read(folder.path(), None, 60, 32).unwrap();
        assert_eq!(masked.samples.len(), 6);
        assert_eq!(masked.samples.iter().filter(|sample| sample.area == Some(1.0)).count(), 3);
        let empty = tempfile::tempdir().unwrap();
        assert!(read(empty.path(), None, 60, 32).is_err_and(|error| error.message.contains("found no folders")));
        file("MT_Crack/exp2_num_150.png", 255, Format::Png);
        fs::write(folder.path().join("MT_Crack/exp2_num_150.png"), b"x").unwrap();
        assert!(read(folder.path(), None, 60, 32).is_err());
    }

    #[test]
    fn two_folders_that_look_good_and_one_without_pictures_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let picture = Image::from_rgb(Shot::default(), Format::Png, 90, (40, 30), &[90; 3 * 40 * 30]).unwrap();
        for class in ["normal", "ok", "scratch"] {
            fs::create_dir(folder.path().join(class)).unwrap();
            fs::write(folder.path().join(class).join("1.png"), picture.file()).unwrap();
        }
        let error = |good| read(folder.path(), good, 60, 32).err().map(|error| error.message).unwrap_or_default();
        assert!(error(None).ends_with("found normal, ok, which all look good, allowed is one: name it with --good"));
        assert_eq!(read(folder.path(), Some("ok"), 60, 32).unwrap().classes, ["ok", "normal", "scratch"]);
        fs::create_dir(folder.path().join("crack")).unwrap();
        assert!(error(Some("ok")).contains("crack: found no picture in it"), "{}", error(Some("ok")));
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
