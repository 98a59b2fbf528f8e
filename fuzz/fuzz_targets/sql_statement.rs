//! Any text as a statement: never a panic, and what follows a plain read in a string or comment leaves it a plain read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mainstay_sqlrouter::statement::{Kind, Mode, classify};

fuzz_target!(|text: &[u8]| {
    for number in 0..4 {
        let mode = Mode { ansi_quotes: number & 1 != 0, no_backslash_escapes: number & 2 != 0 };
        let alone = classify(text, mode);
        // What a text does cannot become harmless by what stands before it.
        if alone.kind == Kind::Read {
            let after = [b"INSERT INTO t ", text].concat();
            assert_eq!(classify(&after, mode).kind, Kind::Write);
        }
    }
    if !text.windows(2).any(|pair| pair == b"*/") {
        let commented = [b"SELECT a FROM t /* ", text, b" */"].concat();
        if !text.starts_with(b"mainstay") {
            assert_eq!(classify(&commented, Mode::default()).kind, Kind::Read);
        }
    }
});
