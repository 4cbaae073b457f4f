//! Detection of operators that quantize activations with a scale computed at run time.
//!
//! Dynamic quantization derives one scale from the minimum and maximum of a whole tensor, that is, from all texts of a
//! batch and their padding. A text's vector then depends on the other texts of its batch. A scale that is a constant of
//! the graph (static quantization) has no such effect. Neither has `MatMulNBits`, whose activations are quantized in
//! blocks of a row even at `accuracy_level` 4.
//!
//! A false positive costs speed, a false negative yields wrong vectors. The parameters of functions therefore count as
//! computed at run time.

use std::collections::{BTreeSet, HashSet};

use crate::onnx::{GraphProto, ModelProto, NodeProto};

/// Operators that multiply integers. Earlier nodes decide how these were quantized.
const INTEGER_PRODUCTS: &[&str] = &["MatMulInteger", "ConvInteger", "MatMulIntegerToFloat"];

/// Operators that only move values.
const LAYOUT: &[&str] = &[
    "Identity",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Slice",
    "Split",
    "Gather",
    "Expand",
];

/// Returns the operators of `model` that quantize with a scale computed at run time, each name once. If there are none,
/// no quantization in the graph makes a text's vector depend on its batch.
pub(crate) fn operators(model: &ModelProto) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if let Some(graph) = &model.graph {
        Scope::default().graph(graph, &mut found);
    }
    for function in &model.functions {
        Scope::default().nodes(&function.node, &mut found);
    }
    found
}

/// Facts about the values that a node can read: those of its graph and of the enclosing graphs.
#[derive(Default)]
struct Scope<'m, 'p> {
    outer: Option<&'p Scope<'m, 'p>>,
    /// Values that do not depend on the graph's inputs.
    constant: HashSet<&'m str>,
    /// Integers from a quantizing operator. That operator's scale has been checked already.
    quantized: HashSet<&'m str>,
}

impl<'m> Scope<'m, '_> {
    fn graph(&mut self, graph: &'m GraphProto, found: &mut BTreeSet<String>) {
        self.constant.extend(graph.initializer.iter().map(|tensor| tensor.name.as_str()));
        self.nodes(&graph.node, found);
    }

    fn nodes(&mut self, nodes: &'m [NodeProto], found: &mut BTreeSet<String>) {
        for node in nodes {
            if self.computes_scale(node) {
                found.insert(node.op_type.clone());
            }
            let mut is_constant = node.input.iter().all(|input| self.is_constant(input));
            for attribute in &node.attribute {
                for graph in attribute.g.as_deref().into_iter().chain(&attribute.graphs) {
                    is_constant = false;
                    let mut inner = Scope { outer: Some(&*self), ..Scope::default() };
                    inner.graph(graph, found);
                }
            }
            let outputs = node.output.iter().map(String::as_str);
            if is_constant {
                self.constant.extend(outputs);
            } else if self.makes_quantized(node) {
                self.quantized.extend(outputs);
            }
        }
    }

    fn computes_scale(&self, node: &NodeProto) -> bool {
        let operator = node.op_type.as_str();
        if operator.starts_with("DynamicQuantize") {
            return true;
        }
        let is_data = |position: usize| match operator {
            // Scale and zero point of the output, then triples of data, scale and zero point.
            "QLinearConcat" => position >= 2 && (position - 2).is_multiple_of(3),
            _ => data_inputs(operator).is_some_and(|data| data.contains(&position)),
        };
        if operator != "QLinearConcat" && data_inputs(operator).is_none() {
            // The scales of an unknown operator on quantized values cannot be told from its data inputs.
            return operator.starts_with("QLinear") || operator.starts_with("QOrdered");
        }
        let is_product = INTEGER_PRODUCTS.contains(&operator);
        node.input.iter().enumerate().any(|(position, input)| match is_data(position) {
            false => !self.is_constant(input),
            true => is_product && position < 2 && !self.is_constant(input) && !self.is_quantized(input),
        })
    }

    fn makes_quantized(&self, node: &NodeProto) -> bool {
        let operator = node.op_type.as_str();
        operator == "QuantizeLinear"
            || operator.starts_with("QLinear")
            || LAYOUT.contains(&operator) && node.input.first().is_some_and(|input| self.is_quantized(input))
    }

    /// An omitted input has an empty name and counts as constant.
    fn is_constant(&self, name: &str) -> bool {
        name.is_empty()
            || self.constant.contains(name)
            || self.outer.is_some_and(|outer| outer.is_constant(name))
    }

    fn is_quantized(&self, name: &str) -> bool {
        self.quantized.contains(name) || self.outer.is_some_and(|outer| outer.is_quantized(name))
    }
}

/// Positions of the data inputs of an operator on quantized values. The other inputs are scales and zero points.
fn data_inputs(operator: &str) -> Option<&'static [usize]> {
    let positions: &[usize] = match operator {
        "QuantizeLinear" | "DequantizeLinear" => &[0],
        "MatMulInteger" | "ConvInteger" => &[0, 1],
        "QLinearMatMul" => &[0, 3],
        "QLinearConv" => &[0, 3, 8],
        // ONNX Runtime's own (com.microsoft).
        "QLinearSigmoid" | "QLinearLeakyRelu" | "QLinearSoftmax" | "QLinearReduceMean" => &[0],
        "QLinearAveragePool" | "QLinearGlobalAveragePool" => &[0],
        "QLinearAdd" | "QLinearMul" => &[0, 3],
        "QLinearWhere" => &[0, 1, 4],
        "MatMulIntegerToFloat" => &[0, 1, 6],
        "QAttention" => &[0, 1, 2, 5, 8],
        "QGemm" => &[0, 3, 6],
        _ => return None,
    };
    Some(positions)
}
