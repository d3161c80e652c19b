//! The nodes from a source to a last stage, and whose doing the change of its output is.
//!
//! Shares are Shapley values ([`attribute`]) over the tables of the nodes. A stage that reads several nodes ends a line: what goes into it
//! stands there as one player, under the names of those it reads.

use std::collections::BTreeSet;

use driftline_stats::{
    Attribution, DROPPED, JointProfile, MIN_ROW, Mechanism, attribute, output_cells, share_intervals,
};
use driftline_types::{Code, StageName};

use crate::{Baseline, NodeBaseline, Share, Trace, cause::Span, effect::shift, windows::Closed};

/// The resamples of windows behind the interval of a share.
const RESAMPLES: usize = 64;

/// The nodes from a source to a last stage, each with its table.
pub(crate) struct Line<'a> {
    players: Vec<Player<'a>>,
    /// The counts of each player in the reference, row by row, and now.
    before: Vec<Vec<u64>>,
    now: Vec<Vec<u64>>,
    target: StageName,
    windows: Vec<&'a Closed>,
}

struct Player<'a> {
    name: String,
    node: &'a StageName,
    /// A source has one row; so has what goes into a stage that reads several nodes.
    rows: Rows,
    /// Ascending. A stage behind one that drops records has the code of dropped ones, the last of all, even if it drops none.
    outputs: Vec<Code>,
}

#[derive(Clone, Copy, PartialEq)]
enum Rows {
    /// By input code.
    Inputs,
    /// What a source wrote, whatever it is.
    Source,
    /// What went in, whatever became of it.
    Entry,
}

impl<'a> Line<'a> {
    /// Walks back from a last stage. `None` where a node was not seen, or on other cells.
    pub(crate) fn new(baseline: &'a Baseline, target: &'a NodeBaseline, span: &Span<'a>) -> Option<Self> {
        let mut line = vec![target];
        while let [parent] = line[line.len() - 1].inputs.as_slice() {
            line.push(baseline.node(parent)?);
        }
        line.reverse();
        let (mut players, mut joints) = (Vec::<Player<'_>>::new(), Vec::new());
        for (at, node) in line.into_iter().enumerate() {
            let before = node.profiles.joint.as_ref()?;
            let now = span.nodes.get(&node.name)?.joint.as_ref()?;
            if now.output() != before.output() || now.input() != before.input() {
                return None;
            }
            let mut outputs = output_cells(&[before, now]);
            if at == 0 && !node.inputs.is_empty() {
                let names: Vec<&str> = node.inputs.iter().map(StageName::as_str).collect();
                let mut outputs: Vec<Code> =
                    [before, now].iter().flat_map(|joint| joint.pairs()).map(|pair| pair.0).collect();
                outputs.sort_unstable();
                outputs.dedup();
                players.push(Player { name: names.join(" + "), node: &node.name, rows: Rows::Entry, outputs });
                joints.push((before, now));
            }
            let rows = if node.inputs.is_empty() { Rows::Source } else { Rows::Inputs };
            let is_after_dropped = players.last().is_some_and(|player| player.outputs.last() == Some(&DROPPED));
            if is_after_dropped && outputs.last() != Some(&DROPPED) {
                outputs.push(DROPPED);
            }
            players.push(Player { name: node.name.to_string(), node: &node.name, rows, outputs });
            joints.push((before, now));
        }
        let (before, now) = (Vec::new(), Vec::new());
        let mut line = Self { players, before, now, target: target.name.clone(), windows: span.windows.clone() };
        let tables = joints.into_iter().enumerate();
        (line.before, line.now) =
            tables.map(|(at, (before, now))| (line.dense(at, before), line.dense(at, now))).unzip();
        Some(line)
    }

    /// Returns the counts of one player, row by row.
    fn dense(&self, at: usize, joint: &JointProfile) -> Vec<u64> {
        let player = &self.players[at];
        let inputs: &[Code] = if at > 0 { &self.players[at - 1].outputs } else { &[] };
        let width = player.outputs.len();
        let mut counts = vec![0u64; width * if player.rows == Rows::Inputs { inputs.len() } else { 1 }];
        for (input, output, n) in joint.pairs() {
            let (row, code) = match player.rows {
                Rows::Inputs => (inputs.binary_search(&input).ok(), output),
                Rows::Source => (Some(0), output),
                Rows::Entry => (Some(0), input),
            };
            if let (Some(row), Ok(column)) = (row, player.outputs.binary_search(&code)) {
                counts[row * width + column] += n;
            }
        }
        // What was dropped before stays dropped: the last cell of the last row.
        if let (true, Some(cell)) = (self.is_after_dropped(at), counts.last_mut()) {
            *cell = MIN_ROW;
        }
        counts
    }

    /// Says whether the last row of a player is of what was dropped before it, which is no count of its own.
    fn is_after_dropped(&self, at: usize) -> bool {
        self.players[at].rows == Rows::Inputs && self.players[at - 1].outputs.last() == Some(&DROPPED)
    }

    /// Shares out the change of the last output.
    pub(crate) fn attribution(&self, suspect: &dyn Fn(&StageName) -> bool) -> Option<Attribution> {
        self.attribute(&self.now, suspect)
    }

    /// Returns the last stage.
    pub(crate) fn target(&self) -> &StageName {
        &self.target
    }

    /// Returns its nodes from the source on.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &'a StageName> {
        self.players.iter().filter(|player| player.rows != Rows::Entry).map(|player| player.node)
    }

