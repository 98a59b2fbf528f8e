//! The short answers of a server: OK, ERR and EOF, and what OK tells of the session's state.

use bytes::{BufMut as _, BytesMut};

use super::capability::{STATUS_AUTOCOMMIT, STATUS_SESSION_STATE_CHANGED};
use super::packet::{Malformed, Reader, put_lenenc, put_lenenc_bytes};

/// First byte of OK.
pub const OK: u8 = 0x00;
/// First byte of EOF, and of the OK that ends rows.
pub const EOF: u8 = 0xfe;
/// First byte of ERR.
pub const ERR: u8 = 0xff;
/// First byte of the request for a file of the client.
pub const LOCAL_INFILE: u8 = 0xfb;

/// An OK packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OkPacket<'a> {
    /// [`OK`], or [`EOF`] where it ends rows.
    pub head: u8,
    /// Rows.
    pub affected: u64,
    /// The last number that `AUTO_INCREMENT` gave.
    pub last_insert_id: u64,
    /// Status flags.
    pub status: u16,
    /// Warnings.
    pub warnings: u16,
    /// A sentence.
    pub info: &'a [u8],
    /// How the session's state changed: entries for [`changes`].
    pub state: &'a [u8],
}

impl<'a> OkPacket<'a> {
    /// Reads a payload. The sentence has its length before it, with and without session tracking: the protocol's
    /// documentation says otherwise, but servers send it so, and clients read it so.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(payload);
        let head = reader.u8()?;
        let (affected, last_insert_id) = (reader.lenenc()?, reader.lenenc()?);
        let (status, warnings) = (reader.u16()?, reader.u16()?);
        let (mut info, mut state): (&[u8], &[u8]) = (&[], &[]);
        if !reader.is_empty() {
            info = reader.lenenc_bytes()?;
            if status & STATUS_SESSION_STATE_CHANGED != 0 && !reader.is_empty() {
                state = reader.lenenc_bytes()?;
            }
        }
        Ok(Self { head, affected, last_insert_id, status, warnings, info, state })
    }

    /// Appends the payload for a client with or without session tracking. Of the state, what a server tells unless it is
    /// asked for more: the schema, and the few variables that are tracked by default.
    pub fn put(&self, tracked: bool, out: &mut BytesMut) {
        let mut state = Vec::new();
        if tracked {
            for change in changes(self.state) {
                match change {
                    Change::Schema(name) => put_change(&mut state, 1, &[name]),
                    Change::Variable(name, value) if TRACKED_BY_DEFAULT.contains(&name) => {
                        put_change(&mut state, 0, &[name, value]);
                    }
                    Change::Variable(..) | Change::Other => {}
                }
            }
        }
        out.put_u8(self.head);
        put_lenenc(out, self.affected);
        put_lenenc(out, self.last_insert_id);
        let status = self.status & !STATUS_SESSION_STATE_CHANGED;
        out.put_u16_le(if state.is_empty() { status } else { status | STATUS_SESSION_STATE_CHANGED });
        out.put_u16_le(self.warnings);
        if !self.info.is_empty() || !state.is_empty() {
            put_lenenc_bytes(out, self.info);
            if !state.is_empty() {
                put_lenenc_bytes(out, &state);
            }
        }
    }
}

/// What MariaDB tells clients with session tracking unless they ask for other variables.
const TRACKED_BY_DEFAULT: [&[u8]; 5] = [
    b"autocommit",
    b"character_set_client",
    b"character_set_connection",
    b"character_set_results",
    b"time_zone",
];

fn put_change(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let mut body = Vec::new();
    for part in parts {
        put_lenenc_bytes(&mut body, part);
    }
    out.push(kind);
    put_lenenc_bytes(out, &body);
}

/// One change of the session's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// A system variable has a new value.
    Variable(&'a [u8], &'a [u8]),
    /// Another schema is in use.
    Schema(&'a [u8]),
    /// Something else.
    Other,
}

