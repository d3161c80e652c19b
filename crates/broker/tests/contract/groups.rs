//! Laws 3, 4 and 5: owners, starting points, keys; units under way, and how far a member is behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use driftline_broker::{Broker, BrokerError};
use driftline_types::wire;
use proptest::{collection::vec, prelude::*, prop_assert, prop_assert_eq};

use super::*;

/// What a test does to a group next.
#[derive(Clone, Debug)]
enum Action {
    Join,
    Leave(prop::sample::Index),
    Poll(prop::sample::Index),
    Commit(prop::sample::Index, Partition),
}

/// A member and what it was told.
struct Told {
    member: Box<dyn Member>,
    owned: BTreeSet<TopicPartition>,
    revoking: BTreeSet<TopicPartition>,
}

impl Told {
    /// Polls once without waiting; returns whether something happened.
    fn poll(&mut self) -> bool {
        let event = self.member.poll(ANY, Duration::ZERO).unwrap();
        for partition in std::mem::take(&mut self.revoking) {
            self.owned.remove(&partition);
        }
        match event {
            Poll::Assigned(some) => {
                for (partition, _) in some {
                    assert!(self.owned.insert(partition), "assigned twice");
                }
            }
            Poll::Revoking(some) => {
                assert!(some.iter().all(|partition| self.owned.contains(partition)), "revoked what it had not");
                self.revoking = some.into_iter().collect();
            }
            Poll::Lost(some) => self.owned.retain(|partition| !some.contains(partition)),
            Poll::Messages(_) => {}
            Poll::Idle => return false,
        }
        true
    }
}

