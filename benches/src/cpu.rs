//! Processor time of a process with all its descendants.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// User and system time that the process and its living descendants have used so far.
pub fn used(root: u32) -> Duration {
    let table = table();
    let ticks: u64 = family_in(&table, root).iter().filter_map(|pid| Some(table.get(pid)?.1)).sum();
    // A tick is 10 ms on Linux, for every program (USER_HZ).
    Duration::from_millis(ticks * 10)
}

/// The process and its living descendants.
pub fn family(root: u32) -> Vec<u32> {
    family_in(&table(), root)
}

fn family_in(table: &HashMap<u32, (u32, u64)>, root: u32) -> Vec<u32> {
    let mut family = vec![root];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(table.iter().filter(|(_, (of, _))| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

/// Every process, with its parent and the ticks that it has used.
fn table() -> HashMap<u32, (u32, u64)> {
    let mut table = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The program's name, in brackets, may hold anything.
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number =
            |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        table.insert(pid, (number(1) as u32, number(11) + number(12)));
    }
    table
}
