//! The program behind `cargo xtask bench`.

use std::process::ExitCode;

fn main() -> ExitCode {
    testkit::process::exit_code(bench::main().map(|()| true))
}
