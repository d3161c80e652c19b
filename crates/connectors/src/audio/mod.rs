//! The source `audio-files`: recordings, sent in pieces as microphones would send them.
//!
//! ```toml
//! [sources.microphone]
//! kind = "audio-files"
//! path = "samples/voice-search"    # a folder with all below it, a file, or a glob
//! chunk_ms = 64                    # length of a piece, 10 to 10000
//! pace = "fast"                    # or "realtime"
//! sessions = 8                     # recordings open at once, 1 to 256
//! start = "2000-01-01T00:00:00Z"   # event time of the first piece
//! max_seconds = 3600               # longest recording
//! max_file_bytes = "2 GiB"         # largest file
//! ```
//!
//! # Order and time
//!
//! Time goes in ticks of `chunk_ms`. In each, every open recording sends one piece, in the order in
//! which they were opened; where one has ended, the next file in the order of paths is opened with
//! the next tick. The event time of a piece is `start + tick · chunk_ms`: a session starts in event
//! time when the source opens it, as a call does that waits for a free line. Event time thus
//! depends on the files and the config alone and not on clocks or the times of files, which a copy
//! changes; windows fill as they would live; and a run that is repeated, or interrupted and resumed,
//! gives the same records. With `pace = "realtime"` a tick's pieces are sent when it has passed.
//!
//! A session is called after its file's stem, or its path below `path` where stems collide.
//!
//! # Progress
//!
//! Kept as state: the next tick, and for each file its session and the tick at which it was opened,
//! or that it is finished. A resumed run opens the files that were open, decodes again up to the
//! next tick, and goes on. A finished file is never read again; its path is what identifies it.
//!
//! # What cannot be used
//!
//! A file that is no recording, or not one of the rates, channels and lengths allowed, goes to the
//! dead letters byte for byte, with the place, what was found and what is allowed; of one larger
//! than 16 MiB the first 64 KiB. If it shows only after pieces were sent (a sample that is not
//! finite, say), an empty last piece ends the session.
//!
//! What is merely cut off or damaged in places is used as far as it goes. A gap is silence; a piece
//! that is lost as a whole is not sent, and the next one counts it as `missing`; a WAV or FLAC file
//! that ends before its header says so ends with an empty piece that counts what is missing. Files
//! with other suffixes are left alone and counted in one warning.

mod decode;
pub(crate) mod files;
mod recording;
mod refused;
mod resample;
mod wav;

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use driftline_payloads::{AudioChunk, SAMPLE_RATE};
use driftline_stage::{
    ConfigProblem, Key, Source, SourceBatch, SourceKind, SourceStatus, StageError, Timestamp, config::ByteSize,
};
use serde::{Deserialize, Serialize};

use files::Place;
use recording::{Piece, Recording, Tick};
use refused::Refused;

/// Records of one read: ticks are sent until there are as many.
const BATCH: usize = 256;
/// Bytes of refused files of one read, about.
const MAX_REFUSED: usize = 16 << 20;
/// The largest file that is kept whole as a dead letter, and how much is kept of a larger one.
const WHOLE: u64 = 16 << 20;
const HEAD: u64 = 64 << 10;
/// How often new files are looked for.
const RESCAN: Duration = Duration::from_secs(1);

/// State entry of the next tick; those of files begin with [`FILE`].
const TICK: &[u8] = b"tick";
const FILE: &str = "file/";

/// The config table of the source `audio-files`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioFilesConfig {
    /// A folder (with all folders in it), a file, or a glob.
    pub path: String,
    /// Milliseconds of a piece, 10 to 10,000.
    #[serde(default = "default_chunk_ms")]
    pub chunk_ms: u32,
    /// Whether time passes as it does.
    #[serde(default)]
    pub pace: Pace,
    /// Recordings open at once, 1 to 256.
    #[serde(default = "default_sessions")]
    pub sessions: usize,
    /// Event time of the first piece, RFC 3339.
    #[serde(default = "default_start")]
    pub start: String,
    /// Longest recording, seconds.
    #[serde(default = "default_max_seconds")]
    pub max_seconds: u64,
    /// Largest file.
    #[serde(default = "default_max_file_bytes")]
    pub max_file_bytes: ByteSize,
}

