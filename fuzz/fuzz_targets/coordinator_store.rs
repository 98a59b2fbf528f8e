//! Any bytes as the file of the embedded coordinator, as they are and as lines whose checksums are right: never a panic, and what
//! can be read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mainstay_coordinator::embedded::{read_store, seal_store};

fuzz_target!(|input: &[u8]| {
    read_store(input);
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let mut file = seal_store(&lines);
    read_store(&file);
    // One that begins well, so that what follows is looked at.
    let base: &[u8] = br#"[{"base":{"revision":1,"compacted":0,"lines":0}}]"#;
    let lines: Vec<&[u8]> = std::iter::once(base).chain(lines).collect();
    file = seal_store(&lines);
    read_store(&file);
    file.extend(input);
    read_store(&file);
});
