//! Where a coordinator listens.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// One address of a coordinator: `https://HOST:PORT`, `http://HOST:PORT` or `unix:/PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// TLS over TCP.
    Https {
        /// A name or an address, as the server's certificate has it.
        host: String,
        /// The port.
        port: u16,
    },
    /// Plain TCP: for tests and for etcd on the same server.
    Http {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket of the embedded coordinator.
    Unix(PathBuf),
}

impl Endpoint {
    /// What the `Host` field says.
    pub(crate) fn authority(&self) -> String {
        match self {
            Self::Https { host, port } | Self::Http { host, port } if host.contains(':') => {
                format!("[{host}]:{port}")
            }
            Self::Https { host, port } | Self::Http { host, port } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Https { .. } => write!(formatter, "https://{}", self.authority()),
            Self::Http { .. } => write!(formatter, "http://{}", self.authority()),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// An address that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address of a coordinator: write https://HOST:PORT, http://HOST:PORT or unix:/PATH")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let wrong = || EndpointError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err(wrong()) };
        }
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(wrong()),
        };
        let (host, port) = rest.strip_suffix('/').unwrap_or(rest).rsplit_once(':').ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(wrong)?,
            None if host.contains(':') => return Err(wrong()),
            None => host,
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        if host.is_empty() || !host.bytes().all(allowed) {
            return Err(wrong());
        }
        let host = host.to_owned();
        Ok(if tls { Self::Https { host, port } } else { Self::Http { host, port } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in [
            "https://10.10.0.11:2379",
            "http://localhost:2379",
            "https://[fd10::11]:2379",
            "unix:/run/x.sock",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "10.10.0.11:2379",
            "https://10.10.0.11",
            "https://:1",
            "http://a:0",
            "http://a b:1",
            "unix:x",
            "https://fd10::11:2379",
            "http://a/b:1",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
