//! Synthetic models: the sizes of well-known ones with random weights and a small vocabulary, for measuring speed where
//! the models themselves cannot be downloaded.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result};
use encoder_spec::TensorId;
use model_import::{WeightEntry, weight_entries};
use serde_json::{Map, Value, json};
use testkit::files;

use super::texts::SplitMix;

/// Token ids. The embeddings' rows are read one by one, so their number does not change the speed.
const VOCABULARY: usize = 2_000;

/// A model whose sizes are those of the published `config.json` of the same name.
pub(crate) struct SyntheticModel {
    pub(crate) name: &'static str,
    /// The folder of its pooling, as sentence-transformers writes it.
    pooling: &'static str,
    config: fn() -> Value,
}

pub(crate) const MODELS: [SyntheticModel; 6] = [
    SyntheticModel {
        name: "bge-base",
        pooling: "cls_token",
        config: || {
            json!({
                "model_type": "bert", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
                "intermediate_size": 3072, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
                "max_position_embeddings": 512, "type_vocab_size": 2,
            })
        },
    },
    SyntheticModel {
        name: "bge-m3",
        pooling: "cls_token",
        config: || {
            json!({
                "model_type": "xlm-roberta", "hidden_size": 1024, "num_hidden_layers": 24,
                "num_attention_heads": 16, "intermediate_size": 4096, "hidden_act": "gelu",
                "layer_norm_eps": 1e-5, "max_position_embeddings": 8194, "type_vocab_size": 1, "pad_token_id": 1,
            })
        },
    },
    SyntheticModel {
        name: "nomic-v1.5",
        pooling: "mean_tokens",
        config: || {
            json!({
                "model_type": "nomic_bert", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": 3072,
                "activation_function": "swiglu", "n_positions": 8192, "rotary_emb_base": 1000,
                "rotary_emb_fraction": 1.0, "qkv_proj_bias": false, "mlp_fc1_bias": false, "mlp_fc2_bias": false,
                "layer_norm_epsilon": 1e-12, "type_vocab_size": 2, "pad_vocab_size_multiple": 1,
            })
        },
    },
    SyntheticModel {
        name: "modernbert-base",
        pooling: "mean_tokens",
        config: || {
            json!({
                "model_type": "modernbert", "hidden_size": 768, "num_hidden_layers": 22,
                "num_attention_heads": 12, "intermediate_size": 1152, "hidden_activation": "gelu",
                "norm_eps": 1e-5, "max_position_embeddings": 8192, "global_attn_every_n_layers": 3,
                "local_attention": 128, "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0,
            })
        },
    },
    SyntheticModel {
        name: "qwen3-0.6b",
        pooling: "lasttoken",
        config: || {
            json!({
                "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
                "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072, "hidden_act": "silu",
                "rms_norm_eps": 1e-6, "max_position_embeddings": 32_768, "rope_theta": 1_000_000.0,
            })
        },
    },
    SyntheticModel {
        name: "embeddinggemma-300m",
        pooling: "mean_tokens",
        config: || {
            json!({
                "model_type": "gemma3_text", "hidden_size": 768, "num_hidden_layers": 24,
                "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 1152,
                "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
                "query_pre_attn_scalar": 256, "sliding_window": 512, "sliding_window_pattern": 6,
                "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "use_bidirectional_attention": true,
            })
        },
    },
];

impl SyntheticModel {
    /// Writes the model's folder; one that is complete stays as it is.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let mut config = (self.config)();
        config["vocab_size"] = VOCABULARY.into();
        let config = serde_json::to_string_pretty(&config)?;
        let (config_path, weights) = (folder.join("config.json"), folder.join("model.safetensors"));
        if weights.exists() && files::read_text(&config_path)? == config {
            return Ok(());
        }
        files::write(&config_path, config)?;
        files::write(&folder.join("modules.json"), modules().to_string())?;
        files::write(
            &folder.join("sentence_bert_config.json"),
            json!({ "max_seq_length": 512 }).to_string(),
        )?;
        files::write(&folder.join("1_Pooling/config.json"), self.pooling().to_string())?;
        files::write(&folder.join("tokenizer.json"), tokenizer().to_string())?;
        let tensors: Vec<_> = weight_entries(&config_path)?.into_iter().map(RandomTensor::of).collect();
        write_weights(&tensors, &weights)
    }

    fn pooling(&self) -> Value {
        let config = (self.config)();
        let width = config.get("hidden_size").or(config.get("n_embd"));
        json!({ "word_embedding_dimension": width, format!("pooling_mode_{}", self.pooling): true })
    }
}

