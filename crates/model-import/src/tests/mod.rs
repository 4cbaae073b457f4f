//! Tests on the tiny models of `tests/tiny-models`: random weights, one folder per architecture and head.

mod dynamic_quantization;
mod encoder;
mod fixture;
mod folder;
mod fuzz;
mod graph;
mod hostile;
mod import;
mod manifest;
mod network;
mod onnx_folder;
mod pipeline;
mod safetensors;
