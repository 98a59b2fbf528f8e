//! What a service is: whom it takes connections from, and where they go.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_http::networks::Networks;
use mainstay_http::per_client::Clients;
use mainstay_http::tls::ServerTls;
use mainstay_site::plan::HostPattern;
use mainstay_site::plan::edge::{TcpService, TcpTls};

/// How long a client may take for its PROXY header and its TLS hello or handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name, in metrics and logs.
    pub name: String,
    /// What becomes of TLS.
    pub tls: Tls,
    /// Every connection begins with a PROXY header, and comes from one of these networks; others are closed.
    pub proxy_protocol: Option<Networks>,
    /// Groups by the name that the client's hello asks for; the first that matches.
    pub by_name: Vec<(HostPattern, String)>,
    /// The group for all others; without one they are turned away.
    pub group: Option<String>,
    /// From the start of a connection until its group is known.
    pub handshake: Duration,
    /// Silence in both directions after which a connection is closed.
    pub idle: Duration,
    /// Open connections, of all shares of the listening socket together.
    pub connections: usize,
    /// Open connections of one client; without it, as many as the service has.
    pub clients: Option<Arc<Clients>>,
}

/// What a service does with TLS.
#[derive(Debug, Clone)]
pub enum Tls {
    /// Bytes are bytes.
    None,
    /// The hello is read for its server name and passed on untouched.
    Passthrough,
    /// TLS ends here. It should agree on no protocol ([`ServerTls::without_protocols`]), as what is spoken is not known.
    Terminate(ServerTls),
}

impl Service {
    /// The service of a plan. `tls` is for those that end TLS here.
    pub fn new(plan: &TcpService, tls: Option<&ServerTls>, trusted: &Networks) -> Result<Self, String> {
        let tls = match plan.tls {
            TcpTls::None => Tls::None,
            TcpTls::Passthrough => Tls::Passthrough,
            TcpTls::Terminate => Tls::Terminate(
                tls.map(ServerTls::without_protocols)
                    .ok_or_else(|| format!("service {} ends TLS, but has no certificate", plan.name))?,
            ),
        };
        Ok(Self {
            name: plan.name.clone(),
            tls,
            proxy_protocol: plan.proxy_protocol.then(|| trusted.clone()),
            by_name: plan.by_name.clone(),
            group: plan.group.clone(),
            handshake: HANDSHAKE,
            idle: Duration::from_millis(plan.idle_ms.max(1)),
            connections: plan.connections.max(1) as usize,
            clients: Clients::new(plan.connections_per_client, trusted),
        })
    }

    /// The group for clients that ask for this name, in lower case.
    pub(crate) fn group_of(&self, name: Option<&str>) -> Option<&str> {
        let named = name.and_then(|name| self.by_name.iter().find(|(pattern, _)| matches(pattern, name)));
        named.map(|(_, group)| group).or(self.group.as_ref()).map(String::as_str)
    }
}

/// Whether a pattern means this name. A wildcard means every name below it, and not the name itself.
fn matches(pattern: &HostPattern, name: &str) -> bool {
    let wanted = pattern.name.as_str();
    if !pattern.wildcard {
        return name == wanted;
    }
    name.strip_suffix(wanted).is_some_and(|below| below.len() > 1 && below.ends_with('.'))
}

/// A service that may change while it runs: new connections see the new one. Clones are the same; it crosses threads.
#[derive(Debug, Clone)]
pub struct Live(Arc<Mutex<Arc<Service>>>);

impl Live {
    /// A service as it is now.
    pub fn new(service: Service) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(service))))
    }

    /// Changes it. What is open goes on as it was, and does not count against a changed limit for clients.
    pub fn replace(&self, mut service: Service) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(before), Some(clients)) = (&now.clients, &service.clients)
            && before.is_like(clients)
        {
            service.clients = Some(Arc::clone(before));
        }
        *now = Arc::new(service);
    }

    /// The service as it is now. The lock is held for a clone of the pointer, once per connection.
    pub fn now(&self) -> Arc<Service> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::{HostPattern, matches};

    #[test]
    fn a_wildcard_means_names_below_and_not_the_name_itself() {
        let pattern = |wildcard| HostPattern { name: "db.example".parse().unwrap(), wildcard };
        assert!(matches(&pattern(false), "db.example") && !matches(&pattern(false), "a.db.example"));
        assert!(matches(&pattern(true), "a.db.example") && matches(&pattern(true), "b.a.db.example"));
        assert!(!matches(&pattern(true), "db.example") && !matches(&pattern(true), "xdb.example"));
        assert!(!matches(&pattern(true), ".db.example"));
    }
}