    /// Says of each node whether its table differs.
    pub(crate) fn changed(&self, found: &Attribution) -> impl Iterator<Item = (&'a StageName, bool)> {
        let players = self.players.iter().zip(&found.changed).filter(|(player, _)| player.rows != Rows::Entry);
        players.map(|(player, differs)| (player.node, *differs))
    }

    /// Returns which player a node is.
    fn place(&self, name: &StageName) -> Option<usize> {
        self.players.iter().position(|player| player.name == name.as_str())
    }

    /// Returns the share of a node, 0 if there is none.
    pub(crate) fn share(&self, found: &Attribution, name: &StageName) -> f64 {
        self.place(name).zip(found.shares.as_ref()).map_or(0.0, |(at, shares)| shares[at])
    }

    /// Says what became of the last output. The shares of `followers` count as the origin's. Where no table shows how the change gets to the
    /// last output, all of it is the origin's if that is `alone` in having changed by itself.
    pub(crate) fn trace(
        &self,
        found: &Attribution,
        suspect: &dyn Fn(&StageName) -> bool,
        origin: Option<&StageName>,
        followers: &BTreeSet<StageName>,
        alone: bool,
    ) -> Trace {
        let origin = origin.and_then(|origin| self.place(origin));
        if let (None, Some(origin), true) = (&found.shares, origin, alone) {
            return self.all_from(origin, found);
        }
        let laid = |mut shares: Vec<f64>| {
            let Some(origin) = origin else { return shares };
            for (at, player) in self.players.iter().enumerate() {
                if player.rows != Rows::Entry && followers.contains(player.node) {
                    shares[origin] += std::mem::take(&mut shares[at]);
                }
            }
            shares
        };
        let shares = found.shares.clone().map(laid);
        let intervals = if shares.is_some() { self.intervals(suspect, &laid) } else { Vec::new() };
        let shares = shares.into_iter().flatten().enumerate().map(|(at, share)| Share {
            node: self.players[at].name.clone(),
            share,
            // Resamples repeat windows, which makes tables differ more: the interval holds at least the share itself.
            interval: intervals.get(at).map_or((share, share), |&(low, high)| (low.min(share), high.max(share))),
        });
        Trace {
            target: self.target.clone(),
            divergence: found.divergence,
            floor: found.floor,
            shares: shares.collect(),
        }
    }

    /// Says that the last output moved by the doing of one player alone, though no table on the way shows how.
    fn all_from(&self, origin: usize, found: &Attribution) -> Trace {
        let last = self.players.len() - 1;
        let width = self.players[last].outputs.len();
        let outputs = |table: &[u64]| {
            let own = table.len() / width - usize::from(self.is_after_dropped(last));
            let mut counts = vec![0; width];
            let rows = table.chunks_exact(width).take(own);
            rows.for_each(|row| counts.iter_mut().zip(row).for_each(|(sum, n)| *sum += n));
            counts
        };
        let divergence = shift(&outputs(&self.before[last]), &outputs(&self.now[last]));
        let shares = self.players.iter().enumerate().map(|(at, player)| {
            let share = f64::from(u8::from(at == origin));
            Share { node: player.name.clone(), share, interval: (share, share) }
        });
        Trace { target: self.target.clone(), divergence, floor: found.floor, shares: shares.collect() }
    }

