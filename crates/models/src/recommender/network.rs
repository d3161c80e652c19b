//! The sequence model: self-attention over the last events (SASRec, Kang and McAuley 2018), the
//! products' embeddings shared between what goes in and what comes out.
//!
//! An event's embedding is the sum of its product's, its category's, its action's, that of the time
//! since the event before, and that of its place. A product the model has not met has its category's
//! alone. What a customer has, as far as it is known, is added to the last hidden state: without any
//! event it is all there is.

use candle_core::{D, Device, Tensor};
use candle_nn::ops::softmax;

use crate::{
    ModelError,
    asr::layers::LayerNorm,
    parameters::{Parameters, Shape},
    profile::{
        ATTRIBUTES, Action,
        history::RECENT,
        network::{AGES, age_class},
    },
};

/// Width of embeddings and hidden states.
pub const WIDTH: usize = 64;
/// Width inside a block's second half.
const INNER: usize = 128;
/// Blocks.
const BLOCKS: usize = 2;
/// Events that are seen.
pub const LENGTH: usize = RECENT;

/// An event as the network sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The product's number from 1; 0 for none, or one the model has not met.
    pub product: u32,
    /// The category's number from 1; 0 for none, or one the model has not met.
    pub category: u32,
    /// What was done.
    pub action: Action,
    /// When, milliseconds since 1970.
    pub time_ms: i64,
}

/// What the network sees of customers, side by side.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    rows: usize,
    products: Vec<u32>,
    categories: Vec<u32>,
    actions: Vec<u32>,
    gaps: Vec<u32>,
    /// 0 where there is an event, a large negative number where there is none.
    masks: Vec<f32>,
    attributes: Vec<f32>,
}

impl Inputs {
    /// Returns how many customers there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds a customer: the events, oldest first, of which the last [`LENGTH`] count, and the
    /// probability of each attribute, one half where nothing is known.
    pub fn push(&mut self, events: &[Token], attributes: &[f32; ATTRIBUTES.len()]) {
        let events = &events[events.len().saturating_sub(LENGTH)..];
        let empty = LENGTH - events.len();
        for place in 0..LENGTH {
            let event = place.checked_sub(empty).map(|index| (index, events[index]));
            self.products.push(event.map_or(0, |(_, event)| event.product));
            self.categories.push(event.map_or(0, |(_, event)| event.category));
            self.actions.push(event.map_or(Action::ALL.len() as u32, |(_, event)| event.action as u32));
            self.gaps.push(match event {
                Some((index, event)) if index > 0 => age_class(event.time_ms - events[index - 1].time_ms),
                _ => AGES as u32 - 1,
            });
            self.masks.push(if event.is_some() { 0.0 } else { -1e9 });
        }
        self.attributes.extend(attributes.map(|probability| 2.0 * probability - 1.0));
        self.rows += 1;
    }
}

#[derive(Clone, Debug)]
struct Block {
    norms: [(Tensor, Tensor); 2],
    attention: [Tensor; 4],
    widen: (Tensor, Tensor),
    narrow: Tensor,
}

/// The network; its tensors are shared, a clone is cheap.
#[derive(Clone, Debug)]
pub struct Network {
    products: Tensor,
    categories: Tensor,
    actions: Tensor,
    gaps: Tensor,
    places: Tensor,
    blocks: Vec<Block>,
    norm: (Tensor, Tensor),
    attributes: Tensor,
    /// Bias of each product, `[products + 1]`.
    bias: Tensor,
    /// The category of each product.
    category_of: Tensor,
}

