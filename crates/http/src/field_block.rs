//! Header fields as bytes: what a head holds, in the form in which it is sent on.
//!
//! A map costs a hash, an entry and a piece of shared memory per field, twice for each message that only goes through.
//! A block is one allocation that is written once, walked, and copied line by line.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Room for fields that are added to a map on the way: one that grows is filled anew.
const MORE_FIELDS: usize = 12;

/// Header fields in their order; names in lower case. It holds what the head's parser checked or what was a
/// [`HeaderName`] and a [`HeaderValue`]: no line can hold another one.
#[derive(Debug, Clone, Default)]
pub struct FieldBlock {
    /// `name: value` with CR LF at its end, line after line.
    text: Vec<u8>,
    index: Vec<Place>,
}

/// Where a line is: it begins where the one before it ends.
#[derive(Debug, Clone, Copy)]
struct Place {
    name: u32,
    end: u32,
}

/// One field of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name, in lower case.
    pub name: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// `name: value` with CR LF at its end.
    pub line: &'a [u8],
}

/// Whether a head's fields are kept as a map or as a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// As a [`HeaderMap`].
    #[default]
    Map,
    /// As a [`FieldBlock`].
    Block,
}

impl FieldBlock {
    /// An empty block with room for so many bytes and fields.
    pub fn with_capacity(bytes: usize, fields: usize) -> Self {
        Self { text: Vec::with_capacity(bytes), index: Vec::with_capacity(fields) }
    }

    /// Adds a field.
    pub fn push(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.put(name.as_str().as_bytes(), &[value.as_bytes()]);
    }

    /// Adds a field whose value is put together from parts. `None`, and nothing is added, if it is no valid value.
    pub fn push_parts(&mut self, name: &HeaderName, parts: &[&[u8]]) -> Option<()> {
        let sound = |byte: u8| (byte >= b' ' && byte != 0x7f) || byte == b'\t';
        // Without a way out of the middle, which would keep it from looking at many bytes at once.
        if !parts.iter().all(|part| part.iter().fold(true, |all, byte| all & sound(*byte))) {
            return None;
        }
        self.put(name.as_str().as_bytes(), parts);
        Some(())
    }

    /// Adds the fields of another block that are wanted. Those that follow each other are copied at once.
    pub fn extend(&mut self, other: &Self, mut wanted: impl FnMut(Field<'_>) -> bool) {
        let (mut from, mut to) = (0, 0);
        let mut at = self.text.len();
        for (field, place) in other.iter().zip(&other.index) {
            let end = place.end as usize;
            if wanted(field) {
                at += field.line.len();
                self.index.push(Place { name: place.name, end: at as u32 });
            } else {
                self.text.extend_from_slice(&other.text[from..to]);
                from = end;
            }
            to = end;
        }
        self.text.extend_from_slice(&other.text[from..to]);
    }

    /// Adds a field whose name and value were checked by whoever parsed them.
    #[cfg(test)]
    pub(crate) fn push_parsed(&mut self, name: &[u8], value: &[u8]) {
        let start = self.text.len();
        self.put(name, &[value]);
        self.text[start..start + name.len()].make_ascii_lowercase();
    }

    /// The fields that a parser found and checked. Lines in the form in which they are sent on are copied together.
    pub(crate) fn of_parsed<'a, 'h: 'a>(
        fields: impl Iterator<Item = &'a httparse::Header<'h>>,
        most: usize,
        head: &[u8],
    ) -> Self {
        // Room also for a few fields that may be added.
        let mut block = Self::with_capacity(head.len() + 64, most + 2);
        // What of the head waits to be copied.
        let (mut from, mut to) = (0, 0);
        for field in fields {
            let (name, value) = (field.name.len(), field.value.len());
            // All lie in one allocation, so the differences of the addresses are offsets.
            let start = field.name.as_ptr() as usize - head.as_ptr() as usize;
            let end = start + name + value + 4;
            let line = head.get(start..end).unwrap_or_default();
            // The value has no white space around it and no line end in it, so a line of this length has no other form.
            let is_in_form = line.get(name..name + 2) == Some(b": ") && line.ends_with(b"\r\n");
            if is_in_form && start == to {
                to = end;
            } else {
                block.text.extend_from_slice(&head[from..to]);
                if is_in_form {
                    (from, to) = (start, end);
                } else {
                    (from, to) = (0, 0);
                    block.put(field.name.as_bytes(), &[field.value]);
                    continue;
                }
            }
            let end = block.text.len() + (to - from);
            block.index.push(Place { name: name as u32, end: end as u32 });
        }
        block.text.extend_from_slice(&head[from..to]);
        let mut start = 0;
        for place in &block.index {
            lower(&mut block.text[start..start + place.name as usize]);
            start = place.end as usize;
        }
        block
    }

    fn put(&mut self, name: &[u8], parts: &[&[u8]]) {
        let value: usize = parts.iter().map(|part| part.len()).sum();
        self.text.reserve(name.len() + value + 4);
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(b": ");
        for part in parts {
            self.text.extend_from_slice(part);
        }
        self.text.extend_from_slice(b"\r\n");
        // Heads are bounded far below 4 GiB, by settings in bytes of memory.
        self.index.push(Place { name: name.len() as u32, end: self.text.len() as u32 });
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// All lines, one after the other.
    pub fn lines(&self) -> &[u8] {
        &self.text
    }

    /// The fields in their order.
    pub fn iter(&self) -> Fields<'_> {
        Fields { text: &self.text, start: 0, index: self.index.iter() }
    }

