//! Measures what compression levels cost and bring, for `docs/decisions/0011-compression-levels.md`:
//! `cargo run --release -p mainstay-http --example compression_levels FILE...`
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use mainstay_http::compress::Encoder;
use mainstay_http::encoding::Coding;

const LEVELS: &[(Coding, &[u32])] = &[
    (Coding::Gzip, &[1, 3, 4, 5, 6, 7, 9]),
    (Coding::Brotli, &[1, 2, 3, 4, 5, 6, 7, 9]),
    (Coding::Zstandard, &[1, 2, 3, 4, 5, 6, 7, 9, 12]),
];
const STREAMS: usize = 64;

fn main() {
    for path in std::env::args().skip(1) {
        let content = std::fs::read(&path).unwrap();
        println!("{path}: {} bytes\ncoding level bytes cpu_ms memory_kib_per_stream", content.len());
        for (coding, levels) in LEVELS {
            for &level in *levels {
                let (bytes, cpu_ms) = measure(*coding, level, &content);
                let memory_kib = memory_kib(*coding, level, &content);
                println!("{} {level} {bytes} {cpu_ms:.2} {memory_kib}", coding.name());
            }
        }
    }
}

fn compress(coding: Coding, level: u32, content: &[u8]) -> usize {
    let mut encoder = Encoder::new(coding, level, None).unwrap();
    content.chunks(16 * 1024).for_each(|piece| encoder.write(piece).unwrap());
    encoder.finish().unwrap().len()
}

/// Size, and the CPU time of the best of several runs.
fn measure(coding: Coding, level: u32, content: &[u8]) -> (usize, f64) {
    let bytes = compress(coding, level, content);
    let time = |runs: u32| {
        let start = cpu_ms();
        (0..runs).for_each(|_| assert_eq!(compress(coding, level, content), bytes));
        (cpu_ms() - start) / f64::from(runs)
    };
    (bytes, (0..5).map(|_| time(20)).fold(f64::MAX, f64::min))
}

/// Time that this thread ran, which other programs do not disturb much.
fn cpu_ms() -> f64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    schedstat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e6
}

/// What resident memory grows by with streams that have taken everything and are not finished.
fn memory_kib(coding: Coding, level: u32, content: &[u8]) -> usize {
    let before = resident_kib();
    let streams: Vec<Encoder> = (0..STREAMS)
        .map(|_| {
            let mut encoder = Encoder::new(coding, level, None).unwrap();
            encoder.write(content).unwrap();
            encoder.take();
            encoder
        })
        .collect();
    let grown = resident_kib().saturating_sub(before) / STREAMS;
    drop(streams);
    grown
}

fn resident_kib() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
}
