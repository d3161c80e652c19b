//! The user-profile stage: click events in, who the users are out.
//!
//! Of each user a [`History`] is kept: the last events, decayed counts, purchases. A network makes of
//! it the probability that the user has a car, a baby, a garden, a pet, a console; an answer is
//! *yes* or *no* where its probability reaches the threshold, and *unknown* otherwise.
//!
//! ```toml
//! [stages.user-profile]
//! kind = "user-profile"
//! inputs = ["shop"]
//! model = "builtin"        # or a folder that train-recommender wrote
//! threshold = 0.85         # 0.5 to 1
//! emit_on = ["visit"]      # after which events a profile is written; all by default
//! half_life = "14d"        # in which time an interest halves
//! expiry = "60d"           # after which time an event, or a user without events, is forgotten
//! max_late = "1h"          # how far a user's clock may run backwards
//! max_ahead = "30d"        # how far an event may be ahead of the others
//! ```
//!
//! **Time** comes from the events. An event before the user's newest one counts as of that one's time
//! if it is at most `max_late` before, and is rejected otherwise. An event more than `max_ahead` after,
//! or `expiry` before, the partition's clock is rejected.
//!
//! The clock is the highest median of what the last five users said last, whether it was rejected or not. So one
//! device that runs wrong does not move it, and after a silence longer than `max_ahead` three users do. A user who is
//! not among the partition's last hundred events is not asked any more. Where fewer than five are left, the median is
//! theirs, of an even number the lower one in the middle: of two users the one behind is believed, and one alone once
//! nobody else was heard for a hundred events. A new partition has no clock, and rejects nothing for it, until it has
//! met five users or had a hundred events.
//!
//! **Erasure.** An event of kind `erase` removes all that is kept of the user: memory, changelog (a
//! tombstone), what they said to the clock, and, by an empty profile, what later stages know.
//!
//! **Injections.** `threshold_shift` is added to the threshold.
//!
//! **Probes.** A probe stands for a user of whom nothing was heard before its round. The clock neither hears it nor judges it,
//! so that its answers are the same whenever it comes.
//!
//! **State** is one entry a user, some 250 bytes, committed with the outputs: a run that was killed
//! goes on as if it had not been. A user of whom nothing came for twice the expiry is removed; nobody
//! can tell, since what is older than the expiry counts for nothing. Beside the users stand the clock and
//! the names of the model's categories: with another model, a history still means the same categories, and
//! those that the model does not know count as *other*.

mod clock;
mod config;
mod numbers;

use std::{collections::HashMap, path::Path};

use bytes::Bytes;
use driftline_models::profile::{Action, History, Past, Profiler, history::newest_of};
use driftline_payloads::{Answer, Attributes, ClickEvent, ClickKind, Estimate, Interest, RecentEvent, UserProfile};
use driftline_stage::{
    ConfigProblem, Emitter, Parameter, Record, Stage, StageError, StageKind, Timestamp, config::BUILTIN,
};

pub use config::Config;

use crate::{
    clock::Clock,
    config::Rules,
    numbers::{Numbers, Tag},
};

/// Most interests in a profile.
const INTERESTS: usize = 5;
/// The state entry of the clock; those of users begin with [`USER`], those of probes with [`PROBE`], those of names of categories with [`NAMES`].
const CLOCK: &[u8] = b"c";
const USER: u8 = b'u';
const PROBE: u8 = b'p';
const NAMES: u8 = b'n';
const DAY_MS: i64 = 86_400_000;

static THRESHOLD_SHIFT: Parameter = Parameter {
    name: "threshold_shift",
    unit: "1",
    help: "added to the probability from which an answer is known; the sum is held between 0.5 and 1",
    min: -0.5,
    max: 0.5,
    neutral: 0.0,
};

/// The kind `user-profile`.
pub struct UserProfileKind {
    profiler: Profiler,
    rules: Rules,
}

