//! The encoders that compute models: embedgate's native kernels, and ONNX Runtime.

pub(crate) mod native;
pub(crate) mod onnx;
mod shape_buckets;
