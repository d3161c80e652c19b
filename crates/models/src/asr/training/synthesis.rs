//! Speech made by espeak-ng, flite, festival and Kokoro, called as processes, and kept in a cache folder.
//!
//! What is said, by whom and how is drawn from a seed; the cache file is named by a hash of it, so a changed recipe never meets
//! old audio.

use std::{fmt, fs, io, path::Path, process::Command};

use rand::{
    RngExt, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, IteratorRandom},
};
use rayon::prelude::*;
use serde_json::json;

use super::{
    TrainingError,
    clip::{self, Clip, Source},
    grammar::{Grammar, OtherSpeech, digits},
    pronounce::Pronouncer,
    resample::resample,
};
use crate::asr::{frontend::RATE, lexicon::Lexicon};

const ACCENTS: [&str; 7] = ["en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029", "en-us-nyc"];
const VARIANTS: [&str; 57] = [
    "m1",
    "m2",
    "m3",
    "m4",
    "m6",
    "m7",
    "m8",
    "f1",
    "f2",
    "f3",
    "f5",
    "adam",
    "Alex",
    "Alicia",
    "Andrea",
    "Andy",
    "Annie",
    "antonio",
    "aunty",
    "belinda",
    "benjamin",
    "boris",
    "caleb",
    "Denis",
    "Diogo",
    "ed",
    "edward",
    "Gene",
    "grandma",
    "grandpa",
    "gustave",
    "Henrique",
    "Hugo",
    "iven",
    "Jacky",
    "john",
    "kaukovalta",
    "klatt",
    "klatt2",
    "klatt4",
    "Lee",
    "Marcelo",
    "Marco",
    "Mario",
    "max",
    "Miguel",
    "Mike",
    "Nguyen",
    "pablo",
    "paul",
    "pedro",
    "quincy",
    "rob",
    "steph",
    "travis",
    "whisper",
    "zac",
];
const FLITE: [&str; 4] = ["kal", "kal16", "awb", "slt"];
const FESTIVAL: [&str; 2] = ["kal_diphone", "cmu_us_slt_arctic_hts"];

/// Voices that no training set contains, neither they nor their speaker under another engine.
pub const HELD_OUT: [(Engine, &str); 10] = [
    (Engine::Espeak, "en-us+m5"),
    (Engine::Espeak, "en-gb+f4"),
    (Engine::Espeak, "en-us+linda"),
    (Engine::Espeak, "en-gb-scotland+david"),
    (Engine::Espeak, "en-us+klatt3"),
    (Engine::Espeak, "en-029+Michael"),
    (Engine::Espeak, "en-gb-x-gbclan"),
    (Engine::Espeak, "en-us-nyc+anika"),
    (Engine::Flite, "rms"),
    (Engine::Festival, "ked_diphone"),
];

/// Voices of Kokoro-82M, a neural synthesiser, that may be trained on: by name American, British or of another language (said with
/// an American's phonemes), female or male.
const NATURAL: [&str; 44] = [
    "af_aoede",
    "af_bella",
    "af_jessica",
    "af_kore",
    "af_nova",
    "af_river",
    "af_sky",
    "am_adam",
    "am_eric",
    "am_fenrir",
    "am_michael",
    "am_onyx",
    "am_santa",
    "bf_alice",
    "bf_isabella",
    "bf_lily",
    "bm_fable",
    "bm_george",
    "ef_dora",
    "em_alex",
    "em_santa",
    "ff_siwis",
    "hf_alpha",
    "hf_beta",
    "hm_omega",
    "hm_psi",
    "if_sara",
    "im_nicola",
    "jf_alpha",
    "jf_gongitsune",
    "jf_nezumi",
    "jf_tebukuro",
    "jm_kumo",
    "pf_dora",
    "pm_alex",
    "pm_santa",
    "zf_xiaobei",
    "zf_xiaoni",
    "zf_xiaoxiao",
    "zf_xiaoyi",
    "zm_yunjian",
    "zm_yunxi",
    "zm_yunxia",
    "zm_yunyang",
];

