//! The source `image-files`: photographs from a folder, as a camera would send them.
//!
//! ```toml
//! [sources.camera]
//! kind = "image-files"
//! path = "samples/tiles"           # a folder with all below it, a file, or a glob
//! camera = "line-1"                # the camera of all; without it, the folder that a file lies in, or "camera" if that is `path`
//! every = "500ms"                  # time between two pictures of a camera
//! start = "2000-01-01T00:00:00Z"   # event time of the first pictures
//! pace = "fast"                    # or "realtime"
//! numbered = false                 # whether numbers in the names count pictures: gaps are lost ones
//! max_file_bytes = "16 MiB"        # largest file
//! ```
//!
//! # Order and time
//!
//! A camera's files are sent in the order of their paths, with `numbered` in that of their numbers (those without one come last), one a tick of
//! `every`; cameras take turns. The event time is `start + tick · every`: it depends on the files and the config alone and not on clocks or the times of
//! files, which a copy changes. A file that appears later, with `--follow`, is sent with the next tick.
//!
//! # Progress
//!
//! Kept as state: each file that was sent or refused, with its camera's count of pictures. A path that was sent is never read again, and one that was
//! refused only if the file was replaced, which its size and the time it was written tell.
//!
//! # What cannot be used
//!
//! A file that is no picture, is damaged, or unfolds to more pixels than are allowed goes to the dead letters byte for byte, with the path, what was found and
//! what is allowed; of one larger than `max_file_bytes` the first 64 KiB. The camera's next picture counts it as missing. Files with other suffixes than
//! `jpg`, `jpeg` and `png`, and hidden ones, are left alone and counted in one warning; hidden folders are not entered.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use driftline_payloads::{
    Image,
    image::{MAX_BYTES, Shot},
};
use driftline_stage::{
    Checks, ConfigProblem, Key, Source, SourceBatch, SourceKind, SourceStatus, StageError, Timestamp,
    config::{ByteSize, Millis},
};
use serde::{Deserialize, Serialize};

use crate::{
    files::{self, Listing, Place, RESCAN, Stamp, Watch},
    pacing::{A_TIME, Pace, Pacing, start_of},
};

const SUFFIXES: [&str; 3] = ["jpg", "jpeg", "png"];
/// Pictures of one read, about: their pixels are in memory until they are written.
const BATCH: usize = 16;
/// How much is kept of a file that is too large.
const HEAD: u64 = 64 << 10;
/// State entry of the next tick; those of files and cameras begin with these.
const TICK: &[u8] = b"tick";
const FILE: &str = "file/";
const CAMERA: &str = "camera/";

/// The config table of the source `image-files`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFilesConfig {
    /// A folder (with all folders in it), a file, or a glob.
    pub path: String,
    /// The camera of all files; `None` takes the folder that a file lies in, or `camera` for one that lies in `path` itself.
    #[serde(default)]
    pub camera: Option<String>,
    /// Time between two pictures of a camera.
    #[serde(default = "default_every")]
    pub every: Millis,
    /// Event time of the first pictures, RFC 3339.
    #[serde(default = "default_start")]
    pub start: String,
    /// Whether time passes as it does.
    #[serde(default)]
    pub pace: Pace,
    /// Whether the last number in a file's name counts the pictures of its camera.
    #[serde(default)]
    pub numbered: bool,
    /// Largest file, at most 16 MiB.
    #[serde(default = "default_max_file_bytes")]
    pub max_file_bytes: ByteSize,
}

fn default_every() -> Millis {
    Millis(500)
}
fn default_start() -> String {
    "2000-01-01T00:00:00Z".to_owned()
}
fn default_max_file_bytes() -> ByteSize {
    ByteSize(MAX_BYTES as u64)
}

/// What is known of a camera.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// The number of the next picture.
    next: u64,
    /// Pictures lost since the last one that was sent.
    missing: u32,
}

/// The source `image-files`.
pub struct ImageFiles {
    config: ImageFilesConfig,
    start: Timestamp,
    place: Place,
    follow: bool,
    tick: u64,
    /// Files that were sent (`None`), or refused as they were then.
    done: HashMap<String, Option<Stamp>>,
    cameras: BTreeMap<String, Progress>,
    waiting: BTreeMap<String, VecDeque<(String, PathBuf)>>,
    /// The cameras that have not had their turn in this tick.
    turn: VecDeque<String>,
    clock: Instant,
    pacing: Pacing,
    watch: Watch,
}

