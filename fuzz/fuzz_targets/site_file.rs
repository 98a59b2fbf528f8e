//! No text brings the reader of site files down, and whatever it finds wrong has a place inside the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mainstay_site::{Inputs, Site};

fuzz_target!(|text: &str| {
    let errors = match Site::parse(text, "site.toml") {
        Ok(site) => {
            // What was read can be planned, whatever it says.
            let _ = (site.plans(&Inputs::default()), site.survival(), site.not_yet());
            return;
        }
        Err(errors) => errors,
    };
    let lines: Vec<&str> = text.split('\n').collect();
    let problems = errors.placed();
    assert!(!problems.is_empty(), "refused without a reason");
    for problem in problems {
        assert!(problem.line >= 1 && problem.column >= 1, "{problem:?}");
        let line = lines.get(problem.line - 1).expect("a line of the text");
        // One behind the last character is where something is missing.
        assert!(problem.column <= line.chars().count() + 1, "{problem:?}");
    }
    let _ = errors.to_string();
});