impl Network {
    /// Lists every parameter of a network for so many products and categories, the unknown ones (0)
    /// not counted.
    #[must_use]
    pub fn shapes(products: usize, categories: usize) -> Vec<Shape> {
        let mut shapes: Vec<Shape> = vec![
            ("product".into(), vec![products + 1, WIDTH], 0.1),
            ("category".into(), vec![categories + 1, WIDTH], 0.1),
            ("action".into(), vec![Action::ALL.len() + 1, WIDTH], 0.1),
            ("gap".into(), vec![AGES, WIDTH], 0.1),
            ("place".into(), vec![LENGTH, WIDTH], 0.1),
            ("norm.scale".into(), vec![WIDTH], 0.0),
            ("norm.shift".into(), vec![WIDTH], 0.0),
            ("attributes".into(), vec![ATTRIBUTES.len(), WIDTH], 0.1),
            ("bias".into(), vec![products + 1], 0.0),
        ];
        let deviation = (1.0 / WIDTH as f64).sqrt();
        for block in 0..BLOCKS {
            let name = |part: &str| format!("block.{block}.{part}");
            for half in ["attention", "inner"] {
                shapes.push((name(&format!("{half}.scale")), vec![WIDTH], 0.0));
                shapes.push((name(&format!("{half}.shift")), vec![WIDTH], 0.0));
            }
            for part in ["query", "key", "value", "out"] {
                shapes.push((name(part), vec![WIDTH, WIDTH], deviation));
            }
            shapes.push((name("widen.weight"), vec![WIDTH, INNER], (2.0 / WIDTH as f64).sqrt()));
            shapes.push((name("widen.bias"), vec![INNER], 0.0));
            shapes.push((name("narrow"), vec![INNER, WIDTH], 0.3 * (1.0 / INNER as f64).sqrt()));
        }
        shapes
    }

    /// Takes the parameters; `category_of` has the number of each product's category.
    ///
    /// # Errors
    /// [`ModelError::Format`] for one that is missing or has another shape.
    pub fn try_new(parameters: &Parameters, category_of: &[u32], categories: usize) -> Result<Self, ModelError> {
        let products = category_of.len();
        let pair = |name: &str| -> Result<(Tensor, Tensor), ModelError> {
            Ok((
                parameters.take(&format!("{name}.scale"), &[WIDTH])?,
                parameters.take(&format!("{name}.shift"), &[WIDTH])?,
            ))
        };
        let blocks = (0..BLOCKS).map(|block| {
            let name = |part: &str| format!("block.{block}.{part}");
            let square = |part: &str| parameters.take(&name(part), &[WIDTH, WIDTH]);
            Ok(Block {
                norms: [pair(&name("attention"))?, pair(&name("inner"))?],
                attention: [square("query")?, square("key")?, square("value")?, square("out")?],
                widen: (
                    parameters.take(&name("widen.weight"), &[WIDTH, INNER])?,
                    parameters.take(&name("widen.bias"), &[INNER])?,
                ),
                narrow: parameters.take(&name("narrow"), &[INNER, WIDTH])?,
            })
        });
        let with_none: Vec<u32> = std::iter::once(0).chain(category_of.iter().copied()).collect();
        Ok(Self {
            products: parameters.take("product", &[products + 1, WIDTH])?,
            categories: parameters.take("category", &[categories + 1, WIDTH])?,
            actions: parameters.take("action", &[Action::ALL.len() + 1, WIDTH])?,
            gaps: parameters.take("gap", &[AGES, WIDTH])?,
            places: parameters.take("place", &[LENGTH, WIDTH])?,
            blocks: blocks.collect::<Result<_, ModelError>>()?,
            norm: pair("norm")?,
            attributes: parameters.take("attributes", &[ATTRIBUTES.len(), WIDTH])?,
            bias: parameters.take("bias", &[products + 1])?,
            category_of: Tensor::from_vec(with_none, products + 1, &Device::Cpu)?,
        })
    }

    /// Computes the hidden state after each event, `[rows, LENGTH, WIDTH]`. Those before the first
    /// event mean nothing, but the last one always means something.
    ///
    /// # Errors
    /// [`ModelError::Candle`] where a tensor cannot be made.
    pub fn states(&self, inputs: &Inputs) -> Result<Tensor, ModelError> {
        self.run(inputs, LENGTH)
    }

    /// Computes the hidden state after the last event, `[rows, WIDTH]`: as [`Network::states`] has it.
    ///
    /// # Errors
    /// [`ModelError::Candle`] where a tensor cannot be made.
    pub fn last_states(&self, inputs: &Inputs) -> Result<Tensor, ModelError> {
        Ok(self.run(inputs, 1)?.squeeze(1)?)
    }

