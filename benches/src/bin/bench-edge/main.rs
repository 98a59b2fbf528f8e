//! Mainstay's edge role beside HAProxy and nginx: the same three upstreams, the same clients, in turns.

mod ground;
mod handshakes;
mod idle;

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use mainstay_benches::cpu;
use mainstay_benches::load::{self, Load};
use mainstay_benches::paced;
use mainstay_benches::table::{align, median};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use ground::{Balancer, Ground, HOST};
use handshakes::Sessions;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Compares Mainstay's load balancer with HAProxy and nginx: processor time per request, throughput, latency, memory.
///
/// Needs haproxy, nginx, wrk and h2load. All have the same number of workers and the same upstreams, and all write an access
/// log, as on any real site: nginx to a file, buffered; HAProxy to a syslog daemon, which is not counted. With --no-peer-logs
/// only Mainstay does. Prints medians and the ratio to the better peer; below 1 means that Mainstay needs less.
///
/// Example: bench-edge --rounds 3 --seconds 3 --only TLS
#[derive(Debug, Parser)]
#[command(verbatim_doc_comment)]
struct Args {
    /// How often each case is measured with each load balancer.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// How long one measurement takes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Workers of each load balancer.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Idle connections to measure memory with.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=15_000))]
    idle: u32,
    /// Let the peers write no access log.
    #[arg(long)]
    no_peer_logs: bool,
    /// Measure only cases whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Run as the edge role with this configuration; for this program's own use.
    #[arg(long, hide = true)]
    serve: Option<PathBuf>,
}

/// What is done, and the goal for Mainstay's ratio to the better peer.
struct Case {
    name: &'static str,
    work: Work,
    goal: f64,
}

