//! The way in for a browser on the real machine.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;

use super::{Up, deliver};
use crate::error::{Error, host};
use crate::host::{BINARY, Service};
use crate::state::{HostRecord, SiteState};
use crate::{CLIENT, network};

/// Ports that are tried, in this order.
const PORTS: std::ops::Range<u16> = 8080..8180;

/// The port that leads to the website: the one it had before, or the first that is free.
pub(super) fn port(state: &SiteState) -> Result<u16, Error> {
    let mut record = state.record();
    if let Some(port) = record.http_port {
        return Ok(port);
    }
    let port = PORTS
        .into_iter()
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| host(CLIENT, "no port from 8080 to 8179 of 127.0.0.1 is free for a browser"))?;
    record.http_port = Some(port);
    state.write_record(&record)?;
    Ok(port)
}

/// Lets `client` relay that port to the site.
pub(super) fn gateway(up: &Up<'_>, client: &HostRecord, port: u16, binary: &str) -> Result<(), Error> {
    let entries = network::entries(up.options.site);
    let web = up.options.site.web.port;
    let mut args = vec!["lab-gateway".to_owned()];
    args.extend(entries.iter().map(|entry| format!("{entry}:{web}")));
    let service = Service {
        name: "gateway".to_owned(),
        program: BINARY.into(),
        args,
        env: BTreeMap::new(),
        version: binary.to_owned(),
        adopts: false,
    };
    // A host that keeps the socket already has the port in use; a new one needs it.
    let is_new = !up.state.host(CLIENT).run().join("notify-gateway").exists();
    if !is_new {
        deliver::services(up, CLIENT, client, &[service], &[])?;
        return Ok(());
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map_err(|error| host(CLIENT, format!("port {port} of 127.0.0.1 cannot be had: {error}")))?;
    deliver::services(up, CLIENT, client, &[service], &[("http", listener.as_fd())])?;
    (up.said)(CLIENT, &format!("port {port} of 127.0.0.1 leads to the site"));
    Ok(())
}