/// Law 3 over any sequence of joins, leaves, polls and commits; and in the end every partition has
/// an owner, the shares are even, and equal partitions of both topics are with one member.
pub fn a_partition_has_one_owner_and_others_are_fenced<S: Subject>() {
    let action = prop_oneof![
        2 => Just(Action::Join),
        1 => any::<prop::sample::Index>().prop_map(Action::Leave),
        6 => any::<prop::sample::Index>().prop_map(Action::Poll),
        3 => (any::<prop::sample::Index>(), 0..4_u32).prop_map(|(member, p)| Action::Commit(member, p)),
    ];
    check::<S, _>(48, vec(action, 1..50), |actions| {
        let subject = S::start();
        let broker = subject.broker();
        let topics = [topic("left"), topic("right")];
        for topic in &topics {
            broker.create_topic(topic, &keep_all(4)).unwrap();
            let all = (0..4).flat_map(|p| (0..9).map(move |_| p));
            broker.producer("test").unwrap().send(all.map(|p| to(topic, p, "x")).collect()).unwrap();
        }
        let g = group("g");
        let mut members: Vec<Told> = Vec::new();
        let mut committed: BTreeMap<Partition, Offset> = BTreeMap::new();
        for action in actions {
            match action {
                Action::Join => {
                    let member = broker.join(&g, &topics).unwrap();
                    members.push(Told { member, owned: BTreeSet::new(), revoking: BTreeSet::new() });
                }
                _ if members.is_empty() => continue,
                Action::Leave(at) => drop(members.remove(at.index(members.len()))),
                Action::Poll(at) => {
                    let at = at.index(members.len());
                    members[at].poll();
                }
                Action::Commit(at, partition) => {
                    let at = at.index(members.len());
                    let next = (committed.get(&partition).copied().unwrap_or(0) + 1) % 10;
                    let outcome = members[at].member.commit(unit(vec![], vec![offset(&topics[0], partition, next)]));
                    if members[at].owned.contains(&place(&topics[0], partition)) {
                        // Owned as far as the member was told; it may have been lost since.
                        match outcome {
                            Ok(()) => drop(committed.insert(partition, next)),
                            Err(BrokerError::Fenced { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    } else {
                        prop_assert!(matches!(outcome, Err(BrokerError::Fenced { .. })), "{outcome:?}");
                    }
                    let stored = broker.committed(&g, &place(&topics[0], partition)).unwrap().map(|c| c.next);
                    prop_assert_eq!(stored, committed.get(&partition).copied());
                }
            }
            // Whoever may commit is at most one: fencing is what ownership means.
            for partition in 0..4 {
                let next = committed.get(&partition).copied().unwrap_or(0);
                let mut owners = 0;
                for told in &mut members {
                    let again = unit(vec![], vec![offset(&topics[0], partition, next)]);
                    owners += usize::from(told.member.commit(again).is_ok());
                }
                if owners > 0 {
                    committed.insert(partition, next);
                }
                prop_assert!(owners <= 1, "{owners} owners of partition {partition}");
            }
        }
        if members.is_empty() {
            return Ok(());
        }
        let all: Vec<_> = topics.iter().flat_map(|t| (0..4).map(|p| place(t, p))).collect();
        let n = members.len();
        let settled = |members: &[Told]| {
            let mut owned: Vec<_> = members.iter().flat_map(|told| &told.owned).collect();
            owned.sort();
            let even = members.iter().all(|told| (2 * (4 / n)..=2 * 4_usize.div_ceil(n)).contains(&told.owned.len()));
            even && owned == all.iter().collect::<Vec<_>>()
        };
        let deadline = Instant::now() + PATIENCE;
        // Idle once in a row for everybody means that nothing is left to happen at once.
        while members.iter_mut().map(Told::poll).fold(false, |any, happened| any | happened) || !settled(&members) {
            prop_assert!(Instant::now() < deadline, "the group does not settle");
        }
        for told in &members {
            let of = |t: &Topic| told.owned.iter().filter(|p| p.topic == *t).map(|p| p.partition).collect::<Vec<_>>();
            prop_assert_eq!(of(&topics[0]), of(&topics[1]));
            prop_assert!((4 / n..=4_usize.div_ceil(n)).contains(&of(&topics[0]).len()));
        }
        Ok(())
    });
}

/// Law 4, over restarts: each new member starts where the last commit was, with its note, and reads
/// exactly what follows.
pub fn reading_starts_at_the_committed_offset<S: Subject>() {
    let note = prop::option::of("[a-z]{0,12}");
    check::<S, _>(24, vec((0..15_u64, note, any::<bool>()), 1..6), |commits| {
        let mut subject = S::start();
        let (t, g) = (topic("t"), group("g"));
        subject.broker().create_topic(&t, &keep_all(1)).unwrap();
        subject.broker().producer("test").unwrap().send((0..14_u8).map(|i| to(&t, 0, vec![i])).collect()).unwrap();
        let mut expected = Committed::default();
        for (next, metadata, restart) in commits {
            if restart {
                subject.restart();
            }
            let mut member = subject.broker().join(&g, std::slice::from_ref(&t)).unwrap();
            prop_assert_eq!(assigned(member.as_mut(), 1), vec![(place(&t, 0), expected.clone())]);
            prop_assert_eq!(member.lag().unwrap() == 0, expected.next == 14);
            let read = messages(member.as_mut(), FetchLimit { records: 4, bytes: 3 }, 14 - expected.next as usize);
            prop_assert_eq!(read.iter().map(|m| m.offset).collect::<Vec<_>>(), (expected.next..14).collect::<Vec<_>>());
            prop_assert_eq!(member.lag().unwrap(), 0);
            expected = Committed { next: next.min(14), metadata };
            let commit = OffsetCommit { partition: place(&t, 0), committed: expected.clone() };
            member.commit(unit(vec![], vec![commit])).unwrap();
            prop_assert_eq!(subject.broker().committed(&g, &place(&t, 0)).unwrap(), Some(expected.clone()));
            // A commit does not move the reader.
            prop_assert!(matches!(member.poll(ANY, Duration::ZERO).unwrap(), Poll::Idle));
        }
        Ok(())
    });
}

/// Law 5: members on threads of their own, joining while messages are written, together read each
/// key's messages in the order they were written, each once.
pub fn a_key_is_read_in_order_by_any_number_of_members<S: Subject>() {
    check::<S, _>(8, (1..4_usize, vec(0..12_u8, 50..400)), |(readers, keys)| {
        let subject = S::start();
        let broker = subject.broker();
        let (t, seen, g) = (topic("t"), topic("seen"), group("g"));
        broker.create_topic(&t, &keep_all(5)).unwrap();
        broker.create_topic(&seen, &keep_all(1)).unwrap();
        let total = keys.len();
        let copied = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..readers {
                let (t, seen, g, copied) = (&t, &seen, &g, &copied);
                // Copies what it reads, with its offset, until everything was copied by somebody. What it may not
                // commit any more is copied by the next owner.
                scope.spawn(move || {
                    let mut member = broker.join(g, std::slice::from_ref(t)).unwrap();
                    let limit = FetchLimit { records: 7, bytes: 1 << 20 };
                    while copied.load(Ordering::Acquire) < total {
                        let Poll::Messages(read) = member.poll(limit, Duration::from_millis(5)).unwrap() else {
                            continue;
                        };
                        let offsets = read.iter().map(|m| (m.partition, m.offset + 1)).collect::<BTreeMap<_, _>>();
                        let offsets = offsets.into_iter().map(|(p, next)| offset(t, p, next)).collect();
                        let n = read.len();
                        let copy = |m: Message| Outgoing { key: m.key, ..to(seen, 0, m.value.unwrap()) };
                        match member.commit(unit(read.into_iter().map(copy).collect(), offsets)) {
                            Ok(()) => drop(copied.fetch_add(n, Ordering::AcqRel)),
                            Err(BrokerError::Fenced { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            let mut producer = broker.producer("test").unwrap();
            for (i, chunk) in keys.chunks(16).enumerate() {
                let message = |(j, key): (usize, &u8)| {
                    let number = (i * 16 + j) as u32;
                    Outgoing {
                        partition: None,
                        key: Some(vec![*key].into()),
                        ..to(&t, 0, number.to_be_bytes().to_vec())
                    }
                };
                producer.send(chunk.iter().enumerate().map(message).collect()).unwrap();
            }
        });
        for partition in 0..5 {
            for message in read_all(broker, &t, partition, 0) {
                prop_assert_eq!(wire::partition_of(message.key.as_deref().unwrap(), 5), partition);
            }
        }
        let mut by_key: BTreeMap<Bytes, Vec<Bytes>> = BTreeMap::new();
        for message in read_all(broker, &seen, 0, 0) {
            by_key.entry(message.key.unwrap()).or_default().push(message.value.unwrap());
        }
        prop_assert_eq!(by_key.values().map(Vec::len).sum::<usize>(), keys.len());
        for (key, values) in by_key {
            prop_assert!(values.windows(2).all(|pair| pair[0] < pair[1]), "key {key:?} out of order");
        }
        Ok(())
    });
}

/// Units handed over without waiting are written as if each had been waited for, up to the first that fails; those
/// after it are withdrawn and can be handed over again.
pub fn units_under_way_are_written_in_order_and_none_past_a_failure<S: Subject>() {
    check::<S, _>(24, (1..20_usize, any::<prop::sample::Index>(), any::<bool>()), |(units, bad, fails)| {
        let subject = S::start();
        let broker = subject.broker();
        let (input, output, g) = (topic("in"), topic("out"), group("g"));
        for topic in [&input, &output] {
            broker.create_topic(topic, &keep_all(1)).unwrap();
        }
        broker.producer("test").unwrap().send((0..units).map(|_| to(&input, 0, "x")).collect()).unwrap();
        let mut member = broker.join(&g, std::slice::from_ref(&input)).unwrap();
        assigned(&mut *member, 1);
        let read = messages(&mut *member, ANY, units);
        let bad = bad.index(units);
        let nowhere = topic("nowhere");
        for (n, message) in read.iter().enumerate() {
            let to_where = if fails && n == bad { &nowhere } else { &output };
            let committed = vec![offset(&input, 0, message.offset + 1)];
            member.submit(unit(vec![to(to_where, 0, n.to_string())], committed));
        }
        let settled = member.settled(Wait::ForAll);
        let written = if fails { bad } else { units };
        prop_assert_eq!(settled.written, written);
        prop_assert_eq!(settled.failed.is_some(), fails, "{:?}", settled.failed);
        let told = |n: usize| (0..n).map(|n| Bytes::from(n.to_string())).collect::<Vec<_>>();
        let values =
            || read_all(broker, &output, 0, 0).into_iter().filter_map(|message| message.value).collect::<Vec<_>>();
        prop_assert_eq!(values(), told(written));
        let committed = broker.committed(&g, &place(&input, 0)).unwrap().map(|committed| committed.next);
        prop_assert_eq!(committed, written.checked_sub(1).map(|last| read[last].offset + 1));
        for (n, message) in read.iter().enumerate().skip(written) {
            let committed = vec![offset(&input, 0, message.offset + 1)];
            member.submit(unit(vec![to(&output, 0, n.to_string())], committed));
        }
        let settled = member.settled(Wait::ForAll);
        prop_assert_eq!(settled.written, units - written);
        prop_assert!(settled.failed.is_none(), "{:?}", settled.failed);
        prop_assert_eq!(values(), told(units));
        Ok(())
    });
}

/// What a gauge shows is never less than what is left to read, and no more where every offset holds a record.
pub fn the_estimated_lag_is_what_is_left_to_read<S: Subject>() {
    check::<S, _>(24, (vec(0..2_u32, 0..30), 1..8_usize), |(partitions, records)| {
        let subject = S::start();
        let (broker, t) = (subject.broker(), topic("t"));
        broker.create_topic(&t, &keep_all(2)).unwrap();
        let mut producer = broker.producer("test").unwrap();
        for some in partitions.chunks(4) {
            producer.send(some.iter().map(|partition| to(&t, *partition, "x")).collect()).unwrap();
        }
        let mut member = broker.join(&group("g"), std::slice::from_ref(&t)).unwrap();
        prop_assert_eq!(estimate(&*member), 0);
        assigned(member.as_mut(), 2);
        let limit = FetchLimit { records, bytes: usize::MAX };
        let mut left = partitions.len() as u64;
        loop {
            let estimated = estimate(&*member);
            prop_assert!(estimated >= left, "{estimated} for {left} records");
            prop_assert!(!S::DENSE || estimated == left, "{estimated} for {left} records");
            if left == 0 {
                return Ok(());
            }
            left -= messages(member.as_mut(), limit, 1).len() as u64;
        }
    });
}
