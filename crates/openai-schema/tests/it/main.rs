//! Tests of the wire format: known bodies, known errors, and properties of all bodies.
#![allow(clippy::unwrap_used)]

mod captures;
mod fuzz;
mod memory;
mod properties;
mod reference;
mod request;
mod response;
