//! How alarms are raised, held and resolved, by rules and by drift.

use std::collections::BTreeMap;

use driftline_pipeline::RuleSeverity;
use driftline_stats::speed;
use driftline_types::{RecordId, StageName, Timestamp, config::Millis, counted};

use super::Monitor;
use crate::{
    Alarm, AlarmState, Severity, SignalFinding,
    cause::{self, Cause, Span},
    detect::Watch,
    effect, report,
    rules::{self, Crossing},
    sentence::sentence,
    state::Held,
    windows::Closed,
};

/// The signals that an alarm names at most.
const NAMED: usize = 24;
/// After how many windows without confirmation an alarm is over, at least and at most.
const HOLD: (u64, u64) = (16, 256);
const DAY_MS: u64 = 86_400_000;

/// Returns the name of the rule that an alarm's id tells of: `rule-NAME-1`.
fn rule_of(id: &str) -> Option<&str> {
    id.strip_prefix("rule-")?.rsplit_once('-').map(|(name, _)| name)
}

impl Monitor {
    /// Decides on the alarms of rules after a window that ends at `end`.
    pub(super) fn judge_rules(&mut self, end: Timestamp) {
        for rule in self.settings.rules.clone() {
            let closed = self.recent.back();
            // What a node saw beside what stands here may be on the other side of the threshold.
            if closed.is_some_and(|closed| closed.not_whole.contains(&rule.stage)) {
                continue;
            }
            let seen = closed.and_then(|closed| closed.nodes.get(&rule.stage));
            let Some(value) = rules::value(&rule, seen, self.settings.window_ms) else {
                let key = rules::misfit_key(&rule);
                if !self.notes.contains_key(&key)
                    && let Some(problem) = seen.and_then(|seen| rules::misfit(&rule, seen))
                {
                    self.note_of(key, format!("rule {}: {problem}", rule.name));
                }
                continue;
            };
            let crossing = self.crossings.entry(rule.name.to_string()).or_default();
            crossing.count(rules::is_beyond(&rule, value));
            let Crossing { beyond, within } = *crossing;
            let lasts = rule.lasts.windows(Millis(self.settings.window_ms));
            let held = self.alarms.values().find(|held| rule_of(&held.alarm.id) == Some(rule.name.as_str())).cloned();
            let summary = format!(
                "{} is {value:.4} for {}, rule: {}",
                rules::subject(&rule),
                counted(beyond, "window"),
                report::rule(&rule)
            );
            match held {
                None if beyond > 0 => {
                    self.raised += 1;
                    let mut alarm = self.pending(format!("rule-{}-{}", rule.name, self.raised), 0.0, end);
                    alarm.severity = match rule.severity {
                        RuleSeverity::Warning => Severity::Warning,
                        RuleSeverity::Critical => Severity::Critical,
                    };
                    alarm.summary = summary;
                    alarm.origin = Some(rule.stage.clone());
                    if beyond >= lasts {
                        (alarm.state, alarm.fired) = (AlarmState::Firing, Some(end));
                    }
                    self.put(Held { alarm, quiet: 0, hold: 0 });
                }
                Some(mut held) if held.alarm.state == AlarmState::Pending && beyond >= lasts => {
                    held.alarm =
                        Alarm { state: AlarmState::Firing, fired: Some(end), updated: end, summary, ..held.alarm };
                    self.put(held);
                }
                Some(mut held) if beyond == 0 && (held.alarm.state == AlarmState::Pending || within >= lasts) => {
                    held.alarm.state = AlarmState::Resolved;
                    held.alarm.updated = end;
                    self.put(held);
                }
                _ => {}
            }
        }
    }

    /// Resolves the alarms of rules that are no more.
    pub(super) fn resolve_orphans(&mut self) {
        let rules = &self.settings.rules;
        let is_orphan = |held: &&Held| {
            rule_of(&held.alarm.id).is_some_and(|name| !rules.iter().any(|rule| rule.name.as_str() == name))
        };
        for mut held in self.alarms.values().filter(is_orphan).cloned().collect::<Vec<_>>() {
            held.alarm.state = AlarmState::Resolved;
            held.alarm.updated = self.windows.progress().closed_to.unwrap_or(held.alarm.updated);
            self.put(held);
        }
    }

    /// Returns the drift alarm that is not resolved.
    pub(super) fn drift(&self) -> Option<&Held> {
        self.alarms.values().find(|held| held.alarm.is_drift())
    }

