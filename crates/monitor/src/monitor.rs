//! The monitor: profiles in, alarms out. Pure: offsets, bytes and event times go in; what is to be written comes out.

mod raising;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use driftline_stats::{ProbePart, Probes, Profile, ProfileBody, ProfileKey, References, Window};
use driftline_types::{Offset, Partition, StageName, Timestamp, config::allowed_words, counted};

use crate::{
    Alarm, Baseline, Report, Settings, StateError, What,
    cause::Span,
    detect::Detectors,
    probes::ProbeBook,
    report,
    rules::{self, Crossing},
    state::{self, Change, Held, Meta, Note},
    windows::{Closed, Taken, Topology, Windows},
};

/// The last closed windows that are kept whole, to measure effects and shares on.
const KEPT: usize = 64;
/// Below so many windows the surest change is seldom told, see `driftline_stats::rank`.
const SOONEST: u64 = 5;
/// The notes that are kept at most.
const NOTES: usize = 64;

/// A message of the topic of profiles.
#[derive(Clone, Debug)]
pub struct ProfileMessage {
    /// Its place in the log.
    pub offset: Offset,
    /// The partition that the profile was made of.
    pub partition: Partition,
    /// The node, as the key of the message has it.
    pub node: Option<StageName>,
    /// The start of the window, as the timestamp of the message has it.
    pub start: Timestamp,
    /// The profile.
    pub value: Bytes,
}

/// How things stand.
#[derive(Clone, Debug)]
pub struct Status {
    /// What there is to say, in one sentence.
    pub sentence: String,
    /// Windows judged.
    pub windows: u64,
    /// The evidence that something has changed, and the one from which it is an alarm.
    pub evidence: (f64, f64),
    /// Alarms that are not resolved.
    pub alarms: Vec<Alarm>,
    /// What is watched, with the evidence that it has changed, strongest first.
    pub watched: Vec<(StageName, What, f64)>,
    /// What else is worth telling.
    pub notes: Vec<String>,
}

/// Watches one pipeline.
pub struct Monitor {
    settings: Settings,
    baseline: Arc<Baseline>,
    references: References,
    windows: Windows,
    detectors: Detectors,
    probes: ProbeBook,
    recent: VecDeque<Closed>,
    /// The windows of the warm-up that have passed.
    passed: u64,
    /// Whether one has passed that is not written down.
    has_passed: bool,
    raised: u64,
    alarms: BTreeMap<String, Held>,
    notes: BTreeMap<String, Note>,
    crossings: BTreeMap<String, Crossing>,
    /// The last alarm that fired and is over.
    over: Option<Alarm>,
    changes: Vec<Change>,
    /// Alarms to tell of, in every state that they have had since the last change was taken.
    updates: Vec<Alarm>,
}

impl Monitor {
    /// Makes a monitor that has seen nothing but the baseline.
    #[must_use]
    pub fn new(settings: Settings, baseline: Arc<Baseline>) -> Self {
        let versions = baseline.nodes.iter().map(|node| (node.name.clone(), node.version.clone())).collect();
        let topology = Topology { nodes: settings.nodes.clone(), partitions: settings.partitions, versions };
        let windows = Windows::new(settings.window_ms, settings.lateness, topology);
        let mut monitor = Self {
            references: baseline.references(),
            detectors: Detectors::new(Arc::clone(&baseline), settings.ignore.clone()),
            windows,
            probes: ProbeBook::new(settings.answers.clone()),
            settings,
            baseline,
            recent: VecDeque::new(),
            passed: 0,
            has_passed: false,
            raised: 0,
            alarms: BTreeMap::new(),
            notes: BTreeMap::new(),
            crossings: BTreeMap::new(),
            changes: Vec::new(),
            over: None,
            updates: Vec::new(),
        };
        // Without a reference nobody expects one of a node.
        let expected = if monitor.baseline.nodes.is_empty() { Vec::new() } else { monitor.settings.nodes.clone() };
        for (node, inputs) in expected {
            match monitor.baseline.node(&node) {
                None => monitor.note(
                    &node,
                    "unknown",
                    format!("{node} is not in the reference: no verdict on it until one is built"),
                ),
                Some(known) if known.inputs != inputs => {
                    let text =
                        format!("{node} reads other nodes than in the reference: no verdict on it until one is built");
                    monitor.note(&node, "inputs", text);
                }
                Some(_) => {}
            }
        }
        let baseline = Arc::clone(&monitor.baseline);
        let watched = baseline.nodes.iter().flat_map(|node| &node.series).filter_map(|series| series.what.signal());
        let signals: Vec<&str> = watched.collect::<BTreeSet<_>>().into_iter().collect();
        for ignored in monitor.settings.ignore.clone() {
            // Without a reference there is nothing that could be ignored.
            if !signals.is_empty() && !signals.contains(&ignored.as_str()) {
                let allowed = allowed_words(&ignored, &signals);
                let text = format!("monitor.ignore: found {ignored:?}, which is no signal of the reference, {allowed}");
                monitor.note_of(format!("ignore/{ignored}"), text);
            }
        }
        monitor
    }