impl StageKind for UserProfileKind {
    const KIND: &'static str = "user-profile";
    const PATHS: &'static [&'static str] = &["model"];
    const PARAMETERS: &'static [&'static Parameter] = &[&THRESHOLD_SHIFT];
    type Config = Config;
    type Stage = UserProfileStage;

    fn check(config: &Config) -> Vec<ConfigProblem> {
        config.problems()
    }

    fn open(config: Config) -> Result<Self, StageError> {
        let profiler =
            if config.model == BUILTIN { Profiler::builtin() } else { Profiler::load(Path::new(&config.model)) };
        let profiler = profiler.map_err(|error| StageError::fatal("the model cannot be used").caused_by(error))?;
        Ok(Self { profiler, rules: config.rules() })
    }

    fn fingerprint(&self) -> String {
        self.profiler.version().to_owned()
    }

    fn instance(&self) -> UserProfileStage {
        UserProfileStage {
            profiler: self.profiler.clone(),
            rules: self.rules,
            clock: Clock::default(),
            swept_day: i64::MIN,
            users: HashMap::new(),
            probes: HashMap::new(),
            tag: numbers::tag(self.profiler.vocabulary()),
            named: false,
        }
    }
}

/// The stage of one partition.
pub struct UserProfileStage {
    profiler: Profiler,
    rules: Rules,
    clock: Clock,
    /// The day of the clock on which users were last removed.
    swept_day: i64,
    /// The bytes of each history, by the user's name. Bytes, because a million of them must fit.
    users: HashMap<Box<str>, Box<[u8]>>,
    /// The same of each probe, by its name, and the round that the history is of.
    probes: HashMap<Box<str>, (Timestamp, Box<[u8]>)>,
    /// What the state calls the model's vocabulary.
    tag: Tag,
    /// Whether the state has the names of its categories.
    named: bool,
}

/// Whose history it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Who<'a> {
    User(&'a str),
    Probe(&'a str, Timestamp),
}

impl<'a> Who<'a> {
    fn of(record: &'a Record<ClickEvent>) -> Self {
        match &record.context.probe {
            Some(probe) => Self::Probe(&probe.name, probe.round),
            None => Self::User(&record.value.user),
        }
    }

    fn state_key(self) -> Bytes {
        match self {
            Self::User(user) => user_key(user),
            Self::Probe(name, _) => state_key(PROBE, name.as_bytes()),
        }
    }
}

/// A profile to be written once the network has answered.
struct Pending<'a> {
    record: &'a Record<ClickEvent>,
    history: History,
    gap_ms: Option<i64>,
}

impl Stage for UserProfileStage {
    type Input = ClickEvent;
    type Output = UserProfile;

    fn process(&mut self, batch: &[Record<ClickEvent>], out: &mut Emitter<'_, UserProfile>) -> Result<(), StageError> {
        // Histories of this batch; the last one of a user is what is kept.
        let mut open: HashMap<Who<'_>, Option<History>> = HashMap::new();
        let mut order: Vec<Who<'_>> = Vec::new();
        let mut pending = Vec::with_capacity(batch.len());
        for record in batch {
            let (event, who) = (&record.value, Who::of(record));
            if let Who::User(_) = who
                && let Err(reason) = self.hear(record)
            {
                out.reject(record, reason);
                continue;
            }
            let history = match open.get_mut(&who) {
                Some(history) => history,
                None => {
                    let kept = self.kept(who).map(|bytes| History::decode(bytes).ok_or_else(damaged));
                    order.push(who);
                    open.entry(who).or_insert(kept.transpose()?)
                }
            };
            // All but an erasure is an action.
            let Some(action) = Action::named(event.kind.name()) else {
                *history = None;
                pending.push(Pending { record, history: History::default(), gap_ms: None });
                continue;
            };
            let behind = history.as_ref().map_or(0, |history| history.newest_ms - event.time_ms);
            if behind > self.rules.max_late_ms {
                let allowed = self.rules.max_late_ms;
                out.reject(
                    record,
                    format!("time_ms: found {behind} ms before the user's newest event, allowed {allowed}"),
                );
                continue;
            }
            let history = history.get_or_insert_default();
            if history.is_expired(event.time_ms, self.rules.fading) {
                *history = History::default();
            }
            let gap_ms = (history.events > 0).then(|| (event.time_ms - history.newest_ms).max(0));
            let past = Past {
                time_ms: event.time_ms,
                action,
                category: self.profiler.vocabulary().code(event.category.as_deref()),
                product: event.product.clone().unwrap_or_default(),
            };
            history.observe(past, self.rules.fading);
            if self.rules.emit_on[event.kind as usize] {
                pending.push(Pending { record, history: history.clone(), gap_ms });
            }
        }
        self.keep(&order, &open, out);
        self.emit(pending, out)?;
        self.sweep(out);
        Ok(())
    }

