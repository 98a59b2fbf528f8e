//! Active health checks: asks an upstream what its group's plan asks for, on a connection of its own.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use mainstay_http::pool::{Pool, PoolSettings, Protocol, Upstream};
use mainstay_http::{Body, BodyStream, Interim, Request, Response};
use mainstay_site::plan::edge::{HealthCheck, UpstreamProtocol};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::flight::Failed;
use crate::health::Reason;
use crate::in_force::SharedGroup;
use crate::upstreams::pool_settings;

/// Bytes of a response's body that are looked at.
const BODY_BYTES: usize = 64 * 1024;

/// Checks upstreams.
#[derive(Clone, Default)]
pub(crate) struct Checker;

impl Checker {
    /// Checks the upstream at an index of a group, within a limit; once it is told to hurry, within what that says.
    pub(crate) async fn check(
        &self,
        group: &SharedGroup,
        index: usize,
        limit: Duration,
        hurry: oneshot::Receiver<Duration>,
    ) -> Result<(), Reason> {
        let (Some(plan), Some(upstream)) = (&group.plan.health, group.upstreams.get(index)) else {
            return Err(Reason::NoResult);
        };
        let mut address = upstream.address;
        if let Some(port) = plan.port {
            address.set_port(port);
        }
        let checked = async {
            match &plan.check {
                HealthCheck::Tcp => connect(address).await,
                HealthCheck::Http { path, host, status, body } => {
                    let response = ask(group, address, limit, http_request(path, host)?).await?;
                    http_answer(response, *status, body.as_deref()).await
                }
                HealthCheck::Grpc { service } => {
                    let response = ask(group, address, limit, grpc_request(service, address)?).await?;
                    grpc_answer(response).await
                }
            }
        };
        let mut checked = pin!(tokio::time::timeout(limit, checked));
        let result = tokio::select! {
            biased;
            result = &mut checked => result,
            Ok(limit) = hurry => tokio::time::timeout(limit, checked).await.and_then(|result| result),
            else => return Err(Reason::NoResult),
        };
        result.unwrap_or(Err(Reason::Timeout))
    }
}

async fn connect(address: SocketAddr) -> Result<(), Reason> {
    match TcpStream::connect(address).await {
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable => {
                Err(Reason::Unreachable)
            }
            _ => Err(Reason::Refused),
        },
    }
}

/// Sends a request on a new connection, which is closed with the response.
async fn ask(
    group: &SharedGroup,
    address: SocketAddr,
    limit: Duration,
    request: Request,
) -> Result<Response, Reason> {
    let http2 = group.plan.protocol == UpstreamProtocol::Http2
        || matches!(group.plan.health.as_ref().map(|plan| &plan.check), Some(HealthCheck::Grpc { .. }));
    let settings = pool_settings(group);
    let pool = Pool::new(PoolSettings {
        protocol: if http2 { Protocol::Http2 } else { Protocol::Http1 },
        connections: 1,
        connect: limit,
        first_byte: limit,
        between_bytes: limit,
        idle: Duration::from_millis(1),
        ..settings
    });
    let sent = pool.send(&Upstream::Tcp(address), request).await;
    sent.map_err(|error| Failed::of(&error).map_or(Reason::Closed, |failed| failed.reason))
}

fn request(method: Method, path: &str, host: &str, body: Body) -> Result<Request, Reason> {
    let wrong = |what: &str| Reason::Protocol(format!("the check's {what} is malformed"));
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| wrong("host"))?);
    headers.insert(USER_AGENT, HeaderValue::from_static("mainstay-health"));
    Ok(Request {
        method,
        uri: path.parse::<Uri>().map_err(|_| wrong("path"))?,
        version: Version::HTTP_11,
        headers,
        body,
        peer: None,
        local: None,
        tls: None,
        host: Some(host.to_owned()),
        upgrade: None,
        interim: Interim::default(),
    })
}

fn http_request(path: &str, host: &str) -> Result<Request, Reason> {
    request(Method::GET, path, host, Body::Empty)
}

