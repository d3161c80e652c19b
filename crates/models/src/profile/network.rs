//! The network behind the profile: attention over the last events, one query an attribute, and the
//! decayed counts, through one hidden layer to a logit an attribute.

use candle_core::{D, Device, Tensor};
use candle_nn::ops::softmax;

use super::{
    ATTRIBUTES,
    history::{Action, History, RECENT},
};
use crate::{
    ModelError,
    parameters::{Parameters, Shape},
};

/// Width of an event's embedding.
pub(super) const WIDTH: usize = 24;
/// Width of the hidden layer.
const HIDDEN: usize = 64;
/// Classes of age.
pub const AGES: usize = 18;
/// Numbers beside the counts: events so far, and days since the oldest one remembered.
const EXTRA: usize = 2;
/// Attributes.
const OUT: usize = ATTRIBUTES.len();

/// Returns the class of a time span: below a minute, then one a doubling, the last from 45 days on.
#[must_use]
pub fn age_class(ms: i64) -> u32 {
    let minutes = ms.max(0) as u64 / 60_000;
    (u64::BITS - minutes.leading_zeros()).min(AGES as u32 - 1)
}

/// What the network sees of histories, laid side by side.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    rows: usize,
    categories: Vec<u32>,
    actions: Vec<u32>,
    ages: Vec<u32>,
    /// 0 where there is an event, a large negative number where there is none.
    masks: Vec<f32>,
    counts: Vec<f32>,
}

impl Inputs {
    /// Returns how many histories there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds a history as it stands at its newest event; `categories` is the size of the vocabulary.
    pub fn push(&mut self, history: &History, categories: usize) {
        for place in 0..RECENT {
            let past = history.recent.get(place);
            self.categories.push(past.map_or(0, |past| u32::from(past.category)));
            self.actions.push(past.map_or(Action::ALL.len() as u32, |past| past.action as u32));
            self.ages.push(past.map_or(0, |past| age_class(history.newest_ms - past.time_ms)));
            self.masks.push(if past.is_some() { 0.0 } else { -1e9 });
        }
        let from = self.counts.len();
        self.counts.resize(from + categories + EXTRA, 0.0);
        let row = &mut self.counts[from..];
        for (category, weight) in &history.counts {
            if let Some(count) = row[..categories].get_mut(usize::from(*category)) {
                *count = weight.ln_1p();
            }
        }
        row[categories] = (history.events as f32).ln_1p();
        let oldest = history.recent.first().map_or(0, |past| history.newest_ms - past.time_ms);
        row[categories + 1] = (oldest as f32 / 86_400_000.0).ln_1p();
        self.rows += 1;
    }
}

/// The network; its tensors are shared, a clone is cheap.
#[derive(Clone, Debug)]
pub struct Network {
    categories: Tensor,
    actions: Tensor,
    ages: Tensor,
    queries: Tensor,
    hidden: (Tensor, Tensor),
    head: (Tensor, Tensor),
}

impl Network {
    /// Lists every parameter of a network for so many categories.
    #[must_use]
    pub fn shapes(categories: usize) -> Vec<Shape> {
        let inputs = OUT * WIDTH + categories + EXTRA;
        vec![
            ("category".into(), vec![categories, WIDTH], 0.3),
            ("action".into(), vec![Action::ALL.len() + 1, WIDTH], 0.3),
            ("age".into(), vec![AGES, WIDTH], 0.3),
            ("queries".into(), vec![WIDTH, OUT], 0.3),
            ("hidden.weight".into(), vec![inputs, HIDDEN], (2.0 / inputs as f64).sqrt()),
            ("hidden.bias".into(), vec![HIDDEN], 0.0),
            ("head.weight".into(), vec![HIDDEN, OUT], (1.0 / HIDDEN as f64).sqrt()),
            ("head.bias".into(), vec![OUT], 0.0),
        ]
    }

    /// Takes the parameters.
    ///
    /// # Errors
    /// [`ModelError::Format`] for one that is missing or has another shape.
    pub fn try_new(parameters: &Parameters, categories: usize) -> Result<Self, ModelError> {
        let inputs = OUT * WIDTH + categories + EXTRA;
        Ok(Self {
            categories: parameters.take("category", &[categories, WIDTH])?,
            actions: parameters.take("action", &[Action::ALL.len() + 1, WIDTH])?,
            ages: parameters.take("age", &[AGES, WIDTH])?,
            queries: parameters.take("queries", &[WIDTH, OUT])?,
            hidden: (parameters.take("hidden.weight", &[inputs, HIDDEN])?, parameters.take("hidden.bias", &[HIDDEN])?),
            head: (parameters.take("head.weight", &[HIDDEN, OUT])?, parameters.take("head.bias", &[OUT])?),
        })
    }

    /// Computes logits `[rows, attributes]`.
    ///
    /// # Errors
    /// [`ModelError::Candle`] where a tensor cannot be made.
    pub fn forward(&self, inputs: &Inputs) -> Result<Tensor, ModelError> {
        let (rows, device) = (inputs.rows, &Device::Cpu);
        let places = rows * RECENT;
        let select = |table: &Tensor, index: &[u32]| -> Result<Tensor, ModelError> {
            Ok(table.index_select(&Tensor::from_slice(index, places, device)?, 0)?)
        };
        let events = ((select(&self.categories, &inputs.categories)? + select(&self.actions, &inputs.actions)?)?
            + select(&self.ages, &inputs.ages)?)?;
        let masks = Tensor::from_slice(&inputs.masks, (rows, 1, RECENT), device)?;
        let scores = events.matmul(&self.queries)?.reshape((rows, RECENT, OUT))?.transpose(1, 2)?;
        let weights = softmax(&scores.broadcast_add(&masks)?, D::Minus1)?;
        let pooled = weights.contiguous()?.matmul(&events.reshape((rows, RECENT, WIDTH))?)?;
        let counts = Tensor::from_slice(&inputs.counts, (rows, inputs.counts.len() / rows.max(1)), device)?;
        let features = Tensor::cat(&[pooled.reshape((rows, OUT * WIDTH))?, counts], 1)?;
        let hidden = features.matmul(&self.hidden.0)?.broadcast_add(&self.hidden.1)?.relu()?;
        Ok(hidden.matmul(&self.head.0)?.broadcast_add(&self.head.1)?)
    }
}