/// The same synthesiser's voices that no training set contains: every third of the English ones.
pub const NATURAL_HELD_OUT: [&str; 10] = [
    "af_alloy",
    "af_heart",
    "af_nicole",
    "af_sarah",
    "am_echo",
    "am_liam",
    "am_puck",
    "bf_emma",
    "bm_daniel",
    "bm_lewis",
];

/// A synthesiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// `espeak-ng`: formant synthesis.
    Espeak,
    /// `flite`: diphones and statistical voices.
    Flite,
    /// `festival`: diphones and hidden Markov models.
    Festival,
    /// `kokoro-say`, which `crates/models/kokoro/install.sh` installs: a neural network.
    Kokoro,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Espeak => "espeak-ng",
            Self::Flite => "flite",
            Self::Festival => "festival",
            Self::Kokoro => "kokoro",
        })
    }
}

/// One utterance to synthesise.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What to say.
    pub words: Vec<String>,
    /// The synthesiser.
    pub engine: Engine,
    /// Its voice, as the engine names it; for Kokoro also a blend, as `kokoro-say` describes it.
    pub voice: String,
    /// Speed, 1 for the voice's own.
    pub rate: f32,
    /// Height of the voice in its range, 0 to 1; espeak-ng and flite only.
    pub pitch: f32,
}

impl Request {
    /// Draws speed and pitch for words said by a voice.
    pub fn draw(words: Vec<String>, engine: Engine, voice: &str, rng: &mut impl RngExt) -> Self {
        let (rate, pitch) = (rng.random_range(0.75..1.35), rng.random_range(0.1..0.9));
        Self { words, engine, voice: voice.to_owned(), rate, pitch }
    }
}

/// Draws an engine and its voice.
pub type Voices = fn(&mut StdRng) -> (Engine, String);

/// Draws one of the voices that may be trained on: espeak-ng 60 %, flite 25 %, festival 15 %.
pub fn training_voice(rng: &mut StdRng) -> (Engine, String) {
    let choose = |names: &[&str], rng: &mut _| names.choose(rng).map_or_else(String::new, |name| (*name).to_owned());
    match rng.random_range(0..100) {
        0..60 => {
            let accent = choose(&ACCENTS, rng);
            let variant = choose(&VARIANTS, rng);
            (Engine::Espeak, if rng.random_bool(0.05) { accent } else { format!("{accent}+{variant}") })
        }
        60..85 => (Engine::Flite, choose(&FLITE, rng)),
        _ => (Engine::Festival, choose(&FESTIVAL, rng)),
    }
}

/// Draws one of the natural voices that may be trained on, or a blend of two; half of them time and stress words as a third does.
pub fn natural_voice(rng: &mut StdRng) -> (Engine, String) {
    let blend = if rng.random_bool(0.5) { 1 } else { 2 };
    let sound: Vec<&str> = NATURAL.into_iter().sample(rng, blend);
    let mut voice = sound.join("+");
    if let Some(timing) = NATURAL.choose(rng).filter(|_| rng.random_bool(0.5)) {
        voice = format!("{voice}/{timing}");
    }
    (Engine::Kokoro, voice)
}

/// Draws a part of a sentence outside the vocabulary, two to seven words.
pub fn other_words(half: OtherSpeech, rng: &mut impl RngExt) -> Vec<String> {
    let sentences: Vec<&str> = half.sentences().collect();
    let words: Vec<&str> = sentences.choose(rng).map(|s| s.split(' ').collect()).unwrap_or_default();
    let count = rng.random_range(2..=7).min(words.len());
    let start = rng.random_range(0..=words.len() - count);
    words[start..start + count].iter().map(|&word| word.to_owned()).collect()
}

