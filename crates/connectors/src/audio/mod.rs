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
//! session_prefix = ""              # put before the names of sessions
//! # repeat = { sessions = 2000, seed = 1, gain_db = 3.0, pitch = 0.05, noise_dbfs = -60.0 }
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
//! A session is called after its file's stem, or its path below `path` where stems collide; its name is its key. Two sources know
//! nothing of each other: where a stage reads both and files of both may have one name, `session_prefix` must tell them apart.
//! To a stage that follows sessions, such as `vad`, two of one name are one.
//!
//! # Traffic
//!
//! With `repeat` the recordings are not sent once each but drawn at random, with replacement: so many sessions, or without
//! end. A session is called `<name>-000123`, and is a little louder or softer, higher or lower than the recording, in a
//! room with a little noise, as far as the keys say; 0 and no key change nothing. With sessions of two seconds, eight open at
//! once begin four sessions a second of event time: a window of `"15s"` holds about 60. More open at once
//! are more sessions a window.
//!
//! # Injection
//!
//! `pitch`, `gain_db`, `noise_dbfs`, `highpass_hz`, `lowpass_hz`, `mulaw_bits` and `drop` change the sound of every
//! session from a moment on, in the middle of a word if need be (see [`line`]).
//!
//! # Progress
//!
//! Kept as state: the next tick, and for each file its session and the tick at which it was opened,
//! or that it is finished. A resumed run opens the files that were open, decodes again up to the
//! next tick, and goes on. A finished file is never read again; its path is what identifies it. One that was refused
//! before any of it was sent is read again once it was replaced, which its size and the time it was written tell. Repeated
//! recordings have an entry a session, which is removed when it has ended, and the number of the next one.
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
//! that ends before its header says so ends with an empty piece that counts what is missing, and with a warning. Ogg
//! files that were put one after another are one recording; where rate, channels or codec change, or
//! what follows cannot be read on, it is refused there. Files with other suffixes and hidden ones are left
//! alone and counted in one warning; hidden folders are not entered.

mod config;
mod decode;
mod line;
mod pitch;
mod progress;
mod recording;
mod refused;
mod resample;
mod traffic;
mod wav;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use driftline_payloads::{AudioChunk, SAMPLE_RATE};
use driftline_stage::{
    ConfigProblem, Key, Parameter, Source, SourceBatch, SourceKind, SourceStatus, StageError, Timestamp,
    config::ByteSize,
};

pub use config::AudioFilesConfig;
pub use traffic::Repeat;

use crate::{
    files::{self, Place, RESCAN, Stamp, Watch},
    pacing::{Pacing, start_of},
};
use line::{Line, Settings};
use progress::{Entry, Opened, Progress};
use recording::{Piece, Recording, Tick};
use refused::Refused;
use traffic::{Traffic, Voice};

/// Records of one read: ticks are sent until there are as many.
const BATCH: usize = 256;
/// Bytes of refused files of one read, about.
const MAX_REFUSED: usize = 16 << 20;
/// The largest file that is kept whole as a dead letter, and how much is kept of a larger one.
const WHOLE: u64 = 16 << 20;
const HEAD: u64 = 64 << 10;

/// The source `audio-files`.
pub struct AudioFiles {
    config: AudioFilesConfig,
    start: Timestamp,
    place: Place,
    follow: bool,
    /// Files that are known, by their path below the place: their sessions.
    known: HashMap<String, String>,
    /// Of them, those that were refused before any of them was sent, as they were then.
    refused: HashMap<String, Stamp>,
    /// Files that were found to be cut off: each is told of once.
    cut_off: HashSet<String>,
    waiting: VecDeque<Waiting>,
    /// With `repeat`: what is drawn instead. Of `known` there are the refused files alone.
    traffic: Option<Traffic>,
    /// Sessions that were open when the run was interrupted, in the order in which they were opened.
    interrupted: Vec<Waiting>,
    open: Vec<Open>,
    gone: Vec<Gone>,
    /// The next tick, and how many files were opened.
    tick: u64,
    opened: u64,
    clock: Instant,
    pacing: Pacing,
    /// With `follow`: what is new.
    watch: Watch,
}

/// A file that is not open yet, or that was open when the run was interrupted.
struct Waiting {
    entry: Entry,
    session: String,
    file: PathBuf,
    before: Option<Progress>,
}

/// A file that is open.
struct Open {
    entry: Entry,
    progress: Progress,
    file: PathBuf,
    stamp: Stamp,
    line: Line,
    /// Whether any of it was sent.
    sent: bool,
}

/// A file that was open when the run was interrupted, and is no longer what it was.
struct Gone {
    entry: Entry,
    progress: Progress,
    opened: Opened,
    file: PathBuf,
    refused: Refused,
}

