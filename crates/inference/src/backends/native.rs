//! The native backend: runs models with embedgate's own kernels, without padding and without ONNX Runtime. Only this
//! file, `pooling` (an activation function) and `error` use `bert_cpu`.

use std::sync::Arc;

use bert_cpu::{Model, ThreadPool};
use encoder_spec::HeadSpec;
use ndarray::{ArrayView2, ShapeBuilder};

use crate::{
    encoder::{Batch, Encoder, EncoderFactory},
    error::{EncodeError, StartError},
    pooling::{apply_head, check_head},
};

/// Encoders that share one copy of a model's weights. Each runs on its worker's thread, and on the cores of idle
/// workers.
///
/// # Errors
/// [`StartError::Config`] if `head` does not map the model's hidden states to `dimensions` values;
/// [`StartError::Kernels`] if the thread pool cannot be started.
pub fn native_encoders(
    model: Arc<Model>,
    head: HeadSpec,
    dimensions: usize,
    workers: usize,
) -> Result<EncoderFactory, StartError> {
    check_head(&head, model.config().spec().hidden, dimensions)?;
    let pool = ThreadPool::new(workers.saturating_sub(1));
    let pool = pool.map_err(|error| StartError::Kernels(Box::new(error)))?;
    let (pool, head) = (Arc::new(pool), Arc::new(head));
    Ok(Arc::new(move || {
        let encoder = bert_cpu::Encoder::new(Arc::clone(&model), Arc::clone(&pool));
        Ok(Box::new(NativeEncoder { encoder, head: Arc::clone(&head), dimensions }))
    }))
}

struct NativeEncoder {
    encoder: bert_cpu::Encoder,
    head: Arc<HeadSpec>,
    dimensions: usize,
}

impl Encoder for NativeEncoder {
    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn needs_padding(&self) -> bool {
        false
    }

    fn needs_warm_up(&self) -> bool {
        false
    }

    fn supports_preemption(&self) -> bool {
        true
    }

    fn encode(
        &mut self,
        batch: &Batch,
        on_yield: &mut dyn FnMut() -> usize,
        out: &mut [f32],
    ) -> Result<(), EncodeError> {
        let hidden =
            self.encoder.encode_pairs(batch.ids(), batch.lengths(), batch.second_segments(), on_yield);
        let hidden = hidden.map_err(|error| match error {
            // Continues the panic on this thread, so that the worker builds a new encoder.
            bert_cpu::EncodeError::Panicked => std::panic::resume_unwind(Box::new(error)),
            error => EncodeError::Other(error.to_string()),
        })?;
        let (stride, width) = (hidden.stride(), hidden.width());
        let mut first = 0;
        let prompts = batch.lengths().iter().zip(batch.prompt_tokens());
        for ((&length, &prompt_tokens), out) in prompts.zip(out.chunks_exact_mut(self.dimensions)) {
            // The last row may be shorter than the stride.
            let values = &hidden.values()[first * stride..];
            let tokens = ArrayView2::from_shape((length, width).strides((stride, 1)), values);
            let tokens = tokens.map_err(|error| EncodeError::Other(error.to_string()))?;
            apply_head(&self.head, tokens, prompt_tokens, out);
            first += length;
        }
        Ok(())
    }
}
