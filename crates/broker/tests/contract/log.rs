//! Laws 1, 2 and 6: offsets, whole units, bytes; and compaction.

use std::collections::BTreeMap;

use driftline_broker::{Broker, BrokerError};
use proptest::{collection::vec, option, prelude::*, prop_assert, prop_assert_eq};

use super::*;

/// Law 1, over several topics, producers and a restart.
pub fn offsets_grow_in_the_order_of_commits<S: Subject>() {
    let units = vec((any::<bool>(), vec((0..2_usize, 0..3_u32, 0..600_usize), 0..8)), 1..12);
    check::<S, _>(24, units, |units| {
        let mut subject = S::start();
        let topics = [topic("one"), topic("two")];
        let mut model: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 6];
        let middle = units.len() / 2;
        for (i, (from_member, messages)) in units.into_iter().enumerate() {
            if i == middle {
                subject.restart();
            }
            let broker = subject.broker();
            for topic in &topics {
                broker.create_topic(topic, &keep_all(3)).unwrap();
            }
            let mut outputs = Vec::new();
            for (n, (t, partition, len)) in messages.into_iter().enumerate() {
                let mut value = vec![n as u8; len];
                value.extend_from_slice(&(i as u64).to_le_bytes());
                model[t * 3 + partition as usize].push(value.clone());
                outputs.push(to(&topics[t], partition, value));
            }
            if from_member {
                broker.join(&group("g"), &topics).unwrap().commit(unit(outputs, vec![])).unwrap();
            } else {
                broker.producer("test").unwrap().send(outputs).unwrap();
            }
        }
        subject.restart();
        let broker = subject.broker();
        for (i, expected) in model.iter().enumerate() {
            let (topic, partition) = (&topics[i / 3], (i % 3) as u32);
            let read = read_all(broker, topic, partition, 0);
            prop_assert!(read.windows(2).all(|pair| pair[0].offset < pair[1].offset));
            prop_assert_eq!(read.len(), expected.len());
            prop_assert!(read.iter().zip(expected).all(|(m, e)| m.value.as_deref() == Some(e)));
            prop_assert!(read.iter().all(|m| m.topic == *topic && m.partition == partition));
            let ends = broker.describe_topic(topic).unwrap().unwrap().partitions[partition as usize];
            prop_assert_eq!(ends.low, 0);
            prop_assert!(read.last().is_none_or(|last| last.offset < ends.high));
            if S::DENSE {
                prop_assert_eq!(ends.high, expected.len() as u64);
                prop_assert!(read.iter().map(|m| m.offset).eq(0..ends.high));
            }
            let beyond = broker.read(&place(topic, partition), ends.high + 1, ANY);
            let out_of_range = matches!(beyond, Err(BrokerError::OutOfRange { .. }));
            prop_assert!(out_of_range);
        }
        prop_assert_eq!(broker.topics().unwrap(), topics.to_vec());
        Ok(())
    });
}

/// What makes a unit fail.
#[derive(Clone, Copy, Debug)]
enum Fault {
    UnknownTopic,
    UnknownPartition,
    TooLarge,
    NotOwned,
    BeyondTheEnd,
}

/// Law 2: a unit that fails, for whatever reason and wherever in the unit, changes nothing.
pub fn a_failed_unit_leaves_nothing<S: Subject>() {
    let faults = prop_oneof![
        Just(Fault::UnknownTopic),
        Just(Fault::UnknownPartition),
        Just(Fault::TooLarge),
        Just(Fault::NotOwned),
        Just(Fault::BeyondTheEnd),
    ];
    check::<S, _>(20, (faults, vec(0..2_u32, 0..5), any::<prop::sample::Index>()), |(fault, good, at)| {
        let subject = S::start();
        let broker = subject.broker();
        let (input, output, elsewhere) = (topic("in"), topic("out"), topic("elsewhere"));
        for topic in [&input, &output, &elsewhere] {
            broker.create_topic(topic, &keep_all(2)).unwrap();
        }
        broker.producer("test").unwrap().send(vec![to(&input, 0, "a"), to(&input, 1, "b")]).unwrap();
        let mut member = broker.join(&group("g"), std::slice::from_ref(&input)).unwrap();
        assigned(member.as_mut(), 2);
        let mut outputs: Vec<_> = good.iter().map(|partition| to(&output, *partition, "x")).collect();
        let mut offsets = vec![offset(&input, 0, 1)];
        let at = at.index(outputs.len() + 1);
        match fault {
            Fault::UnknownTopic => outputs.insert(at, to(&topic("nowhere"), 0, "x")),
            Fault::UnknownPartition => outputs.insert(at, to(&output, 2, "x")),
            Fault::TooLarge => outputs.insert(at, to(&output, 0, vec![0; 1 << 30 | 1])),
            Fault::NotOwned => offsets.push(offset(&elsewhere, 0, 0)),
            Fault::BeyondTheEnd => offsets.push(offset(&input, 1, 9)),
        }
        let outcome = member.commit(unit(outputs, offsets));
        let expected = match fault {
            Fault::UnknownTopic => matches!(outcome, Err(BrokerError::UnknownTopic { .. })),
            Fault::UnknownPartition => matches!(outcome, Err(BrokerError::UnknownPartition { .. })),
            Fault::TooLarge => matches!(outcome, Err(BrokerError::TooLarge { .. })),
            Fault::NotOwned => matches!(outcome, Err(BrokerError::Fenced { .. })),
            Fault::BeyondTheEnd => matches!(outcome, Err(BrokerError::OutOfRange { .. })),
        };
        prop_assert!(expected, "{outcome:?}");
        for partition in 0..2 {
            prop_assert!(read_all(broker, &output, partition, 0).is_empty());
            prop_assert_eq!(broker.committed(&group("g"), &place(&input, partition)).unwrap(), None);
        }
        // The member goes on as if nothing had been.
        member.commit(unit(vec![to(&output, 0, "y")], vec![offset(&input, 0, 1)])).unwrap();
        prop_assert_eq!(read_all(broker, &output, 0, 0).len(), 1);
        Ok(())
    });
}