    /// Takes up what an earlier monitor remembered. What was remembered with another baseline is forgotten, but for
    /// how far it was and its alarms.
    ///
    /// # Errors
    /// If an entry is damaged.
    pub fn restore(&mut self, entries: &[(Bytes, Bytes)]) -> Result<(), StateError> {
        if entries.is_empty() {
            return Ok(());
        }
        let remembered = state::read(entries, &self.references)?;
        let Meta { baseline, progress, passed, seen, raised, alarms, over, notes, crossings } = remembered.meta;
        self.windows.restore(progress);
        (self.passed, self.raised, self.crossings) = (passed, raised, crossings);
        (self.alarms, self.over) = (alarms, over);
        self.resolve_orphans();
        if baseline == self.fingerprint() {
            let own = std::mem::replace(&mut self.notes, notes);
            for (key, note) in own {
                self.notes.entry(key).or_insert(note);
            }
            // Rules may have been changed since.
            let is_of = |key: &str| self.settings.rules.iter().any(|rule| rules::misfit_key(rule) == key);
            self.notes.retain(|key, _| !key.starts_with(rules::MISFIT) || is_of(key));
            self.detectors.restore(seen, remembered.scored);
            self.recent = remembered.closed.into();
            self.changes.extend(remembered.stale.into_iter().map(|key| (key, None)));
        } else {
            self.changes.extend(state::keys(entries).into_iter().map(|key| (key, None)));
        }
        Ok(())
    }

    /// Names the baseline by what scores depend on.
    fn fingerprint(&self) -> String {
        let nodes = self.baseline.nodes.iter().map(|node| {
            let series = node.series.len();
            format!("{}={}:{}:{}:{series}", node.name, node.version, node.input.id(), node.output.id())
        });
        let ends = self.baseline.windows.first().zip(self.baseline.windows.last());
        let span = ends.map_or_else(String::new, |(first, last)| format!("{first}/{last}"));
        nodes.chain([span]).chain(self.settings.ignore.clone()).collect::<Vec<_>>().join(" ")
    }