fn modules() -> Value {
    let module = |index: usize, path: &str, kind: &str| {
        let kind = format!("sentence_transformers.models.{kind}");
        json!({ "idx": index, "name": index.to_string(), "path": path, "type": kind })
    };
    json!([
        module(0, "", "Transformer"),
        module(1, "1_Pooling", "Pooling"),
        module(2, "2_Normalize", "Normalize")
    ])
}

/// Words of one token each.
fn tokenizer() -> Value {
    let word = |id: usize| match id {
        0 => "[UNK]".to_owned(),
        1 => "[PAD]".to_owned(),
        id => format!("w{id}"),
    };
    let vocabulary: Map<String, Value> = (0..VOCABULARY).map(|id| (word(id), id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]" },
    })
}

/// Writes the folder of a cross-encoder with the sizes of all-MiniLM-L6-v2 and the `tokenizer`, a `tokenizer.json`.
/// Other engines load it too. One that is complete stays as it is.
pub(crate) fn write_cross_encoder(folder: &Path, tokenizer: &Path) -> Result<()> {
    let mut tokenizer: Value = serde_json::from_slice(&files::read(tokenizer)?)?;
    let vocabulary =
        tokenizer["model"]["vocab"].as_object().context("the tokenizer has no vocabulary")?.len();
    // Lengths are those of the model, not of the tokenizer's file.
    tokenizer["truncation"] = Value::Null;
    tokenizer["padding"] = Value::Null;
    let (hidden, config_path) = (384, folder.join("config.json"));
    let config = serde_json::to_string_pretty(&json!({
        "architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_size": hidden,
        "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "type_vocab_size": 2, "vocab_size": vocabulary,
        "pad_token_id": 0, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02, "position_embedding_type": "absolute",
        "id2label": { "0": "LABEL_0" }, "label2id": { "LABEL_0": 0 },
        // Otherwise other engines compute in the type of the weights.
        "dtype": "float32", "torch_dtype": "float32",
    }))?;
    let weights = folder.join("model.safetensors");
    if weights.exists() && files::read_text(&config_path)? == config {
        return Ok(());
    }
    files::write(&config_path, config)?;
    files::write(&folder.join("tokenizer.json"), tokenizer.to_string())?;
    let tokenizer_config = json!({
        "tokenizer_class": "BertTokenizer", "do_lower_case": true, "model_max_length": 512, "cls_token": "[CLS]",
        "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    });
    files::write(&folder.join("tokenizer_config.json"), tokenizer_config.to_string())?;
    let mut tensors: Vec<_> = weight_entries(&config_path)?.into_iter().map(RandomTensor::of).collect();
    for tensor in &mut tensors {
        tensor.name.insert_str(0, "bert.");
    }
    for (name, outputs) in [("bert.pooler.dense", hidden), ("classifier", 1)] {
        let half_width = 1.7 / (hidden as f32).sqrt();
        for (part, shape, half_width) in
            [("weight", vec![outputs, hidden], half_width), ("bias", vec![outputs], 0.1)]
        {
            tensors.push(RandomTensor { name: format!("{name}.{part}"), shape, center: 0.0, half_width });
        }
    }
    write_weights(&tensors, &weights)
}

/// A tensor of random values, distributed uniformly.
struct RandomTensor {
    name: String,
    shape: Vec<usize>,
    center: f32,
    half_width: f32,
}

impl RandomTensor {
    /// A tensor of a network, with values that keep the size of activations from layer to layer.
    fn of(WeightEntry { name, shape, tensor }: WeightEntry) -> Self {
        let (center, half_width) = match tensor {
            TensorId::Linear(..) if shape.len() == 2 => (0.0, 1.7 / (shape[1] as f32).sqrt()),
            TensorId::TokenEmbeddings => (0.0, 1.0),
            TensorId::Scale(_) => (1.0, 0.2),
            _ => (0.0, 0.1),
        };
        Self { name, shape, center, half_width }
    }
}

/// Writes the file of the weights at `path` as a whole.
fn write_weights(tensors: &[RandomTensor], path: &Path) -> Result<()> {
    let partial = path.with_extension("safetensors.part");
    write_tensors(tensors, &partial).with_context(|| format!("cannot write {}", partial.display()))?;
    std::fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes random tensors in bf16, in the format of safetensors: the length of the header, the header, the values.
fn write_tensors(tensors: &[RandomTensor], path: &Path) -> Result<()> {
    let (mut header, mut end) = (Map::new(), 0);
    for RandomTensor { name, shape, .. } in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * size_of::<u16>();
        header.insert(name.clone(), json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, end] }));
    }
    let header = serde_json::to_string(&header)?;
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut random = SplitMix(1);
    for RandomTensor { shape, center, half_width, .. } in tensors {
        for _ in 0..shape.iter().product() {
            let value = center + half_width * uniform(&mut random);
            file.write_all(&bf16(value).to_le_bytes())?;
        }
    }
    file.into_inner()?.sync_all()?;
    Ok(())
}

