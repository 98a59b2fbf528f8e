//! /proc/meminfo of a host: its control group's limit is all the memory there is.

use std::fmt::Write as _;

/// What the machine has, in bytes: no host has more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) memory_bytes: u64,
    pub(super) swap_bytes: u64,
}

impl Machine {
    /// Out of the machine's own /proc/meminfo.
    pub(super) fn of(meminfo: &str) -> Self {
        let value = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_ascii_whitespace().next()?.parse::<u64>().ok()
        };
        let bytes = |name: &str| value(name).unwrap_or(0) * 1024;
        Self { memory_bytes: bytes("MemTotal"), swap_bytes: bytes("SwapTotal") }
    }
}

/// A control group's memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    limit: u64,
    usage: u64,
    swap_limit: u64,
    swap: u64,
    anonymous: u64,
    file: u64,
    shared: u64,
    mapped: u64,
    dirty: u64,
    writeback: u64,
    active_anonymous: u64,
    inactive_anonymous: u64,
    active_file: u64,
    inactive_file: u64,
    unevictable: u64,
    slab_reclaimable: u64,
    slab_unreclaimable: u64,
    kernel_stack: u64,
    page_tables: u64,
}

impl Memory {
    /// Out of a version 1 group's `memory.limit_in_bytes`, `memory.usage_in_bytes` and `memory.stat`; nothing if its
    /// memory is not bounded.
    pub(super) fn of_version_1(limit: &str, usage: &str, stat: &str, machine: Machine) -> Option<Self> {
        let of = |name: &str| field(stat, &["total_", name].concat());
        Some(Self {
            limit: bound(limit, machine)?,
            usage: usage.trim().parse().ok()?,
            swap_limit: machine.swap_bytes,
            swap: of("swap"),
            anonymous: of("rss"),
            file: of("cache"),
            mapped: of("mapped_file"),
            ..Self::alike(of)
        })
    }

    /// Likewise out of a version 2 group's `memory.max`, `memory.current`, `memory.stat`, `memory.swap.max` and
    /// `memory.swap.current`.
    pub(super) fn of_version_2(
        [max, current, stat, swap_max, swap_current]: [&str; 5],
        machine: Machine,
    ) -> Option<Self> {
        let of = |name: &str| field(stat, name);
        Some(Self {
            limit: bound(max, machine)?,
            usage: current.trim().parse().ok()?,
            swap_limit: swap_max
                .trim()
                .parse()
                .map_or(machine.swap_bytes, |max: u64| max.min(machine.swap_bytes)),
            swap: swap_current.trim().parse().unwrap_or(0),
            anonymous: of("anon"),
            file: of("file"),
            mapped: of("file_mapped"),
            dirty: of("file_dirty"),
            writeback: of("file_writeback"),
            slab_reclaimable: of("slab_reclaimable"),
            slab_unreclaimable: of("slab_unreclaimable"),
            kernel_stack: of("kernel_stack"),
            page_tables: of("pagetables"),
            ..Self::alike(of)
        })
    }

    /// The fields that both versions call by the same names.
    fn alike(of: impl Fn(&str) -> u64) -> Self {
        Self {
            shared: of("shmem"),
            dirty: of("dirty"),
            writeback: of("writeback"),
            active_anonymous: of("active_anon"),
            inactive_anonymous: of("inactive_anon"),
            active_file: of("active_file"),
            inactive_file: of("inactive_file"),
            unevictable: of("unevictable"),
            ..Self::default()
        }
    }

    /// The file as the kernel would write it (proc(5)), as far as a group knows: what is left out is the machine's alone.
    pub(super) fn render(&self) -> String {
        let free = self.limit.saturating_sub(self.usage);
        // What the kernel would give up at once for a program that asks.
        let spare = self.active_file + self.inactive_file + self.slab_reclaimable;
        let lines = [
            ("MemTotal", self.limit),
            ("MemFree", free),
            ("MemAvailable", (free + spare).min(self.limit)),
            ("Buffers", 0),
            ("Cached", self.file),
            ("SwapCached", 0),
            ("Active", self.active_anonymous + self.active_file),
            ("Inactive", self.inactive_anonymous + self.inactive_file),
            ("Active(anon)", self.active_anonymous),
            ("Inactive(anon)", self.inactive_anonymous),
            ("Active(file)", self.active_file),
            ("Inactive(file)", self.inactive_file),
            ("Unevictable", self.unevictable),
            ("SwapTotal", self.swap_limit),
            ("SwapFree", self.swap_limit.saturating_sub(self.swap)),
            ("Dirty", self.dirty),
            ("Writeback", self.writeback),
            ("AnonPages", self.anonymous),
            ("Mapped", self.mapped),
            ("Shmem", self.shared),
            ("KReclaimable", self.slab_reclaimable),
            ("Slab", self.slab_reclaimable + self.slab_unreclaimable),
            ("SReclaimable", self.slab_reclaimable),
            ("SUnreclaim", self.slab_unreclaimable),
            ("KernelStack", self.kernel_stack),
            ("PageTables", self.page_tables),
        ];
        let mut text = String::with_capacity(lines.len() * 28);
        for (name, bytes) in lines {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{:<15} {:>8} kB", [name, ":"].concat(), bytes / 1024);
        }
        text
    }
}

