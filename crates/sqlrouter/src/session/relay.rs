//! Passes a server's answer on to the client, and notes what it tells of the session's state.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::backend::Connection;
use crate::channel::Channel;
use crate::gtid::Position;
use crate::wire::capability::{SESSION_TRACK, STATUS_SESSION_STATE_CHANGED};
use crate::wire::packet::{HEADER, LONGEST};
use crate::wire::reply::{Change, ErrPacket, OkPacket, changes};
use crate::wire::response::{End, Event, Kind, Response, eof_status};

/// What an answer told.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Status flags, if it ended with some.
    pub(super) status: Option<u16>,
    /// The number of the error that it ended with.
    pub(super) failed: Option<u16>,
    /// A result ended with EOF, which cannot tell of positions.
    pub(super) by_eof: bool,
    pub(super) position: Option<Position>,
    pub(super) schema: Option<Bytes>,
    pub(super) variables: Vec<(Bytes, Bytes)>,
    pub(super) last_insert_id: u64,
    pub(super) warnings: u16,
    /// The server's number of a prepared statement, and its parameters.
    pub(super) prepared: Option<(u32, u16)>,
}

/// How it ended otherwise.
pub(super) enum Broken {
    /// The client is gone.
    Client,
    /// The connection to the server is lost; whether the client has a part of the answer.
    Server { passed: bool },
    /// The answer is an error that the client is not told: its payload.
    Refused(BytesMut),
}

/// What must be known of the answer.
pub(super) struct Relay<'a> {
    pub(super) kind: Kind,
    /// Agreed with the client.
    pub(super) capabilities: u64,
    /// The client's number of the statement that is prepared.
    pub(super) statement: u32,
    /// Whether an error is kept from the client, if it is the whole answer.
    pub(super) keep: &'a dyn Fn(&ErrPacket<'_>) -> bool,
}

pub(super) async fn relay(
    client: &mut Channel,
    connection: &mut Connection,
    how: &Relay<'_>,
) -> Result<Seen, Broken> {
    let mut response = Response::new(how.kind, connection.capabilities);
    connection.busy = true;
    let tracked = how.capabilities & SESSION_TRACK != 0;
    let mut seen = Seen::default();
    let mut passed = false;
    // Bytes at the front of the server's that are passed on as they are.
    let mut ready = 0;
    while !response.is_over() {
        let input = &mut connection.channel.input;
        match response.next(&input[ready..]).map_err(|_| Broken::Server { passed })? {
            Event::Need => {
                if ready > 0 {
                    client.write(&input[..ready]).await.map_err(|_| Broken::Client)?;
                    input.advance(ready);
                    (ready, passed) = (0, true);
                }
                match connection.channel.fill().await {
                    Ok(0) | Err(_) => return Err(Broken::Server { passed }),
                    Ok(_) => {}
                }
            }
            Event::Pass(bytes) => ready += bytes,
            Event::Prepared(bytes) => {
                let payload = &mut input[ready + HEADER..ready + bytes];
                let id = u32::from_le_bytes([payload[1], payload[2], payload[3], payload[4]]);
                payload[1..5].copy_from_slice(&how.statement.to_le_bytes());
                seen.prepared = Some((id, u16::from_le_bytes([payload[7], payload[8]])));
                ready += bytes;
            }
            Event::LocalInfile(bytes) => {
                ready += bytes;
                client.write(&input[..ready]).await.map_err(|_| Broken::Client)?;
                input.advance(ready);
                (ready, passed) = (0, true);
                send_file(client, connection).await?;
            }
            Event::End { bytes, end, more: _ } => {
                let payload = &input[(ready + HEADER).min(ready + bytes)..ready + bytes];
                match end {
                    End::Ok => {
                        let ok = OkPacket::parse(payload).map_err(|_| Broken::Server { passed })?;
                        note(&mut seen, &ok);
                        if ok.status & STATUS_SESSION_STATE_CHANGED != 0 {
                            // What only the router asked for is taken out.
                            let sequence = input[ready + 3];
                            let mut packet = BytesMut::with_capacity(64);
                            ok.put(tracked, &mut packet);
                            client.output.extend_from_slice(&input[..ready]);
                            client.put(&packet, sequence);
                            input.advance(ready + bytes);
                            ready = 0;
                            continue;
                        }
                    }
                    End::Eof => {
                        seen.status = Some(eof_status(payload).map_err(|_| Broken::Server { passed })?);
                        seen.warnings = u16::from_le_bytes([payload[1], payload[2]]);
                        seen.by_eof = true;
                    }
                    End::Err => {
                        let error = ErrPacket::parse(payload).map_err(|_| Broken::Server { passed })?;
                        seen.failed = Some(error.code);
                        let whole = !passed && ready == 0 && client.output.is_empty();
                        if whole && (how.keep)(&error) {
                            let payload = BytesMut::from(payload);
                            input.advance(bytes);
                            connection.busy = !response.is_over();
                            return Err(Broken::Refused(payload));
                        }
                    }
                    End::Other | End::Definitions => {}
                }
                ready += bytes;
            }
        }
    }
    connection.busy = false;
    let input = &mut connection.channel.input;
    if client.output.is_empty() {
        client.write(&input[..ready]).await.map_err(|_| Broken::Client)?;
    } else {
        client.output.extend_from_slice(&input[..ready]);
        client.flush().await.map_err(|_| Broken::Client)?;
    }
    input.advance(ready);
    Ok(seen)
}

/// `LOAD DATA LOCAL`: packets of the client go to the server, up to an empty one.
async fn send_file(client: &mut Channel, connection: &mut Connection) -> Result<(), Broken> {
    loop {
        let (payload, sequence) = client.packet_of(LONGEST).await.map_err(|_| Broken::Client)?;
        let header = (payload.len() as u32).to_le_bytes();
        let out = &mut connection.channel.output;
        out.extend_from_slice(&[header[0], header[1], header[2], sequence]);
        out.extend_from_slice(&payload);
        connection.channel.flush().await.map_err(|_| Broken::Server { passed: true })?;
        if payload.is_empty() {
            return Ok(());
        }
    }
}

/// Variables that are a connection's own.
const NOT_CARRIED: [&[u8]; 6] = [
    b"insert_id",
    b"warning_count",
    b"error_count",
    b"in_transaction",
    b"session_track_system_variables",
    b"pseudo_thread_id",
];

fn note(seen: &mut Seen, ok: &OkPacket<'_>) {
    seen.status = Some(ok.status);
    seen.warnings = ok.warnings;
    if ok.last_insert_id != 0 {
        seen.last_insert_id = ok.last_insert_id;
    }
    for change in changes(ok.state) {
        match change {
            Change::Schema(name) => seen.schema = Some(Bytes::copy_from_slice(name)),
            Change::Variable(b"last_gtid", value) => {
                let position = std::str::from_utf8(value).ok().and_then(|text| text.parse::<Position>().ok());
                if let Some(position) = position {
                    seen.position.get_or_insert_default().advance(&position);
                }
            }
            Change::Variable(b"last_insert_id" | b"identity", value) => {
                let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                seen.last_insert_id = number.unwrap_or(seen.last_insert_id);
            }
            Change::Other => {}
            Change::Variable(name, _) if NOT_CARRIED.contains(&name) => {}
            Change::Variable(name, value) => {
                seen.variables.push((Bytes::copy_from_slice(name), Bytes::copy_from_slice(value)));
            }
        }
    }
}
