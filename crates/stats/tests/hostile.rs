//! Decoding is total: any bytes give a profile or an error, and a profile read is written back as
//! the same bytes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use driftline_stats::{
    DROPPED, JointProfile, Profile, ProfileBody, ProfileKey, ProfileSet, Reference, ReferenceId, References, Scale,
    Signal, Window,
};
use driftline_types::{PipelineName, StageName, StageVersion, Timestamp};
use proptest::{collection::vec, prelude::*};

static LEVEL: Signal = Signal::number("level", "dBFS", "Level.", Scale::Linear { lo: -90.0, hi: 0.0 });
static WORD: Signal = Signal::category("word", "Word.");
static MEANING: Signal = Signal::embedding("meaning", "Meaning.", 2);

fn profiles() -> [Profile; 2] {
    let mut set = ProfileSet::new(Arc::new(Reference::declared()));
    let mut joint = JointProfile::new(ReferenceId::DECLARED, ReferenceId::DECLARED);
    for i in 0..60u8 {
        let word = format!("word {i}");
        let code = set.observe(|visit| {
            visit.number(&LEVEL, (i % 7 > 0).then_some(-f64::from(i) * 1.7));
            visit.category(&WORD, Some(&word));
            visit.embedding(&MEANING, Some(&[f32::from(i), 1.0]));
        });
        joint.observe(code, if i % 9 == 0 { DROPPED } else { code + 1 });
    }
    [ProfileBody::Output(set), ProfileBody::Joint(joint)].map(|body| Profile {
        key: ProfileKey {
            pipeline: PipelineName::try_new("speech").unwrap(),
            stage: StageName::try_new("vad").unwrap(),
            version: StageVersion::try_new("v1").unwrap(),
            window: Window { start: Timestamp::from_millis(-5), millis: 10_000 },
        },
        body,
    })
}

/// Decodes; what is a profile must be written back alike, and must survive use.
fn read(bytes: &[u8]) {
    let Ok(mut profile) = Profile::decode(bytes, &References::default()) else { return };
    assert_eq!(profile.encode(), bytes);
    let copy = profile.clone();
    profile.merge(&copy).unwrap();
    if let ProfileBody::Input(set) | ProfileBody::Output(set) = &mut profile.body {
        set.observe(|visit| visit.number(&LEVEL, Some(-3.0)));
        for (_, _, signal) in set.signals() {
            if let driftline_stats::SignalProfile::Number(number) = signal {
                let _ = (number.mean(), number.std(), number.quantile(0.5));
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..200)) {
        read(&bytes);
    }

    /// Bytes with a valid head, so that the body is reached.
    #[test]
    fn any_body(side in 0..2usize, bytes in vec(prop_oneof![any::<u8>(), 0..8u8], 0..200)) {
        let whole = profiles()[side].encode();
        let head = whole.len().min(22);
        read(&[&whole[..head], &bytes].concat());
    }

    /// A few changes to a valid profile.
    #[test]
    fn changed_bytes(side in 0..2usize, changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = profiles()[side].encode();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        read(&bytes);
    }
}

#[test]
fn every_cut_is_an_error_and_so_is_a_byte_more() {
    for profile in profiles() {
        let bytes = profile.encode();
        for end in 0..bytes.len() {
            assert!(Profile::decode(&bytes[..end], &References::default()).is_err(), "{end}");
        }
        let error = Profile::decode(&[&bytes[..], &[0]].concat(), &References::default()).unwrap_err();
        assert!(error.to_string().ends_with("number of bytes after the profile is 1, allowed are 0"), "{error}");
    }
}

#[test]
fn merges_that_must_not_be_are_refused_by_name() {
    let [output, joint] = profiles();
    let mut other = output.clone();
    other.key.version = StageVersion::try_new("v2").unwrap();
    let error = other.merge(&output).unwrap_err().to_string();
    assert_eq!(error, "profiles differ in stage version: v2 and v1, allowed are equal ones");
    let error = output.clone().merge(&joint).unwrap_err().to_string();
    assert_eq!(error, "profiles differ in direction: output and joint, allowed are equal ones");

    static LOUDER: Signal = Signal::number("level", "dBFS", "Level.", Scale::Linear { lo: -60.0, hi: 6.0 });
    let mut set = ProfileSet::new(Arc::new(Reference::declared()));
    set.observe(|visit| visit.number(&LOUDER, Some(1.0)));
    let mut other = Profile { key: output.key.clone(), body: ProfileBody::Output(set) };
    let before = other.encode();
    let error = other.merge(&output).unwrap_err().to_string();
    assert_eq!(
        error,
        "profiles differ in signal \"level\": 32 linear bins over -60..=6 in \"dBFS\" and \
         32 linear bins over -90..=0 in \"dBFS\", allowed are equal ones"
    );
    assert_eq!(other.encode(), before, "a refused merge adds nothing");
}
