//! What a broker in one process promises beyond the contract: a unit appears in all partitions at the same moment, and
//! retention acts at once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use driftline_broker::{Broker, BrokerError, Cleanup, Producer, Retention, TopicSpec};
use driftline_types::{Offset, Outgoing, Timestamp};
use proptest::{collection::vec, prelude::*, prop_assert, prop_assert_eq};

use crate::contract::*;

/// Law 7: whatever the broker removes, it is a beginning of the partition, and no removed record
/// was within the limits at the end: of bytes, or of an hour, which no record of any event time is old. Reading it is an
/// error, for tools and for groups, which are told how to go on.
pub fn only_the_oldest_beyond_the_limits_go<S: Subject>() {
    let limits = (prop::option::of(0..3_000_u64), prop::option::of(Just(3_600_000_u64)));
    let units = vec(vec((1..200_usize, any::<i64>()), 1..6), 1..20);
    check::<S, _>(48, (limits, units, 0..30_u64), |((bytes, ms), units, at)| {
        let mut subject = S::start();
        let (t, g) = (topic("t"), group("g"));
        let spec = TopicSpec { partitions: 1, cleanup: Cleanup::Delete(Retention { bytes, ms }) };
        subject.broker().create_topic(&t, &spec).unwrap();
        let mut written: Vec<u64> = Vec::new();
        let mut producer = subject.broker().producer("test").unwrap();
        let mut committed = None;
        for unit_of in units {
            let messages = unit_of.iter().map(|(len, event_time)| {
                let timestamp = Timestamp::from_millis(*event_time);
                Outgoing { timestamp, ..to(&t, 0, vec![7; *len]) }
            });
            producer.send(messages.collect()).unwrap();
            written.extend(unit_of.iter().map(|(len, _)| *len as u64));
            if committed.is_none() && at < written.len() as u64 {
                let mut member = subject.broker().join(&g, std::slice::from_ref(&t)).unwrap();
                assigned(member.as_mut(), 1);
                member.commit(unit(vec![], vec![offset(&t, 0, at)])).unwrap();
                committed = Some(at);
            }
        }
        drop(producer);
        subject.restart();
        let broker = subject.broker();
        let ends = broker.describe_topic(&t).unwrap().unwrap().partitions[0];
        prop_assert_eq!(ends.high, written.len() as u64);
        let mut newer_bytes: u64 = written.iter().sum();
        for (offset, len) in written.iter().enumerate() {
            if bytes.is_none_or(|limit| newer_bytes <= limit) {
                prop_assert!(ends.low <= offset as u64, "offset {offset} was removed, it is within its limits");
            }
            newer_bytes -= len;
        }
        let kept = read_all(broker, &t, 0, ends.low);
        prop_assert_eq!(kept.len() as u64, ends.high - ends.low);
        prop_assert!(kept.iter().zip(&written[ends.low as usize..]).all(|(m, len)| m.payload_bytes() as u64 == *len));
        let is_out_of_range = |error: BrokerError, at: Offset| matches!(error, BrokerError::OutOfRange { offset, low, high, .. } if (offset, low, high) == (at, ends.low, ends.high));
        if let Some(removed) = ends.low.checked_sub(1) {
            prop_assert!(is_out_of_range(broker.read(&place(&t, 0), removed, ANY).unwrap_err(), removed));
        }
        let mut member = broker.join(&g, std::slice::from_ref(&t)).unwrap();
        let start = assigned(member.as_mut(), 1)[0].1.next;
        prop_assert_eq!(start, committed.unwrap_or(ends.low));
        if start < ends.low {
            let error = member.poll(ANY, Duration::ZERO).unwrap_err();
            let how = "to go on without what is missing, set the offset of group g";
            prop_assert!(error.to_string().contains(how), "{error}");
            prop_assert!(is_out_of_range(error, start));
        } else {
            prop_assert_eq!(messages(member.as_mut(), ANY, (ends.high - start) as usize)[0].offset, start);
        }
        Ok(())
    });
}

/// Stronger than law 2: while units of one message a partition are written, a reader never finds one partition
/// ahead of another.
pub fn readers_see_units_whole<S: Subject>() {
    let subject = S::start();
    let broker = subject.broker();
    let (a, b) = (topic("a"), topic("b"));
    broker.create_topic(&a, &keep_all(4)).unwrap();
    broker.create_topic(&b, &keep_all(4)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut producer: Box<dyn Producer> = broker.producer("test").unwrap();
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
