//! The inspection pipeline as a whole: pictures of 512 × 512 a second, and its memory.
//!
//! `cargo bench -p driftline-benches --bench inspect [-- PICTURES]` (half a minute; the pictures are generated screens, stored as JPEG, read from a folder).

#![allow(clippy::unwrap_used, reason = "a benchmark")]

mod bundled;

use std::{fs, path::Path};

use driftline_connectors::camera::scene::{Conditions, Scene};
use driftline_payloads::{
    Image,
    image::{Format, Shot},
};

const SIDE: u32 = 512;

fn main() {
    let count = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(600);
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    let bytes = photograph(&photos, count);
    println!("{count} pictures of {SIDE} × {SIDE}, {:.0} KB each", bytes as f64 / count as f64 / 1e3);

    let output = folder.path().join("control.jsonl");
    let set = [
        "sources.camera={ kind = \"image-files\" }".to_owned(),
        format!("sources.camera.path={}", photos.display()),
        "sinks.gate.kind=jsonl".to_owned(),
        format!("sinks.gate.path={}", output.display()),
    ];
    let (_, _, report) = bundled::run("inspect", &set);
    let lines = fs::read_to_string(output).unwrap().lines().count();
    assert_eq!(lines, count, "every picture is inspected");
    println!(
        "{:.0} pictures a second by the clock, {:.0} a core second; {:.1} ms of CPU each; peak memory {:.0} MB",
        count as f64 / report.seconds,
        count as f64 / report.cpu_seconds,
        report.cpu_seconds * 1e3 / count as f64,
        report.peak_memory as f64 / 1e6
    );
}

/// Writes generated screens of two cameras and returns their bytes.
fn photograph(folder: &Path, count: usize) -> u64 {
    let mut bytes = 0;
    for camera in ["left", "right"] {
        fs::create_dir_all(folder.join(camera)).unwrap();
    }
    // A few dozen screens, repeated: drawing them takes longer than inspecting them.
    let screens: Vec<_> = (0..count.min(48))
        .map(|i| {
            let scene = Scene::draw(i as u64, SIDE as usize, Conditions::default());
            let image = Image::from_rgb(Shot::default(), Format::Jpeg, 90, (SIDE, SIDE), &scene.rgb).unwrap();
            image.file().clone()
        })
        .collect();
    for i in 0..count {
        let camera = if i % 2 == 0 { "left" } else { "right" };
        let screen = &screens[i % screens.len()];
        fs::write(folder.join(camera).join(format!("{i:05}.jpg")), screen).unwrap();
        bytes += screen.len() as u64;
    }
    bytes
}