impl SourceKind for AudioFiles {
    const KIND: &'static str = "audio-files";
    const PATHS: &'static [&'static str] = &["path"];
    const PARAMETERS: &'static [&'static Parameter] = line::PARAMETERS;
    type Config = AudioFilesConfig;

    fn check(config: &AudioFilesConfig) -> Vec<ConfigProblem> {
        config.problems()
    }

    fn start(config: &AudioFilesConfig) -> Option<Timestamp> {
        Timestamp::parse(&config.start)
    }

    fn open(config: AudioFilesConfig, follow: bool) -> Result<Self, StageError> {
        let start = start_of(&config.start)?;
        let place = Place::of(&config.path)?;
        let pacing = Pacing::new(config.pace, Duration::from_millis(config.chunk_ms.into()));
        let mut source = Self {
            config,
            start,
            place,
            follow,
            known: HashMap::new(),
            refused: HashMap::new(),
            cut_off: HashSet::new(),
            waiting: VecDeque::new(),
            traffic: None,
            interrupted: Vec::new(),
            open: Vec::new(),
            gone: Vec::new(),
            tick: 0,
            opened: 0,
            clock: Instant::now(),
            pacing,
            watch: Watch::default(),
        };
        let others = source.scan(Scan::First)?;
        if let (count, Some(example)) = others {
            let (path, example) = (&source.config.path, files::shown(example));
            tracing::warn!(%path, count, %example, "left alone files that are hidden or have no suffix of a recording");
        }
        if source.waiting.is_empty() && !follow {
            let allowed = decode::SUFFIXES.join(", ");
            let path = &source.config.path;
            return Err(StageError::fatal(format!(
                "path: found no recording in {path:?}, allowed are files with the suffixes {allowed}"
            )));
        }
        if let Some(repeat) = source.config.repeat {
            let files = source.waiting.drain(..).map(|file| (file.entry.path, file.session, file.file));
            source.traffic = Some(Traffic::new(repeat, files.collect()));
        }
        Ok(source)
    }
}

