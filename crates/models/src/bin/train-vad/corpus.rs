//! Clean speech: recorded digits, and sentences read by speech synthesizers that are run as processes.
//!
//! Synthesizers of different construction make different mistakes, so three are used: formants (espeak-ng), diphones
//! (flite kal, festival kal) and statistics or units (flite awb, rms, slt; festival slt). Some voices and one of the
//! four recorded speakers never enter the training.

use std::{fs, io, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::speech::{Utterance, resample};

/// Which part of the speech.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Training,
    HeldOut,
}

/// The recorded speaker that is never trained on.
const HELD_OUT_SPEAKER: &str = "nicolas";
/// Recordings of a digit that are read of each speaker, evenly spread over those there are.
const TAKES: usize = 25;
/// Sentences for each voice.
const SENTENCES: usize = 16;

const ESPEAK: [&str; 26] = [
    "en-gb",
    "en-gb+f1",
    "en-gb+m1",
    "en-us",
    "en-us+f2",
    "en-us+m2",
    "en-us+f3",
    "en-us+m3",
    "en-gb-scotland",
    "en-gb-scotland+f4",
    "en-gb-x-rp+f5",
    "en-gb-x-rp+m4",
    "en-gb-x-gbclan+m5",
    "en-gb-x-gbcwmd+f1",
    "en-029+f2",
    "en-029+m6",
    "en-us+m7",
    "en-gb+m8",
    "en-us+klatt2",
    "en-gb+klatt4",
    "en-us+Annie",
    "en-gb+Andy",
    "en-us+steph",
    "en-us+grandma",
    "en-us+Michael",
    "en-us+whisper",
];
const ESPEAK_HELD_OUT: [&str; 4] = ["en-us+linda", "en-gb+Lee", "en-029+belinda", "en-gb-scotland+edward"];
const FLITE: [&str; 4] = ["kal16", "awb", "slt", "kal"];
const FLITE_HELD_OUT: [&str; 1] = ["rms"];
const FESTIVAL: [&str; 1] = ["cmu_us_slt_arctic_hts"];
const FESTIVAL_HELD_OUT: [&str; 1] = ["kal_diphone"];

const TEXTS: [&str; 30] = [
    "The birch canoe slid on the smooth planks.",
    "Glue the sheet to the dark blue background.",
    "It is easy to tell the depth of a well.",
    "These days a chicken leg is a rare dish.",
    "Rice is often served in round bowls.",
    "The juice of lemons makes fine punch.",
    "The box was thrown beside the parked truck.",
    "Four hours of steady work faced us.",
    "A large size in stockings is hard to sell.",
    "The boy was there when the sun rose.",
    "A rod is used to catch pink salmon.",
    "The source of the huge river is the clear spring.",
    "Kick the ball straight and follow through.",
    "Help the woman get back to her feet.",
    "A pot of tea helps to pass the evening.",
    "Smoky fires lack flame and heat.",
    "The soft cushion broke the man's fall.",
    "The salt breeze came across from the sea.",
    "Could you please tell me when the next train leaves?",
    "I would like to change the address of my last order.",
    "No, thank you. That will be all for today.",
    "Yes. Why? Show me something cheaper.",
    "My telephone number is five five five, zero one nine eight.",
    "Stop! Go back, and turn left at the church.",
    "Is there anything else that you would recommend to a beginner?",
    "She measured twice, thought for a while, and cut once.",
    "Oh, hello. Um, I am not sure whether this is the right place.",
    "One, two, three, four, five, six, seven, eight, nine, ten.",
    "Wait a moment, I have to look for my glasses first.",
    "Everything that was said in that room stayed in that room.",
];

/// Collects the utterances of one part.
pub(crate) fn collect(data: &Path, catalogue: &Path, part: Part) -> Result<Vec<Utterance>> {
    let mut utterances = recorded(&data.join("speech/fsdd"), part)?;
    let titles = titles(catalogue)?;
    let scratch = tempfile::tempdir()?;
    let (espeak, flite, festival) = match part {
        Part::Training => (&ESPEAK[..], &FLITE[..], &FESTIVAL[..]),
        Part::HeldOut => (&ESPEAK_HELD_OUT[..], &FLITE_HELD_OUT[..], &FESTIVAL_HELD_OUT[..]),
    };
    let voices = espeak
        .iter()
        .map(|voice| ("espeak-ng", *voice))
        .chain(flite.iter().map(|voice| ("flite", *voice)))
        .chain(festival.iter().map(|voice| ("festival", *voice)));
    for (index, (engine, voice)) in voices.enumerate() {
        // The engines with few voices read more in each, or formants would be nearly all that is heard.
        let sentences = if engine == "espeak-ng" { SENTENCES } else { 4 * SENTENCES };
        let mut rng = StdRng::seed_from_u64(index as u64 + if part == Part::Training { 0 } else { 1_000 });
        for _ in 0..sentences {
            let text = text(&mut rng, &titles);
            let samples = synthesize(engine, voice, &text, &mut rng, &scratch.path().join("utterance.wav"))?;
            utterances.push(Utterance::new(engine, &format!("{engine} {voice}"), samples));
        }
    }
    Ok(utterances)
}