/// How fast recordings are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// As fast as they are taken.
    #[default]
    Fast,
    /// Each piece when the time it lasts has passed.
    Realtime,
}

fn default_chunk_ms() -> u32 {
    64
}
fn default_sessions() -> usize {
    8
}
fn default_start() -> String {
    "2000-01-01T00:00:00Z".to_owned()
}
fn default_max_seconds() -> u64 {
    3_600
}
fn default_max_file_bytes() -> ByteSize {
    ByteSize(2 << 30)
}

/// The source `audio-files`.
pub struct AudioFiles {
    config: AudioFilesConfig,
    start: Timestamp,
    place: Place,
    follow: bool,
    /// Files that are known, by their path below the place: their sessions.
    known: HashMap<String, String>,
    waiting: VecDeque<Waiting>,
    open: Vec<Open>,
    gone: Vec<Gone>,
    /// The next tick, and how many files were opened.
    tick: u64,
    opened: u64,
    clock: Instant,
    /// In real time: the time and the tick that are the same moment.
    anchor: Option<(Duration, u64)>,
    scanned: Duration,
    /// With `follow`: new files as they were last seen. One that no longer changes is taken.
    settling: HashMap<String, (u64, Option<SystemTime>)>,
}

/// A file that is not open yet.
struct Waiting {
    path: String,
    session: String,
    file: PathBuf,
}

/// A file that is open.
struct Open {
    path: String,
    progress: Progress,
    file: PathBuf,
    recording: Recording,
    /// Whether any of it was sent.
    sent: bool,
}

/// State entry of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Progress {
    session: String,
    /// Size of the file when it was opened.
    bytes: u64,
    /// When it was opened; `None` once it is finished.
    opened: Option<Opened>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Opened {
    /// The tick of its first piece.
    tick: u64,
    /// How many files were opened before it.
    order: u64,
    /// Samples a second and channels of the file.
    rate: u32,
    channels: u16,
}

/// A file that was open when the run was interrupted, and is no longer what it was.
struct Gone {
    path: String,
    progress: Progress,
    opened: Opened,
    file: PathBuf,
    refused: Refused,
}

impl SourceKind for AudioFiles {
    const KIND: &'static str = "audio-files";
    const PATHS: &'static [&'static str] = &["path"];
    type Config = AudioFilesConfig;

    fn check(config: &AudioFilesConfig) -> Vec<ConfigProblem> {
        let mut problems = Vec::new();
        let mut expect = |holds: bool, key: &str, found: String, allowed: &str| {
            if !holds {
                let message = format!("allowed is {allowed}");
                problems.push(ConfigProblem { path: vec![key.to_owned()], found: Some(found), message });
            }
        };
        let AudioFilesConfig { path, chunk_ms, sessions, start, max_seconds, .. } = config;
        expect(!path.is_empty(), "path", format!("{path:?}"), "a folder, a file or a glob");
        expect((10..=10_000).contains(chunk_ms), "chunk_ms", chunk_ms.to_string(), "a whole number from 10 to 10000");
        expect((1..=256).contains(sessions), "sessions", sessions.to_string(), "a whole number from 1 to 256");
        expect(
            Timestamp::parse(start).is_some(),
            "start",
            format!("{start:?}"),
            "a time such as \"2000-01-01T00:00:00Z\"",
        );
        expect(
            (1..=86_400).contains(max_seconds),
            "max_seconds",
            max_seconds.to_string(),
            "a whole number from 1 to 86400",
        );
        problems
    }

    fn open(config: AudioFilesConfig, follow: bool) -> Result<Self, StageError> {
        let start = Timestamp::parse(&config.start).ok_or_else(|| {
            StageError::fatal(format!("start: found {:?}, allowed is a time in RFC 3339", config.start))
        })?;
        let place = Place::of(&config.path).map_err(|error| {
            let message = format!("path: found {:?}, allowed is a folder, a file or a glob", config.path);
            StageError::fatal(message).caused_by(error)
        })?;
        let mut source = Self {
            config,
            start,
            place,
            follow,
            known: HashMap::new(),
            waiting: VecDeque::new(),
            open: Vec::new(),
            gone: Vec::new(),
            tick: 0,
            opened: 0,
            clock: Instant::now(),
            anchor: None,
            scanned: Duration::ZERO,
            settling: HashMap::new(),
        };
        let others = source.scan(Scan::First)?;
        if let (count, Some(example)) = others {
            let example = example.display();
            tracing::warn!(path = %source.config.path, count, %example, "left alone files that have no suffix of a recording");
        }
        if source.waiting.is_empty() && !follow {
            let allowed = decode::SUFFIXES.join(", ");
            let path = &source.config.path;
            return Err(StageError::fatal(format!(
                "path: found no recording in {path:?}, allowed are files with the suffixes {allowed}"
            )));
        }
        Ok(source)
    }
}

