//! The files of a repository that embedgate needs: the description of the model, its tokenizer, and one set of weights.

use crate::place::sort_description_last;

/// Files that describe a model or its tokenizer, at the root or in a module's folder.
const DESCRIPTIONS: [&str; 8] = [
    "config.json",
    "config_sentence_transformers.json",
    "model.toml",
    "modules.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
];

/// Formats of weights by preference: name of a single file, and the end of a shard's name.
const WEIGHTS: [(&str, &str); 2] = [("model", ".safetensors"), ("pytorch_model", ".bin")];

/// ONNX graphs by preference, for a repository without weights.
const GRAPHS: [&str; 2] = ["model.onnx", "onnx/model.onnx"];

/// Returns the needed ones of `names`, the description of the model last: a folder without `config.json` is no model,
/// so an incomplete folder cannot be mistaken for a complete one. With `onnx_file`, this graph replaces the weights.
/// `None` if the repository has no weights that embedgate reads.
pub(crate) fn needed<'a>(names: &[&'a str], onnx_file: Option<&str>) -> Option<Vec<&'a str>> {
    let mut needed: Vec<&str> = Vec::new();
    let mut folders: Vec<&str> = names.iter().filter_map(|name| folder(name)).collect();
    folders.sort_unstable();
    folders.dedup();
    let mut has_weights = false;
    for inner in folders {
        let files: Vec<&str> = names.iter().copied().filter(|name| folder(name) == Some(inner)).collect();
        let weights = if onnx_file.is_some() && is_transformer(inner) { Vec::new() } else { weights(&files) };
        has_weights |= is_transformer(inner) && !weights.is_empty();
        needed.extend(weights);
        let is_description = |name: &&str| {
            let file = file(name);
            DESCRIPTIONS.contains(&file) || (file.starts_with("sentence_") && file.ends_with("_config.json"))
        };
        needed.extend(files.into_iter().filter(is_description));
    }
    if !has_weights {
        let graph = match onnx_file {
            Some(graph) => names.iter().find(|name| **name == graph),
            None => GRAPHS.iter().find_map(|graph| names.iter().find(|name| *name == graph)),
        };
        needed.extend(graph_files(graph?, names));
    }
    sort_description_last(&mut needed);
    Some(needed)
}

/// Returns the folder of a file at the root (`""`) or of a module, such as `1_Pooling`.
fn folder(name: &str) -> Option<&str> {
    let Some((folder, file)) = name.split_once('/') else { return Some("") };
    let (number, _) = folder.split_once('_')?;
    let is_module = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (is_module && !file.contains('/')).then_some(folder)
}

fn file(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Returns true for the folder of the transformer, which is the root except in old repositories.
fn is_transformer(folder: &str) -> bool {
    folder.is_empty() || folder.starts_with("0_")
}

/// Returns the weights among the files of one folder: a single file, or shards and their index, in one format.
fn weights<'a>(files: &[&'a str]) -> Vec<&'a str> {
    for (stem, end) in WEIGHTS {
        let single = format!("{stem}{end}");
        if let Some(single) = files.iter().find(|name| file(name) == single) {
            return vec![single];
        }
        let index = format!("{stem}{end}.index.json");
        let shard = format!("{stem}-");
        let is_part =
            |name: &&&str| file(name) == index || (file(name).starts_with(&shard) && name.ends_with(end));
        if files.iter().any(|name| file(name) == index) {
            return files.iter().filter(is_part).copied().collect();
        }
    }
    Vec::new()
}

/// Returns a graph and the files of its weights, which exporters call `model.onnx_data` or `model.onnx.data`.
fn graph_files<'a>(graph: &'a str, names: &[&'a str]) -> Vec<&'a str> {
    let is_part = |name: &&&str| {
        name.strip_prefix(graph)
            .is_some_and(|end| end.is_empty() || end.starts_with("_data") || end.starts_with(".data"))
    };
    names.iter().filter(is_part).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[&str], onnx_file: Option<&str>, expected: &[&str]) {
        let mut found = needed(names, onnx_file).unwrap();
        assert!(!found.contains(&"config.json") || found.last() == Some(&"config.json"), "{found:?}");
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn one_format_of_weights_is_taken_and_nothing_else() {
        let names = [
            ".gitattributes",
            "1_Pooling/config.json",
            "README.md",
            "config.json",
            "config_sentence_transformers.json",
            "data_config.json",
            "model.safetensors",
            "modules.json",
            "onnx/model.onnx",
            "onnx/model_O1.onnx",
            "openvino/openvino_model.bin",
            "pytorch_model.bin",
            "rust_model.ot",
            "sentence_bert_config.json",
            "special_tokens_map.json",
            "tf_model.h5",
            "tokenizer.json",
            "tokenizer_config.json",
            "train_script.py",
            "vocab.txt",
            "flax_model.msgpack",
        ];
        let described = [
            "1_Pooling/config.json",
            "config.json",
            "config_sentence_transformers.json",
            "model.safetensors",
            "modules.json",
            "sentence_bert_config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        ];
        check(&names, None, &described);
        let mut with_graph: Vec<&str> =
            described.iter().copied().filter(|name| !name.contains("safetensors")).collect();
        with_graph.push("onnx/model_O1.onnx");
        with_graph.sort_unstable();
        check(&names, Some("onnx/model_O1.onnx"), &with_graph);
    }

    #[test]
    fn shards_dense_layers_and_old_layouts_are_complete() {
        check(
            &[
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "2_Dense/config.json",
                "2_Dense/model.safetensors",
                "2_Dense/pytorch_model.bin",
                "pytorch_model-00001-of-00001.bin",
                "pytorch_model.bin.index.json",
            ],
            None,
            &[
                "2_Dense/config.json",
                "2_Dense/model.safetensors",
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
            ],
        );
        check(
            &[
                "0_Transformer/config.json",
                "0_Transformer/pytorch_model.bin",
                "modules.json",
                "0_Transformer/vocab.txt",
            ],
            None,
            &[
                "0_Transformer/config.json",
                "0_Transformer/pytorch_model.bin",
                "0_Transformer/vocab.txt",
                "modules.json",
            ],
        );
    }

    #[test]
    fn a_graph_with_its_data_stands_in_for_weights() {
        check(
            &[
                "config.json",
                "onnx/model.onnx",
                "onnx/model.onnx_data",
                "onnx/model.onnx_data_1",
                "onnx/model_q4.onnx",
            ],
            None,
            &["config.json", "onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx_data_1"],
        );
        assert_eq!(needed(&["config.json", "tf_model.h5", "2_Dense/model.safetensors"], None), None);
        assert_eq!(needed(&["config.json", "onnx/model.onnx"], Some("onnx/other.onnx")), None);
    }
}
