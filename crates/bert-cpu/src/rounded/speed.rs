//! Measurement of bf16 against f32 on this CPU.
