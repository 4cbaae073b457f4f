//! Calibration of int8 kernels: the maxima of a model's activations over the built-in texts or pairs, in fp32.

use std::sync::Arc;

use bert_cpu::{ActivationMaxima, Isa, ThreadPool};
use inference::{Input, Tokenizer, truncate_pair};
use model_import::ModelFolder;

use super::{
    ModelLoadError, builtin_texts::passages_for, candidates::Candidate, max_input_tokens, native, tokenizer,
};
use crate::config::ModelConfig;

/// Maximum number of tokens of a text: longer ones have hardly larger activations, and take long in a large model.
const MAX_TOKENS: usize = 512;

/// Measures the maxima with the fp32 kernels, whose weights are in memory until then.
pub(super) fn activation_maxima(
    model: &ModelConfig,
    folder: &ModelFolder,
) -> Result<ActivationMaxima, ModelLoadError> {
    let failed = |error| ModelLoadError::Calibration(error);
    // Every CPU with instructions for int8 has some for fp32.
    let fp32 = Candidate::reference(Isa::is_available).map_or(Isa::Avx2, |candidate| candidate.isa);
    let network = native::model(folder, fp32, model.threads, None)?;
    let network = network.ok_or(ModelLoadError::UnsupportedNetwork(fp32))?;
    let pool = ThreadPool::new(model.threads.saturating_sub(1)).map_err(|error| failed(Box::new(error)))?;
    let mut encoder = bert_cpu::Encoder::new(Arc::clone(&network), Arc::new(pool));
    let tokenizer = tokenizer(model, folder)?;
    let window = max_input_tokens(model, folder).min(MAX_TOKENS);
    let mut maxima = ActivationMaxima::default();
    for passage in passages_for(folder.task(), network.config().spec(), window) {
        for input in &passage.inputs {
            let max_tokens = passage.max_input_tokens.unwrap_or(window);
            let (ids, second_segment) = token_ids(&tokenizer, input, max_tokens)?;
            if ids.is_empty() {
                continue;
            }
            let helpers = model.threads.saturating_sub(1);
            let found = encoder.activation_maxima(&ids, &[ids.len()], &[second_segment], &mut || helpers);
            maxima.merge(&found.map_err(|error| failed(Box::new(error)))?);
        }
    }
    Ok(maxima)
}

/// Token ids of an input with special tokens, truncated, without those that have no embedding; and the number of tokens
/// in segment 1 at the end.
fn token_ids(
    tokenizer: &Tokenizer,
    input: &Input,
    max_tokens: usize,
) -> Result<(Vec<u32>, usize), ModelLoadError> {
    let encode = |text: &str| -> Result<Vec<u32>, ModelLoadError> {
        let ids = tokenizer.encode(text).map_err(|error| ModelLoadError::Calibration(error.into()))?;
        Ok(ids.into_iter().filter(|&id| tokenizer.is_valid_id(id)).collect())
    };
    let mut ids = Vec::with_capacity(max_tokens);
    let second_segment = match input {
        Input::Pair { query, document } => {
            let (first, second) = (encode(query)?, encode(document)?);
            let max_content = max_tokens.saturating_sub(tokenizer.num_special_tokens_of_pair());
            let (kept, kept_second) = truncate_pair(first.len(), second.len(), max_content);
            tokenizer.join_pair(&first[..kept], &second[..kept_second], &mut ids).unwrap_or(0)
        }
        Input::Text(text) => {
            let content = encode(text)?;
            let length = content.len().min(max_tokens.saturating_sub(tokenizer.num_special_tokens()));
            tokenizer.add_special_tokens(&content[..length], &mut ids);
            0
        }
        Input::Tokens(_) => 0,
    };
    Ok((ids, second_segment))
}
