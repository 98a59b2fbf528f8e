//! The smallest role: answers every request with its process number, and drains when asked to stop.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainstay_http::admin::{Router, serve};
use mainstay_process::{InheritedSocket, inherited_sockets};
use mainstay_site::paths;

pub(crate) fn run(config: &str) -> ExitCode {
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    assert_eq!(config["run"], paths::role_run("web").to_str().unwrap());
    let draining = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for socket in inherited_sockets().unwrap() {
        let InheritedSocket::Tcp { listener, .. } = socket else { panic!("{socket:?} is not TCP") };
        let draining = draining.clone();
        workers.push(std::thread::spawn(move || work(&listener, &draining)));
    }
    let admin = serve(&paths::admin_socket("web"), 0o660, Router::new().health(|| Ok(()))).unwrap();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        terminate.recv().await;
    });
    draining.store(true, Ordering::SeqCst);
    for worker in workers {
        worker.join().unwrap();
    }
    drop(admin);
    ExitCode::SUCCESS
}

fn work(listener: &TcpListener, draining: &AtomicBool) {
    while !draining.load(Ordering::SeqCst) {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        stream.set_nonblocking(false).unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        let _ = writeln!(stream, "HTTP/1.0 200 OK\r\n\r\n{}", std::process::id());
    }
}
