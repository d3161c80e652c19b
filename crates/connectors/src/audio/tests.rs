//! The source over real files: what it decodes against a reference, what it does with files that
//! are broken, and that an interruption changes nothing.

use std::{collections::BTreeMap, f64::consts::PI, fs};

use driftline_stage::{Rejected, SourceDef, StateChange};
use proptest::prelude::*;

use super::{recording::Tick, resample::Resampler, *};
use crate::pacing::Pace;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");

/// All recordings among the fixtures.
const RECORDINGS: [&str; 11] = [
    "11025.wav",
    "16000-float.wav",
    "22050-s24.wav",
    "22050.mp3",
    "44100.flac",
    "44100.ogg",
    "48000-s24.flac",
    "8000-mulaw.wav",
    "8000-u8.wav",
    "8000.wav",
    "96000.flac",
];

fn config(path: &Path) -> AudioFilesConfig {
    let table = format!("path = {:?}", path.to_str().unwrap());
    driftline_stage::config::read(&table.parse().unwrap()).unwrap()
}

/// Everything a run gives.
#[derive(Default)]
struct Run {
    records: Vec<(Key, Timestamp, AudioChunk)>,
    rejected: Vec<Rejected>,
    state: BTreeMap<Bytes, Bytes>,
}

impl Run {
    fn take(&mut self, batch: &SourceBatch<AudioChunk>) {
        self.records.extend(batch.records().iter().cloned());
        self.rejected.extend(batch.rejected().iter().cloned());
        for StateChange { key, value } in batch.state() {
            match value {
                Some(value) => self.state.insert(key.clone(), value.clone()),
                None => self.state.remove(key),
            };
        }
    }

    fn session(&self, name: &str) -> Vec<&AudioChunk> {
        self.records.iter().filter(|(key, ..)| key.as_bytes() == name.as_bytes()).map(|(.., chunk)| chunk).collect()
    }

    fn samples(&self, name: &str) -> Vec<f32> {
        self.session(name).iter().flat_map(|chunk| chunk.samples.iter().copied()).collect()
    }

    fn reasons(&self) -> Vec<&str> {
        self.rejected.iter().map(|rejected| rejected.reason.as_str()).collect()
    }
}

fn run(config: AudioFilesConfig) -> Run {
    resume(config, BTreeMap::new())
}

/// A run that goes on from the state of another one.
fn resume(config: AudioFilesConfig, state: BTreeMap<Bytes, Bytes>) -> Run {
    let mut source = AudioFiles::open(config, false).unwrap();
    source.restore(state.clone().into_iter().collect()).unwrap();
    let mut run = Run { state, ..Run::default() };
    loop {
        let mut batch = SourceBatch::new();
        let status = source.read(&mut batch).unwrap();
        run.take(&batch);
        match status {
            SourceStatus::More => {}
            SourceStatus::End => return run,
            SourceStatus::Wait(time) => panic!("waits for {time:?} with pace fast"),
        }
    }
}

fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(format!("{FIXTURES}/{name}")).unwrap()
}

