//! Memory of a process with all its descendants.

use std::fs;

use crate::cpu;

/// Bytes of memory that the process and its living descendants hold, shared pages by their share (PSS).
pub fn held(root: u32) -> u64 {
    cpu::family(root).into_iter().map(of_one).sum()
}

fn of_one(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
