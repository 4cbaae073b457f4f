//! Weights by name, as f32, from one or several memory-mapped files.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use memmap2::Mmap;
use serde::Deserialize;

use crate::{
    ImportError, file,
    float_type::{FloatType, coordinates},
    json, mapped, pytorch_bin, safetensors,
    stored_tensor::StoredTensor,
};

/// The name of unsharded weights.
pub(crate) const WEIGHTS: &str = "model.safetensors";

/// The files that name all tensors, in the order in which transformers looks for them: weights, or an index of shards.
const ROOTS: [&str; 4] =
    [WEIGHTS, "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Values converted at a time: 256 KiB of f32, which fit the L2 cache.
const CHUNK: usize = 65_536;

/// One mapped file whose tensors have been checked to lie within it.
struct Shard {
    path: PathBuf,
    map: Mmap,
    tensors: Vec<StoredTensor>,
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self, ImportError> {
        let map = mapped::map(&path, "it holds weights")?;
        let tensors = if path.extension().is_some_and(|extension| extension == "safetensors") {
            safetensors::read(&map)
                .map_err(|source| ImportError::Safetensors { path: path.clone(), source })?
        } else {
            pytorch_bin::read(&path, &map)?
        };
        Ok(Self { path, map, tensors })
    }
}

/// The tensors of one model.
pub(crate) struct Weights {
    /// The file that names the tensors: the weights, or the index of their shards.
    path: PathBuf,
    shards: Vec<Shard>,
    /// Maps the name without prefix to the index of the shard and that of the tensor in it.
    names: HashMap<String, (usize, usize)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Finds the file in `folder` that names the tensors: the weights, or the index of their shards.
    fn root(folder: &Path) -> Option<PathBuf> {
        ROOTS.iter().map(|name| folder.join(name)).find(|path| path.exists())
    }

    /// Returns true if `folder` holds weights, in any format.
    pub(crate) fn exist(folder: &Path) -> bool {
        Self::root(folder).is_some()
    }

    /// Returns the files that hold the weights in `folder`: one, or else an index and its shards. All of them exist and
    /// can be opened.
    pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
        let root = Self::root(folder).unwrap_or_else(|| folder.join(WEIGHTS));
        let mut files = vec![root.clone()];
        if is_index(&root) {
            let mut shards: Vec<String> = json::read::<Index>(&root, "")?.weight_map.into_values().collect();
            shards.sort_unstable();
            shards.dedup();
            for shard in shards {
                files.push(json::resolve_within(folder, &shard, &root)?);
            }
        }
        for path in &files {
            file::open(path, "it holds the weights")?;
        }
        Ok(files)
    }

    /// Opens the weights in `folder`. A tensor is found by its name with or without one of `prefixes`.
    pub(crate) fn open(folder: &Path, prefixes: &[&str]) -> Result<Self, ImportError> {
        let mut files = Self::files(folder)?;
        let path = files[0].clone();
        if is_index(&path) {
            files.remove(0);
        }
        let mut shards = Vec::new();
        let mut names = HashMap::new();
        for file in files {
            let shard = Shard::open(file)?;
            for (index, StoredTensor { name, .. }) in shard.tensors.iter().enumerate() {
                let short = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
                // Old checkpoints name the scale and shift of a layer norm gamma and beta.
                let short = match short.rsplit_once('.') {
                    Some((module, "gamma")) => format!("{module}.weight"),
                    Some((module, "beta")) => format!("{module}.bias"),
                    _ => short.to_owned(),
                };
                names.insert(short, (shards.len(), index));
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
        let location = self.find(tensor, expected)?.rows(rows, expected.iter().skip(1).product());
        let bytes = &self.shards[location.shard].map[location.bytes.clone()];
        self.check_finite(tensor, expected, &location, bytes)?;
        Ok((location.float_type, bytes))
    }

    /// Returns an error if the elements with these `bytes` hold NaN or an infinity.
    fn check_finite(
        &self,
        tensor: &str,
        shape: &[usize],
        location: &TensorLocation,
        bytes: &[u8],
    ) -> Result<(), ImportError> {
        let Some(index) = location.float_type.first_not_finite(bytes) else { return Ok(()) };
        Err(ImportError::NotFinite {
            path: self.shards[location.shard].path.clone(),
            tensor: self.stored_name(tensor).to_owned(),
            index: coordinates(shape, location.first + index),
            value: location.float_type.value(bytes, index),
        })
    }

    /// Returns the name of a tensor in its file.
    fn stored_name<'a>(&'a self, tensor: &'a str) -> &'a str {
        self.names.get(tensor).map_or(tensor, |&(shard, index)| &self.shards[shard].tensors[index].name)
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
        self.check_finite(tensor, expected, &location, bytes)?;
        Ok(location)
    }

    /// Returns the error for a tensor that is missing.
    pub(crate) fn missing(&self, tensor: &str, expected: &[usize]) -> ImportError {
        let (path, tensor) = (self.path.clone(), tensor.to_owned());
        ImportError::MissingTensor { path, tensor, expected: expected.to_vec() }
    }

    /// Finds a tensor and checks its shape and type.
    pub(crate) fn find(&self, tensor: &str, expected: &[usize]) -> Result<TensorLocation, ImportError> {
        let Some(&(shard, index)) = self.names.get(tensor) else {
            return Err(self.missing(tensor, expected));
        };
        let (path, stored) = (self.shards[shard].path.clone(), &self.shards[shard].tensors[index]);
        let tensor = stored.name.clone();
        if stored.shape != expected {
            let found = stored.shape.clone();
            return Err(ImportError::TensorShape { path, tensor, expected: expected.to_vec(), found });
        }
        match &stored.float_type {
            Ok(float_type) => {
                Ok(TensorLocation { shard, bytes: stored.bytes.clone(), first: 0, float_type: *float_type })
            }
            Err(found) => Err(ImportError::TensorType { path, tensor, found: found.clone() }),
        }
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
    /// Index of the first element in the tensor.
    first: usize,
    float_type: FloatType,
}

impl TensorLocation {
    /// Returns the location of some rows, each of `width` elements.
    fn rows(self, rows: Range<usize>, width: usize) -> Self {
        let (start, size) = (self.bytes.start, width * self.float_type.size());
        let bytes = start + rows.start * size..start + rows.end * size;
        Self { bytes, first: rows.start * width, ..self }
    }
}

fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}
