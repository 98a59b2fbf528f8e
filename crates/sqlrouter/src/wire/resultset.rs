//! Small result sets of text: those that the router answers itself, and those that it reads of a server.

use bytes::{BufMut as _, BytesMut};

use super::capability::DEPRECATE_EOF;
use super::packet::{HEADER, Malformed, Reader, frame, header, put_lenenc, put_lenenc_bytes};
use super::reply::{EOF, ERR, OK};

/// Appends a whole answer, as packets that begin with this sequence number: columns of text, and rows.
pub fn put(
    columns: &[&str],
    rows: &[Vec<String>],
    capabilities: u64,
    status: u16,
    mut sequence: u8,
    out: &mut BytesMut,
) {
    let mut payload = BytesMut::new();
    let mut send = |payload: &mut BytesMut| {
        sequence = frame(payload, sequence, out);
        payload.clear();
    };
    put_lenenc(&mut payload, columns.len() as u64);
    send(&mut payload);
    for name in columns {
        for part in [&b"def"[..], b"", b"", b"", name.as_bytes(), name.as_bytes()] {
            put_lenenc_bytes(&mut payload, part);
        }
        if capabilities & super::capability::EXTENDED_METADATA != 0 {
            payload.put_u8(0);
        }
        payload.put_u8(0x0c);
        // utf8mb4_general_ci, the longest value, VAR_STRING, no flags, decimals as for text.
        payload.put_u16_le(45);
        payload.put_u32_le(4096);
        payload.put_u8(0xfd);
        payload.put_u16_le(0);
        payload.put_u8(0x1f);
        payload.put_u16_le(0);
        send(&mut payload);
    }
    let eof = |payload: &mut BytesMut| {
        payload.put_u8(EOF);
        payload.put_u16_le(0);
        payload.put_u16_le(status);
    };
    if capabilities & DEPRECATE_EOF == 0 {
        eof(&mut payload);
        send(&mut payload);
    }
    for row in rows {
        for value in row {
            put_lenenc_bytes(&mut payload, value.as_bytes());
        }
        send(&mut payload);
    }
    if capabilities & DEPRECATE_EOF == 0 {
        eof(&mut payload);
    } else {
        payload.put_slice(&[EOF, 0, 0]);
        payload.put_u16_le(status);
        payload.put_u16_le(0);
    }
    send(&mut payload);
}

/// The first value of the first row of an answer that is here in full; `None` if it is an OK, has no rows, or the value
/// is NULL.
pub fn first_value(mut answer: &[u8], capabilities: u64) -> Result<Option<Vec<u8>>, Malformed> {
    let mut packet = || -> Result<&[u8], Malformed> {
        let (length, _) = header(answer).ok_or(Malformed)?;
        let payload = answer.get(HEADER..HEADER + length).ok_or(Malformed)?;
        answer = &answer[HEADER + length..];
        Ok(payload)
    };
    let first = packet()?;
    match first.first() {
        None | Some(&ERR) => return Err(Malformed),
        Some(&OK) => return Ok(None),
        Some(_) => {}
    }
    let columns = Reader(first).lenenc()?;
    for _ in 0..columns {
        packet()?;
    }
    if capabilities & DEPRECATE_EOF == 0 {
        packet()?;
    }
    let row = packet()?;
    match row.first() {
        Some(&EOF) if row.len() < 9 => Ok(None),
        Some(0xfb) => Ok(None),
        _ => Ok(Some(Reader(row).lenenc_bytes()?.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for capabilities in [0, DEPRECATE_EOF] {
            let mut out = BytesMut::new();
            put(&["a", "b"], &[vec!["x".into(), "y".into()]], capabilities, 2, 1, &mut out);
            assert_eq!(first_value(&out, capabilities), Ok(Some(b"x".to_vec())));
            let mut out = BytesMut::new();
            put(&["a"], &[], capabilities, 2, 1, &mut out);
            assert_eq!(first_value(&out, capabilities), Ok(None));
        }
    }
}
