//! Real gRPC, Debian's python3-grpcio, through a proxy made of the engine's two halves.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::forward::Proxy;
use mainstay_http::pool::Protocol;

fn python() -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/grpc_echo.py"));
    command
}

#[test]
fn grpc_passes_through_with_status_streams_and_cancellation() {
    let mut server = python()
        .arg("server")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("scripts/packages test installs python3-grpcio");
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let port: u16 = port.trim().parse().expect("scripts/packages test installs python3-grpcio");
    let proxy = Proxy::to(([127, 0, 0, 1], port).into(), Protocol::Http2);
    let told = python().args(["client", &proxy.address.port().to_string()]).output().unwrap();
    // It ends with its input.
    drop(server.stdin.take());
    server.wait().unwrap();
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    assert!(told.status.success() && out.trim() == "done", "{out}{err}");
}