/// Draws the training set: 40 % queries, 28 % jumbled vocabulary, 15 % sentences of the grammar, 17 % other speech.
#[must_use]
pub fn training_requests(grammar: &Grammar, voices: Voices, count: usize, seed: u64) -> Vec<Request> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count)
        .map(|_| {
            let words = match rng.random_range(0..100) {
                0..40 => grammar.query(&mut rng),
                40..68 => grammar.jumble(&mut rng),
                68..83 => grammar.sentence(&mut rng),
                _ => other_words(OtherSpeech::Train, &mut rng),
            };
            let (engine, voice) = voices(&mut rng);
            Request::draw(words, engine, &voice, &mut rng)
        })
        .collect()
}

/// Draws digit strings: two in five a single digit, the others two to six.
#[must_use]
pub fn digit_requests(voices: Voices, count: usize, seed: u64) -> Vec<Request> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..count)
        .map(|_| {
            let words = if rng.random_bool(0.4) { digits(&mut rng, 1..=1) } else { digits(&mut rng, 2..=6) };
            let (engine, voice) = voices(&mut rng);
            Request::draw(words, engine, &voice, &mut rng)
        })
        .collect()
}

/// Synthesises what is not in `cache` yet and returns the clips in the order of the requests.
///
/// # Errors
/// [`TrainingError`] where an engine is missing or fails, or the cache cannot be written.
pub fn synthesise(requests: &[Request], lexicon: &Lexicon, cache: &Path) -> Result<Vec<Clip>, TrainingError> {
    const BLOCK: usize = 512;
    fs::create_dir_all(cache)?;
    let pronouncer = Pronouncer::of(requests.iter().map(|request| request.words.as_slice()), lexicon, cache)?;
    let mut clips = Vec::with_capacity(requests.len());
    for (number, block) in requests.chunks(BLOCK).enumerate() {
        let file = cache.join(format!("{}.pcm", &blake3::hash(format!("{block:?}").as_bytes()).to_hex()[..16]));
        let audio = if file.exists() {
            read_block(&fs::read(&file)?)
        } else {
            tracing::info!(done = number * BLOCK, of = requests.len(), "synthesising");
            let audio = render(block, cache)?;
            // Written under another name first, so that an interrupted run leaves no half file.
            let partial = file.with_extension("partial");
            fs::write(&partial, write_block(&audio))?;
            fs::rename(&partial, &file)?;
            audio
        };
        for (request, samples) in block.iter().zip(audio) {
            let phones = pronouncer.say(&request.words);
            let source = Source::Synthetic { voice: format!("{} {}", request.engine, request.voice) };
            clips.push(Clip { samples, phones, words: request.words.clone(), source });
        }
    }
    Ok(clips)
}

