//! Tests of exported graphs: every weight has its value, and every input of a node is defined before it.

use std::collections::BTreeSet;

use super::fixture::{FAMILIES, Folder};
use crate::{
    onnx::{DataLocation, DataType, Dimension, GraphProto, StringStringEntryProto, TensorProto},
    onnx_file,
    weights::Weights,
};

/// An exported graph with its weights.
struct Exported {
    graph: GraphProto,
    data: Vec<u8>,
}

impl Exported {
    fn of(folder: &Folder) -> Self {
        folder.import().unwrap();
        let path = folder.file("embedgate.onnx");
        let model = onnx_file::read(&path).unwrap();
        onnx_file::check_external_data(&path, &model).unwrap();
        Self { graph: model.graph.unwrap(), data: folder.bytes("embedgate.onnx.data") }
    }

    fn tensor(&self, name: &str) -> &TensorProto {
        self.graph
            .initializer
            .iter()
            .find(|tensor| tensor.name == name)
            .unwrap_or_else(|| panic!("no {name}"))
    }

    /// Returns shape and values of a weight.
    fn weight(&self, name: &str) -> (Vec<i64>, Vec<f32>) {
        let tensor = self.tensor(name);
        assert_eq!(tensor.data_location(), DataLocation::External, "{name}");
        let number =
            |key| StringStringEntryProto::find(&tensor.external_data, key).unwrap().parse::<usize>().unwrap();
        let (offset, length) = (number("offset"), number("length"));
        assert_eq!(offset % 4096, 0, "{name}");
        let (values, []) = self.data[offset..offset + length].as_chunks() else {
            panic!("{name}: {length} bytes")
        };
        let values: Vec<f32> = values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        assert_eq!(values.len() as i64, tensor.dims.iter().product::<i64>(), "{name}");
        (tensor.dims.clone(), values)
    }
}

#[test]
fn every_graph_is_well_formed() {
    for model in FAMILIES {
        let Exported { graph, .. } = Exported::of(&Folder::tiny(model));
        let varying = [Dimension::named("batch"), Dimension::named("sequence")];
        let inputs: Vec<_> =
            graph.input.iter().map(|value| (&value.name[..], value.dimensions().unwrap())).collect();
        assert_eq!(inputs, [("input_ids", &varying[..]), ("attention_mask", &varying[..])], "{model}");
        assert!(graph.input.iter().all(|value| value.data_type() == Some(DataType::Int64.into())));
        let [output] = &graph.output[..] else { panic!("{model}: {:?}", graph.output) };
        assert_eq!(output.name, "last_hidden_state");
        assert_eq!(output.dimensions().unwrap(), [&varying[..], &[Dimension::fixed(48)]].concat());

        let mut defined: BTreeSet<&str> = BTreeSet::new();
        let constants = graph.initializer.iter().map(|tensor| tensor.name.as_str());
        for name in constants.chain(graph.input.iter().map(|value| value.name.as_str())) {
            assert!(defined.insert(name), "{model}: {name} is defined twice");
        }
        let mut used: BTreeSet<&str> = BTreeSet::from(["last_hidden_state"]);
        for node in &graph.node {
            for input in &node.input {
                assert!(defined.contains(input.as_str()), "{model}: {} reads {input} too early", node.name);
                used.insert(input);
            }
            for output in &node.output {
                assert!(defined.insert(output), "{model}: {output} is defined twice");
            }
        }
        assert_eq!(
            defined.symmetric_difference(&used).collect::<Vec<_>>(),
            [&""; 0],
            "{model}: unused values"
        );
    }
}

#[test]
fn weights_are_transposed_concatenated_scaled_and_folded() {
    let folder = Folder::tiny("bert-mean");
    let exported = Exported::of(&folder);
    let weights = Weights::open(folder.path(), &[]).unwrap();

    let (shape, words) = exported.weight("embeddings.word_embeddings.weight");
    assert_eq!(shape, [600, 48]);
    assert_eq!(words, weights.tensor("embeddings.word_embeddings.weight", &[600, 48]).unwrap());

    let (shape, positions) = exported.weight("embeddings.position_embeddings.weight");
    assert_eq!(shape, [80, 48]);
    let table = weights.tensor("embeddings.position_embeddings.weight", &[80, 48]).unwrap();
    let segments = weights.tensor("embeddings.token_type_embeddings.weight", &[2, 48]).unwrap();
    for (index, value) in positions.iter().enumerate() {
        assert_eq!(*value, table[index] + segments[index % 48], "position {}", index / 48);
    }

    let layer = "encoder.layer.1.attention.self";
    let name = ["query", "key", "value"].map(|part| format!("{layer}.{part}")).join("+");
    let (shape, fused) = exported.weight(&format!("{name}.weight"));
    assert_eq!(shape, [48, 144]);
    let (_, biases) = exported.weight(&format!("{name}.bias"));
    // The head size is 12.
    for (part, (module, scale)) in
        [("query", 1.0 / 12f32.sqrt()), ("key", 1.0), ("value", 1.0)].iter().enumerate()
    {
        let weight = weights.tensor(&format!("{layer}.{module}.weight"), &[48, 48]).unwrap();
        let bias = weights.tensor(&format!("{layer}.{module}.bias"), &[48]).unwrap();
        for output in 0..48 {
            assert_eq!(biases[part * 48 + output], bias[output] * scale, "{module}");
            for input in 0..48 {
                let found = fused[input * 144 + part * 48 + output];
                assert_eq!(found, weight[output * 48 + input] * scale, "{module} {output} {input}");
            }
        }
    }

    let (shape, up) = exported.weight("encoder.layer.0.intermediate.dense.weight");
    assert_eq!(shape, [48, 96]);
    let weight = weights.tensor("encoder.layer.0.intermediate.dense.weight", &[96, 48]).unwrap();
    assert!(
        (0..96).all(|output| (0..48).all(|input| up[input * 96 + output] == weight[output * 48 + input]))
    );
}

