//! The laws of profiles: whatever the values, their order and how replicas share them, the bytes
//! are those of one pass.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use driftline_stats::{
    DROPPED, Dictionary, Edges, EmbeddingBins, JointProfile, Profile, ProfileBody, ProfileKey, ProfileSet, Reference,
    ReferenceId, References, Scale, Signal, SignalBins, SignalVisitor, Window,
};
use driftline_types::{Code, PipelineName, StageName, StageVersion, Timestamp};
use proptest::{collection::vec, prelude::*};

static LEVEL: Signal = Signal::number("level", "dBFS", "Level.", Scale::Linear { lo: -90.0, hi: 0.0 });
static LENGTH: Signal = Signal::number("length", "s", "Length.", Scale::Log { lo: 0.01, hi: 1000.0 });
static WORD: Signal = Signal::category("word", "Word.");
static MEANING: Signal = Signal::embedding("meaning", "Meaning.", 3);

#[derive(Clone, Debug)]
struct Payload {
    level: Option<f64>,
    length: Option<f64>,
    word: Option<String>,
    meaning: Option<Vec<f32>>,
    codes: (Code, Code),
}

impl Payload {
    fn signals(&self, visit: &mut dyn SignalVisitor) {
        visit.number(&LEVEL, self.level);
        visit.number(&LENGTH, self.length);
        visit.category(&WORD, self.word.as_deref());
        visit.embedding(&MEANING, self.meaning.as_deref());
    }
}

/// Any float at all, and ordinary ones often.
fn number() -> impl Strategy<Value = Option<f64>> {
    let any = prop_oneof![
        3 => any::<f64>(),
        2 => any::<u64>().prop_map(f64::from_bits),
        3 => -100.0..100.0f64,
        1 => prop::sample::select(vec![0.0, -0.0, f64::MIN_POSITIVE, 5e-324, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -90.0, 1000.0]),
    ];
    prop::option::weighted(0.9, any)
}

/// Few words often, so that counts grow, and more new ones than the sample holds.
fn word() -> impl Strategy<Value = Option<String>> {
    let any = prop_oneof![3 => "[a-e]", 3 => "[a-z]{2}", 1 => "\\PC{0,80}"];
    prop::option::weighted(0.9, any)
}

fn payload() -> impl Strategy<Value = Payload> {
    let meaning = prop::option::weighted(0.9, vec(prop_oneof![-2.0..2.0f32, any::<f32>()], 2..4));
    let codes = (prop_oneof![0..40u16, any::<Code>()], prop_oneof![0..40u16, Just(DROPPED)]);
    (number(), number(), word(), meaning, codes).prop_map(|(level, length, word, meaning, codes)| Payload {
        level,
        length,
        word,
        meaning,
        codes,
    })
}

/// A reference from data for all signals but `length`.
fn fitted() -> Arc<Reference> {
    let sample: Vec<f64> = (0..1000).map(|i| f64::from(i).sin() * 30.0 - 40.0).collect();
    let vectors: Vec<[f32; 3]> =
        (0..200u8).map(|i| [f32::from(i % 7), f32::from(i % 5), f32::from(i) / 200.0]).collect();
    let signals = BTreeMap::from([
        ("level".to_owned(), SignalBins::Number(Edges::quantiles(&sample, 32).unwrap().into())),
        ("word".to_owned(), SignalBins::Category(Dictionary::try_new(["a", "b", "zz"]).unwrap().into())),
        ("meaning".to_owned(), SignalBins::Embedding(EmbeddingBins::fit(&vectors, 8, 1).unwrap().into())),
    ]);
    Arc::new(Reference::try_new(signals).unwrap())
}

fn key() -> ProfileKey {
    ProfileKey {
        pipeline: PipelineName::try_new("speech").unwrap(),
        stage: StageName::try_new("vad").unwrap(),
        version: StageVersion::try_new("a1b2c3").unwrap(),
        window: Window { start: Timestamp::from_millis(1_760_000_000_000), millis: 10_000 },
    }
}

