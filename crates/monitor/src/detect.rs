//! The detectors of a baseline: what was seen, window after window, and the evidence that it has changed.
//!
//! Detectors are a function of the windows that they have seen. To keep what must be remembered small, they begin
//! anew at every [`EPOCH`]th window from the baseline and the windows since the epoch before; a process that is started
//! again does the same, so it ends in the same state, bit for bit.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use driftline_stats::{Detector, HourOfWeek, MIN_HISTORY};
use driftline_types::{StageName, Timestamp};

use crate::{Baseline, Basis, What, windows::Closed};

/// The windows between two new beginnings.
pub(crate) const EPOCH: u64 = 1_024;
/// The windows of which standardised scores are kept, for onset and speed.
const KEPT: usize = 256;
/// The last windows of the baseline that stand before them.
const HEALTHY: usize = 64;
/// The windows on either side of a moment by which it is told whether something goes on moving there.
const AROUND: usize = 8;
/// By how many standard errors the two sides differ where something moves: of a dozen things that stand still, one does by chance in
/// two cases of a hundred.
const MOVING: f64 = 3.5;

/// One thing that is watched.
pub(crate) struct Watch {
    pub node: StageName,
    pub what: What,
    least: u64,
    pub basis: Basis,
    /// How many records tell as much as an independent one.
    pub inflation: f64,
    adaptive: Detector,
    anchored: Detector,
    /// Standardised scores of the last windows, newest last, with the start of each.
    recent: VecDeque<(Timestamp, Vec<f32>)>,
    /// How many of them, at the front, are the baseline's, whose times may be any.
    healthy: usize,
}

impl Watch {
    /// Returns the mean evidence of the two lanes, which keeps the promise of each, as the greater would not; 0 where
    /// the baseline has too few windows to judge by.
    pub(crate) fn evidence(&self) -> f64 {
        if self.is_armed() { f64::midpoint(self.adaptive.evidence(), self.anchored.evidence()) } else { 0.0 }
    }

    /// Returns the number of the score with the most evidence.
    pub(crate) fn strongest(&self) -> usize {
        let of = |detector: &Detector| detector.by_score().collect::<Vec<_>>();
        let both = of(&self.adaptive).into_iter().zip(of(&self.anchored)).map(|(a, b)| a + b);
        both.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(at, _)| at)
    }

    /// Returns the standardised windows of its strongest score, and the start of each.
    pub(crate) fn series(&self) -> (Vec<Timestamp>, Vec<f64>) {
        let score = self.strongest();
        self.recent.iter().filter_map(|(start, z)| Some((*start, f64::from(*z.get(score)?)))).unzip()
    }

    /// Says when its change began: at the earliest with the first window since the baseline.
    pub(crate) fn onset(&self) -> Option<Timestamp> {
        let (starts, series) = self.series();
        let healthy = HEALTHY.min(series.len() / 2).max(1);
        driftline_stats::onset(&series, healthy).and_then(|at| starts.get(at.max(self.healthy)).copied())
    }

    /// Counts the windows since the baseline that start in `span`.
    pub(crate) fn windows_in(&self, span: std::ops::Range<Timestamp>) -> usize {
        self.recent.iter().skip(self.healthy).filter(|(start, _)| span.contains(start)).count()
    }

    /// Says whether its strongest score goes on moving away from what is healthy at `at`: whether the windows from there on lie beyond
    /// those before, by Welch's t. A step before `at` does not count, because it makes the windows before differ.
    pub(crate) fn moves_at(&self, at: Timestamp) -> bool {
        let (starts, series) = self.series();
        let split = self.healthy + starts[self.healthy..].partition_point(|start| *start < at);
        let before = &series[split.saturating_sub(AROUND)..split];
        let after = &series[split..series.len().min(split + AROUND)];
        let away = after.iter().sum::<f64>().signum();
        // Standardised windows of health have a variance of 1.
        driftline_stats::welch(before, after, 1.0).is_some_and(|t| away * t > MOVING)
    }

    /// Says whether it is watched: whether enough windows of the baseline say something of it.
    fn is_armed(&self) -> bool {
        self.anchored.history() >= MIN_HISTORY
    }

    fn observe(&mut self, start: Timestamp, scores: &[f32]) {
        let hour = HourOfWeek::of(start);
        let scores: Vec<f64> = scores.iter().map(|&score| score.into()).collect();
        self.adaptive.observe(hour, &scores);
        self.anchored.observe(hour, &scores);
        keep(&mut self.recent, start, &self.anchored);
        // However long a change lasts, what was healthy before it stays.
        if self.recent.len() > KEPT {
            self.recent.remove(self.healthy);
        }
    }

    fn reset(&mut self) {
        self.adaptive.reset();
        self.anchored.reset();
    }
}

