//! The source `camera`: pictures of phone screens under a lamp, generated.
//!
//! ```toml
//! [sources.camera]
//! kind = "camera"
//! cameras = 2                      # 1 to 64; their names are camera-1, camera-2, …
//! frames = 60                      # of each camera; 0 goes on for ever
//! every = "500ms"                  # time between two pictures of a camera
//! pace = "fast"                    # or "realtime"
//! start = "2000-01-01T00:00:00Z"   # event time of the first pictures
//! size = 512                       # pixels a side, 64 to 2048
//! format = "jpeg"                  # or "png"
//! quality = 90                     # of JPEG, 1 to 100
//! lost = 0.0                       # share of the pictures that never arrive, 0 to 0.9
//! seed = 1
//! light = 1.0                      # strength of the lamp, 0 to 4
//! light_angle = 35.0               # where it stands, degrees
//! colour_temperature = 5000.0      # of the lamp, kelvin, 2000 to 12000
//! blur = 0.6                       # how far the lens is out of focus, 0 to 8
//! dust = 1.0                       # how much there is, 0 to 20
//! defects = 0.15                   # share of the screens with a defect, 0 to 1
//! ```
//!
//! What a picture shows is the model of [`scene`]. It depends on the seed, the camera, the number of the picture and the conditions alone, so a run that is
//! repeated, or interrupted and resumed, gives the same records: the source's only state is the next tick and what each camera has lost before it.
//!
//! In each tick of `every` each camera takes a picture. One that is lost is not sent; the next of that camera counts it as missing.
//!
//! # Injection
//!
//! `light`, `light_angle`, `colour_temperature`, `blur`, `dust`, `defects` and `lost` change the lamp, the lens, the hall, the factory and the network from a
//! moment on: `--inject 'camera.light=0.6 @ 60s'`. The screens stay those that they would have been.

mod canvas;
pub mod scene;
pub mod tile;

use std::time::{Duration, Instant};

use bytes::Bytes;
use driftline_payloads::{
    Image,
    image::{Format, Shot},
};
use driftline_stage::{
    Checks, ConfigProblem, Key, Parameter, Source, SourceBatch, SourceKind, SourceStatus, StageError, Timestamp,
    config::Millis,
};
use serde::{Deserialize, Serialize};

use crate::pacing::{A_TIME, Pace, Pacing, start_of};
use scene::{Conditions, Scene};

/// Pictures of one read, about.
const BATCH: usize = 8;
/// The state entry of [`Progress`].
const PROGRESS: &[u8] = b"progress";

/// Strength of the lamp.
static LIGHT: Parameter = Parameter {
    name: "light",
    unit: "1",
    help: "factor on the strength of the lamp; 0.6 is one that grows old",
    min: 0.0,
    max: 4.0,
    neutral: 1.0,
};
/// Place of the lamp.
static LIGHT_ANGLE: Parameter = Parameter {
    name: "light_angle",
    unit: "deg",
    help: "how far the lamp is moved around the screen",
    min: -360.0,
    max: 360.0,
    neutral: 0.0,
};
/// Colour of the lamp.
static COLOUR_TEMPERATURE: Parameter = Parameter {
    name: "colour_temperature",
    unit: "K",
    help: "added to the colour temperature of the lamp; less is warmer",
    min: -10_000.0,
    max: 10_000.0,
    neutral: 0.0,
};
/// Focus of the lens.
static BLUR: Parameter = Parameter {
    name: "blur",
    unit: "{pixel}",
    help: "added to how far the lens is out of focus",
    min: 0.0,
    max: 8.0,
    neutral: 0.0,
};
/// Dust in the hall.
static DUST: Parameter =
    Parameter { name: "dust", unit: "1", help: "factor on the amount of dust", min: 0.0, max: 20.0, neutral: 1.0 };
/// What the factory makes.
static DEFECTS: Parameter = Parameter {
    name: "defects",
    unit: "1",
    help: "factor on the share of the screens with a defect",
    min: 0.0,
    max: 20.0,
    neutral: 1.0,
};
/// Loss on the way.
static LOST: Parameter = Parameter {
    name: "lost",
    unit: "1",
    help: "added to the share of the pictures that never arrive",
    min: 0.0,
    max: 0.9,
    neutral: 0.0,
};