    /// Decides on the drift alarm after a window that ends at `end`.
    pub(super) fn judge_drift(&mut self, end: Timestamp) {
        let (evidence, level) = (self.detectors.evidence(), self.settings.run_length);
        let held = self.drift().cloned();
        let state = held.as_ref().map(|held| held.alarm.state);
        if evidence >= level
            && let Some(alarm) = self.fire(held.as_ref().map(|held| &held.alarm), evidence, end)
        {
            let since = alarm.onset.unwrap_or(alarm.since);
            let delay = (end.as_millis() - since.as_millis()).unsigned_abs() / self.settings.window_ms;
            self.detectors.reset();
            let hold = (3 * delay).clamp(HOLD.0, HOLD.1);
            return self.put(Held { alarm, quiet: 0, hold });
        }
        match (held, state) {
            (None, _) if evidence >= level / 10.0 => {
                self.raised += 1;
                let alarm = self.pending(format!("drift-{}", self.raised), evidence, end);
                self.put(Held { alarm, quiet: 0, hold: 0 });
            }
            (Some(mut held), Some(AlarmState::Pending)) if evidence < level / 100.0 => {
                held.alarm.state = AlarmState::Resolved;
                held.alarm.updated = end;
                self.put(held);
            }
            (Some(mut held), Some(AlarmState::Firing | AlarmState::Acknowledged)) => {
                held.quiet += 1;
                if held.quiet >= held.hold {
                    held.alarm.state = AlarmState::Resolved;
                    held.alarm.updated = end;
                    self.put(held);
                } else {
                    self.alarms.insert(held.alarm.id.clone(), held);
                }
            }
            _ => {}
        }
    }

    /// Keeps an alarm, or lets go of a resolved one, and tells of it.
    fn put(&mut self, held: Held) {
        let id = held.alarm.id.clone();
        // Of each state the last word; an alarm that fires and is over before anybody hears of it is told of twice.
        match self.updates.iter_mut().rfind(|update| update.id == id) {
            Some(update) if update.state == held.alarm.state => update.clone_from(&held.alarm),
            _ => self.updates.push(held.alarm.clone()),
        }
        if held.alarm.state == AlarmState::Resolved {
            self.alarms.remove(&id);
            if held.alarm.fired.is_some() {
                self.over = Some(held.alarm);
            }
        } else {
            self.alarms.insert(id, held);
        }
    }

    fn pending(&self, id: String, evidence: f64, end: Timestamp) -> Alarm {
        let strongest = self.detectors.listed(self.settings.run_length).first().map(|&at| &self.detectors.watches[at]);
        let summary = strongest.map_or_else(
            || "something may have changed".to_owned(),
            |watch| format!("`{} {}` may have changed", watch.node, watch.what),
        );
        Alarm {
            id,
            pipeline: self.settings.pipeline.clone(),
            state: AlarmState::Pending,
            severity: Severity::Warning,
            summary,
            since: end,
            fired: None,
            updated: end,
            onset: None,
            speed: None,
            evidence,
            origin: None,
            nodes: Vec::new(),
            signals: Vec::new(),
            traces: Vec::new(),
            examples: Vec::new(),
        }
    }

