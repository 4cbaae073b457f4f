//! Tests of ready-made graphs, which are written here with the graph builder under other names.

use std::{
    fs::{self, File},
    path::Path,
};

use encoder_spec::{PositionIds, Task};
use prost::Message;

use super::fixture::{Folder, assert_contains, message};
use crate::{
    GraphInput, ModelFolder, OutputKind, Precision,
    graph_builder::GraphBuilder,
    onnx::{
        AttributeProto, DataLocation, DataType, Dimension, FunctionProto, GraphProto, ModelProto, NodeProto,
        SparseTensorProto, StringStringEntryProto, TensorProto, ValueInfoProto,
    },
};

/// Writes a graph of additions with the given inputs and outputs, and a weight of 8 bytes in a file next to it.
fn graph(folder: &Folder, place: &str, inputs: &[&str], outputs: &[(&str, &[i64])]) {
    let path = folder.file(place);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let data_path = path.with_extension("onnx_data");
    let mut data = File::create(&data_path).unwrap();
    let mut progress = |_| {};
    let mut builder = GraphBuilder::new(&mut data, &data_path, &mut progress);
    let weight = builder.weight("weight", &[2], &[1.0, 2.0]).unwrap();
    let varying = || vec![Dimension::named("batch"), Dimension::named("sequence")];
    for input in inputs {
        builder.input(ValueInfoProto::tensor(input, DataType::Int64, varying()));
    }
    for (name, shape) in outputs {
        let sum = builder.op("Add", &[&weight, &weight], vec![]);
        // -1 stands for a dimension of variable size.
        let dimension = |&size: &i64| if size < 0 { Dimension::named("n") } else { Dimension::fixed(size) };
        builder.output(
            &sum,
            ValueInfoProto::tensor(name, DataType::Float, shape.iter().map(dimension).collect()),
        );
    }
    let model = builder.finish(vec![]).unwrap();
    fs::write(path, model.encode_to_vec()).unwrap();
}

/// Changes the graph at `model.onnx`.
fn edit(folder: &Folder, change: impl Fn(&mut GraphProto)) {
    let mut model = crate::onnx_file::read(&folder.file("model.onnx")).unwrap();
    change(model.graph.as_mut().unwrap());
    folder.write("model.onnx", model.encode_to_vec());
}

/// A folder without `model.safetensors`.
fn folder() -> Folder {
    let folder = Folder::tiny("bert-mean");
    folder.remove("model.safetensors");
    folder
}

const TOKENS: (&str, &[i64]) = ("last_hidden_state", &[-1, -1, 48]);
const IDS: &[&str] = &["input_ids", "attention_mask"];

/// A cross-encoder of a family whose head is not read from weights.
fn deberta_cross_encoder() -> Folder {
    let folder = Folder::tiny("deberta-v2-mean");
    // As sentence-transformers saves an embedding model.
    folder.remove("modules.json");
    folder.remove("sentence_bert_config.json");
    folder.set("config.json", "architectures", serde_json::json!(["DebertaV2ForSequenceClassification"]));
    folder.set("config.json", "id2label", serde_json::json!({"0": "LABEL_0"}));
    folder
}

#[test]
fn a_cross_encoder_is_described_by_its_graph_with_logits() {
    for inputs in [IDS, &["input_ids", "attention_mask", "token_type_ids"]] {
        let folder = deberta_cross_encoder();
        folder.assert_import_error(&["a cross-encoder of model_type `deberta-v2`", "needs an ONNX graph"]);
        // Weights lie next to it, whose head cannot be read.
        graph(
            &folder,
            "onnx/model.onnx",
            inputs,
            &[("last_hidden_state", &[-1, -1, 48]), ("logits", &[-1, 1])],
        );
        let opened = folder.open().unwrap();
        assert_eq!((opened.task(), opened.dimensions()), (Task::Rerank, 1));
        let found = folder.import().unwrap();
        assert_eq!(
            (found.output.name.as_str(), found.output.kind),
            ("logits", OutputKind::SentenceEmbedding)
        );
        assert_eq!(found.inputs.len(), inputs.len());
    }
}

