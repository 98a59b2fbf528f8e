//! Several ranges in one response (RFC 9110, 14.6).

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use mainstay_http::{Body, BodyError, BodyStream, FileRange};

use super::cache::{Content, Representation};
use super::pieces;

/// Parts on their way.
struct Multipart {
    parts: VecDeque<Part>,
    remaining: u64,
}

enum Part {
    Bytes(Bytes),
    File(FileRange),
}

/// The body of a `multipart/byteranges` response with this boundary.
pub(crate) fn body(form: &Representation, content_type: &str, ranges: &[Range<u64>], boundary: &str) -> Body {
    let mut parts = VecDeque::with_capacity(2 * ranges.len() + 1);
    for range in ranges {
        let (first, last, length) = (range.start, range.end - 1, form.length);
        let head = format!(
            "\r\n--{boundary}\r\ncontent-type: {content_type}\r\ncontent-range: bytes {first}-{last}/{length}\r\n\r\n"
        );
        parts.push_back(Part::Bytes(head.into()));
        parts.push_back(match &form.content {
            Content::Memory(bytes) => Part::Bytes(bytes.slice(range.start as usize..range.end as usize)),
            Content::Open(file) => Part::File(FileRange {
                file: Rc::clone(file),
                offset: range.start,
                length: range.end - range.start,
            }),
        });
    }
    parts.push_back(Part::Bytes(format!("\r\n--{boundary}--\r\n").into()));
    let length = |part: &Part| match part {
        Part::Bytes(bytes) => bytes.len() as u64,
        Part::File(range) => range.length,
    };
    let remaining = parts.iter().map(length).sum();
    Body::Stream(Box::new(Multipart { parts, remaining }))
}

impl BodyStream for Multipart {
    fn poll_data(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            let piece = match self.parts.front_mut() {
                None => return Poll::Ready(None),
                Some(Part::Bytes(bytes)) if !bytes.is_empty() => Ok(std::mem::take(bytes)),
                Some(Part::File(range)) if range.length > 0 => pieces::next(range).map_err(BodyError::Io),
                Some(_) => {
                    self.parts.pop_front();
                    continue;
                }
            };
            if let Ok(piece) = &piece {
                self.remaining -= piece.len() as u64;
            }
            return Poll::Ready(Some(piece));
        }
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.remaining)
    }
}
