//! What a detector remembers of one session between two chunks.

use super::CONTEXT;
use crate::ModelError;

/// First byte of the stored form.
const LAYOUT: u8 = 1;

/// The last 64 samples of a session and the recurrent state of its network. It belongs to the weights it was made with
/// ([`Detector::new_state`](super::Detector::new_state)). Another kind of network refuses it; other weights of the same kind
/// cannot tell, so who stores it stores the [`Detector::version`](super::Detector::version) beside it.
///
/// Stored as little-endian bytes: layout (`u8` = 1), network (`u8`: 1 Silero, 2 Driftline), length of the recurrent
/// state (`u16`), 64 samples (`f32`), recurrent state (`f32`). A state is 516 bytes plus 4 bytes a recurrent value
/// (256 for Silero).
#[derive(Clone, Debug, PartialEq)]
pub struct SessionState {
    pub(super) network: NetworkKind,
    pub(super) context: [f32; CONTEXT],
    pub(super) hidden: Vec<f32>,
}

/// The networks there are, as they are written in a stored state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NetworkKind {
    Silero = 1,
    Driftline = 2,
}

impl SessionState {
    pub(super) fn new(network: NetworkKind, hidden: usize) -> Self {
        Self { network, context: [0.0; CONTEXT], hidden: vec![0.0; hidden] }
    }

    /// Forgets the session: the next chunk is the first of a new one.
    pub fn reset(&mut self) {
        self.context.fill(0.0);
        self.hidden.fill(0.0);
    }

    /// Writes the state in its stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 + 4 * (CONTEXT + self.hidden.len()));
        bytes.extend([LAYOUT, self.network as u8]);
        bytes.extend((self.hidden.len() as u16).to_le_bytes());
        for value in self.context.iter().chain(&self.hidden) {
            bytes.extend(value.to_le_bytes());
        }
        bytes
    }

    /// Reads a state in its stored form.
    ///
    /// # Errors
    ///
    /// Another layout, an unknown network, a length that does not fit the header, a value that is not finite.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        let refuse = |place: &str, found: String, allowed: String| ModelError::Input {
            place: format!("stored session state: {place}"),
            found,
            allowed,
        };
        let Some((&[layout, network, low, high], values)) = bytes.split_first_chunk::<4>() else {
            return Err(refuse("length", format!("{} bytes", bytes.len()), "at least 4 bytes".to_owned()));
        };
        if layout != LAYOUT {
            return Err(refuse("layout", layout.to_string(), LAYOUT.to_string()));
        }
        let network = match network {
            1 => NetworkKind::Silero,
            2 => NetworkKind::Driftline,
            other => return Err(refuse("network", other.to_string(), "1 (Silero), 2 (Driftline)".to_owned())),
        };
        let hidden = usize::from(u16::from_le_bytes([low, high]));
        let expected = 4 * (CONTEXT + hidden);
        if values.len() != expected {
            return Err(refuse("length", format!("{} bytes", bytes.len()), format!("{} bytes", 4 + expected)));
        }
        let (values, _) = values.as_chunks::<4>();
        let mut values = values.iter().map(|value| f32::from_le_bytes(*value));
        let mut state = Self::new(network, hidden);
        for place in state.context.iter_mut().chain(&mut state.hidden) {
            *place = values.next().unwrap_or_default();
            if !place.is_finite() {
                return Err(refuse("value", place.to_string(), "finite numbers".to_owned()));
            }
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_give_the_state_back(values in prop::collection::vec(-1e3f32..1e3, CONTEXT..CONTEXT + 300)) {
            let mut state = SessionState::new(NetworkKind::Driftline, values.len() - CONTEXT);
            state.context.copy_from_slice(&values[..CONTEXT]);
            state.hidden.copy_from_slice(&values[CONTEXT..]);
            let bytes = state.to_bytes();
            prop_assert_eq!(bytes.len(), 4 + 4 * values.len());
            prop_assert_eq!(SessionState::from_bytes(&bytes).unwrap(), state);
            prop_assert!(SessionState::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let good = SessionState::new(NetworkKind::Silero, 4).to_bytes();
        for (at, value, expected) in [
            (0, 9, "stored session state: layout: found 9, allowed: 1"),
            (1, 7, "stored session state: network: found 7, allowed: 1 (Silero), 2 (Driftline)"),
            (2, 5, "stored session state: length: found 276 bytes, allowed: 280 bytes"),
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert_eq!(SessionState::from_bytes(&bytes).unwrap_err().to_string(), expected);
        }
        let mut bytes = good.clone();
        bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(SessionState::from_bytes(&bytes).is_err());
        assert!(SessionState::from_bytes(&[1]).is_err());
    }
}