fn output(reference: &Arc<Reference>, payloads: &[Payload]) -> Profile {
    let mut set = ProfileSet::new(reference.clone());
    for payload in payloads {
        let code = set.observe(|visit| payload.signals(visit));
        assert_eq!(code, reference.code(|visit| payload.signals(visit)));
    }
    Profile { key: key(), body: ProfileBody::Output(set) }
}

fn joint(payloads: &[Payload]) -> Profile {
    let mut joint = JointProfile::new(ReferenceId::DECLARED, ReferenceId::DECLARED);
    payloads.iter().for_each(|payload| joint.observe(payload.codes.0, payload.codes.1));
    Profile { key: key(), body: ProfileBody::Joint(joint) }
}

fn all(reference: &Arc<Reference>, payloads: &[Payload]) -> [Profile; 2] {
    [output(reference, payloads), joint(payloads)]
}

fn merged(mut into: Profile, from: &Profile) -> Profile {
    into.merge(from).unwrap();
    into
}

fn references(reference: &Arc<Reference>) -> References {
    let mut references = References::default();
    references.insert(reference.clone());
    references
}

proptest! {
    /// Each payload goes to one of up to 64 replicas, each replica sends a delta now and then over
    /// the wire, and all deltas are merged in another order.
    #[test]
    fn any_split_is_one_pass(
        payloads in vec((payload(), any::<u8>(), any::<bool>()), 0..300),
        replicas in 1..=64usize,
        order in any::<u64>(),
        declared in any::<bool>(),
    ) {
        let reference = if declared { Arc::new(Reference::declared()) } else { fitted() };
        let references = references(&reference);
        let mut deltas: Vec<Vec<Payload>> = vec![Vec::new(); replicas];
        for (payload, replica, commit) in &payloads {
            let replica = usize::from(*replica) % replicas;
            deltas[replica].push(payload.clone());
            if *commit {
                let delta = std::mem::take(&mut deltas[replica]);
                deltas.push(delta);
            }
        }
        deltas.sort_by_key(|delta| (delta.len() as u64).wrapping_mul(order | 1).rotate_left(17));
        let whole: Vec<Payload> = payloads.into_iter().map(|(payload, ..)| payload).collect();
        let once = all(&reference, &whole);
        let mut sum = all(&reference, &[]);
        for delta in &deltas {
            for (sum, part) in sum.iter_mut().zip(all(&reference, delta)) {
                sum.merge(&Profile::decode(&part.encode(), &references).unwrap()).unwrap();
            }
        }
        for (sum, once) in sum.iter().zip(&once) {
            prop_assert_eq!(sum, once);
            prop_assert_eq!(sum.encode(), once.encode());
        }
    }

    #[test]
    fn merge_is_associative_and_commutative_with_identity(
        [a, b, c] in [vec(payload(), 0..40), vec(payload(), 0..40), vec(payload(), 0..40)],
    ) {
        let reference = fitted();
        let profiles = [a, b, c].map(|payloads| all(&reference, &payloads));
        for side in 0..2 {
            let [a, b, c] = profiles.each_ref().map(|both| both[side].clone());
            let empty = all(&reference, &[])[side].clone();
            let left = merged(merged(a.clone(), &b), &c).encode();
            prop_assert_eq!(&left, &merged(a.clone(), &merged(b.clone(), &c)).encode());
            prop_assert_eq!(&left, &merged(c, &merged(b, &a)).encode());
            prop_assert_eq!(a.encode(), merged(a.clone(), &empty).encode());
            prop_assert_eq!(a.encode(), merged(empty, &a).encode());
        }
    }

    #[test]
    fn decode_inverts_encode(payloads in vec(payload(), 0..60)) {
        let reference = fitted();
        let references = references(&reference);
        for profile in all(&reference, &payloads).into_iter().chain(all(&Arc::new(Reference::declared()), &payloads)) {
            let bytes = profile.encode();
            let decoded = Profile::decode(&bytes, &references).unwrap();
            prop_assert_eq!(decoded.encode(), bytes);
            prop_assert_eq!(decoded, profile);
        }
    }
}