async fn http_answer(
    response: Response,
    (least, most): (u16, u16),
    text: Option<&str>,
) -> Result<(), Reason> {
    let status = response.status().as_u16();
    if !(least..=most).contains(&status) {
        return Err(Reason::Status(status));
    }
    let Some(text) = text else { return Ok(()) };
    let body = beginning(response.into_body()).await?;
    if memchr::memmem::find(&body.0, text.as_bytes()).is_some() { Ok(()) } else { Err(Reason::Body) }
}

/// The first bytes of a body, and its trailers if all of it was read.
async fn beginning(body: Body) -> Result<(Vec<u8>, Option<HeaderMap>), Reason> {
    let mut stream: Box<dyn BodyStream> = match body {
        Body::Full(bytes) => return Ok((bytes[..bytes.len().min(BODY_BYTES)].to_vec(), None)),
        Body::Stream(stream) => stream,
        Body::Empty | Body::File(_) | Body::Upgrade(_) => return Ok((Vec::new(), None)),
    };
    let mut all = Vec::new();
    while let Some(piece) = std::future::poll_fn(|cx| stream.poll_data(cx)).await {
        let piece = piece.map_err(|error| Reason::Protocol(error.to_string()))?;
        all.extend_from_slice(&piece[..piece.len().min(BODY_BYTES - all.len())]);
        if all.len() == BODY_BYTES {
            return Ok((all, None));
        }
    }
    let trailers = stream.trailers();
    Ok((all, trailers))
}

/// `grpc.health.v1.Health/Check`: a frame of five bytes' head, and a message whose field 1 is the service's name.
fn grpc_request(service: &str, address: SocketAddr) -> Result<Request, Reason> {
    let name = service.as_bytes();
    let length = u8::try_from(name.len()).ok().filter(|length| *length < 128);
    let length = length.ok_or_else(|| Reason::Protocol("the service's name is too long".to_owned()))?;
    let mut message = Vec::new();
    if length > 0 {
        message.extend_from_slice(&[0x0a, length]);
        message.extend_from_slice(name);
    }
    let mut frame = vec![0, 0, 0, 0, message.len() as u8];
    frame.extend_from_slice(&message);
    let body = Body::Full(Bytes::from(frame));
    let mut request = request(Method::POST, "/grpc.health.v1.Health/Check", &address.to_string(), body)?;
    request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers.insert(TE, HeaderValue::from_static("trailers"));
    Ok(request)
}

async fn grpc_answer(response: Response) -> Result<(), Reason> {
    if response.status() != StatusCode::OK {
        return Err(Reason::Status(response.status().as_u16()));
    }
    let told = |headers: &HeaderMap| headers.get("grpc-status").map(|status| status.as_bytes() == b"0");
    let head = told(response.headers());
    let (body, trailers) = beginning(response.into_body()).await?;
    if head.or(trailers.as_ref().and_then(told)) == Some(false) {
        return Err(Reason::NotServing);
    }
    if is_serving(&body) { Ok(()) } else { Err(Reason::NotServing) }
}

/// Whether a frame's message says SERVING (field 1 is 1).
fn is_serving(frame: &[u8]) -> bool {
    matches!(frame, [0, _, _, _, _, 0x08, 0x01, ..])
}

#[cfg(test)]
mod tests {
    use super::{grpc_request, is_serving};
    use mainstay_http::Body;

    #[test]
    fn grpc_is_spoken() {
        let request = grpc_request("a.B", "127.0.0.1:1".parse().unwrap()).ok().unwrap();
        let Body::Full(body) = request.body else { panic!("no body") };
        assert_eq!(&body[..], b"\0\0\0\0\x05\x0a\x03a.B");
        assert!(is_serving(b"\0\0\0\0\x02\x08\x01"));
        assert!(!is_serving(b"\0\0\0\0\x02\x08\x02") && !is_serving(b"\0\0\0\0\0") && !is_serving(b""));
    }
}