    /// The value of the first field of this name, which is in lower case.
    pub fn first(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|field| field.name == name).map(|field| field.value)
    }

    /// Writes all lines but those that frame the message, of which a block can have `content-length` alone.
    pub(crate) fn put_lines(&self, out: &mut Vec<u8>) {
        let (mut from, mut to) = (0, 0);
        for (field, place) in self.iter().zip(&self.index) {
            let end = place.end as usize;
            if field.name == b"content-length" {
                out.extend_from_slice(&self.text[from..to]);
                from = end;
            }
            to = end;
        }
        out.extend_from_slice(&self.text[from..to]);
    }

    /// The same fields as a map.
    pub fn to_map(&self) -> HeaderMap {
        self.clone().into_map()
    }

    /// The fields as a map, whose values share the memory of the block.
    pub fn into_map(self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.len() + MORE_FIELDS);
        let text = Bytes::from(self.text);
        let mut start = 0;
        for place in self.index {
            let (name, end) = (start + place.name as usize, place.end as usize);
            let value = HeaderValue::from_maybe_shared(text.slice(name + 2..end - 2));
            // Both were checked when they were added.
            if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(&text[start..name]), value) {
                // No two messages have the same: h2 must not remember it, for its table of fields would hold nothing
                // else, and be searched for each.
                value.set_sensitive(matches!(name.as_str(), "x-request-id" | "traceparent"));
                map.append(name, value);
            }
            start = end;
        }
        map
    }
}

/// Makes a name lower case, eight bytes at a time: names are too short for what the library does to long texts.
fn lower(name: &mut [u8]) {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let (words, rest) = name.as_chunks_mut::<8>();
    for chunk in words {
        let word = u64::from_le_bytes(*chunk);
        // Names are ASCII, so that adding to seven bits carries into no other byte.
        let from_a = word + (HIGH - u64::from_le_bytes([b'A'; 8]));
        let after_z = word + (HIGH - u64::from_le_bytes([b'Z' + 1; 8]));
        *chunk = (word | ((from_a & !after_z & HIGH) >> 2)).to_le_bytes();
    }
    for byte in rest {
        *byte = byte.to_ascii_lowercase();
    }
}

impl<'a> IntoIterator for &'a FieldBlock {
    type Item = Field<'a>;
    type IntoIter = Fields<'a>;

    fn into_iter(self) -> Fields<'a> {
        self.iter()
    }
}

/// Walks through a block.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    text: &'a [u8],
    start: usize,
    index: std::slice::Iter<'a, Place>,
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let place = self.index.next()?;
        let line = self.text.get(self.start..place.end as usize)?;
        self.start = place.end as usize;
        let name = place.name as usize;
        Some(Field { name: line.get(..name)?, value: line.get(name + 2..line.len().checked_sub(2)?)?, line })
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, HOST};
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::FieldBlock;

    #[test]
    fn a_value_that_would_be_two_lines_is_not_taken() {
        let mut block = FieldBlock::default();
        for wrong in [&b"a\r\nb: c"[..], b"a\0", b"\x7f", b"\n"] {
            assert_eq!(block.push_parts(&HOST, &[b"x", wrong]), None);
        }
        assert!(block.is_empty() && block.lines().is_empty());
        assert_eq!(block.push_parts(&ACCEPT, &[b"a", b"", b"\xe4\tb"]), Some(()));
        assert_eq!(block.iter().next().unwrap().line, b"accept: a\xe4\tb\r\n");
    }

    proptest! {
        #[test]
        fn names_become_lower_case(name in "[ -~]{0,40}") {
            let mut lower = name.clone().into_bytes();
            super::lower(&mut lower);
            prop_assert_eq!(lower, name.to_ascii_lowercase().into_bytes());
        }

        #[test]
        fn a_block_is_the_map_of_its_fields(
            fields in proptest::collection::vec(("[A-Za-z-]{1,12}", "[ -~]{0,20}"), 0..20),
        ) {
            let (mut block, mut map, mut copy) = (FieldBlock::default(), HeaderMap::new(), FieldBlock::default());
            for (name, value) in &fields {
                block.push_parsed(name.as_bytes(), value.as_bytes());
                map.append(
                    name.parse::<http::HeaderName>().unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                );
            }
            prop_assert_eq!(block.len(), fields.len());
            prop_assert_eq!(&block.to_map(), &map);
            copy.extend(&block, |_| true);
            prop_assert_eq!(copy.to_map(), map);
            prop_assert_eq!(copy.lines(), block.lines());
            let mut some = FieldBlock::default();
            some.push(&HOST, &HeaderValue::from_static("a"));
            some.extend(&block, |field| field.name.len() % 2 == 0);
            let left: Vec<_> = some.iter().skip(1).collect();
            let wanted: Vec<_> = block.iter().filter(|field| field.name.len() % 2 == 0).collect();
            prop_assert_eq!(left, wanted);
            let mut lines = Vec::new();
            block.put_lines(&mut lines);
            prop_assert_eq!(lines, block.lines());
        }
    }
}
