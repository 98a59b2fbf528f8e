//! A replication log of any bytes: groups are in order, lie within it, and are read in bounded memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mainstay_database::mariadb::binlog::Groups;
use mainstay_database::mariadb::{BinlogState, Position};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(groups) = Groups::new(bytes) {
        let mut end = 4;
        for group in groups.map_while(Result::ok) {
            assert!(group.start >= end && group.end > group.start && group.end <= bytes.len() as u64);
            end = group.end;
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(position) = text.parse::<Position>() {
        assert_eq!(position.to_string().parse(), Ok(position));
    }
    if let Ok(state) = text.parse::<BinlogState>() {
        assert_eq!(state.to_string().parse(), Ok(state));
    }
});
