//! The wires: a bridge in `internet` with a link to every server, and a link to `client` on the other side of it.
//!
//! Nothing of it touches the real machine's network: each link is made inside a host's namespace with its other end in
//! another's, so two sites with equal addresses never meet. A link that is missing on either side is made anew.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use mainstay_site::Site;
use mainstay_site::model::Server;

use crate::error::Error;
use crate::state::HostRecord;

/// The addresses outside the servers' network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outside {
    /// `internet` as `client` sees it; the caching resolver.
    pub internet: Ipv4Addr,
    /// The root name server of this little internet.
    pub root: Ipv4Addr,
    /// The visitor.
    pub client: Ipv4Addr,
}

impl Outside {
    /// TEST-NET-2 (RFC 5737), or TEST-NET-3 if the servers live in the former.
    pub fn of(site: &Site) -> Self {
        let mut net = [198, 51, 100];
        if site.network.servers.contains(Ipv4Addr::new(198, 51, 100, 1)) {
            net = [203, 0, 113];
        }
        let address = |last| Ipv4Addr::new(net[0], net[1], net[2], last);
        Self { internet: address(1), root: address(53), client: address(2) }
    }
}

/// The router's IPv6 address in the servers' network: the first one of the network of the first server that has one.
pub(crate) fn router6(site: &Site) -> Option<Ipv6Addr> {
    let first = site.servers.iter().find_map(|server| server.address6)?;
    let mask = u128::MAX << (128 - u32::from(site.network.prefix6));
    Some(Ipv6Addr::from(u128::from(first) & mask | 1))
}

/// What `client` calls itself in IPv6, and `internet` as it sees it.
const CLIENT6: (Ipv6Addr, Ipv6Addr) =
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Commands for `ip -batch` inside one host.
#[derive(Default)]
struct Batch(String);

impl Batch {
    fn add(&mut self, line: impl AsRef<str>) -> &mut Self {
        self.0.push_str(line.as_ref());
        self.0.push('\n');
        self
    }

    fn run(&self, host: &HostRecord) -> Result<(), Error> {
        in_network(host, &["ip", "-force", "-batch", "-"], Some(&self.0)).map(drop)
    }
}

/// Lets all wires be there: makes what is missing and leaves the rest alone.
pub(crate) fn plug(
    site: &Site,
    internet: &HostRecord,
    client: &HostRecord,
    servers: &[(&Server, HostRecord)],
) -> Result<(), Error> {
    let outside = Outside::of(site);
    let there = links(internet)?;
    let network = site.network.servers;
    if !there.iter().any(|name| name == "site") {
        let mut batch = Batch::default();
        batch.add("link set lo up").add("link add site type bridge").add("link set site up").add(format!(
            "addr add {}/{} dev site",
            network.router(),
            network.prefix
        ));
        if let Some(router) = router6(site) {
            batch.add(format!("addr add {router}/{} dev site nodad", site.network.prefix6));
        }
        batch.add(format!("addr add {}/32 dev lo", outside.root));
        batch.run(internet)?;
    }
    if !there.iter().any(|name| name == "client") || !links(client)?.iter().any(|name| name == "eth0") {
        remove(internet, "client", &there)?;
        Batch::default()
            .add(format!("link add client type veth peer name eth0 netns {}", client.pid))
            .add("link set client up")
            .add(format!("addr add {}/24 dev client", outside.internet))
            .add(format!("addr add {}/64 dev client nodad", CLIENT6.1))
            .run(internet)?;
        Batch::default()
            .add("link set lo up")
            .add("link set eth0 up")
            .add(format!("addr add {}/24 dev eth0", outside.client))
            .add(format!("addr add {}/64 dev eth0 nodad", CLIENT6.0))
            .add(format!("route add default via {}", outside.internet))
            .add(format!("route add default via {}", CLIENT6.1))
            .run(client)?;
    }
    for (server, host) in servers {
        let port = port_name(site, server);
        if there.contains(&port) && links(host)?.iter().any(|name| name == "eth0") {
            continue;
        }
        remove(internet, &port, &there)?;
        Batch::default()
            .add(format!(
                "link add {port} type veth peer name eth0 address {} netns {}",
                hardware_address(server.address),
                host.pid
            ))
            .add(format!("link set {port} master site"))
            .add(format!("link set {port} up"))
            .run(internet)?;
        let mut batch = Batch::default();
        batch
            .add("link set lo up")
            .add("link set eth0 up")
            .add(format!("addr add {}/{} dev eth0", server.address, network.prefix))
            .add(format!("route add default via {}", network.router()));
        if let (Some(address), Some(router)) = (server.address6, router6(site)) {
            batch
                .add(format!("addr add {address}/{} dev eth0 nodad", site.network.prefix6))
                .add(format!("route add default via {router}"));
        }
        batch.run(host)?;
    }
    Ok(())
}

/// A server's hardware address follows from its IPv4 address: where its link is made anew, neighbours that remember it
/// still reach it. Locally administered (IEEE 802, second bit of the first byte).
fn hardware_address(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Interface names have at most 15 bytes, server names up to 32: the port carries the server's place in the file.
fn port_name(site: &Site, server: &Server) -> String {
    let index = site.servers.iter().position(|other| other.name == server.name).unwrap_or_default();
    format!("port{index}")
}

fn remove(host: &HostRecord, link: &str, there: &[String]) -> Result<(), Error> {
    if there.iter().any(|name| name == link) {
        in_network(host, &["ip", "link", "del", link], None)?;
    }
    Ok(())
}

/// The names of a host's links.
fn links(host: &HostRecord) -> Result<Vec<String>, Error> {
    let text = in_network(host, &["ip", "-o", "link"], None)?;
    let names = text.lines().filter_map(|line| line.split(": ").nth(1));
    Ok(names.map(|name| name.split('@').next().unwrap_or(name).to_owned()).collect())
}

/// Runs a program of the real machine in a host's network.
fn in_network(host: &HostRecord, command: &[&str], input: Option<&str>) -> Result<String, Error> {
    let line = command.join(" ");
    let failed = |reason: String| Error::Command { command: line.clone(), reason };
    let mut child = Command::new("nsenter")
        .args(["-t", &host.pid.to_string(), "-n", "--"])
        .args(command)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(input.as_bytes()).map_err(|error| failed(error.to_string()))?;
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The addresses at which visitors enter the site, as the zone has them: every load balancer's, or without any every
/// web server's.
pub(crate) fn entries(site: &Site) -> Vec<IpAddr> {
    let addresses = |server: &Server| {
        let six = server.address6.map(IpAddr::from);
        std::iter::once(IpAddr::from(server.address)).chain(six)
    };
    site.with_role(site.entry()).flat_map(addresses).collect()
}

/// The port at which visitors speak HTTP to them.
pub(crate) fn http_port(site: &Site) -> u16 {
    if site.has_edge() { 80 } else { site.web.port }
}

/// Whether visitors who speak HTTP are sent to HTTPS.
pub(crate) fn redirects_to_https(site: &Site) -> bool {
    !site.certificate_files().is_empty() && site.tls.as_ref().is_some_and(|tls| tls.redirect)
}
