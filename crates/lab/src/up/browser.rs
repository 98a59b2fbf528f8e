//! The way in for a browser on the real machine.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;

use super::{Up, deliver};
use crate::error::{Error, host};
use crate::host::{BINARY, Service};
use crate::state::HostRecord;
use crate::{CLIENT, network};

/// Ports that are tried, in this order.
const PORTS: std::ops::Range<u16> = 8080..8180;

/// Lets `client` relay a port of 127.0.0.1 to the site, and returns it: the one it had before, or the first that is free.
pub(super) fn gateway(up: &Up<'_>, client: &HostRecord, binary: &str) -> Result<u16, Error> {
    let entries = network::entries(up.options.site);
    let web = up.options.site.web.port;
    let mut args = vec!["lab-gateway".to_owned()];
    args.extend(entries.iter().filter(|entry| entry.is_ipv4()).map(|entry| format!("{entry}:{web}")));
    let service = Service {
        name: "gateway".to_owned(),
        program: BINARY.into(),
        args,
        env: BTreeMap::new(),
        version: binary.to_owned(),
        adopts: false,
    };
    let mut record = up.state.record();
    // A host that has started the gateway once keeps its socket; a new one needs it.
    let has_socket = up.state.host(CLIENT).run().join("notify-gateway").exists();
    if let Some(port) = record.http_port.filter(|_| has_socket) {
        deliver::services(up, CLIENT, client, &[service], &[])?;
        return Ok(port);
    }
    // Bound at once, so that another `up` in this moment cannot take it as well.
    let (port, listener) = record
        .http_port
        .into_iter()
        .chain(PORTS)
        .find_map(|port| Some((port, TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?)))
        .ok_or_else(|| host(CLIENT, "no port from 8080 to 8179 of 127.0.0.1 is free for a browser"))?;
    record.http_port = Some(port);
    up.state.write_record(&record)?;
    deliver::services(up, CLIENT, client, &[service], &[("http", listener.as_fd())])?;
    (up.said)(CLIENT, &format!("port {port} of 127.0.0.1 leads to the site"));
    Ok(port)
}
