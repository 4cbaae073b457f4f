//! PyTorch's weights files (`pytorch_model.bin`), as `torch.save` has written them since release 1.6.
//!
//! Such a file is a zip archive without compression. Its entry `data.pkl` is a pickle of a dictionary from names to
//! tensors, and an entry `data/N` holds the numbers of one storage. They are used in place: the archive is mapped. The
//! checksums of the archive are not verified, since PyTorch does not verify them and can write files without.

use std::{io::Cursor, ops::Range, path::Path};

use zip::{CompressionMethod, ZipArchive};

use crate::{
    ImportError,
    float_type::FloatType,
    pickle::{Pickle, PickleError, Value, ValueId, printable},
    stored_tensor::StoredTensor,
};

/// Start of the files of earlier releases: a pickle of their magic number.
const LEGACY_MAGIC: &[u8] = &[0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

const REBUILD_TENSOR: &str = "torch._utils._rebuild_tensor_v2";
const REBUILD_PARAMETER: &str = "torch._utils._rebuild_parameter";

/// The limit of PyTorch itself.
const MAX_DIMENSIONS: usize = 64;

/// The classes of storages, with the name and the size of their elements.
const STORAGES: [(&str, &str, usize); 10] = [
    ("torch.FloatStorage", "F32", 4),
    ("torch.HalfStorage", "F16", 2),
    ("torch.BFloat16Storage", "BF16", 2),
    ("torch.DoubleStorage", "F64", 8),
    ("torch.LongStorage", "I64", 8),
    ("torch.IntStorage", "I32", 4),
    ("torch.ShortStorage", "I16", 2),
    ("torch.CharStorage", "I8", 1),
    ("torch.ByteStorage", "U8", 1),
    ("torch.BoolStorage", "BOOL", 1),
];

/// Finds the tensors of the mapped `file` at `path`.
pub(crate) fn read(path: &Path, file: &[u8]) -> Result<Vec<StoredTensor>, ImportError> {
    if file.starts_with(LEGACY_MAGIC) {
        return Err(refused(path, "it is in the format of PyTorch before release 1.6"));
    }
    let mut archive = Archive::open(path, file)?;
    if let Some(order) = archive.entry("byteorder")?.filter(|order| file[order.clone()] != *b"little") {
        let order = String::from_utf8_lossy(&file[order]).chars().take(20).collect::<String>();
        return Err(refused(
            path,
            format!("its byte order is `{}`, expected `little`", order.escape_debug()),
        ));
    }
    let Some(description) = archive.entry("data.pkl")? else {
        return Err(refused(
            path,
            "it is a zip archive without `data.pkl`, which `torch.save` did not write",
        ));
    };
    let globals = [REBUILD_TENSOR, REBUILD_PARAMETER].into_iter().chain(STORAGES.map(|(class, ..)| class));
    let pickle =
        Pickle::read(&file[description], &globals.collect::<Vec<_>>()).map_err(|error| match error {
            PickleError::Damaged(reason) => damaged(path, reason),
            PickleError::Refused(reason) => refused(path, reason),
        })?;
    let Value::Dict(items) = pickle.root() else {
        return Err(refused(path, "it does not hold a dictionary from names to tensors"));
    };
    let mut tensors = Vec::new();
    let mut others = Vec::new();
    for &(key, value) in items {
        let Value::Text(name) = *pickle.get(key) else { continue };
        match tensor_arguments(&pickle, value) {
            Some(arguments) => tensors.push(archive.tensor(&pickle, name, arguments)?),
            None => others.push(name),
        }
    }
    // The file of a training run holds the state of more than the model.
    if tensors.is_empty() && !others.is_empty() {
        others.truncate(5);
        let keys = others.into_iter().map(printable).collect::<Vec<_>>().join("`, `");
        return Err(refused(path, format!("none of its entries is a tensor; it holds `{keys}`")));
    }
    Ok(tensors)
}

/// Returns the arguments of the call that makes a tensor.
fn tensor_arguments<'a>(pickle: &'a Pickle<'_>, mut value: ValueId) -> Option<&'a [ValueId]> {
    if let Value::Call(REBUILD_PARAMETER, arguments) = *pickle.get(value) {
        value = *pickle.tuple(arguments)?.first()?;
    }
    match *pickle.get(value) {
        Value::Call(REBUILD_TENSOR, arguments) => pickle.tuple(arguments),
        _ => None,
    }
}

/// An opened zip archive. Its entries lie in one folder.
struct Archive<'f> {
    path: &'f Path,
    file: &'f [u8],
    zip: ZipArchive<Cursor<&'f [u8]>>,
    folder: String,
}

impl<'f> Archive<'f> {
    fn open(path: &'f Path, file: &'f [u8]) -> Result<Self, ImportError> {
        let zip = ZipArchive::new(Cursor::new(file));
        let zip = zip.map_err(|error| damaged(path, format!("expected a zip archive, {error}")))?;
        let folder =
            zip.file_names().flatten().find_map(|name| Some(name.strip_suffix("/data.pkl")?.to_owned()));
        Ok(Self { path, file, zip, folder: folder.unwrap_or_default() })
    }

