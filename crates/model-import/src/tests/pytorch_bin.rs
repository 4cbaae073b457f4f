//! Tests of reading PyTorch's weights files: what they may hold, and that nothing else is accepted or executed.

use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::SafeTensors;

use super::{
    fixture::{Folder, assert_contains, message},
    torch_save::{PickleWriter, Tensor, archive, f32_bytes, file, state_dict},
};
use crate::{ImportError, pickle::MAX_INSTRUCTIONS, weights::Weights};

const FILE: &str = "pytorch_model.bin";
const VALUES: [f32; 6] = [0.0, 1.0, -2.5, 0.125, 1024.0, -0.75];

fn open(folder: &Folder) -> Result<Weights, ImportError> {
    Weights::open(folder.path(), &["bert."])
}

/// Opens a weights file alone in its folder.
fn open_file(content: impl AsRef<[u8]>) -> Result<Weights, ImportError> {
    let folder = Folder::empty();
    folder.write(FILE, content);
    open(&folder)
}

#[track_caller]
fn assert_rejected(content: impl AsRef<[u8]>, parts: &[&str]) {
    let error = message(&open_file(content).err().expect("the file was accepted"));
    assert_contains(&error, &[&[FILE], parts].concat());
}

/// A file whose dictionary holds the value that `value` pushes under the name `a`.
fn with_value(value: impl FnOnce(PickleWriter) -> PickleWriter) -> Vec<u8> {
    file(&value(PickleWriter::new().raw("}").text("a")).raw("s").end(), &[("0", &f32_bytes(&VALUES))])
}

#[test]
fn every_float_type_becomes_f32() {
    let halves: Vec<u8> = VALUES.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
    let bf16s: Vec<u8> = VALUES.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
    let classes = [("FloatStorage", f32_bytes(&VALUES)), ("HalfStorage", halves), ("BFloat16Storage", bf16s)];
    for (class, bytes) in classes {
        let pickle = state_dict(&[Tensor::new("bert.a.gamma", class, "0", &[2, 3])]);
        let folder = Folder::empty();
        folder.write(FILE, file(&pickle, &[("0", &bytes)]));
        let weights = open(&folder).unwrap();
        assert_eq!(weights.tensor("a.weight", &[2, 3]).unwrap(), VALUES, "{class}");
        assert_eq!(&*weights.view("a.weight", &[2, 3]).unwrap(), VALUES, "{class}");
        let mut row = [0.0; 3];
        weights.read_row(&weights.find_rows("a.weight", &[2, 3]).unwrap(), 1, &mut row);
        assert_eq!(row, VALUES[3..], "{class}");
    }
}

#[test]
fn tensors_are_views_of_a_storage_that_they_may_share() {
    let whole = Tensor::new("whole", "FloatStorage", "0", &[6]);
    let view = |name, offset, shape: &[i64]| Tensor {
        elements: 6,
        offset,
        ..Tensor::new(name, "FloatStorage", "0", shape)
    };
    let row = view("row", 3, &[1, 3]);
    let row = Tensor { strides: vec![77, 1], ..row };
    let tensors = [whole, row, view("scalar", 5, &[]), view("empty", 6, &[0, 4])];
    let weights = open_file(file(&state_dict(&tensors), &[("0", &f32_bytes(&VALUES))])).unwrap();
    assert_eq!(weights.tensor("whole", &[6]).unwrap(), VALUES);
    assert_eq!(weights.tensor("row", &[1, 3]).unwrap(), VALUES[3..]);
    assert_eq!(weights.tensor("scalar", &[]).unwrap(), VALUES[5..]);
    assert_eq!(weights.tensor("empty", &[0, 4]).unwrap(), [0.0; 0]);
}

#[test]
fn a_state_dict_may_hold_parameters_attributes_and_other_values() {
    let tensor = Tensor::new("a", "FloatStorage", "0", &[2, 3]);
    let parameter = |pickle: PickleWriter| {
        let pickle = pickle.global("torch._utils", "_rebuild_parameter").raw("(").tensor(&tensor);
        pickle.raw([0x88]).ordered_dict().raw("tR")
    };
    let pickle = PickleWriter::new().ordered_dict().raw("(").text("a");
    let pickle = parameter(pickle).text("b").raw("N").text("c").raw("G").raw(1f64.to_be_bytes());
    // As `Module.state_dict` has them: the versions of its modules.
    let pickle =
        pickle.text("d").raw("](K\x01K\x02eK\x03a").raw("u").raw("}").text("_metadata").ordered_dict();
    let pickle = pickle.text("").raw("}").text("version").int(1).raw("ss").raw("sb").end();
    let weights = open_file(file(&pickle, &[("0", &f32_bytes(&VALUES))])).unwrap();
    assert_eq!(weights.tensor("a", &[2, 3]).unwrap(), VALUES);
    assert_contains(&message(&weights.tensor("b", &[1]).unwrap_err()), &[FILE, "no tensor `b`"]);
}