#[test]
fn a_cross_encoder_needs_a_graph_with_one_logit() {
    let folder = deberta_cross_encoder();
    graph(&folder, "model.onnx", IDS, &[TOKENS, ("scores", &[-1])]);
    folder.assert_import_error(&["its outputs are `last_hidden_state`, `scores`; one of `logits` is needed"]);
    graph(&folder, "model.onnx", IDS, &[("logits", &[-1, 2])]);
    folder.assert_import_error(&["its output `logits` is float [n, 2]", "2 dimensions, the last of 1"]);
    folder.remove("model.onnx");
    graph(&folder, "onnx/model_a.onnx", IDS, &[("logits", &[-1, 1])]);
    graph(&folder, "onnx/model_b.onnx", IDS, &[("logits", &[-1, 1])]);
    folder.assert_import_error(&["model_type `deberta-v2`", "`onnx/model_a.onnx`, `onnx/model_b.onnx`"]);
}

#[test]
fn both_usual_paths_and_all_three_outputs_are_supported() {
    use OutputKind::{SentenceEmbedding, TokenEmbeddings};
    for place in ["model.onnx", "onnx/model.onnx"] {
        for (name, shape, kind) in [
            ("last_hidden_state", &[-1, -1, 48][..], TokenEmbeddings),
            ("token_embeddings", &[-1, -1, 48], TokenEmbeddings),
            ("sentence_embedding", &[-1, 48], SentenceEmbedding),
            ("sentence_embedding", &[-1, -1], SentenceEmbedding),
        ] {
            let folder = folder();
            graph(
                &folder,
                place,
                &["input_ids", "attention_mask", "token_type_ids"],
                &[("other", &[-1]), (name, shape)],
            );
            let before = folder.content();
            let found = folder.import().unwrap();
            folder.remove("embedgate.fingerprint");
            assert!(folder.content() == before, "nothing but the digest is written");
            assert_eq!(found.path, folder.file(place));
            use GraphInput::{AttentionMask, InputIds, TokenTypeIds};
            assert_eq!(found.inputs, [InputIds, AttentionMask, TokenTypeIds]);
            assert_eq!((&found.output.name[..], found.output.kind), (name, kind));
            assert_eq!(found.fingerprint.len(), 64);
        }
    }
}

#[test]
fn the_precision_is_the_type_of_most_weights() {
    let folder = folder();
    graph(&folder, "model.onnx", IDS, &[TOKENS]);
    assert_eq!(folder.import().unwrap().precision, Precision::Fp32);
    for (element, precision) in [
        (DataType::Float16, Precision::Fp16),
        (DataType::Bfloat16, Precision::Bf16),
        (DataType::Uint8, Precision::Int8),
        (DataType::Double, Precision::Other),
    ] {
        let mut large = TensorProto { name: "large".to_owned(), dims: vec![8, 48], ..TensorProto::default() };
        large.set_data_type(element);
        edit(&folder, |graph| {
            graph.initializer.retain(|tensor| tensor.name != "large");
            graph.initializer.push(large.clone());
        });
        assert_eq!(folder.import().unwrap().precision, precision, "{element:?}");
    }
}

#[test]
fn a_sentence_embedding_is_preferred_to_token_embeddings() {
    let folder = folder();
    graph(&folder, "model.onnx", IDS, &[TOKENS, ("sentence_embedding", &[-1, 48])]);
    assert_eq!(folder.import().unwrap().output.kind, OutputKind::SentenceEmbedding);
}

#[test]
fn a_graph_that_pools_cannot_leave_out_the_prompt() {
    let folder = folder();
    folder.set("1_Pooling/config.json", "include_prompt", false);
    graph(&folder, "model.onnx", IDS, &[TOKENS, ("sentence_embedding", &[-1, 48])]);
    assert_eq!(folder.import().unwrap().output.kind, OutputKind::TokenEmbeddings);
    folder.remove("embedgate.fingerprint");
    graph(&folder, "model.onnx", IDS, &[("sentence_embedding", &[-1, 48])]);
    folder.assert_import_error(&["model.onnx", "`last_hidden_state` is needed", "`include_prompt`"]);
}

#[test]
fn weights_of_a_supported_family_are_preferred_to_a_ready_made_graph() {
    let folder = Folder::tiny("bert-mean");
    graph(&folder, "onnx/model.onnx", IDS, &[TOKENS]);
    assert_eq!(folder.import().unwrap().path, folder.file("embedgate.onnx"));
    // For another family, only the graph can be used.
    folder.set("config.json", "model_type", "xlnet");
    let opened = folder.open().unwrap();
    assert_eq!((opened.family(), opened.max_input_tokens(), opened.hidden()), ("xlnet", 64, 48));
    assert_eq!(folder.import().unwrap().path, folder.file("onnx/model.onnx"));
}

