//! Mainstay's web role beside nginx: static files and PHP on the same php-fpm, over HTTP/1.1 and h2.

mod servers;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use mainstay_benches::cpu;
use mainstay_benches::load::{self, Load};
use mainstay_benches::table::{align, median};

use servers::{Ground, HOST, Server};

/// Compares Mainstay's web role with nginx: processor time per request, throughput, latency.
///
/// Needs nginx, php-fpm, wrk and h2load. Both servers run with the same number of workers, write an access log of JSON
/// lines, and share one php-fpm. Prints medians and ratios; a ratio below 1 means that Mainstay needs less.
///
/// Example: bench-web --rounds 3 --seconds 2
#[derive(Debug, Parser)]
#[command(verbatim_doc_comment)]
struct Args {
    /// How often each case is measured with each server.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// How long one measurement takes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Workers of each server.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Give nginx an open-file cache too, which it has not by default.
    #[arg(long)]
    open_file_cache: bool,
    /// Measure only cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Run as the web role with this configuration; for this program's own use.
    #[arg(long, hide = true)]
    serve: Option<PathBuf>,
}

/// What is asked for.
struct Case {
    name: &'static str,
    path: &'static str,
    is_h2: bool,
    weight: Weight,
}

/// What decides how many ask at once.
#[derive(Clone, Copy, PartialEq)]
enum Weight {
    Small,
    Large,
    Php,
}

const CASES: [Case; 8] = [
    Case { name: "h1 1 KiB", path: "/1k.bin", is_h2: false, weight: Weight::Small },
    Case { name: "h1 100 KiB", path: "/100k.bin", is_h2: false, weight: Weight::Small },
    Case { name: "h1 10 MiB", path: "/10m.bin", is_h2: false, weight: Weight::Large },
    Case { name: "h1 PHP", path: "/hello.php", is_h2: false, weight: Weight::Php },
    Case { name: "h2 1 KiB", path: "/1k.bin", is_h2: true, weight: Weight::Small },
    Case { name: "h2 100 KiB", path: "/100k.bin", is_h2: true, weight: Weight::Small },
    Case { name: "h2 10 MiB", path: "/10m.bin", is_h2: true, weight: Weight::Large },
    Case { name: "h2 PHP", path: "/hello.php", is_h2: true, weight: Weight::Php },
];

/// One measurement.
#[derive(Default)]
struct Sample {
    cpu_us: f64,
    php_us: f64,
    load: Load,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    if let Some(config) = &args.serve {
        return servers::serve(config, args.workers);
    }
    let ground = Ground::new()?;
    let nginx = ground.nginx(args.workers, args.open_file_cache)?;
    let mainstay = ground.mainstay(args.workers)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}\nmainstay {}", servers::nginx_version()?, env!("CARGO_PKG_VERSION"))?;
    let cache = if args.open_file_cache { "on" } else { "off (the default)" };
    writeln!(
        out,
        "{} worker(s) each, {} rounds of {} s, nginx's open_file_cache {cache}\n",
        args.workers, args.rounds, args.seconds
    )?;
    let head = [
        "case",
        "nginx us/req",
        "mainstay us/req",
        "ratio",
        "nginx req/s",
        "mainstay req/s",
        "nginx p99 ms",
        "mainstay p99 ms",
        "php us/req nginx",
        "php us/req mainstay",
        "failures",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for case in CASES.iter().filter(|case| case.name.contains(&args.only)) {
        let mut samples: [Vec<Sample>; 2] = [Vec::new(), Vec::new()];
        for round in 0..args.rounds {
            // Who goes first changes, so that neither always meets the warmer machine.
            for turn in 0..2 {
                let which = ((round + turn) % 2) as usize;
                let server = [&nginx, &mainstay][which];
                samples[which].push(measure(case, server, &ground, args.seconds)?);
            }
        }
        rows.push(row(case, &samples));
        write!(io::stderr(), "{}: measured\r", case.name)?;
    }
    write!(out, "{}", align(&rows))
}

fn measure(case: &Case, server: &Server, ground: &Ground, seconds: u32) -> io::Result<Sample> {
    let port = if case.is_h2 { server.h2_port } else { server.port };
    let url = format!("http://127.0.0.1:{port}{}", case.path);
    let before = (cpu::used(server.pid()), cpu::used(ground.php_pid()));
    // What is still on its way at the end was paid for and is not counted: large files are asked for by few.
    let load = match (case.is_h2, case.weight) {
        (false, Weight::Small) => load::h1(&url, HOST, 64, seconds)?,
        (false, Weight::Php) => load::h1(&url, HOST, 8, seconds)?,
        (false, Weight::Large) => load::h1(&url, HOST, 4, seconds)?,
        (true, Weight::Small) => load::h2(&url, HOST, 16, 8, seconds)?,
        (true, Weight::Php) => load::h2(&url, HOST, 2, 4, seconds)?,
        (true, Weight::Large) => load::h2(&url, HOST, 2, 2, seconds)?,
    };
    let after = (cpu::used(server.pid()), cpu::used(ground.php_pid()));
    let each = |used: Duration| used.as_secs_f64() * 1e6 / load.requests.max(1) as f64;
    Ok(Sample {
        cpu_us: each(after.0.saturating_sub(before.0)),
        php_us: each(after.1.saturating_sub(before.1)),
        load,
    })
}

fn row(case: &Case, samples: &[Vec<Sample>; 2]) -> Vec<String> {
    let of = |which: usize, figure: fn(&Sample) -> f64| {
        median(&samples[which].iter().map(figure).collect::<Vec<_>>())
    };
    let both = |figure: fn(&Sample) -> f64| (of(0, figure), of(1, figure));
    let (nginx, mainstay) = both(|sample| sample.cpu_us);
    let rate = both(|sample| sample.load.rate);
    let p99 = both(|sample| sample.load.p99_ms.unwrap_or(0.0));
    let failures: u64 = samples.iter().flatten().map(|sample| sample.load.failures).sum();
    let known = |figure: f64| if figure > 0.0 { format!("{figure:.2}") } else { "-".to_owned() };
    let php = |figure: f64| if case.weight == Weight::Php { format!("{figure:.1}") } else { "-".to_owned() };
    vec![
        case.name.to_owned(),
        format!("{nginx:.1}"),
        format!("{mainstay:.1}"),
        format!("{:.2}", mainstay / nginx),
        format!("{:.0}", rate.0),
        format!("{:.0}", rate.1),
        known(p99.0),
        known(p99.1),
        php(of(0, |sample| sample.php_us)),
        php(of(1, |sample| sample.php_us)),
        failures.to_string(),
    ]
}
