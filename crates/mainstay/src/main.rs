//! The `mainstay` binary: the command line, and every process that Mainstay itself runs.
//!
//! [`cli`] says what can be asked, each module of [`commands`] answers one command, and [`output`] is the one place that
//! writes to people. Exit codes: 0 done, 1 failed, 2 used wrongly.

mod cli;
mod commands;
mod output;

use std::process::ExitCode;

use clap::Parser as _;

/// About three microseconds cheaper per request than the allocator of glibc (docs/decisions/0012).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    match commands::run(arguments) {
        Ok(code) => code,
        Err(failure) => {
            output::error(&failure.to_string());
            failure.exit_code()
        }
    }
}
