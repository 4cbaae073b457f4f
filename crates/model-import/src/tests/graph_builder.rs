//! Tests of the graph builder: the layout of weights, and the error on a full disk.

use std::{
    io::{self, Write},
    path::Path,
};

use super::fixture::{assert_contains, message};
use crate::{
    graph_builder::GraphBuilder,
    onnx::{AttributeProto, DataLocation, DataType, Dimension, StringStringEntryProto, ValueInfoProto},
};

#[test]
fn weights_are_written_in_order_at_page_boundaries() {
    let mut data = Vec::new();
    let mut reported = Vec::new();
    let mut progress = |bytes| reported.push(bytes);
    let mut builder = GraphBuilder::new(&mut data, Path::new("/m/graph.data"), &mut progress);
    builder.weight("a", &[3], &[1.0, 2.0, 3.0]).unwrap();
    builder.weight("b", &[2, 1], &[-1.0, 0.5]).unwrap();
    let model = builder.finish(vec![StringStringEntryProto::new("key", "value")]).unwrap();
    assert_eq!(reported, [12, 4104]);

    let graph = model.graph.unwrap();
    let locations: Vec<_> = graph
        .initializer
        .iter()
        .map(|tensor| {
            assert_eq!(tensor.data_location(), DataLocation::External);
            assert_eq!(tensor.data_type(), DataType::Float);
            let find = |key| StringStringEntryProto::find(&tensor.external_data, key).unwrap();
            (tensor.name.as_str(), tensor.dims.clone(), find("location"), find("offset"), find("length"))
        })
        .collect();
    assert_eq!(
        locations,
        [("a", vec![3], "graph.data", "0", "12"), ("b", vec![2, 1], "graph.data", "4096", "8")]
    );
    let floats = |at: usize| f32::from_le_bytes(data[at..at + 4].try_into().unwrap());
    assert_eq!([0, 4, 8, 4096, 4100].map(floats), [1.0, 2.0, 3.0, -1.0, 0.5]);
    assert_eq!(data.len(), 4104);
    assert_eq!(StringStringEntryProto::find(&model.metadata_props, "key"), Some("value"));
}

#[test]
fn nodes_are_connected_by_unique_names() {
    let mut data = Vec::new();
    let mut progress = |_| {};
    let mut builder = GraphBuilder::new(&mut data, Path::new("d"), &mut progress);
    let shape = || vec![Dimension::named("n")];
    let input = builder.input(ValueInfoProto::tensor("x", DataType::Float, shape()));
    let [left, right] = builder.ops("Split", &[&input], vec![AttributeProto::int("num_outputs", 2)]);
    let sum = builder.op("Add", &[&left, &right], vec![]);
    let twice = builder.op("Add", &[&sum, &sum], vec![]);
    builder.output(&twice, ValueInfoProto::tensor("y", DataType::Float, shape()));
    let graph = builder.finish(vec![]).unwrap().graph.unwrap();
    let nodes: Vec<_> =
        graph.node.iter().map(|node| (&node.op_type[..], &node.input[..], &node.output[..])).collect();
    let own = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(
        nodes,
        [
            ("Split", &own(&["x"])[..], &own(&["Split_0:0", "Split_0:1"])[..]),
            ("Add", &own(&["Split_0:0", "Split_0:1"])[..], &own(&["Add_0:0"])[..]),
            ("Add", &own(&["Add_0:0", "Add_0:0"])[..], &own(&["y"])[..]),
        ]
    );
}

/// A writer that accepts a number of bytes and then fails like a full disk.
struct FullDisk(usize);

impl Write for FullDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_that_names_the_file() {
    // More than the write buffer, so that the first weight fails; and less, so that only the final flush fails.
    for (room, values) in [(1 << 19, vec![0.0; 1 << 19]), (10, vec![0.0; 100])] {
        let mut disk = FullDisk(room);
        let mut progress = |_| {};
        let mut builder =
            GraphBuilder::new(&mut disk, Path::new("/models/x/embedgate.onnx.data"), &mut progress);
        let written = builder.weight("a", &[values.len()], &values);
        let error = written.and_then(|_| builder.finish(vec![]).map(drop)).unwrap_err();
        assert_contains(
            &message(&error),
            &["cannot write `/models/x/embedgate.onnx.data`", "no storage space"],
        );
    }
}
