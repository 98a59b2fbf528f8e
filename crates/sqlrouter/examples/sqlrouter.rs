//! The role by itself, with a configuration file: `cargo run -p mainstay-sqlrouter --example sqlrouter -- router.json`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Some(path) = std::env::args().nth(1) else {
        tracing::error!("name the configuration file");
        return ExitCode::FAILURE;
    };
    let config = std::fs::read(&path)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
    match config.and_then(|config| mainstay_sqlrouter::run(&config).map_err(|error| error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the router cannot run");
            ExitCode::FAILURE
        }
    }
}
