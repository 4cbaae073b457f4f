//! Weights by name, as f32, out of one or several safetensors files, without holding them in memory.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{
    SafeTensors,
    tensor::{Dtype, Metadata},
};
use serde::Deserialize;

use crate::{
    ImportError,
    element::{Element, coordinates},
    file, json, mapped,
};

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
    /// The files that hold the weights in `folder`: one, or else an index and its shards, as transformers looks for
    /// them. All of them are there and can be opened.
    pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
        let (whole, index) = (folder.join(WEIGHTS), folder.join(INDEX));
        let mut files = Vec::new();
        if !whole.exists() && index.exists() {
            let mut shards: Vec<String> = json::read::<Index>(&index, "")?.weight_map.into_values().collect();
            shards.sort_unstable();
            shards.dedup();
            files.push(index.clone());
            for shard in shards {
                files.push(json::inside(folder, &shard, &index)?);
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

    /// Hands a tensor's values, once all have been found finite, to `sink` in order, in pieces.
    pub(crate) fn stream(
        &self,
        tensor: &str,
        expected: &[usize],
        sink: &mut dyn FnMut(&[f32]) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let stored = self.find(tensor, expected)?;
        let bytes = &self.shards[stored.shard].map[stored.bytes.clone()];
        self.check_finite(tensor, expected, &stored, bytes)?;
        match stored.element {
            Element::F64 => convert(bytes, |bytes| f64::from_le_bytes(bytes) as f32, sink),
            Element::F32 => convert(bytes, f32::from_le_bytes, sink),
            Element::F16 => convert(bytes, |bytes| f16::from_le_bytes(bytes).to_f32(), sink),
            Element::Bf16 => convert(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32(), sink),
        }
    }

    /// Refuses a tensor that holds NaN or an infinity among its `bytes`.
    fn check_finite(
        &self,
        tensor: &str,
        shape: &[usize],
        stored: &Stored,
        bytes: &[u8],
    ) -> Result<(), ImportError> {
        let Some(index) = stored.element.first_not_finite(bytes) else { return Ok(()) };
        Err(ImportError::NotFinite {
            path: self.shards[stored.shard].path.clone(),
            tensor: self.names.get(tensor).map_or(tensor, |(_, name)| name).to_owned(),
            index: coordinates(shape, index),
            value: stored.element.value(bytes, index),
        })
    }

    /// Finds a tensor that will be read row by row, and checks all its values. The check uses a separate memory map, so
    /// that the pages it touches do not stay resident.
    pub(crate) fn find_rows(&self, tensor: &str, expected: &[usize]) -> Result<Stored, ImportError> {
        let stored = self.find(tensor, expected)?;
        let path = &self.shards[stored.shard].path;
        let map = mapped::map(path, "it holds weights")?;
        let Some(bytes) = map.get(stored.bytes.clone()) else {
            let source = io::ErrorKind::UnexpectedEof.into();
            return Err(ImportError::Read { path: path.clone(), source });
        };
        self.check_finite(tensor, expected, &stored, bytes)?;
        Ok(stored)
    }

    /// Where a tensor lies, once its shape and type have been checked.
    pub(crate) fn find(&self, tensor: &str, expected: &[usize]) -> Result<Stored, ImportError> {
        let missing = |path: &Path, tensor: &str| ImportError::MissingTensor {
            path: path.to_owned(),
            tensor: tensor.to_owned(),
            expected: expected.to_vec(),
        };
        let Some((index, name)) = self.names.get(tensor) else { return Err(missing(&self.path, tensor)) };
        let shard = &self.shards[*index];
        let Some(info) = shard.header.info(name) else { return Err(missing(&shard.path, name)) };
        let (path, tensor) = (shard.path.clone(), name.clone());
        if info.shape != expected {
            let found = info.shape.clone();
            return Err(ImportError::TensorShape { path, tensor, expected: expected.to_vec(), found });
        }
        let element = match info.dtype {
            Dtype::F32 => Element::F32,
            Dtype::F16 => Element::F16,
            Dtype::BF16 => Element::Bf16,
            other => {
                return Err(ImportError::TensorType { path, tensor, found: other.to_string() });
            }
        };
        // In bounds: the header check proved that the offsets tile the data exactly.
        let bytes = shard.data + info.data_offsets.0..shard.data + info.data_offsets.1;
        Ok(Stored { shard: *index, bytes, element })
    }

    /// A whole tensor, row-major, with finite values only; borrowed from the file if possible.
    pub(crate) fn view(&self, tensor: &str, expected: &[usize]) -> Result<Cow<'_, [f32]>, ImportError> {
        let stored = self.find(tensor, expected)?;
        let bytes = &self.shards[stored.shard].map[stored.bytes.clone()];
        match (stored.element, bytemuck::try_cast_slice(bytes)) {
            (Element::F32, Ok(values)) if cfg!(target_endian = "little") => {
                self.check_finite(tensor, expected, &stored, bytes)?;
                Ok(Cow::Borrowed(values))
            }
            _ => self.tensor(tensor, expected).map(Cow::Owned),
        }
    }

    /// Tells the system that rows will be read here and there. By default it maps a page's neighbours, too, which
    /// would come to count as resident memory.
    pub(crate) fn scattered(&self) -> Result<(), ImportError> {
        #[cfg(unix)]
        for shard in &self.shards {
            let advised = shard.map.advise(memmap2::Advice::Random);
            advised.map_err(|source| ImportError::Read { path: shard.path.clone(), source })?;
        }
        Ok(())
    }

    /// Writes row `row` of a matrix of `out.len()` columns.
    ///
    /// # Panics
    /// When there is no such row.
    pub(crate) fn row(&self, stored: &Stored, row: usize, out: &mut [f32]) {
        let bytes = &self.shards[stored.shard].map[stored.bytes.clone()];
        let size = out.len() * stored.element.size();
        let bytes = &bytes[row * size..(row + 1) * size];
        match stored.element {
            Element::F64 => decode(bytes, out, |bytes| f64::from_le_bytes(bytes) as f32),
            Element::F32 => decode(bytes, out, f32::from_le_bytes),
            Element::F16 => decode(bytes, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Element::Bf16 => decode(bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
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

/// A tensor's place.
#[derive(Debug)]
pub(crate) struct Stored {
    shard: usize,
    bytes: Range<usize>,
    element: Element,
}

fn decode<const SIZE: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; SIZE]) -> f32) {
    let (elements, _) = bytes.as_chunks::<SIZE>();
    out.iter_mut().zip(elements).for_each(|(out, &element)| *out = decode(element));
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
