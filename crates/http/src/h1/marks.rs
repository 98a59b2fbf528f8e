//! What the fields of a head say about the message itself and about its connection, read in one walk over them.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Version};

use super::fields::{self, ConnectionError, Framing, FramingError, Options, to_map};
use crate::field_block::{FieldBlock, Keep};

/// Fields that a head has at most, whatever the settings say: they lie on the stack.
pub(crate) const MOST_FIELDS: usize = 256;

/// What a field is for, as far as it concerns whoever reads the head.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
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
        let is = |full: &[u8]| name.eq_ignore_ascii_case(full);
        // By length: that is one jump, and mostly one comparison of a byte.
        let first = name.first().map_or(0, |first| first | 0x20);
        match (name.len(), first) {
            (2, _) if is(b"te") => Self::Te,
            (4, b'h') if is(b"host") => Self::Host,
            (6, b'e') if is(b"expect") => Self::Expect,
            (7, b'u') if is(b"upgrade") => Self::Upgrade,
            (7, b't') if is(b"trailer") => Self::Hop,
            (10, b'c') if is(b"connection") => Self::Connection,
            (10, b'k') if is(b"keep-alive") => Self::Hop,
            (14, b'c') if is(b"content-length") => Self::Length,
            (14, b'h') if is(b"http2-settings") => Self::Hop,
            (16, b'p') if is(b"proxy-connection") => Self::Hop,
            (17, b't') if is(b"transfer-encoding") => Self::Encoding,
            (18, b'p') if is(b"proxy-authenticate") => Self::Hop,
            (19, b'p') if is(b"proxy-authorization") => Self::Hop,
            _ => Self::Other,
        }
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
    /// Walks over the fields, of which there are at most [`MOST_FIELDS`], and notes what each of them is; `head` is the
    /// text that they were found in.
    pub(crate) fn of(found: &[httparse::Header<'h>], head: &[u8], kinds: &mut [Kind; MOST_FIELDS]) -> Self {
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
        for (field, noted) in found.iter().zip(kinds) {
            let kind = Kind::of(field.name.as_bytes());
            *noted = kind;
            match kind {
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
        kinds: &[Kind],
    ) -> Result<(Options, Vec<HeaderName>), ConnectionError> {
        let mut options = Options::default();
        let mut named = Vec::new();
        if self.has_connection {
            for (field, kind) in found.iter().zip(kinds) {
                if *kind == Kind::Connection {
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
        kinds: &[Kind],
        head: &[u8],
        named: &[HeaderName],
        keep: Keep,
    ) -> Option<(HeaderMap, Option<FieldBlock>)> {
        let goes_on = |(field, kind): &(&httparse::Header<'_>, &Kind)| {
            let is_named = || named.iter().any(|name| name.as_str().eq_ignore_ascii_case(field.name));
            !kind.is_hop_by_hop() && (named.is_empty() || !is_named())
        };
        let fields = found.iter().zip(kinds).filter(goes_on).map(|(field, _)| field);
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