/// Law 6, through a member and through a restart.
pub fn messages_come_back_byte_for_byte<S: Subject>() {
    let bytes = || vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    let name = prop_oneof![Just("ce_id".to_owned()), Just("traceparent".to_owned()), "[a-zA-Z0-9_.-]{1,20}"];
    let headers = vec((name, bytes()), 0..6);
    let message = (option::of(bytes()), option::of(bytes()), headers, any::<u32>());
    check::<S, _>(24, vec(message, 1..12), |inputs| {
        let mut subject = S::start();
        let t = topic("t");
        subject.broker().create_topic(&t, &keep_all(1)).unwrap();
        let sent: Vec<Outgoing> = inputs
            .into_iter()
            .map(|(key, value, pairs, ms)| {
                let mut headers = Headers::default();
                for (name, value) in pairs {
                    headers.push(&name, value);
                }
                let timestamp = Timestamp::from_millis(i64::from(ms));
                Outgoing { topic: t.clone(), partition: None, key, value, headers, timestamp }
            })
            .collect();
        subject.broker().producer("test").unwrap().send(sent.clone()).unwrap();
        let same = |read: &[Message]| {
            read.len() == sent.len()
                && read.iter().zip(&sent).all(|(r, s)| {
                    (&r.key, &r.value, &r.headers, r.timestamp) == (&s.key, &s.value, &s.headers, s.timestamp)
                })
        };
        {
            let mut member = subject.broker().join(&group("g"), std::slice::from_ref(&t)).unwrap();
            assigned(member.as_mut(), 1);
            prop_assert!(same(&messages(member.as_mut(), ANY, sent.len())));
        }
        subject.restart();
        prop_assert!(same(&read_all(subject.broker(), &t, 0, 0)));
        Ok(())
    });
}

/// A compacted topic holds at least the last record of each key, in order, and a tombstone ends a
/// key: nothing older of it is left once there is a later one.
pub fn the_last_record_of_a_key_stays<S: Subject>() {
    let record = (0..6_u8, prop::option::weighted(0.8, any::<u16>()));
    check::<S, _>(32, (vec(vec(record, 1..8), 1..16), any::<bool>()), |(units, restart)| {
        let mut subject = S::start();
        let t = topic("t");
        subject.broker().create_topic(&t, &TopicSpec { partitions: 1, cleanup: Cleanup::Compact }).unwrap();
        let mut last: BTreeMap<u8, Option<u16>> = BTreeMap::new();
        for records in units {
            let outputs = records.iter().map(|(key, value)| Outgoing {
                key: Some(vec![*key].into()),
                value: value.map(|value| value.to_le_bytes().to_vec().into()),
                ..to(&t, 0, "")
            });
            subject.broker().producer("test").unwrap().send(outputs.collect()).unwrap();
            last.extend(records);
        }
        if restart {
            subject.restart();
        }
        let broker = subject.broker();
        let read = read_all(broker, &t, 0, 0);
        prop_assert!(read.windows(2).all(|pair| pair[0].offset < pair[1].offset));
        let mut replayed: BTreeMap<u8, Bytes> = BTreeMap::new();
        for message in read {
            match message.value {
                Some(value) => drop(replayed.insert(message.key.unwrap()[0], value)),
                None => drop(replayed.remove(&message.key.unwrap()[0])),
            }
        }
        let live = |(key, value): (u8, Option<u16>)| Some((key, Bytes::from(value?.to_le_bytes().to_vec())));
        prop_assert_eq!(replayed, last.into_iter().filter_map(live).collect::<BTreeMap<_, _>>());
        Ok(())
    });
}
