//! The encoder: the interface through which callers run batches.

use std::sync::Arc;

use crate::{
    ActivationMaxima, EncodeError, HiddenStates, Isa, Model, ThreadPool, batch::RaggedBatch,
    maxima::MaximaRecorder, network::Activations, pass::ForwardPass, plan::TaskPlan,
};

/// Runs batches of whole sequences through a model. Owned by one thread; holds activations for the largest batch
/// so far.
pub struct Encoder {
    model: Arc<Model>,
    pool: Arc<ThreadPool>,
    activations: Option<Arc<Activations>>,
}

impl Encoder {
    /// An encoder of `model` whose batches the helpers of `pool` may take part in.
    pub fn new(model: Arc<Model>, pool: Arc<ThreadPool>) -> Self {
        Self { model, pool, activations: None }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Computes the hidden states of a batch of single texts, all in segment 0, as
    /// [`encode_pairs`](Self::encode_pairs) does.
    ///
    /// # Errors
    /// As [`encode_pairs`](Self::encode_pairs).
    pub fn encode(
        &mut self,
        ids: &[u32],
        lengths: &[usize],
        on_yield: &mut dyn FnMut() -> usize,
    ) -> Result<HiddenStates<'_>, EncodeError> {
        self.encode_pairs(ids, lengths, &[], on_yield)
    }

    /// Computes the hidden states of a batch after the last layer, from the ids of all sequences, one after the
    /// other, each sequence's length in tokens, and the number of tokens in segment 1 at the end of each sequence. An
    /// empty slice of these means that all tokens are in segment 0.
    ///
    /// `on_yield` is called on this thread, before each step, and before each task of a step that helpers share. It
    /// may run for long, and returns how many of the pool's helpers may take part from then on. They take part if no
    /// other encoder uses the pool, and leave when the number falls.
    ///
    /// # Errors
    /// [`EncodeError`]: an unknown id, a sequence that is too long, lengths that do not add up, or segments that the
    /// model was not built for, all checked before any computation; or a task that panicked.
    pub fn encode_pairs(
        &mut self,
        ids: &[u32],
        lengths: &[usize],
        second_segments: &[usize],
        on_yield: &mut dyn FnMut() -> usize,
    ) -> Result<HiddenStates<'_>, EncodeError> {
        let network = self.model.network();
        let batch = Arc::new(RaggedBatch::new(self.model.config(), ids, lengths, second_segments)?);
        let rows = batch.rows();
        let activations = match self.activations.take() {
            Some(activations) if activations.rows() >= rows => activations,
            _ => Arc::new(network.allocate(rows)),
        };
        let activations = Arc::clone(self.activations.insert(activations));
        self.run_layers(&batch, &activations, on_yield)?;
        let activations = self.activations.insert(activations);
        // SAFETY: no pass runs, and the result borrows `self`.
        Ok(unsafe { self.model.network().hidden_states(rows, activations) })
    }

    /// Records the maxima of activations while it computes a batch as [`encode_pairs`](Self::encode_pairs) does. The
    /// calibration of int8 kernels is the maxima in f32 over some dozens of inputs like those that the model will read.
    ///
    /// # Errors
    /// As [`encode_pairs`](Self::encode_pairs); and [`EncodeError::NoMaxima`] with kernels for AMX.
    pub fn activation_maxima(
        &mut self,
        ids: &[u32],
        lengths: &[usize],
        second_segments: &[usize],
        on_yield: &mut dyn FnMut() -> usize,
    ) -> Result<ActivationMaxima, EncodeError> {
        if self.model.isa() == Isa::AmxBf16 {
            return Err(EncodeError::NoMaxima);
        }
        let batch = Arc::new(RaggedBatch::new(self.model.config(), ids, lengths, second_segments)?);
        let mut activations = self.model.network().allocate(batch.rows());
        activations.recorder = Some(MaximaRecorder::default());
        let activations = Arc::new(activations);
        self.run_layers(&batch, &activations, on_yield)?;
        Ok(activations.recorder.as_ref().map(MaximaRecorder::maxima).unwrap_or_default())
    }

    /// Runs a batch through all layers. No other pass may use the activations.
    fn run_layers(
        &mut self,
        batch: &Arc<RaggedBatch>,
        activations: &Arc<Activations>,
        on_yield: &mut dyn FnMut() -> usize,
    ) -> Result<(), EncodeError> {
        let network = self.model.network();
        let spec = self.model.config().spec();
        let (rows, layers) = (batch.rows(), spec.layers.len());
        let has_rounding = network.rounds_inputs() || activations.recorder.is_some();
        let mut layer = 0;
        while layer < layers {
            let helpers = on_yield().min(self.pool.helpers());
            // Without helpers, one layer a pass: a worker that becomes idle can help from the next layer on.
            let end = if helpers > 0 { layers } else { layer + 1 };
            let plan = TaskPlan::new(spec, rows, layer..end, helpers + 1, has_rounding);
            let (network, batch) = (Arc::clone(network), Arc::clone(batch));
            // SAFETY: the activations are this encoder's own, and `ThreadPool::run` returns after all threads have
            // left the pass.
            let pass = unsafe { ForwardPass::new(network, batch, Arc::clone(activations), plan) };
            let pass = Arc::new(pass);
            self.pool.run(&pass, helpers, on_yield);
            pass.result()?;
            layer = end;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("model", &self.model).finish_non_exhaustive()
    }
}
