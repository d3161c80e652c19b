//! Recognising what was written twice.
//!
//! A stage that fails between writing its outputs and committing its offsets writes them again, with the same ids. Ids name the
//! record that caused them, and a stage writes in the order of its causes, so a reader needs one mark a cause partition: what is
//! not beyond it is a repeat. Marks are committed as the note of the offset they belong to, so they are exactly as old as it.
//!
//! A record written by others carries no such id and is never taken for a repeat.

use std::collections::BTreeMap;

use driftline_broker::Committed;
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

/// What a reader has seen, by the partition it reads.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    marks: BTreeMap<TopicPartition, Vec<Mark>>,
}

impl Repeats {
    /// Takes up what was committed for a partition; returns the note that a sink has added.
    pub(crate) fn resume(&mut self, place: &TopicPartition, committed: &Committed) -> Option<String> {
        let (ids, note) = committed.metadata.as_deref().and_then(|text| text.split_once('\n')).unwrap_or_default();
        let marks = ids.split(' ').filter_map(|id| id_of(id.as_bytes())).map(|id| id.mark()).collect();
        self.marks.insert(place.clone(), marks);
        (!note.is_empty()).then(|| note.to_owned())
    }

    /// Forgets a partition that was taken away.
    pub(crate) fn forget(&mut self, place: &TopicPartition) {
        self.marks.remove(place);
    }

    /// Removes repeats from messages that were just read; returns how many there were.
    pub(crate) fn remove(&mut self, messages: &mut Vec<Message>) -> usize {
        let before = messages.len();
        messages.retain(|message| self.is_new(message));
        before - messages.len()
    }

    fn is_new(&mut self, message: &Message) -> bool {
        let Some(id) = message.headers.get(wire::CE_ID).and_then(|id| id_of(id)) else { return true };
        // Ordered by topic first, which is equal for most; the key is made once a partition.
        let marks = match self
            .marks
            .iter_mut()
            .find(|(place, _)| place.partition == message.partition && place.topic == message.topic)
        {
            Some((_, marks)) => marks,
            None => {
                let place = TopicPartition::new(message.topic.clone(), message.partition);
                self.marks.entry(place).or_default()
            }
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

    /// What to commit with the offset `next` of a partition.
    pub(crate) fn committed(&self, place: &TopicPartition, next: u64, note: Option<&str>) -> Committed {
        let marks = self.marks.get(place).map(Vec::as_slice).unwrap_or_default();
        if marks.is_empty() && note.is_none() {
            return Committed { next, metadata: None };
        }
        let ids: Vec<String> =
            marks.iter().map(|mark| format!("{}/{}/{}", mark.causes, mark.offset, mark.index)).collect();
        Committed { next, metadata: Some(format!("{}\n{}", ids.join(" "), note.unwrap_or_default())) }
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
        headers.push(wire::CE_ID, id.to_owned());
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
        new(&mut repeats, &["p.mic/0/9/3", &format!("p.mic/0/3/{FLUSHED}")]);
        let committed = repeats.committed(&place, 12, Some("4711"));
        let mut again = Repeats::default();
        assert_eq!(again.resume(&place, &committed).as_deref(), Some("4711"));
        assert_eq!(again.marks, repeats.marks);
        assert_eq!(new(&mut again, &["p.mic/0/9/3", "p.mic/0/9/4"]), [false, true]);
        assert_eq!(Repeats::default().committed(&place, 1, None), Committed { next: 1, metadata: None });
    }
}
