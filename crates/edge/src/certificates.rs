//! The certificates of a plan, out of the folder of secrets.

use aws_lc_rs::digest::{Context, SHA256};
use mainstay_http::tls::{
    CertificatePair, ClientCertificates, ClientOptions, ClientTls, Pem, Protocols, ServerOptions, ServerTls,
};
use mainstay_site::plan::edge::{CertificatePlan, TcpTls, UpstreamGroup, UpstreamProtocol};

use crate::config::Config;

/// Bytes that the secret of tickets has at least.
const SECRET_BYTES: usize = 16;

/// TLS as the plan's listeners serve it; `None` where none does.
pub(crate) fn serve(config: &Config) -> Result<Served, String> {
    let plan = &config.plan;
    let http = plan.listeners.iter().any(|listener| listener.tls);
    let tcp = plan.tcp.iter().any(|service| service.tls == TcpTls::Terminate);
    if !http && !tcp {
        return Ok(Served::default());
    }
    // All edges of a site have this secret, and so accept each other's tickets.
    let secret = config.secret(&plan.cookie_secret).ok().filter(|secret| secret.len() >= SECRET_BYTES);
    let options = ServerOptions { ticket_secret: secret, ..ServerOptions::default() };
    let pairs = pairs(config)?;
    let make = |options| ServerTls::new(&pairs, options).map_err(|error| error.to_string());
    // What is spoken in a service that is no HTTP is not known, so nothing is agreed on.
    let raw = ServerOptions { protocols: Vec::new(), ..options.clone() };
    let asked = ServerOptions { client_certificates: client_certificates(config)?, ..options };
    Ok(Served {
        http: http.then(|| make(asked)).transpose()?,
        tcp: tcp.then(|| make(raw)).transpose()?,
        clients: clients(config)?,
    })
}

/// TLS as listeners serve it. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Served {
    /// HTTP/1.1 and h2.
    pub(crate) http: Option<ServerTls>,
    /// Services that are no HTTP.
    pub(crate) tcp: Option<ServerTls>,
    /// Who issues the certificates of clients, and whether those must show one.
    clients: Option<(Vec<u8>, bool)>,
}

impl Served {
    /// Serves the certificates of another configuration. If one cannot be used, nothing changes.
    pub(crate) fn replace(&self, config: &Config) -> Result<(), String> {
        if self.http.is_none() && self.tcp.is_none() {
            return Ok(());
        }
        if clients(config)? != self.clients {
            return Err("other certificates of clients take a new process".to_owned());
        }
        let pairs = pairs(config)?;
        // Both judge the same certificates in the same way: if the first takes them, so does the second.
        for tls in self.http.iter().chain(&self.tcp) {
            tls.replace(&pairs).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// TLS to the upstreams of a group, and what it was made of.
#[derive(Clone)]
pub(crate) struct UpstreamTls {
    pub(crate) tls: ClientTls,
    /// SHA-256 of all that it was made of: with the same, sessions and connections go on.
    pub(crate) made_of: [u8; 32],
}

impl UpstreamTls {
    /// Reads what a group's plan names. `raw`: the group is of services that are no HTTP.
    pub(crate) fn of(
        config: &Config,
        group: &UpstreamGroup,
        raw: bool,
        before: Option<&Self>,
    ) -> Result<Option<Self>, String> {
        let Some(planned) = &group.tls else { return Ok(None) };
        let options = ClientOptions {
            server_name: planned.server_name.clone(),
            authorities: planned.authorities_secret.as_ref().map(|name| pem(config, name)).transpose()?,
            certificate: planned.certificate.as_ref().map(|planned| pair(config, planned)).transpose()?,
            protocols: match group.protocol {
                _ if raw => Protocols::None,
                UpstreamProtocol::Http1 => Protocols::Http1,
                UpstreamProtocol::Http2 => Protocols::H2,
            },
        };
        let mut digest = Context::new(&SHA256);
        digest.update(format!("{planned:?} {:?}\0", options.protocols).as_bytes());
        let pair = options.certificate.iter().flat_map(|pair| [&pair.chain, &pair.key]);
        for pem in options.authorities.iter().chain(pair) {
            digest.update(&pem.text);
            digest.update(b"\0");
        }
        let mut made_of = [0; 32];
        made_of.copy_from_slice(digest.finish().as_ref());
        if let Some(before) = before.filter(|before| before.made_of == made_of) {
            return Ok(Some(before.clone()));
        }
        let tls = ClientTls::new(&options).map_err(|error| error.to_string())?;
        Ok(Some(Self { tls, made_of }))
    }
}

fn clients(config: &Config) -> Result<Option<(Vec<u8>, bool)>, String> {
    let planned = config.plan.client_certificates.as_ref();
    planned.map(|planned| Ok((config.secret(&planned.authorities_secret)?, planned.required))).transpose()
}

fn client_certificates(config: &Config) -> Result<ClientCertificates, String> {
    let Some(planned) = &config.plan.client_certificates else { return Ok(ClientCertificates::None) };
    let authorities = pem(config, &planned.authorities_secret)?;
    Ok(if planned.required {
        ClientCertificates::Required(authorities)
    } else {
        ClientCertificates::Optional(authorities)
    })
}

/// All certificates with their keys, in the plan's order.
pub(crate) fn pairs(config: &Config) -> Result<Vec<CertificatePair>, String> {
    config.plan.certificates.iter().map(|planned| pair(config, planned)).collect()
}

/// A certificate with its key.
pub(crate) fn pair(config: &Config, planned: &CertificatePlan) -> Result<CertificatePair, String> {
    Ok(CertificatePair { chain: pem(config, &planned.chain_secret)?, key: pem(config, &planned.key_secret)? })
}

/// A secret that is a text in PEM.
pub(crate) fn pem(config: &Config, name: &str) -> Result<Pem, String> {
    Ok(Pem::new(name, config.secret(name)?))
}
