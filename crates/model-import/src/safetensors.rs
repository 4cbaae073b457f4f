//! The header of a safetensors file.

use safetensors::{SafeTensorError, SafeTensors, tensor::Dtype};

use crate::{float_type::FloatType, stored_tensor::StoredTensor};

/// Finds the tensors of a file, in the order of their data.
///
/// # Errors
/// The file is truncated, or its header contradicts its size.
pub(crate) fn read(file: &[u8]) -> Result<Vec<StoredTensor>, SafeTensorError> {
    let (length, header) = SafeTensors::read_metadata(file)?;
    // The length of the header is itself stored in the first 8 bytes.
    let data = 8 + length;
    let tensors = header.offset_keys().into_iter().filter_map(|name| {
        let info = header.info(&name)?;
        let float_type = match info.dtype {
            Dtype::F32 => Ok(FloatType::F32),
            Dtype::F16 => Ok(FloatType::F16),
            Dtype::BF16 => Ok(FloatType::Bf16),
            other => Err(other.to_string()),
        };
        // In bounds: the library has verified that the offsets tile the data exactly.
        let bytes = data + info.data_offsets.0..data + info.data_offsets.1;
        Some(StoredTensor { name, shape: info.shape.clone(), float_type, bytes })
    });
    Ok(tensors.collect())
}
