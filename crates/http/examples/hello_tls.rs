//! The least service there is, over TLS, for measuring handshakes and records: `hello_tls [PORT [WORKERS]]`. The
//! certificate is made at the start and signed by itself.

use std::rc::Rc;

use bytes::Bytes;
use mainstay_http::metrics::{EngineMetrics, Registry};
use mainstay_http::tls::{CertificatePair, Pem, ServerOptions, ServerTls};
use mainstay_http::{Body, Listener, ListenerOptions, Request, Response, Server, Service, Settings, Shutdown};
use socket2::{Domain, Socket, Type};

struct Hello;

impl Service for Hello {
    fn call(self: Rc<Self>, _request: Request) -> impl Future<Output = Response> + 'static {
        static BODY: [u8; 1024] = [b'x'; 1024];
        std::future::ready(Response::new(Body::Full(Bytes::from_static(&BODY))))
    }
}

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().and_then(|port| port.parse().ok()).unwrap_or(8443);
    let workers: usize = args.next().and_then(|count| count.parse().ok()).unwrap_or(1);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).map_err(std::io::Error::other)?;
    let pair = CertificatePair {
        chain: Pem::new("made here", made.cert.pem()),
        key: Pem::new("made here", made.signing_key.serialize_pem()),
    };
    let tls = ServerTls::new(&[pair], ServerOptions::default()).map_err(std::io::Error::other)?;
    let options = ListenerOptions { tls: Some(tls), proxy_protocol: None };
    let listeners = (0..workers)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into())?;
            socket.listen(1024)?;
            Ok(vec![Listener::TcpWith(socket.into(), options.clone())])
        })
        .collect::<std::io::Result<Vec<_>>>()?;
    let metrics = EngineMetrics::new(&Registry::default());
    Server::start(listeners, &Settings::default(), &metrics, &Shutdown::new(), |_| Hello)?.join()
}
