//! The protobuf messages of an ONNX file that this crate writes or inspects.
//!
//! Names and tags are those of the public `onnx.proto3`. They are declared by hand, so that the build needs no protobuf
//! compiler. Fields left out are skipped when decoding. Weights inside a file are decoded without a copy: they are
//! slices of the buffer that the file was decoded from.

use std::{borrow::Cow, fmt};

use prost::{Enumeration, Message, bytes::Bytes};

use crate::float_type::FloatType;

/// An ONNX file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ModelProto {
    #[prost(int64, tag = "1")]
    pub(crate) ir_version: i64,
    #[prost(string, tag = "2")]
    pub(crate) producer_name: String,
    #[prost(string, tag = "3")]
    pub(crate) producer_version: String,
    #[prost(message, optional, tag = "7")]
    pub(crate) graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) opset_import: Vec<OperatorSetIdProto>,
    #[prost(message, repeated, tag = "14")]
    pub(crate) metadata_props: Vec<StringStringEntryProto>,
    #[prost(message, repeated, tag = "25")]
    pub(crate) functions: Vec<FunctionProto>,
}

impl ModelProto {
    /// Returns every constant: of the graph, of its operators, and of nested graphs and functions.
    pub(crate) fn constants(&self) -> impl Iterator<Item = &TensorProto> {
        let mut found = Vec::new();
        let mut graphs: Vec<&GraphProto> = self.graph.iter().collect();
        let mut nodes: Vec<&NodeProto> = self.functions.iter().flat_map(|function| &function.node).collect();
        loop {
            if let Some(node) = nodes.pop() {
                for attribute in &node.attribute {
                    found.extend(attribute.t.iter().chain(&attribute.tensors));
                    let sparse = attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors);
                    found.extend(sparse.flat_map(SparseTensorProto::parts));
                    graphs.extend(attribute.g.as_deref().into_iter().chain(&attribute.graphs));
                }
            } else if let Some(graph) = graphs.pop() {
                found.extend(&graph.initializer);
                found.extend(graph.sparse_initializer.iter().flat_map(SparseTensorProto::parts));
                nodes.extend(&graph.node);
            } else {
                return found.into_iter();
            }
        }
    }
}

/// An operator that the model defines from others.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FunctionProto {
    #[prost(message, repeated, tag = "7")]
    pub(crate) node: Vec<NodeProto>,
}

/// The version of an operator domain that the graph was written for.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorSetIdProto {
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(int64, tag = "2")]
    pub(crate) version: i64,
}

/// A key and a value.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

impl StringStringEntryProto {
    pub(crate) fn new(key: &str, value: impl Into<String>) -> Self {
        Self { key: key.to_owned(), value: value.into() }
    }

    pub(crate) fn find<'a>(entries: &'a [Self], key: &str) -> Option<&'a str> {
        entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }
}

/// Nodes in execution order, with their constants.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub(crate) node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) output: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "15")]
    pub(crate) sparse_initializer: Vec<SparseTensorProto>,
}

/// One operator.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub(crate) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(string, tag = "4")]
    pub(crate) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) attribute: Vec<AttributeProto>,
}

/// A setting of an operator.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AttributeProto {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(float, tag = "2")]
    pub(crate) f: f32,
    #[prost(int64, tag = "3")]
    pub(crate) i: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) s: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub(crate) t: Option<TensorProto>,
    #[prost(message, optional, boxed, tag = "6")]
    pub(crate) g: Option<Box<GraphProto>>,
    #[prost(int64, repeated, tag = "8")]
    pub(crate) ints: Vec<i64>,
    #[prost(message, repeated, tag = "10")]
    pub(crate) tensors: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) graphs: Vec<GraphProto>,
    #[prost(enumeration = "AttributeType", tag = "20")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "22")]
    pub(crate) sparse_tensor: Option<SparseTensorProto>,
    #[prost(message, repeated, tag = "23")]
    pub(crate) sparse_tensors: Vec<SparseTensorProto>,
}

/// The field of an [`AttributeProto`] that holds its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum AttributeType {
    Undefined = 0,
    Float = 1,
    Int = 2,
    String = 3,
    Ints = 7,
}

impl AttributeProto {
    fn named(name: &str, kind: AttributeType) -> Self {
        Self { name: name.to_owned(), kind: kind.into(), ..Self::default() }
    }

    pub(crate) fn float(name: &str, f: f32) -> Self {
        Self { f, ..Self::named(name, AttributeType::Float) }
    }

    pub(crate) fn int(name: &str, i: i64) -> Self {
        Self { i, ..Self::named(name, AttributeType::Int) }
    }

    pub(crate) fn ints(name: &str, ints: &[i64]) -> Self {
        Self { ints: ints.to_vec(), ..Self::named(name, AttributeType::Ints) }
    }

    pub(crate) fn string(name: &str, s: &str) -> Self {
        Self { s: s.as_bytes().to_vec(), ..Self::named(name, AttributeType::String) }
    }
}

/// A constant. Small ones are stored inline, weights by reference to another file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    pub(crate) dims: Vec<i64>,
    #[prost(enumeration = "DataType", tag = "2")]
    pub(crate) data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub(crate) float_data: Vec<f32>,
    /// Elements of the smaller types, including 16-bit floats, one per number.
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
    pub(crate) external_data: Vec<StringStringEntryProto>,
    #[prost(enumeration = "DataLocation", tag = "14")]
    pub(crate) data_location: i32,
}