#[test]
fn a_tensor_of_another_type_or_layout_is_an_error_only_when_it_is_used() {
    let transposed = Tensor { strides: vec![1, 2], ..Tensor::new("t", "FloatStorage", "0", &[2, 3]) };
    let tensors = [
        Tensor::new("a", "FloatStorage", "0", &[2, 3]),
        transposed,
        Tensor::new("embeddings.position_ids", "LongStorage", "1", &[1, 3]),
        Tensor::new("d", "DoubleStorage", "1", &[3]),
    ];
    let storages: [(&str, &[u8]); 2] = [("0", &f32_bytes(&VALUES)), ("1", &[0; 24])];
    let weights = open_file(file(&state_dict(&tensors), &storages)).unwrap();
    assert_eq!(weights.tensor("a", &[2, 3]).unwrap(), VALUES);
    for (name, shape, found) in [
        ("t", &[2, 3][..], "F32 with the strides [1, 2]"),
        ("embeddings.position_ids", &[1, 3], "I64"),
        ("d", &[3], "F64"),
    ] {
        let error = message(&weights.tensor(name, shape).unwrap_err());
        assert_contains(
            &error,
            &[FILE, &format!("`{name}` is {found}, expected F32, F16 or BF16, row-major")],
        );
    }
}

#[test]
fn shards_are_combined_and_safetensors_come_first() {
    let one = |name| {
        file(&state_dict(&[Tensor::new(name, "FloatStorage", "0", &[6])]), &[("0", &f32_bytes(&VALUES))])
    };
    let folder = Folder::empty();
    folder.write("first.bin", one("a"));
    folder.write("second.bin", one("b"));
    const INDEX: &str = "pytorch_model.bin.index.json";
    folder.write(INDEX, r#"{"weight_map": {"a": "first.bin", "b": "second.bin"}}"#);
    let weights = open(&folder).unwrap();
    assert_eq!(weights.tensor("a", &[6]).unwrap(), VALUES);
    assert_eq!(weights.tensor("b", &[6]).unwrap(), VALUES);
    assert_contains(&message(&weights.tensor("c", &[6]).unwrap_err()), &[INDEX, "no tensor `c`"]);
    folder.remove("second.bin");
    assert_contains(&message(&open(&folder).err().unwrap()), &["second.bin", "is missing"]);

    folder.write(FILE, one("c"));
    assert_eq!(open(&folder).unwrap().tensor("c", &[6]).unwrap(), VALUES);
    folder.write("model.safetensors", Folder::tiny("bert-mean").bytes("model.safetensors"));
    assert_contains(&message(&open(&folder).unwrap().tensor("c", &[6]).unwrap_err()), &["model.safetensors"]);
}

#[test]
fn a_function_that_makes_no_tensor_is_refused_by_name() {
    for (module, name) in [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_qtensor"),
        ("torch.storage", "_load_from_bytes"),
        ("transformers.models.bert.modeling_bert", "BertModel"),
        ("torch._utils._rebuild_tensor_v2", ""),
        ("", "torch.FloatStorage"),
    ] {
        let parts =
            [&format!("wants to load `{module}.{name}`"), "does not execute code", "safe_serialization"];
        assert_rejected(with_value(|pickle| pickle.global(module, name)), &parts);
        assert_rejected(
            with_value(|pickle| pickle.global(module, name).raw("(").text("id").raw("tR")),
            &parts,
        );
        assert_rejected(with_value(|pickle| pickle.raw(format!("(i{module}\n{name}\n"))), &parts);
    }
    // A name must not reach a terminal as it is.
    assert_rejected(with_value(|pickle| pickle.global("o\x1b[2J", "s")), &["`o\\u{1b}[2J.s`"]);
    // The constructor is allowed only without arguments.
    let with_arguments =
        |pickle: PickleWriter| pickle.global("collections", "OrderedDict").raw("(").text("x").raw("tR");
    assert_rejected(with_value(with_arguments), &["collections.OrderedDict with arguments"]);
}

#[test]
fn other_instructions_and_contents_are_refused_by_name() {
    for (instruction, name) in
        [(b'o', "OBJ"), (0x81, "NEWOBJ"), (0x82, "EXT"), (b'P', "PERSID"), (0x93, "0x93")]
    {
        let parts = [&format!("the instruction {name},"), "safe_serialization"];
        assert_rejected(with_value(|pickle| pickle.raw([instruction])), &parts);
    }
    assert_rejected(file(&[0x80, 4, b'}', b'.'], &[]), &["protocol 4, expected 2"]);
    assert_rejected(file(&PickleWriter::new().raw("].").end(), &[]), &["a dictionary from names to tensors"]);
    let nested = PickleWriter::new().raw("}(").text("epoch").int(3).text("state_dict").raw("}u").end();
    assert_rejected(file(&nested, &[]), &["none of its entries is a tensor; it holds `epoch`, `state_dict`"]);
    let dict = PickleWriter::new().raw("}").end();
    assert_rejected(archive(&[("m/data.pkl", &dict), ("m/byteorder", b"big")]), &["byte order is `big`"]);
    assert_rejected(archive(&[("code/model.py", b"")]), &["zip archive without `data.pkl`"]);
    let mut compressed = file(&dict, &[]);
    let directory = compressed.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
    compressed[directory + 10] = 8;
    assert_rejected(compressed, &["`model/data.pkl` is compressed or encrypted"]);
}

#[test]
fn a_file_of_another_format_is_an_error_with_the_remedy() {
    let legacy = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
    assert_rejected(legacy, &["PyTorch before release 1.6", "safe_serialization=True"]);
    for other in [&b""[..], b"<!doctype html>", b"PK\x03\x04", &[0; 1000]] {
        assert_rejected(
            other,
            &["not a complete PyTorch weights file: expected a zip archive", "download it again"],
        );
    }
}

#[test]
fn every_truncation_is_an_error() {
    let pickle = state_dict(&[Tensor::new("a", "FloatStorage", "0", &[6])]);
    let whole = file(&pickle, &[("0", &f32_bytes(&VALUES))]);
    for length in 0..whole.len() {
        assert_rejected(&whole[..length], &["not a complete PyTorch weights file"]);
    }
    for length in 0..pickle.len() {
        assert_rejected(file(&pickle[..length], &[("0", &f32_bytes(&VALUES))]), &["its pickle has "]);
    }
}

#[test]
fn a_tensor_outside_of_its_storage_is_an_error() {
    let tensor = Tensor::new("a", "FloatStorage", "0", &[2, 3]);
    let with = |change: &dyn Fn(&mut Tensor<'_>)| {
        let mut tensor = tensor.clone();
        change(&mut tensor);
        file(&state_dict(&[tensor]), &[("0", &f32_bytes(&VALUES))])
    };
    const HUGE: i64 = i64::MAX;
    for (content, part) in [
        (with(&|tensor| tensor.elements = 7), "storage of 7 F32, but `data/0` has 24 bytes"),
        (with(&|tensor| tensor.elements = HUGE), "storage of 9223372036854775807 F32"),
        (with(&|tensor| tensor.elements = 5), "the shape [2, 3] at element 0 of a storage of 5"),
        (with(&|tensor| tensor.offset = 1), "the shape [2, 3] at element 1 of a storage of 6"),
        (with(&|tensor| tensor.offset = HUGE), "at element 9223372036854775807"),
        (with(&|tensor| tensor.offset = -1), "no complete description"),
        (with(&|tensor| tensor.shape = vec![2, -3]), "no complete description"),
        (with(&|tensor| tensor.shape = vec![6]), "no complete description"),
        (with(&|tensor| tensor.shape = vec![HUGE, HUGE]), "too large for any file"),
        (with(&|tensor| tensor.key = "1"), "no entry `data/1`"),
        (with(&|tensor| tensor.key = "../data.pkl"), "no entry `data/../data.pkl`"),
    ] {
        assert_rejected(content, &["tensor `a` has ", part]);
    }
    // More dimensions than any tensor has.
    let shape = vec![1; 100_000];
    let content = with(&|tensor| (tensor.shape, tensor.strides) = (shape.clone(), shape.clone()));
    assert_rejected(content, &["no complete description"]);
    // No elements, although the first sizes overflow.
    let empty = Tensor::new("a", "FloatStorage", "0", &[HUGE, 4, 0]);
    let file = file(&state_dict(&[empty]), &[("0", &[])]);
    assert_eq!(open_file(file).unwrap().tensor("a", &[HUGE as usize, 4, 0]).unwrap(), [0.0; 0]);
}

#[test]
fn a_pickle_that_would_exhaust_memory_or_the_stack_is_an_error() {
    // A value, a list in a list, a mark, or a slot of the memo with each instruction.
    for (unit, limit) in [(&b"N"[..], true), (b"]", true), (b"(", true), (b"N\x85", true), (b"q\x00", true)] {
        let run = unit.repeat(MAX_INSTRUCTIONS);
        let pickle = PickleWriter::new().raw("N").raw(run).end();
        let part = format!("more than {MAX_INSTRUCTIONS} instructions");
        assert_eq!(message(&open_file(file(&pickle, &[])).err().unwrap()).contains(&part), limit, "{unit:?}");
    }
    let far = PickleWriter::new()
        .raw("}")
        .raw("r")
        .raw(u32::MAX.to_le_bytes())
        .raw("j")
        .raw(u32::MAX.to_le_bytes());
    open_file(file(&far.end(), &[])).unwrap();
    let nested = PickleWriter::new().raw(b"]".repeat(1_000_000)).raw(b"a".repeat(999_999)).end();
    assert_rejected(file(&nested, &[]), &["a dictionary from names to tensors"]);
    let long = PickleWriter::new().raw("}").text(&"a".repeat(100_000)).raw("Ns").end();
    assert_rejected(file(&long, &[]), &["a text of more than"]);
    let claimed = PickleWriter::new().raw("}X").raw(u32::MAX.to_le_bytes()).end();
    assert_rejected(file(&claimed, &[]), &["a text of more than"]);
    // The archive claims more entries than it has.
    let mut many = file(&PickleWriter::new().raw("}").end(), &[]);
    let end = many.windows(4).rposition(|bytes| bytes == b"PK\x05\x06").unwrap();
    many[end + 8..end + 12].fill(0xfe);
    assert_rejected(many, &["expected a zip archive"]);
}

/// The same weights in either format.
#[test]
fn a_model_with_a_dense_layer_is_read_from_pytorch_files() {
    let folder = Folder::tiny("distilbert-dense");
    let graph = folder.import().unwrap();
    let expected = (folder.bytes("embedgate.onnx"), folder.bytes("embedgate.onnx.data"));
    let head = folder.open().unwrap().head().clone();
    for name in ["embedgate.onnx", "embedgate.onnx.data", "embedgate.fingerprint"] {
        if folder.file(name).exists() {
            folder.remove(name);
        }
    }
    for prefix in ["", "2_Dense/"] {
        let name = format!("{prefix}model.safetensors");
        let bytes = folder.bytes(&name);
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensors: Vec<_> = tensors.iter().map(|(name, view)| (name.to_owned(), view)).collect();
        let shapes: Vec<Vec<i64>> =
            tensors.iter().map(|(_, view)| view.shape().iter().map(|&size| size as i64).collect()).collect();
        let described: Vec<Tensor<'_>> = tensors
            .iter()
            .zip(&shapes)
            .map(|((name, _), shape)| Tensor::new(name, "FloatStorage", name, shape))
            .collect();
        let storages: Vec<(&str, &[u8])> =
            tensors.iter().map(|(name, view)| (name.as_str(), view.data())).collect();
        folder.write(&format!("{prefix}{FILE}"), file(&state_dict(&described), &storages));
        folder.remove(&name);
    }
    let pickled = folder.import().unwrap();
    assert_eq!(*folder.open().unwrap().head(), head);
    assert!(folder.bytes("embedgate.onnx.data") == expected.1);
    assert_ne!(pickled.fingerprint, graph.fingerprint, "the files differ");
}

proptest! {
    #[test]
    fn mutated_files_do_not_panic_the_reader(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let pickle = state_dict(&[Tensor::new("a", "FloatStorage", "0", &[2, 3])]);
        let mut bytes = file(&pickle, &[("0", &f32_bytes(&VALUES))]);
        for (index, value) in edits {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(weights) = open_file(bytes)
            && let Ok(values) = weights.tensor("a", &[2, 3])
        {
            prop_assert_eq!(values.len(), 6);
        }
    }
}
