//! The greeting of a server (version 10), the login of a client, and what passes between them until both agree.

use bytes::{BufMut as _, BytesMut};

use super::capability::{
    CLIENT_MYSQL, CONNECT_ATTRS, CONNECT_WITH_DB, PLUGIN_AUTH, PLUGIN_AUTH_LENENC, PROTOCOL_41,
    SECURE_CONNECTION,
};
use super::packet::{Malformed, Reader, put_lenenc_bytes};

/// Bytes of a challenge.
pub const CHALLENGE: usize = 20;
/// Before the version of a MariaDB 10 and later: old clients take 10 for 1.
const VERSION_PREFIX: &str = "5.5.5-";

/// What a server says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The version, as it stands there.
    pub version: String,
    /// The number of the connection.
    pub connection: u32,
    /// The challenge, [`CHALLENGE`] bytes.
    pub challenge: Vec<u8>,
    /// Capabilities, MariaDB's in the upper half.
    pub capabilities: u64,
    /// The collation that the server begins with.
    pub collation: u8,
    /// Status flags.
    pub status: u16,
    /// The authentication plugin that is asked for first.
    pub plugin: String,
}

impl Greeting {
    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(payload);
        if reader.u8()? != 10 {
            return Err(Malformed);
        }
        let version = text(reader.until_zero()?)?;
        let connection = reader.u32()?;
        let mut challenge = reader.take(8)?.to_vec();
        reader.take(1)?;
        let mut capabilities = u64::from(reader.u16()?);
        let collation = reader.u8()?;
        let status = reader.u16()?;
        capabilities |= u64::from(reader.u16()?) << 16;
        let length = usize::from(reader.u8()?);
        reader.take(6)?;
        let maria = u64::from(reader.u32()?);
        if capabilities & CLIENT_MYSQL == 0 {
            capabilities |= maria << 32;
        }
        challenge.extend_from_slice(reader.take(length.max(21).saturating_sub(9))?);
        // The zero byte at the end of the challenge.
        let _ = reader.take(1);
        let plugin = if capabilities & PLUGIN_AUTH == 0 {
            "mysql_native_password".to_owned()
        } else {
            let rest = reader.rest();
            text(rest.split(|byte| *byte == 0).next().unwrap_or(rest))?
        };
        Ok(Self { version, connection, challenge, capabilities, collation, status, plugin })
    }

    /// Appends the payload.
    pub fn put(&self, out: &mut BytesMut) {
        out.put_u8(10);
        out.put_slice(self.version.as_bytes());
        out.put_u8(0);
        out.put_u32_le(self.connection);
        out.put_slice(&self.challenge[..8]);
        out.put_u8(0);
        let capabilities = self.capabilities & !CLIENT_MYSQL;
        out.put_u16_le(capabilities as u16);
        out.put_u8(self.collation);
        out.put_u16_le(self.status);
        out.put_u16_le((capabilities >> 16) as u16);
        out.put_u8(CHALLENGE as u8 + 1);
        out.put_bytes(0, 6);
        out.put_u32_le((capabilities >> 32) as u32);
        out.put_slice(&self.challenge[8..]);
        out.put_u8(0);
        out.put_slice(self.plugin.as_bytes());
        out.put_u8(0);
    }

    /// Whether it is a MariaDB.
    pub fn is_mariadb(&self) -> bool {
        self.version.starts_with(VERSION_PREFIX) || self.version.contains("MariaDB")
    }
}

/// What a client answers to the greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Capabilities that the client has, MariaDB's in the upper half.
    pub capabilities: u64,
    /// The longest packet that the client takes.
    pub longest: u32,
    /// The collation that the session begins with.
    pub collation: u8,
    /// The account.
    pub account: Vec<u8>,
    /// The answer to the challenge.
    pub response: Vec<u8>,
    /// The schema.
    pub schema: Option<Vec<u8>>,
    /// The plugin that the answer is for.
    pub plugin: String,
}

/// Whether a payload is the short form that asks for TLS; its capabilities.
pub fn tls_request(payload: &[u8]) -> Option<u64> {
    (payload.len() == 32).then(|| capabilities(payload)).filter(|asked| asked & super::capability::SSL != 0)
}

fn capabilities(payload: &[u8]) -> u64 {
    let mut reader = Reader(payload);
    let low = u64::from(reader.u32().unwrap_or_default());
    // Where MySQL has zeros, MariaDB's clients have their own capabilities.
    let maria = payload.get(28..32).map_or(0, |bytes| u64::from(Reader(bytes).u32().unwrap_or_default()));
    if low & CLIENT_MYSQL == 0 { low | maria << 32 } else { low }
}

impl Login {
    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, Malformed> {
        let capabilities = capabilities(payload);
        if capabilities & PROTOCOL_41 == 0 {
            return Err(Malformed);
        }
        let mut reader = Reader(payload);
        reader.u32()?;
        let longest = reader.u32()?;
        let collation = reader.u8()?;
        reader.take(23)?;
        let account = reader.until_zero()?.to_vec();
        let response = response(&mut reader, capabilities)?.to_vec();
        let mut schema = None;
        if capabilities & CONNECT_WITH_DB != 0 && !reader.is_empty() {
            schema = Some(reader.until_zero()?.to_vec()).filter(|name| !name.is_empty());
        }
        let plugin = plugin(&mut reader, capabilities)?;
        Ok(Self { capabilities, longest, collation, account, response, schema, plugin })
    }

