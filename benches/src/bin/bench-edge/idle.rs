//! Many connections that do nothing: what each costs in memory.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use mainstay_benches::memory;
use socket2::{Domain, Socket, Type};

use crate::ground::{Balancer, HOST};

/// Connections from one address, so that no address runs out of ports.
const EACH: u32 = 5_000;

/// Bytes of memory for each of so many kept connections, after one request on each.
pub(crate) fn bytes_each(balancer: &Balancer, connections: u32) -> io::Result<f64> {
    let before = memory::held(balancer.pid());
    let mut open = Vec::new();
    for number in 0..connections {
        // 127.0.0.2 and on: all of them are this machine.
        let from = Ipv4Addr::new(127, 0, 0, 2 + (number / EACH) as u8);
        open.push(ask(from, balancer.port)?);
    }
    let after = memory::held(balancer.pid());
    Ok(after.saturating_sub(before) as f64 / f64::from(connections))
}

fn ask(from: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // In one write: in several, Nagle's algorithm would wait for an acknowledgement between them.
    stream.write_all(format!("GET /1k.bin HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes())?;
    let (mut response, mut have) = ([0; 4096], 0);
    loop {
        let head = response[..have].windows(4).position(|bytes| bytes == b"\r\n\r\n");
        if head.is_some_and(|head| have >= head + 4 + 1024) {
            return Ok(stream);
        }
        let read = stream.read(&mut response[have..])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        have += read;
    }
}