fn write_block(audio: &[Vec<i16>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for samples in audio {
        bytes.extend((samples.len() as u32).to_le_bytes());
        bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    }
    bytes
}

fn read_block(mut bytes: &[u8]) -> Vec<Vec<i16>> {
    let mut audio = Vec::new();
    while let Some((count, rest)) = bytes.split_first_chunk::<4>() {
        let (samples, rest) = rest.split_at(2 * u32::from_le_bytes(*count) as usize);
        audio.push(samples.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect());
        bytes = rest;
    }
    audio
}

fn render(requests: &[Request], cache: &Path) -> Result<Vec<Vec<i16>>, TrainingError> {
    let scratch = cache.join("scratch");
    fs::create_dir_all(&scratch)?;
    let wav = |index: usize| scratch.join(format!("{index}.wav"));
    festival(requests, &wav)?;
    kokoro(requests, &wav)?;
    let audio = requests
        .par_iter()
        .enumerate()
        .map(|(index, request)| {
            let (path, text) = (wav(index), request.words.join(" "));
            match request.engine {
                Engine::Espeak => run(Command::new("espeak-ng")
                    .args(["-v", &request.voice])
                    .args(["-s", &format!("{:.0}", 165.0 * request.rate)])
                    .args(["-p", &format!("{:.0}", 99.0 * request.pitch)])
                    .arg("-w")
                    .arg(&path)
                    .arg(text))?,
                Engine::Flite => run(Command::new("flite")
                    .args(["-voice", &request.voice])
                    .args(["--setf", &format!("duration_stretch={:.3}", 1.0 / request.rate)])
                    .args(["--setf", &format!("int_f0_target_mean={:.0}", 80.0 + 140.0 * request.pitch)])
                    .args(["-t", &text, "-o"])
                    .arg(&path))?,
                Engine::Festival | Engine::Kokoro => {}
            }
            let (samples, rate) = clip::read_wav(&path)?;
            let samples = resample(&samples, rate as f32 / RATE as f32);
            Ok(clip::to_i16(clip::trim(&samples)))
        })
        .collect::<Result<Vec<_>, TrainingError>>()?;
    fs::remove_dir_all(&scratch)?;
    Ok(audio)
}

/// Festival takes a second to start, so one process says a whole block.
fn festival(requests: &[Request], wav: &dyn Fn(usize) -> std::path::PathBuf) -> Result<(), TrainingError> {
    let mut script = String::new();
    for (index, request) in requests.iter().enumerate().filter(|(_, request)| request.engine == Engine::Festival) {
        script.push_str(&format!(
            "(voice_{})(Parameter.set 'Duration_Stretch {:.3})(utt.save.wave (utt.synth (Utterance Text \"{}\")) \"{}\")\n",
            request.voice,
            1.0 / request.rate,
            request.words.join(" "),
            wav(index).display()
        ));
    }
    if script.is_empty() {
        return Ok(());
    }
    let path = wav(requests.len()).with_extension("scm");
    fs::write(&path, script)?;
    run(Command::new("festival").arg("--batch").arg(&path))
}

/// Kokoro takes seconds to load its network, so one process says a whole block.
fn kokoro(requests: &[Request], wav: &dyn Fn(usize) -> std::path::PathBuf) -> Result<(), TrainingError> {
    let lines: Vec<String> = requests
        .iter()
        .enumerate()
        .filter(|(_, request)| request.engine == Engine::Kokoro)
        .map(|(index, Request { words, voice, rate, .. })| {
            json!({ "text": words.join(" "), "voice": voice, "rate": rate, "file": wav(index) }).to_string()
        })
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    let path = wav(requests.len()).with_extension("jsonl");
    fs::write(&path, lines.join("\n"))?;
    run(Command::new("kokoro-say").arg(&path))
}

/// Runs a synthesiser to its end.
pub(super) fn run(command: &mut Command) -> Result<(), TrainingError> {
    output(command).map(drop)
}

/// Runs a synthesiser and returns what it printed.
pub(super) fn output(command: &mut Command) -> Result<String, TrainingError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let result = command.output().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => TrainingError::MissingProgram { program: program.clone() },
        _ => TrainingError::Io(source),
    })?;
    if !result.status.success() {
        return Err(TrainingError::Program { program, message: String::from_utf8_lossy(&result.stderr).into_owned() });
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_survive_the_cache() {
        let audio = vec![vec![1, -2, 3], vec![], vec![i16::MIN, i16::MAX]];
        assert_eq!(read_block(&write_block(&audio)), audio);
    }

    #[test]
    fn the_training_set_repeats_and_leaves_the_held_out_voices_out() {
        let grammar = Grammar::new(["red jacket", "frying pan"]);
        for voices in [training_voice as Voices, natural_voice] {
            let requests = training_requests(&grammar, voices, 400, 1);
            assert_eq!(requests, training_requests(&grammar, voices, 400, 1));
            for request in &requests {
                assert!(!HELD_OUT.contains(&(request.engine, request.voice.as_str())), "{request:?}");
                assert!(!NATURAL_HELD_OUT.iter().any(|voice| request.voice.contains(voice)), "{request:?}");
                assert!(!request.words.is_empty());
            }
        }
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-synthesiser")).expect_err("it does not exist");
        assert!(error.to_string().contains("no-such-synthesiser"), "{error}");
    }
}