    /// Finds an entry in the file. It must not be compressed.
    fn entry(&mut self, name: &str) -> Result<Option<Range<usize>>, ImportError> {
        let name = format!("{}/{name}", self.folder);
        let Some(index) = self.zip.index_for_name(&name) else { return Ok(None) };
        let path = self.path;
        let entry = self
            .zip
            .by_index_raw(index)
            .map_err(|error| damaged(path, format!("`{}`: {error}", printable(&name))))?;
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(refused(
                path,
                format!("its entry `{}` is compressed or encrypted", printable(&name)),
            ));
        }
        let range = entry.data_start().and_then(|start| {
            let (start, size) = (usize::try_from(start).ok()?, usize::try_from(entry.size()).ok()?);
            Some(start..start.checked_add(size)?)
        });
        match range.filter(|range| range.end <= self.file.len()) {
            Some(range) => Ok(Some(range)),
            None => Err(damaged(path, format!("its entry `{}` lies beyond its end", printable(&name)))),
        }
    }

    /// Finds a tensor by the arguments of its call.
    fn tensor(
        &mut self,
        pickle: &Pickle<'_>,
        name: &str,
        arguments: &[ValueId],
    ) -> Result<StoredTensor, ImportError> {
        let path = self.path;
        let invalid = |what: String| damaged(path, format!("tensor `{}` has {what}", printable(name)));
        let Some(view) = StorageView::read(pickle, arguments) else {
            return Err(invalid("no complete description".to_owned()));
        };
        let StorageView { key, type_name, element_bytes, elements, offset, shape, strides } = view;
        let entry = format!("data/{key}");
        let storage = self.entry(&entry)?;
        let entry = printable(&entry);
        let Some(storage) = storage else {
            return Err(invalid(format!("no storage: the archive has no entry `{entry}`")));
        };
        if elements.checked_mul(element_bytes).is_none_or(|needed| needed > storage.len()) {
            let found = storage.len();
            return Err(invalid(format!(
                "a storage of {elements} {type_name}, but `{entry}` has {found} bytes"
            )));
        }
        let Some((row_major, count)) = row_major_strides(&shape) else {
            return Err(invalid(format!("the shape {shape:?}, too large for any file")));
        };
        // The stride of a dimension of one element has no meaning, and an empty tensor has no elements at all.
        let is_row_major = count == 0
            || shape.iter().zip(&strides).zip(&row_major).all(|((&size, a), b)| size == 1 || a == b);
        let name = name.to_owned();
        if !is_row_major {
            let float_type = Err(format!("{type_name} with the strides {strides:?}"));
            return Ok(StoredTensor { name, shape, float_type, bytes: 0..0 });
        }
        if offset.checked_add(count).is_none_or(|end| end > elements) {
            let place = format!("the shape {shape:?} at element {offset} of a storage of {elements}");
            return Err(invalid(place));
        }
        let float_type = match type_name {
            "F32" => Ok(FloatType::F32),
            "F16" => Ok(FloatType::F16),
            "BF16" => Ok(FloatType::Bf16),
            other => Err(other.to_owned()),
        };
        let start = storage.start + offset * element_bytes;
        Ok(StoredTensor { name, shape, float_type, bytes: start..start + count * element_bytes })
    }
}

/// A tensor as its file describes it: a view of a storage.
struct StorageView<'p> {
    /// The entry of the storage, in the folder `data`.
    key: &'p str,
    type_name: &'static str,
    element_bytes: usize,
    /// Number of elements of the storage.
    elements: usize,
    /// The tensor's first element in the storage.
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl<'p> StorageView<'p> {
    /// Reads the arguments of the call: storage, offset, shape, strides, and others without effect on the values.
    fn read(pickle: &Pickle<'p>, arguments: &[ValueId]) -> Option<Self> {
        let &[storage, offset, shape, strides, ..] = arguments else { return None };
        let Value::Persistent(storage) = *pickle.get(storage) else { return None };
        let &[_, class, key, _, elements, ..] = pickle.tuple(storage)? else { return None };
        let (&Value::Global(class), &Value::Text(key)) = (pickle.get(class), pickle.get(key)) else {
            return None;
        };
        let &(_, type_name, element_bytes) = STORAGES.iter().find(|(known, ..)| *known == class)?;
        let (shape, strides) = (pickle.sizes(shape)?, pickle.sizes(strides)?);
        if shape.len() != strides.len() || shape.len() > MAX_DIMENSIONS {
            return None;
        }
        let (elements, offset) = (pickle.size(elements)?, pickle.size(offset)?);
        Some(Self { key, type_name, element_bytes, elements, offset, shape, strides })
    }
}

/// Returns the strides of a row-major tensor, in elements, and the number of its elements; `None` if that overflows.
fn row_major_strides(shape: &[usize]) -> Option<(Vec<usize>, usize)> {
    let mut strides = vec![1; shape.len()];
    let mut count: usize = 1;
    for (stride, &size) in strides.iter_mut().zip(shape).rev() {
        *stride = count;
        count = count.checked_mul(size)?;
    }
    Some((strides, count))
}

fn damaged(path: &Path, reason: impl Into<String>) -> ImportError {
    ImportError::PyTorchDamaged { path: path.to_owned(), reason: reason.into() }
}

fn refused(path: &Path, reason: impl Into<String>) -> ImportError {
    ImportError::PyTorchRefused { path: path.to_owned(), reason: reason.into() }
}