/// The config table of the source `camera`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CameraConfig {
    /// Cameras, 1 to 64.
    pub cameras: usize,
    /// Pictures of each camera; 0 goes on for ever.
    pub frames: u64,
    /// Time between two pictures of a camera.
    pub every: Millis,
    /// Whether time passes as it does.
    pub pace: Pace,
    /// Event time of the first pictures, RFC 3339.
    pub start: String,
    /// Pixels a side, 64 to 2,048.
    pub size: usize,
    /// How pictures are stored.
    pub format: FileFormat,
    /// Quality of JPEG, 1 to 100.
    pub quality: u8,
    /// Share of the pictures that never arrive, 0 to 0.9.
    pub lost: f64,
    /// Names the screens.
    pub seed: u64,
    /// See [`Conditions::light`].
    pub light: f64,
    /// See [`Conditions::light_angle`].
    pub light_angle: f64,
    /// See [`Conditions::colour_temperature`].
    pub colour_temperature: f64,
    /// See [`Conditions::blur`].
    pub blur: f64,
    /// See [`Conditions::dust`].
    pub dust: f64,
    /// See [`Conditions::defects`].
    pub defects: f64,
}

impl Default for CameraConfig {
    fn default() -> Self {
        let Conditions { light, light_angle, colour_temperature, blur, dust, defects } = Conditions::default();
        Self {
            cameras: 1,
            frames: 60,
            every: Millis(500),
            pace: Pace::Fast,
            start: "2000-01-01T00:00:00Z".to_owned(),
            size: 512,
            format: FileFormat::Jpeg,
            quality: 90,
            lost: 0.0,
            seed: 1,
            light,
            light_angle,
            colour_temperature,
            blur,
            dust,
            defects,
        }
    }
}

/// How generated pictures are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
}

impl CameraConfig {
    /// Returns the conditions under which pictures are taken when parameters have these values, each within its range.
    fn conditions(&self, value: impl Fn(&'static Parameter) -> f64) -> Conditions {
        Conditions {
            light: (self.light * value(&LIGHT)).min(4.0),
            light_angle: self.light_angle + value(&LIGHT_ANGLE),
            colour_temperature: (self.colour_temperature + value(&COLOUR_TEMPERATURE)).clamp(2_000.0, 12_000.0),
            blur: (self.blur + value(&BLUR)).min(8.0),
            dust: (self.dust * value(&DUST)).min(20.0),
            defects: (self.defects * value(&DEFECTS)).min(1.0),
        }
    }
}

/// What a resumed run goes on from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// The next tick.
    tick: u64,
    /// Pictures lost since the last one that was sent, a number a camera.
    missing: Vec<u32>,
}

/// The source `camera`.
pub struct Camera {
    config: CameraConfig,
    start: Timestamp,
    progress: Progress,
    clock: Instant,
    pacing: Pacing,
}

impl SourceKind for Camera {
    const KIND: &'static str = "camera";
    const PARAMETERS: &'static [&'static Parameter] =
        &[&LIGHT, &LIGHT_ANGLE, &COLOUR_TEMPERATURE, &BLUR, &DUST, &DEFECTS, &LOST];
    type Config = CameraConfig;

    fn start(config: &CameraConfig) -> Option<Timestamp> {
        Timestamp::parse(&config.start)
    }

    fn check(config: &CameraConfig) -> Vec<ConfigProblem> {
        let c = config;
        let mut checks = Checks::default();
        checks.expect((1..=64).contains(&c.cameras), "cameras", c.cameras, "a whole number from 1 to 64");
        checks.expect(c.every.0 > 0, "every", c.every, "at least 1ms");
        checks.expect(Timestamp::parse(&c.start).is_some(), "start", format_args!("{:?}", c.start), A_TIME);
        checks.expect((64..=2_048).contains(&c.size), "size", c.size, "a whole number from 64 to 2048");
        checks.expect((1..=100).contains(&c.quality), "quality", c.quality, "a whole number from 1 to 100");
        let mut range = |value: f64, key: &str, low: f64, high: f64| {
            checks.expect((low..=high).contains(&value), key, value, format_args!("{low} to {high}"));
        };
        range(c.lost, "lost", 0.0, 0.9);
        range(c.light, "light", 0.0, 4.0);
        range(c.light_angle, "light_angle", -360.0, 360.0);
        range(c.colour_temperature, "colour_temperature", 2_000.0, 12_000.0);
        range(c.blur, "blur", 0.0, 8.0);
        range(c.dust, "dust", 0.0, 20.0);
        range(c.defects, "defects", 0.0, 1.0);
        checks.problems()
    }

    fn open(config: CameraConfig, _follow: bool) -> Result<Self, StageError> {
        let start = start_of(&config.start)?;
        let progress = Progress { tick: 0, missing: vec![0; config.cameras] };
        let pacing = Pacing::new(config.pace, config.every.duration());
        Ok(Self { config, start, progress, clock: Instant::now(), pacing })
    }
}

