//! `driftline feedback`: brings in what users did with predictions, and shows how good those were.

use std::{collections::HashSet, fs, io::Read, path::Path};

use driftline_runtime::feedback;
use driftline_stats::{Feedback, FeedbackRules, FeedbackWindow, Prediction, Uncounted, join};
use driftline_types::{RecordId, StageName, Timestamp};
use serde_json::{Value, json};

use crate::{
    Exit,
    args::{FeedbackArgs, Format},
    exit::Failure,
    log, print, table,
};

/// How many lines that are no feedback are told.
const SHOWN: usize = 10;

pub(crate) fn feedback(args: &FeedbackArgs) -> Result<Exit, Failure> {
    let plan = log::load(&args.pipeline)?;
    let stage = stage(&plan, args.stage.as_ref())?;
    let broker = log::open_existing(&plan, &[plan.name.output_topic(&stage), plan.name.feedback_topic()])?;
    let mut refused = 0;
    if let Some(file) = &args.file {
        let (taken, wrong) = read(file)?;
        refused = wrong.len();
        wrong.iter().take(SHOWN).for_each(|problem| print::tell!("{}:{problem}", file.display()));
        if refused > SHOWN {
            print::tell!("{}: and {} more", file.display(), refused - SHOWN);
        }
        feedback::write(&*broker, &plan.name, &taken).map_err(Failure::running)?;
        print::tell!("{}: {} taken, {refused} refused", file.display(), taken.len());
    }
    let predictions = feedback::predictions(&*broker, &plan, &stage).map_err(Failure::running)?;
    let given = feedback::read(&*broker, &plan.name).map_err(Failure::running)?;
    let rules = FeedbackRules {
        window_ms: i64::try_from(args.window.unwrap_or(plan.monitor.window).0).unwrap_or(i64::MAX),
        maturity_ms: i64::try_from(args.maturity.0).unwrap_or(i64::MAX),
    };
    let (windows, uncounted) = join(&predictions, &given, rules, reached(&predictions, &given, Timestamp::now()));
    match args.format {
        Format::Json => print::lines(windows.iter().map(describe))?,
        Format::Table => print::line(table::fitted(rows(&windows), &std::io::stdout()))?,
    };
    // As often without a change as an alarm of the monitor.
    let level = plan.monitor.run_length as f64;
    if let Some(window) = windows.iter().find(|window| window.evidence >= level) {
        let (start, evidence) = (window.start, window.evidence);
        print::tell!(
            "{stage}: by {start} it is evident ({evidence:.0} of {level:.0}) that confidences no longer mean what they did"
        );
    }
    let Uncounted { unmatched, late, duplicated } = uncounted;
    print::tell!(
        "{stage}: {}, {unmatched} of unknown records, {late} late, {duplicated} repeated",
        print::counted(given.len() as u64, "reaction")
    );
    Ok(if refused > 0 { Exit::Failed } else { Exit::Success })
}

/// Returns how far event time has come, by predictions and by feedback on them. Users' clocks may be ahead of this machine's:
/// theirs tell no more than `now`.
fn reached(predictions: &[Prediction], given: &[Feedback], now: Timestamp) -> Timestamp {
    let known: HashSet<&RecordId> = predictions.iter().map(|prediction| &prediction.record).collect();
    let matched = given.iter().filter(|given| known.contains(&given.record)).map(|given| given.at.min(now));
    predictions.iter().map(|prediction| prediction.time).chain(matched).max().unwrap_or_default()
}

/// Returns the stage whose predictions are judged: the one named, or the one that the first sink reads.
fn stage(plan: &driftline_pipeline::Plan, named: Option<&StageName>) -> Result<StageName, Failure> {
    let Some(named) = named else {
        let read = plan.sinks.first().and_then(|sink| sink.inputs.first());
        return read.cloned().ok_or_else(|| Failure::usage(format!("{}: has no sink", plan.file.display())));
    };
    if plan.stages.iter().any(|node| node.name == *named) {
        return Ok(named.clone());
    }
    let allowed = plan.stages.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ");
    Err(Failure::usage(format!("--stage: found {named:?}, allowed are {allowed}")))
}

/// Reads lines of feedback; `-` is standard input. Those that are none are told by their number.
fn read(file: &Path) -> Result<(Vec<Feedback>, Vec<String>), Failure> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    let text = text.map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    let (mut taken, mut wrong) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(feedback) => taken.push(feedback),
            // The number of the line is that of the file.
            Err(error) => {
                let error = error.to_string().replace(" at line 1 column ", " at column ");
                wrong.push(format!("{number}: {error}"));
            }
        }
    }
    Ok((taken, wrong))
}

fn describe(window: &FeedbackWindow) -> Value {
    let rate = |count| window.rate(count);
    json!({
        "window": window.start.to_string(), "mature": window.mature, "predictions": window.predictions,
        "click_through": rate(window.clicked), "redo": rate(window.redone), "corrected": rate(window.corrected),
        "contradictory": rate(window.contradictory), "word_error": window.word_error(),
        "labelled": window.labelled.0, "accuracy": window.accuracy(),
        "estimate": window.estimate, "gap": window.gap, "evidence": window.evidence,
    })
}

fn rows(windows: &[FeedbackWindow]) -> comfy_table::Table {
    let header = [
        "window",
        "predictions",
        "clicked",
        "redone",
        "corrected",
        "word error",
        "labelled",
        "accuracy",
        "estimated",
        "gap",
        "evidence",
    ];
    let mut table = table::table(&header, 1);
    let percent = |share: Option<f64>| share.map_or_else(String::new, |share| format!("{:.1} %", 100.0 * share));
    for window in windows {
        table.add_row([
            format!("{}{}", window.start, if window.mature { "" } else { " (not mature)" }),
            window.predictions.to_string(),
            percent(window.rate(window.clicked)),
            percent(window.rate(window.redone)),
            percent(window.rate(window.corrected)),
            percent(window.word_error()),
            window.labelled.0.to_string(),
            percent(window.accuracy()),
            percent(window.estimate.map(|estimate| estimate.accuracy)),
            window.gap.map_or_else(String::new, |gap| format!("{gap:+.1}")),
            format!("{:.0}", window.evidence),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use driftline_stats::Reaction;
    use driftline_types::Topic;

    use super::*;

    #[test]
    fn a_clock_that_is_ahead_makes_no_window_mature() {
        let at = |seconds: i64| Timestamp::from_millis(1_000 * seconds);
        let record =
            |offset| RecordId { topic: Topic::try_new("speech.search").unwrap(), partition: 0, offset, index: 0 };
        let predictions = [Prediction { record: record(0), time: at(10), confidence: None, transcript: None }];
        let given = |offset, seconds| Feedback {
            record: record(offset),
            at: at(seconds),
            kind: Reaction::Clicked,
            transcript: None,
        };
        let now = at(100);
        assert_eq!(reached(&predictions, &[given(0, 40)], now), at(40));
        assert_eq!(reached(&predictions, &[given(7, 40)], now), at(10));
        assert_eq!(reached(&predictions, &[given(0, 4_000)], now), now);
        assert_eq!(reached(&[], &[], now), at(0));
    }
}
