//! Maxima of activations: the calibration of int8 kernels, recorded while a model encodes some texts.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Mutex, PoisonError},
};

use encoder_spec::EncoderSpec;

use crate::linear_input::LinearInput;

/// The largest magnitude of each channel of each linear layer's input, over some texts. The same for every instruction
/// set, up to the rounding of its kernels, and for any number of threads.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ActivationMaxima(BTreeMap<LinearInput, Vec<f32>>);

impl ActivationMaxima {
    /// Includes the maxima over other texts.
    ///
    /// # Panics
    /// If they are of another network.
    pub fn merge(&mut self, other: &Self) {
        for (&input, maxima) in &other.0 {
            self.include(input, maxima);
        }
    }

    fn include(&mut self, input: LinearInput, values: &[f32]) {
        match self.0.entry(input) {
            Entry::Vacant(entry) => {
                entry.insert(values.to_vec());
            }
            Entry::Occupied(mut entry) => {
                let maxima = entry.get_mut();
                assert_eq!(maxima.len(), values.len(), "two widths of one input");
                maxima.iter_mut().zip(values).for_each(|(max, value)| *max = max.max(*value));
            }
        }
    }

    /// The maxima for weights that several layers share: each layer's are included in those of `source_layer`.
    pub(crate) fn of_shared_weights(&self, source_layer: impl Fn(usize) -> usize) -> Self {
        let mut shared = Self::default();
        for (input, maxima) in &self.0 {
            shared.include(input.with_layer(&source_layer), maxima);
        }
        shared
    }

    /// Returns true if they are of a network of this specification.
    pub(crate) fn fit(&self, spec: &EncoderSpec) -> bool {
        let inputs = LinearInput::all(spec);
        self.0.len() == inputs.len()
            && inputs
                .iter()
                .all(|input| self.of(*input).is_some_and(|maxima| maxima.len() == input.width(spec)))
    }

    /// Maximum of each channel of an input, `[inputs]`.
    pub(crate) fn of(&self, input: LinearInput) -> Option<&[f32]> {
        self.0.get(&input).map(Vec::as_slice)
    }
}

/// Collects maxima from all threads of a pass.
#[derive(Debug, Default)]
pub(crate) struct MaximaRecorder(Mutex<ActivationMaxima>);

impl MaximaRecorder {
    /// Includes the magnitudes of one row or of several, `[inputs]`.
    pub(crate) fn include(&self, input: LinearInput, magnitudes: &[f32]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).include(input, magnitudes);
    }

    /// All maxima so far.
    pub(crate) fn maxima(&self) -> ActivationMaxima {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