#[test]
fn unsupported_outputs_and_inputs_are_errors_that_name_them() {
    let folder = folder();
    graph(&folder, "model.onnx", IDS, &[("logits", &[-1, 2]), ("states", &[-1, -1, 48])]);
    folder.assert_import_error(&[
        "model.onnx",
        "`logits`, `states`",
        "`sentence_embedding`, `token_embeddings`",
    ]);
    graph(&folder, "model.onnx", &["input_ids", "past_key_values.0.key"], &[TOKENS]);
    folder.assert_import_error(&[
        "model.onnx",
        "its input `past_key_values.0.key` is int64 [batch, sequence], which cannot be provided",
        "`token_type_ids` and `position_ids`, each int64 or int32 [batch, sequence]",
    ]);
    graph(&folder, "model.onnx", &["attention_mask"], &[TOKENS]);
    folder.assert_import_error(&["model.onnx", "no input `input_ids`"]);
    graph(&folder, "model.onnx", IDS, &[("last_hidden_state", &[-1, -1, 47])]);
    folder.assert_import_error(&[
        "model.onnx",
        "`last_hidden_state` is float [n, n, 47], expected float, float16",
        "the last of 48",
    ]);
    graph(&folder, "model.onnx", IDS, &[("last_hidden_state", &[-1, 48])]);
    folder.assert_import_error(&["model.onnx", "3 dimensions"]);
}

fn set_element(value: &mut ValueInfoProto, element: DataType) {
    value.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().set_elem_type(element);
}

