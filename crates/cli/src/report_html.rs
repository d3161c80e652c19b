//! The report as one page: no scripts, no assets from elsewhere, plots as SVG.

use driftline_monitor::{Bar, NodeReport, Report};

use crate::report::{evidence, verdict};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}\
h1{font-size:1.3rem}h2{font-size:1.05rem;margin-top:2rem}.said{font-size:1.1rem}table{border-collapse:collapse}\
td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}.n{text-align:right}.grey{color:#777}\
figure{display:inline-block;margin:0 1.5rem 1rem 0}figcaption{font-size:.85rem;max-width:20rem}";

const BOX: (usize, usize) = (150, 54);
const GAP: (usize, usize) = (50, 24);
const PLOT: (f64, f64) = (300.0, 90.0);

/// Makes the page of a report.
pub(crate) fn page(report: &Report) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{0}</title><style>{STYLE}</style>\n<h1>{0}</h1>\n<p class=\"said\">{1}</p>\n",
        escaped(report.pipeline.as_str()),
        escaped(&report.sentence)
    );
    out.push_str(&format!("<p class=\"grey\">{}", evidence(report)));
    if let Some((first, last)) = report.span {
        out.push_str(&format!("; compared: windows from {first} to {last}"));
    }
    out.push_str("</p>\n");
    out.push_str(&graph(&report.nodes));
    for trace in report.traces.iter().filter(|trace| !trace.shares.is_empty()) {
        out.push_str(&format!("<h2>Whose doing the change of {} is</h2>\n<table>", escaped(trace.target.as_str())));
        for share in &trace.shares {
            let (low, high) = share.interval;
            out.push_str(&format!(
                "<tr><td>{}<td class=\"n\">{:.0} %<td class=\"grey\">{:.0} to {:.0}<td>{}",
                escaped(&share.node),
                100.0 * share.share,
                100.0 * low,
                100.0 * high,
                meter(share.share)
            ));
        }
        out.push_str("</table>\n");
    }
    for node in &report.nodes {
        out.push_str(&format!("<h2>{}: {}</h2>\n", escaped(node.node.as_str()), verdict(node).0));
        for signal in &node.signals {
            out.push_str(&format!(
                "<figure>{}<figcaption><b>{}</b> {}<br>{}<br><span class=\"grey\">evidence {:.1}</span></figcaption></figure>\n",
                plot(&signal.bars),
                escaped(&signal.what.to_string()),
                escaped(&signal.unit),
                escaped(&signal.change),
                signal.evidence
            ));
        }
    }
    let list = |title: &str, items: Vec<String>| {
        if items.is_empty() {
            return String::new();
        }
        let items: String = items.iter().map(|item| format!("<li>{}", escaped(item))).collect();
        format!("<h2>{title}</h2>\n<ul>{items}</ul>\n")
    };
    let alarms = report.alarms.iter().map(|alarm| format!("{} {}: {}", alarm.id, alarm.state, alarm.summary));
    out.push_str(&list("Alarms", alarms.collect()));
    out.push_str(&list("Rules", report.rules.clone()));
    out.push_str(&list("Notes", report.notes.clone()));
    out.push_str("<p class=\"grey\">Grey: the reference. Blue: now.</p></html>\n");
    out
}

/// Draws the graph: a column for each distance from a source.
fn graph(nodes: &[NodeReport]) -> String {
    let mut places: Vec<(usize, usize)> = Vec::new();
    for node in nodes {
        let parents = node.inputs.iter().filter_map(|input| nodes.iter().position(|other| other.node == *input));
        let column = parents.filter_map(|at| places.get(at)).map(|(column, _)| column + 1).max().unwrap_or(0);
        let row = places.iter().filter(|(other, _)| *other == column).count();
        places.push((column, row));
    }
    let corner = |(column, row): (usize, usize)| (column * (BOX.0 + GAP.0) + 2, row * (BOX.1 + GAP.1) + 2);
    let (width, height) = places
        .iter()
        .map(|&place| corner(place))
        .fold((0, 0), |(w, h), (x, y)| (w.max(x + BOX.0 + 4), h.max(y + BOX.1 + 4)));
    let mut out = format!("<svg width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"the graph\">");
    for (node, &place) in nodes.iter().zip(&places) {
        let (x, y) = corner(place);
        for at in node.inputs.iter().filter_map(|input| nodes.iter().position(|other| other.node == *input)) {
            let (from_x, from_y) = corner(places[at]);
            out.push_str(&format!(
                "<line x1=\"{}\" y1=\"{}\" x2=\"{x}\" y2=\"{}\" stroke=\"#888\" stroke-width=\"2\"/>",
                from_x + BOX.0,
                from_y + BOX.1 / 2,
                y + BOX.1 / 2
            ));
        }
        let (word, colour) = verdict(node);
        let fill = match colour {
            "31" => "#f6c5c0",
            "32" => "#cfe8cf",
            "33" => "#f7e3a6",
            _ => "#e4e4e4",
        };
        out.push_str(&format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"6\" fill=\"{fill}\"/><text x=\"{tx}\" y=\"{}\" font-weight=\"600\">{}</text><text x=\"{tx}\" y=\"{}\" font-size=\"13\">{word}</text>",
            BOX.0,
            BOX.1,
            y + 22,
            escaped(node.node.as_str()),
            y + 42,
            tx = x + 10
        ));
    }
    out.push_str("</svg>\n");
    out
}

/// Draws the shares of a signal's parts, reference behind current.
fn plot(bars: &[Bar]) -> String {
    let (width, height) = PLOT;
    let tallest = bars.iter().map(|bar| bar.before.max(bar.now)).fold(1e-9, f64::max);
    let step = width / bars.len().max(1) as f64;
    let mut out = format!("<svg width=\"{width}\" height=\"{height}\" role=\"img\">");
    for (at, bar) in bars.iter().enumerate() {
        let mut rectangle = |share: f64, inset: f64, fill: &str| {
            let tall = share / tallest * (height - 2.0);
            out.push_str(&format!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" fill=\"{fill}\"><title>{}: {:.1} % before, {:.1} % now</title></rect>",
                at as f64 * step + inset * step,
                height - tall,
                step * (1.0 - 2.0 * inset),
                escaped(&bar.label),
                100.0 * bar.before,
                100.0 * bar.now
            ));
        };
        rectangle(bar.before, 0.04, "#c9c9c9");
        rectangle(bar.now, 0.25, "#3a76b8");
    }
    out.push_str("</svg>");
    out
}

/// Draws a share as a bar; one below 0 to the left.
fn meter(share: f64) -> String {
    let length = 100.0 * share.abs().min(1.0);
    let (x, fill) = if share < 0.0 { (100.0 - length, "#999") } else { (100.0, "#3a76b8") };
    format!(
        "<svg width=\"210\" height=\"12\"><rect x=\"{x:.1}\" y=\"1\" width=\"{length:.1}\" height=\"10\" fill=\"{fill}\"/></svg>"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(escaped("<script>\"&\""), "&lt;script&gt;&quot;&amp;&quot;");
        let bars = [Bar { label: "</title><b>".to_owned(), before: 0.5, now: 1.0 }];
        assert!(!plot(&bars).contains("<b>"));
    }
}
