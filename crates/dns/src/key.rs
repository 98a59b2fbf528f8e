//! Names as the zone's table knows them: on the wire, in lower case, without the final zero.
//!
//! DNS compares names without regard to case (RFC 4343) but hands them back as they came, because resolvers hide
//! random bits in the case of a question ("0x20"). So a name is looked up by its key and written by its own bytes.

use hickory_proto::rr::Name;

/// The longest name on the wire (RFC 1035, 2.3.4).
const NAME_BYTES: usize = 255;
/// The most labels that fit into it.
const LABELS: usize = 127;

/// A name ready to be looked up, itself and every name above it. Lives on the stack.
pub(crate) struct Key {
    bytes: [u8; NAME_BYTES],
    length: usize,
    starts: [u8; LABELS],
    labels: usize,
}

impl Key {
    pub(crate) fn of(name: &Name) -> Self {
        let mut key = Self { bytes: [0; NAME_BYTES], length: 0, starts: [0; LABELS], labels: 0 };
        for label in name {
            let end = key.length + 1 + label.len();
            // The codec refuses longer names; what would not fit is left out rather than trusted to be absent.
            if key.labels == LABELS || end > NAME_BYTES {
                break;
            }
            key.starts[key.labels] = key.length as u8;
            key.labels += 1;
            key.bytes[key.length] = label.len() as u8;
            let lower = &mut key.bytes[key.length + 1..end];
            lower.copy_from_slice(label);
            lower.make_ascii_lowercase();
            key.length = end;
        }
        key
    }

    /// How many labels the name has; the root has none.
    pub(crate) fn labels(&self) -> usize {
        self.labels
    }

    /// The name made of the last `labels` labels; all of them: the name itself.
    pub(crate) fn last(&self, labels: usize) -> &[u8] {
        let first = self.labels.saturating_sub(labels);
        let start = if first == self.labels { self.length } else { usize::from(self.starts[first]) };
        &self.bytes[start..self.length]
    }

    /// Whether this is the name with that key or lies under it.
    pub(crate) fn is_within(&self, above: &Self) -> bool {
        above.labels <= self.labels && self.last(above.labels) == above.last(above.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::of(&Name::from_ascii(text).unwrap())
    }

    #[test]
    fn names_are_the_same_whatever_their_case() {
        assert_eq!(key("WwW.FooBar.com.").last(3), key("www.foobar.COM.").last(3));
        assert_eq!(key("www.foobar.com.").last(3), b"\x03www\x06foobar\x03com");
    }

    #[test]
    fn every_name_above_is_at_hand() {
        let key = key("a.b.c.");
        assert_eq!(key.labels(), 3);
        assert_eq!(key.last(2), b"\x01b\x01c");
        assert_eq!(key.last(1), b"\x01c");
        assert_eq!(key.last(0), b"");
    }

    #[test]
    fn a_name_lies_within_itself_and_the_names_above_it_only() {
        assert!(key("a.foobar.com.").is_within(&key("foobar.com.")));
        assert!(key("foobar.com.").is_within(&key("FOOBAR.com.")));
        assert!(key("com.").is_within(&key(".")));
        assert!(!key("xfoobar.com.").is_within(&key("foobar.com.")));
        assert!(!key("com.").is_within(&key("foobar.com.")));
    }
}
