//! Reads a TLS client's first message without taking part in the handshake: which server it asks for (RFC 6066, 3)
//! and which protocols it offers (RFC 7301), for services that pass TLS on untouched.

/// Bytes of the message at most; the largest of browsers, with post-quantum keys, have about 2 KiB.
const MESSAGE_BYTES: usize = 16 * 1024;
/// Bytes with the headers of records at most, where every record carries little.
pub const MOST_BYTES: usize = 2 * MESSAGE_BYTES;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// What a client hello says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server asked for, in lower case.
    pub server_name: Option<String>,
    /// The protocols offered, as they are.
    pub protocols: Vec<Vec<u8>>,
}

/// Why bytes are no client hello. Each is a name that metrics count by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// Something else than TLS.
    #[error("no TLS")]
    NoTls,
    /// It is longer than any client's.
    #[error("client hello too large")]
    TooLarge,
    /// It contradicts itself.
    #[error("malformed client hello")]
    Malformed,
}

/// Gathers the message, which may lie in many records that come in many pieces. Each byte is looked at once.
#[derive(Debug, Default)]
pub struct HelloReader {
    /// Bytes of whole records that were taken.
    taken: usize,
    message: Vec<u8>,
}

impl HelloReader {
    /// Reads on; `bytes` is the whole stream from its start. `None`: more has to come.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        loop {
            let record = &bytes[self.taken.min(bytes.len())..];
            if record.first().is_some_and(|kind| *kind != HANDSHAKE)
                || record.get(1).is_some_and(|major| *major != 3)
            {
                return Err(HelloError::NoTls);
            }
            let Some(header) = record.first_chunk::<5>() else { return Ok(None) };
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            // An empty record would cost us without telling anything (RFC 8446, 5.1 forbids it).
            if length == 0 {
                return Err(HelloError::Malformed);
            }
            if length > MESSAGE_BYTES || self.taken + 5 + length > MOST_BYTES {
                return Err(HelloError::TooLarge);
            }
            let Some(fragment) = record.get(5..5 + length) else { return Ok(None) };
            self.message.extend_from_slice(fragment);
            self.taken += 5 + length;
            if let Some(hello) = self.message()? {
                return parse(hello).ok_or(HelloError::Malformed).map(Some);
            }
        }
    }

    /// The message without its header, once it is complete.
    fn message(&self) -> Result<Option<&[u8]>, HelloError> {
        if self.message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(HelloError::NoTls);
        }
        let Some(header) = self.message.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        if length > MESSAGE_BYTES {
            return Err(HelloError::TooLarge);
        }
        Ok(self.message.get(4..4 + length))
    }
}

fn parse(message: &[u8]) -> Option<ClientHello> {
    let mut fields = Fields(message);
    fields.take(2 + 32)?;
    let session = fields.with_length_u8()?;
    let suites = fields.with_length_u16()?;
    let compressions = fields.with_length_u8()?;
    if session.len() > 32 || suites.is_empty() || suites.len() % 2 != 0 || compressions.is_empty() {
        return None;
    }
    let mut hello = ClientHello::default();
    if fields.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Fields(fields.with_length_u16()?);
    if !fields.0.is_empty() {
        return None;
    }
    let (mut named, mut offered) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.with_length_u16()?;
        match kind {
            // One of two names could be for us and the other for the server behind us.
            SERVER_NAME if named => return None,
            SERVER_NAME => {
                named = true;
                hello.server_name = Some(server_name(content)?);
            }
            ALPN if offered => return None,
            ALPN => {
                offered = true;
                hello.protocols = protocols(content)?;
            }
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(content: &[u8]) -> Option<String> {
    let mut content = Fields(content);
    let mut list = Fields(content.with_length_u16()?);
    let kind = list.u8()?;
    let name = list.with_length_u16()?;
    // There is one kind of name, and one name of a kind (RFC 6066, 3).
    if !content.0.is_empty() || !list.0.is_empty() || kind != 0 {
        return None;
    }
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if name.is_empty() || name.len() > 255 || !name.iter().all(plain) {
        return None;
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    String::from_utf8(name.to_ascii_lowercase()).ok()
}

fn protocols(content: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut content = Fields(content);
    let mut list = Fields(content.with_length_u16()?);
    if !content.0.is_empty() || list.0.is_empty() {
        return None;
    }
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let protocol = list.with_length_u8()?;
        if protocol.is_empty() {
            return None;
        }
        protocols.push(protocol.to_vec());
    }
    Some(protocols)
}

/// The rest of a message that is read from front to back.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn with_length_u8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    fn with_length_u16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::{ClientHello, HelloError, HelloReader, MOST_BYTES};

    /// The hello of a real client.
    fn real(name: &str, protocols: &[&str]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message in records of `size` bytes.
    fn in_records(stream: &[u8], size: usize) -> Vec<u8> {
        let message = &stream[5..];
        message
            .chunks(size)
            .flat_map(|piece| [&[22, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat())
            .collect()
    }

    #[test]
    fn a_real_hello_is_read_from_whole_records_and_from_single_bytes() {
        let expected = ClientHello {
            server_name: Some("www.example.org".into()),
            protocols: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        let hello = real("WWW.example.org", &["h2", "http/1.1"]);
        for size in [1, 2, 3, 100, 5000] {
            let bytes = in_records(&hello, size);
            if bytes.len() > MOST_BYTES {
                continue;
            }
            let mut reader = HelloReader::default();
            for cut in 0..bytes.len() {
                assert_eq!(reader.read(&bytes[..cut]), Ok(None), "after {cut} bytes");
            }
            assert_eq!(reader.read(&bytes).unwrap().as_ref(), Some(&expected));
        }
        assert_eq!(HelloReader::default().read(&real("10.0.0.1", &[])), Ok(Some(ClientHello::default())));
    }

    #[test]
    fn what_is_no_hello_is_refused_at_the_first_byte_that_shows_it() {
        assert_eq!(HelloReader::default().read(b"G"), Err(HelloError::NoTls));
        assert_eq!(HelloReader::default().read(&[22, 3, 1, 0, 0]), Err(HelloError::Malformed));
        assert_eq!(HelloReader::default().read(&[22, 3, 1, 0x40, 1]), Err(HelloError::TooLarge));
        // A message of 16 MiB.
        assert_eq!(
            HelloReader::default().read(&[22, 3, 1, 0, 4, 1, 255, 255, 255]),
            Err(HelloError::TooLarge)
        );
        assert_eq!(HelloReader::default().read(&[22, 3, 1, 0, 1, 2]), Err(HelloError::NoTls));
    }

    #[test]
    fn two_names_are_none() {
        let entry = [&[0, 0, 4][..], b"a.de"].concat();
        let two = [&[0, 14][..], &entry, &entry].concat();
        assert_eq!(super::server_name(&two), None);
        assert_eq!(super::server_name(&[&[0, 7][..], &entry].concat()), Some("a.de".into()));
        assert_eq!(super::server_name(&[0, 7, 0, 0, 4, b'a', 0, b'd', b'e']), None);
    }

    proptest! {
        #[test]
        fn any_change_of_a_hello_is_read_without_harm(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            size in 1_usize..3000,
        ) {
            let mut bytes = in_records(&real("example.org", &["h2"]), size);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let mut whole = HelloReader::default();
            let mut pieces = HelloReader::default();
            let expected = whole.read(&bytes);
            let mut last = Ok(None);
            for end in (0..=bytes.len()).step_by(7).chain([bytes.len()]) {
                last = pieces.read(&bytes[..end]);
                if last != Ok(None) {
                    break;
                }
            }
            prop_assert_eq!(last, expected);
        }
    }
}