/// Makes a WAV file of one format chunk and one data chunk.
fn wav(format: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let align = channels.wrapping_mul(bits / 8);
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0");
    bytes.extend(format.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate.wrapping_mul(u32::from(align))).to_le_bytes());
    bytes.extend(align.to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

fn pcm16(samples: impl IntoIterator<Item = i16>) -> Vec<u8> {
    samples.into_iter().flat_map(i16::to_le_bytes).collect()
}

/// Signal to noise in dB, the noise being the difference.
fn snr(expected: &[f64], found: &[f32]) -> f64 {
    assert_eq!(expected.len(), found.len());
    let power = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    let signal = power(&mut expected.iter().copied());
    let noise = power(&mut expected.iter().zip(found).map(|(e, f)| e - f64::from(*f)));
    10.0 * (signal / noise.max(1e-30)).log10()
}

/// Against libsndfile 1.2.2 and scipy 1.17.1 (see `fixtures/make.py`).
#[test]
fn recordings_sound_as_the_reference_makes_them() {
    let run = run(AudioFilesConfig { sessions: 3, ..config(Path::new(FIXTURES)) });
    assert_eq!(run.reasons(), [""; 0]);
    for name in RECORDINGS {
        let golden: Vec<f64> = fixture(&format!("{name}.s16"))
            .chunks_exact(2)
            .map(|b| f64::from(i16::from_le_bytes([b[0], b[1]])) / 32_767.0)
            .collect();
        // The stems of 22050-s24 and the like are alone; 44100 and 8000 are not all.
        let session = if name.starts_with("44100.") { name } else { name.rsplit_once('.').unwrap().0 };
        let found = run.samples(session);
        let snr = snr(&golden, &found);
        eprintln!("{name}: {snr:.1} dB");
        // The noise of 8 bits, 38 dB below the tones, reaches up to the edge of the band, where one
        // filter ends sooner than the other.
        let least = if name.starts_with("8000-") { 50.0 } else { 60.0 };
        assert!(snr >= least, "{name}: {snr:.1} dB");
    }
}

/// Against the tone itself, from 100 Hz to 90 % of the band, and for rates without a common factor.
#[test]
fn tones_are_resampled_within_60_db() {
    for rate in [8_000u32, 11_025, 12_345, 22_050, 32_000, 44_100, 44_101, 48_000, 96_000, 192_000] {
        let band = f64::from(rate.min(SAMPLE_RATE)) / 2.0;
        for frequency in [100.0, 1_000.0, 0.5 * band, 0.9 * band] {
            let soft = |t: f64| (1.0 - (2.0 * PI * t / 0.5).cos()) / 2.0;
            let tone = |t: f64| 0.5 * soft(t) * (2.0 * PI * frequency * t).sin();
            let input: Vec<f32> = (0..rate / 2).map(|n| tone(f64::from(n) / f64::from(rate)) as f32).collect();
            let expected: Vec<f64> =
                (0..SAMPLE_RATE / 2).map(|n| tone(f64::from(n) / f64::from(SAMPLE_RATE))).collect();
            let mut resampler = Resampler::try_new(rate).unwrap();
            let mut found = Vec::new();
            for part in input.chunks(777) {
                resampler.push(part, &mut found).unwrap();
            }
            resampler.finish(&mut found).unwrap();
            let snr = snr(&expected, &found[..expected.len()]);
            assert!(snr >= 60.0, "{frequency} Hz from {rate} Hz: {snr:.1} dB");
        }
    }
}

#[test]
fn what_the_band_cannot_hold_is_filtered_out() {
    let tone = |n: u32| (2.0 * PI * 9_000.0 * f64::from(n) / 48_000.0).sin() as f32;
    let mut resampler = Resampler::try_new(48_000).unwrap();
    let mut found = Vec::new();
    resampler.push(&(0..48_000).map(tone).collect::<Vec<_>>(), &mut found).unwrap();
    resampler.finish(&mut found).unwrap();
    // Away from the ends, where the tone is switched on and off.
    let loudest = found[1_600..14_400].iter().fold(0.0_f32, |loudest, s| loudest.max(s.abs()));
    assert!(loudest < 1e-3, "{loudest}");
}

#[test]
fn pieces_are_numbered_timed_and_described() {
    // 20 pieces and a half; one sample in a hundred of the left channel at full scale.
    let samples = (0..16_000 * 2 * 1_312 / 1_000).map(|n| if n % 200 == 0 { i16::MIN } else { 1_000 });
    let folder = folder(&[("call.wav", &wav(1, 2, 16_000, 16, &pcm16(samples)))]);
    let run = run(config(folder.path()));
    let chunks = run.session("call");
    assert_eq!(chunks.len(), 21);
    for (n, (_, time, chunk)) in run.records.iter().enumerate() {
        assert_eq!((chunk.chunk as usize, chunk.start), (n, n as u64 * 1_024));
        assert_eq!(chunk.last, n == 20);
        assert_eq!(chunk.samples.len(), if n < 20 { 1_024 } else { 512 });
        assert_eq!((chunk.source_rate, chunk.source_channels, chunk.missing), (16_000, 2, 0));
        assert!((chunk.clipped - 0.005).abs() < 0.001, "{}", chunk.clipped);
        let start = Timestamp::parse("2000-01-01T00:00:00Z").unwrap();
        assert_eq!(*time, start.plus_millis(n as i64 * 64));
    }
}

#[test]
fn clipping_is_counted_where_it_is_before_resampling() {
    // A second at 48 kHz, the third quarter of it clipped.
    let samples = (0..48_000).map(|n| if (24_000..36_000).contains(&n) { i16::MAX } else { 0 });
    let folder = folder(&[("a.wav", &wav(1, 1, 48_000, 16, &pcm16(samples)))]);
    let run = run(AudioFilesConfig { chunk_ms: 250, ..config(folder.path()) });
    let clipped: Vec<_> = run.session("a").iter().map(|chunk| chunk.clipped).collect();
    assert_eq!(clipped, [0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn sessions_are_interleaved_and_the_next_file_takes_a_free_place() {
    let long = wav(1, 1, 16_000, 16, &pcm16([5; 1_024 * 3]));
    let short = wav(1, 1, 16_000, 16, &pcm16([5; 1_024]));
    let folder = folder(&[("a.wav", &long), ("b.wav", &short), ("c.wav", &short)]);
    let run = run(AudioFilesConfig { sessions: 2, ..config(folder.path()) });
    let order: Vec<_> = run.records.iter().map(|(key, _, chunk)| format!("{key}{}", chunk.chunk)).collect();
    assert_eq!(order, ["a0", "b0", "a1", "c0", "a2"]);
    assert!(run.records.windows(2).all(|pair| pair[0].1 <= pair[1].1));
}

#[test]
fn silence_and_an_empty_recording_are_recordings() {
    let folder = folder(&[
        ("silent.wav", &wav(1, 1, 16_000, 16, &pcm16([0; 2_000]))),
        ("empty.wav", &wav(1, 1, 16_000, 16, &[])),
    ]);
    let run = run(config(folder.path()));
    assert_eq!(run.reasons(), [""; 0]);
    assert_eq!(run.samples("silent"), [0.0; 2_000]);
    let [empty] = run.session("empty")[..] else { panic!() };
    assert!(empty.last && empty.samples.is_empty());
}

#[test]
fn what_is_no_recording_is_refused_byte_for_byte_and_the_rest_goes_on() {
    let nan = [0.5_f32, 0.25, f32::NAN, 0.0].iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<_>>();
    let tone = pcm16([100; 800]);
    let mut ten_hours = wav(1, 1, 8_000, 16, &tone);
    ten_hours[40..44].copy_from_slice(&(36_000 * 16_000u32).to_le_bytes());
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("0-empty.wav", Vec::new(), "file: found 0 bytes, allowed a recording as WAV, FLAC, MP3 or Ogg Vorbis"),
        ("1-text.mp3", b"this is no recording at all".repeat(50), "header: found "),
        ("2-nan.wav", wav(3, 1, 16_000, 32, &nan), "sample 2 of channel 0: found NaN, allowed finite samples"),
        ("3-rate.wav", wav(1, 1, 0, 16, &tone), "header: found 0 Hz, allowed 1000 to 384000 Hz"),
        ("4-none.wav", wav(1, 0, 16_000, 16, &tone), "header: found 0 channels, allowed 1 to 32 channels"),
        ("5-many.wav", wav(1, 1_000, 16_000, 16, &tone), "header: found 1000 channels, allowed 1 to 32 channels"),
        ("6-long.wav", ten_hours, "header: found 36000 s of audio, allowed at most 3600 s (max_seconds)"),
        ("7-header.wav", b"RIFF\x24\0\0\0WAVEfmt ".to_vec(), "header: found a WAV that ends at byte 16"),
        ("8-head.flac", fixture("44100.flac")[..30].to_vec(), "header: found "),
        ("9-format.wav", wav(77, 1, 16_000, 16, &tone), "header: found unsupported feature"),
    ];
    let mut files: Vec<(&str, &[u8])> = cases.iter().map(|(name, bytes, _)| (*name, &bytes[..])).collect();
    let good = fixture("8000.wav");
    files.extend([("good.wav", &good[..]), ("notes.txt", b"not read")]);
    let folder = folder(&files);
    let run = run(config(folder.path()));
    assert_eq!(run.rejected.len(), cases.len(), "{:?}", run.reasons());
    // A sample that is wrong shows later than a header.
    let mut found = run.rejected.clone();
    found.sort_by(|a, b| a.key.cmp(&b.key));
    for (rejected, (name, bytes, reason)) in found.iter().zip(&cases) {
        assert_eq!(rejected.value, bytes, "{name}");
        assert_eq!(rejected.key.as_bytes(), name.as_bytes());
        assert!(rejected.reason.starts_with(&format!("{name}: {reason}")), "{}", rejected.reason);
    }
    assert_eq!(run.samples("good").len(), 3_200);
    assert_eq!(run.records.len(), run.session("good").len());
}

#[test]
fn a_recording_that_turns_bad_ends_its_session() {
    let mut samples = vec![0.25_f32; 5_000];
    samples[4_000] = f32::INFINITY;
    let bytes = wav(3, 1, 16_000, 32, &samples.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<_>>());
    let folder = folder(&[("a.wav", &bytes)]);
    let run = run(config(folder.path()));
    assert_eq!(run.reasons(), ["a.wav: sample 4000 of channel 0: found inf, allowed finite samples"]);
    assert_eq!(run.rejected[0].value, bytes);
    let chunks = run.session("a");
    assert!(chunks.len() > 1 && chunks.iter().filter(|chunk| chunk.last).count() == 1);
    let last = chunks[chunks.len() - 1];
    assert!(last.last && last.samples.is_empty());
    assert_eq!(last.start, 1_024 * (chunks.len() as u64 - 1));
}

#[test]
fn a_recording_longer_than_allowed_ends_there() {
    // The header does not know the length.
    let mut bytes = wav(1, 1, 8_000, 16, &pcm16([9; 24_000]));
    bytes[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    let folder = folder(&[("a.wav", &bytes)]);
    let run = run(AudioFilesConfig { max_seconds: 2, ..config(folder.path()) });
    let [reason] = run.reasons()[..] else { panic!("{:?}", run.reasons()) };
    assert!(reason.ends_with("found 2 s of audio, allowed at most 2 s (max_seconds)"), "{reason}");
    assert!(run.session("a").last().unwrap().last);
}

#[test]
fn a_recording_that_is_cut_off_is_used_and_says_what_is_missing() {
    // One second claimed, 0.7 s there.
    let whole = wav(1, 1, 8_000, 16, &pcm16((0..8_000).map(|n| n as i16)));
    let folder = folder(&[("a.wav", &whole[..44 + 2 * 5_600])]);
    let run = run(AudioFilesConfig { chunk_ms: 100, ..config(folder.path()) });
    assert_eq!(run.reasons(), [""; 0]);
    let chunks = run.session("a");
    assert_eq!(run.samples("a").len(), 11_200);
    assert_eq!(chunks.len(), 8);
    assert!(chunks[..7].iter().all(|chunk| chunk.missing == 0 && !chunk.last));
    let last = chunks[7];
    assert_eq!((last.chunk, last.start, last.missing, last.last), (10, 16_000, 3, true));
}

#[test]
fn a_recording_that_is_cut_off_knows_by_how_much() {
    let whole = wav(1, 1, 8_000, 16, &pcm16([5; 8_000]));
    let folder = folder(&[("whole.wav", &whole), ("cut.wav", &whole[..44 + 2 * 5_600])]);
    let cut_short = |name: &str| {
        let mut recording = Recording::open(&folder.path().join(name), 1_600, 60).unwrap();
        while !matches!(recording.next().unwrap(), Tick::Piece(Piece { last: true, .. })) {}
        recording.cut_short()
    };
    assert_eq!((cut_short("whole.wav"), cut_short("cut.wav")), (None, Some((5_600, 8_000))));
}

#[test]
fn a_length_the_header_does_not_know_or_gets_wrong_is_no_hindrance() {
    let whole = wav(1, 1, 16_000, 16, &pcm16([7; 3_000]));
    let with = |riff: u32, data: u32| {
        let mut bytes = whole.clone();
        bytes[4..8].copy_from_slice(&riff.to_le_bytes());
        bytes[40..44].copy_from_slice(&data.to_le_bytes());
        bytes
    };
    let mut rf64 = with(u32::MAX, u32::MAX);
    rf64[..4].copy_from_slice(b"RF64");
    let folder = folder(&[
        ("crashed.wav", &with(0, 0)),
        ("piped.wav", &with(u32::MAX, u32::MAX)),
        ("sox.wav", &with(0x7fff_ffff, 0x7fff_ffff)),
        ("riff.wav", &with(12, 6_000)),
        ("rf64.wav", &rf64),
    ]);
    let run = run(config(folder.path()));
    assert_eq!(run.reasons(), [""; 0]);
    for session in ["crashed", "piped", "sox", "riff", "rf64"] {
        assert_eq!(run.samples(session).len(), 3_000, "{session}");
    }
}

#[test]
fn damage_inside_a_flac_file_is_a_gap_in_time() {
    let mut flac = fixture("44100.flac");
    let folder = folder(&[("a.flac", &flac)]);
    let whole = run(config(folder.path()));
    let middle = flac.len() / 2;
    flac[middle..middle + 40].fill(0xa5);
    fs::write(folder.path().join("a.flac"), &flac).unwrap();
    let damaged = run(config(folder.path()));
    assert_eq!(damaged.reasons(), [""; 0]);
    let end = |run: &Run| run.session("a").last().map(|chunk| chunk.start + chunk.samples.len() as u64);
    assert_eq!(end(&damaged), end(&whole));
    // A block of the file is 4096 samples, 1.45 pieces: one piece is lost whole, or none is.
    let lost: u32 = damaged.session("a").iter().map(|chunk| chunk.missing).sum();
    assert!(lost <= 1 && damaged.samples("a") != whole.samples("a"));
}

#[test]
fn ogg_files_one_after_another_are_one_recording() {
    let ogg = fixture("44100.ogg");
    let folder = folder(&[("one.ogg", &ogg), ("two.ogg", &ogg.repeat(2))]);
    let run = run(config(folder.path()));
    assert_eq!(run.reasons(), [""; 0]);
    let (one, two) = (run.samples("one"), run.samples("two"));
    assert_eq!((one.len(), two.len()), (3_200, 6_400));
    let one: Vec<f64> = one.into_iter().map(f64::from).collect();
    for half in two.chunks(3_200) {
        let snr = snr(&one, half);
        assert!(snr > 40.0, "{snr:.1} dB");
    }
}

#[test]
fn an_ogg_file_of_another_rate_after_the_first_is_refused_there() {
    let mut ogg = fixture("44100.ogg");
    let whole = ogg.clone();
    // The rate in the first page, 58 bytes, and the page's checksum.
    ogg[40..44].copy_from_slice(&22_050u32.to_le_bytes());
    ogg[22..26].fill(0);
    let shift = |crc: u32| (crc << 1) ^ ((crc >> 31) * 0x04c1_1db7);
    let crc = ogg[..58].iter().fold(0u32, |crc, &byte| (0..8).fold(crc ^ (u32::from(byte) << 24), |crc, _| shift(crc)));
    ogg[22..26].copy_from_slice(&crc.to_le_bytes());
    let chained = [whole, ogg].concat();
    let folder = folder(&[("a.ogg", &chained)]);
    let run = run(config(folder.path()));
    assert_eq!(run.reasons(), ["a.ogg: frame 8820: found 22050 Hz, allowed 44100 Hz"]);
    assert_eq!(run.rejected[0].value, chained);
    assert!(run.session("a").last().is_none_or(|chunk| chunk.last));
}

#[test]
fn a_large_file_is_not_copied_whole() {
    let folder = folder(&[]);
    let path = folder.path().join("big.wav");
    fs::File::create(&path).unwrap().set_len(WHOLE + 1).unwrap();
    let run = run(config(folder.path()));
    assert_eq!(run.rejected[0].value.len() as u64, HEAD);
    assert!(run.reasons()[0].ends_with("; kept are the first 65536 of 16777217 bytes"), "{:?}", run.reasons());

    let small = AudioFilesConfig { max_file_bytes: ByteSize(1_000), ..config(folder.path()) };
    assert!(self::run(small).reasons()[0].contains("found 16777217 bytes, allowed at most 1000 (max_file_bytes)"));
}

#[test]
fn in_real_time_a_piece_comes_when_it_was_spoken() {
    let folder = folder(&[
        ("a.wav", &wav(1, 1, 16_000, 16, &pcm16([5; 1_024 * 3]))),
        ("b.wav", &wav(1, 1, 16_000, 16, &pcm16([5; 1_024 * 3]))),
    ]);
    let mut source =
        AudioFiles::open(AudioFilesConfig { pace: Pace::Realtime, ..config(folder.path()) }, false).unwrap();
    let mut read = |ms: u64| {
        let mut batch = SourceBatch::new();
        let status = source.read_at(Duration::from_millis(ms), &mut batch).unwrap();
        (batch.len(), status)
    };
    let wait = |ms| SourceStatus::Wait(Duration::from_millis(ms));
    assert_eq!(read(1_000), (0, wait(64)));
    assert_eq!(read(1_063), (0, wait(1)));
    assert_eq!(read(1_064), (2, wait(64)));
    // Late: what is due comes at once.
    assert_eq!(read(1_500), (4, SourceStatus::More));
    assert_eq!(read(1_500), (0, SourceStatus::End));
}

#[test]
fn with_follow_new_files_are_taken_once_they_no_longer_change() {
    let folder = folder(&[]);
    let mut source = AudioFiles::open(config(folder.path()), true).unwrap();
    let mut read = |seconds: u64| {
        let mut batch = SourceBatch::new();
        let status = source.read_at(Duration::from_secs(seconds), &mut batch).unwrap();
        let last: Vec<_> =
            batch.records().iter().filter(|record| record.2.last).map(|record| record.0.to_string()).collect();
        (last, status)
    };
    let nothing = (Vec::new(), SourceStatus::Wait(RESCAN));
    assert_eq!(read(1), nothing);
    let bytes = fixture("8000.wav");
    fs::write(folder.path().join("x.wav"), &bytes[..1_000]).unwrap();
    assert_eq!(read(2), nothing);
    fs::write(folder.path().join("x.wav"), &bytes).unwrap();
    assert_eq!(read(3), nothing);
    assert_eq!(read(4), (vec!["x".to_owned()], SourceStatus::More));
    assert_eq!(read(5), nothing);
    assert_eq!(read(6), nothing);
}

#[test]
fn what_takes_the_place_of_a_refused_file_is_read() {
    let mut samples = vec![0.25_f32; 5_000];
    samples[4_000] = f32::INFINITY;
    let turning = wav(3, 1, 16_000, 32, &samples.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<_>>());
    let folder = folder(&[("bad.wav", b"nothing"), ("turning.wav", &turning)]);
    let first = run(config(folder.path()));
    assert_eq!(first.rejected.len(), 2);
    let second = resume(config(folder.path()), first.state);
    assert_eq!((second.rejected.len(), second.records.len()), (0, 0));

    // Of the other one something was sent.
    for name in ["bad.wav", "turning.wav"] {
        fs::write(folder.path().join(name), fixture("8000.wav")).unwrap();
    }
    let third = resume(config(folder.path()), second.state);
    assert_eq!(third.samples("bad").len(), 3_200);
    assert_eq!((third.rejected.len(), third.records.len()), (0, third.session("bad").len()));
    let fourth = resume(config(folder.path()), third.state);
    assert_eq!((fourth.rejected.len(), fourth.records.len()), (0, 0));
}

#[test]
fn with_follow_what_takes_the_place_of_a_refused_file_is_read_once_it_no_longer_changes() {
    let folder = folder(&[("x.wav", b"nothing")]);
    let mut source = AudioFiles::open(config(folder.path()), true).unwrap();
    let mut read = |seconds: u64| {
        let mut batch = SourceBatch::new();
        source.read_at(Duration::from_secs(seconds), &mut batch).unwrap();
        (batch.len(), batch.rejected().len())
    };
    assert_eq!(read(0), (0, 1));
    assert_eq!(read(1), (0, 0));
    fs::write(folder.path().join("x.wav"), fixture("8000.wav")).unwrap();
    assert_eq!(read(2), (0, 0));
    assert_eq!(read(3), (4, 0));
    assert_eq!(read(4), (0, 0));
}

#[test]
fn a_prefix_tells_the_sessions_of_two_sources_apart() {
    let folder = folder(&[("y.wav", &fixture("8000.wav"))]);
    let named = |prefix: &str| {
        let run = run(AudioFilesConfig { session_prefix: prefix.to_owned(), ..config(folder.path()) });
        let (key, _, chunk) = &run.records[0];
        (key.to_string(), chunk.session.clone())
    };
    assert_eq!(named(""), ("y".to_owned(), "y".to_owned()));
    assert_eq!(named("left-"), ("left-y".to_owned(), "left-y".to_owned()));
}

#[test]
fn a_folder_that_cannot_be_listed_loses_no_piece() {
    let long = wav(1, 1, 16_000, 16, &pcm16([5; 1_024 * 300]));
    let short = wav(1, 1, 16_000, 16, &pcm16([5; 1_024 * 10]));
    let folder = folder(&[("a.wav", &long), ("b.wav", &short)]);
    let config = AudioFilesConfig { sessions: 1, ..config(folder.path()) };
    let mut source = AudioFiles::open(config, true).unwrap();
    let mut batch = SourceBatch::new();
    assert_eq!(source.read_at(Duration::ZERO, &mut batch).unwrap(), SourceStatus::More);
    let sent = batch.len();
    source.place = Place::Folder(folder.path().join("gone"));
    let mut batch = SourceBatch::new();
    assert_eq!(source.read_at(Duration::from_secs(2), &mut batch).unwrap(), SourceStatus::More);
    assert_eq!(sent + batch.len(), 310);
    let error = source.read_at(Duration::from_secs(4), &mut SourceBatch::new()).unwrap_err();
    assert_eq!(error.class(), driftline_types::ErrorClass::Transient);
}

#[test]
fn a_config_with_problems_names_all_of_them() {
    let def = SourceDef::of::<AudioFiles>();
    let table = "path = \"\"\nchunk_ms = 5\nsessions = 0\nstart = \"noon\"\nmax_seconds = 0\nrepeat = { gain_db = 30, pitch = nan }";
    let problems: Vec<_> = (def.check)(&table.parse().unwrap()).iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "path: found \"\", allowed is a folder, a file or a glob",
            "chunk_ms: found 5, allowed is a whole number from 10 to 10000",
            "sessions: found 0, allowed is a whole number from 1 to 256",
            "start: found \"noon\", allowed is a time such as \"2000-01-01T00:00:00Z\"",
            "max_seconds: found 0, allowed is a whole number from 1 to 86400",
            "repeat.gain_db: found 30, allowed is 0 to 24",
            "repeat.pitch: found NaN, allowed is 0 to 0.2",
        ]
    );
    assert_eq!((def.check)(&"path = \"x\"\npace = \"slow\"\nspeed = 1".parse().unwrap()).len(), 2);
}

#[test]
fn a_place_without_recordings_is_an_error() {
    let folder = folder(&[("notes.txt", b"x")]);
    let error = AudioFiles::open(config(folder.path()), false).err().unwrap().to_string();
    assert!(error.starts_with("path: found no recording in"), "{error}");
    let error = AudioFiles::open(config(&folder.path().join("none")), false).err().unwrap().to_string();
    assert!(error.starts_with("path: found "), "{error}");
}

#[test]
fn a_file_that_changed_during_an_interruption_ends_its_session() {
    let long = wav(1, 1, 16_000, 16, &pcm16([5; 1_024 * 300]));
    let folder = folder(&[("a.wav", &long), ("b.wav", &long)]);
    let mut source = AudioFiles::open(config(folder.path()), false).unwrap();
    let mut before = Run::default();
    let mut batch = SourceBatch::new();
    source.read(&mut batch).unwrap();
    before.take(&batch);
    fs::write(folder.path().join("a.wav"), &long[..1_000]).unwrap();
    fs::remove_file(folder.path().join("b.wav")).unwrap();
    fs::write(folder.path().join("c.wav"), fixture("8000.wav")).unwrap();

    let mut source = AudioFiles::open(config(folder.path()), false).unwrap();
    source.restore(before.state.into_iter().collect()).unwrap();
    let mut batch = SourceBatch::new();
    source.read(&mut batch).unwrap();
    let mut after = Run::default();
    after.take(&batch);
    assert_eq!(after.rejected.len(), 2);
    assert!(after.reasons()[0].starts_with("a.wav: file: found 1000 bytes, allowed the 614444 bytes it had"));
    for session in ["a", "b"] {
        let [end] = after.session(session)[..] else { panic!() };
        assert!(end.last && end.samples.is_empty());
        assert_eq!((end.chunk, end.source_rate), (128, 16_000));
    }
    assert_eq!(after.samples("c").len(), 3_200);
}

#[test]
fn repeated_recordings_go_on_for_as_long_as_is_said_and_leave_nothing_behind() {
    let folder = folder(&[("a.wav", &fixture("8000.wav")), ("b.wav", &fixture("11025.wav")), ("bad.wav", b"nothing")]);
    let repeat = Repeat { sessions: Some(40), ..Repeat::default() };
    let traffic = run(AudioFilesConfig { repeat: Some(repeat), ..config(folder.path()) });
    // The bad one is drawn once, refused, and counts as a session.
    assert_eq!(traffic.rejected.len(), 1);
    let ended: Vec<String> =
        traffic.records.iter().filter(|record| record.2.last).map(|record| record.0.to_string()).collect();
    assert_eq!(ended.len(), 39);
    assert!(ended.iter().enumerate().all(|(n, name)| name[1..] == format!("-{:06}", n + 1)), "{ended:?}");
    let state: Vec<_> = traffic.state.keys().map(|key| String::from_utf8_lossy(key)).collect();
    assert_eq!(state, ["drawn", "file/bad.wav", "tick"]);
    // With nothing varied the sound is the recording's.
    let once = run(config(folder.path()));
    for name in ended {
        assert_eq!(traffic.samples(&name), once.samples(&name[..1]), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A run that is interrupted any number of times gives the records of one that is not.
    #[test]
    fn an_interruption_changes_nothing(
        sessions in 1usize..6,
        chunk_ms in prop::sample::select(vec![10u32, 20, 64, 97]),
        lengths in prop::collection::vec(0usize..60_000, 1..4),
        reads in prop::collection::vec(0usize..4, 0..6),
        repeat in prop::option::of(0u64..9),
    ) {
        let folder = tempfile::tempdir().unwrap();
        for name in RECORDINGS {
            fs::copy(format!("{FIXTURES}/{name}"), folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("30000.wav"), b"no recording").unwrap();
        for (n, length) in lengths.iter().enumerate() {
            let samples = (0..*length).map(|s| (s * (n + 3)) as i16);
            fs::write(folder.path().join(format!("{n}-long.wav")), wav(1, 1, 22_050, 16, &pcm16(samples))).unwrap();
        }
        let repeat = repeat.map(|seed| Repeat {
            sessions: Some(25),
            seed,
            gain_db: 3.0,
            pitch: 0.1,
            noise_dbfs: Some(-60.0),
        });
        let config = AudioFilesConfig { sessions, chunk_ms, repeat, ..config(folder.path()) };
        let whole = run(config.clone());

        let mut resumed = Run::default();
        let mut interruptions = reads.into_iter();
        'run: loop {
            let mut source = AudioFiles::open(config.clone(), false).unwrap();
            source.restore(resumed.state.clone().into_iter().collect()).unwrap();
            let mut left = interruptions.next().unwrap_or(usize::MAX);
            while left > 0 {
                left -= 1;
                let mut batch = SourceBatch::new();
                let status = source.read(&mut batch).unwrap();
                resumed.take(&batch);
                if status == SourceStatus::End {
                    break 'run;
                }
            }
        }
        prop_assert_eq!(&resumed.records, &whole.records);
        prop_assert_eq!(resumed.reasons(), whole.reasons());
        prop_assert_eq!(&resumed.state, &whole.state);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the bytes, the file is used or refused as it is, its session ends once, and
    /// what is sent is finite and in order.
    #[test]
    fn no_bytes_do_harm(
        name in prop::sample::select(RECORDINGS.to_vec()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        header in prop::collection::vec((0usize..64, any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = fixture(name);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for (at, byte) in header {
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            let length = cut.index(bytes.len());
            bytes.truncate(length);
        }
        let folder = folder(&[(name, &bytes)]);
        let mut recording = match Recording::open(&folder.path().join(name), 1_024, 60) {
            Ok(recording) => recording,
            Err(refused) => {
                prop_assert!(refused.to_string().contains(", allowed "), "{refused}");
                return Ok(());
            }
        };
        let mut end = 0;
        loop {
            let Ok(tick) = recording.next() else { return Ok(()) };
            let Tick::Piece(piece) = tick else { continue };
            prop_assert!(piece.start >= end);
            prop_assert!(piece.samples.iter().all(|sample| (-1.0..=1.0).contains(sample)));
            prop_assert!((0.0..=1.0).contains(&piece.clipped), "{}", piece.clipped);
            end = piece.start + piece.samples.len() as u64;
            if piece.last {
                break;
            }
        }
    }
}

#[test]
fn real_recordings_are_read_whole() {
    let Ok(data) = std::env::var("DRIFTLINE_DATA") else {
        eprintln!("skipped: DRIFTLINE_DATA is not set");
        return;
    };
    let run = run(config(&Path::new(&data).join("speech/librivox")));
    assert_eq!(run.reasons(), [""; 0]);
    let last = run.records.iter().filter(|(.., chunk)| chunk.last).count();
    assert_eq!(last, 3);
}
