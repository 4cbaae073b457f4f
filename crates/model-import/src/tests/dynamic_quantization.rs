//! Tests of the detection of dynamically quantized graphs, in which a text's vector depends on its batch.

use std::{fs, path::Path};

use prost::Message;

use super::fixture::Folder;
use crate::{
    Precision, dynamic_quantization,
    onnx::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto},
    onnx_file,
};

fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    NodeProto {
        op_type: operator.to_owned(),
        input: names(inputs),
        output: names(outputs),
        ..NodeProto::default()
    }
}

/// A graph with the constants `weight`, `scale` and `zero`. Other names that no node defines are inputs.
fn graph(nodes: Vec<NodeProto>) -> GraphProto {
    let tensor = |name: &str| TensorProto { name: name.to_owned(), ..TensorProto::default() };
    GraphProto {
        node: nodes,
        initializer: ["weight", "scale", "zero"].map(tensor).into(),
        ..GraphProto::default()
    }
}

fn found(model: &ModelProto) -> Vec<String> {
    dynamic_quantization::operators(model).into_iter().collect()
}

#[track_caller]
fn check(nodes: Vec<NodeProto>, expected: &[&str]) {
    assert_eq!(found(&ModelProto { graph: Some(graph(nodes)), ..ModelProto::default() }), expected);
}

fn dynamic() -> Vec<NodeProto> {
    vec![
        node("DynamicQuantizeLinear", &["x"], &["q", "q_scale", "q_zero"]),
        node("MatMulInteger", &["q", "weight", "q_zero", "zero"], &["y"]),
    ]
}

#[test]
fn dynamic_quantize_operators_are_found() {
    check(dynamic(), &["DynamicQuantizeLinear", "MatMulInteger"]);
    check(vec![node("DynamicQuantizeMatMul", &["x", "weight", "scale"], &["y"])], &["DynamicQuantizeMatMul"]);
    check(vec![node("DynamicQuantizeLSTM", &["x", "weight"], &["y"])], &["DynamicQuantizeLSTM"]);
}

#[test]
fn a_scale_from_a_reduction_is_found_at_every_consumer() {
    let reduced = || vec![node("Abs", &["x"], &["a"]), node("ReduceMax", &["a"], &["computed"])];
    for reader in [
        node("QuantizeLinear", &["x", "computed", "zero"], &["q"]),
        node("DequantizeLinear", &["q", "computed"], &["y"]),
        node("QLinearMatMul", &["q", "computed", "zero", "weight", "scale", "zero", "scale", "zero"], &["y"]),
        node("QLinearConv", &["q", "scale", "zero", "weight", "scale", "zero", "computed", "zero"], &["y"]),
        node("QLinearConcat", &["scale", "zero", "q", "scale", "zero", "p", "computed", "zero"], &["y"]),
        node("QLinearAdd", &["q", "scale", "zero", "p", "scale", "computed", "scale", "zero"], &["y"]),
        node("QAttention", &["q", "weight", "weight", "computed", "scale"], &["y"]),
        node("QGemm", &["q", "computed", "zero", "weight", "scale", "zero"], &["y"]),
        node("MatMulIntegerToFloat", &["weight", "weight", "computed", "scale"], &["y"]),
    ] {
        let operator = reader.op_type.clone();
        check([reduced(), vec![reader]].concat(), &[&operator]);
    }
}

/// `Div`, `Round` and `Cast` instead of `QuantizeLinear`: only the integer product shows the quantization.
#[test]
fn integers_of_unknown_origin_are_found_at_their_product() {
    let by_hand = vec![
        node("Div", &["x", "computed"], &["d"]),
        node("Cast", &["d"], &["q"]),
        node("MatMulInteger", &["q", "weight"], &["y"]),
    ];
    check(by_hand, &["MatMulInteger"]);
    check(vec![node("ConvInteger", &["x", "weight"], &["y"])], &["ConvInteger"]);
    check(vec![node("QLinearUnheardOf", &["x", "scale"], &["y"])], &["QLinearUnheardOf"]);
}

