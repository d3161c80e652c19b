//! `driftline report`.

use std::{fs, io::IsTerminal};

use driftline_monitor::{Bar, NodeReport, Report, Service};
use driftline_stats::Verdict;

use crate::{
    Exit,
    args::ReportArgs,
    exit::Failure,
    log, monitor, print, reference, report_html,
    run::execute_first,
    table::{fitted, table},
};

pub(crate) fn report(args: &ReportArgs) -> Result<Exit, Failure> {
    let plan = log::load(&args.pipeline)?;
    if !plan.monitor.is_on() {
        return Err(Failure::usage(format!(
            "{}: monitor.reference: is missing, and there are no monitor.rules: nothing is watched",
            plan.file.display()
        )));
    }
    let broker = log::open_to_read(&plan, &[plan.name.monitor_state_topic()])?;
    let baseline = reference::watched(&plan)?;
    let mut exit = Exit::Success;
    if !log::is_durable(&plan) {
        let beside = monitor::Beside::new(&plan, &broker, &baseline, None)?;
        exit = Exit::from(execute_first(&plan, &broker, Some(beside))?.end);
    }
    let service = Service::new(broker, monitor::settings(&plan)?, baseline);
    let report = service.look().map_err(Failure::running)?.report();
    if let Some(path) = &args.html {
        fs::write(path, report_html::page(&report))
            .map_err(|error| Failure::running(format!("{}: {error}", path.display())))?;
        print::tell!("{}", path.display());
    }
    if args.json {
        print::line(serde_json::to_string(&report).map_err(Failure::running)?)?;
    } else if args.html.is_none() {
        print::text(text(&report, std::io::stdout().is_terminal()))?;
    }
    Ok(exit)
}

/// Names a verdict, and its colour: green, yellow, red, grey.
pub(crate) fn verdict(node: &NodeReport) -> (&'static str, &'static str) {
    match node.verdict {
        Some(Verdict::Unchanged) => ("unchanged", "32"),
        Some(Verdict::InputMoved) => ("input moved", "33"),
        Some(Verdict::StageChanged) if node.inputs.is_empty() => ("source changed", "31"),
        Some(Verdict::StageChanged) => ("stage changed", "31"),
        Some(Verdict::VersionChanged) => ("version changed", "31"),
        Some(Verdict::HiddenInput) => ("hidden input", "33"),
        Some(Verdict::Undetermined) => ("undetermined", "90"),
        None => ("not judged", "90"),
    }
}

/// Says how strong the evidence of a change is, and of how many windows. It starts anew after an alarm, so while one is
/// active its own counts.
pub(crate) fn evidence(report: &Report) -> String {
    let alarm = report.alarms.iter().find(|alarm| alarm.state.is_active() && alarm.is_drift());
    let (evidence, when) = alarm.map_or((report.evidence, ""), |alarm| (alarm.evidence, " when it was last confirmed"));
    let windows = print::counted(report.windows, "window");
    format!("evidence {evidence:.1}{when}, an alarm from {}; {windows} judged", report.run_length)
}

/// Writes a report for a terminal.
fn text(report: &Report, coloured: bool) -> String {
    let paint = |text: &str, colour: &str| {
        if coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    };
    let mut out = format!("{}: {}\n", report.pipeline, report.sentence);
    out.push_str(&evidence(report));
    if let Some((first, last)) = report.span {
        out.push_str(&format!("; compared: windows from {first} to {last}"));
    }
    out.push_str("\n\n");
    for node in &report.nodes {
        let (word, colour) = verdict(node);
        let inputs: Vec<&str> = node.inputs.iter().map(driftline_types::StageName::as_str).collect();
        let from = if inputs.is_empty() { String::new() } else { format!(" ◄─ {}", inputs.join(", ")) };
        out.push_str(&format!("  {} {}{from}: {word}\n", paint("●", colour), node.node));
    }
    for trace in report.traces.iter().filter(|trace| !trace.shares.is_empty()) {
        out.push_str(&format!("\n  the change of {} is due to\n", trace.target));
        for share in &trace.shares {
            let (low, high) = share.interval;
            out.push_str(&format!(
                "    {:>4.0} % ({:.0} to {:.0}) {}\n",
                100.0 * share.share,
                100.0 * low,
                100.0 * high,
                share.node
            ));
        }
    }
    let mut rows = table(&["node", "signal", "unit", "reference", "now", "evidence", "change"], 6);
    for node in &report.nodes {
        for signal in &node.signals {
            rows.add_row([
                node.node.to_string(),
                signal.what.to_string(),
                signal.unit.clone(),
                sparkline(&signal.bars, |bar| bar.before),
                sparkline(&signal.bars, |bar| bar.now),
                format!("{:.1}", signal.evidence),
                print::visible(&signal.change, &[]),
            ]);
        }
    }
    out.push_str(&format!("\n{}\n", fitted(rows, &std::io::stdout())));
    for alarm in &report.alarms {
        out.push_str(&format!("{} {}: {}\n", alarm.id, alarm.state, alarm.summary));
    }
    for rule in &report.rules {
        out.push_str(&format!("rule {rule}\n"));
    }
    report.notes.iter().for_each(|note| out.push_str(&format!("note: {note}\n")));
    out
}

/// Draws shares as bars, the tallest of both sides being full.
fn sparkline(bars: &[Bar], of: impl Fn(&Bar) -> f64) -> String {
    const LEVELS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let tallest = bars.iter().map(|bar| bar.before.max(bar.now)).fold(1e-9, f64::max);
    bars.iter().map(|bar| LEVELS[(8.0 * of(bar) / tallest).ceil().clamp(0.0, 8.0) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_tall_as_shares() {
        let bar = |before, now| Bar { label: String::new(), before, now };
        let bars = [bar(0.5, 1.0), bar(0.0, 0.0), bar(0.25, 0.01)];
        assert_eq!(sparkline(&bars, |bar| bar.before), "▄ ▂");
        assert_eq!(sparkline(&bars, |bar| bar.now), "█ ▁");
    }
}