fn bf16(value: f32) -> u16 {
    (value.to_bits() >> 16) as u16
}

/// From −1 to 1.
fn uniform(random: &mut SplitMix) -> f32 {
    (random.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The description of each model is complete for the importer, without writing gigabytes of weights.
    #[test]
    fn every_model_is_of_a_known_family() {
        for model in &MODELS {
            let folder = tempfile::tempdir().unwrap();
            let mut config = (model.config)();
            config["vocab_size"] = VOCABULARY.into();
            let path = folder.path().join("config.json");
            files::write(&path, config.to_string()).unwrap();
            let entries = weight_entries(&path).unwrap();
            let values: usize = entries.iter().map(|entry| entry.shape.iter().product::<usize>()).sum();
            assert!(values > 80_000_000, "{}: {values}", model.name);
            assert!(model.pooling()["word_embedding_dimension"].is_number(), "{}", model.name);
        }
    }

    #[test]
    fn weights_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let entry = |name: &str, shape: &[usize], tensor| {
            RandomTensor::of(WeightEntry { name: name.to_owned(), shape: shape.to_vec(), tensor })
        };
        let norm = encoder_spec::NormId::Final;
        let entries =
            [entry("a", &[2, 3], TensorId::TokenEmbeddings), entry("norm", &[4], TensorId::Scale(norm))];
        write_weights(&entries, &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let json: Value = serde_json::from_slice(&bytes[8..][..header]).unwrap();
        assert_eq!(json["norm"], json!({ "dtype": "BF16", "shape": [4], "data_offsets": [12, 20] }));
        let values = &bytes[8 + header + 12..];
        let scales = values
            .chunks(2)
            .map(|bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes.try_into().unwrap())) << 16));
        assert!(scales.clone().count() == 4 && scales.clone().all(|scale| (0.79..1.21).contains(&scale)));
    }
    /// Writes the weights too: they take 45 MB.
    #[test]
    fn the_cross_encoder_is_read_by_the_importer() {
        let folder = tempfile::tempdir().unwrap();
        let vocabulary: Map<String, Value> = (0..1000).map(|id| (format!("w{id}"), id.into())).collect();
        let tokenizer = json!({
            "truncation": { "max_length": 128 }, "padding": null, "normalizer": null,
            "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "w0" },
        });
        let path = folder.path().join("given.json");
        files::write(&path, tokenizer.to_string()).unwrap();
        write_cross_encoder(folder.path(), &path).unwrap();
        let model = model_import::ModelFolder::open(folder.path()).unwrap();
        assert_eq!((model.task(), model.max_input_tokens()), (model_import::Task::Rerank, 512));
        assert_eq!((model.hidden(), model.vocab_size(), model.segments()), (384, Some(1000), 2));
        assert_eq!(model.head().modules.len(), 2);
    }
}