/// The scores of a closed window: of each watch in order, none where too little was seen. Thousands are kept, so all are
/// in one piece.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scored {
    pub start: Timestamp,
    numbers: Vec<f32>,
    /// The numbers of each watch: of a signal or P(output | input) some dozens at most, 51 of an embedding with a full
    /// codebook.
    lengths: Vec<u8>,
    /// Whether detectors began anew after it, because it raised an alarm.
    pub reset: bool,
    /// Whether a drift alarm was active after it: then nothing is learned.
    pub alarmed: bool,
}

impl Scored {
    pub(crate) fn new(start: Timestamp) -> Self {
        Self { start, ..Self::default() }
    }

    /// Adds the scores of the next watch; none if it has none.
    pub(crate) fn push(&mut self, scores: impl ExactSizeIterator<Item = f32>) {
        self.lengths.push(scores.len() as u8);
        self.numbers.extend(scores);
    }

    /// Visits the scores of each watch in order.
    pub(crate) fn each(&self) -> impl Iterator<Item = Option<&[f32]>> {
        let mut rest = self.numbers.as_slice();
        self.lengths.iter().map(move |&length| {
            let (scores, after) = rest.split_at(usize::from(length));
            rest = after;
            (length > 0).then_some(scores)
        })
    }
}

/// All detectors of a baseline.
pub(crate) struct Detectors {
    baseline: Arc<Baseline>,
    /// Signals that are not watched.
    ignore: Vec<String>,
    pub watches: Vec<Watch>,
    /// The windows since the epoch before the last.
    pub history: VecDeque<Scored>,
    /// The windows seen in all.
    pub seen: u64,
}

impl Detectors {
    pub(crate) fn new(baseline: Arc<Baseline>, ignore: Vec<String>) -> Self {
        let watches = watches(&baseline, &ignore);
        Self { baseline, ignore, watches, history: VecDeque::new(), seen: 0 }
    }

    /// Takes up what was remembered: the windows since the epoch before the last of `seen` windows.
    pub(crate) fn restore(&mut self, seen: u64, history: Vec<Scored>) {
        self.seen = seen;
        self.history = history.into();
        self.replay();
    }

    fn replay(&mut self) {
        self.watches = watches(&self.baseline, &self.ignore);
        for scored in &self.history {
            feed(&mut self.watches, scored);
        }
    }

    /// Scores a closed window and feeds it. Nodes for which `judged` is false are left out.
    pub(crate) fn observe(&mut self, closed: &Closed, judged: impl Fn(&StageName) -> bool) {
        let score = |watch: &Watch| {
            let seen = closed.nodes.get(&watch.node).filter(|_| judged(&watch.node))?;
            if seen.window.records(&watch.what) < watch.least {
                return None;
            }
            seen.window.scores(&watch.what, &watch.basis)
        };
        let mut scored = Scored::new(closed.start);
        for watch in &self.watches {
            scored.push(score(watch).unwrap_or_default().into_iter());
        }
        feed(&mut self.watches, &scored);
        self.history.push_back(scored);
        self.seen += 1;
    }

    /// Begins a new epoch if one is due; to be called when a window is done with. Returns the windows that need not be
    /// remembered any more.
    pub(crate) fn turn(&mut self) -> Vec<Timestamp> {
        if !self.seen.is_multiple_of(EPOCH) {
            return Vec::new();
        }
        let kept = self.history.len().min(EPOCH as usize);
        let forgotten = self.history.drain(..self.history.len() - kept).map(|scored| scored.start).collect();
        self.replay();
        forgotten
    }

    /// Begins anew after an alarm that the last window raised.
    pub(crate) fn reset(&mut self) {
        self.watches.iter_mut().for_each(Watch::reset);
        if let Some(last) = self.history.back_mut() {
            last.reset = true;
        }
    }

    /// Learns nothing from the last windows, because a drift alarm is active.
    pub(crate) fn distrust(&mut self) {
        self.watches.iter_mut().for_each(|watch| watch.adaptive.distrust());
        if let Some(last) = self.history.back_mut() {
            last.alarmed = true;
        }
    }

    /// Returns the evidence that anything has changed: the mean over all armed watches and both lanes.
    pub(crate) fn evidence(&self) -> f64 {
        let armed = self.watches.iter().filter(|watch| watch.is_armed());
        let (sum, n) = armed.fold((0.0, 0.0), |(sum, n), watch| (sum + watch.evidence(), n + 1.0));
        if n > 0.0 { sum / n } else { 0.0 }
    }

    /// Returns the armed watches to name, strongest first, by e-BH at `level`.
    pub(crate) fn listed(&self, level: f64) -> Vec<usize> {
        let armed: Vec<usize> = (0..self.watches.len()).filter(|&at| self.watches[at].is_armed()).collect();
        let evidence: Vec<f64> = armed.iter().map(|&at| self.watches[at].evidence()).collect();
        driftline_stats::listed(&evidence, level).into_iter().map(|at| armed[at]).collect()
    }

