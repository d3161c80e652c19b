//! Who owns which partition of a consumer group: pure bookkeeping, time passed in.
//!
//! Partitions are given out by range, topic by topic, over the members that read the topic, in the
//! order in which they joined. Topics with equal numbers of partitions and equal readers are
//! therefore *co-partitioned*: one member owns partition `p` of each.
//!
//! A partition has at most one owner at any time. A change of membership sets new *targets* only;
//! ownership follows in the members' own steps:
//!
//! - An owner learns that a partition is not its target ([`Step::Revoking`]) and keeps it until its
//!   next step, so that it can finish and commit.
//! - A target takes a partition as soon as nobody owns it ([`Step::Assigned`]).
//! - An owner that has not given a partition up by its deadline loses it to the target
//!   ([`Step::Lost`]).
//!
//! Partitions that do not move are not interrupted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    time::{Duration, Instant},
};

use super::view::Slot;

/// A member within its group; later members have higher numbers.
pub(super) type MemberId = u64;

/// A topic that a member reads: the slots of its partitions, by number.
pub(super) type TopicSlots = std::ops::Range<Slot>;

/// What a member has to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// These are owned from now on.
    Assigned(Vec<Slot>),
    /// These are given up at the next step.
    Revoking(Vec<Slot>),
    /// These were taken away.
    Lost(Vec<Slot>),
}

/// The outcome of [`Group::step`].
#[derive(Debug)]
pub(super) struct Stepped {
    /// What to tell the member, if anything.
    pub step: Option<Step>,
    /// Whether others may have something to do now.
    pub wake_others: bool,
    /// When to step again at the latest, although nothing else happens.
    pub again_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Membership {
    topics: Vec<TopicSlots>,
    target: BTreeSet<Slot>,
    owned: BTreeSet<Slot>,
    announced: BTreeSet<Slot>,
    lost: BTreeSet<Slot>,
    deadline: Option<Instant>,
}

/// The members of a group and what each of them owns.
#[derive(Debug)]
pub(super) struct Group {
    members: BTreeMap<MemberId, Membership>,
    owners: HashMap<Slot, MemberId>,
    next_id: MemberId,
    revocation_timeout: Duration,
}

impl Group {
    /// Makes an empty group whose members get `revocation_timeout` to give up a partition.
    pub(super) fn new(revocation_timeout: Duration) -> Self {
        Self { members: BTreeMap::new(), owners: HashMap::new(), next_id: 0, revocation_timeout }
    }

    /// Adds a member.
    pub(super) fn join(&mut self, topics: Vec<TopicSlots>, now: Instant) -> MemberId {
        let id = self.next_id;
        self.next_id += 1;
        self.members.insert(id, Membership { topics, ..Membership::default() });
        self.set_targets(now);
        id
    }

    /// Removes a member; what it owned is free at once.
    pub(super) fn leave(&mut self, id: MemberId, now: Instant) {
        self.members.remove(&id);
        self.owners.retain(|_, owner| *owner != id);
        self.set_targets(now);
    }

    /// Returns whether a member owns a partition.
    pub(super) fn owns(&self, id: MemberId, slot: Slot) -> bool {
        self.owners.get(&slot) == Some(&id)
    }

    /// Returns whether the group has no members.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Moves a member forward by one event. Stepping gives up what was announced as
    /// [`Step::Revoking`] before.
    pub(super) fn step(&mut self, id: MemberId, now: Instant) -> Stepped {
        let mut stepped = Stepped { step: None, wake_others: false, again_at: None };
        let Some(member) = self.members.get_mut(&id) else { return stepped };
        if !member.lost.is_empty() {
            stepped.step = Some(Step::Lost(mem::take(&mut member.lost).into_iter().collect()));
            return stepped;
        }
        for slot in mem::take(&mut member.announced) {
            member.owned.remove(&slot);
            self.owners.remove(&slot);
            stepped.wake_others = true;
        }
        member.announced = member.owned.difference(&member.target).copied().collect();
        if !member.announced.is_empty() {
            stepped.step = Some(Step::Revoking(member.announced.iter().copied().collect()));
            return stepped;
        }
        member.deadline = None;
        let wanted: Vec<Slot> = member.target.difference(&member.owned).copied().collect();
        let mut taken = Vec::new();
        for slot in wanted {
            if let Some(deadline) = self.kept_until(slot) {
                if deadline > now {
                    stepped.again_at = Some(stepped.again_at.map_or(deadline, |at| at.min(deadline)));
                    continue;
                }
                self.dispossess(slot);
                stepped.wake_others = true;
            }
            self.owners.insert(slot, id);
            taken.push(slot);
        }
        if !taken.is_empty() {
            if let Some(member) = self.members.get_mut(&id) {
                member.owned.extend(&taken);
            }
            stepped.step = Some(Step::Assigned(taken));
        }
        stepped
    }

    /// Returns until when the owner of a partition may keep it; `None` if nobody owns it.
    fn kept_until(&self, slot: Slot) -> Option<Instant> {
        // An owner of what is another's target always has a deadline: `set_targets` gave it one, and
        // only the step that gives everything up takes it away.
        self.owners.get(&slot).and_then(|owner| self.members.get(owner)).and_then(|owner| owner.deadline)
    }

    fn dispossess(&mut self, slot: Slot) {
        if let Some(member) = self.owners.remove(&slot).and_then(|owner| self.members.get_mut(&owner)) {
            member.owned.remove(&slot);
            member.announced.remove(&slot);
            member.lost.insert(slot);
        }
    }

    /// Gives each topic's partitions out by range and starts the clock of those that must give up.
    fn set_targets(&mut self, now: Instant) {
        let mut readers: BTreeMap<Slot, (TopicSlots, Vec<MemberId>)> = BTreeMap::new();
        for (id, member) in &mut self.members {
            member.target.clear();
            for topic in &member.topics {
                readers.entry(topic.start).or_insert_with(|| (topic.clone(), Vec::new())).1.push(*id);
            }
        }
        for (topic, readers) in readers.into_values() {
            let (each, more) = ((topic.end - topic.start) / readers.len(), (topic.end - topic.start) % readers.len());
            let mut slots = topic;
            for (i, id) in readers.iter().enumerate() {
                let share = each + usize::from(i < more);
                if let Some(member) = self.members.get_mut(id) {
                    member.target.extend(slots.by_ref().take(share));
                }
            }
        }
        let deadline = now + self.revocation_timeout;
        for member in self.members.values_mut() {
            let gives_up = !member.announced.is_empty() || !member.owned.is_subset(&member.target);
            member.deadline = gives_up.then(|| member.deadline.unwrap_or(deadline));
        }
    }
}