impl Source for AudioFiles {
    type Output = AudioChunk;

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        let restored = progress::restore(entries)?;
        self.tick = restored.tick;
        let mut files: HashMap<String, PathBuf> =
            self.waiting.iter().map(|waiting| (waiting.entry.path.clone(), waiting.file.clone())).collect();
        if let Some(traffic) = &mut self.traffic {
            traffic.next = restored.drawn;
            files = traffic.files.iter().map(|(path, _, file)| (path.clone(), file.clone())).collect();
        }
        for (entry, progress) in restored.files {
            let replaced = |was: Stamp| files.get(&entry.path).is_some_and(|file| Stamp::of(file) != was);
            if entry.number.is_none() && !progress.refused.is_some_and(replaced) {
                self.known.insert(entry.path.clone(), progress.session.clone());
                self.refused.extend(progress.refused.map(|was| (entry.path.clone(), was)));
            }
            if let Some(opened) = progress.opened {
                self.opened = self.opened.max(opened.order + 1);
                let file = files.get(&entry.path).cloned().unwrap_or_else(|| PathBuf::from(&entry.path));
                let session = progress.session.clone();
                self.interrupted.push(Waiting { entry, session, file, before: Some(progress) });
            }
        }
        // What is known is not new.
        let known = &self.known;
        self.waiting.retain(|waiting| !known.contains_key(&waiting.entry.path));
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
            progress::put_tick(out, self.tick);
        }
        Ok(status)
    }

    fn ticks(&mut self, now: Duration, out: &mut SourceBatch<AudioChunk>) -> Result<SourceStatus, StageError> {
        // Before anything is taken: an error here loses nothing.
        if self.follow && self.traffic.is_none() && self.waiting.is_empty() && self.watch.due(now) {
            self.scan(Scan::Settled)?;
        }
        self.resume(out);
        self.give_up_gone(out)?;
        while out.len() < BATCH {
            while self.open.len() < self.config.sessions
                && let Some(waiting) = self.next_waiting(out)
            {
                self.open_next(waiting, out)?;
                if refused_bytes(out) >= MAX_REFUSED || out.rejected().len() >= BATCH {
                    return Ok(SourceStatus::More);
                }
            }
            if self.open.is_empty() {
                self.pacing.pause();
                return Ok(match (self.follow, out.is_empty()) {
                    (_, false) => SourceStatus::More,
                    (true, true) => SourceStatus::Wait(RESCAN),
                    (false, true) => SourceStatus::End,
                });
            }
            // A piece is there when it was spoken: at the end of its tick.
            if let Some(wait) = self.pacing.until_end(self.tick, now) {
                return Ok(SourceStatus::Wait(if self.follow { wait.min(RESCAN) } else { wait }));
            }
            self.send(out)?;
        }
        Ok(SourceStatus::More)
    }

    /// Sends the pieces of one tick.
    fn send(&mut self, out: &mut SourceBatch<AudioChunk>) -> Result<(), StageError> {
        let time = self.time();
        let settings = settings(out, time);
        let mut finished = Vec::new();
        for (index, open) in self.open.iter_mut().enumerate() {
            let piece = match open.line.next(&settings) {
                Ok(Tick::Lost) => continue,
                Ok(Tick::Piece(piece)) => piece,
                Err(refused) => {
                    self.known.insert(open.entry.path.clone(), open.progress.session.clone());
                    reject(&open.file, &open.entry.path, &refused, out);
                    finished.push(index);
                    if !open.sent {
                        self.refused.insert(open.entry.path.clone(), open.stamp);
                        open.progress.refused = Some(open.stamp);
                        continue;
                    }
                    open.line.recording().end()
                }
            };
            if piece.last && finished.last() != Some(&index) {
                finished.push(index);
                if let Some((frames, claimed)) = open.line.recording().cut_short()
                    && self.cut_off.insert(open.entry.path.clone())
                {
                    let file = files::shown(&open.file);
                    tracing::warn!(%file, frames, claimed, "a recording ends before its header says so");
                }
            }
            open.sent = true;
            let session = &open.progress.session;
            out.emit(Key::new(session.clone()), time, chunk(session, open.line.recording(), piece));
        }
        for &index in finished.iter().rev() {
            let Open { entry, progress, .. } = self.open.remove(index);
            self.finish(&entry, progress, out)?;
        }
        self.tick += 1;
        Ok(())
    }

    /// Notes that a session has ended. Of a repeated recording nothing is kept, unless it was refused.
    fn finish(&self, entry: &Entry, progress: Progress, out: &mut SourceBatch<AudioChunk>) -> Result<(), StageError> {
        let finished = Progress { opened: None, ..progress };
        if entry.number.is_none() {
            return progress::put(out, entry, &finished);
        }
        progress::forget(out, entry);
        let file = Entry { number: None, path: entry.path.clone() };
        if self.known.contains_key(&file.path) { progress::put(out, &file, &finished) } else { Ok(()) }
    }

    /// Returns the next file: of those that wait, or drawn at random.
    fn next_waiting(&mut self, out: &mut SourceBatch<AudioChunk>) -> Option<Waiting> {
        let Some(traffic) = &mut self.traffic else { return self.waiting.pop_front() };
        let drawn = traffic.draw(|path| !self.known.contains_key(path))?;
        progress::put_drawn(out, traffic.next);
        let (path, name, file) = &traffic.files[drawn.file];
        Some(Waiting {
            entry: Entry { number: Some(drawn.number), path: path.clone() },
            session: traffic::session(name, drawn.number),
            file: file.clone(),
            before: None,
        })
    }

    /// Opens a file, or refuses it.
    fn open_next(&mut self, waiting: Waiting, out: &mut SourceBatch<AudioChunk>) -> Result<(), StageError> {
        let Waiting { entry, session, file, .. } = waiting;
        if entry.number.is_none() {
            self.known.insert(entry.path.clone(), session.clone());
        }
        let stamp = Stamp::of(&file);
        let bytes = stamp.bytes;
        match self.open_recording(&file, bytes) {
            Ok(recording) => {
                let (rate, channels) = (recording.rate(), recording.channels());
                let opened = Opened { tick: self.tick, order: self.opened, rate, channels };
                self.opened += 1;
                let line = Line::new(recording, self.voice(&entry, &session));
                let progress = Progress { session, bytes, opened: Some(opened), refused: None };
                progress::put(out, &entry, &progress)?;
                self.open.push(Open { entry, progress, file, stamp, line, sent: false });
            }
            Err(refused) => {
                self.known.insert(entry.path.clone(), session.clone());
                self.refused.insert(entry.path.clone(), stamp);
                reject(&file, &entry.path, &refused, out);
                self.finish(&entry, Progress { session, bytes, opened: None, refused: Some(stamp) }, out)?;
            }
        }
        Ok(())
    }

    fn voice(&self, entry: &Entry, session: &str) -> Voice {
        match (&self.traffic, entry.number) {
            (Some(traffic), Some(number)) => traffic.voice(number),
            _ => Voice::of_recording(session),
        }
    }

    fn open_recording(&self, file: &Path, bytes: u64) -> Result<Recording, Refused> {
        let ByteSize(most) = self.config.max_file_bytes;
        if bytes > most {
            return Err(Refused::new("file", format!("{bytes} bytes"), format!("at most {most} (max_file_bytes)")));
        }
        Recording::open(file, self.length(), self.config.max_seconds)
    }

    /// Opens the files that were open when the run was interrupted.
    fn resume(&mut self, out: &SourceBatch<AudioChunk>) {
        for Waiting { entry, session, file, before } in std::mem::take(&mut self.interrupted) {
            let Some((progress, opened)) = before.and_then(|before| Some((before.clone(), before.opened?))) else {
                continue;
            };
            let voice = self.voice(&entry, &session);
            let stamp = Stamp::of(&file);
            match self.reopen(&file, progress.bytes, opened, voice, out) {
                Ok((line, sent)) => self.open.push(Open { entry, progress, file, stamp, line, sent }),
                Err(refused) => self.gone.push(Gone { entry, progress, opened, file, refused }),
            }
        }
    }

    /// Opens a file that was open when the run was interrupted, and goes to the next tick. Returns
    /// whether any of it was sent before.
    fn reopen(
        &self,
        file: &Path,
        before: u64,
        opened: Opened,
        voice: Voice,
        out: &SourceBatch<AudioChunk>,
    ) -> Result<(Line, bool), Refused> {
        let bytes = fs::metadata(file).map_or(0, |metadata| metadata.len());
        if bytes != before {
            let allowed = format!("the {before} bytes it had when the run was interrupted");
            return Err(Refused::new("file", format!("{bytes} bytes"), allowed));
        }
        let mut line = Line::new(self.open_recording(file, bytes)?, voice);
        let mut sent = false;
        for tick in opened.tick..self.tick {
            sent |= matches!(line.next(&settings(out, self.time_of(tick)))?, Tick::Piece(_));
        }
        Ok((line, sent))
    }

    /// Ends the sessions of files that are no longer what they were.
    fn give_up_gone(&mut self, out: &mut SourceBatch<AudioChunk>) -> Result<(), StageError> {
        for Gone { entry, mut progress, opened, file, refused } in std::mem::take(&mut self.gone) {
            reject(&file, &entry.path, &refused, out);
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
            } else {
                let stamp = Stamp::of(&file);
                self.refused.insert(entry.path.clone(), stamp);
                progress.refused = Some(stamp);
            }
            self.finish(&entry, progress, out)?;
        }
        Ok(())
    }

    /// Returns the samples of a piece at 16 kHz.
    fn length(&self) -> usize {
        self.config.chunk_ms as usize * (SAMPLE_RATE as usize / 1_000)
    }

    /// Returns the event time of the next tick.
    fn time(&self) -> Timestamp {
        self.time_of(self.tick)
    }

    fn time_of(&self, tick: u64) -> Timestamp {
        let millis = tick.saturating_mul(u64::from(self.config.chunk_ms));
        self.start.plus_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }

    /// Looks for files and returns how many are no recordings, and one of them.
    fn scan(&mut self, scan: Scan) -> Result<(usize, Option<PathBuf>), StageError> {
        let listing = self.place.list(&decode::SUFFIXES).map_err(|error| {
            StageError::transient(format!("path: {:?} cannot be listed", self.config.path)).caused_by(error)
        })?;
        // What took the place of a refused file is new.
        for (path, file) in &listing.files {
            if self.refused.get(path).is_some_and(|was| *was != Stamp::of(file)) {
                self.refused.remove(path);
                self.known.remove(path);
            }
        }
        let mut sessions = files::sessions(&listing.files, &self.known, &self.config.session_prefix);
        for (path, file) in listing.files {
            let Some(session) = sessions.remove(&path) else { continue };
            if scan == Scan::Settled && !self.watch.settled(&path, &file) {
                continue;
            }
            let entry = Entry { number: None, path };
            self.waiting.push_back(Waiting { entry, session, file, before: None });
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

/// Reads what is injected at a time.
fn settings(out: &SourceBatch<AudioChunk>, time: Timestamp) -> Settings {
    Settings::read(|parameter| out.parameter(parameter, time))
}

/// Sends a file to the dead letters, whole unless it is very large.
fn reject(file: &Path, path: &str, refused: &Refused, out: &mut SourceBatch<AudioChunk>) {
    let (bytes, note) = match files::open_regular(file).and_then(|file| Ok((file.metadata()?.len(), file))) {
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
    tracing::warn!(file = %files::shown(file), reason = %refused, "refused a recording");
    out.reject(Key::new(path.to_owned()), bytes, format!("{}: {refused}{note}", files::shown(path)));
}

fn refused_bytes(out: &SourceBatch<AudioChunk>) -> usize {
    out.rejected().iter().map(|rejected| rejected.value.len()).sum()
}

#[cfg(test)]
mod tests;