#[test]
fn int32_inputs_and_half_precision_outputs_are_supported() {
    let folder = folder();
    graph(&folder, "model.onnx", IDS, &[TOKENS]);
    edit(&folder, |graph| graph.input.iter_mut().for_each(|input| set_element(input, DataType::Int32)));
    assert_eq!(folder.import().unwrap().inputs, [GraphInput::InputIds, GraphInput::AttentionMask]);
    for element in [DataType::Float16, DataType::Bfloat16] {
        edit(&folder, |graph| set_element(&mut graph.output[0], element));
        assert_eq!(folder.import().unwrap().output.kind, OutputKind::TokenEmbeddings);
    }
    edit(&folder, |graph| set_element(&mut graph.output[0], DataType::Double));
    folder.assert_import_error(&[
        "`last_hidden_state` is double [n, n, 48], expected float, float16 or bfloat16",
    ]);
    edit(&folder, |graph| set_element(&mut graph.input[1], DataType::Float));
    folder.assert_import_error(&["`attention_mask` is float [batch, sequence], which cannot be provided"]);
    edit(&folder, |graph| graph.input[1].r#type = None);
    folder.assert_import_error(&["`attention_mask` is of an unknown type, which cannot be provided"]);
}

#[test]
fn positions_are_counted_as_the_family_counts_them() {
    let inputs = |name, model_type: &str, padding: serde_json::Value| {
        let folder = Folder::tiny(name);
        folder.remove("model.safetensors");
        folder.set("config.json", "model_type", model_type);
        folder.set("config.json", "pad_token_id", padding);
        graph(&folder, "model.onnx", &["input_ids", "position_ids"], &[TOKENS]);
        folder
    };
    for (name, model_type, positions) in [
        ("bert-mean", "bert", PositionIds::FromZero),
        ("bert-mean", "qwen3", PositionIds::FromZero),
        ("roberta-mean", "roberta", PositionIds::AfterPadding(1)),
        ("xlm-roberta-mean", "xlm-roberta", PositionIds::AfterPadding(1)),
        ("roberta-mean", "camembert", PositionIds::AfterPadding(1)),
    ] {
        let graph = inputs(name, model_type, 1.into()).import().unwrap();
        assert_eq!(graph.inputs[1], GraphInput::PositionIds(positions), "{model_type}");
    }
    let folder = inputs("roberta-mean", "camembert", serde_json::Value::Null);
    folder.assert_import_error(&["model.onnx", "`position_ids`", "`config.json` states no `pad_token_id`"]);
}

#[test]
fn onnx_file_chooses_one_of_several_graphs() {
    let folder = Folder::tiny("bert-mean");
    graph(&folder, "onnx/model.onnx", IDS, &[TOKENS]);
    graph(&folder, "onnx/model_fp16.onnx", IDS, &[TOKENS]);
    let path = |onnx_file: Option<&str>| {
        let folder = ModelFolder::open_with_graph(folder.path(), onnx_file.map(Path::new))?;
        let graph = crate::import(&folder, &mut |_| {})?;
        Ok::<_, crate::ImportError>((graph.path, graph.fingerprint))
    };
    let (default, own) = path(None).unwrap();
    assert_eq!(default, folder.file("embedgate.onnx"), "weights go first");
    let (chosen, first) = path(Some("onnx/model.onnx")).unwrap();
    assert_eq!(chosen, folder.file("onnx/model.onnx"), "the setting goes before weights");
    let (chosen, second) = path(Some("onnx/model_fp16.onnx")).unwrap();
    assert_eq!(chosen, folder.file("onnx/model_fp16.onnx"));
    assert!(own != first && first != second, "each graph has its own fingerprint");

    assert_contains(
        &message(&path(Some("onnx/model_int8.onnx")).unwrap_err()),
        &["onnx/model_int8.onnx` is missing", "`onnx_file`", "`onnx/model.onnx`, `onnx/model_fp16.onnx`"],
    );
    for outside in ["../model.onnx", "/etc/passwd", "onnx/../../model.onnx"] {
        assert_contains(
            &message(&path(Some(outside)).unwrap_err()),
            &[outside, "must stay inside the model folder"],
        );
    }
}

#[test]
fn graphs_under_unusual_names_are_listed_in_the_error() {
    let folder = folder();
    for place in ["onnx/model_quantized.onnx", "onnx/model_fp16.onnx", "model_O4.onnx"] {
        graph(&folder, place, IDS, &[TOKENS]);
    }
    let listed = "holds `model_O4.onnx`, `onnx/model_fp16.onnx`, `onnx/model_quantized.onnx`: name the one to use in \
                  the setting `onnx_file`";
    folder.assert_import_error(&["it holds no weights (`model.safetensors`)", listed]);
    folder.set("config.json", "model_type", "xlnet");
    folder.assert_import_error(&["no exporter for its model_type `xlnet`", listed]);
    for number in 0..12 {
        folder.write(&format!("onnx/more_{number:02}.onnx"), "");
    }
    folder.assert_import_error(&["`onnx/more_06.onnx` and 5 more: name"]);
    // Weights of a supported family need no graph.
    assert!(Folder::tiny("bert-mean").import().is_ok());
}

#[test]
fn missing_or_truncated_external_data_is_an_error() {
    let folder = folder();
    graph(&folder, "onnx/model.onnx", IDS, &[TOKENS]);
    let data = folder.file("onnx/model.onnx_data");
    fs::write(&data, [0; 7]).unwrap();
    folder.assert_import_error(&[
        "onnx/model.onnx`",
        "tensor `weight`",
        "8 bytes",
        "onnx/model.onnx_data",
        "has 7",
    ]);
    fs::remove_file(&data).unwrap();
    folder.assert_import_error(&["tensor `weight`", "onnx/model.onnx_data", "not been found"]);
}

#[test]
fn external_data_changes_the_fingerprint() {
    let folder = folder();
    graph(&folder, "model.onnx", IDS, &[TOKENS]);
    let before = folder.import().unwrap().fingerprint;
    fs::write(folder.file("model.onnx_data"), [9; 8]).unwrap();
    assert_ne!(folder.import().unwrap().fingerprint, before);
}

#[test]
fn external_data_outside_the_folder_is_an_error() {
    let folder = folder();
    graph(&folder, "model.onnx", IDS, &[TOKENS]);
    let set = |key: &str, value: &str| {
        edit(&folder, |graph| {
            let mut entries = graph.initializer[0].external_data.iter_mut();
            value.clone_into(&mut entries.find(|entry| entry.key == key).unwrap().value);
        });
    };
    set("location", "../../etc/passwd");
    folder.assert_import_error(&["model.onnx", "../../etc/passwd", "inside"]);
    set("location", "model.onnx_data");
    set("offset", "-1");
    folder.assert_import_error(&["tensor `weight`", "unreadable offset"]);
    set("offset", &u64::MAX.to_string());
    folder.assert_import_error(&["tensor `weight`", "beyond any file"]);
}

/// Weights need not be initializers of the main graph.
#[test]
fn external_data_of_nested_constants_is_checked() {
    let folder = folder();
    graph(&folder, "model.onnx", IDS, &[TOKENS]);
    let valid = crate::onnx_file::read(&folder.file("model.onnx")).unwrap();
    let outside = TensorProto {
        name: "hidden".to_owned(),
        external_data: vec![StringStringEntryProto::new("location", "../elsewhere")],
        data_location: DataLocation::External.into(),
        ..TensorProto::default()
    };
    let node = NodeProto {
        attribute: vec![AttributeProto { t: Some(outside.clone()), ..AttributeProto::default() }],
        ..NodeProto::default()
    };
    let check = |hide: &dyn Fn(&mut ModelProto)| {
        let mut model = valid.clone();
        hide(&mut model);
        folder.write("model.onnx", model.encode_to_vec());
        folder.assert_import_error(&["model.onnx", "../elsewhere", "inside"]);
    };
    check(&|model| model.graph.as_mut().unwrap().node.push(node.clone()));
    check(&|model| {
        let graph = GraphProto { initializer: vec![outside.clone()], ..GraphProto::default() };
        let attribute = AttributeProto { g: Some(Box::new(graph)), ..AttributeProto::default() };
        model.graph.as_mut().unwrap().node[0].attribute.push(attribute);
    });
    check(&|model| model.functions.push(FunctionProto { node: vec![node.clone()] }));
}

#[test]
fn a_file_without_a_graph_is_an_error() {
    let folder = folder();
    folder.write("model.onnx", [0xff; 64]);
    folder.assert_import_error(&["`model.onnx` is not an ONNX file"]);
    folder.write("model.onnx", "");
    folder.assert_import_error(&["model.onnx", "no graph"]);
}

#[test]
fn a_weight_that_is_not_finite_is_an_error_at_any_place() {
    let folder = folder();
    graph(&folder, "onnx/model.onnx", IDS, &[TOKENS]);
    let valid = crate::onnx_file::read(&folder.file("onnx/model.onnx")).unwrap();
    let nan = f32::NAN.to_le_bytes();
    fs::write(folder.file("onnx/model.onnx_data"), [1.0f32.to_le_bytes(), nan].concat()).unwrap();
    folder.assert_import_error(&["onnx/model.onnx_data`", "tensor `weight` holds NaN at [1]"]);
    // Without a length, the size of a tensor follows from its shape.
    let mut model = valid.clone();
    model.graph.as_mut().unwrap().initializer[0].external_data.retain(|entry| entry.key != "length");
    folder.write("onnx/model.onnx", model.encode_to_vec());
    folder.assert_import_error(&["onnx/model.onnx_data`", "tensor `weight` holds NaN at [1]"]);
    fs::write(folder.file("onnx/model.onnx_data"), [0; 8]).unwrap();

    let tensor = |element: DataType| {
        let mut tensor =
            TensorProto { name: "inside".to_owned(), dims: vec![2, 1], ..TensorProto::default() };
        tensor.set_data_type(element);
        tensor
    };
    let float = || tensor(DataType::Float);
    let raw = |element, bytes: &[u8]| TensorProto { raw_data: bytes.to_vec().into(), ..tensor(element) };
    let (one_f16, nan_f16, infinity_bf16) = (0x3c00, 0x7e00, 0x7f80);
    for (bad, value) in [
        (raw(DataType::Float, &[1.0f32.to_le_bytes(), nan].concat()), "NaN"),
        (raw(DataType::Float16, &[0x00, 0x3c, 0x00, 0xfc]), "-inf"),
        (raw(DataType::Bfloat16, &[0x80, 0x3f, 0xc0, 0x7f]), "NaN"),
        (raw(DataType::Double, &[1.0f64, f64::INFINITY].map(f64::to_le_bytes).concat()), "inf"),
        (TensorProto { double_data: vec![1.0, 1e300], ..tensor(DataType::Double) }, "1e300"),
        (TensorProto { float_data: vec![1.0, f32::INFINITY], ..float() }, "inf"),
        (TensorProto { double_data: vec![1.0, f64::NAN], ..tensor(DataType::Double) }, "NaN"),
        (TensorProto { int32_data: vec![one_f16, nan_f16], ..tensor(DataType::Float16) }, "NaN"),
        (TensorProto { int32_data: vec![0, infinity_bf16], ..tensor(DataType::Bfloat16) }, "inf"),
    ] {
        let expected = ["onnx/model.onnx`", &format!("`inside` holds {value} at [1, 0]")];
        let check = |change: &dyn Fn(&mut ModelProto)| {
            let mut model = valid.clone();
            change(&mut model);
            folder.write("onnx/model.onnx", model.encode_to_vec());
            folder.assert_import_error(&expected);
        };
        check(&|model| model.graph.as_mut().unwrap().initializer.push(bad.clone()));
        check(&|model| {
            let attribute = AttributeProto { t: Some(bad.clone()), ..AttributeProto::default() };
            model.graph.as_mut().unwrap().node[0].attribute.push(attribute);
        });
        check(&|model| {
            let sparse = SparseTensorProto { values: Some(bad.clone()), indices: None };
            model.graph.as_mut().unwrap().sparse_initializer.push(sparse);
        });
    }
    // A mask that is added to attention scores may hold −∞.
    for (mask, fine) in [
        (vec![0.0, f32::NEG_INFINITY], true),
        (vec![f32::NEG_INFINITY; 2], true),
        (vec![f32::NEG_INFINITY, 0.5], false),
        (vec![0.0, f32::NAN], false),
    ] {
        let mut model = valid.clone();
        model.graph.as_mut().unwrap().initializer.push(TensorProto { float_data: mask, ..float() });
        folder.write("onnx/model.onnx", model.encode_to_vec());
        assert_eq!(folder.import().is_ok(), fine);
    }
    let mut model = valid;
    let mask = TensorProto { double_data: vec![0.0, f64::MIN], ..tensor(DataType::Double) };
    model.graph.as_mut().unwrap().initializer.push(mask);
    folder.write("onnx/model.onnx", model.encode_to_vec());
    assert!(folder.import().is_ok());
}

#[test]
fn the_vocabulary_size_is_read_from_the_graph() {
    let folder = folder();
    graph(&folder, "model.onnx", IDS, &[TOKENS]);
    assert_eq!(folder.open().unwrap().vocab_size(), Some(600), "as the configuration says");
    let model = crate::onnx_file::read(&folder.file("model.onnx")).unwrap();
    let node = |operator: &str, input: &[&str], output: &str| NodeProto {
        op_type: operator.to_owned(),
        input: input.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    };
    let mut table = TensorProto { name: "table".to_owned(), dims: vec![500, 48], ..TensorProto::default() };
    table.set_data_type(DataType::Float);
    let value = AttributeProto { t: Some(table.clone()), ..AttributeProto::default() };
    let constant = NodeProto { attribute: vec![value], ..node("Constant", &[], "made") };
    let lookup = node("Gather", &["table", "input_ids"], "words");
    let cast = node("Cast", &["input_ids"], "ids");
    let known: [&[NodeProto]; 8] = [
        std::slice::from_ref(&lookup),
        &[cast.clone(), node("Gather", &["table", "ids"], "words")],
        &[cast.clone(), node("Identity", &["ids"], "same"), node("Gather", &["table", "same"], "words")],
        &[node("Reshape", &["input_ids", "shape"], "flat"), node("Gather", &["table", "flat"], "words")],
        &[
            node("DequantizeLinear", &["table", "scale"], "floats"),
            node("Gather", &["floats", "input_ids"], "words"),
        ],
        &[constant, node("Gather", &["made", "input_ids"], "words")],
        &[cast.clone(), node("EmbedLayerNormalization", &["ids", "", "table", "positions"], "words")],
        &[node("Gather", &["positions", "input_ids"], "other"), lookup.clone()],
    ];
    let unknown: [&[NodeProto]; 2] = [
        &[cast, node("Gather", &["table", "token_type_ids"], "words")],
        &[node("Shape", &["input_ids"], "ids"), node("Gather", &["table", "ids"], "words")],
    ];
    let expected = known.map(|nodes| (nodes, 500)).into_iter().chain(unknown.map(|nodes| (nodes, 600)));
    for (nodes, rows) in expected {
        let mut model = model.clone();
        let graph = model.graph.as_mut().unwrap();
        graph.node.extend(nodes.iter().cloned());
        let positions = TensorProto { name: "positions".to_owned(), dims: vec![512, 48], ..table.clone() };
        graph.initializer.extend([table.clone(), positions]);
        folder.write("model.onnx", model.encode_to_vec());
        assert_eq!(folder.open().unwrap().vocab_size(), Some(rows), "{nodes:?}");
    }
}
