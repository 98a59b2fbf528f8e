//! The site's zone: who answers for it, where its names lead, and the records of the file.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::{Role, Server, Site};
use crate::plan::{Record, RecordData, Soa, Zone};

pub(super) fn of(site: &Site, serial: u32) -> Zone {
    let domain = site.domain.as_str();
    let ttl = site.dns.ttl_secs;
    let mut records = Vec::new();
    for (index, server) in site.with_role(Role::Dns).enumerate() {
        let name = name_server(site, index);
        records.push(Record {
            name: domain.to_owned(),
            ttl: 3600,
            data: RecordData::Ns { target: name.clone() },
        });
        records.extend(server_addresses(server).map(|address| address_record(&name, 3600, address)));
    }
    let entries: Vec<IpAddr> = entry_addresses(site);
    // A text or a mail server of a name leaves its addresses alone.
    let leads = |data: &RecordData| {
        matches!(data, RecordData::A { .. } | RecordData::Aaaa { .. } | RecordData::Cname { .. })
    };
    let records_of_file = site.dns.records.iter().filter(|(_, _, data)| leads(data));
    let own: BTreeSet<&str> = records_of_file.map(|(name, ..)| name.as_str()).collect();
    for host in &site.hosts {
        let name = if host.wildcard { format!("*.{}", host.name) } else { host.name.to_string() };
        if !own.contains(name.as_str()) {
            records.extend(entries.iter().map(|address| address_record(&name, ttl, *address)));
        }
    }
    for server in &site.servers {
        let name = format!("{}.{domain}", server.name);
        let taken = own.contains(name.as_str()) || site.hosts.iter().any(|host| host.name.as_str() == name);
        if !taken {
            records.extend(server_addresses(server).map(|address| address_record(&name, ttl, address)));
        }
    }
    for (name, own_ttl, data) in &site.dns.records {
        records.push(Record { name: name.clone(), ttl: own_ttl.unwrap_or(ttl), data: data.clone() });
    }
    let mailbox =
        site.dns.mailbox.as_ref().map_or_else(|| format!("hostmaster.{domain}"), ToString::to_string);
    let soa = Soa {
        primary: name_server(site, 0),
        mailbox,
        serial,
        refresh: 3600,
        retry: 600,
        expire: 1_209_600,
        minimum: ttl.min(300),
    };
    Zone { apex: domain.to_owned(), soa, records }
}

/// The name of the zone's n-th name server, from 0: `ns1.example.com`.
fn name_server(site: &Site, index: usize) -> String {
    format!("ns{}.{}", index + 1, site.domain)
}

/// Where visitors enter: the load balancers, or without any the web servers.
fn entry_addresses(site: &Site) -> Vec<IpAddr> {
    site.with_role(site.entry()).flat_map(server_addresses).collect()
}

fn server_addresses(server: &Server) -> impl Iterator<Item = IpAddr> + use<> {
    std::iter::once(server.address.into()).chain(server.address6.map(Into::into))
}

fn address_record(name: &str, ttl: u32, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RecordData::A { address },
        IpAddr::V6(address) => RecordData::Aaaa { address },
    };
    Record { name: name.to_owned(), ttl, data }
}
