//! The certificates of a plan, out of the folder of secrets.

use mainstay_http::tls::{CertificatePair, Pem, ServerOptions, ServerTls};
use mainstay_site::plan::edge::{CertificatePlan, TcpTls};

use crate::config::Config;

/// Bytes that the secret of tickets has at least.
const SECRET_BYTES: usize = 16;

/// TLS as the plan's listeners serve it; `None` where none does.
pub(crate) fn serve(config: &Config) -> Result<Option<ServerTls>, String> {
    let plan = &config.plan;
    let http = plan.listeners.iter().any(|listener| listener.tls);
    if !http && !plan.tcp.iter().any(|service| service.tls == TcpTls::Terminate) {
        return Ok(None);
    }
    // All edges of a site have this secret, and so accept each other's tickets.
    let secret = config.secret(&plan.cookie_secret).ok().filter(|secret| secret.len() >= SECRET_BYTES);
    let options = ServerOptions { ticket_secret: secret, ..ServerOptions::default() };
    ServerTls::new(&pairs(config)?, options).map(Some).map_err(|error| error.to_string())
}

/// All certificates with their keys, in the plan's order.
pub(crate) fn pairs(config: &Config) -> Result<Vec<CertificatePair>, String> {
    config.plan.certificates.iter().map(|planned| pair(config, planned)).collect()
}

/// A certificate with its key.
pub(crate) fn pair(config: &Config, planned: &CertificatePlan) -> Result<CertificatePair, String> {
    Ok(CertificatePair {
        chain: pem(config, &planned.chain_secret)?,
        key: pem(config, &planned.key_secret)?,
    })
}

/// A secret that is a text in PEM.
pub(crate) fn pem(config: &Config, name: &str) -> Result<Pem, String> {
    Ok(Pem::new(name, config.secret(name)?))
}