#[test]
fn constant_scales_are_not_reported() {
    let mut nodes = vec![
        node("Constant", &[], &["half"]),
        node("Mul", &["scale", "half"], &["folded"]),
        node("QuantizeLinear", &["x", "folded", "zero"], &["q"]),
        node("Transpose", &["q"], &["turned"]),
        node("MatMulInteger", &["turned", "weight", "zero", ""], &["y"]),
        node("DequantizeLinear", &["y", "scale"], &["z"]),
        node("QLinearMatMul", &["q", "scale", "zero", "weight", "scale", "zero", "scale", "zero"], &["m"]),
        node("QLinearConcat", &["scale", "zero", "q", "scale", "zero", "m", "scale", "zero"], &["c"]),
        node("QAttention", &["c", "weight", "weight", "scale", "scale", "mask", "zero", "zero"], &["a"]),
        // Only weights are quantized, or activations in blocks of a row.
        node("DequantizeLinear", &["weight", "scale", "zero"], &["w"]),
        node("MatMulNBits", &["x", "weight", "scale"], &["n"]),
        node("ReduceMax", &["x"], &["largest"]),
    ];
    check(nodes.clone(), &[]);
    nodes.extend(dynamic());
    check(nodes, &["DynamicQuantizeLinear", "MatMulInteger"]);
}

#[test]
fn subgraphs_and_functions_are_searched() {
    let branch = |nodes| AttributeProto { g: Some(Box::new(graph(nodes))), ..AttributeProto::default() };
    let choice = |nodes| NodeProto { attribute: vec![branch(nodes)], ..node("If", &["condition"], &["y"]) };
    check(vec![choice(vec![choice(dynamic())])], &["DynamicQuantizeLinear", "MatMulInteger"]);
    // A branch reads the values of the enclosing graph.
    let outside = vec![
        node("QuantizeLinear", &["x", "scale"], &["q"]),
        choice(vec![node("MatMulInteger", &["q", "weight"], &["y"])]),
    ];
    check(outside, &[]);
    let bodies = NodeProto {
        attribute: vec![AttributeProto { graphs: vec![graph(dynamic())], ..AttributeProto::default() }],
        ..node("Loop", &[], &["y"])
    };
    check(vec![bodies], &["DynamicQuantizeLinear", "MatMulInteger"]);

    let function = |nodes| ModelProto {
        graph: Some(graph(vec![])),
        functions: vec![FunctionProto { node: nodes }],
        ..ModelProto::default()
    };
    assert_eq!(found(&function(dynamic())), ["DynamicQuantizeLinear", "MatMulInteger"]);
    assert_eq!(found(&function(vec![node("MatMul", &["a", "b"], &["c"])])), [""; 0]);
}

/// The graph is a tiny BERT quantized with ONNX Runtime's `quantize_dynamic`.
#[test]
fn a_graph_from_quantize_dynamic_is_recognized() {
    let folder = Folder::tiny("bert-mean");
    assert!(folder.import().unwrap().dynamic_quantization.is_empty());
    let graphs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/graphs");
    folder.write("onnx/model.onnx", fs::read(graphs.join("bert-mean_dynamic.onnx")).unwrap());
    folder.remove("model.safetensors");
    let graph = folder.import().unwrap();
    assert_eq!(graph.dynamic_quantization, ["DynamicQuantizeLinear", "MatMulInteger"]);
    assert_eq!(graph.precision, Precision::Int8);
    // Without these operators the graph is not dynamically quantized.
    let mut model = onnx_file::read(&graph.path).unwrap();
    model.graph.as_mut().unwrap().node.retain(|node| !graph.dynamic_quantization.contains(&node.op_type));
    folder.write("onnx/model.onnx", model.encode_to_vec());
    assert!(folder.import().unwrap().dynamic_quantization.is_empty());
}