    fn restore(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<(), StageError> {
        let mut numbers = Numbers::new(self.profiler.vocabulary(), self.tag);
        for (key, value) in &entries {
            if let Some((&NAMES, tag)) = key.split_first() {
                numbers.learn(tag, value).ok_or_else(damaged)?;
                self.named |= tag == self.tag;
            }
        }
        self.users.reserve(entries.len());
        for (key, value) in entries {
            match key.split_first() {
                Some((&USER, name)) => {
                    let name = std::str::from_utf8(name).map_err(|_| damaged())?;
                    // Copied: a slice would keep the whole block of the log that it lies in.
                    self.users.insert(name.into(), numbers.history(&value).ok_or_else(damaged)?);
                }
                Some((&PROBE, name)) => {
                    let name = std::str::from_utf8(name).map_err(|_| damaged())?;
                    let (round, history) = value.split_first_chunk().ok_or_else(damaged)?;
                    let round = Timestamp::from_millis(i64::from_le_bytes(*round));
                    let history = numbers.history(history).ok_or_else(damaged)?;
                    self.probes.insert(name.into(), (round, history));
                }
                Some((&NAMES, _)) => {}
                _ if key == CLOCK => self.clock = Clock::from_bytes(&value).ok_or_else(damaged)?,
                _ => return Err(damaged()),
            }
        }
        Ok(())
    }
}

impl UserProfileStage {
    /// Takes what an event tells of the time, or says why it cannot be true.
    fn hear(&mut self, record: &Record<ClickEvent>) -> Result<(), String> {
        let event = &record.value;
        // Nobody speaks to the clock in the name of somebody else.
        if record.key.as_bytes() != event.user.as_bytes() {
            return Err("key: found another one than the user, allowed is the user".to_owned());
        }
        let accepted = self.check_clock(event);
        match (event.kind, &accepted) {
            (ClickKind::Erase, Ok(())) => self.clock.hear_erasure(&event.user, event.time_ms),
            _ => self.clock.hear(&event.user, event.time_ms),
        }
        accepted
    }

    /// Returns the history that is kept; of a probe only that of the same round.
    fn kept(&self, who: Who<'_>) -> Option<&[u8]> {
        match who {
            Who::User(user) => self.users.get(user).map(|bytes| &**bytes),
            Who::Probe(name, round) => {
                self.probes.get(name).filter(|(other, _)| *other == round).map(|(_, bytes)| &**bytes)
            }
        }
    }

    /// Says whether an event's time can be true, as far as the other events tell.
    fn check_clock(&self, event: &ClickEvent) -> Result<(), String> {
        let Some(now) = self.clock.now() else { return Ok(()) };
        let (ahead, Rules { max_ahead_ms, fading, .. }) = (event.time_ms - now, self.rules);
        if ahead > max_ahead_ms {
            return Err(format!("time_ms: found {ahead} ms after the partition's clock, allowed {max_ahead_ms}"));
        }
        if -ahead > fading.expiry_ms {
            let allowed = fading.expiry_ms;
            return Err(format!("time_ms: found {} ms before the partition's clock, allowed {allowed}", -ahead));
        }
        Ok(())
    }

