//! The program behind `cargo xtask stress`.

use std::process::ExitCode;

fn main() -> ExitCode {
    testkit::process::exit_code(stress::main())
}