impl SourceKind for ImageFiles {
    const KIND: &'static str = "image-files";
    const PATHS: &'static [&'static str] = &["path"];
    type Config = ImageFilesConfig;

    fn start(config: &ImageFilesConfig) -> Option<Timestamp> {
        Timestamp::parse(&config.start)
    }

    fn check(config: &ImageFilesConfig) -> Vec<ConfigProblem> {
        let ImageFilesConfig { path, camera, every, start, .. } = config;
        let ByteSize(most) = config.max_file_bytes;
        let mut checks = Checks::default();
        checks.expect(!path.is_empty(), "path", "\"\"", "a folder, a file or a glob");
        checks.expect(camera.as_deref() != Some(""), "camera", "\"\"", "a name");
        checks.expect(every.0 > 0, "every", every, "at least 1ms");
        checks.expect(Timestamp::parse(start).is_some(), "start", format_args!("{start:?}"), A_TIME);
        checks.expect((1..=MAX_BYTES as u64).contains(&most), "max_file_bytes", most, "1 byte to 16 MiB");
        checks.problems()
    }

    fn open(config: ImageFilesConfig, follow: bool) -> Result<Self, StageError> {
        let start = start_of(&config.start)?;
        let place = Place::of(&config.path)?;
        let pacing = Pacing::new(config.pace, config.every.duration());
        let mut source = Self {
            config,
            start,
            place,
            follow,
            tick: 0,
            done: HashMap::new(),
            cameras: BTreeMap::new(),
            waiting: BTreeMap::new(),
            turn: VecDeque::new(),
            clock: Instant::now(),
            pacing,
            watch: Watch::default(),
        };
        let listing = source.list()?;
        let path = &source.config.path;
        if let Some(example) = &listing.other {
            let (count, example) = (listing.others, files::shown(example));
            tracing::warn!(%path, count, %example, "left alone files that are hidden or have no suffix of a picture");
        }
        if listing.files.is_empty() && !follow {
            let allowed = SUFFIXES.join(", ");
            return Err(StageError::fatal(format!(
                "path: found no picture in {path:?}, allowed are files with the suffixes {allowed}"
            )));
        }
        source.enqueue(listing.files);
        Ok(source)
    }
}

impl Source for ImageFiles {
    type Output = Image;

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        for (key, value) in entries {
            let damaged = || StageError::fatal(format!("state entry {:?} is damaged", String::from_utf8_lossy(&key)));
            let name = std::str::from_utf8(&key).map_err(|_| damaged())?;
            if key == TICK {
                self.tick = serde_json::from_slice(&value).map_err(|_| damaged())?;
            } else if let Some(path) = name.strip_prefix(FILE) {
                let refused = (!value.is_empty()).then(|| serde_json::from_slice(&value)).transpose();
                self.done.insert(path.to_owned(), refused.map_err(|_| damaged())?);
            } else if let Some(camera) = name.strip_prefix(CAMERA) {
                let progress = serde_json::from_slice(&value).map_err(|_| damaged())?;
                self.cameras.insert(camera.to_owned(), progress);
            } else {
                return Err(damaged());
            }
        }
        for files in self.waiting.values_mut() {
            files.retain(|(path, file)| !is_done(&self.done, path, file));
        }
        self.waiting.retain(|_, files| !files.is_empty());
        Ok(())
    }

    fn read(&mut self, out: &mut SourceBatch<Image>) -> Result<SourceStatus, StageError> {
        self.read_at(self.clock.elapsed(), out)
    }
}

impl ImageFiles {
    /// Reads whole ticks at a time since the source was opened.
    fn read_at(&mut self, now: Duration, out: &mut SourceBatch<Image>) -> Result<SourceStatus, StageError> {
        let first = self.tick;
        // Before anything is taken: an error here loses nothing.
        if self.follow && self.waiting.is_empty() && self.watch.due(now) {
            let files = self.settled()?;
            self.enqueue(files);
        }
        let status = loop {
            if self.waiting.is_empty() {
                self.pacing.pause();
                break if self.follow { SourceStatus::Wait(RESCAN) } else { SourceStatus::End };
            }
            if let Some(wait) = self.pacing.until_begin(self.tick, now) {
                break SourceStatus::Wait(if self.follow { wait.min(RESCAN) } else { wait });
            }
            if out.len() + out.rejected().len() >= BATCH {
                break SourceStatus::More;
            }
            self.tick(out)?;
        };
        if self.tick != first {
            out.put_state(TICK, self.tick.to_string());
        }
        Ok(status)
    }

    /// Sends the next picture of every camera.
    fn tick(&mut self, out: &mut SourceBatch<Image>) -> Result<(), StageError> {
        self.turn.extend(self.waiting.keys().cloned());
        while let Some(camera) = self.turn.pop_front() {
            if let Some((path, file)) = self.waiting.get_mut(&camera).and_then(VecDeque::pop_front) {
                let refused = self.send(&camera, &path, &file, out)?;
                let value = refused.map_or(Ok(Vec::new()), |stamp| encoded(&stamp))?;
                out.put_state(format!("{FILE}{path}"), value);
                self.done.insert(path, refused);
            }
        }
        self.waiting.retain(|_, files| !files.is_empty());
        self.tick += 1;
        Ok(())
    }