/// A limit that bounds anything. Version 1 says nearly 2^63 for none, version 2 `max`.
fn bound(limit: &str, machine: Machine) -> Option<u64> {
    limit.trim().parse().ok().filter(|limit| *limit < machine.memory_bytes)
}

/// A line of `memory.stat`: name and number.
fn field(stat: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    stat.lines().find_map(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { memory_bytes: 24 << 30, swap_bytes: 1 << 30 };

    #[test]
    fn the_machine_is_read_out_of_its_own_file() {
        let text = "MemTotal:       25165824 kB\nMemFree:         4528668 kB\nSwapTotal:       1048576 kB\n";
        assert_eq!(Machine::of(text), MACHINE);
        assert_eq!(Machine::of(""), Machine { memory_bytes: 0, swap_bytes: 0 });
    }

    #[test]
    fn a_version_1_group_reads_as_a_machine_of_its_limit() {
        let stat = "cache 1\nrss 2\ntotal_cache 104857600\ntotal_rss 52428800\ntotal_shmem 1048576\n\
            total_mapped_file 2097152\ntotal_dirty 4096\ntotal_writeback 0\ntotal_swap 10485760\n\
            total_inactive_anon 52428800\ntotal_active_anon 1048576\ntotal_inactive_file 62914560\n\
            total_active_file 41943040\ntotal_unevictable 0\n";
        let memory = Memory::of_version_1("536870912\n", "167772160\n", stat, MACHINE).unwrap();
        insta::assert_snapshot!(memory.render(), @r"
        MemTotal:         524288 kB
        MemFree:          360448 kB
        MemAvailable:     462848 kB
        Buffers:               0 kB
        Cached:           102400 kB
        SwapCached:            0 kB
        Active:            41984 kB
        Inactive:         112640 kB
        Active(anon):       1024 kB
        Inactive(anon):    51200 kB
        Active(file):      40960 kB
        Inactive(file):    61440 kB
        Unevictable:           0 kB
        SwapTotal:       1048576 kB
        SwapFree:        1038336 kB
        Dirty:                 4 kB
        Writeback:             0 kB
        AnonPages:         51200 kB
        Mapped:             2048 kB
        Shmem:              1024 kB
        KReclaimable:          0 kB
        Slab:                  0 kB
        SReclaimable:          0 kB
        SUnreclaim:            0 kB
        KernelStack:           0 kB
        PageTables:            0 kB
        ");
    }

    #[test]
    fn a_version_2_group_counts_its_slab_and_its_own_swap_limit() {
        let stat = "anon 1048576\nfile 2097152\nkernel_stack 65536\npagetables 131072\nshmem 0\nfile_mapped 4096\n\
            file_dirty 8192\nfile_writeback 0\ninactive_anon 1048576\nactive_anon 0\ninactive_file 2097152\n\
            active_file 0\nunevictable 0\nslab_reclaimable 524288\nslab_unreclaimable 262144\n";
        let texts = ["1073741824\n", "4194304\n", stat, "0\n", "0\n"];
        let text = Memory::of_version_2(texts, MACHINE).unwrap().render();
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert_eq!(line("MemTotal"), "MemTotal:        1048576 kB");
        assert_eq!(line("MemAvailable"), "MemAvailable:    1047040 kB");
        assert_eq!(line("Slab"), "Slab:                768 kB");
        assert_eq!(line("SwapTotal"), "SwapTotal:             0 kB");
        assert_eq!(line("Dirty"), "Dirty:                 8 kB");
    }

    #[test]
    fn a_group_without_a_bound_is_no_machine_of_its_own() {
        assert_eq!(Memory::of_version_1("9223372036854771712\n", "1\n", "", MACHINE), None);
        assert_eq!(Memory::of_version_2(["max\n", "1\n", "", "max\n", "0\n"], MACHINE), None);
    }

    #[test]
    fn a_group_that_uses_more_than_its_limit_for_a_moment_has_nothing_free() {
        let memory = Memory::of_version_1("1048576\n", "2097152\n", "", MACHINE).unwrap();
        assert!(memory.render().contains("MemFree:               0 kB"), "{}", memory.render());
    }
}