    /// Takes a message. What cannot be read, comes too late or does not fit is told of in [`Status::notes`].
    pub fn take(&mut self, message: &ProfileMessage) {
        let ProfileMessage { offset, partition, node, start, value } = message;
        let profile = match Profile::decode(value, &self.references) {
            Ok(profile) => profile,
            Err(error) => {
                let about = node.clone().map(|node| (node, *partition, *start));
                let name = node.as_ref().map_or("an unknown node", StageName::as_str).to_owned();
                if *offset >= self.windows.progress().taken_to {
                    self.note_of(format!("unreadable/{name}"), format!("a profile of {name} cannot be read: {error}"));
                }
                return self.windows.unreadable(*offset, about);
            }
        };
        let key = &profile.key;
        let is_new = *offset >= self.windows.progress().taken_to;
        if key.pipeline != self.settings.pipeline || key.window.millis != self.settings.window_ms {
            if is_new {
                let text =
                    format!("a profile of {} over {} is of another pipeline or window length", key.stage, key.window);
                self.note(&key.stage, "foreign", text);
            }
            return self.windows.unreadable(*offset, None);
        }
        if !self.is_comparable(&profile) {
            if is_new {
                let text = format!("a profile of {} was counted on other bins than the reference's", key.stage);
                self.note(&key.stage, "bins", text);
            }
            return self.windows.incomparable(*offset, *partition, &profile);
        }
        match self.windows.take(*offset, *partition, &profile) {
            Taken::Merged | Taken::Again => {}
            Taken::Mixed(other) => {
                let text = format!(
                    "{} ran in the versions {other} and {} in the window of {}: one stands for both, and no rule is judged",
                    key.stage, key.version, key.window.start
                );
                self.note_of(format!("versions/{}", key.stage), text);
            }
            Taken::Late => {
                let text = format!(
                    "a profile of {} over the window of {} came after the window was closed; it counts nowhere",
                    key.stage, key.window.start
                );
                self.note_of(format!("late/{}", key.stage), text);
            }
            Taken::Refused(error) => {
                self.note_of(
                    format!("refused/{}", key.stage),
                    format!("a profile of {} does not fit: {error}", key.stage),
                );
            }
        }
    }

    /// Says whether a profile was counted on the bins of the reference that belongs to its stage and version. Those from
    /// before monitoring was switched on were not.
    fn is_comparable(&self, profile: &Profile) -> bool {
        let Some(known) = self.baseline.node(&profile.key.stage) else { return true };
        if !known.inputs.is_empty() && known.version != profile.key.version {
            return true;
        }
        match &profile.body {
            ProfileBody::Input(set) => set.reference().id() == known.input.id(),
            ProfileBody::Output(set) => set.reference().id() == known.output.id(),
            ProfileBody::Joint(joint) => known
                .profiles
                .joint
                .as_ref()
                .is_none_or(|known| (known.input(), known.output()) == (joint.input(), joint.output())),
        }
    }

    fn note(&mut self, node: &StageName, kind: &str, text: String) {
        self.note_of(format!("{kind}/{node}"), text);
    }

    fn note_of(&mut self, key: String, text: String) {
        if self.notes.len() < NOTES || self.notes.contains_key(&key) {
            let note = self.notes.entry(key).or_insert_with(|| {
                tracing::warn!("{text}");
                Note { times: 0, text: String::new() }
            });
            note.times += 1;
            note.text = text;
        }
    }

    /// Takes what a stage answered to a probe.
    pub fn take_probe(&mut self, part: ProbePart) {
        self.probes.take(part);
    }

