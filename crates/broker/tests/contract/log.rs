//! Laws 1, 2 and 6: offsets, whole units, bytes.

use std::sync::atomic::{AtomicBool, Ordering};

use driftline_broker::{Broker, BrokerError, Producer};
use proptest::{collection::vec, option, prelude::*, prop_assert, prop_assert_eq};

use super::*;

/// Law 1, over several topics, producers and a restart.
pub fn offsets_are_dense_in_the_order_of_commits<S: Subject>() {
    let units = vec((any::<bool>(), vec((0..2_usize, 0..3_u32, 0..600_usize), 0..8)), 1..12);
    check(24, units, |units| {
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
                broker.producer().unwrap().send(outputs).unwrap();
            }
        }
        subject.restart();
        let broker = subject.broker();
        for (i, expected) in model.iter().enumerate() {
            let (topic, partition) = (&topics[i / 3], (i % 3) as u32);
            let read = read_all(broker, topic, partition, 0);
            prop_assert_eq!(
                read.iter().map(|m| m.offset).collect::<Vec<_>>(),
                (0..expected.len() as u64).collect::<Vec<_>>()
            );
            prop_assert!(read.iter().zip(expected).all(|(m, e)| m.value.as_deref() == Some(e)));
            prop_assert!(read.iter().all(|m| m.topic == *topic && m.partition == partition));
            let ends = broker.describe_topic(topic).unwrap().unwrap().partitions[partition as usize];
            prop_assert_eq!((ends.low, ends.high), (0, expected.len() as u64));
            let beyond = broker.read(&place(topic, partition), expected.len() as u64 + 1, ANY);
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
    check(20, (faults, vec(0..2_u32, 0..5), any::<prop::sample::Index>()), |(fault, good, at)| {
        let subject = S::start();
        let broker = subject.broker();
        let (input, output, elsewhere) = (topic("in"), topic("out"), topic("elsewhere"));
        for topic in [&input, &output, &elsewhere] {
            broker.create_topic(topic, &keep_all(2)).unwrap();
        }
        broker.producer().unwrap().send(vec![to(&input, 0, "a"), to(&input, 1, "b")]).unwrap();
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
            Fault::BeyondTheEnd => offsets.push(offset(&input, 1, 2)),
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

/// Law 2: while units of one message a partition are written, a reader never finds one partition
/// ahead of another.
pub fn readers_see_units_whole<S: Subject>() {
    let subject = S::start();
    let broker = subject.broker();
    let (a, b) = (topic("a"), topic("b"));
    broker.create_topic(&a, &keep_all(4)).unwrap();
    broker.create_topic(&b, &keep_all(4)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut producer: Box<dyn Producer> = broker.producer().unwrap();
        let (done, a, b) = (&done, &a, &b);
        scope.spawn(move || {
            for i in 0..300_u32 {
                let both = [a, b].into_iter().flat_map(|topic| (0..4).map(move |partition| (topic, partition)));
                producer.send(both.map(|(t, p)| to(t, p, i.to_le_bytes().to_vec())).collect()).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let first = broker.describe_topic(a).unwrap().unwrap().partitions;
            assert!(first.iter().all(|ends| ends.high == first[0].high), "{first:?}");
            // The second topic is looked at later, so it may only be further on.
            let second = broker.describe_topic(b).unwrap().unwrap().partitions;
            assert!(second.iter().all(|ends| ends.high >= first[0].high), "{first:?} {second:?}");
            assert!(second.iter().all(|ends| ends.high == second[0].high), "{second:?}");
        }
    });
    assert_eq!(broker.describe_topic(&a).unwrap().unwrap().partitions[3].high, 300);
}

/// Law 6, through a member and through a restart.
pub fn messages_come_back_byte_for_byte<S: Subject>() {
    let bytes = || vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    let name = prop_oneof![Just("ce_id".to_owned()), Just("traceparent".to_owned()), "[a-zA-Z0-9_.-]{1,20}"];
    let headers = vec((name, bytes()), 0..6);
    let message = (option::of(bytes()), option::of(bytes()), headers, any::<u32>());
    check(24, vec(message, 1..12), |inputs| {
        let mut subject = S::start();
        let t = topic("t");
        subject.broker().create_topic(&t, &keep_all(1)).unwrap();
        let sent: Vec<Outgoing> = inputs
            .into_iter()
            .map(|(key, value, pairs, ms)| {
                let mut headers = Headers::default();
                for (name, value) in pairs {
                    headers.push(name, value);
                }
                let timestamp = Timestamp::from_millis(i64::from(ms));
                Outgoing { topic: t.clone(), partition: None, key, value, headers, timestamp }
            })
            .collect();
        subject.broker().producer().unwrap().send(sent.clone()).unwrap();
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
