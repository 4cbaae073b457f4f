//! Tests on the tiny models of `tests/tiny-models`: random weights, one folder per architecture and head.

mod cross_encoder;
mod dynamic_quantization;
mod encoder;
mod families;
mod fixture;
mod folder;
mod fuzz;
mod graph_builder;
mod hostile;
mod import;
mod manifest;
mod network;
mod pipeline;
mod pytorch_bin;
mod ready_made;
mod safetensors;
mod torch_save;
mod wordpiece;
