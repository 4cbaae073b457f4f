//! The builder: where weights land, and what happens when the disk is full.

use std::{
    io::{self, Write},
    path::Path,
};

use super::fixture::{message, says};
use crate::{
    graph::GraphBuilder,
    onnx::{Attribute, DataLocation, Dimension, ElementType, Entry, Value},
};

#[test]
fn weights_lie_at_page_boundaries_in_the_order_given() {
    let mut data = Vec::new();
    let mut told = Vec::new();
    let mut progress = |bytes| told.push(bytes);
    let mut builder = GraphBuilder::new(&mut data, Path::new("/m/graph.data"), &mut progress);
    builder.weight("a", &[3], &[1.0, 2.0, 3.0]).unwrap();
    builder.weight("b", &[2, 1], &[-1.0, 0.5]).unwrap();
    let model = builder.finish(vec![Entry::new("key", "value")]).unwrap();
    assert_eq!(told, [12, 4104]);

    let graph = model.graph.unwrap();
    let places: Vec<_> = graph
        .initializer
        .iter()
        .map(|tensor| {
            assert_eq!(tensor.data_location(), DataLocation::External);
            assert_eq!(tensor.data_type(), ElementType::Float);
            let find = |key| Entry::find(&tensor.external_data, key).unwrap();
            (tensor.name.as_str(), tensor.dims.clone(), find("location"), find("offset"), find("length"))
        })
        .collect();
    assert_eq!(
        places,
        [("a", vec![3], "graph.data", "0", "12"), ("b", vec![2, 1], "graph.data", "4096", "8")]
    );
    let floats = |at: usize| f32::from_le_bytes(data[at..at + 4].try_into().unwrap());
    assert_eq!([0, 4, 8, 4096, 4100].map(floats), [1.0, 2.0, 3.0, -1.0, 0.5]);
    assert_eq!(data.len(), 4104);
    assert_eq!(Entry::find(&model.metadata_props, "key"), Some("value"));
}

#[test]
fn nodes_are_joined_by_names_that_are_all_different() {
    let mut data = Vec::new();
    let mut progress = |_| {};
    let mut builder = GraphBuilder::new(&mut data, Path::new("d"), &mut progress);
    let shape = || vec![Dimension::named("n")];
    let input = builder.input(Value::tensor("x", ElementType::Float, shape()));
    let [left, right] = builder.ops("Split", &[&input], vec![Attribute::int("num_outputs", 2)]);
    let sum = builder.op("Add", &[&left, &right], vec![]);
    let twice = builder.op("Add", &[&sum, &sum], vec![]);
    builder.output(&twice, Value::tensor("y", ElementType::Float, shape()));
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

/// Takes so many bytes and then fails as a full disk does.
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
    // Beyond the write buffer, so that the first weight meets it; and within, so that only the end does.
    for (room, values) in [(1 << 19, vec![0.0; 1 << 19]), (10, vec![0.0; 100])] {
        let mut disk = FullDisk(room);
        let mut progress = |_| {};
        let mut builder =
            GraphBuilder::new(&mut disk, Path::new("/models/x/embedgate.onnx.data"), &mut progress);
        let written = builder.weight("a", &[values.len()], &values);
        let error = written.and_then(|_| builder.finish(vec![]).map(drop)).unwrap_err();
        says(&message(&error), &["cannot write `/models/x/embedgate.onnx.data`", "no storage space"]);
    }
}