    /// Sends a file, or refuses it; returns what was refused.
    fn send(
        &mut self,
        camera: &str,
        path: &str,
        file: &Path,
        out: &mut SourceBatch<Image>,
    ) -> Result<Option<Stamp>, StageError> {
        let stamp = Stamp::of(file);
        let progress = self.cameras.entry(camera.to_owned()).or_default();
        let number = self.config.numbered.then(|| number(path)).flatten();
        let frame = number.unwrap_or(progress.next);
        // What took the place of a refused picture was counted then.
        let again = self.done.contains_key(path);
        if number.is_none() || !again {
            // The first number begins the count; one that is lower than expected is taken as it comes.
            if frame > progress.next && progress.next > 0 {
                let gap = frame - progress.next;
                progress.missing = progress.missing.saturating_add(u32::try_from(gap).unwrap_or(u32::MAX));
            }
            progress.next = frame.saturating_add(1);
        }
        let shot = Shot {
            camera: camera.to_owned(),
            frame: Some(frame),
            name: Some(path.to_owned()),
            // What is here now was missing until now, unless a picture after it has told so.
            missing: progress.missing.saturating_sub(u32::from(again)),
        };
        let refused = match load(file, self.config.max_file_bytes.0, shot) {
            Ok(image) => {
                progress.missing = 0;
                let millis = self.tick.saturating_mul(self.config.every.0);
                let time = self.start.plus_millis(i64::try_from(millis).unwrap_or(i64::MAX));
                out.emit(Key::new(camera.to_owned()), time, image);
                None
            }
            Err((bytes, reason)) => {
                progress.missing = progress.missing.saturating_add(u32::from(!again));
                tracing::warn!(file = %files::shown(file), %reason, "refused a picture");
                out.reject(Key::new(path.to_owned()), bytes, format!("{}: {reason}", files::shown(path)));
                Some(stamp)
            }
        };
        out.put_state(format!("{CAMERA}{camera}"), encoded(progress)?);
        Ok(refused)
    }

    fn list(&self) -> Result<Listing, StageError> {
        self.place.list(&SUFFIXES).map_err(|error| {
            StageError::transient(format!("path: {:?} cannot be listed", self.config.path)).caused_by(error)
        })
    }

    /// Lists the new files that did not change since the scan before: one may still be being written.
    fn settled(&mut self) -> Result<BTreeMap<String, PathBuf>, StageError> {
        let mut files = self.list()?.files;
        files.retain(|path, file| !is_done(&self.done, path, file) && self.watch.settled(path, file));
        Ok(files)
    }

    fn enqueue(&mut self, files: BTreeMap<String, PathBuf>) {
        for (path, file) in files {
            let camera = match &self.config.camera {
                Some(camera) => camera.clone(),
                None => match path.rsplit_once('/') {
                    Some((folder, _)) => folder.to_owned(),
                    None => "camera".to_owned(),
                },
            };
            self.waiting.entry(camera).or_default().push_back((path, file));
        }
        if self.config.numbered {
            for files in self.waiting.values_mut() {
                // They stand in the order of their paths, which equal numbers keep.
                files.make_contiguous().sort_by_cached_key(|(path, _)| number(path).unwrap_or(u64::MAX));
            }
        }
    }
}

/// Whether a file was sent, or refused as it is now.
fn is_done(done: &HashMap<String, Option<Stamp>>, path: &str, file: &Path) -> bool {
    done.get(path).is_some_and(|refused| refused.is_none_or(|was| was == Stamp::of(file)))
}

fn encoded(value: &impl Serialize) -> Result<Vec<u8>, StageError> {
    serde_json::to_vec(value).map_err(|error| StageError::fatal("state has no encoding").caused_by(error))
}

/// Reads a picture and decodes it, so that a broken one never leaves the source. `Err` holds what goes to the dead letters, and why.
fn load(file: &Path, most: u64, shot: Shot) -> Result<Image, (Bytes, String)> {
    let unreadable = |error: std::io::Error| (Bytes::new(), format!("file: cannot be read: {error}"));
    let open = files::open_regular(file).map_err(unreadable)?;
    let length = open.metadata().map_err(unreadable)?.len();
    let mut bytes = Vec::new();
    open.take(if length > most { HEAD } else { most }).read_to_end(&mut bytes).map_err(unreadable)?;
    let bytes = Bytes::from(bytes);
    if length > most {
        let kept = bytes.len();
        let reason =
            format!("file: found {length} bytes, allowed at most {most} (max_file_bytes); kept are the first {kept}");
        return Err((bytes, reason));
    }
    let image = Image::try_new(shot, bytes.clone()).map_err(|error| (bytes.clone(), error.to_string()))?;
    match image.pixels() {
        Ok(_) => Ok(image),
        Err(error) => Err((bytes, error.to_string())),
    }
}

/// Returns the last number in a file's stem.
fn number(path: &str) -> Option<u64> {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let digits = stem.trim_end_matches(|c: char| !c.is_ascii_digit());
    digits.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests;
