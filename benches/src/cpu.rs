//! Processor time of a process with all its descendants.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// User and system time that the process and its living descendants have used so far.
pub fn used(root: u32) -> Duration {
    let (mut children, mut ticks) = (HashMap::<u32, Vec<u32>>::new(), HashMap::new());
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
        children.entry(number(1) as u32).or_default().push(pid);
        ticks.insert(pid, number(11) + number(12));
    }
    let (mut waiting, mut sum) = (vec![root], 0);
    while let Some(pid) = waiting.pop() {
        sum += ticks.get(&pid).copied().unwrap_or(0);
        waiting.extend(children.get(&pid).into_iter().flatten());
    }
    // A tick is 10 ms on Linux, for every program (USER_HZ).
    Duration::from_millis(sum * 10)
}