#[test]
fn a_graph_holds_each_needed_weight_once() {
    let folder = Folder::tiny("bert-mean");
    let exported = Exported::of(&folder);
    assert!(exported.graph.initializer.iter().all(|tensor| !tensor.name.contains("pooler")));
    let mask = exported.tensor("masked");
    assert!(mask.float_data == [-1e9] && mask.float_data[0].is_finite());
    // Without alignment smaller than the source, which has a pooler and a second segment.
    let pages = 4096 * exported.graph.initializer.len() as u64;
    assert!((exported.data.len() as u64) < folder.bytes("model.safetensors").len() as u64 + pages);
}

#[test]
fn an_activation_is_one_operator() {
    for (name, operator, approximate) in [
        ("gelu", "Gelu", None),
        ("gelu_new", "Gelu", Some("tanh")),
        ("gelu_pytorch_tanh", "Gelu", Some("tanh")),
        ("relu", "Relu", None),
    ] {
        let folder = Folder::tiny("bert-mean");
        folder.set("config.json", "hidden_act", name);
        let Exported { graph, .. } = Exported::of(&folder);
        let found: Vec<_> = graph.node.iter().filter(|node| node.op_type == operator).collect();
        assert_eq!(found.len(), 2, "{name}");
        let attribute = found[0].attribute.iter().find(|attribute| attribute.name == "approximate");
        assert_eq!(attribute.map(|attribute| &attribute.s[..]), approximate.map(str::as_bytes), "{name}");
    }
}

#[test]
fn layer_norms_take_epsilon_from_the_configuration() {
    let folder = Folder::tiny("bert-mean");
    folder.set("config.json", "layer_norm_eps", 0.03125);
    let Exported { graph, .. } = Exported::of(&folder);
    let norms: Vec<_> = graph.node.iter().filter(|node| node.op_type == "LayerNormalization").collect();
    assert_eq!(norms.len(), 5);
    for norm in norms {
        let epsilon = norm.attribute.iter().find(|attribute| attribute.name == "epsilon").unwrap();
        assert_eq!(epsilon.f, 0.03125);
    }
}

#[test]
fn unsupported_architectures_are_errors_that_name_the_setting() {
    for (key, value, parts) in [
        (
            "model_type",
            serde_json::Value::from("gpt2"),
            &["config.json", "`gpt2`", "bert, roberta, xlm-roberta, distilbert", "model.onnx"][..],
        ),
        ("hidden_act", "mish".into(), &["config.json", "`mish`", "gelu_new"]),
        ("position_embedding_type", "relative_key".into(), &["config.json", "`relative_key`", "absolute"]),
        ("is_decoder", true.into(), &["config.json", "is_decoder"]),
        ("num_attention_heads", 7.into(), &["config.json", "7 attention heads over a width of 48"]),
        ("num_attention_heads", 0.into(), &["config.json", "num_attention_heads = 0"]),
        ("num_hidden_layers", 0.into(), &["config.json", "num_hidden_layers = 0", "1 to"]),
        ("type_vocab_size", 0.into(), &["config.json", "type_vocab_size = 0"]),
        (
            "num_hidden_layers",
            3.into(),
            &["model.safetensors", "no tensor `encoder.layer.2.attention.self.query.weight`", "[48, 48]"],
        ),
        (
            "vocab_size",
            601.into(),
            &["model.safetensors", "`embeddings.word_embeddings.weight`", "[600, 48]", "[601, 48]"],
        ),
        (
            "intermediate_size",
            95.into(),
            &["model.safetensors", "`encoder.layer.0.intermediate.dense.weight`", "[96, 48]", "[95, 48]"],
        ),
        // More than the memory.
        (
            "intermediate_size",
            10_000_000_000_000_u64.into(),
            &["config.json", "intermediate_size = 10000000000000", "1 to"],
        ),
        ("intermediate_size", 0.into(), &["config.json", "intermediate_size = 0"]),
        ("vocab_size", 0.into(), &["config.json", "vocab_size = 0"]),
    ] {
        let folder = Folder::tiny("bert-mean");
        folder.set("config.json", key, value);
        folder.assert_import_error(parts);
    }
    let folder = Folder::tiny("roberta-mean");
    folder.set("config.json", "pad_token_id", serde_json::Value::Null);
    folder.assert_import_error(&["config.json", "pad_token_id"]);
}
