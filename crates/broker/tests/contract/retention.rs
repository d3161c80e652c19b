//! Law 7, and compaction.

use std::collections::BTreeMap;

use driftline_broker::{Broker, BrokerError};
use proptest::{collection::vec, prelude::*, prop_assert, prop_assert_eq};

use super::*;

/// Law 7: whatever the broker removes, it is a beginning of the partition, and no removed record
/// was within the limits at the end. Reading it is an error, for tools and for groups.
pub fn only_the_oldest_beyond_the_limits_go<S: Subject>() {
    let limits = (prop::option::of(0..3_000_u64), prop::option::of(0..500_u64));
    let units = vec(vec((1..200_usize, 0..1_000_i64), 1..6), 1..20);
    check(48, (limits, units, 0..30_u64), |((bytes, ms), units, at)| {
        let mut subject = S::start();
        let (t, g) = (topic("t"), group("g"));
        let spec = TopicSpec { partitions: 1, cleanup: Cleanup::Delete(Retention { bytes, ms }) };
        subject.broker().create_topic(&t, &spec).unwrap();
        let mut written: Vec<(u64, i64)> = Vec::new();
        let mut producer = subject.broker().producer().unwrap();
        let mut committed = None;
        for unit_of in units {
            let messages = unit_of.iter().map(|(len, ms)| {
                let timestamp = Timestamp::from_millis(*ms);
                Outgoing { timestamp, ..to(&t, 0, vec![7; *len]) }
            });
            producer.send(messages.collect()).unwrap();
            written.extend(unit_of.iter().map(|(len, ms)| (*len as u64, *ms)));
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
        let newest = written.iter().map(|(_, ms)| *ms).max().unwrap_or(0);
        let mut newer_bytes: u64 = written.iter().map(|(len, _)| len).sum();
        for (offset, (len, at)) in written.iter().enumerate() {
            let beyond_bytes = bytes.is_some_and(|limit| newer_bytes > limit);
            let beyond_ms = ms.is_some_and(|limit| newest - at > limit as i64);
            // A record goes with older ones only: time does not order offsets.
            if !beyond_bytes && !beyond_ms {
                prop_assert!(ends.low <= offset as u64, "offset {offset} was removed, it is within its limits");
            }
            newer_bytes -= len;
        }
        let kept = read_all(broker, &t, 0, ends.low);
        prop_assert_eq!(kept.len() as u64, ends.high - ends.low);
        prop_assert!(
            kept.iter().zip(&written[ends.low as usize..]).all(|(m, (len, _))| m.payload_bytes() as u64 == *len)
        );
        let is_out_of_range = |error: BrokerError, at: Offset| matches!(error, BrokerError::OutOfRange { offset, low, high, .. } if (offset, low, high) == (at, ends.low, ends.high));
        if let Some(removed) = ends.low.checked_sub(1) {
            prop_assert!(is_out_of_range(broker.read(&place(&t, 0), removed, ANY).unwrap_err(), removed));
        }
        let mut member = broker.join(&g, std::slice::from_ref(&t)).unwrap();
        let start = assigned(member.as_mut(), 1)[0].1.next;
        prop_assert_eq!(start, committed.unwrap_or(ends.low));
        if start < ends.low {
            prop_assert!(is_out_of_range(member.poll(ANY, Duration::ZERO).unwrap_err(), start));
            member.seek(&place(&t, 0), ends.low).unwrap();
        }
        let from = start.max(ends.low);
        prop_assert_eq!(messages(member.as_mut(), ANY, (ends.high - from) as usize)[0].offset, from);
        Ok(())
    });
}

/// A compacted topic holds at least the last record of each key, in order, and a tombstone ends a
/// key: nothing older of it is left once there is a later one.
pub fn the_last_record_of_a_key_stays<S: Subject>() {
    let record = (0..6_u8, prop::option::weighted(0.8, any::<u16>()));
    check(32, (vec(vec(record, 1..8), 1..16), any::<bool>()), |(units, restart)| {
        let mut subject = S::start();
        let t = topic("t");
        subject.broker().create_topic(&t, &TopicSpec { partitions: 1, cleanup: Cleanup::Compact }).unwrap();
        let mut last: BTreeMap<u8, (u64, Option<u16>)> = BTreeMap::new();
        let mut high = 0;
        for records in units {
            let outputs = records.iter().map(|(key, value)| Outgoing {
                key: Some(vec![*key].into()),
                value: value.map(|value| value.to_le_bytes().to_vec().into()),
                ..to(&t, 0, "")
            });
            subject.broker().producer().unwrap().send(outputs.collect()).unwrap();
            for (key, value) in records {
                last.insert(key, (high, value));
                high += 1;
            }
        }
        if restart {
            subject.restart();
        }
        let broker = subject.broker();
        prop_assert_eq!(broker.describe_topic(&t).unwrap().unwrap().partitions[0].high, high);
        let read = read_all(broker, &t, 0, 0);
        prop_assert!(read.windows(2).all(|pair| pair[0].offset < pair[1].offset));
        let mut replayed: BTreeMap<u8, (u64, Option<Bytes>)> = BTreeMap::new();
        for message in read {
            replayed.insert(message.key.unwrap()[0], (message.offset, message.value));
        }
        let live = |(offset, value): (u64, Option<u16>)| {
            value.map(|value| (offset, Some(Bytes::from(value.to_le_bytes().to_vec()))))
        };
        let expected: BTreeMap<_, _> = last.into_iter().filter_map(|(key, last)| Some((key, live(last)?))).collect();
        replayed.retain(|_, (_, value)| value.is_some());
        prop_assert_eq!(replayed, expected);
        Ok(())
    });
}
