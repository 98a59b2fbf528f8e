//! The way in for a browser on the real machine.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::fd::AsFd as _;

use super::{Up, deliver};
use crate::error::{Error, host};
use crate::gateway::HTTPS;
use crate::host::{BINARY, Service};
use crate::state::HostRecord;
use crate::{CLIENT, network};

/// Ports that are tried for HTTP and for HTTPS, in this order.
const HTTP_PORTS: Range<u16> = 8080..8180;
const HTTPS_PORTS: Range<u16> = 8443..8543;

/// The ports of 127.0.0.1 that lead to the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// For HTTP.
    pub http: u16,
    /// For HTTPS, where the site has certificates.
    pub https: Option<u16>,
}

/// Lets `client` relay ports of 127.0.0.1 to the site, and returns them: those it had before, or the first that are free.
pub(super) fn gateway(up: &Up<'_>, client: &HostRecord, binary: &str) -> Result<Ports, Error> {
    let site = up.options.site;
    let port = network::http_port(site);
    let entries = network::entries(site);
    let mut record = up.state.record();
    // A host that has started the gateway once keeps its sockets; a new one needs them.
    let has_sockets = up.state.host(CLIENT).run().join("notify-gateway").exists();
    let (http, http_socket) = choose(record.http_port, has_sockets, HTTP_PORTS)?;
    let wanted = (!site.certificate_files().is_empty()).then_some(HTTPS_PORTS);
    let https = wanted.map(|ports| choose(record.https_port, has_sockets, ports)).transpose()?;
    let ports = Ports { http, https: https.as_ref().map(|(port, _)| *port) };
    let mut args = vec!["lab-gateway".to_owned()];
    if let Some(https) = ports.https.filter(|_| network::redirects_to_https(site)) {
        args.extend(["--redirect-to".to_owned(), https.to_string()]);
    }
    args.extend(entries.iter().filter(|entry| entry.is_ipv4()).map(|entry| format!("{entry}:{port}")));
    let service = Service {
        name: "gateway".to_owned(),
        program: BINARY.into(),
        args,
        env: BTreeMap::new(),
        version: binary.to_owned(),
        adopts: false,
    };
    let sockets = [("http", http_socket), (HTTPS, https.and_then(|(_, socket)| socket))];
    let sockets: Vec<_> =
        sockets.iter().filter_map(|(name, socket)| Some((*name, socket.as_ref()?.as_fd()))).collect();
    if sockets.is_empty() {
        deliver::services(up, CLIENT, client, &[service], &[])?;
        return Ok(ports);
    }
    (record.http_port, record.https_port) = (Some(http), ports.https.or(record.https_port));
    up.state.write_record(&record)?;
    deliver::services(up, CLIENT, client, &[service], &sockets)?;
    (up.said)(CLIENT, &format!("port {http} of 127.0.0.1 leads to the site"));
    if let Some(https) = ports.https {
        (up.said)(CLIENT, &format!("port {https} of 127.0.0.1 leads to it by HTTPS"));
    }
    Ok(ports)
}

/// The port that is known, or a free one with its socket. It is bound at once, so that another `up` in this moment cannot
/// take it as well.
fn choose(
    known: Option<u16>,
    has_sockets: bool,
    ports: Range<u16>,
) -> Result<(u16, Option<TcpListener>), Error> {
    if let Some(port) = known.filter(|_| has_sockets) {
        return Ok((port, None));
    }
    let tried = format!("{} to {}", ports.start, ports.end - 1);
    let mut free = known
        .into_iter()
        .chain(ports)
        .filter_map(|port| Some((port, TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?)));
    let (port, listener) = free
        .next()
        .ok_or_else(|| host(CLIENT, format!("no port from {tried} of 127.0.0.1 is free for a browser")))?;
    Ok((port, Some(listener)))
}