impl Source for Camera {
    type Output = Image;

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        for (key, value) in entries {
            let progress = (key == PROGRESS).then(|| serde_json::from_slice(&value).ok()).flatten();
            self.progress = progress.ok_or_else(|| StageError::fatal("the state of a camera is damaged"))?;
        }
        // A camera that was added to the config begins with the others' next tick.
        self.progress.missing.resize(self.config.cameras, 0);
        Ok(())
    }

    fn read(&mut self, out: &mut SourceBatch<Image>) -> Result<SourceStatus, StageError> {
        self.read_at(self.clock.elapsed(), out)
    }
}

impl Camera {
    /// Reads at a time since the source was opened.
    fn read_at(&mut self, now: Duration, out: &mut SourceBatch<Image>) -> Result<SourceStatus, StageError> {
        let first = self.progress.tick;
        let mut status = SourceStatus::More;
        while out.len() < BATCH && self.progress.tick - first < BATCH as u64 {
            if self.config.frames > 0 && self.progress.tick >= self.config.frames {
                status = SourceStatus::End;
                break;
            }
            if let Some(wait) = self.pacing.until_begin(self.progress.tick, now) {
                status = SourceStatus::Wait(wait);
                break;
            }
            for camera in 0..self.config.cameras {
                self.take(camera, out)?;
            }
            self.progress.tick += 1;
        }
        if self.progress.tick != first {
            let progress = serde_json::to_vec(&self.progress)
                .map_err(|error| StageError::fatal("state has no encoding").caused_by(error))?;
            out.put_state(PROGRESS, progress);
        }
        Ok(status)
    }

    /// Takes a camera's picture of this tick.
    fn take(&mut self, camera: usize, out: &mut SourceBatch<Image>) -> Result<(), StageError> {
        let (config, tick) = (&self.config, self.progress.tick);
        let time = self.start.plus_millis(i64::try_from(tick.saturating_mul(config.every.0)).unwrap_or(i64::MAX));
        let missing = &mut self.progress.missing[camera];
        let lost = (config.lost + out.parameter(&LOST, time)).min(0.9);
        if (seed(config.seed, camera, tick, 1) as f64 / u64::MAX as f64) < lost {
            *missing = missing.saturating_add(1);
            return Ok(());
        }
        let conditions = config.conditions(|parameter| out.parameter(parameter, time));
        let scene = Scene::draw(seed(config.seed, camera, tick, 0), config.size, conditions);
        let name = format!("camera-{}", camera + 1);
        let missing = std::mem::take(missing);
        let shot = Shot { camera: name.clone(), frame: Some(tick), name: None, missing };
        let format = match config.format {
            FileFormat::Jpeg => Format::Jpeg,
            FileFormat::Png => Format::Png,
        };
        let size = (config.size as u32, config.size as u32);
        let image = Image::from_rgb(shot, format, config.quality, size, &scene.rgb)
            .map_err(|error| StageError::fatal("a generated picture has no encoding").caused_by(error))?;
        out.emit(Key::new(name), time, image);
        Ok(())
    }
}

