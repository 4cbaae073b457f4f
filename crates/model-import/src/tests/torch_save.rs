//! Files as `torch.save` writes them, and their parts.

use std::io::{Cursor, Write};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// A tensor of a file: a view of one storage.
#[derive(Debug, Clone)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    /// The storage's class in the module `torch`.
    pub(super) class: &'a str,
    /// The entry of the storage, in the folder `data`.
    pub(super) key: &'a str,
    /// Elements of the storage.
    pub(super) elements: i64,
    pub(super) offset: i64,
    pub(super) shape: Vec<i64>,
    pub(super) strides: Vec<i64>,
}

impl<'a> Tensor<'a> {
    /// A row-major tensor that is all of its storage of `class`.
    pub(super) fn new(name: &'a str, class: &'a str, key: &'a str, shape: &[i64]) -> Self {
        let mut count: i64 = 1;
        let mut strides: Vec<i64> = shape
            .iter()
            .rev()
            .map(|size| {
                let stride = count;
                count = count.saturating_mul(*size);
                stride
            })
            .collect();
        strides.reverse();
        Self { name, class, key, elements: count, offset: 0, shape: shape.to_vec(), strides }
    }
}

/// A pickle under construction.
#[derive(Clone, Default)]
pub(super) struct PickleWriter(Vec<u8>);

impl PickleWriter {
    pub(super) fn new() -> Self {
        Self(vec![0x80, 2])
    }

    pub(super) fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    pub(super) fn text(self, text: &str) -> Self {
        self.raw("X").raw((text.len() as u32).to_le_bytes()).raw(text)
    }

    pub(super) fn int(self, number: i64) -> Self {
        match (u8::try_from(number), i32::try_from(number)) {
            (Ok(number), _) => self.raw("K").raw([number]),
            (_, Ok(number)) => self.raw("J").raw(number.to_le_bytes()),
            _ => self.raw([0x8a, 8]).raw(number.to_le_bytes()),
        }
    }

    pub(super) fn global(self, module: &str, name: &str) -> Self {
        self.raw(format!("c{module}\n{name}\n"))
    }

    pub(super) fn ordered_dict(self) -> Self {
        self.global("collections", "OrderedDict").raw(")R")
    }

    fn ints(self, numbers: &[i64]) -> Self {
        numbers.iter().fold(self.raw("("), |pickle, &number| pickle.int(number)).raw("t")
    }

    /// The call that makes a tensor.
    pub(super) fn tensor(self, tensor: &Tensor<'_>) -> Self {
        let Tensor { name: _, class, key, elements, offset, shape, strides } = tensor;
        let storage = self.global("torch._utils", "_rebuild_tensor_v2").raw("((").text("storage");
        let storage = storage.global("torch", class).text(key).text("cpu").int(*elements).raw("tQ");
        storage.int(*offset).ints(shape).ints(strides).raw([0x89]).ordered_dict().raw("tR")
    }

    pub(super) fn end(self) -> Vec<u8> {
        self.raw(".").0
    }
}

/// The pickle of a state dict.
pub(super) fn state_dict(tensors: &[Tensor<'_>]) -> Vec<u8> {
    let start = PickleWriter::new().raw("}q\0(");
    tensors.iter().fold(start, |pickle, tensor| pickle.text(tensor.name).tensor(tensor)).raw("u").end()
}

/// A zip archive of uncompressed entries.
pub(super) fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    for (name, content) in entries {
        // PyTorch writes the sizes of large entries in the form of zip64, here of all.
        let options =
            SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
        zip.start_file(*name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A weights file with this pickle and these storages.
pub(super) fn file(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let names: Vec<String> = storages.iter().map(|(key, _)| format!("model/data/{key}")).collect();
    let storages = names.iter().zip(storages).map(|(name, (_, content))| (name.as_str(), *content));
    let entries = [("model/data.pkl", pickle), ("model/byteorder", b"little")];
    archive(&entries.into_iter().chain(storages).collect::<Vec<_>>())
}

/// The bytes of numbers in f32.
pub(super) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}