    /// Returns the watches of what a node writes, and of P(output | input).
    pub(crate) fn of<'a>(&'a self, node: &StageName) -> impl Iterator<Item = &'a Watch> {
        self.watches.iter().filter(move |watch| watch.node == *node && !matches!(watch.what, What::Input(_)))
    }

    /// Returns that of them that has the most evidence.
    pub(crate) fn strongest(&self, node: &StageName) -> Option<&Watch> {
        self.of(node).max_by(|a, b| a.evidence().total_cmp(&b.evidence()))
    }

    /// Returns the evidence of P(output | input) of each node.
    pub(crate) fn conditional(&self) -> BTreeMap<&StageName, f64> {
        let conditional = self.watches.iter().filter(|watch| watch.what == What::Conditional);
        conditional.map(|watch| (&watch.node, watch.evidence())).collect()
    }
}

fn feed(watches: &mut [Watch], scored: &Scored) {
    for (watch, scores) in watches.iter_mut().zip(scored.each()) {
        if let Some(scores) = scores {
            watch.observe(scored.start, scores);
        }
    }
    if scored.reset {
        watches.iter_mut().for_each(Watch::reset);
    }
    if scored.alarmed {
        watches.iter_mut().for_each(|watch| watch.adaptive.distrust());
    }
}

/// Adds a window.
fn keep(recent: &mut VecDeque<(Timestamp, Vec<f32>)>, start: Timestamp, detector: &Detector) {
    recent.push_back((start, detector.standardised().map(|z| z as f32).collect()));
}

fn watches(baseline: &Baseline, ignore: &[String]) -> Vec<Watch> {
    let is_ignored = |what: &What| what.signal().is_some_and(|signal| ignore.iter().any(|ignored| ignored == signal));
    let series = baseline.nodes.iter().flat_map(|node| node.series.iter().map(move |series| (node, series)));
    series
        .filter(|(_, series)| !is_ignored(&series.what))
        .map(|(node, series)| {
            let mut recent = VecDeque::new();
            let adaptive = series.train(&baseline.windows, |start, detector| {
                keep(&mut recent, start, detector);
                if recent.len() > HEALTHY {
                    recent.pop_front();
                }
            });
            Watch {
                node: node.name.clone(),
                what: series.what.clone(),
                least: series.least,
                basis: series.basis.clone(),
                inflation: series.inflation(),
                anchored: adaptive.anchored(),
                adaptive,
                healthy: recent.len(),
                recent,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use driftline_stats::{Reference, ScoreBasis};
    use driftline_types::{PipelineName, StageVersion};

    use super::*;
    use crate::{NodeBaseline, NodeWindow, Series};

    #[test]
    fn what_has_too_few_healthy_windows_is_learned_and_never_named() {
        const HOUR: i64 = 3_600_000;
        const HEALTHY: i64 = 64;
        const END: i64 = 664;
        let at = |window: i64| Timestamp::from_millis(window * HOUR);
        let score = |window: i64| ((window as f64 * 1.618).sin() + if window < END - 10 { 0.0 } else { 6.0 }) as f32;
        let basis = Basis::Signal(ScoreBasis::category(&[0, 0, 50, 50]));
        let series = |name: &str, known: i64| {
            let of = |window: i64| if window < known { score(window) } else { f32::NAN };
            let scores = (0..HEALTHY).flat_map(|window| vec![of(window); basis.len()]).collect();
            Series { what: What::Output(name.to_owned()), least: 1, basis: basis.clone(), scores }
        };
        let node = NodeBaseline {
            name: StageName::try_new("stage").unwrap(),
            version: StageVersion::try_new("v1").unwrap(),
            inputs: Vec::new(),
            records: 6_400,
            input: Arc::new(Reference::declared()),
            output: Arc::new(Reference::declared()),
            profiles: NodeWindow::default(),
            series: vec![series("rare", 10), series("usual", HEALTHY)],
        };
        let name = node.name.clone();
        let baseline = Baseline {
            pipeline: PipelineName::try_new("p").unwrap(),
            window_ms: HOUR.unsigned_abs(),
            records: 6_400,
            windows: (0..HEALTHY).map(at).collect(),
            nodes: vec![node],
        };
        let history = (HEALTHY..END).map(|window| {
            let mut scored = Scored::new(at(window));
            for _ in 0..2 {
                scored.push(vec![score(window); basis.len()].into_iter());
            }
            scored
        });
        let mut detectors = Detectors::new(Arc::new(baseline), Vec::new());
        detectors.restore(END.abs_diff(HEALTHY), history.collect());
        let [rare, usual] = detectors.watches.as_slice() else { panic!("two are watched") };
        assert!(rare.adaptive.evidence() > 100.0 && usual.evidence() > 100.0);
        assert_eq!(rare.evidence(), 0.0);
        assert_eq!((usual.healthy, usual.recent.len()), (super::HEALTHY, KEPT), "the healthy ones stay");
        assert_eq!(detectors.listed(100.0), [1]);
        assert_eq!(detectors.strongest(&name).map(|watch| &watch.what), Some(&usual.what));
    }
}
