//! Changes that are made on purpose, at a moment of event time, to see what becomes of them downstream.
//!
//! A kind of source or stage declares [`Parameter`]s of its own mechanism. An [`Injection`] moves one of them, at once or
//! by a ramp. Its value is a function of event time alone: the same after a restart and on every replica. With nothing
//! injected a parameter has its neutral value, which changes nothing.

use std::sync::Arc;

use crate::{Timestamp, config::Millis};

/// A quantity that may be changed while a pipeline runs. Declare it in a `static`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    /// The name, unique within its kind.
    pub name: &'static str,
    /// The unit as shown to people; `1` for shares and factors.
    pub unit: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// The least value.
    pub min: f64,
    /// The greatest value.
    pub max: f64,
    /// The value that changes nothing, within the range.
    pub neutral: f64,
}

/// One change of a parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Injection {
    /// What changes.
    pub parameter: &'static Parameter,
    /// What it becomes, within the parameter's range.
    pub value: f64,
    /// When the change begins, event time.
    pub at: Timestamp,
    /// How long it takes, in a straight line from the value before; 0 is at once.
    pub over: Millis,
    /// From when on it is as if it had not been; `None` is never.
    pub until: Option<Timestamp>,
}

/// What is injected into one source or stage. A clone shares it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Injections(Arc<[Injection]>);

impl Injections {
    /// Takes injections of one node. Of those of one parameter the later one goes on from the value of the earlier one.
    #[must_use]
    pub fn new(mut injections: Vec<Injection>) -> Self {
        injections.sort_by_key(|injection| injection.at);
        Self(injections.into())
    }

    /// Returns whether nothing is injected at any time.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Visits the injections in the order of their beginnings.
    pub fn iter(&self) -> std::slice::Iter<'_, Injection> {
        self.0.iter()
    }

    /// Returns the value of a parameter at a time.
    #[must_use]
    pub fn value(&self, parameter: &Parameter, time: Timestamp) -> f64 {
        let in_force = |injection: &&Injection| {
            injection.parameter.name == parameter.name
                && time >= injection.at
                && injection.until.is_none_or(|until| time < until)
        };
        self.0.iter().filter(in_force).fold(parameter.neutral, |before, injection| {
            let since = time.as_millis().saturating_sub(injection.at.as_millis());
            let Millis(over) = injection.over;
            if since as u64 >= over {
                return injection.value;
            }
            before + (injection.value - before) * (since as f64 / over as f64)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static GAIN: Parameter =
        Parameter { name: "gain_db", unit: "dB", help: "level", min: -20.0, max: 20.0, neutral: 0.0 };
    static DROP: Parameter =
        Parameter { name: "drop", unit: "1", help: "chunks lost", min: 0.0, max: 1.0, neutral: 0.0 };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn injection(value: f64, from: i64, over: u64) -> Injection {
        Injection { parameter: &GAIN, value, at: at(from), over: Millis(over * 1_000), until: None }
    }

    #[test]
    fn nothing_injected_is_neutral() {
        assert_eq!(Injections::default().value(&GAIN, at(5)), 0.0);
        let other = Injections::new(vec![injection(6.0, 0, 0)]);
        assert_eq!(other.value(&DROP, at(5)), 0.0);
    }

    #[test]
    fn a_change_is_sudden_or_a_straight_line_and_ends() {
        let sudden = Injections::new(vec![injection(6.0, 60, 0)]);
        assert_eq!([59, 60, 1_000].map(|s| sudden.value(&GAIN, at(s))), [0.0, 6.0, 6.0]);
        let ramp = Injections::new(vec![injection(6.0, 60, 30)]);
        assert_eq!([60, 70, 90, 91].map(|s| ramp.value(&GAIN, at(s))), [0.0, 2.0, 6.0, 6.0]);
        let passing = Injections::new(vec![Injection { until: Some(at(80)), ..injection(6.0, 60, 0) }]);
        assert_eq!([60, 79, 80].map(|s| passing.value(&GAIN, at(s))), [6.0, 6.0, 0.0]);
    }

    #[test]
    fn a_later_change_goes_on_from_the_earlier_one() {
        let both = Injections::new(vec![injection(10.0, 100, 10), injection(6.0, 60, 0)]);
        assert_eq!([60, 100, 105, 110].map(|s| both.value(&GAIN, at(s))), [6.0, 6.0, 8.0, 10.0]);
    }
}
