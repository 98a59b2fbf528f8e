//! Which certificate a client is shown: by the name that it asks for, and by the signatures that it understands.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;

/// Certificates by the names they are for.
#[derive(Debug)]
pub(crate) struct Chooser {
    certificates: Vec<Certificate>,
    exact: HashMap<String, Vec<usize>>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Vec<usize>>,
    /// Those that answer for names that no certificate is for: the first, and others for the same name.
    default: Vec<usize>,
    refuse_unknown: bool,
}

impl Chooser {
    /// The first certificate is the default, unless unknown names are refused.
    pub(crate) fn new(certificates: Vec<Certificate>, refuse_unknown: bool) -> Self {
        let (mut exact, mut wildcard) = (HashMap::<_, Vec<usize>>::new(), HashMap::<_, Vec<usize>>::new());
        let mut order: Vec<usize> = (0..certificates.len()).collect();
        order.sort_by_key(|at| certificates[*at].cost());
        for at in &order {
            for name in &certificates[*at].names {
                let (map, name) = name
                    .strip_prefix("*.")
                    .map_or((&mut exact, name.as_str()), |parent| (&mut wildcard, parent));
                let places = map.entry(name.to_owned()).or_default();
                if !places.contains(at) {
                    places.push(*at);
                }
            }
        }
        let first = certificates.first().and_then(|certificate| certificate.names.first());
        let default = order
            .into_iter()
            .filter(|at| *at == 0 || first.is_some_and(|name| certificates[*at].names.contains(name)))
            .collect();
        Self { certificates, exact, wildcard, default, refuse_unknown }
    }

    /// Whether a client that asks for this name is answered.
    pub(crate) fn takes(&self, name: Option<&str>) -> bool {
        !self.places(name).is_empty()
    }

    /// Whether a client that asked for `name` was shown a certificate that is also shown for `host`.
    pub(crate) fn agrees(&self, name: Option<&str>, host: &str) -> bool {
        let of_host = self.places(Some(host));
        self.places(name).iter().any(|at| of_host.contains(at))
    }

    fn places(&self, name: Option<&str>) -> &[usize] {
        let known = name.and_then(|name| self.known(name));
        match (known, name) {
            (Some(places), _) => places,
            (None, Some(_)) if self.refuse_unknown => &[],
            (None, _) => &self.default,
        }
    }

    fn known(&self, name: &str) -> Option<&[usize]> {
        let lower;
        let name = name.strip_suffix('.').unwrap_or(name);
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            &lower
        } else {
            name
        };
        let exact = self.exact.get(name);
        // A star stands for one label (RFC 9525, 6.3).
        let found = exact.or_else(|| name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent)));
        found.map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Chooser {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let places = self.places(hello.server_name());
        let fits =
            |at: &&usize| self.certificates[**at].key.key.choose_scheme(hello.signature_schemes()).is_some();
        // Where none fits, rustls says so to the client with the right alert.
        let at = places.iter().find(fits).or(places.first())?;
        Some(Arc::clone(&self.certificates[*at].key))
    }
}
