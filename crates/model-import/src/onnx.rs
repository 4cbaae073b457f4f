//! The protobuf messages of an ONNX file, as far as they are written or inspected here.
//!
//! Declared by hand from the public `onnx.proto3`, tag for tag, so that building needs no protobuf compiler.
//! Fields left out are skipped when decoding. Weights inside a file are decoded without a copy: they are slices of the
//! buffer that the file was decoded from.

use std::{borrow::Cow, fmt};

use prost::{Enumeration, Message, bytes::Bytes};

use crate::element::Element;

/// A file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Model {
    #[prost(int64, tag = "1")]
    pub(crate) ir_version: i64,
    #[prost(string, tag = "2")]
    pub(crate) producer_name: String,
    #[prost(string, tag = "3")]
    pub(crate) producer_version: String,
    #[prost(message, optional, tag = "7")]
    pub(crate) graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) opset_import: Vec<OperatorSet>,
    #[prost(message, repeated, tag = "14")]
    pub(crate) metadata_props: Vec<Entry>,
    #[prost(message, repeated, tag = "25")]
    pub(crate) functions: Vec<Function>,
}

impl Model {
    /// Every constant, wherever it stands: of the graph, of its operators, and of graphs and functions within.
    pub(crate) fn constants(&self) -> impl Iterator<Item = &Tensor> {
        let mut found = Vec::new();
        let mut graphs: Vec<&Graph> = self.graph.iter().collect();
        let mut nodes: Vec<&Node> = self.functions.iter().flat_map(|function| &function.node).collect();
        loop {
            if let Some(node) = nodes.pop() {
                for attribute in &node.attribute {
                    found.extend(attribute.t.iter().chain(&attribute.tensors));
                    let sparse = attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors);
                    found.extend(sparse.flat_map(SparseTensor::parts));
                    graphs.extend(attribute.g.as_deref().into_iter().chain(&attribute.graphs));
                }
            } else if let Some(graph) = graphs.pop() {
                found.extend(&graph.initializer);
                found.extend(graph.sparse_initializer.iter().flat_map(SparseTensor::parts));
                nodes.extend(&graph.node);
            } else {
                return found.into_iter();
            }
        }
    }
}

/// Operators of the model's own, made of others.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Function {
    #[prost(message, repeated, tag = "7")]
    pub(crate) node: Vec<Node>,
}

/// Which version of an operator domain the graph was written against.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorSet {
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(int64, tag = "2")]
    pub(crate) version: i64,
}

/// A key and a value.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Entry {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

impl Entry {
    pub(crate) fn new(key: &str, value: impl Into<String>) -> Self {
        Self { key: key.to_owned(), value: value.into() }
    }

    /// The value under `key`, if it is there.
    pub(crate) fn find<'a>(entries: &'a [Self], key: &str) -> Option<&'a str> {
        entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }
}

/// Nodes in execution order, with their constants.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub(crate) node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) input: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) output: Vec<Value>,
    #[prost(message, repeated, tag = "15")]
    pub(crate) sparse_initializer: Vec<SparseTensor>,
}

/// One operator.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(crate) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(string, tag = "4")]
    pub(crate) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) attribute: Vec<Attribute>,
}

/// A setting of an operator.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Attribute {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(float, tag = "2")]
    pub(crate) f: f32,
    #[prost(int64, tag = "3")]
    pub(crate) i: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) s: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub(crate) t: Option<Tensor>,
    #[prost(message, optional, boxed, tag = "6")]
    pub(crate) g: Option<Box<Graph>>,
    #[prost(int64, repeated, tag = "8")]
    pub(crate) ints: Vec<i64>,
    #[prost(message, repeated, tag = "10")]
    pub(crate) tensors: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) graphs: Vec<Graph>,
    #[prost(enumeration = "AttributeKind", tag = "20")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "22")]
    pub(crate) sparse_tensor: Option<SparseTensor>,
    #[prost(message, repeated, tag = "23")]
    pub(crate) sparse_tensors: Vec<SparseTensor>,
}

/// Which field of an [`Attribute`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum AttributeKind {
    Undefined = 0,
    Float = 1,
    Int = 2,
    String = 3,
    Ints = 7,
}

impl Attribute {
    pub(crate) fn float(name: &str, f: f32) -> Self {
        Self { name: name.to_owned(), f, kind: AttributeKind::Float.into(), ..Self::default() }
    }

    pub(crate) fn int(name: &str, i: i64) -> Self {
        Self { name: name.to_owned(), i, kind: AttributeKind::Int.into(), ..Self::default() }
    }

    pub(crate) fn ints(name: &str, ints: &[i64]) -> Self {
        Self {
            name: name.to_owned(),
            ints: ints.to_vec(),
            kind: AttributeKind::Ints.into(),
            ..Self::default()
        }
    }

    pub(crate) fn string(name: &str, s: &str) -> Self {
        Self {
            name: name.to_owned(),
            s: s.as_bytes().to_vec(),
            kind: AttributeKind::String.into(),
            ..Self::default()
        }
    }
}

