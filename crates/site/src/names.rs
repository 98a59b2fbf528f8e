//! Names that cannot be wrong: each type parses once and is right from then on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not a name of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// The text is empty.
    #[error("it is empty")]
    Empty,
    /// The text is longer than the limit, given in bytes.
    #[error("it has {length} bytes; at most {limit} are allowed")]
    TooLong {
        /// Bytes found.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A character that the kind of name does not allow.
    #[error("`{found}` is not allowed; use {allowed}")]
    Character {
        /// The first offending character.
        found: char,
        /// What is allowed, for people.
        allowed: &'static str,
    },
    /// The name starts or ends with a hyphen.
    #[error("it starts or ends with a hyphen")]
    Hyphen,
    /// A domain name with an empty label (two dots in a row, or a dot in front).
    #[error("it has an empty part between two dots")]
    EmptyLabel,
    /// A domain name of one label where at least two are needed.
    #[error("a domain has at least two parts, such as `example.com`")]
    SingleLabel,
    /// An IP address where a domain name belongs.
    #[error("it is an IP address, not a name")]
    Address,
}

fn parse_label(text: &str, limit: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > limit {
        return Err(NameError::TooLong { length: text.len(), limit });
    }
    if let Some(found) = text.chars().find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')) {
        return Err(NameError::Character { found, allowed: "a-z, 0-9 and -" });
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::Hyphen);
    }
    Ok(())
}

macro_rules! label_name {
    ($(#[$doc:meta])* $name:ident, $limit:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                parse_label(text, $limit).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

label_name!(
    /// The name of a site: 1 to 32 of a-z, 0-9 and `-`. State folders, cgroups and units carry it.
    SiteName,
    32
);
label_name!(
    /// The name of a server: 1 to 32 of a-z, 0-9 and `-`; it is the host name, and a label in the site's zone.
    ServerName,
    32
);
label_name!(
    /// The name of an app: 1 to 19 of a-z, 0-9 and `-`. Sockets, log files and its user carry it, and a user's name,
    /// `mainstay-app-NAME`, has at most 32 bytes (useradd).
    AppName,
    19
);

/// A domain name in lower case without the final dot (RFC 1035: at most 253 bytes, labels of 1 to 63).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(String);

impl DomainName {
    /// The name as text, in lower case, without the final dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one name of a single part that leads somewhere: this very machine (RFC 6761, 6.3).
    pub fn localhost() -> Self {
        Self("localhost".to_owned())
    }

    /// Whether this is `zone` itself or lies under it.
    pub fn is_within(&self, zone: &DomainName) -> bool {
        self.0 == zone.0 || self.0.strip_suffix(&zone.0).is_some_and(|front| front.ends_with('.'))
    }
}

impl FromStr for DomainName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > 253 {
            return Err(NameError::TooLong { length: name.len(), limit: 253 });
        }
        if name.parse::<std::net::IpAddr>().is_ok() {
            return Err(NameError::Address);
        }
        let mut labels = 0;
        for label in name.split('.') {
            if label.is_empty() {
                return Err(NameError::EmptyLabel);
            }
            parse_label(label, 63)?;
            labels += 1;
        }
        if labels < 2 && name != "localhost" {
            return Err(NameError::SingleLabel);
        }
        Ok(Self(name))
    }
}

impl TryFrom<String> for DomainName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<DomainName> for String {
    fn from(name: DomainName) -> Self {
        name.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
