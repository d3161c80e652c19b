//! E3: how often nothing changed and an alarm was raised.

use std::time::Instant;

use driftline_stats::{Detector, HISTORY, HourOfWeek, ScoreBasis, psi};
use driftline_types::Timestamp;

use crate::{
    Length, peers,
    report::{Table, poisson_upper},
    simulate::{Laws, Null, SLOTS, Simulated, reference},
};

/// The threshold, in windows.
const LEVEL: f64 = 10_000.0;
/// The windows before counting starts: the detector must have a full history of healthy windows.
const WARM_UP: u64 = 2 * HISTORY as u64;

pub fn run(length: Length) -> anyhow::Result<Table> {
    let windows = length.of(1_000_000, 20_000);
    let mut table = Table::new(
        format!("E3: alarms in {windows} windows without a change, threshold A = 10⁴ windows"),
        &[
            "what stays the same",
            "detector",
            "signals",
            "alarms",
            "a million windows",
            "upper 95 % limit",
            "µs a window",
        ],
    );
    let laws = Laws::new();
    for null in Null::ALL {
        for signals in [1, 200] {
            let run = ours(&laws, null, signals, windows);
            row(&mut table, null, "Driftline", signals, run.alarms, windows, Some(run.micros));
            if signals == 1 {
                row(&mut table, null, "PSI > 0.1 a window", 1, run.psi, windows, None);
            }
        }
        match peers::window_means(null, &means(&laws, null, length.of(200_000, 5_000)))? {
            Some(found) => {
                row(
                    &mut table,
                    null,
                    "ADWIN (River, δ = .002) on window means",
                    1,
                    found.adwin,
                    found.adwin_windows,
                    None,
                );
                row(
                    &mut table,
                    null,
                    "KSWIN (River, α = .005) on window means",
                    1,
                    found.kswin,
                    found.kswin_windows,
                    None,
                );
            }
            None => table.row([null.name(), "ADWIN, KSWIN", "1", "not installed", "", "", ""]),
        }
    }
    row(&mut table, Null::Iid, "does nothing", 1, 0, windows, None);
    row(&mut table, Null::Iid, "always fires", 1, windows, windows, None);
    table.note("One detector on the mean over 200 independent signals, or one signal. Histories are filled for 2,048 windows before counting starts. Time includes drawing the records.");
    Ok(table)
}

fn row(table: &mut Table, null: Null, what: &str, signals: usize, alarms: u64, windows: u64, micros: Option<f64>) {
    let scale = 1e6 / windows as f64;
    table.row([
        null.name().to_owned(),
        what.to_owned(),
        signals.to_string(),
        format!("{alarms} of {windows}"),
        format!("{:.0}", alarms as f64 * scale),
        format!("{:.0}", poisson_upper(alarms) * scale),
        micros.map(|micros| format!("{micros:.2}")).unwrap_or_default(),
    ]);
}

struct Run {
    alarms: u64,
    psi: u64,
    micros: f64,
}

/// One signal and what watches it.
#[derive(Clone)]
struct Watched {
    signal: Simulated,
    detector: Detector,
}

/// Runs signal by signal through blocks of windows, so that the state of one stays in the processor's
/// cache; a block in which the mean reaches the threshold is run again up to there.
fn ours(laws: &Laws, null: Null, signals: usize, windows: u64) -> Run {
    const BLOCK: u64 = 2048;
    let basis = ScoreBasis::number(&reference());
    let detector = Detector::weighted(&basis.weights());
    let seeds = (0..signals as u64).map(|signal| 1_000 * signals as u64 + signal);
    let mut watched: Vec<Watched> =
        seeds.map(|seed| Watched { signal: Simulated::new(null, seed), detector: detector.clone() }).collect();
    let (mut counts, mut scores) = ([0; SLOTS], Vec::new());
    let mut advance = |watched: &mut [Watched], from: u64, to: u64, sums: &mut Vec<f64>| {
        let mut psis = 0;
        sums.clear();
        sums.resize((to - from) as usize, 0.0);
        for Watched { signal, detector } in watched {
            for (hour, sum) in (from..to).zip(sums.iter_mut()) {
                let slot = HourOfWeek::of(Timestamp::from_millis(hour as i64 * 3_600_000));
                signal.window(laws, hour, &mut counts);
                if basis.scores_into(&[&counts], &mut scores) {
                    *sum += detector.observe(slot, &scores);
                }
                if signals == 1 && hour >= WARM_UP {
                    psis += u64::from(psi(&counts, &reference()).is_some_and(|psi| psi > 0.1));
                }
            }
        }
        psis
    };
    let end = windows + WARM_UP;
    let (mut hour, mut alarms, mut psi, mut sums) = (0, 0, 0, Vec::new());
    let started = Instant::now();
    while hour < end {
        let to = (hour + BLOCK).min(end);
        let before = watched.clone();
        let mut shifted = advance(&mut watched, hour, to, &mut sums);
        let fired = sums.iter().position(|sum| sum / signals as f64 >= LEVEL);
        hour = match fired {
            None => to,
            Some(at) => {
                let after = hour + at as u64 + 1;
                watched = before;
                shifted = advance(&mut watched, hour, after, &mut sums);
                watched.iter_mut().for_each(|one| one.detector.reset());
                alarms += u64::from(after > WARM_UP);
                after
            }
        };
        psi += shifted;
    }
    Run { alarms, psi, micros: started.elapsed().as_secs_f64() * 1e6 / end as f64 }
}

/// The location score of each window, as a detector of single numbers would be fed.
fn means(laws: &Laws, null: Null, windows: u64) -> Vec<f64> {
    let basis = ScoreBasis::number(&reference());
    let (mut simulated, mut counts) = (Simulated::new(null, 7), [0; SLOTS]);
    let score = |hour| {
        simulated.window(laws, hour, &mut counts);
        let n = counts.iter().sum::<u64>() as f64;
        basis.scores_of(&[&counts]).map(|scores| scores[0] / n.sqrt())
    };
    (0..windows).filter_map(score).collect()
}
