//! What time it is in a partition, by its events.

/// Events that are asked for the time.
const WITNESSES: usize = 5;

/// The highest median of the times of five events in a row: a clock that runs wrong, far ahead or
/// behind, does not move it. It never runs backwards. It is part of the stage's state, so that what an
/// event is told depends on the events alone.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Clock {
    now_ms: Option<i64>,
    witnesses: Vec<i64>,
}

impl Clock {
    /// Returns the time; `None` until there were enough events.
    pub(crate) fn now(&self) -> Option<i64> {
        self.now_ms
    }

    /// Takes the time of the next event.
    pub(crate) fn hear(&mut self, time_ms: i64) {
        self.witnesses.push(time_ms);
        if self.witnesses.len() > WITNESSES {
            self.witnesses.remove(0);
        }
        if let Ok(mut times) = <[i64; WITNESSES]>::try_from(self.witnesses.as_slice()) {
            let (_, median, _) = times.select_nth_unstable(WITNESSES / 2);
            self.now_ms = Some(self.now_ms.map_or(*median, |now| now.max(*median)));
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let now = self.now_ms.unwrap_or(i64::MIN);
        std::iter::once(&now).chain(&self.witnesses).flat_map(|time| time.to_le_bytes()).collect()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (times, rest) = bytes.as_chunks::<8>();
        let times: Vec<i64> = times.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        let (now, witnesses) = times.split_first()?;
        let sound = rest.is_empty() && witnesses.len() <= WITNESSES;
        sound.then(|| Self { now_ms: (*now != i64::MIN).then_some(*now), witnesses: witnesses.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_clocks_do_not_move_it_and_it_round_trips() {
        let mut clock = Clock::default();
        for time in 0..4 {
            clock.hear(time);
            assert_eq!(clock.now(), None);
        }
        clock.hear(9_999_999);
        assert_eq!(clock.now(), Some(2));
        clock.hear(i64::MIN + 1);
        assert_eq!(clock.now(), Some(2));
        for time in 15..40 {
            clock.hear(time);
            assert_eq!(Clock::from_bytes(&clock.to_bytes()), Some(clock.clone()));
        }
        assert_eq!(clock.now(), Some(37));
        assert_eq!(Clock::from_bytes(&[1, 2, 3]), None);
    }
}
