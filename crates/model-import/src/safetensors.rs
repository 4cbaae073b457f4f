//! Weights by name, as f32, out of one or several safetensors files, without holding them in memory.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{
    SafeTensors,
    tensor::{Dtype, Metadata},
};
use serde::Deserialize;

use crate::{ImportError, json, mapped};

/// The one-file name.
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// The list of shards, where the weights are split.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Values converted at a time: 256 KiB of f32, which stays in the second-level cache.
const CHUNK: usize = 65_536;

/// One mapped file whose header has been checked against its size.
struct Shard {
    path: PathBuf,
    map: Mmap,
    header: Metadata,
    /// Where the tensors begin.
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
    /// What names the tensors: the file, or the index of its shards.
    path: PathBuf,
    shards: Vec<Shard>,
    /// From the name without prefix to the shard and its full name.
    names: HashMap<String, (usize, String)>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// The files that hold the weights in `folder`: one, or an index and its shards. All of them are there.
    pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
        let index = folder.join(INDEX);
        let mut files = Vec::new();
        if index.exists() {
            let mut shards: Vec<String> = json::read::<Index>(&index, "")?.weight_map.into_values().collect();
            shards.sort_unstable();
            shards.dedup();
            files.push(index.clone());
            for shard in shards {
                files.push(json::inside(folder, &shard, &index)?);
            }
        } else {
            files.push(folder.join(WEIGHTS));
        }
        let Some(missing) = files.iter().find(|file| !file.is_file()) else { return Ok(files) };
        let hint = if folder.join("pytorch_model.bin").exists() {
            "the weights are in PyTorch's pickle format; save the model again with `safe_serialization=True`"
        } else {
            "it holds the weights"
        };
        Err(ImportError::Missing { path: missing.clone(), hint: hint.to_owned() })
    }

    /// Opens the weights in `folder`. A name is found with any of `prefixes` before it, or none.
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
                // What old checkpoints call the scale and shift of a layer norm.
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

    /// Bytes of all files, for progress.
    pub(crate) fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.map.len() as u64).sum()
    }

    /// Hands a tensor's values to `sink` in order, in pieces.
    pub(crate) fn stream(
        &self,
        tensor: &str,
        expected: &[usize],
        sink: &mut dyn FnMut(&[f32]) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let Some((index, name)) = self.names.get(tensor) else {
            let (path, tensor) = (self.path.clone(), tensor.to_owned());
            return Err(ImportError::MissingTensor { path, tensor, expected: expected.to_vec() });
        };
        let shard = &self.shards[*index];
        let (path, tensor) = (shard.path.clone(), name.clone());
        let Some(info) = shard.header.info(name) else {
            return Err(ImportError::MissingTensor { path, tensor, expected: expected.to_vec() });
        };
        if info.shape != expected {
            let found = info.shape.clone();
            return Err(ImportError::TensorShape { path, tensor, expected: expected.to_vec(), found });
        }
        // In bounds: the header check proved that the offsets tile the data exactly.
        let bytes = &shard.map[shard.data + info.data_offsets.0..shard.data + info.data_offsets.1];
        match info.dtype {
            Dtype::F32 => convert(bytes, f32::from_le_bytes, sink),
            Dtype::F16 => convert(bytes, |bytes| f16::from_le_bytes(bytes).to_f32(), sink),
            Dtype::BF16 => convert(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32(), sink),
            other => Err(ImportError::TensorType { path, tensor, found: format!("{other:?}") }),
        }
    }

    /// A whole tensor, row-major.
    pub(crate) fn tensor(&self, tensor: &str, expected: &[usize]) -> Result<Vec<f32>, ImportError> {
        let mut values = Vec::new();
        self.stream(tensor, expected, &mut |piece| {
            values.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(values)
    }
}

fn convert<const SIZE: usize>(
    bytes: &[u8],
    decode: impl Fn([u8; SIZE]) -> f32,
    sink: &mut dyn FnMut(&[f32]) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    let mut values = Vec::with_capacity(CHUNK.min(bytes.len() / SIZE));
    let (elements, _) = bytes.as_chunks::<SIZE>();
    for piece in elements.chunks(CHUNK) {
        values.clear();
        values.extend(piece.iter().map(|&element| decode(element)));
        sink(&values)?;
    }
    Ok(())
}