    /// Says whether a window is complete, and so whether what stages have answered to probes is of interest.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.windows.is_due()
    }

    /// Judges every window that is complete. Returns their number.
    pub fn close_complete(&mut self) -> usize {
        let mut closed = 0;
        while self.windows.is_due() {
            let Some(window) = self.windows.close_oldest() else { break };
            self.judge(window);
            closed += 1;
        }
        if let Some((slow, fast, windows)) = self.windows.apart() {
            let text = format!(
                "the sources {slow} and {fast} are {windows} windows apart in event time: windows wait for {slow}; do their clocks agree?"
            );
            self.note_of("apart/sources".to_owned(), text);
        }
        closed
    }

    /// Judges every window that is open: nothing more will come.
    pub fn close_all(&mut self) -> usize {
        let mut closed = 0;
        while !self.windows.are_stray() {
            let Some(window) = self.windows.close_oldest() else { break };
            self.judge(window);
            closed += 1;
        }
        closed
    }

    fn judge(&mut self, closed: Closed) {
        if self.passed < self.settings.warm_up {
            self.passed += 1;
            self.has_passed = true;
            return;
        }
        let baseline = Arc::clone(&self.baseline);
        for (name, seen) in &closed.nodes {
            if let Some(known) =
                baseline.node(name).filter(|known| !known.inputs.is_empty() && known.version != seen.version)
            {
                let text = format!(
                    "{name} runs version {}, the reference describes {}: no verdict on it until a reference is built",
                    seen.version, known.version
                );
                self.note(name, "version", text);
            }
        }
        let judged = |name: &StageName| {
            // What a source writes is the outside world's: its version says only how it is read.
            let known = baseline.node(name);
            known.is_some_and(|known| {
                known.inputs.is_empty() || closed.nodes.get(name).is_some_and(|seen| seen.version == known.version)
            })
        };
        self.detectors.observe(&closed, judged);
        let end = closed.start.plus_millis(i64::try_from(self.settings.window_ms).unwrap_or(i64::MAX));
        self.changes
            .extend(state::closed_changes(&closed, |node, seen, body| self.profile(closed.start, node, seen, body)));
        self.recent.push_back(closed);
        if self.recent.len() > KEPT
            && let Some(oldest) = self.recent.pop_front()
        {
            self.changes.extend(state::closed_forgotten(&oldest));
        }
        self.note_probes(end);
        self.judge_rules(end);
        self.judge_drift(end);
        if self.drift().is_some_and(|held| held.alarm.state.is_active()) {
            self.detectors.distrust();
        }
        if let Some(scored) = self.detectors.history.back() {
            self.changes.push(state::scored_change(scored));
        }
        let forgotten = self.detectors.turn();
        self.changes.extend(forgotten.into_iter().map(state::scored_forgotten));
    }

    /// Tells of stages that answer probes of the last window, which ends at `end`, otherwise than when they were recorded.
    fn note_probes(&mut self, end: Timestamp) {
        let (Some(first), Some(last)) = (self.recent.front(), self.recent.back()) else { return };
        let (first, last) = (first.start, last.start);
        self.probes.forget(first);
        for (stage, said) in self.probes.says(last, end, end) {
            if said == Probes::Different {
                self.note(&stage, "probes", format!("{stage} answers probes otherwise than when they were recorded"));
            }
        }
    }

    fn profile(&self, start: Timestamp, node: &StageName, seen: &crate::windows::Seen, body: ProfileBody) -> Profile {
        let window = Window { start, millis: self.settings.window_ms };
        let (pipeline, stage) = (self.settings.pipeline.clone(), node.clone());
        Profile { key: ProfileKey { pipeline, stage, version: seen.version.clone(), window }, body }
    }

    /// Returns the offset from which profiles are needed again after a restart; `None` while those that were needed at the last
    /// one are not all read again: it stays where it is.
    #[must_use]
    pub fn needed_from(&self) -> Option<Offset> {
        self.windows.needed_from()
    }

    /// Takes what is to be written: changes of the state, and alarms that have changed.
    pub fn take_changes(&mut self) -> (Vec<Change>, Vec<Alarm>) {
        let mut changes = std::mem::take(&mut self.changes);
        let alarms = std::mem::take(&mut self.updates);
        if std::mem::take(&mut self.has_passed) || !changes.is_empty() || !alarms.is_empty() {
            changes.push(state::meta_change(&Meta {
                baseline: self.fingerprint(),
                progress: self.windows.progress().clone(),
                passed: self.passed,
                seen: self.detectors.seen,
                raised: self.raised,
                alarms: self.alarms.clone(),
                over: self.over.clone(),
                notes: self.notes.clone(),
                crossings: self.crossings.clone(),
            }));
        }
        (changes, alarms)
    }

    /// Says how things stand, with every signal: since the onset of the alarm that is firing, or over the last windows.
    #[must_use]
    pub fn report(&self) -> Report {
        let Status { sentence, windows, evidence, alarms, watched, notes } = self.status();
        let active = alarms.iter().find(|alarm| alarm.state.is_active() && alarm.is_drift());
        let span = Span::new(self.since(active.and_then(|alarm| alarm.onset)));
        let ends = span.windows.first().map(|closed| closed.start).zip(span.windows.last().map(|closed| closed.start));
        let of = |node: &StageName, what: &What| {
            watched
                .iter()
                .find(|(name, other, _)| name == node && other == what)
                .map_or(0.0, |(_, _, evidence)| *evidence)
        };
        let nodes = report::nodes(
            &self.baseline,
            &self.settings.nodes,
            |node| span.nodes.get(node).cloned(),
            |node| span.version(node).cloned(),
            of,
            active,
        );
        Report {
            pipeline: self.settings.pipeline.clone(),
            sentence,
            windows,
            evidence: evidence.0,
            run_length: evidence.1,
            span: ends,
            nodes,
            traces: active.map_or_else(Vec::new, |alarm| alarm.traces.clone()),
            alarms: alarms.clone(),
            rules: self.settings.rules.iter().map(report::rule).collect(),
            notes,
        }
    }

    /// Says how things stand.
    #[must_use]
    pub fn status(&self) -> Status {
        let alarms: Vec<Alarm> = self.alarms.values().map(|held| held.alarm.clone()).collect();
        let evidence = self.detectors.evidence();
        let windows = self.detectors.seen;
        let level = self.settings.run_length;
        let mut sentence = match (alarms.iter().find(|alarm| alarm.state.is_active()), alarms.first()) {
            (Some(alarm), _) => alarm.summary.clone(),
            // What is too small, or told by too few records, stays pending with as much.
            (None, Some(pending)) if evidence >= level => {
                format!("no change is surely as large as monitor.tolerance: {}", pending.summary)
            }
            (None, Some(pending)) => format!("nothing certain yet: {}", pending.summary),
            (None, None) if windows == 0 => "nothing was judged yet".to_owned(),
            (None, None) if self.baseline.nodes.is_empty() => {
                let rules = counted(self.settings.rules.len() as u64, "rule");
                format!("no rule is broken: {rules} over {}", counted(windows, "window"))
            }
            (None, None) => {
                let so_far = format!("evidence {evidence:.1} of {level} over {}", counted(windows, "window"));
                if windows < SOONEST {
                    format!("nothing can be told yet, a change takes 2 to 5 windows: {so_far}")
                } else {
                    format!("nothing has changed: {so_far}")
                }
            }
        };
        if let Some(Alarm { id, fired: Some(fired), updated, .. }) = self.over.as_ref().filter(|_| alarms.is_empty()) {
            sentence += &format!("; {id} fired at {fired} and was over at {updated}");
        }
        let mut notes: Vec<String> = self
            .notes
            .values()
            .map(
                |note| if note.times > 1 { format!("{} ({} times)", note.text, note.times) } else { note.text.clone() },
            )
            .collect();
        let silent = self.settings.rules.iter().filter(|rule| {
            windows > 0
                && !self.crossings.contains_key(rule.name.as_str())
                && !self.notes.contains_key(&rules::misfit_key(rule))
        });
        notes.extend(silent.map(|rule| {
            format!(
                "rule {}: no window had {} of {} records or more",
                rule.name,
                rules::subject(rule),
                rule.min_records
            )
        }));
        if self.passed < self.settings.warm_up || windows == 0 && self.passed > 0 {
            let (passed, all) = (self.passed, self.settings.warm_up);
            notes.push(format!(
                "warming up: {passed} of the {all} windows that are not judged (monitor.warm_up) have passed"
            ));
        }
        if self.windows.open_windows() > 0 {
            let open = self.windows.open_windows();
            notes.push(format!("{} still open", counted(open as u64, "window")));
        }
        let watches = self.detectors.watches.iter();
        let mut watched: Vec<_> =
            watches.map(|watch| (watch.node.clone(), watch.what.clone(), watch.evidence())).collect();
        watched.sort_by(|a, b| b.2.total_cmp(&a.2));
        Status { sentence, windows, evidence: (evidence, level), alarms, watched, notes }
    }
}
