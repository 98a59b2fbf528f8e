//! Why certificates and keys cannot be used.

/// What is wrong with what was given; each message says where and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or not the part that is needed.
    #[error("cannot read a {what} from {source_name}: {reason}; give it in PEM")]
    Pem {
        /// Where the text came from.
        source_name: String,
        /// What was looked for.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// PEM, but no certificate in it.
    #[error("certificate {place} of {source_name} is damaged: get the chain again from who issued it")]
    NoCertificate {
        /// Where the text came from.
        source_name: String,
        /// Which one, from 1.
        place: usize,
    },
    /// A key that cannot sign.
    #[error("cannot use the private key from {source_name}: {reason}; give an RSA, ECDSA or Ed25519 key")]
    Key {
        /// Where the text came from.
        source_name: String,
        /// What is wrong.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error(
        "the private key from {key} does not belong to the certificate from {source_name}: give the key that the \
         certificate was requested with"
    )]
    Mismatch {
        /// Where the certificate came from.
        source_name: String,
        /// Where the key came from.
        key: String,
    },
    /// The server's own certificate is further down.
    #[error(
        "the chain from {source_name} begins with another's certificate: put number {place}, which the key belongs \
         to, first"
    )]
    OwnNotFirst {
        /// Where the chain came from.
        source_name: String,
        /// Where the server's own is, from 1.
        place: usize,
    },
    /// One did not issue the one before it.
    #[error(
        "the chain from {source_name} is broken at certificate {place}: the one before was issued by {issuer:?}, this \
         is {subject:?}; each must have issued the one before it"
    )]
    Order {
        /// Where the chain came from.
        source_name: String,
        /// Where the wrong one is, from 1.
        place: usize,
        /// Who should be there.
        issuer: String,
        /// Who is there.
        subject: String,
    },
    /// Its time is over.
    #[error("the certificate from {source_name} expired {days} days ago: renew it")]
    Expired {
        /// Where it came from.
        source_name: String,
        /// How long ago.
        days: u64,
    },
    /// A listener with TLS has nothing to show.
    #[error("TLS needs a certificate and there is none")]
    NoPair,
    /// No authority can be read from where they are kept.
    #[error("cannot read authorities from {source_name}: {reason}")]
    Authorities {
        /// Where they were looked for.
        source_name: String,
        /// What is wrong.
        reason: String,
    },
    /// A name that no server can have.
    #[error("{0:?} is no server name that can be verified: give a DNS name or an address")]
    ServerName(String),
    /// The library refuses.
    #[error("TLS cannot be set up: {0}")]
    Library(String),
}
