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
//! repeated, or interrupted and resumed, gives the same records: the source's only state is the number of the next picture.
//!
//! In each tick of `every` each camera takes a picture. One that is lost is not sent; the next of that camera counts it as missing.

mod canvas;
pub mod scene;

use std::time::{Duration, Instant};

use bytes::Bytes;
use driftline_payloads::{
    Image,
    image::{Format, Shot},
};
use driftline_stage::{
    ConfigProblem, Key, Source, SourceBatch, SourceKind, SourceStatus, StageError, Timestamp, config::Millis,
};
use serde::Deserialize;

use crate::audio::Pace;
use scene::{Conditions, Scene};

/// Pictures of one read, about.
const BATCH: usize = 8;
/// The state entry of the next tick.
const TICK: &[u8] = b"tick";

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
    fn conditions(&self) -> Conditions {
        let &Self { light, light_angle, colour_temperature, blur, dust, defects, .. } = self;
        Conditions { light, light_angle, colour_temperature, blur, dust, defects }
    }
}

/// The source `camera`.
pub struct Camera {
    config: CameraConfig,
    start: Timestamp,
    /// The next tick.
    tick: u64,
    /// Pictures lost since the last one that was sent, a number a camera.
    missing: Vec<u32>,
    clock: Instant,
    /// The tick at which the clock was read first.
    anchor: Option<(Duration, u64)>,
}

impl SourceKind for Camera {
    const KIND: &'static str = "camera";
    type Config = CameraConfig;

    fn check(config: &CameraConfig) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let mut expect = |right: bool, key: &str, found: String, allowed: &str| {
            if !right {
                let message = format!("allowed is {allowed}");
                problems.push(ConfigProblem { path: vec![key.to_owned()], found: Some(found), message });
            }
        };
        let c = config;
        expect((1..=64).contains(&c.cameras), "cameras", c.cameras.to_string(), "a whole number from 1 to 64");
        expect(c.every.0 > 0, "every", c.every.to_string(), "at least 1ms");
        let time = "a time such as \"2000-01-01T00:00:00Z\"";
        expect(Timestamp::parse(&c.start).is_some(), "start", format!("{:?}", c.start), time);
        expect((64..=2_048).contains(&c.size), "size", c.size.to_string(), "a whole number from 64 to 2048");
        expect((1..=100).contains(&c.quality), "quality", c.quality.to_string(), "a whole number from 1 to 100");
        let mut range = |value: f64, key: &str, low: f64, high: f64| {
            expect((low..=high).contains(&value), key, value.to_string(), &format!("{low} to {high}"));
        };
        range(c.lost, "lost", 0.0, 0.9);
        range(c.light, "light", 0.0, 4.0);
        range(c.light_angle, "light_angle", -360.0, 360.0);
        range(c.colour_temperature, "colour_temperature", 2_000.0, 12_000.0);
        range(c.blur, "blur", 0.0, 8.0);
        range(c.dust, "dust", 0.0, 20.0);
        range(c.defects, "defects", 0.0, 1.0);
        problems
    }

    fn open(config: CameraConfig, _follow: bool) -> Result<Self, StageError> {
        let start = Timestamp::parse(&config.start).ok_or_else(|| {
            StageError::fatal(format!("start: found {:?}, allowed is a time in RFC 3339", config.start))
        })?;
        let missing = vec![0; config.cameras];
        Ok(Self { config, start, tick: 0, missing, clock: Instant::now(), anchor: None })
    }
}

impl Source for Camera {
    type Output = Image;

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        let damaged = || StageError::fatal("the state of a camera is damaged");
        for (key, value) in entries {
            if key != TICK {
                return Err(damaged());
            }
            self.tick = serde_json::from_slice(&value).map_err(|_| damaged())?;
        }
        for camera in 0..self.config.cameras {
            // A camera's losses in a row before the next tick; few, since a loss is drawn anew each time.
            let lost = (0..self.tick).rev().take_while(|&tick| self.is_lost(camera, tick)).count();
            self.missing[camera] = u32::try_from(lost).unwrap_or(u32::MAX);
        }
        Ok(())
    }

    fn read(&mut self, out: &mut SourceBatch<Image>) -> Result<SourceStatus, StageError> {
        self.read_at(self.clock.elapsed(), out)
    }
}

impl Camera {
    /// Reads at a time since the source was opened.
    fn read_at(&mut self, now: Duration, out: &mut SourceBatch<Image>) -> Result<SourceStatus, StageError> {
        let first = self.tick;
        let mut status = SourceStatus::More;
        while out.len() < BATCH && (self.tick - first) < BATCH as u64 {
            if self.config.frames > 0 && self.tick >= self.config.frames {
                status = SourceStatus::End;
                break;
            }
            if let Some(wait) = self.wait(now) {
                status = SourceStatus::Wait(wait);
                break;
            }
            for camera in 0..self.config.cameras {
                self.take(camera, out)?;
            }
            self.tick += 1;
        }
        if self.tick != first {
            out.put_state(TICK, self.tick.to_string());
        }
        Ok(status)
    }

    /// Returns how long the next tick is still away.
    fn wait(&mut self, now: Duration) -> Option<Duration> {
        if self.config.pace == Pace::Fast {
            return None;
        }
        let (time, tick) = *self.anchor.get_or_insert((now, self.tick));
        let ticks = u32::try_from(self.tick - tick).unwrap_or(u32::MAX);
        (time + self.config.every.duration() * ticks).checked_sub(now).filter(|wait| !wait.is_zero())
    }

    /// Takes a camera's picture of this tick.
    fn take(&mut self, camera: usize, out: &mut SourceBatch<Image>) -> Result<(), StageError> {
        if self.is_lost(camera, self.tick) {
            self.missing[camera] = self.missing[camera].saturating_add(1);
            return Ok(());
        }
        let config = &self.config;
        let scene = Scene::draw(self.seed(camera, self.tick, 0), config.size, config.conditions());
        let name = format!("camera-{}", camera + 1);
        let shot = Shot {
            camera: name.clone(),
            frame: Some(self.tick),
            name: None,
            missing: std::mem::take(&mut self.missing[camera]),
        };
        let format = match config.format {
            FileFormat::Jpeg => Format::Jpeg,
            FileFormat::Png => Format::Png,
        };
        let size = (config.size as u32, config.size as u32);
        let image = Image::from_rgb(shot, format, config.quality, size, &scene.rgb)
            .map_err(|error| StageError::fatal("a generated picture has no encoding").caused_by(error))?;
        let millis = self.tick.saturating_mul(config.every.0);
        let time = self.start.plus_millis(i64::try_from(millis).unwrap_or(i64::MAX));
        out.emit(Key::new(name), time, image);
        Ok(())
    }

    fn is_lost(&self, camera: usize, tick: u64) -> bool {
        let share = self.seed(camera, tick, 1) as f64 / u64::MAX as f64;
        share < self.config.lost
    }

    /// Returns the seed of a picture; `purpose` tells what is drawn with it.
    fn seed(&self, camera: usize, tick: u64, purpose: u64) -> u64 {
        let mut seed = self.config.seed;
        for part in [camera as u64, tick, purpose] {
            // splitmix64: neighbouring numbers become unrelated ones.
            seed = (seed ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
            seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            seed ^= seed >> 31;
        }
        seed
    }
}

#[cfg(test)]
mod tests {
    use driftline_stage::SourceDef;

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