    /// Keeps the histories of a batch, in memory and in the changelog.
    fn keep(
        &mut self,
        order: &[Who<'_>],
        open: &HashMap<Who<'_>, Option<History>>,
        out: &mut Emitter<'_, UserProfile>,
    ) {
        if !self.named {
            out.put_state(state_key(NAMES, &self.tag), numbers::lines(self.profiler.vocabulary()));
            self.named = true;
        }
        let mut bytes = Vec::with_capacity(384);
        for &who in order {
            let key = who.state_key();
            let Some(Some(history)) = open.get(&who) else {
                out.delete_state(key);
                match who {
                    Who::User(user) => drop(self.users.remove(user)),
                    Who::Probe(name, _) => drop(self.probes.remove(name)),
                }
                continue;
            };
            bytes.clear();
            if let Who::Probe(_, round) = who {
                bytes.extend(round.as_millis().to_le_bytes());
            }
            let start = bytes.len();
            history.encode(&mut bytes);
            let kept = bytes[start..].into();
            match who {
                Who::User(user) => drop(self.users.insert(user.into(), kept)),
                Who::Probe(name, round) => drop(self.probes.insert(name.into(), (round, kept))),
            }
            bytes.extend_from_slice(&self.tag);
            out.put_state(key, Bytes::copy_from_slice(&bytes));
        }
        out.put_state(CLOCK, self.clock.to_bytes());
    }

    /// Asks the network and writes the profiles.
    fn emit(&self, pending: Vec<Pending<'_>>, out: &mut Emitter<'_, UserProfile>) -> Result<(), StageError> {
        let histories: Vec<&History> = pending.iter().map(|pending| &pending.history).collect();
        let estimates = self
            .profiler
            .estimate(&histories)
            .map_err(|error| StageError::fatal("the profile's network failed").caused_by(error))?;
        for (Pending { record, history, gap_ms }, probabilities) in pending.into_iter().zip(estimates) {
            let known = record.value.kind != ClickKind::Erase;
            let threshold = (self.rules.threshold + out.parameter(&THRESHOLD_SHIFT, record) as f32).clamp(0.5, 1.0);
            let estimate = |probability: f32| match probability {
                _ if !known => Estimate::default(),
                p if p >= threshold => Estimate { answer: Answer::Yes, probability },
                p if 1.0 - p >= threshold => Estimate { answer: Answer::No, probability },
                _ => Estimate { answer: Answer::Unknown, probability },
            };
            let profile = UserProfile {
                user: record.value.user.clone(),
                time_ms: record.value.time_ms,
                cause: record.value.kind,
                events: history.events,
                activity: history.activity(),
                gap_ms,
                attributes: Attributes::from_all(probabilities.map(estimate)),
                interests: self.interests(&history),
                recent: history.recent.into_iter().map(|past| self.recent(past)).collect(),
                bought: history.bought,
            };
            out.emit(record, profile);
        }
        Ok(())
    }

    fn interests(&self, history: &History) -> Vec<Interest> {
        let all = history.activity();
        let mut counts = history.counts.clone();
        counts.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let named = counts.into_iter().filter_map(|(code, weight)| {
            let category = self.profiler.vocabulary().name(code)?.to_owned();
            Some(Interest { category, weight: weight / all })
        });
        named.take(INTERESTS).collect()
    }

    fn recent(&self, past: Past) -> RecentEvent {
        RecentEvent {
            time_ms: past.time_ms,
            kind: kind(past.action),
            category: self.profiler.vocabulary().name(past.category).map(str::to_owned),
            product: Some(past.product).filter(|product| !product.is_empty()),
        }
    }

    /// Removes, once a day of the partition's clock, users of whom nothing came for twice the expiry.
    fn sweep(&mut self, out: &mut Emitter<'_, UserProfile>) {
        let Some(now) = self.clock.now() else { return };
        let day = now.div_euclid(DAY_MS);
        if day <= self.swept_day {
            return;
        }
        self.swept_day = day;
        let before = now.saturating_sub(self.rules.fading.expiry_ms.saturating_mul(2));
        self.users.retain(|user, bytes| {
            let kept = newest_of(bytes).is_some_and(|newest| newest >= before);
            if !kept {
                out.delete_state(user_key(user));
            }
            kept
        });
    }
}

fn user_key(user: &str) -> Bytes {
    state_key(USER, user.as_bytes())
}

fn state_key(kind: u8, name: &[u8]) -> Bytes {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(kind);
    key.extend_from_slice(name);
    key.into()
}

fn damaged() -> StageError {
    StageError::fatal("a state entry of the user-profile stage is damaged")
}

fn kind(action: Action) -> ClickKind {
    match action {
        Action::Visit => ClickKind::Visit,
        Action::Search => ClickKind::Search,
        Action::View => ClickKind::View,
        Action::AddToCart => ClickKind::AddToCart,
        Action::Buy => ClickKind::Buy,
    }
}
