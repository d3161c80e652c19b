//! Recognising what was written twice.
//!
//! A stage that fails between writing its outputs and committing its offsets writes them again, with the same ids. Ids name the
//! record that caused them, and a stage writes in the order of its causes, so a reader needs one mark a cause partition: what is
//! not beyond it is a repeat. Marks are committed as the note of the offset they belong to, so they must be exactly as old as
//! it: one that is newer would hide records that were read but not worked off. Hence two sets of marks, of what was read and
//! of what is being committed, and a third to go back to where a commit fails.
//!
//! A record written by others carries no such id and is never taken for a repeat.

use std::collections::BTreeMap;

use driftline_broker::{Committed, OffsetCommit};
use driftline_stage::FLUSHED;
use driftline_types::{Message, TopicPartition, wire};

/// The furthest output of one cause partition. What stages flush at their end is counted apart: its causes are older
/// than those of outputs before it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    /// `topic/partition` of the causes.
    causes: String,
    flushed: bool,
    offset: u64,
    index: u32,
}

/// Marks by the partition that is read.
type Marks = BTreeMap<TopicPartition, Vec<Mark>>;

/// What a reader has seen.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// Of what was read.
    read: Marks,
    /// Of what was handed over to be committed.
    passed: Marks,
    /// Of what is committed, as its note.
    committed: BTreeMap<TopicPartition, Option<String>>,
}

impl Repeats {
    /// Takes up what was committed for a partition; returns the note that a sink has added.
    pub(crate) fn resume(&mut self, place: &TopicPartition, committed: &Committed) -> Option<String> {
        let metadata = committed.metadata.as_deref();
        let marks = marks_of(metadata);
        self.read.insert(place.clone(), marks.clone());
        self.passed.insert(place.clone(), marks);
        self.committed.insert(place.clone(), committed.metadata.clone());
        metadata.and_then(|text| text.split_once('\n')).map(|(_, note)| note.to_owned()).filter(|note| !note.is_empty())
    }

    /// Forgets a partition that was taken away.
    pub(crate) fn forget(&mut self, place: &TopicPartition) {
        self.read.remove(place);
        self.passed.remove(place);
        self.committed.remove(place);
    }

    /// Removes repeats from messages that were just read; returns how many there were.
    pub(crate) fn remove(&mut self, messages: &mut Vec<Message>) -> usize {
        let before = messages.len();
        messages.retain(|message| advance(&mut self.read, message));
        before - messages.len()
    }

    /// Notes that messages are worked off and that the next commit names the offset after them.
    pub(crate) fn pass(&mut self, messages: &[Message]) {
        for message in messages {
            advance(&mut self.passed, message);
        }
    }

    /// What to commit with the offset `next` of a partition.
    pub(crate) fn committed(&self, place: &TopicPartition, next: u64, note: Option<&str>) -> Committed {
        let marks = self.passed.get(place).map(Vec::as_slice).unwrap_or_default();
        if marks.is_empty() && note.is_none() {
            return Committed { next, metadata: None };
        }
        let ids: Vec<String> =
            marks.iter().map(|mark| format!("{}/{}/{}", mark.causes, mark.offset, mark.index)).collect();
        Committed { next, metadata: Some(format!("{}\n{}", ids.join(" "), note.unwrap_or_default())) }
    }

    /// Notes that these offsets are committed.
    pub(crate) fn settle(&mut self, offsets: Vec<OffsetCommit>) {
        self.committed.extend(offsets.into_iter().map(|offset| (offset.partition, offset.committed.metadata)));
    }

    /// Goes back to what is committed, because what was handed over after it is worked off again.
    pub(crate) fn rewind(&mut self) {
        let marks = self.committed.iter().map(|(place, metadata)| (place.clone(), marks_of(metadata.as_deref())));
        self.passed = marks.collect();
    }
}

/// Reads the marks of a note.
fn marks_of(metadata: Option<&str>) -> Vec<Mark> {
    let ids = metadata.and_then(|text| text.split_once('\n')).map_or("", |(ids, _)| ids);
    ids.split(' ').filter_map(|id| id_of(id.as_bytes())).map(|id| id.mark()).collect()
}

/// Moves the mark of a message's cause to it; returns whether it is beyond the mark, as every message without an id is.
fn advance(all: &mut Marks, message: &Message) -> bool {
    let Some(id) = message.headers.get(wire::CE_ID).and_then(id_of) else { return true };
    // Ordered by topic first, which is equal for most; the key is made once a partition.
    let found = all.iter_mut().find(|(place, _)| place.partition == message.partition && place.topic == message.topic);
    let marks = match found {
        Some((_, marks)) => marks,
        None => all.entry(TopicPartition::new(message.topic.clone(), message.partition)).or_default(),
    };
    match marks.iter_mut().find(|mark| mark.flushed == id.flushed() && mark.causes == id.causes) {
        Some(mark) if (id.offset, id.index) <= (mark.offset, mark.index) => false,
        Some(mark) => {
            (mark.offset, mark.index) = (id.offset, id.index);
            true
        }
        None => {
            marks.push(id.mark());
            true
        }
    }
}

