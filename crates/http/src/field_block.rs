//! Header fields as bytes: what a head holds, in the form in which it is sent on.
//!
//! A map costs a hash, an entry and a piece of shared memory per field, twice for each message that only goes through.
//! A block is one allocation that is written once, walked, and copied line by line.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Bytes before each line: the lengths of its name and of all of it.
const PREFIX: usize = 8;

/// Header fields in their order; names in lower case. It holds what the head's parser checked or what was a
/// [`HeaderName`] and a [`HeaderValue`]: no line can hold another one.
#[derive(Debug, Clone, Default)]
pub struct FieldBlock {
    bytes: Vec<u8>,
    fields: usize,
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
        Self { bytes: Vec::with_capacity(bytes + fields * (PREFIX + 4)), fields: 0 }
    }

    /// Adds a field.
    pub fn push(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.put(name.as_str().as_bytes(), &[value.as_bytes()]);
    }

    /// Adds a field that is in another block.
    pub fn push_field(&mut self, field: Field<'_>) {
        self.prefix(field.name.len(), field.line.len());
        self.bytes.extend_from_slice(field.line);
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

    /// Adds a field whose name and value were checked by whoever parsed them.
    pub(crate) fn push_parsed(&mut self, name: &[u8], value: &[u8]) {
        let start = self.bytes.len() + PREFIX;
        self.put(name, &[value]);
        self.bytes[start..start + name.len()].make_ascii_lowercase();
    }

    fn put(&mut self, name: &[u8], parts: &[&[u8]]) {
        let value: usize = parts.iter().map(|part| part.len()).sum();
        self.prefix(name.len(), name.len() + value + 4);
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(b": ");
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn prefix(&mut self, name: usize, line: usize) {
        self.bytes.reserve(PREFIX + line);
        // Heads are bounded far below 4 GiB, by settings in bytes of memory.
        let (name, line) = (name as u32, line as u32);
        self.bytes.extend_from_slice(&(u64::from(line) << 32 | u64::from(name)).to_le_bytes());
        self.fields += 1;
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.fields
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.fields == 0
    }

    /// Bytes of all lines.
    pub fn line_bytes(&self) -> usize {
        self.bytes.len() - self.fields * PREFIX
    }

    /// The fields in their order.
    pub fn iter(&self) -> Fields<'_> {
        Fields { rest: &self.bytes }
    }

    /// The value of the first field of this name, which is in lower case.
    pub fn first(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|field| field.name == name).map(|field| field.value)
    }

    /// The same fields as a map.
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.fields + 12);
        for field in self {
            // Both were checked when they were added.
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(field.name), HeaderValue::from_bytes(field.value))
            {
                map.append(name, value);
            }
        }
        map
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
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let (prefix, rest) = self.rest.split_first_chunk::<PREFIX>()?;
        let prefix = u64::from_le_bytes(*prefix);
        let (name, line) = (prefix as u32 as usize, (prefix >> 32) as usize);
        let (line, rest) = rest.split_at_checked(line)?;
        self.rest = rest;
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
        assert!(block.is_empty() && block.line_bytes() == 0);
        assert_eq!(block.push_parts(&ACCEPT, &[b"a", b"", b"\xe4\tb"]), Some(()));
        assert_eq!(block.iter().next().unwrap().line, b"accept: a\xe4\tb\r\n");
    }

    proptest! {
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
            for field in &block {
                copy.push_field(field);
            }
            prop_assert_eq!(copy.to_map(), map);
            let bytes: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
            prop_assert_eq!(block.line_bytes(), bytes);
        }
    }
}