impl TensorProto {
    pub(crate) fn elements(&self) -> u64 {
        self.dims.iter().map(|&size| u64::try_from(size).unwrap_or(0)).fold(1, u64::saturating_mul)
    }

    /// Returns the format of the elements if they are floating-point numbers.
    pub(crate) fn float_type(&self) -> Option<FloatType> {
        match self.data_type() {
            DataType::Float => Some(FloatType::F32),
            DataType::Float16 => Some(FloatType::F16),
            DataType::Bfloat16 => Some(FloatType::Bf16),
            DataType::Double => Some(FloatType::F64),
            _ => None,
        }
    }

    /// Returns the elements that are stored in the graph's own file, little-endian, from the field that holds them.
    pub(crate) fn inline_bytes(&self) -> Cow<'_, [u8]> {
        if !self.raw_data.is_empty() {
            return Cow::Borrowed(&self.raw_data);
        }
        let floats = self.float_data.iter().flat_map(|value| value.to_le_bytes());
        let doubles = self.double_data.iter().flat_map(|value| value.to_le_bytes());
        let halves = self.int32_data.iter().flat_map(|&bits| (bits as u16).to_le_bytes());
        Cow::Owned(match self.data_type() {
            DataType::Float => floats.collect(),
            DataType::Double => doubles.collect(),
            DataType::Float16 | DataType::Bfloat16 => halves.collect(),
            _ => Vec::new(),
        })
    }
}

/// A constant that is 0 except for some elements.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SparseTensorProto {
    #[prost(message, optional, tag = "1")]
    pub(crate) values: Option<TensorProto>,
    #[prost(message, optional, tag = "2")]
    pub(crate) indices: Option<TensorProto>,
}

impl SparseTensorProto {
    fn parts(&self) -> impl Iterator<Item = &TensorProto> {
        self.values.iter().chain(&self.indices)
    }
}

/// The element types of exported graphs, and those that ready-made graphs may have for weights, inputs and outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum DataType {
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

/// The names of `TensorProto.DataType` by number, from 1 on.
const DATA_TYPE_NAMES: &str = "float uint8 int8 uint16 int16 int32 int64 string bool float16 double uint32 uint64 \
                               complex64 complex128 bfloat16";

/// The location of a tensor's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub(crate) enum DataLocation {
    Default = 0,
    External = 1,
}

/// An input or output of the graph.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ValueInfoProto {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) r#type: Option<TypeProto>,
}

impl ValueInfoProto {
    /// Declares a tensor; a named dimension has a variable size.
    pub(crate) fn tensor(name: &str, data_type: DataType, dimensions: Vec<Dimension>) -> Self {
        let shape = Some(TensorShapeProto { dim: dimensions });
        let tensor_type = Some(TensorTypeProto { elem_type: data_type.into(), shape });
        Self { name: name.to_owned(), r#type: Some(TypeProto { tensor_type }) }
    }

    /// Returns its dimensions, if the file states them.
    pub(crate) fn dimensions(&self) -> Option<&[Dimension]> {
        Some(&self.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?.dim)
    }

    /// Describes type and shape, as in `int64 [batch, 512]`.
    pub(crate) fn describe(&self) -> String {
        let Some(data_type) = self.data_type() else { return "of an unknown type".to_owned() };
        let index = usize::try_from(data_type).ok().and_then(|number| number.checked_sub(1));
        let name =
            index.and_then(|index| DATA_TYPE_NAMES.split(' ').nth(index)).unwrap_or("of an unknown type");
        let Some(dimensions) = self.dimensions() else { return format!("{name} of any shape") };
        let dimensions: Vec<_> = dimensions.iter().map(ToString::to_string).collect();
        format!("{name} [{}]", dimensions.join(", "))
    }

    /// Returns the type of its elements as its number in `TensorProto.DataType`.
    pub(crate) fn data_type(&self) -> Option<i32> {
        Some(self.r#type.as_ref()?.tensor_type.as_ref()?.elem_type)
    }
}

/// The type of a value. Types other than tensors are not decoded.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub(crate) tensor_type: Option<TensorTypeProto>,
}

/// Element type and shape.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorTypeProto {
    #[prost(enumeration = "DataType", tag = "1")]
    pub(crate) elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) shape: Option<TensorShapeProto>,
}

/// A list of dimensions.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorShapeProto {
    #[prost(message, repeated, tag = "1")]
    pub(crate) dim: Vec<Dimension>,
}

/// A fixed size, or the name of a variable one.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Dimension {
    #[prost(oneof = "DimensionValue", tags = "1, 2")]
    pub(crate) value: Option<DimensionValue>,
}

/// The content of a [`Dimension`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum DimensionValue {
    #[prost(int64, tag = "1")]
    Fixed(i64),
    #[prost(string, tag = "2")]
    Named(String),
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(DimensionValue::Fixed(size)) => size.fmt(f),
            Some(DimensionValue::Named(name)) => f.write_str(name),
            None => f.write_str("?"),
        }
    }
}

impl Dimension {
    pub(crate) fn fixed(size: i64) -> Self {
        Self { value: Some(DimensionValue::Fixed(size)) }
    }

    pub(crate) fn named(name: &str) -> Self {
        Self { value: Some(DimensionValue::Named(name.to_owned())) }
    }
}