    /// Returns the output embeddings of products by number, `[numbers, WIDTH]`, and their biases.
    ///
    /// # Errors
    /// [`ModelError::Candle`] where a tensor cannot be made.
    pub fn outputs(&self, numbers: &Tensor) -> Result<(Tensor, Tensor), ModelError> {
        let categories = self.categories.index_select(&self.category_of.index_select(numbers, 0)?, 0)?;
        Ok(((self.products.index_select(numbers, 0)? + categories)?, self.bias.index_select(numbers, 0)?))
    }

    /// Returns the output embedding of a category's products that the model has not met.
    ///
    /// # Errors
    /// [`ModelError::Candle`] where a tensor cannot be made.
    pub fn category_embedding(&self, category: u32) -> Result<Vec<f32>, ModelError> {
        Ok(self.categories.get(category as usize)?.to_vec1()?)
    }

    /// Runs the blocks, the last one for the last `wanted` places only.
    fn run(&self, inputs: &Inputs, wanted: usize) -> Result<Tensor, ModelError> {
        let (rows, device) = (inputs.rows, &Device::Cpu);
        let count = rows * LENGTH;
        let select = |table: &Tensor, index: &[u32]| -> Result<Tensor, ModelError> {
            Ok(table.index_select(&Tensor::from_slice(index, count, device)?, 0)?)
        };
        let x = (select(&self.products, &inputs.products)? + select(&self.categories, &inputs.categories)?)?;
        let x = ((x + select(&self.actions, &inputs.actions)?)? + select(&self.gaps, &inputs.gaps)?)?;
        let mut x = x.reshape((rows, LENGTH, WIDTH))?.broadcast_add(&self.places)?;
        let empty = Tensor::from_slice(&inputs.masks, (rows, 1, LENGTH), device)?;
        let later: Vec<f32> =
            (0..LENGTH * LENGTH).map(|at| if at % LENGTH > at / LENGTH { -1e9 } else { 0.0 }).collect();
        let mask = empty.broadcast_add(&Tensor::from_vec(later, (1, LENGTH, LENGTH), device)?)?;
        for (index, block) in self.blocks.iter().enumerate() {
            let wanted = if index + 1 == BLOCKS { wanted } else { LENGTH };
            x = block.forward(&x, &mask, wanted)?;
        }
        let x = x.contiguous()?.apply_op3(&self.norm.0, &self.norm.1, LayerNorm)?;
        let attributes = Tensor::from_slice(&inputs.attributes, (rows, ATTRIBUTES.len()), device)?;
        Ok(x.broadcast_add(&attributes.matmul(&self.attributes)?.unsqueeze(1)?)?)
    }
}

impl Block {
    fn forward(&self, x: &Tensor, mask: &Tensor, wanted: usize) -> Result<Tensor, ModelError> {
        let (rows, _, _) = x.dims3()?;
        let from = LENGTH - wanted;
        let flat = |x: &Tensor| x.contiguous()?.reshape(((), WIDTH));
        let normal = flat(x)?.apply_op3(&self.norms[0].0, &self.norms[0].1, LayerNorm)?;
        let [query, key, value, out] = &self.attention;
        let last = flat(&normal.reshape((rows, LENGTH, WIDTH))?.narrow(1, from, wanted)?)?;
        let queries = last.matmul(query)?.reshape((rows, wanted, WIDTH))?;
        let keys = normal.matmul(key)?.reshape((rows, LENGTH, WIDTH))?;
        let values = normal.matmul(value)?.reshape((rows, LENGTH, WIDTH))?;
        let scores = (queries.matmul(&keys.t()?)? * (1.0 / (WIDTH as f64).sqrt()))?;
        let weights = softmax(&(scores + mask.narrow(1, from, wanted)?)?, D::Minus1)?;
        let seen = flat(&weights.matmul(&values)?)?.matmul(out)?;
        let x = (flat(&x.narrow(1, from, wanted)?)? + seen)?;
        let inner = x.apply_op3(&self.norms[1].0, &self.norms[1].1, LayerNorm)?;
        let inner = inner.matmul(&self.widen.0)?.broadcast_add(&self.widen.1)?.relu()?.matmul(&self.narrow)?;
        Ok((x + inner)?.reshape((rows, wanted, WIDTH))?)
    }
}