impl Source for AudioFiles {
    type Output = AudioChunk;

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        let damaged =
            |key: &[u8]| StageError::fatal(format!("state entry {:?} is damaged", String::from_utf8_lossy(key)));
        let mut resumed = Vec::new();
        for (key, value) in entries {
            if key == TICK {
                self.tick = serde_json::from_slice(&value).map_err(|_| damaged(&key))?;
                continue;
            }
            let path = std::str::from_utf8(&key).ok().and_then(|key| key.strip_prefix(FILE));
            let path = path.ok_or_else(|| damaged(&key))?.to_owned();
            let progress: Progress = serde_json::from_slice(&value).map_err(|_| damaged(&key))?;
            self.known.insert(path.clone(), progress.session.clone());
            if let Some(opened) = progress.opened {
                resumed.push((opened, path, progress));
            }
        }
        // Files of the first scan were named as in the interrupted run; what is known is not new.
        let mut files: HashMap<String, Waiting> =
            self.waiting.drain(..).map(|file| (file.path.clone(), file)).collect();
        resumed.sort_by_key(|(opened, ..)| *opened);
        for (opened, path, progress) in resumed {
            self.opened = self.opened.max(opened.order + 1);
            let file = files.remove(&path).map_or_else(|| PathBuf::from(&path), |waiting| waiting.file);
            match self.reopen(&file, progress.bytes, opened) {
                Ok((recording, sent)) => self.open.push(Open { path, progress, file, recording, sent }),
                Err(refused) => self.gone.push(Gone { path, progress, opened, file, refused }),
            }
        }
        let mut waiting: Vec<_> = files.into_values().filter(|file| !self.known.contains_key(&file.path)).collect();
        waiting.sort_by(|a, b| a.path.cmp(&b.path));
        self.waiting = waiting.into();
        Ok(())
    }

    fn read(&mut self, out: &mut SourceBatch<AudioChunk>) -> Result<SourceStatus, StageError> {
        self.read_at(self.clock.elapsed(), out)
    }
}

/// Which files a scan takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scan {
    /// All that are there.
    First,
    /// Those that did not change since the scan before: one may still be being written.
    Settled,
}

impl AudioFiles {
    /// Reads at a time since the source was opened.
    fn read_at(&mut self, now: Duration, out: &mut SourceBatch<AudioChunk>) -> Result<SourceStatus, StageError> {
        let first = self.tick;
        let status = self.ticks(now, out)?;
        if self.tick != first {
            out.put_state(TICK, self.tick.to_string());
        }
        Ok(status)
    }

    fn ticks(&mut self, now: Duration, out: &mut SourceBatch<AudioChunk>) -> Result<SourceStatus, StageError> {
        self.give_up_gone(out)?;
        while out.len() < BATCH {
            if self.follow && self.waiting.is_empty() && now >= self.scanned + RESCAN {
                self.scanned = now;
                self.scan(Scan::Settled)?;
            }
            while self.open.len() < self.config.sessions
                && let Some(waiting) = self.waiting.pop_front()
            {
                self.open_next(waiting, out)?;
                if refused_bytes(out) >= MAX_REFUSED || out.rejected().len() >= BATCH {
                    return Ok(SourceStatus::More);
                }
            }
            if self.open.is_empty() {
                self.anchor = None;
                return Ok(match (self.follow, out.is_empty()) {
                    (_, false) => SourceStatus::More,
                    (true, true) => SourceStatus::Wait(RESCAN),
                    (false, true) => SourceStatus::End,
                });
            }
            if let Some(wait) = self.wait(now) {
                return Ok(SourceStatus::Wait(if self.follow { wait.min(RESCAN) } else { wait }));
            }
            self.send(out)?;
        }
        Ok(SourceStatus::More)
    }

