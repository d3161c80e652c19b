//! What time it is in a partition, by its events.

use xxhash_rust::xxh3::xxh3_64;

/// Users that are asked for the time.
const WITNESSES: usize = 5;
/// Events without a user, after which they are not asked any more.
const PATIENCE: u8 = 100;
/// Who is asked in the place of users that were erased: one for all of them.
const NOBODY: u64 = 0;
/// Bytes of a witness.
const WITNESS: usize = 17;

/// The highest median of what the last five users said last: one whose clock runs wrong, far ahead or behind, does not
/// move it, however much it sends.
///
/// A user who is not among the last [`PATIENCE`] events is not asked any more. Where fewer than five are left, the
/// median is theirs, of an even number the lower one in the middle: of two users the one behind is believed, and one
/// alone once nobody else was heard for so long. Until there were five users or so many events, there is no time.
///
/// It never runs backwards. It is part of the stage's state, so that what an event is told depends on the events alone.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Clock {
    now_ms: Option<i64>,
    /// Events so far, at most [`PATIENCE`].
    heard: u8,
    /// Who was heard last stands last; no user stands twice.
    witnesses: Vec<Witness>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Witness {
    /// The hash of the name.
    user: u64,
    time_ms: i64,
    /// Events since.
    age: u8,
}

impl Clock {
    /// Returns the time; `None` until there were enough events.
    pub(crate) fn now(&self) -> Option<i64> {
        self.now_ms
    }

    /// Takes the time of the next event.
    pub(crate) fn hear(&mut self, user: &str, time_ms: i64) {
        self.take(xxh3_64(user.as_bytes()), time_ms);
    }

    /// Takes the time of an event by which a user is erased; nothing is kept of who it was.
    pub(crate) fn hear_erasure(&mut self, user: &str, time_ms: i64) {
        let user = xxh3_64(user.as_bytes());
        self.witnesses.retain(|witness| witness.user != user);
        self.take(NOBODY, time_ms);
    }

    fn take(&mut self, user: u64, time_ms: i64) {
        self.heard = self.heard.saturating_add(1).min(PATIENCE);
        self.witnesses.retain_mut(|witness| {
            witness.age = witness.age.saturating_add(1);
            witness.user != user && witness.age < PATIENCE
        });
        if self.witnesses.len() == WITNESSES {
            self.witnesses.remove(0);
        }
        self.witnesses.push(Witness { user, time_ms, age: 0 });
        let count = self.witnesses.len();
        if count == WITNESSES || self.heard == PATIENCE {
            // Places without a witness come after all others.
            let mut times = [i64::MAX; WITNESSES];
            for (time, witness) in times.iter_mut().zip(&self.witnesses) {
                *time = witness.time_ms;
            }
            let (_, median, _) = times.select_nth_unstable((count - 1) / 2);
            self.now_ms = Some(self.now_ms.map_or(*median, |now| now.max(*median)));
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(9 + WITNESSES * WITNESS);
        bytes.extend_from_slice(&self.now_ms.unwrap_or(i64::MIN).to_le_bytes());
        bytes.push(self.heard);
        for witness in &self.witnesses {
            bytes.extend_from_slice(&witness.user.to_le_bytes());
            bytes.extend_from_slice(&witness.time_ms.to_le_bytes());
            bytes.push(witness.age);
        }
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (now, rest) = bytes.split_first_chunk::<8>()?;
        let now = i64::from_le_bytes(*now);
        let now_ms = (now != i64::MIN).then_some(now);
        // Written when witnesses had no names: nothing but times. No other clock has such a length.
        if bytes.len().is_multiple_of(8) {
            return Some(Self { now_ms, ..Self::default() });
        }
        let (heard, rest) = rest.split_first()?;
        let (witnesses, rest) = rest.as_chunks::<WITNESS>();
        let witness = |bytes: &[u8; WITNESS]| {
            let (user, rest) = bytes.split_first_chunk::<8>()?;
            let (time, rest) = rest.split_first_chunk::<8>()?;
            let (user, time_ms) = (u64::from_le_bytes(*user), i64::from_le_bytes(*time));
            Some(Witness { user, time_ms, age: *rest.first()? })
        };
        let witnesses = witnesses.iter().map(witness).collect::<Option<Vec<Witness>>>()?;
        let sound = rest.is_empty() && witnesses.len() <= WITNESSES;
        sound.then_some(Self { now_ms, heard: *heard, witnesses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: [&str; 5] = ["a", "b", "c", "d", "e"];

    #[test]
    fn single_clocks_do_not_move_it_and_it_round_trips() {
        let mut clock = Clock::default();
        for (user, time) in USERS.into_iter().take(4).zip(0..) {
            clock.hear(user, time);
            assert_eq!(clock.now(), None);
        }
        for _ in 0..90 {
            clock.hear("e", 9_999_999);
            assert_eq!(clock.now(), Some(2));
        }
        clock.hear("f", i64::MIN + 1);
        assert_eq!(clock.now(), Some(2));
        for (user, time) in USERS.into_iter().cycle().zip(15..40) {
            clock.hear(user, time);
            assert_eq!(Clock::from_bytes(&clock.to_bytes()), Some(clock.clone()));
        }
        assert_eq!(clock.now(), Some(37));
        assert_eq!(Clock::from_bytes(&[1, 2, 3]), None);
        assert_eq!(Clock::from_bytes(&[0; 95]), None);
    }

    #[test]
    fn of_two_users_the_one_behind_is_believed_and_one_alone_after_a_while() {
        let mut clock = Clock::default();
        for (user, time) in ["a", "b"].into_iter().cycle().zip(0..99) {
            clock.hear(user, time);
            assert_eq!(clock.now(), None);
        }
        clock.hear("b", 99);
        assert_eq!(clock.now(), Some(98));
        for _ in 0..98 {
            clock.hear("b", 1_000);
            assert_eq!(clock.now(), Some(98));
        }
        clock.hear("b", 1_000);
        assert_eq!(clock.now(), Some(1_000));
    }

    #[test]
    fn who_was_erased_is_nobody_and_several_are_one() {
        let (mut one, mut other) = (Clock::default(), Clock::default());
        one.hear("a", 1);
        one.hear_erasure("a", 2);
        other.hear("b", 1);
        other.hear_erasure("b", 2);
        assert_eq!(one, other);
        let mut clock = Clock::default();
        for (user, time) in USERS.into_iter().zip(0..) {
            clock.hear(user, time);
        }
        for user in ["x", "y", "z"] {
            clock.hear_erasure(user, 1_000);
            assert_eq!(clock.now(), Some(3));
        }
    }

    #[test]
    fn a_clock_of_times_alone_is_read() {
        let bytes = [7i64, 6, 7, 8].map(i64::to_le_bytes).concat();
        let clock = Clock::from_bytes(&bytes).unwrap();
        assert_eq!((clock.now(), clock.witnesses.len()), (Some(7), 0));
    }
}
