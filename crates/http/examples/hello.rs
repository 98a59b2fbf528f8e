//! The least service there is, for measuring the engine: `hello [PORT [WORKERS [FILE]]]`.

use std::fs::File;
use std::rc::Rc;

use bytes::Bytes;
use http::HeaderValue;
use mainstay_http::metrics::{EngineMetrics, Registry};
use mainstay_http::{Body, FileRange, Listener, Request, Response, Server, Service, Settings, Shutdown};
use socket2::{Domain, Socket, Type};

struct Hello {
    file: Option<Rc<File>>,
}

impl Service for Hello {
    fn call(self: Rc<Self>, _request: Request) -> impl Future<Output = Response> + 'static {
        let body = match &self.file {
            None => Body::Full(Bytes::from_static(b"Hello, world!\n")),
            Some(file) => {
                let length = file.metadata().map_or(0, |data| data.len());
                Body::File(FileRange { file: Rc::clone(file), offset: 0, length })
            }
        };
        let mut response = Response::new(body);
        response.headers_mut().insert("content-type", HeaderValue::from_static("text/plain"));
        std::future::ready(response)
    }
}

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let port: u16 = args.next().and_then(|port| port.parse().ok()).unwrap_or(8080);
    let workers: usize = args.next().and_then(|count| count.parse().ok()).unwrap_or(1);
    let path = args.next();
    let listeners = (0..workers)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(true)?;
            socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into())?;
            socket.listen(1024)?;
            Ok(vec![Listener::Tcp(socket.into())])
        })
        .collect::<std::io::Result<Vec<_>>>()?;
    let metrics = EngineMetrics::new(&Registry::default());
    let file = move || path.as_ref().and_then(|path| File::open(path).ok()).map(Rc::new);
    Server::start(listeners, &Settings::default(), &metrics, &Shutdown::new(), move |_| Hello {
        file: file(),
    })?
    .join()
}