    /// Returns how long the pieces of the next tick are still away.
    fn wait(&mut self, now: Duration) -> Option<Duration> {
        if self.config.pace == Pace::Fast {
            return None;
        }
        let (time, tick) = *self.anchor.get_or_insert((now, self.tick));
        // A piece is there when it was spoken: at the end of its tick.
        let due = time + Duration::from_millis(u64::from(self.config.chunk_ms)) * ((self.tick - tick) as u32 + 1);
        due.checked_sub(now).filter(|wait| !wait.is_zero())
    }

    /// Sends the pieces of one tick.
    fn send(&mut self, out: &mut SourceBatch<AudioChunk>) -> Result<(), StageError> {
        let time = self.time();
        let mut finished = Vec::new();
        for (index, open) in self.open.iter_mut().enumerate() {
            let piece = match open.recording.next() {
                Ok(Tick::Lost) => continue,
                Ok(Tick::Piece(piece)) => piece,
                Err(refused) => {
                    reject(&open.file, &open.path, &refused, out);
                    finished.push(index);
                    if !open.sent {
                        continue;
                    }
                    open.recording.end()
                }
            };
            if piece.last && finished.last() != Some(&index) {
                finished.push(index);
            }
            open.sent = true;
            let session = &open.progress.session;
            out.emit(Key::new(session.clone()), time, chunk(session, &open.recording, piece));
        }
        for &index in finished.iter().rev() {
            let Open { path, progress, .. } = self.open.remove(index);
            put(out, &path, &Progress { opened: None, ..progress })?;
        }
        self.tick += 1;
        Ok(())
    }

    /// Opens a file, or refuses it.
    fn open_next(&mut self, waiting: Waiting, out: &mut SourceBatch<AudioChunk>) -> Result<(), StageError> {
        let Waiting { path, session, file } = waiting;
        self.known.insert(path.clone(), session.clone());
        let bytes = fs::metadata(&file).map_or(0, |metadata| metadata.len());
        match self.open_recording(&file, bytes) {
            Ok(recording) => {
                let (rate, channels) = (recording.rate(), recording.channels());
                let opened = Opened { tick: self.tick, order: self.opened, rate, channels };
                self.opened += 1;
                let progress = Progress { session, bytes, opened: Some(opened) };
                put(out, &path, &progress)?;
                self.open.push(Open { path, progress, file, recording, sent: false });
            }
            Err(refused) => {
                reject(&file, &path, &refused, out);
                put(out, &path, &Progress { session, bytes, opened: None })?;
            }
        }
        Ok(())
    }

    fn open_recording(&self, file: &Path, bytes: u64) -> Result<Recording, Refused> {
        let ByteSize(most) = self.config.max_file_bytes;
        if bytes > most {
            return Err(Refused::new("file", format!("{bytes} bytes"), format!("at most {most} (max_file_bytes)")));
        }
        Recording::open(file, self.length(), self.config.max_seconds)
    }

    /// Opens a file that was open when the run was interrupted, and goes to the next tick. Returns
    /// whether any of it was sent before.
    fn reopen(&self, file: &Path, before: u64, opened: Opened) -> Result<(Recording, bool), Refused> {
        let bytes = fs::metadata(file).map_or(0, |metadata| metadata.len());
        if bytes != before {
            let allowed = format!("the {before} bytes it had when the run was interrupted");
            return Err(Refused::new("file", format!("{bytes} bytes"), allowed));
        }
        let mut recording = self.open_recording(file, bytes)?;
        let mut sent = false;
        for _ in opened.tick..self.tick {
            sent |= matches!(recording.next()?, Tick::Piece(_));
        }
        Ok((recording, sent))
    }