/// An id taken apart.
struct Id<'a> {
    causes: &'a str,
    offset: u64,
    index: u32,
}

impl Id<'_> {
    fn flushed(&self) -> bool {
        self.index >= FLUSHED
    }

    fn mark(&self) -> Mark {
        Mark { causes: self.causes.to_owned(), flushed: self.flushed(), offset: self.offset, index: self.index }
    }
}

/// Reads `topic/partition/offset/index`.
fn id_of(id: &[u8]) -> Option<Id<'_>> {
    let (rest, index) = std::str::from_utf8(id).ok()?.rsplit_once('/')?;
    let (causes, offset) = rest.rsplit_once('/')?;
    causes.contains('/').then_some(())?;
    Some(Id { causes, offset: offset.parse().ok()?, index: index.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use driftline_types::{Headers, Timestamp, Topic};

    use super::*;

    fn message(topic: &str, id: &str) -> Message {
        let mut headers = Headers::default();
        headers.push(wire::CE_ID, id);
        Message {
            topic: Topic::try_new(topic).unwrap(),
            partition: 0,
            offset: 0,
            key: None,
            value: None,
            headers,
            timestamp: Timestamp::default(),
        }
    }

    fn new(repeats: &mut Repeats, ids: &[&str]) -> Vec<bool> {
        ids.iter().map(|id| repeats.remove(&mut vec![message("p.vad", id)]) == 0).collect()
    }

    #[test]
    fn a_part_written_twice_is_read_once() {
        let mut repeats = Repeats::default();
        let first = ["p.mic/0/1/0", "p.mic/0/2/0", "p.mic/0/2/1"];
        assert_eq!(new(&mut repeats, &first), [true; 3]);
        assert_eq!(new(&mut repeats, &["p.mic/0/2/0", "p.mic/0/2/1", "p.mic/0/3/0"]), [false, false, true]);
    }

    #[test]
    fn causes_topics_and_flushes_are_counted_apart() {
        let mut repeats = Repeats::default();
        assert_eq!(new(&mut repeats, &["p.mic/0/9/0", "p.mic/1/1/0", "p.other/0/1/0"]), [true; 3]);
        let flushed = [format!("p.mic/0/3/{FLUSHED}"), format!("p.mic/0/4/{FLUSHED}")];
        assert_eq!(new(&mut repeats, &[&flushed[0], &flushed[1], &flushed[0]]), [true, true, false]);
        assert_eq!(repeats.remove(&mut vec![message("p.second", "p.mic/0/9/0")]), 0);
    }

    #[test]
    fn foreign_ids_are_never_repeats() {
        let mut repeats = Repeats::default();
        assert_eq!(new(&mut repeats, &["7", "7", "a/b", "a/b", "x/y/z/w", "x/y/z/w"]), [true; 6]);
    }

    #[test]
    fn marks_survive_as_the_note_of_an_offset() {
        let place = TopicPartition::new(Topic::try_new("p.vad").unwrap(), 0);
        let mut repeats = Repeats::default();
        let ids = ["p.mic/0/9/3".to_owned(), format!("p.mic/0/3/{FLUSHED}")];
        new(&mut repeats, &[&ids[0], &ids[1]]);
        repeats.pass(&ids.map(|id| message("p.vad", &id)));
        let committed = repeats.committed(&place, 12, Some("4711"));
        let mut again = Repeats::default();
        assert_eq!(again.resume(&place, &committed).as_deref(), Some("4711"));
        assert_eq!((&again.read, &again.passed), (&repeats.read, &repeats.passed));
        assert_eq!(new(&mut again, &["p.mic/0/9/3", "p.mic/0/9/4"]), [false, true]);
        assert_eq!(Repeats::default().committed(&place, 1, None), Committed { next: 1, metadata: None });
    }

    #[test]
    fn a_commit_is_never_ahead_of_what_was_worked_off() {
        let place = TopicPartition::new(Topic::try_new("p.vad").unwrap(), 0);
        let mut repeats = Repeats::default();
        repeats.resume(&place, &Committed::default());
        let ids = ["p.mic/0/1/0", "p.mic/0/2/0", "p.mic/0/3/0"];
        assert_eq!(new(&mut repeats, &ids), [true; 3]);
        // One of three is worked off, and the process ends: its successor sees the other two.
        repeats.pass(&[message("p.vad", ids[0])]);
        let first = repeats.committed(&place, 1, None);
        let mut successor = Repeats::default();
        successor.resume(&place, &first);
        assert_eq!(new(&mut successor, &ids), [false, true, true]);
        // The commit of the second fails after that of the first.
        repeats.settle(vec![OffsetCommit { partition: place.clone(), committed: first.clone() }]);
        repeats.pass(&[message("p.vad", ids[1])]);
        assert_ne!(repeats.committed(&place, 1, None), first);
        repeats.rewind();
        assert_eq!(repeats.committed(&place, 1, None), first);
    }
}
