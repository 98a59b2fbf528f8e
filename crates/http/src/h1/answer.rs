//! Parses the head of a response from an upstream, as strictly as that of a request.

use http::{HeaderMap, Method, StatusCode, Version};

use super::fields::{self, Framing};
use super::marks::{self, Kind, MOST_FIELDS, Marks};
use crate::field_block::{FieldBlock, Keep};

/// Header fields of a response at most.
const MOST_HEADERS: usize = MOST_FIELDS;

/// A response's head, checked.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The fields, without those that belong to the connection only.
    pub headers: HeaderMap,
    /// The same fields as a block, where one was asked for; the map is empty then.
    pub block: Option<FieldBlock>,
    /// How the body is delimited.
    pub framing: ResponseFraming,
    /// Whether the upstream lets the connection be used again.
    pub keep_alive: bool,
    /// The protocol that the upstream changes to, with 101.
    pub upgrade: Option<String>,
}

/// How the body of a response is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseFraming {
    /// By a length or by chunks.
    Framed(Framing),
    /// By the end of the connection.
    UntilClose,
}

/// Why a response is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Parses a whole head; `head` ends with the empty line. `method` is that of the request.
pub fn parse(head: &[u8], method: &Method) -> Result<ResponseHead, Malformed> {
    parse_keeping(head, method, Keep::Map)
}

/// Like [`parse`], with the fields of all but a change of protocols kept as a map or as a block.
pub fn parse_keeping(head: &[u8], method: &Method, keep: Keep) -> Result<ResponseHead, Malformed> {
    let mut slots = [const { std::mem::MaybeUninit::uninit() }; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, head, &mut slots);
    match parsed {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed("too many header fields")),
        _ => return Err(Malformed("malformed head")),
    }
    let (Some(code), Some(minor)) = (response.code, response.version) else {
        return Err(Malformed("malformed head"));
    };
    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let status = StatusCode::from_u16(code).map_err(|_| Malformed("malformed status"))?;
    if code > 599 {
        return Err(Malformed("malformed status"));
    }
    let found = &*response.headers;
    let mut kinds = [Kind::Other; MOST_FIELDS];
    let marks = Marks::of(found, head, &mut kinds);
    let framing = framing(&marks, version, status, method)?;
    let (options, named) = marks.options(found, &kinds).map_err(|_| Malformed("malformed Connection"))?;
    let keep = if status == StatusCode::SWITCHING_PROTOCOLS { Keep::Map } else { keep };
    let (headers, block) =
        Marks::kept(found, &kinds, head, &named, keep).ok_or(Malformed("malformed header field"))?;
    let persistent =
        if version == Version::HTTP_11 { !options.close } else { options.keep_alive && !options.close };
    let upgrade = marks
        .upgrade
        .filter(|_| options.upgrade && status == StatusCode::SWITCHING_PROTOCOLS)
        .and_then(marks::text);
    Ok(ResponseHead {
        status,
        headers,
        block,
        framing,
        keep_alive: persistent && framing != ResponseFraming::UntilClose,
        upgrade,
    })
}

fn framing(
    marks: &Marks<'_>,
    version: Version,
    status: StatusCode,
    method: &Method,
) -> Result<ResponseFraming, Malformed> {
    let told = marks.framing(version).map_err(|error| {
        Malformed(match error {
            fields::FramingError::SeveralLengths => "several Content-Length fields",
            fields::FramingError::BadLength => "malformed Content-Length",
            fields::FramingError::LengthAndEncoding => "Content-Length and Transfer-Encoding",
            fields::FramingError::BadEncoding => "Transfer-Encoding other than chunked",
            fields::FramingError::EncodingInOldVersion => "Transfer-Encoding in HTTP/1.0",
        })
    })?;
    let bodiless = *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    Ok(match told {
        _ if bodiless => ResponseFraming::Framed(Framing::Length(0)),
        Some(framing) => ResponseFraming::Framed(framing),
        None => ResponseFraming::UntilClose,
    })
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::{ResponseFraming, parse};
    use crate::h1::fields::Framing;

    #[test]
    fn the_request_decides_whether_there_is_a_body() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(parse(head, &Method::GET).unwrap().framing, ResponseFraming::Framed(Framing::Length(5)));
        assert_eq!(parse(head, &Method::HEAD).unwrap().framing, ResponseFraming::Framed(Framing::Length(0)));
        let open = parse(b"HTTP/1.1 200 OK\r\n\r\n", &Method::GET).unwrap();
        assert_eq!((open.framing, open.keep_alive), (ResponseFraming::UntilClose, false));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 999 No\r\n\r\n",
            "HTTP/1.1 20 No\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
        ] {
            assert!(parse(head.as_bytes(), &Method::GET).is_err(), "{head:?}");
        }
    }
}
