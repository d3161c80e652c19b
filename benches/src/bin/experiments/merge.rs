//! E1: replicas, late and out of order, end in the bytes of one pass.

use std::sync::Arc;

use driftline_stats::{
    JointProfile, Profile, ProfileBody, ProfileKey, ProfileSet, Reference, ReferenceId, References, Scale, Signal,
    SignalProfile, SignalVisitor, Window, jensen_shannon, psi,
};
use driftline_types::{PipelineName, StageName, StageVersion, Timestamp};
use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use rand_distr::{Distribution, LogNormal, Zipf};

use crate::{Length, report::Table};

static LENGTH: Signal = Signal::number("length", "s", "Length.", Scale::Log { lo: 0.01, hi: 1000.0 });
static WORD: Signal = Signal::category("word", "Word.");

struct Record {
    length: f64,
    word: String,
    codes: (u16, u16),
}

pub fn run(length: Length) -> anyhow::Result<Table> {
    let mut report = Table::new(
        "E1: profiles of random splits against one pass",
        &[
            "replicas",
            "splits",
            "records each",
            "profiles sent",
            "late and out of order",
            "sent twice, counted once",
            "equal bytes",
            "largest difference of PSI and JS",
        ],
    );
    let mut random = SmallRng::seed_from_u64(1);
    let (lengths, words) = (LogNormal::new(0.5, 0.8)?, Zipf::new(500.0, 1.2)?);
    let (splits, records) = (length.of(50, 3), length.of(5_000, 500));
    for replicas in [1, 2, 7, 64] {
        let (mut equal, mut sent, mut repeated, mut apart) = (0, 0, 0, 0.0f64);
        for _ in 0..splits {
            let stream: Vec<Record> = (0..records)
                .map(|_| Record {
                    length: lengths.sample(&mut random),
                    word: format!("word {}", words.sample(&mut random)),
                    codes: (random.random_range(0..40), random.random_range(0..40)),
                })
                .collect();
            let mut order: Vec<usize> = (0..records).collect();
            order.shuffle(&mut random);
            let mut parts: Vec<Vec<&Record>> = (0..replicas).map(|_| Vec::new()).collect();
            let mut deltas = Vec::new();
            for at in order {
                let replica = random.random_range(0..replicas);
                parts[replica].push(&stream[at]);
                if random.random_range(0..50) == 0 {
                    deltas.push(std::mem::take(&mut parts[replica]));
                }
            }
            deltas.extend(parts);
            // A replica that was killed sends its last profile again: the same commit, so the same number.
            let mut messages: Vec<(usize, [Vec<u8>; 2])> = deltas
                .iter()
                .enumerate()
                .map(|(number, part)| anyhow::Ok((number, profiles(part)?.map(|one| one.encode()))))
                .collect::<Result<_, _>>()?;
            let again: Vec<_> = messages.iter().filter(|_| random.random_range(0..10) == 0).cloned().collect();
            repeated += again.len();
            messages.extend(again);
            messages.shuffle(&mut random);
            sent += messages.len();
            let mut sum = profiles(&[])?;
            let mut seen = vec![false; deltas.len()];
            for (number, message) in messages {
                if std::mem::replace(&mut seen[number], true) {
                    continue;
                }
                for (sum, bytes) in sum.iter_mut().zip(message) {
                    sum.merge(&Profile::decode(&bytes, &References::default())?)?;
                }
            }
            let once = profiles(&stream.iter().collect::<Vec<_>>())?;
            equal += usize::from(sum.iter().zip(&once).all(|(sum, once)| sum.encode() == once.encode()));
            let other: Vec<u64> = counts(&once[0])?.iter().rev().copied().collect();
            for distance in [psi, jensen_shannon] {
                let both =
                    [counts(&sum[0])?, counts(&once[0])?].map(|counts| distance(&counts, &other).unwrap_or(f64::NAN));
                apart = apart.max((both[0] - both[1]).abs());
            }
        }
        report.row([
            replicas.to_string(),
            splits.to_string(),
            records.to_string(),
            sent.to_string(),
            "all".to_owned(),
            repeated.to_string(),
            format!("{equal} of {splits}"),
            format!("{apart:.0e}"),
        ]);
    }
    Ok(report)
}

fn profiles(records: &[&Record]) -> anyhow::Result<[Profile; 2]> {
    let mut set = ProfileSet::new(Arc::new(Reference::declared()));
    let mut joint = JointProfile::new(ReferenceId::DECLARED, ReferenceId::DECLARED);
    for record in records {
        set.observe(|visit: &mut dyn SignalVisitor| {
            visit.number(&LENGTH, Some(record.length));
            visit.category(&WORD, Some(&record.word));
        });
        joint.observe(record.codes.0, record.codes.1);
    }
    let key = ProfileKey {
        pipeline: PipelineName::try_new("experiment")?,
        stage: StageName::try_new("stage")?,
        version: StageVersion::try_new("1")?,
        window: Window { start: Timestamp::from_millis(0), millis: 10_000 },
    };
    Ok([Profile { key: key.clone(), body: ProfileBody::Output(set) }, Profile { key, body: ProfileBody::Joint(joint) }])
}

fn counts(profile: &Profile) -> anyhow::Result<Vec<u64>> {
    let ProfileBody::Output(set) = &profile.body else { anyhow::bail!("no profile of an output") };
    let Some(SignalProfile::Number(number)) = set.signal("length") else { anyhow::bail!("no signal `length`") };
    Ok(number.ordered().to_vec())
}