#[derive(Clone, Copy)]
enum Work {
    /// Kept connections without TLS: path, connections.
    Plain(&'static str, u32),
    /// Kept connections with TLS.
    Tls(&'static str, u32),
    /// h2 over TLS: path, connections, requests at once on each.
    H2(&'static str, u32, u32),
    /// A new connection for each request.
    Handshake(Sessions),
}

const CASES: [Case; 9] = [
    Case { name: "plain h1 1 KiB", work: Work::Plain("/1k.bin", 256), goal: 0.8 },
    Case { name: "TLS h1 1 KiB", work: Work::Tls("/1k.bin", 128), goal: 0.75 },
    Case { name: "TLS h2 1 KiB", work: Work::H2("/1k.bin", 16, 8), goal: 0.75 },
    Case { name: "TLS full handshake", work: Work::Handshake(Sessions::Full), goal: 0.8 },
    Case { name: "TLS resumed handshake", work: Work::Handshake(Sessions::Resumed), goal: 1.0 },
    Case { name: "plain h1 100 KiB", work: Work::Plain("/100k.bin", 64), goal: 1.0 },
    Case { name: "plain h1 10 MiB", work: Work::Plain("/10m.bin", 4), goal: 1.0 },
    Case { name: "TLS h1 100 KiB", work: Work::Tls("/100k.bin", 64), goal: 1.0 },
    Case { name: "TLS h1 10 MiB", work: Work::Tls("/10m.bin", 4), goal: 1.0 },
];

/// How many make connections at once.
const HANDSHAKES: usize = 32;
/// Share of the slowest peer's throughput at which latency is looked at.
const SHARE: f64 = 0.7;

/// One measurement.
#[derive(Default)]
struct Sample {
    cpu_us: f64,
    load: Load,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most.min(65_536), most)?;
    if let Some(config) = &args.serve {
        return ground::serve(config, args.workers);
    }
    let ground = Ground::new(!args.no_peer_logs)?;
    let balancers =
        [ground.haproxy(args.workers)?, ground.nginx(args.workers)?, ground.mainstay(args.workers)?];
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{}{} worker(s) each, {} rounds of {} s\n",
        ground::versions()?,
        args.workers,
        args.rounds,
        args.seconds
    )?;
    let mut rows = vec![
        [
            "case",
            "haproxy us/req",
            "nginx us/req",
            "mainstay us/req",
            "ratio",
            "goal",
            "haproxy req/s",
            "nginx req/s",
            "mainstay req/s",
            "failures",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut slowest = None;
    for case in CASES.iter().filter(|case| case.name.contains(&args.only)) {
        let samples = in_turns(&balancers, args.rounds, |balancer| {
            measure(case.work, balancer, &ground, args.seconds)
        })?;
        if case.name == CASES[0].name {
            slowest = rates(&samples).into_iter().reduce(f64::min);
        }
        rows.push(row(case, &samples));
        write!(io::stderr(), "{}: measured          \r", case.name)?;
    }
    writeln!(out, "{}", align(&rows))?;
    if let Some(slowest) = slowest {
        latency(&mut out, &balancers, &args, slowest * SHARE)?;
    }
    if "idle".contains(&args.only) {
        memory(&mut out, &balancers, args.idle)?;
    }
    Ok(())
}

/// Measures each load balancer once a round. Who goes first changes, so that none always meets the warmer machine.
fn in_turns<T>(
    balancers: &[Balancer; 3],
    rounds: u32,
    mut measure: impl FnMut(&Balancer) -> io::Result<T>,
) -> io::Result<[Vec<T>; 3]> {
    let mut samples = [const { Vec::new() }; 3];
    for round in 0..rounds as usize {
        for turn in 0..3 {
            let which = (round + turn) % 3;
            samples[which].push(measure(&balancers[which])?);
        }
    }
    Ok(samples)
}

fn measure(work: Work, balancer: &Balancer, ground: &Ground, seconds: u32) -> io::Result<Sample> {
    let plain = |path: &str| format!("http://127.0.0.1:{}{path}", balancer.port);
    let tls = |path: &str| format!("https://127.0.0.1:{}{path}", balancer.tls_port);
    let before = cpu::used(balancer.pid());
    let load = match work {
        Work::Plain(path, connections) => load::h1(&plain(path), HOST, connections, seconds)?,
        Work::Tls(path, connections) => load::h1(&tls(path), HOST, connections, seconds)?,
        Work::H2(path, connections, streams) => load::h2(&tls(path), HOST, connections, streams, seconds)?,
        Work::Handshake(sessions) => {
            handshakes::run(balancer.tls_port, &ground.certificate, sessions, HANDSHAKES, seconds)?
        }
    };
    let used: Duration = cpu::used(balancer.pid()).saturating_sub(before);
    Ok(Sample { cpu_us: used.as_secs_f64() * 1e6 / load.requests.max(1) as f64, load })
}

fn rates(samples: &[Vec<Sample>; 3]) -> [f64; 3] {
    samples.each_ref().map(|of| median(&of.iter().map(|sample| sample.load.rate).collect::<Vec<_>>()))
}

fn row(case: &Case, samples: &[Vec<Sample>; 3]) -> Vec<String> {
    let cpu = samples.each_ref().map(|of| median(&of.iter().map(|sample| sample.cpu_us).collect::<Vec<_>>()));
    let failures: u64 = samples.iter().flatten().map(|sample| sample.load.failures).sum();
    let mut row = vec![case.name.to_owned()];
    row.extend(cpu.iter().map(|figure| format!("{figure:.1}")));
    row.push(format!("{:.2}", cpu[2] / cpu[0].min(cpu[1])));
    row.push(format!("{:.2}", case.goal));
    row.extend(rates(samples).iter().map(|rate| format!("{rate:.0}")));
    row.push(failures.to_string());
    row
}

fn latency(out: &mut impl io::Write, balancers: &[Balancer; 3], args: &Args, rate: f64) -> io::Result<()> {
    let samples = in_turns(balancers, args.rounds, |balancer| {
        let request = format!("GET /1k.bin HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, balancer.port));
        paced::run(to, request.as_bytes(), 64, rate, args.seconds)
    })?;
    let mut rows = vec![
        ["plain h1 1 KiB at a fixed rate", "requests/s", "p50 ms", "p99 ms", "failures"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for (balancer, loads) in balancers.iter().zip(&samples) {
        let of = |figure: fn(&Load) -> f64| median(&loads.iter().map(figure).collect::<Vec<_>>());
        rows.push(vec![
            balancer.name.to_owned(),
            format!("{:.0}", of(|load| load.rate)),
            format!("{:.2}", of(|load| load.p50_ms.unwrap_or(0.0))),
            format!("{:.2}", of(|load| load.p99_ms.unwrap_or(0.0))),
            loads.iter().map(|load| load.failures).sum::<u64>().to_string(),
        ]);
    }
    writeln!(out, "{}", align(&rows))
}

fn memory(out: &mut impl io::Write, balancers: &[Balancer; 3], connections: u32) -> io::Result<()> {
    let mut rows = vec![["idle connections", "each, bytes"].map(str::to_owned).to_vec()];
    for balancer in balancers {
        let each = idle::bytes_each(balancer, connections)?;
        rows.push(vec![format!("{}, {connections}", balancer.name), format!("{each:.0}")]);
    }
    write!(out, "{}", align(&rows))
}