/// The changes that an OK packet tells; what cannot be read ends them.
pub fn changes(state: &[u8]) -> impl Iterator<Item = Change<'_>> {
    let mut entries = Reader(state);
    // Several variables may share one entry.
    let mut variables = Reader(&[]);
    std::iter::from_fn(move || {
        if variables.is_empty() {
            if entries.is_empty() {
                return None;
            }
            let (kind, body) = (entries.u8().ok()?, entries.lenenc_bytes().ok()?);
            match kind {
                0 => variables = Reader(body),
                1 => return Reader(body).lenenc_bytes().ok().map(Change::Schema),
                _ => return Some(Change::Other),
            }
        }
        Some(Change::Variable(variables.lenenc_bytes().ok()?, variables.lenenc_bytes().ok()?))
    })
}

/// The payload of a plain OK.
pub fn ok(status: u16) -> BytesMut {
    let mut out = BytesMut::new();
    OkPacket { head: OK, affected: 0, last_insert_id: 0, status, warnings: 0, info: b"", state: b"" }
        .put(false, &mut out);
    out
}

/// Status of a session that has just begun.
pub const FRESH: u16 = STATUS_AUTOCOMMIT;

/// An ERR packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrPacket<'a> {
    /// The number.
    pub code: u16,
    /// The SQLSTATE.
    pub state: &'a [u8],
    /// The sentence.
    pub message: &'a [u8],
}

impl<'a> ErrPacket<'a> {
    /// Reads a payload.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(payload);
        if reader.u8()? != ERR {
            return Err(Malformed);
        }
        let code = reader.u16()?;
        let mut state: &[u8] = b"HY000";
        if reader.0.first() == Some(&b'#') {
            state = &reader.take(6)?[1..];
        }
        Ok(Self { code, state, message: reader.rest() })
    }
}

/// The payload of an ERR. During the first part of a handshake there is no SQLSTATE, but clients read either.
pub fn err(code: u16, state: &str, message: &str) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(ERR);
    out.put_u16_le(code);
    out.put_u8(b'#');
    out.put_slice(state.as_bytes());
    out.put_slice(message.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What MariaDB 10.11 said to `SET time_zone=..., wait_timeout=77` with all variables tracked, and after an INSERT.
    const INSERTED: &[u8] = b"\x00\x01\x00\x02\xc0\x00\x00\x00\x12\x00\x10\tlast_gtid\x050-1-5";

    #[test]
    fn the_position_of_a_write_is_read_and_kept_from_clients_that_did_not_ask() {
        let ok = OkPacket::parse(INSERTED).unwrap();
        assert_eq!(changes(ok.state).collect::<Vec<_>>(), [Change::Variable(b"last_gtid", b"0-1-5")]);
        let (mut plain, mut tracked) = (BytesMut::new(), BytesMut::new());
        ok.put(false, &mut plain);
        assert_eq!(&plain[..], b"\x00\x01\x00\x02\x80\x00\x00");
        ok.put(true, &mut tracked);
        assert_eq!(tracked, plain);
    }

    proptest! {
        #[test]
        fn an_ok_packet_comes_back(affected: u64, last_insert_id: u64, warnings: u16, info in "[a-z]{0,300}", schema in "[a-z]{0,40}") {
            let mut state = Vec::new();
            put_change(&mut state, 1, &[schema.as_bytes()]);
            put_change(&mut state, 0, &[b"time_zone", b"+00:00"]);
            let ok = OkPacket {
                head: OK, affected, last_insert_id, status: STATUS_SESSION_STATE_CHANGED | 2, warnings,
                info: info.as_bytes(), state: &state,
            };
            let mut out = BytesMut::new();
            ok.put(true, &mut out);
            prop_assert_eq!(OkPacket::parse(&out), Ok(ok));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = (OkPacket::parse(&bytes), ErrPacket::parse(&bytes));
            prop_assert!(changes(&bytes).count() <= bytes.len());
        }
    }
}
