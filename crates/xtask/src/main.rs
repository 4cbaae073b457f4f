//! `cargo xtask`: the developers' commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main()
}
