//! Every bound of the engine, in one place.

use std::time::Duration;

use crate::networks::Networks;

/// How a server behaves. The default suits a web server that faces the Internet.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What a client may send.
    pub limits: Limits,
    /// How long a client may take.
    pub timeouts: Timeouts,
    /// What an h2 client may do.
    pub h2: H2Limits,
}

/// Bounds on what a client may send.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections of the whole server; each worker takes its share of them.
    pub connections: usize,
    /// Open connections of one client (IPv4: its address, IPv6: its /64), over all workers; 0: no limit. Behind a PROXY
    /// header the client that it names counts.
    pub connections_per_client: u32,
    /// Clients without that limit: proxies, which carry many clients' requests.
    pub many_connections: Networks,
    /// Bytes of a request head: request line and header fields.
    pub head_bytes: usize,
    /// Bytes of a request line.
    pub target_bytes: usize,
    /// Header fields of one request.
    pub headers: usize,
    /// Bytes of a request body. A service may have smaller limits of its own.
    pub body_bytes: u64,
    /// Bytes of a request body that are read and thrown away to keep a connection, when a service did not want them.
    pub discard_bytes: u64,
    /// Bytes per second below which a client that is slow to send a body or to take a response is cut off.
    pub minimum_rate: u64,
    /// Whether a client that closes its sending side while a service works is taken as gone, and the work dropped.
    pub cancel_when_client_leaves: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_client: 0,
            many_connections: Networks::default(),
            head_bytes: 32 * 1024,
            target_bytes: 16 * 1024,
            headers: 100,
            body_bytes: 64 << 20,
            discard_bytes: 256 * 1024,
            minimum_rate: 256,
            cancel_when_client_leaves: true,
        }
    }
}

/// Bounds on how long a client may take. They are kept to within [`TICK`].
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// For a PROXY header and a TLS handshake, from the start of the connection.
    pub handshake: Duration,
    /// For a whole request head to arrive, from its first byte or from the start of the connection.
    pub head: Duration,
    /// Without a byte of a request body, while the service waits for one.
    pub body: Duration,
    /// Without a request on a kept-alive connection.
    pub idle: Duration,
    /// Without progress in sending a response.
    pub write: Duration,
    /// Once draining: without a request on a kept-alive connection. A busy client meets `Connection: close` in a
    /// response rather than a connection that closes under its next request.
    pub drain_idle: Duration,
    /// From the start of draining until what is still open is cut off.
    pub drain: Duration,
    /// The same for what left HTTP, such as `WebSocket`s; `None`: as all others. Requests that share an h2 connection with
    /// a `WebSocket` have no more time than others.
    pub drain_tunnels: Option<Duration>,
}

/// How exact the timeouts are: one tick per worker serves all its connections, so that a request costs no timer.
pub const TICK: Duration = Duration::from_millis(100);

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(15),
            body: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            write: Duration::from_secs(30),
            drain_idle: Duration::from_secs(1),
            drain: Duration::from_secs(30),
            drain_tunnels: None,
        }
    }
}

/// Bounds on an h2 connection.
#[derive(Debug, Clone)]
pub struct H2Limits {
    /// Requests at once on one connection.
    pub streams: u32,
    /// Bytes of a request body that may wait in memory, per stream.
    pub stream_window: u32,
    /// Bytes of request bodies that may wait in memory, per connection.
    pub connection_window: u32,
    /// Bytes of a response that may wait in memory, per stream.
    pub send_buffer: usize,
    /// Frames that carry no request or data (`PING`, `SETTINGS`, `RST_STREAM`, `PRIORITY`, `WINDOW_UPDATE`, empty ones)
    /// in one second, above which the connection is cut.
    pub control_frames_per_second: u32,
}

impl Default for H2Limits {
    fn default() -> Self {
        Self {
            streams: 128,
            stream_window: 256 * 1024,
            connection_window: 1 << 20,
            send_buffer: 256 * 1024,
            control_frames_per_second: 2_000,
        }
    }
}
