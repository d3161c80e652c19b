//! Traffic without end from a folder of recordings: drawn at random, with replacement.
//!
//! What is drawn for a session is a function of the seed and the session's number alone. So a run
//! that is repeated or resumed gives the same sessions, and the only progress is the next number.

use std::path::PathBuf;

use driftline_stage::Checks;
use serde::Deserialize;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// How recordings are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Repeat {
    /// Sessions to send; `None` is without end.
    pub sessions: Option<u64>,
    /// Decides what is drawn.
    pub seed: u64,
    /// Levels differ by up to this much, up or down, dB, 0 to 24.
    pub gain_db: f64,
    /// Voices differ in pitch by up to this share, up or down, 0 to 0.2.
    pub pitch: f64,
    /// Level of the noise of a session's room, dBFS, -120 to -20; it differs by up to 6 dB. `None` adds none.
    pub noise_dbfs: Option<f64>,
}

impl Default for Repeat {
    fn default() -> Self {
        Self { sessions: None, seed: 0, gain_db: 0.0, pitch: 0.0, noise_dbfs: None }
    }
}

/// How far the noise of rooms differs, dB up and down.
const ROOMS_DB: f64 = 6.0;

impl Repeat {
    pub(crate) fn check(&self, checks: &mut Checks) {
        let &Self { gain_db, pitch, noise_dbfs, .. } = self;
        checks.expect((0.0..=24.0).contains(&gain_db), "repeat.gain_db", gain_db, "0 to 24");
        checks.expect((0.0..=0.2).contains(&pitch), "repeat.pitch", pitch, "0 to 0.2");
        if let Some(noise) = noise_dbfs {
            checks.expect((-120.0..=-20.0).contains(&noise), "repeat.noise_dbfs", noise, "-120 to -20");
        }
    }
}

/// How the sound of one session differs from its recording.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Voice {
    /// Decides its noise.
    pub seed: u64,
    /// Factor on all frequencies of the voice.
    pub pitch: f64,
    /// dB.
    pub gain_db: f64,
    /// dBFS; `None` adds none.
    pub noise_dbfs: Option<f64>,
}

impl Voice {
    /// Returns the voice that is the recording's own.
    pub(crate) fn of_recording(session: &str) -> Self {
        Self { seed: xxh3_64(session.as_bytes()), pitch: 1.0, gain_db: 0.0, noise_dbfs: None }
    }
}

/// A recording to be sent under a name of its own.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Drawn {
    pub number: u64,
    /// Place in the list of recordings.
    pub file: usize,
}

/// Draws sessions.
#[derive(Debug)]
pub(crate) struct Traffic {
    repeat: Repeat,
    /// The recordings: path below the place, session name, file; in the order of the paths.
    pub files: Vec<(String, String, PathBuf)>,
    /// The number of the next session.
    pub next: u64,
}

/// Draws that find a refused recording before the traffic gives up: more than there are files.
const TRIES: u64 = 64;

impl Traffic {
    pub(crate) fn new(repeat: Repeat, files: Vec<(String, String, PathBuf)>) -> Self {
        Self { repeat, files, next: 0 }
    }

    /// Draws the next session from the recordings that `usable` holds for, by path. `None` when there are
    /// no more, or none can be used.
    pub(crate) fn draw(&mut self, usable: impl Fn(&str) -> bool) -> Option<Drawn> {
        let number = self.next;
        if self.files.is_empty() || self.repeat.sessions.is_some_and(|sessions| number >= sessions) {
            return None;
        }
        let files = self.files.len() as u64;
        let first = (0..TRIES).map(|attempt| (self.random(number, attempt) % files) as usize);
        // After so many refused ones in a row, most are: what is left is found by looking.
        let file = first.chain(0..self.files.len()).find(|&file| usable(&self.files[file].0))?;
        self.next += 1;
        Some(Drawn { number, file })
    }

    /// Returns what is particular to a session.
    pub(crate) fn voice(&self, number: u64) -> Voice {
        let Repeat { gain_db, pitch, noise_dbfs, .. } = self.repeat;
        let between = |what: u64| 2.0 * unit(self.random(number, TRIES + what)) - 1.0;
        Voice {
            seed: self.random(number, TRIES + 3),
            pitch: 1.0 + pitch * between(0),
            gain_db: gain_db * between(1),
            noise_dbfs: noise_dbfs.map(|level| level + ROOMS_DB * between(2)),
        }
    }

    fn random(&self, number: u64, draw: u64) -> u64 {
        xxh3_64_with_seed(&[number.to_le_bytes(), draw.to_le_bytes()].concat(), self.repeat.seed)
    }
}

/// Brings a hash to [0, 1).
pub(crate) fn unit(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

/// Returns the session name of a repeated recording.
pub(crate) fn session(name: &str, number: u64) -> String {
    format!("{name}-{number:06}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(repeat: Repeat, files: usize) -> Traffic {
        let file = |n: usize| (format!("{n}.wav"), n.to_string(), PathBuf::new());
        Traffic::new(repeat, (0..files).map(file).collect())
    }

    #[test]
    fn every_recording_is_drawn_about_as_often() {
        let mut traffic = traffic(Repeat { sessions: Some(12_000), ..Repeat::default() }, 12);
        let mut counts = [0i32; 12];
        while let Some(drawn) = traffic.draw(|_| true) {
            counts[drawn.file] += 1;
        }
        // Binomial: a standard deviation is 30.
        assert!(counts.iter().all(|count| (count - 1_000).abs() < 150), "{counts:?}");
        assert_eq!(counts.iter().sum::<i32>(), 12_000);
    }

    #[test]
    fn a_seed_and_a_number_decide_all_of_a_session() {
        let repeat = Repeat { seed: 7, gain_db: 3.0, pitch: 0.1, noise_dbfs: Some(-60.0), ..Repeat::default() };
        let (mut one, mut two) = (traffic(repeat, 5), traffic(repeat, 5));
        two.next = 40;
        let first: Vec<_> = (0..50).map(|_| one.draw(|_| true).unwrap()).collect();
        let second: Vec<_> = (0..10).map(|_| two.draw(|_| true).unwrap()).collect();
        assert_eq!(first[40..], second);
        let other = traffic(Repeat { seed: 8, ..repeat }, 5);
        assert!((0..50).any(|number| one.voice(number) != other.voice(number)));
        for number in 0..200 {
            let voice = one.voice(number);
            assert_eq!(voice, two.voice(number));
            assert!((0.9..=1.1).contains(&voice.pitch) && voice.gain_db.abs() <= 3.0, "{voice:?}");
            assert!(voice.noise_dbfs.is_some_and(|level| (-66.0..=-54.0).contains(&level)), "{voice:?}");
        }
    }

    #[test]
    fn a_refused_recording_is_not_drawn_again() {
        let mut traffic = traffic(Repeat::default(), 3);
        assert!((0..100).all(|_| traffic.draw(|path| path == "2.wav").unwrap().file == 2));
        assert_eq!(traffic.draw(|_| false), None);
        assert_eq!(traffic.next, 100);
    }
}
