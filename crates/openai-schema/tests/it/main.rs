//! The wire format from outside: known bodies, known faults, and laws that hold for all of them.
#![allow(clippy::unwrap_used)]

mod captures;
mod fuzz;
mod laws;
mod memory;
mod reference;
mod request;
mod response;