    /// Says what has changed; `None` if it is too small, or too few records say so, to call anybody. Where it began
    /// after an active alarm was last confirmed it is another change: that alarm is resolved, and this is one of its
    /// own.
    fn fire(&mut self, held: Option<&Alarm>, evidence: f64, end: Timestamp) -> Option<Alarm> {
        let listed = self.detectors.listed(self.settings.run_length);
        let mut spans = BTreeMap::new();
        let mut is_large = |at: &usize| self.is_large(&self.detectors.watches[*at], &mut spans);
        let first = listed.iter().copied().find(|at| is_large(at))?;
        let watch = self.detectors.watches.get(first)?;
        let own = watch.onset();
        let active = held.filter(|alarm| alarm.state.is_active());
        let over = active.filter(|alarm| own.is_some_and(|own| own > alarm.updated)).cloned();
        let held = held.filter(|_| over.is_none()).cloned();
        let known = active.filter(|_| over.is_none()).and_then(|alarm| alarm.onset);
        let onset = known.or(own);
        let span = Span::new(self.since(onset));
        // That which is large enough leads.
        let named = std::iter::once(first).chain(listed.iter().copied().filter(|at| *at != first)).take(NAMED);
        let signals: Vec<SignalFinding> =
            named.map(|at| effect::finding(&self.baseline, &span, &self.detectors.watches[at])).collect();
        let (starts, series) = watch.series();
        let day = if 2 * self.settings.window_ms <= DAY_MS { DAY_MS / self.settings.window_ms } else { 0 };
        let how = (!starts.is_empty()).then(|| speed(&series, usize::try_from(day).unwrap_or(usize::MAX)));
        // What was pending before may have been something else, too small to call anybody.
        let evident = held.as_ref().map_or(end, |alarm| onset.map_or(alarm.since, |onset| onset.max(alarm.since)));
        let probes = self.probes.says(onset.unwrap_or(evident), evident, end);
        let found = cause::cause(&self.baseline, &self.detectors, &span, self.settings.run_length / 10.0, &probes);
        // When the origin itself began to move, if it is large there too.
        let of_origin = |at: &&usize| found.origin.as_ref() == Some(&self.detectors.watches[**at].node);
        let large = listed.iter().filter(of_origin).find(|at| is_large(at));
        let began = large.and_then(|&at| self.detectors.watches[at].onset());
        let onset = known.or_else(|| own.into_iter().chain(began).min());
        let summary = sentence(&self.baseline, &found, &signals, began.or(onset));
        let Cause { nodes, traces, origin } = found;
        if let Some(over) = over {
            let alarm = Alarm { state: AlarmState::Resolved, updated: end, ..over };
            self.put(Held { alarm, quiet: 0, hold: 0 });
        }
        let (id, since, fired, state, examples) = match held {
            Some(alarm) => {
                let state = if alarm.state == AlarmState::Pending { AlarmState::Firing } else { alarm.state };
                (alarm.id, alarm.since, alarm.fired.unwrap_or(end), state, alarm.examples)
            }
            None => {
                self.raised += 1;
                (format!("drift-{}", self.raised), end, end, AlarmState::Firing, Vec::new())
            }
        };
        Some(Alarm {
            id,
            pipeline: self.settings.pipeline.clone(),
            state,
            severity: Severity::Critical,
            summary,
            since,
            fired: Some(fired),
            updated: end,
            onset,
            speed: how,
            evidence,
            origin,
            nodes,
            signals,
            traces,
            examples,
        })
    }

    /// Says whether the effect of a watch since its own onset is worth an alarm. `spans` keeps what was merged, by how many windows it is
    /// of: many watches have one onset.
    fn is_large<'a>(&'a self, watch: &Watch, spans: &mut BTreeMap<usize, Span<'a>>) -> bool {
        let since = self.since(watch.onset());
        let span = spans.entry(since.len()).or_insert_with(|| Span::new(since));
        let finding = effect::finding(&self.baseline, span, watch);
        finding.effect.map_or(0.0, |effect| finding.measure.size(effect.at_least)) >= self.settings.tolerance
    }

    /// Returns the last windows since a moment, all of them if it is not known; the last one if it began none.
    pub(super) fn since(&self, onset: Option<Timestamp>) -> Vec<&Closed> {
        let since: Vec<&Closed> =
            self.recent.iter().filter(|closed| onset.is_none_or(|onset| closed.start >= onset)).collect();
        if since.is_empty() { self.recent.back().into_iter().collect() } else { since }
    }

    /// Notes that somebody knows of an alarm; returns whether it was firing.
    pub fn acknowledge(&mut self, id: &str) -> bool {
        let Some(held) = self.alarms.get(id).filter(|held| held.alarm.state == AlarmState::Firing) else {
            return false;
        };
        let mut held = held.clone();
        held.alarm.state = AlarmState::Acknowledged;
        self.put(held);
        true
    }

    /// Returns the alarms of which examples are wanted: the id and the node whose outputs since when they are.
    pub fn wanted_examples(&self) -> Vec<(String, StageName, Timestamp)> {
        let wanting = self.updates.iter().filter(|alarm| alarm.state.is_active() && alarm.examples.is_empty());
        wanting
            .filter_map(|alarm| {
                let node = alarm.origin.clone().or_else(|| alarm.signals.first().map(|signal| signal.node.clone()))?;
                Some((alarm.id.clone(), node, alarm.onset.unwrap_or(alarm.since)))
            })
            .collect()
    }

    /// Adds examples to an alarm.
    pub fn set_examples(&mut self, id: &str, examples: &[RecordId]) {
        if let Some(held) = self.alarms.get_mut(id) {
            held.alarm.examples = examples.to_vec();
        }
        for alarm in self.updates.iter_mut().filter(|alarm| alarm.id == id) {
            alarm.examples = examples.to_vec();
        }
    }
}
