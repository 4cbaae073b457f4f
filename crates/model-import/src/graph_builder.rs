//! Construction of an ONNX graph: operators in memory, weights written straight to disk.

use std::{
    collections::HashMap,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use crate::{
    ImportError,
    onnx::{
        AttributeProto, DataLocation, DataType, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
        StringStringEntryProto, TensorProto, ValueInfoProto,
    },
};

/// Alignment of each weight in the data file, in bytes: one memory page, so that the runtime can map it in place.
const ALIGNMENT: u64 = 4096;

/// The operator set of the graph: the first with `Gelu`, supported by ONNX Runtime 1.17 and later.
const OPSET: i64 = 20;
/// The file format version that came with operator set 20.
const IR_VERSION: i64 = 9;

/// A graph under construction. The methods return the names of values, which are the inputs of later operators.
pub(crate) struct GraphBuilder<'a> {
    graph: GraphProto,
    data: BufWriter<&'a mut dyn Write>,
    /// The file that `data` writes, for error messages.
    data_path: PathBuf,
    /// The data file's final name, relative to the graph.
    data_name: String,
    /// Bytes written to `data`.
    offset: u64,
    /// Called with `offset` after each weight.
    progress: &'a mut dyn FnMut(u64),
    /// Number of nodes of each operator, for their names.
    count: HashMap<&'static str, usize>,
}

impl<'a> GraphBuilder<'a> {
    /// Creates a graph whose weights are written to `data`, later renamed to `data_path`. `progress` is called with the
    /// bytes written so far.
    pub(crate) fn new(data: &'a mut dyn Write, data_path: &Path, progress: &'a mut dyn FnMut(u64)) -> Self {
        let data_name = data_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self {
            graph: GraphProto { name: "embedgate".to_owned(), ..GraphProto::default() },
            data: BufWriter::with_capacity(1 << 20, data),
            data_path: data_path.to_owned(),
            data_name,
            offset: 0,
            progress,
            count: HashMap::new(),
        }
    }

    /// Adds a weight whose values `fill` passes on in chunks, in row-major order of `shape`, unless it exists: layers
    /// may share weights.
    pub(crate) fn weight_from(
        &mut self,
        name: &str,
        shape: &[usize],
        fill: impl FnOnce(&mut dyn FnMut(&[f32]) -> Result<(), ImportError>) -> Result<(), ImportError>,
    ) -> Result<String, ImportError> {
        if self.find(name).is_some() {
            return Ok(name.to_owned());
        }
        let path = &self.data_path;
        let padding = self.offset.next_multiple_of(ALIGNMENT) - self.offset;
        self.data
            .write_all(&[0; ALIGNMENT as usize][..padding as usize])
            .map_err(ImportError::write(path))?;
        let start = self.offset + padding;
        let mut length = 0;
        let data = &mut self.data;
        let mut bytes = Vec::new();
        fill(&mut |values| {
            bytes.resize(size_of_val(values), 0);
            for (target, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                *target = value.to_le_bytes();
            }
            length += bytes.len() as u64;
            data.write_all(&bytes).map_err(ImportError::write(path))
        })?;
        debug_assert_eq!(length, 4 * shape.iter().product::<usize>() as u64, "{name} has shape {shape:?}");
        self.offset = start + length;
        (self.progress)(self.offset);
        self.graph.initializer.push(TensorProto {
            dims: shape.iter().map(|&dimension| dimension as i64).collect(),
            data_type: DataType::Float.into(),
            name: name.to_owned(),
            external_data: vec![
                StringStringEntryProto::new("location", self.data_name.clone()),
                StringStringEntryProto::new("offset", start.to_string()),
                StringStringEntryProto::new("length", length.to_string()),
            ],
            data_location: DataLocation::External.into(),
            ..TensorProto::default()
        });
        Ok(name.to_owned())
    }

    /// Adds a weight from values in memory.
    pub(crate) fn weight(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &[f32],
    ) -> Result<String, ImportError> {
        self.weight_from(name, shape, |sink| sink(values))
    }

    /// Adds a small constant of integers: a shape, an axis, an index.
    pub(crate) fn integers(&mut self, name: &str, values: &[i64]) -> String {
        let (dims, int64_data) = (vec![values.len() as i64], values.to_vec());
        self.constant(name, DataType::Int64, TensorProto { dims, int64_data, ..TensorProto::default() })
    }

    /// Adds a scalar integer.
    pub(crate) fn integer(&mut self, name: &str, value: i64) -> String {
        let tensor = TensorProto { int64_data: vec![value], ..TensorProto::default() };
        self.constant(name, DataType::Int64, tensor)
    }

    /// Adds a scalar number.
    pub(crate) fn scalar(&mut self, name: &str, value: f32) -> String {
        let tensor = TensorProto { float_data: vec![value], ..TensorProto::default() };
        self.constant(name, DataType::Float, tensor)
    }

    /// Adds a constant unless it exists; constants of one name are equal.
    fn constant(&mut self, name: &str, data_type: DataType, tensor: TensorProto) -> String {
        let tensor = TensorProto { name: name.to_owned(), data_type: data_type.into(), ..tensor };
        match self.find(name) {
            Some(known) => debug_assert_eq!(known, &tensor),
            None => self.graph.initializer.push(tensor),
        }
        name.to_owned()
    }

    fn find(&self, name: &str) -> Option<&TensorProto> {
        self.graph.initializer.iter().find(|known| known.name == name)
    }

    /// Adds an operator with one output.
    pub(crate) fn op(
        &mut self,
        op_type: &'static str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        let [output] = self.ops(op_type, inputs, attributes);
        output
    }

    /// Adds an operator with `N` outputs.
    pub(crate) fn ops<const N: usize>(
        &mut self,
        op_type: &'static str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> [String; N] {
        let count = self.count.entry(op_type).or_default();
        let name = format!("{op_type}_{count}");
        *count += 1;
        let outputs: [String; N] = std::array::from_fn(|index| format!("{name}:{index}"));
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: outputs.to_vec(),
            name,
            op_type: op_type.to_owned(),
            attribute: attributes,
        });
        outputs
    }

    /// Declares an input of the graph.
    pub(crate) fn input(&mut self, value: ValueInfoProto) -> String {
        self.graph.input.push(value.clone());
        value.name
    }

    /// Gives the value `from` the name of the graph's `output`.
    pub(crate) fn output(&mut self, from: &str, output: ValueInfoProto) {
        for node in &mut self.graph.node {
            for name in node.input.iter_mut().chain(&mut node.output).filter(|name| *name == from) {
                name.clone_from(&output.name);
            }
        }
        self.graph.output.push(output);
    }

    /// Flushes the weights and returns the graph.
    pub(crate) fn finish(mut self, metadata: Vec<StringStringEntryProto>) -> Result<ModelProto, ImportError> {
        self.data.flush().map_err(ImportError::write(&self.data_path))?;
        Ok(ModelProto {
            ir_version: IR_VERSION,
            producer_name: "embedgate".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            metadata_props: metadata,
            functions: Vec::new(),
        })
    }
}