    /// Ends the sessions of files that are no longer what they were.
    fn give_up_gone(&mut self, out: &mut SourceBatch<AudioChunk>) -> Result<(), StageError> {
        for Gone { path, progress, opened, file, refused } in std::mem::take(&mut self.gone) {
            reject(&file, &path, &refused, out);
            let ticks = self.tick.saturating_sub(opened.tick);
            if ticks > 0 {
                let end = AudioChunk {
                    session: progress.session.clone(),
                    chunk: u32::try_from(ticks).unwrap_or(u32::MAX),
                    start: ticks * self.length() as u64,
                    source_rate: opened.rate,
                    source_channels: opened.channels,
                    clipped: 0.0,
                    missing: 0,
                    last: true,
                    samples: Vec::new(),
                };
                out.emit(Key::new(end.session.clone()), self.time(), end);
            }
            put(out, &path, &Progress { opened: None, ..progress })?;
        }
        Ok(())
    }

    /// Returns the samples of a piece at 16 kHz.
    fn length(&self) -> usize {
        self.config.chunk_ms as usize * (SAMPLE_RATE as usize / 1_000)
    }

    /// Returns the event time of the next tick.
    fn time(&self) -> Timestamp {
        let millis = self.tick.saturating_mul(u64::from(self.config.chunk_ms));
        self.start.plus_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    /// Looks for files and returns how many are no recordings, and one of them.
    fn scan(&mut self, scan: Scan) -> Result<(usize, Option<PathBuf>), StageError> {
        let listing = self.place.list(&decode::SUFFIXES).map_err(|error| {
            StageError::transient(format!("path: {:?} cannot be listed", self.config.path)).caused_by(error)
        })?;
        let mut sessions = files::sessions(&listing.files, &self.known);
        for (path, file) in listing.files {
            let Some(session) = sessions.remove(&path) else { continue };
            if scan == Scan::Settled {
                let Ok(metadata) = fs::metadata(&file) else { continue };
                let seen = (metadata.len(), metadata.modified().ok());
                if self.settling.insert(path.clone(), seen) != Some(seen) {
                    continue;
                }
                self.settling.remove(&path);
            }
            self.waiting.push_back(Waiting { path, session, file });
        }
        Ok((listing.others, listing.other))
    }
}

fn chunk(session: &str, recording: &Recording, piece: Piece) -> AudioChunk {
    AudioChunk {
        session: session.to_owned(),
        chunk: piece.number,
        start: piece.start,
        source_rate: recording.rate(),
        source_channels: recording.channels(),
        clipped: piece.clipped,
        missing: piece.missing,
        last: piece.last,
        samples: piece.samples,
    }
}

fn put(out: &mut SourceBatch<AudioChunk>, path: &str, progress: &Progress) -> Result<(), StageError> {
    let value =
        serde_json::to_vec(progress).map_err(|error| StageError::fatal("state has no encoding").caused_by(error))?;
    out.put_state(format!("{FILE}{path}"), value);
    Ok(())
}

/// Sends a file to the dead letters, whole unless it is very large.
fn reject(file: &Path, path: &str, refused: &Refused, out: &mut SourceBatch<AudioChunk>) {
    let (bytes, note) = match File::open(file).and_then(|file| Ok((file.metadata()?.len(), file))) {
        Ok((length, file)) => {
            let keep = if length > WHOLE { HEAD } else { length };
            let mut bytes = Vec::new();
            let note = match file.take(keep).read_to_end(&mut bytes) {
                Ok(_) if keep < length => format!("; kept are the first {keep} of {length} bytes"),
                Ok(_) => String::new(),
                Err(error) => format!("; kept are {} of {length} bytes: {error}", bytes.len()),
            };
            (bytes, note)
        }
        Err(_) => (Vec::new(), String::new()),
    };
    tracing::warn!(file = %file.display(), reason = %refused, "refused a recording");
    out.reject(Key::new(path.to_owned()), bytes, format!("{path}: {refused}{note}"));
}

fn refused_bytes(out: &SourceBatch<AudioChunk>) -> usize {
    out.rejected().iter().map(|rejected| rejected.value.len()).sum()
}

#[cfg(test)]
mod tests;
