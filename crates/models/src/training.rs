//! What the training loops have in common: the course of the learning rate, averaged weights, and the sum of gradients.
//!
//! Sums are made in the order of their parts, so that a run repeats bit by bit.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var, backprop::GradStore};

/// Named tensors, as they stand in a safetensors file.
type Parameters = BTreeMap<String, Tensor>;

/// Returns the learning rate of a step: it rises to `most` over `warm_up` steps and falls by half a cosine to a fiftieth of it at `horizon`.
pub(crate) fn rate(step: usize, most: f64, warm_up: usize, horizon: usize) -> f64 {
    let rise = ((step + 1) as f64 / warm_up as f64).min(1.0);
    let progress = step as f64 / horizon as f64;
    most * rise * (0.02 + 0.98 * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()))
}

/// Lets averaged values follow the `current` ones after a step, which leaves the share `averaging` of what they were.
///
/// # Errors
/// If a tensor cannot be read.
pub(crate) fn follow<'a>(
    average: &mut Parameters,
    current: impl Fn(&str) -> &'a Tensor,
    averaging: f64,
    step: usize,
) -> Result<()> {
    // A young average follows quickly, so that it does not carry the initial weights along.
    let keep = averaging.min((1 + step) as f64 / (10 + step) as f64);
    for (name, value) in average {
        // Detached: an average that remembers how it came about would keep every step's weights.
        *value = ((&*value * keep)? + (current(name) * (1.0 - keep))?)?.detach();
    }
    Ok(())
}

/// Adds gradients; `None` without any.
///
/// # Errors
/// If a tensor cannot be read.
pub(crate) fn sum(stores: Vec<GradStore>, variables: &BTreeMap<String, Var>) -> Result<Option<GradStore>> {
    let mut stores = stores.into_iter();
    let Some(mut sum) = stores.next() else { return Ok(None) };
    for store in stores {
        for variable in variables.values() {
            let added = match (sum.get(variable), store.get(variable)) {
                (Some(a), Some(b)) => (a + b)?,
                (_, Some(b)) => b.clone(),
                _ => continue,
            };
            sum.insert(variable, added);
        }
    }
    Ok(Some(sum))
}

/// Returns the Euclidean norm of all gradients together.
///
/// # Errors
/// If a tensor cannot be read.
pub(crate) fn norm(gradients: &GradStore, variables: &BTreeMap<String, Var>) -> Result<f64> {
    let mut square = 0f64;
    for variable in variables.values() {
        if let Some(gradient) = gradients.get(variable) {
            square += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
    }
    Ok(square.sqrt())
}

/// Multiplies every gradient.
///
/// # Errors
/// If a tensor cannot be read.
pub(crate) fn scale(gradients: &mut GradStore, variables: &BTreeMap<String, Var>, factor: f64) -> Result<()> {
    for variable in variables.values() {
        if let Some(gradient) = gradients.get(variable) {
            let scaled = (gradient * factor)?;
            gradients.insert(variable, scaled);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_rate_rises_and_falls() {
        let at = |step| rate(step, 2.0, 10, 100);
        assert!((at(0) - 0.2).abs() < 1e-3 && (at(50) - 1.02).abs() < 1e-9 && (at(100) - 0.04).abs() < 1e-9);
        assert!((10..100).all(|step| at(step + 1) < at(step)));
    }

    #[test]
    fn gradients_add_up_and_averages_follow() {
        let variable = Var::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let variables = BTreeMap::from([("w".to_owned(), variable.clone())]);
        let gradient = |factor: f64| (variable.as_tensor() * factor).unwrap().sum_all().unwrap().backward().unwrap();
        let mut total = sum(vec![gradient(1.0), gradient(2.0)], &variables).unwrap().unwrap();
        assert!((norm(&total, &variables).unwrap() - 18f64.sqrt()).abs() < 1e-6);
        scale(&mut total, &variables, 0.5).unwrap();
        assert_eq!(total.get(&variable).unwrap().to_vec1::<f32>().unwrap(), [1.5, 1.5]);
        assert!(sum(Vec::new(), &variables).unwrap().is_none());

        let mut average =
            BTreeMap::from([("w".to_owned(), Tensor::zeros(2, candle_core::DType::F32, &Device::Cpu).unwrap())]);
        // The first step keeps a tenth.
        follow(&mut average, |name| variables[name].as_tensor(), 0.9, 0).unwrap();
        let values = average["w"].to_vec1::<f32>().unwrap();
        assert!((values[0] - 0.9).abs() < 1e-6 && (values[1] - 1.8).abs() < 1e-6);
        follow(&mut average, |name| variables[name].as_tensor(), 0.9, 1_000).unwrap();
        assert!((average["w"].to_vec1::<f32>().unwrap()[0] - 0.91).abs() < 1e-6);
    }
}
