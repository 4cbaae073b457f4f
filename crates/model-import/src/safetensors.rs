//! Weights by name, as f32, from one or several memory-mapped safetensors files.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use safetensors::{
    SafeTensors,
    tensor::{Dtype, Metadata},
};
use serde::Deserialize;

use crate::{
    ImportError, file,
    float_type::{FloatType, coordinates},
    json, mapped,
};

/// The name of unsharded weights.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// The name of the index of sharded weights.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Values converted at a time: 256 KiB of f32, which fit the L2 cache.
const CHUNK: usize = 65_536;

/// One mapped file whose header has been checked against its size.
struct Shard {
    path: PathBuf,
    map: Mmap,
    header: Metadata,
    /// Offset of the tensors in the file.
    data: usize,
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self, ImportError> {
        let map = mapped::map(&path, "it holds weights")?;
        match SafeTensors::read_metadata(&map) {
            // The length of the header is itself stored in the first 8 bytes.
            Ok((length, header)) => Ok(Self { path, data: 8 + length, header, map }),
            Err(source) => Err(ImportError::Safetensors { path, source }),
        }
    }
}

/// The tensors of one model.
pub(crate) struct Weights {
    /// The file that names the tensors: the weights, or the index of their shards.
    path: PathBuf,
    shards: Vec<Shard>,
    /// Maps the name without prefix to the shard and the full name.
    names: HashMap<String, (usize, String)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Returns the files that hold the weights in `folder`: one, or else an index and its shards, in the order in which
    /// transformers looks for them. All of them exist and can be opened.
    pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
        let (whole, index) = (folder.join(WEIGHTS), folder.join(INDEX));
        let mut files = Vec::new();
        if !whole.exists() && index.exists() {
            let mut shards: Vec<String> = json::read::<Index>(&index, "")?.weight_map.into_values().collect();
            shards.sort_unstable();
            shards.dedup();
            files.push(index.clone());
            for shard in shards {
                files.push(json::resolve_within(folder, &shard, &index)?);
            }
        } else {
            files.push(whole);
        }
        let hint = if folder.join("pytorch_model.bin").exists() {
            "the weights are in PyTorch's pickle format; save the model again with `safe_serialization=True`"
        } else {
            "it holds the weights"
        };
        for path in &files {
            file::open(path, hint)?;
        }
        Ok(files)
    }

    /// Opens the weights in `folder`. A tensor is found by its name with or without one of `prefixes`.
    pub(crate) fn open(folder: &Path, prefixes: &[&str]) -> Result<Self, ImportError> {
        let mut files = Self::files(folder)?;
        let path = files[0].clone();
        if files.len() > 1 {
            files.remove(0);
        }
        let mut shards = Vec::new();
        let mut names = HashMap::new();
        for (index, file) in files.into_iter().enumerate() {
            let shard = Shard::open(file)?;
            for name in shard.header.offset_keys() {
                let short = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(&name);
                // Old checkpoints name the scale and shift of a layer norm gamma and beta.
                let short = match short.rsplit_once('.') {
                    Some((module, "gamma")) => format!("{module}.weight"),
                    Some((module, "beta")) => format!("{module}.bias"),
                    _ => short.to_owned(),
                };
                names.insert(short, (index, name));
            }
            shards.push(shard);
        }
        Ok(Self { path, shards, names })
    }

    /// Returns the bytes of all files, for progress.
    pub(crate) fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.map.len() as u64).sum()
    }

    /// Passes a tensor's values to `sink` in order, in chunks, after checking that all are finite.
    pub(crate) fn stream(
        &self,
        tensor: &str,
        expected: &[usize],
        sink: &mut dyn FnMut(&[f32]) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let (float_type, bytes) = self.find_finite(tensor, expected)?;
        let mut values = Vec::new();
        for chunk in bytes.chunks(CHUNK * float_type.size()) {
            values.resize(chunk.len() / float_type.size(), 0.0);
            float_type.decode(chunk, &mut values);
            sink(&values)?;
        }
        Ok(())
    }

    /// Finds a tensor, and returns its type and bytes after checking that all its values are finite.
    fn find_finite(&self, tensor: &str, expected: &[usize]) -> Result<(FloatType, &[u8]), ImportError> {
        self.find_finite_rows(tensor, expected, 0..expected.first().copied().unwrap_or(1))
    }

    /// Finds rows of a tensor, and returns their type and bytes after checking that all their values are finite.
    fn find_finite_rows(
        &self,
        tensor: &str,
        expected: &[usize],
        rows: Range<usize>,
    ) -> Result<(FloatType, &[u8]), ImportError> {
        let location = self.find(tensor, expected)?;
        let row = expected.iter().skip(1).product::<usize>();
        let size = row * location.float_type.size();
        let bytes = &self.shards[location.shard].map[location.bytes.clone()];
        let bytes = &bytes[rows.start * size..rows.end * size];
        self.check_finite(tensor, expected, &location, bytes, rows.start * row)?;
        Ok((location.float_type, bytes))
    }

    /// Returns an error if `bytes`, which begin at element `first` of the tensor, hold NaN or an infinity.
    fn check_finite(
        &self,
        tensor: &str,
        shape: &[usize],
        location: &TensorLocation,
        bytes: &[u8],
        first: usize,
    ) -> Result<(), ImportError> {
        let Some(index) = location.float_type.first_not_finite(bytes) else { return Ok(()) };
        Err(ImportError::NotFinite {
            path: self.shards[location.shard].path.clone(),
            tensor: self.names.get(tensor).map_or(tensor, |(_, name)| name).to_owned(),
            index: coordinates(shape, first + index),
            value: location.float_type.value(bytes, index),
        })
    }

    /// Finds a tensor that will be read row by row, and checks all its values. The check uses a separate memory map, so
    /// that the pages it touches do not stay resident.
    pub(crate) fn find_rows(&self, tensor: &str, expected: &[usize]) -> Result<TensorLocation, ImportError> {
        let location = self.find(tensor, expected)?;
        let path = &self.shards[location.shard].path;
        let map = mapped::map(path, "it holds weights")?;
        let Some(bytes) = map.get(location.bytes.clone()) else {
            let source = io::ErrorKind::UnexpectedEof.into();
            return Err(ImportError::Read { path: path.clone(), source });
        };
        self.check_finite(tensor, expected, &location, bytes, 0)?;
        Ok(location)
    }

    /// Returns the error for a tensor that is missing.
    pub(crate) fn missing(&self, tensor: &str, expected: &[usize]) -> ImportError {
        let (path, tensor) = (self.path.clone(), tensor.to_owned());
        ImportError::MissingTensor { path, tensor, expected: expected.to_vec() }
    }

    /// Finds a tensor and checks its shape and type.
    pub(crate) fn find(&self, tensor: &str, expected: &[usize]) -> Result<TensorLocation, ImportError> {
        let Some((index, name)) = self.names.get(tensor) else { return Err(self.missing(tensor, expected)) };
        let shard = &self.shards[*index];
        let Some(info) = shard.header.info(name) else { return Err(self.missing(name, expected)) };
        let (path, tensor) = (shard.path.clone(), name.clone());
        if info.shape != expected {
            let found = info.shape.clone();
            return Err(ImportError::TensorShape { path, tensor, expected: expected.to_vec(), found });
        }
        let float_type = match info.dtype {
            Dtype::F32 => FloatType::F32,
            Dtype::F16 => FloatType::F16,
            Dtype::BF16 => FloatType::Bf16,
            other => {
                return Err(ImportError::TensorType { path, tensor, found: other.to_string() });
            }
        };
        // In bounds: the header check has verified that the offsets tile the data exactly.
        let bytes = shard.data + info.data_offsets.0..shard.data + info.data_offsets.1;
        Ok(TensorLocation { shard: *index, bytes, float_type })
    }

    /// Returns a whole tensor, row-major, with finite values only; borrowed from the file if possible.
    pub(crate) fn view(&self, tensor: &str, expected: &[usize]) -> Result<Cow<'_, [f32]>, ImportError> {
        self.view_rows(tensor, expected, 0..expected.first().copied().unwrap_or(1))
    }

    /// Returns `rows` of a tensor as [`view`](Self::view) returns a whole one.
    pub(crate) fn view_rows(
        &self,
        tensor: &str,
        expected: &[usize],
        rows: Range<usize>,
    ) -> Result<Cow<'_, [f32]>, ImportError> {
        let (float_type, bytes) = self.find_finite_rows(tensor, expected, rows)?;
        if let (FloatType::F32, Ok(values)) = (float_type, bytemuck::try_cast_slice(bytes))
            && cfg!(target_endian = "little")
        {
            return Ok(Cow::Borrowed(values));
        }
        let mut values = vec![0.0; bytes.len() / float_type.size()];
        float_type.decode(bytes, &mut values);
        Ok(Cow::Owned(values))
    }

    /// Advises the kernel of random access (`madvise`). By default it also maps the neighbors of an accessed page,
    /// which then count as resident memory.
    pub(crate) fn advise_random(&self) -> Result<(), ImportError> {
        #[cfg(unix)]
        for shard in &self.shards {
            let advised = shard.map.advise(memmap2::Advice::Random);
            advised.map_err(|source| ImportError::Read { path: shard.path.clone(), source })?;
        }
        Ok(())
    }

    /// Copies row `row` of a matrix of `out.len()` columns to `out`.
    ///
    /// # Panics
    /// If there is no such row.
    pub(crate) fn read_row(&self, location: &TensorLocation, row: usize, out: &mut [f32]) {
        let bytes = &self.shards[location.shard].map[location.bytes.clone()];
        let size = out.len() * location.float_type.size();
        location.float_type.decode(&bytes[row * size..(row + 1) * size], out);
    }

    /// Returns a whole tensor, row-major.
    pub(crate) fn tensor(&self, tensor: &str, expected: &[usize]) -> Result<Vec<f32>, ImportError> {
        self.view(tensor, expected).map(Cow::into_owned)
    }
}

/// The location and format of a tensor.
#[derive(Debug)]
pub(crate) struct TensorLocation {
    shard: usize,
    bytes: Range<usize>,
    float_type: FloatType,
}
