//! The `internet` host: a root name server that delegates the site's zone, and a caching resolver that knows nothing but the root.
//!
//! The resolver is Debian's unbound, which nobody here wrote: if it finds the site, so do the world's resolvers.

use std::net::IpAddr;

use mainstay_site::plan::{DnsPlan, Record, RecordData, Soa, Zone};
use mainstay_site::{Role, Site};

use crate::network::Outside;

/// The root zone: itself, and the delegation of the site's domain with glue.
pub(crate) fn root_zone(site: &Site) -> DnsPlan {
    let outside = Outside::of(site);
    let own = "a.root".to_owned();
    let domain = site.domain.as_str();
    let record = |name: &str, data| Record { name: name.to_owned(), ttl: 60, data };
    let mut records = vec![
        record("", RecordData::Ns { target: own.clone() }),
        record(&own, RecordData::A { address: outside.root }),
    ];
    for (index, server) in site.with_role(Role::Dns).enumerate() {
        let name = format!("ns{}.{domain}", index + 1);
        records.push(record(domain, RecordData::Ns { target: name.clone() }));
        records.push(record(&name, RecordData::A { address: server.address }));
        records.extend(server.address6.map(|address| record(&name, RecordData::Aaaa { address })));
    }
    let soa = Soa {
        primary: own.clone(),
        mailbox: "hostmaster.root".to_owned(),
        serial: 1,
        refresh: 3600,
        retry: 600,
        expire: 86_400,
        minimum: 5,
    };
    DnsPlan {
        listen: vec![(IpAddr::from(outside.root), 53).into()],
        zones: vec![Zone { apex: String::new(), soa, records }],
        responses_per_second: 1_000_000,
    }
}

/// The root hints of the resolver.
pub(crate) fn root_hints(site: &Site) -> String {
    format!(". 3600000 NS a.root.\na.root. 3600000 A {}\n", Outside::of(site).root)
}

/// The resolver's configuration.
pub(crate) fn resolver(site: &Site, run: &str) -> String {
    let outside = Outside::of(site);
    let router = site.network.servers.router();
    format!(
        r#"server:
  interface: {internet}
  interface: {router}
  interface: 127.0.0.1
  access-control: 0.0.0.0/0 allow
  do-daemonize: no
  chroot: ""
  username: ""
  directory: "{run}"
  pidfile: ""
  use-syslog: no
  logfile: ""
  module-config: "iterator"
  root-hints: "{run}/root.hints"
  do-ip6: no
  num-threads: 1
  msg-cache-size: 4m
  rrset-cache-size: 4m
  cache-max-ttl: 60
  cache-max-negative-ttl: 5
  infra-host-ttl: 5
  infra-cache-min-rtt: 50
  hide-identity: yes
  minimal-responses: yes
remote-control:
  control-enable: no
"#,
        internet = outside.internet,
    )
}
