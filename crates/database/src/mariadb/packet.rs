//! The little of the client/server protocol that control needs: greeting, log-in by the Unix user, statements as text, and
//! their results. Bytes in, values out, no I/O.

/// What one answer may take in memory. Control statements answer in kilobytes.
pub(crate) const ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// `CLIENT_LONG_PASSWORD`, `CLIENT_PROTOCOL_41`, `CLIENT_TRANSACTIONS`, `CLIENT_SECURE_CONNECTION`,
/// `CLIENT_MULTI_STATEMENTS`, `CLIENT_MULTI_RESULTS`, `CLIENT_PLUGIN_AUTH`.
const CAPABILITIES: u32 = 0x1 | 0x200 | 0x2000 | 0x8000 | 0x1_0000 | 0x2_0000 | 0x8_0000;
/// `SERVER_MORE_RESULTS_EXISTS`.
const MORE_RESULTS: u16 = 0x8;
/// `utf8mb4_general_ci`.
const CHARSET: u8 = 45;
const LARGEST_PACKET: u32 = 0xff_ffff;

/// The server's word for "no".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) message: String,
}

/// What a packet that ends something says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It is done; whether more results follow.
    Ok {
        more: bool,
    },
    Refused(Refusal),
}

/// A reader of a packet's fields. Each returns `None` where the packet is shorter than it must be.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(bytes)?;
        self.0 = tail;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
    }

    fn until_zero(&mut self) -> Option<&'a [u8]> {
        let length = self.0.iter().position(|byte| *byte == 0)?;
        let text = self.take(length)?;
        self.take(1)?;
        Some(text)
    }

    /// A length-encoded integer.
    pub(crate) fn length(&mut self) -> Option<u64> {
        let wide = match self.byte()? {
            short @ 0..=0xfa => return Some(u64::from(short)),
            0xfc => 2,
            0xfd => 3,
            0xfe => 8,
            _ => return None,
        };
        let mut value = [0; 8];
        value[..wide].copy_from_slice(self.take(wide)?);
        Some(u64::from_le_bytes(value))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        self.take(usize::try_from(length).ok()?)
    }

    /// Whether a column's value is NULL, which is one byte of its own.
    fn null(&mut self) -> bool {
        let null = self.0.first() == Some(&0xfb);
        if null {
            self.0 = &self.0[1..];
        }
        null
    }
}

/// The connection's number, out of the server's greeting (protocol 10).
pub(crate) fn greeting(packet: &[u8]) -> Option<Result<u32, Refusal>> {
    if packet.first() == Some(&0xff) {
        return refusal(packet).map(Err);
    }
    let mut fields = Fields(packet);
    if fields.byte()? != 10 {
        return None;
    }
    fields.until_zero()?;
    fields.u32().map(Ok)
}

/// The reply to the greeting: this user, who will prove itself by the socket's credentials.
pub(crate) fn hello(user: &str) -> Vec<u8> {
    let mut packet = Vec::with_capacity(80);
    packet.extend(CAPABILITIES.to_le_bytes());
    packet.extend(LARGEST_PACKET.to_le_bytes());
    packet.push(CHARSET);
    packet.extend([0; 23]);
    packet.extend(user.as_bytes());
    packet.push(0);
    // No password, and the plugin that needs none.
    packet.push(0);
    packet.extend(b"unix_socket\0");
    packet
}

/// OK, EOF or ERR.
pub(crate) fn end(packet: &[u8]) -> Option<End> {
    let mut fields = Fields(packet);
    match fields.byte()? {
        0 => {
            fields.length()?;
            fields.length()?;
            Some(End::Ok { more: fields.u16()? & MORE_RESULTS != 0 })
        }
        0xfe if packet.len() < 9 => {
            fields.u16()?;
            Some(End::Ok { more: fields.u16()? & MORE_RESULTS != 0 })
        }
        0xff => refusal(packet).map(End::Refused),
        _ => None,
    }
}

fn refusal(packet: &[u8]) -> Option<Refusal> {
    let mut fields = Fields(packet);
    fields.byte()?;
    let code = fields.u16()?;
    // `#` and five characters of SQLSTATE; a server that is too busy to greet leaves them out.
    let text = if fields.0.first() == Some(&b'#') { fields.0.get(6..)? } else { fields.0 };
    Some(Refusal { code, message: String::from_utf8_lossy(text).into_owned() })
}

/// A column's name, out of its definition.
pub(crate) fn column(packet: &[u8]) -> Option<String> {
    let mut fields = Fields(packet);
    // Catalog, schema, table, the table's original name.
    for _ in 0..4 {
        fields.text()?;
    }
    fields.text().map(|name| String::from_utf8_lossy(name).into_owned())
}

/// A row of a text result.
pub(crate) fn row(packet: &[u8], columns: usize) -> Option<Vec<Option<String>>> {
    let mut fields = Fields(packet);
    let mut row = Vec::with_capacity(columns);
    for _ in 0..columns {
        let value =
            if fields.null() { None } else { Some(String::from_utf8_lossy(fields.text()?).into_owned()) };
        row.push(value);
    }
    fields.0.is_empty().then_some(row)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_error_keeps_its_number_and_its_words() {
        let packet = b"\xff\xb1\x07#70100Query execution was interrupted";
        let expected = Refusal { code: 1969, message: "Query execution was interrupted".to_owned() };
        assert_eq!(end(packet), Some(End::Refused(expected)));
    }

    #[test]
    fn a_row_that_is_cut_short_or_too_long_is_no_row() {
        assert_eq!(row(b"\x01a\xfb", 2), Some(vec![Some("a".to_owned()), None]));
        assert_eq!(row(b"\x05a", 1), None);
        assert_eq!(row(b"\x01a\x01b", 1), None);
    }

    proptest! {
        #[test]
        fn no_packet_makes_the_reader_panic(packet: Vec<u8>, columns in 0_usize..5) {
            let _ = (greeting(&packet), end(&packet), column(&packet), row(&packet, columns));
        }
    }
}