/// Returns the seed of a picture; `purpose` tells what is drawn with it.
fn seed(mut seed: u64, camera: usize, tick: u64, purpose: u64) -> u64 {
    for part in [camera as u64, tick, purpose] {
        // splitmix64: neighbouring numbers become unrelated ones.
        seed = (seed ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        seed ^= seed >> 31;
    }
    seed
}

#[cfg(test)]
mod tests {
    use driftline_stage::{Injections, SourceDef};
    use driftline_types::Injection;

    use super::*;

    fn open(config: &str) -> Camera {
        Camera::open(toml::from_str(config).unwrap(), false).unwrap()
    }

    fn read_all(camera: &mut Camera) -> Vec<(Key, Timestamp, Image)> {
        let mut all = Vec::new();
        loop {
            let mut batch = SourceBatch::new();
            let status = camera.read(&mut batch).unwrap();
            all.extend(batch.records().iter().cloned());
            if status == SourceStatus::End {
                return all;
            }
        }
    }

    const SMALL: &str = "cameras = 2\nframes = 9\nsize = 64\nformat = \"png\"\nlost = 0.3\nevery = \"250ms\"";

    #[test]
    fn every_camera_takes_its_pictures_and_the_next_counts_what_was_lost() {
        let records = read_all(&mut open(SMALL));
        for camera in ["camera-1", "camera-2"] {
            let own: Vec<_> = records.iter().filter(|(key, ..)| *key == Key::new(camera)).collect();
            let mut next = 0;
            for (_, time, image) in own {
                let frame = image.shot.frame.unwrap();
                assert_eq!(frame, next + u64::from(image.shot.missing));
                assert_eq!(*time, Timestamp::parse("2000-01-01T00:00:00Z").unwrap().plus_millis(frame as i64 * 250));
                next = frame + 1;
            }
        }
        assert!((8..18).contains(&records.len()), "{}", records.len());
    }

    #[test]
    fn a_resumed_run_goes_on_where_it_stopped() {
        let whole = read_all(&mut open(SMALL));
        for stop in 1..3 {
            let mut first = open(SMALL);
            let mut records = Vec::new();
            let mut state = Vec::new();
            for _ in 0..stop {
                let mut batch = SourceBatch::new();
                first.read(&mut batch).unwrap();
                records.extend(batch.records().iter().cloned());
                state = batch.state().iter().map(|s| (s.key.clone(), s.value.clone().unwrap())).collect();
            }
            let mut second = open(SMALL);
            second.restore(state).unwrap();
            records.extend(read_all(&mut second));
            assert_eq!(records, whole);
        }
    }

    #[test]
    fn what_is_injected_shows_from_its_moment_on() {
        let start = Timestamp::parse("2000-01-01T00:00:00Z").unwrap();
        let change = |parameter, value| Injection {
            parameter,
            value,
            at: start.plus_millis(1_000),
            over: Millis(0),
            until: None,
        };
        let injections = Injections::new(vec![change(&LIGHT, 0.5), change(&LOST, 0.5)]);
        let mut camera = open("frames = 8\nsize = 64\nformat = \"png\"\nevery = \"500ms\"");
        let mut batch = SourceBatch::with_injections(injections);
        camera.read(&mut batch).unwrap();
        let plain = read_all(&mut open("frames = 8\nsize = 64\nformat = \"png\"\nevery = \"500ms\""));
        assert!(batch.len() < plain.len());
        for (_, time, image) in batch.records() {
            let (.., same) = plain.iter().find(|(_, other, _)| other == time).unwrap();
            let brightness = |image: &Image| image.pixels().unwrap().measures().brightness;
            if *time < start.plus_millis(1_000) {
                assert_eq!(image, same);
            } else {
                assert!(brightness(image) < 0.7 * brightness(same));
            }
        }
    }

    #[test]
    fn time_passes_as_it_does() {
        let mut camera = open("frames = 3\nsize = 64\npace = \"realtime\"\nevery = \"1s\"");
        let mut batch = SourceBatch::new();
        let status = camera.read_at(Duration::from_secs(5), &mut batch).unwrap();
        assert_eq!((batch.len(), status), (1, SourceStatus::Wait(Duration::from_secs(1))));
        let status = camera.read_at(Duration::from_secs(7), &mut batch).unwrap();
        assert_eq!((batch.len(), status), (3, SourceStatus::End));
    }

    #[test]
    fn problems_are_named_with_what_is_allowed() {
        let problems = |config: &str| -> Vec<String> {
            (SourceDef::of::<Camera>().check)(&config.parse().unwrap()).iter().map(ToString::to_string).collect()
        };
        assert_eq!(problems(""), [""; 0]);
        assert_eq!(
            problems("cameras = 0\nlight = 5.0\nevery = \"0s\"\nblur = nan"),
            [
                "cameras: found 0, allowed is a whole number from 1 to 64",
                "every: found 0ms, allowed is at least 1ms",
                "light: found 5, allowed is 0 to 4",
                "blur: found NaN, allowed is 0 to 8",
            ]
        );
    }
}
