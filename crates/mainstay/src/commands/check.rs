//! `mainstay check`.

use std::path::Path;
use std::process::ExitCode;

use mainstay_site::{LoadError, Site};

use super::Done;
use crate::output;

pub(super) fn run(path: &Path, json: bool) -> Done {
    match Site::load(path) {
        Ok(site) => {
            if json {
                output::line("[]");
            } else {
                let servers = site.servers.len();
                let plural = if servers == 1 { "" } else { "s" };
                output::line(&format!("{}: fine ({servers} server{plural})", path.display()));
                for part in site.not_yet() {
                    output::line(&format!("  not carried out by this version yet: {part}"));
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(LoadError::Wrong(errors)) if json => {
            let text = serde_json::to_string_pretty(&errors.placed()).unwrap_or_default();
            output::line(&text);
            Ok(ExitCode::from(2))
        }
        Err(error) => Err(error.into()),
    }
}