    /// Returns how far each share reaches over resamples of windows.
    fn intervals(&self, suspect: &dyn Fn(&StageName) -> bool, laid: &dyn Fn(Vec<f64>) -> Vec<f64>) -> Vec<(f64, f64)> {
        let by_window: Vec<Vec<Option<Vec<u64>>>> = self
            .windows
            .iter()
            .map(|closed| {
                let joint = |at: usize| closed.nodes.get(self.players[at].node)?.window.joint.as_ref();
                (0..self.players.len()).map(|at| joint(at).map(|joint| self.dense(at, joint))).collect()
            })
            .collect();
        share_intervals(by_window.len(), RESAMPLES, 1, |drawn| {
            let mut sums: Vec<Vec<u64>> = self.before.iter().map(|counts| vec![0; counts.len()]).collect();
            for &window in drawn {
                for (sum, counts) in sums.iter_mut().zip(&by_window[window]) {
                    let counts = counts.iter().flatten();
                    sum.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
                }
            }
            self.attribute(&sums, suspect)?.shares.map(laid)
        })
    }

    fn attribute(&self, now: &[Vec<u64>], suspect: &dyn Fn(&StageName) -> bool) -> Option<Attribution> {
        let mechanism = |at: usize| {
            let player = &self.players[at];
            let parents = if player.rows == Rows::Inputs { vec![at - 1] } else { Vec::new() };
            let (mut before, mut now) = (self.before[at].clone(), now[at].clone());
            if player.rows != Rows::Entry && !suspect(player.node) {
                before.iter_mut().zip(&now).for_each(|(before, now)| *before += now);
                now.clone_from(&before);
            }
            Mechanism::try_new(parents, player.outputs.len(), before, now).ok()
        };
        let nodes = (0..self.players.len()).map(mechanism).collect::<Option<Vec<_>>>()?;
        attribute(&nodes).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use driftline_stats::{Reference, ReferenceId, UNKNOWN};
    use driftline_types::{PipelineName, StageVersion, Timestamp};

    use super::*;
    use crate::{NodeWindow, windows::Seen};

    fn window(pairs: &[(Code, Code, u64)]) -> NodeWindow {
        let mut joint = JointProfile::new(ReferenceId::DECLARED, ReferenceId::DECLARED);
        for &(input, output, n) in pairs {
            (0..n).for_each(|_| joint.observe(input, output));
        }
        NodeWindow { joint: Some(joint), ..NodeWindow::default() }
    }

    #[test]
    fn records_that_are_dropped_do_not_come_back_behind_a_stage_that_drops_none() {
        let names = ["source", "filter", "copy"].map(|name| StageName::try_new(name).unwrap());
        let version = StageVersion::try_new("v1").unwrap();
        // Of both cells the filter drops as many: what it lets pass has the law that it had.
        let windows = |kept: u64| {
            let dropped = 1_000 - kept;
            [
                window(&[(UNKNOWN, 1, 1_000), (UNKNOWN, 2, 1_000)]),
                window(&[(1, 1, kept), (1, DROPPED, dropped), (2, 2, kept), (2, DROPPED, dropped)]),
                window(&[(1, 1, kept), (2, 2, kept)]),
            ]
        };
        let nodes = windows(950).into_iter().enumerate().map(|(at, profiles)| NodeBaseline {
            name: names[at].clone(),
            version: version.clone(),
            inputs: if at == 0 { Vec::new() } else { vec![names[at - 1].clone()] },
            records: 2_000,
            input: Arc::new(Reference::declared()),
            output: Arc::new(Reference::declared()),
            profiles,
            series: Vec::new(),
        });
        let baseline = Baseline {
            pipeline: PipelineName::try_new("p").unwrap(),
            window_ms: 1_000,
            records: 2_000,
            windows: Vec::new(),
            nodes: nodes.collect(),
        };
        let seen = windows(500).into_iter().zip(&names);
        let seen = seen.map(|(window, name)| (name.clone(), Seen { version: version.clone(), window }));
        let closed = Closed { start: Timestamp::from_millis(0), nodes: seen.collect(), ..Closed::default() };
        let span = Span::new(vec![&closed]);
        let line = Line::new(&baseline, &baseline.nodes[2], &span).unwrap();
        let found = line.attribution(&|_| true).unwrap();
        assert!(found.divergence > 0.1, "{found:?}");
        assert_eq!(names.each_ref().map(|name| line.share(&found, name)), [0.0, 1.0, 0.0]);
        assert_eq!(found.changed, [false, true, false]);
    }
}
