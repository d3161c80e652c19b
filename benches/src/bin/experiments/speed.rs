//! E8: is the speed of a change named rightly, and its onset?

use driftline_stats::{Speed, speed};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution, StandardNormal};

use crate::{
    Length,
    report::{Table, mean, quantile},
};

const WINDOWS: usize = 240;
const DAY: usize = 24;

/// What happens to a series of standardised scores.
#[derive(Clone, Copy)]
enum Truth {
    Step,
    Ramp(usize),
    Season,
    Nothing,
}

pub fn run(length: Length) -> anyhow::Result<Table> {
    let mut report = Table::new(
        format!("E8: speed of a change in {WINDOWS} windows of an hour, noise of 1, sizes 2 to 6"),
        &["what happens", "series", "sudden", "gradual", "seasonal", "unclear", "right", "onset off by, median (p90)"],
    );
    let mut random = SmallRng::seed_from_u64(8);
    let cases = [
        ("step", Truth::Step),
        ("ramp over 12 windows", Truth::Ramp(12)),
        ("ramp over 24 windows", Truth::Ramp(24)),
        ("ramp over 72 windows", Truth::Ramp(72)),
        ("season only", Truth::Season),
        ("nothing", Truth::Nothing),
    ];
    let (mut right_of_all, mut all) = (0, 0);
    for (name, truth) in cases {
        let series = length.of(300, 20);
        let (mut seen, mut off) = ([0; 4], Vec::new());
        for _ in 0..series {
            let size = random.random_range(2.0..6.0) * if random.random() { 1.0 } else { -1.0 };
            let from = random.random_range(100..150);
            let phase: f64 = random.random();
            let curve = |t: usize| match truth {
                Truth::Step => f64::from(u8::from(t >= from)) * size,
                Truth::Ramp(width) => ((t as f64 - from as f64 + 1.0) / width as f64).clamp(0.0, 1.0) * size,
                Truth::Season => ((t as f64 / DAY as f64 + phase) * std::f64::consts::TAU).sin() * size,
                Truth::Nothing => 0.0,
            };
            let values: Vec<f64> = (0..WINDOWS)
                .map(|t| {
                    let noise: f64 = StandardNormal.sample(&mut random);
                    curve(t) + noise
                })
                .collect();
            match speed(&values, DAY) {
                Speed::Sudden { onset, .. } => {
                    seen[0] += 1;
                    off.push((onset, from));
                }
                Speed::Gradual { onset, .. } => {
                    seen[1] += 1;
                    off.push((onset, from));
                }
                Speed::Seasonal { .. } => seen[2] += 1,
                Speed::Unclear => seen[3] += 1,
            }
        }
        let (right, width) = match truth {
            Truth::Step => (seen[0], None),
            Truth::Ramp(width) => (seen[1], Some(width)),
            Truth::Season => (seen[2], None),
            Truth::Nothing => (seen[3], None),
        };
        if !matches!(truth, Truth::Nothing) {
            right_of_all += right;
            all += series;
        }
        let distances: Vec<f64> =
            off.iter().map(|&(found, from): &(usize, usize)| found.abs_diff(from) as f64).collect();
        let unit = width.map_or((1.0, ""), |width| (100.0 / width as f64, " % of the width"));
        let onset = match truth {
            Truth::Step => format!("{:.0} ({:.0}) windows", quantile(&distances, 0.5), quantile(&distances, 0.9)),
            Truth::Ramp(_) => {
                format!(
                    "{:.0} ({:.0}){}",
                    quantile(&distances, 0.5) * unit.0,
                    quantile(&distances, 0.9) * unit.0,
                    unit.1
                )
            }
            Truth::Season | Truth::Nothing => String::new(),
        };
        let percent = 100.0 * f64::from(right) / f64::from(series);
        let mut row = vec![name.to_owned(), series.to_string()];
        row.extend(seen.map(|count: i32| count.to_string()));
        row.extend([format!("{percent:.1} %"), onset]);
        report.row(row);
    }
    let whole = mean(&[100.0 * f64::from(right_of_all) / f64::from(all)]);
    report.row(["does nothing", "", "", "", "", "all", "0 %", ""]);
    report.row(["always says sudden", "", "all", "", "", "", "20 %", "–"]);
    report.note(format!("Steps, ramps and seasons together: {whole:.1} % right."));
    Ok(report)
}
