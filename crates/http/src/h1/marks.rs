//! What the fields of a head say about the message itself and about its connection, read in one walk over them.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Version};

use super::fields::{self, ConnectionError, Framing, FramingError, Options, to_map};
use crate::field_block::{FieldBlock, Keep};

/// Fields that a head has at most, whatever the settings say: they lie on the stack.
pub(crate) const MOST_FIELDS: usize = 256;

/// What a field is for, as far as it concerns whoever reads the head.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    Host,
    Length,
    Expect,
    // All below belong to one connection.
    Encoding,
    Upgrade,
    Te,
    Connection,
    Hop,
}

impl Kind {
    fn of(name: &[u8]) -> Self {
        let Some(first) = name.first() else { return Self::Other };
        let (kind, full): (Self, &[u8]) = match (name.len(), first | 0x20) {
            (4, b'h') => (Self::Host, b"host"),
            (14, b'c') => (Self::Length, b"content-length"),
            (6, b'e') => (Self::Expect, b"expect"),
            (17, b't') => (Self::Encoding, b"transfer-encoding"),
            (7, b'u') => (Self::Upgrade, b"upgrade"),
            (2, b't') => (Self::Te, b"te"),
            (10, b'c') => (Self::Connection, b"connection"),
            (10, b'k') => (Self::Hop, b"keep-alive"),
            (7, b't') => (Self::Hop, b"trailer"),
            (14, b'h') => (Self::Hop, b"http2-settings"),
            (16, b'p') => (Self::Hop, b"proxy-connection"),
            (18, b'p') => (Self::Hop, b"proxy-authenticate"),
            (19, b'p') => (Self::Hop, b"proxy-authorization"),
            _ => return Self::Other,
        };
        if name.eq_ignore_ascii_case(full) { kind } else { Self::Other }
    }

    fn is_hop_by_hop(self) -> bool {
        !matches!(self, Self::Other | Self::Host | Self::Length | Self::Expect)
    }
}

/// A field that may be there once: its first value, and whether there are more.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seen<'h> {
    pub(crate) first: Option<&'h [u8]>,
    pub(crate) again: bool,
}

impl<'h> Seen<'h> {
    fn add(&mut self, value: &'h [u8]) {
        self.again |= self.first.is_some();
        self.first.get_or_insert(value);
    }
}

/// What a head's fields say.
pub(crate) struct Marks<'h> {
    pub(crate) host: Seen<'h>,
    pub(crate) expect: Seen<'h>,
    pub(crate) upgrade: Option<&'h [u8]>,
    pub(crate) takes_trailers: bool,
    length: Seen<'h>,
    encoding: Seen<'h>,
    disguised: bool,
    has_connection: bool,
}

impl<'h> Marks<'h> {
    /// Walks over the fields, of which there are at most [`MOST_FIELDS`]; `head` is the text that they were found in.
    pub(crate) fn of(found: &[httparse::Header<'h>], head: &[u8]) -> Self {
        let mut marks = Self {
            host: Seen::default(),
            expect: Seen::default(),
            upgrade: None,
            takes_trailers: false,
            length: Seen::default(),
            encoding: Seen::default(),
            disguised: false,
            has_connection: false,
        };
        for field in found {
            match Kind::of(field.name.as_bytes()) {
                Kind::Other | Kind::Hop => {}
                Kind::Host => marks.host.add(field.value),
                Kind::Length => marks.length.add(field.value),
                Kind::Expect => marks.expect.add(field.value),
                Kind::Encoding => {
                    marks.encoding.add(field.value);
                    marks.disguised |= is_disguised(field, head);
                }
                Kind::Upgrade => {
                    marks.upgrade.get_or_insert(field.value);
                }
                Kind::Te => marks.takes_trailers |= fields::names_trailers(field.value),
                Kind::Connection => marks.has_connection = true,
            }
        }
        marks
    }

    /// Whether a Transfer-Encoding has white space around its value beyond the one space that everyone writes. It is
    /// allowed, and has been used to hide the field from one of two servers.
    pub(crate) fn has_disguised_encoding(&self) -> bool {
        self.disguised
    }

    /// How the body is delimited; `None` where no field says so.
    pub(crate) fn framing(&self, version: Version) -> Result<Option<Framing>, FramingError> {
        fields::framing_of(self.length, self.encoding, version)
    }

    /// What `Connection` asks for, and which fields it names.
    pub(crate) fn options(
        &self,
        found: &[httparse::Header<'_>],
    ) -> Result<(Options, Vec<HeaderName>), ConnectionError> {
        let mut options = Options::default();
        let mut named = Vec::new();
        if self.has_connection {
            for field in found {
                if Kind::of(field.name.as_bytes()) == Kind::Connection {
                    fields::read_connection(field.value, &mut options, &mut named)?;
                }
            }
        }
        Ok((options, named))
    }

    /// The fields that go on: all but those that belong to the connection or that `Connection` named. `None` if one is
    /// not valid.
    pub(crate) fn kept(
        found: &[httparse::Header<'_>],
        head: &[u8],
        named: &[HeaderName],
        keep: Keep,
    ) -> Option<(HeaderMap, Option<FieldBlock>)> {
        let goes_on = |field: &&httparse::Header<'_>| {
            let is_named = || named.iter().any(|name| name.as_str().eq_ignore_ascii_case(field.name));
            !Kind::of(field.name.as_bytes()).is_hop_by_hop() && (named.is_empty() || !is_named())
        };
        let fields = found.iter().filter(goes_on);
        match keep {
            Keep::Map => Some((to_map(fields, found.len(), head)?, None)),
            Keep::Block => {
                let block = FieldBlock::of_parsed(fields, found.len(), head);
                Some((HeaderMap::new(), Some(block)))
            }
        }
    }
}

/// A value, as text, of a field that was found.
pub(crate) fn text(value: &[u8]) -> Option<String> {
    HeaderValue::from_bytes(value).ok()?.to_str().ok().map(str::to_owned)
}

fn is_disguised(field: &httparse::Header<'_>, head: &[u8]) -> bool {
    if field.value.is_empty() {
        return true;
    }
    let start = field.value.as_ptr() as usize - head.as_ptr() as usize;
    let before = &head[..start];
    let after = &head[start + field.value.len()..];
    !(before.ends_with(b":") || before.ends_with(b": ")) || !after.starts_with(b"\r\n")
}