/// Reads the recorded digits, 8 kHz, of one part's speakers.
fn recorded(folder: &Path, part: Part) -> Result<Vec<Utterance>> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .collect::<io::Result<Vec<_>>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    let mut utterances = Vec::new();
    for file in files {
        let name = file.file_name().to_string_lossy().into_owned();
        let Some([_, speaker, take]) = name
            .strip_suffix(".wav")
            .map(|stem| stem.split('_').collect::<Vec<_>>())
            .and_then(|parts| <[&str; 3]>::try_from(parts).ok())
        else {
            continue;
        };
        let take: usize = take.parse().with_context(|| format!("{name}: no take number"))?;
        if (speaker == HELD_OUT_SPEAKER) == (part == Part::HeldOut) && take < TAKES {
            utterances.push(Utterance::new("recorded", &format!("recorded {speaker}"), read(&file.path())?));
        }
    }
    ensure!(
        !utterances.is_empty(),
        "{}: found no recording, allowed: {{digit}}_{{speaker}}_{{take}}.wav",
        folder.display()
    );
    Ok(utterances)
}

/// Reads a WAV file of 16-bit samples as mono at 16 kHz.
pub(crate) fn read(path: &Path) -> Result<Vec<f32>> {
    let place = || format!("cannot read {}", path.display());
    let mut reader = hound::WavReader::open(path).with_context(place)?;
    let spec = reader.spec();
    ensure!(
        spec.bits_per_sample == 16 && spec.channels == 1,
        "{}: found {spec:?}, allowed: 16 bits, one channel",
        path.display()
    );
    let samples: Vec<f32> = reader
        .samples::<i16>()
        .map(|sample| Ok(f32::from(sample?) / 32_768.0))
        .collect::<Result<_, hound::Error>>()
        .with_context(place)?;
    Ok(resample(&samples, f64::from(spec.sample_rate), 16_000.0))
}

/// Reads the titles of a catalogue, JSON Lines.
fn titles(catalogue: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(catalogue).with_context(|| format!("cannot read {}", catalogue.display()))?;
    text.lines()
        .map(|line| {
            let item: serde_json::Value =
                serde_json::from_str(line).with_context(|| format!("{}: {line}", catalogue.display()))?;
            item["title"]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("{}: no title in {line}", catalogue.display()))
        })
        .collect()
}

fn text(rng: &mut StdRng, titles: &[String]) -> String {
    const DIGITS: [&str; 10] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
    let title = titles.choose(rng).map_or("", String::as_str);
    match rng.random_range(0..8) {
        0 => format!("{title}."),
        1 => format!("I am looking for a {title}, please."),
        2 => format!("Do you have any {title} that is not too expensive?"),
        3 => (0..rng.random_range(1..5)).map(|_| DIGITS[rng.random_range(0..10)]).collect::<Vec<_>>().join(", "),
        _ => TEXTS[rng.random_range(0..TEXTS.len())].to_owned(),
    }
}

fn synthesize(engine: &str, voice: &str, text: &str, rng: &mut StdRng, file: &Path) -> Result<Vec<f32>> {
    let mut command = match engine {
        "espeak-ng" => {
            let mut command = Command::new("espeak-ng");
            let (speed, pitch) = (rng.random_range(130..210), rng.random_range(30..70));
            command.args(["-v", voice, "-s", &speed.to_string(), "-p", &pitch.to_string(), "-w"]).arg(file).arg(text);
            command
        }
        "flite" => {
            let mut command = Command::new("flite");
            command.args(["-voice", voice, "-t", text, "-o"]).arg(file);
            command
        }
        _ => {
            let input = file.with_extension("txt");
            fs::write(&input, text)?;
            let mut command = Command::new("text2wave");
            command.args(["-eval", &format!("(voice_{voice})"), "-o"]).arg(file).arg(input);
            command
        }
    };
    let output = command.output().with_context(|| format!("cannot run {engine}"))?;
    ensure!(output.status.success(), "{engine} {voice}: {}", String::from_utf8_lossy(&output.stderr));
    read(file)
}