/// A constant: small ones inline, weights by reference into another file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    pub(crate) dims: Vec<i64>,
    #[prost(enumeration = "ElementType", tag = "2")]
    pub(crate) data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub(crate) float_data: Vec<f32>,
    /// Elements of the smaller types, the 16-bit floats among them, one to a number.
    #[prost(int32, repeated, tag = "5")]
    pub(crate) int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    pub(crate) int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub(crate) name: String,
    #[prost(bytes = "bytes", tag = "9")]
    pub(crate) raw_data: Bytes,
    #[prost(double, repeated, tag = "10")]
    pub(crate) double_data: Vec<f64>,
    #[prost(message, repeated, tag = "13")]
    pub(crate) external_data: Vec<Entry>,
    #[prost(enumeration = "DataLocation", tag = "14")]
    pub(crate) data_location: i32,
}

impl Tensor {
    /// Format in which its elements are stored, if they are floating-point numbers.
    pub(crate) fn element(&self) -> Option<Element> {
        match self.data_type() {
            ElementType::Float => Some(Element::F32),
            ElementType::Float16 => Some(Element::F16),
            ElementType::Bfloat16 => Some(Element::Bf16),
            ElementType::Double => Some(Element::F64),
            _ => None,
        }
    }

    /// The elements that lie in the graph's own file, little-endian, whichever field holds them.
    pub(crate) fn inline_bytes(&self) -> Cow<'_, [u8]> {
        if !self.raw_data.is_empty() {
            return Cow::Borrowed(&self.raw_data);
        }
        let floats = self.float_data.iter().flat_map(|value| value.to_le_bytes());
        let doubles = self.double_data.iter().flat_map(|value| value.to_le_bytes());
        let halves = self.int32_data.iter().flat_map(|&bits| (bits as u16).to_le_bytes());
        Cow::Owned(match self.data_type() {
            ElementType::Float => floats.collect(),
            ElementType::Double => doubles.collect(),
            ElementType::Float16 | ElementType::Bfloat16 => halves.collect(),
            _ => Vec::new(),
        })
    }
}

/// A constant that is 0 except for some elements.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SparseTensor {
    #[prost(message, optional, tag = "1")]
    pub(crate) values: Option<Tensor>,
    #[prost(message, optional, tag = "2")]
    pub(crate) indices: Option<Tensor>,
}

impl SparseTensor {
    fn parts(&self) -> impl Iterator<Item = &Tensor> {
        self.values.iter().chain(&self.indices)
    }
}

/// The element types that graphs of ours hold, and those that ready-made graphs may have for weights, inputs and outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum ElementType {
    Undefined = 0,
    Float = 1,
    Uint8 = 2,
    Int8 = 3,
    Int32 = 6,
    Int64 = 7,
    Float16 = 10,
    Double = 11,
    Bfloat16 = 16,
}

/// The names of `TensorProto.DataType`, by number.
const ELEMENT_NAMES: &[&str] = &[
    "of an unknown type",
    "float",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "int64",
    "string",
    "bool",
    "float16",
    "double",
    "uint32",
    "uint64",
    "complex64",
    "complex128",
    "bfloat16",
];

/// Where a tensor's bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum DataLocation {
    Default = 0,
    External = 1,
}

/// An input or output of the graph.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Value {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) r#type: Option<Type>,
}

impl Value {
    /// A tensor; a name stands for a dimension that varies.
    pub(crate) fn tensor(name: &str, element: ElementType, dimensions: Vec<Dimension>) -> Self {
        let shape = Some(Shape { dim: dimensions });
        let tensor_type = Some(TensorType { elem_type: element.into(), shape });
        Self { name: name.to_owned(), r#type: Some(Type { tensor_type }) }
    }

    /// Its dimensions, where the file states them.
    pub(crate) fn dimensions(&self) -> Option<&[Dimension]> {
        Some(&self.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?.dim)
    }

    /// Type and shape in words, such as `int64 [batch, 512]`.
    pub(crate) fn describe(&self) -> String {
        let Some(element) = self.element() else { return "of an unknown type".to_owned() };
        let element = usize::try_from(element).ok().and_then(|element| ELEMENT_NAMES.get(element));
        let element = element.unwrap_or(&"of an unknown type");
        let Some(dimensions) = self.dimensions() else { return format!("{element} of any shape") };
        let dimensions: Vec<_> = dimensions.iter().map(ToString::to_string).collect();
        format!("{element} [{}]", dimensions.join(", "))
    }

    /// The number of its elements' type in `TensorProto.DataType`.
    pub(crate) fn element(&self) -> Option<i32> {
        Some(self.r#type.as_ref()?.tensor_type.as_ref()?.elem_type)
    }
}

/// The type of a value; only tensors are known.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Type {
    #[prost(message, optional, tag = "1")]
    pub(crate) tensor_type: Option<TensorType>,
}

/// Element type and shape.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorType {
    #[prost(enumeration = "ElementType", tag = "1")]
    pub(crate) elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) shape: Option<Shape>,
}

/// A list of dimensions.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub(crate) dim: Vec<Dimension>,
}

/// A fixed size, or a name for one that varies.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Dimension {
    #[prost(oneof = "Size", tags = "1, 2")]
    pub(crate) size: Option<Size>,
}

/// See [`Dimension`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Size {
    #[prost(int64, tag = "1")]
    Fixed(i64),
    #[prost(string, tag = "2")]
    Named(String),
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.size {
            Some(Size::Fixed(size)) => size.fmt(f),
            Some(Size::Named(name)) => f.write_str(name),
            None => f.write_str("?"),
        }
    }
}

impl Dimension {
    pub(crate) fn fixed(size: i64) -> Self {
        Self { size: Some(Size::Fixed(size)) }
    }

    pub(crate) fn named(name: &str) -> Self {
        Self { size: Some(Size::Named(name.to_owned())) }
    }
}
