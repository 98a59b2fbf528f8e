//! `mainstay down`.

use std::process::ExitCode;

use mainstay_lab::State;

use super::Done;
use crate::cli::Where;
use crate::output::{self, Progress};

pub(super) fn run(purge: bool, place: &Where) -> Done {
    let state = State::at(&place.state)?;
    if place.site.is_none() && state.sites().is_empty() {
        output::line("Nothing is up.");
        return Ok(ExitCode::SUCCESS);
    }
    let site = state.choose(place.site.as_ref())?;
    let progress = Progress::begin();
    mainstay_lab::down::down(&state, &site, purge, &|who, what| progress.say(who, what))?;
    let rest = if purge {
        "Nothing of it is left."
    } else {
        "Its data and logs stay; `mainstay up` goes on with them."
    };
    output::line(&format!("The site {} is down. {rest}", site.name));
    Ok(ExitCode::SUCCESS)
}