    /// Appends the head that a request for TLS consists of.
    pub fn put_head(&self, out: &mut BytesMut) {
        out.put_u32_le(self.capabilities as u32);
        out.put_u32_le(self.longest);
        out.put_u8(self.collation);
        out.put_bytes(0, 19);
        out.put_u32_le((self.capabilities >> 32) as u32);
    }

    /// Appends the payload.
    pub fn put(&self, out: &mut BytesMut) {
        self.put_head(out);
        out.put_slice(&self.account);
        out.put_u8(0);
        if self.capabilities & PLUGIN_AUTH_LENENC != 0 {
            put_lenenc_bytes(out, &self.response);
        } else {
            out.put_u8(self.response.len() as u8);
            out.put_slice(&self.response);
        }
        if self.capabilities & CONNECT_WITH_DB != 0 {
            out.put_slice(self.schema.as_deref().unwrap_or_default());
            out.put_u8(0);
        }
        if self.capabilities & PLUGIN_AUTH != 0 {
            out.put_slice(self.plugin.as_bytes());
            out.put_u8(0);
        }
    }
}

fn response<'a>(reader: &mut Reader<'a>, capabilities: u64) -> Result<&'a [u8], Malformed> {
    if capabilities & PLUGIN_AUTH_LENENC != 0 {
        reader.lenenc_bytes()
    } else if capabilities & SECURE_CONNECTION != 0 {
        let length = usize::from(reader.u8()?);
        reader.take(length)
    } else {
        reader.until_zero()
    }
}

fn plugin(reader: &mut Reader<'_>, capabilities: u64) -> Result<String, Malformed> {
    if capabilities & PLUGIN_AUTH == 0 || reader.is_empty() {
        return Ok(String::new());
    }
    // Some clients forget the zero.
    let rest = reader.0;
    let end = memchr::memchr(0, rest).unwrap_or(rest.len());
    let name = text(reader.take(end)?)?;
    let _ = reader.take(1);
    Ok(name)
}

/// What `COM_CHANGE_USER` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeUser {
    /// The account.
    pub account: Vec<u8>,
    /// The answer to the last challenge.
    pub response: Vec<u8>,
    /// The schema.
    pub schema: Option<Vec<u8>>,
    /// The collation, if it is told.
    pub collation: Option<u8>,
    /// The plugin that the answer is for.
    pub plugin: String,
}

impl ChangeUser {
    /// Reads what follows the command's byte.
    pub fn parse(payload: &[u8], capabilities: u64) -> Result<Self, Malformed> {
        let mut reader = Reader(payload);
        let account = reader.until_zero()?.to_vec();
        let length = usize::from(reader.u8()?);
        let response = reader.take(length)?.to_vec();
        let schema = Some(reader.until_zero()?.to_vec()).filter(|name| !name.is_empty());
        let mut collation = None;
        if !reader.is_empty() {
            collation = Some(reader.u16()? as u8);
        }
        let plugin = plugin(&mut reader, capabilities & !CONNECT_ATTRS)?;
        Ok(Self { account, response, schema, collation, plugin })
    }
}

/// The payload that asks for another plugin's answer.
pub fn switch(plugin: &str, challenge: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(0xfe);
    out.put_slice(plugin.as_bytes());
    out.put_u8(0);
    out.put_slice(challenge);
    // The plugins with challenges of twenty bytes expect a zero behind it, ed25519 does not take one.
    if challenge.len() == CHALLENGE {
        out.put_u8(0);
    }
    out
}

/// Reads a request for another plugin's answer: its name and challenge.
pub fn parse_switch(payload: &[u8]) -> Result<(String, Vec<u8>), Malformed> {
    let mut reader = Reader(payload);
    if reader.u8()? != 0xfe {
        return Err(Malformed);
    }
    if reader.is_empty() {
        // The request for passwords of before 4.1.
        return Err(Malformed);
    }
    let plugin = text(reader.until_zero()?)?;
    let mut challenge = reader.rest().to_vec();
    if challenge.len() == CHALLENGE + 1 {
        challenge.pop();
    }
    Ok((plugin, challenge))
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn greetings_and_logins_come_back(
            version in "[ -~]{0,40}", connection: u32, challenge in prop::collection::vec(1..=255_u8, CHALLENGE),
            capabilities: u64, account in "[a-z]{0,80}", response in prop::collection::vec(any::<u8>(), 0..250),
            schema in prop::option::of("[a-z]{1,60}"),
        ) {
            let greeting = Greeting {
                version, connection, challenge, capabilities: (capabilities | PLUGIN_AUTH) & !CLIENT_MYSQL,
                collation: 45, status: 2, plugin: "mysql_native_password".into(),
            };
            let mut out = BytesMut::new();
            greeting.put(&mut out);
            prop_assert_eq!(Greeting::parse(&out), Ok(greeting));
            let mut capabilities = (capabilities | PLUGIN_AUTH | SECURE_CONNECTION | PROTOCOL_41) & !CLIENT_MYSQL;
            capabilities |= if schema.is_some() { CONNECT_WITH_DB } else { 0 };
            let login = Login {
                capabilities, longest: 1 << 24, collation: 45, account: account.into_bytes(), response,
                schema: schema.map(String::into_bytes), plugin: "client_ed25519".into(),
            };
            let mut out = BytesMut::new();
            login.put(&mut out);
            prop_assert_eq!(Login::parse(&out), Ok(login));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..128), capabilities: u64) {
            let _ = (Greeting::parse(&bytes), Login::parse(&bytes), ChangeUser::parse(&bytes, capabilities));
            let _ = (parse_switch(&bytes), tls_request(&bytes));
        }
    }
}
