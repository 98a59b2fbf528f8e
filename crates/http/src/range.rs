//! The `Range` field (RFC 9110, 14).

use std::ops::Range;

/// More ranges than this in one request are not looked at: the whole file is sent.
pub const MOST_RANGES: usize = 16;

/// What a `Range` field asks for of a representation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Everything: the field is malformed, of another unit or asks for too many pieces, and is ignored (14.2).
    Whole,
    /// These pieces: within the length, not empty, none overlapping or touching another, in the order asked for.
    Parts(Vec<Range<u64>>),
    /// Nothing of it: 416.
    Unsatisfiable,
}

/// Reads a `Range` field for a representation of `length` bytes. Ranges that overlap or touch become one (15.3.7.2),
/// so that no request gets more bytes than there are.
pub fn parse(field: &str, length: u64) -> Asked {
    let Some(set) = field.split_once('=').filter(|(unit, _)| unit.trim().eq_ignore_ascii_case("bytes"))
    else {
        return Asked::Whole;
    };
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut count = 0;
    for spec in set.1.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty()) {
        count += 1;
        let Some((first, last)) = spec.split_once('-').filter(|_| count <= MOST_RANGES) else {
            return Asked::Whole;
        };
        let range = match (number(first), number(last)) {
            (Number::Is(first), Number::Is(last)) if first <= last => {
                first..last.saturating_add(1).min(length)
            }
            (Number::Is(first), Number::Absent) => first..length,
            (Number::Absent, Number::Is(suffix)) => length.saturating_sub(suffix)..length,
            _ => return Asked::Whole,
        };
        if range.start < range.end {
            add(&mut parts, range);
        }
    }
    match (count, parts.is_empty()) {
        (0, _) => Asked::Whole,
        (_, true) => Asked::Unsatisfiable,
        (_, false) => Asked::Parts(parts),
    }
}

/// Adds a range, swallowing those that it overlaps or touches; it takes the place of the first of them.
fn add(parts: &mut Vec<Range<u64>>, mut range: Range<u64>) {
    let mut place = parts.len();
    loop {
        let touches = |part: &Range<u64>| part.start <= range.end && range.start <= part.end;
        let Some(index) = parts.iter().position(touches) else { break };
        let part = parts.remove(index);
        range = range.start.min(part.start)..range.end.max(part.end);
        place = place.min(index);
    }
    parts.insert(place.min(parts.len()), range);
}

enum Number {
    Absent,
    Is(u64),
    Wrong,
}

/// Digits; more than fit are more than any file has.
fn number(text: &str) -> Number {
    match text {
        "" => Number::Absent,
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Number::Is(text.parse().unwrap_or(u64::MAX))
        }
        _ => Number::Wrong,
    }
}

#[cfg(test)]
// A vector of one range is what is meant.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::{Asked, MOST_RANGES, parse};
    use proptest::prelude::*;

    #[test]
    fn single_ranges_are_those_of_the_rfc() {
        let parts = |field: &str| parse(field, 10_000);
        assert_eq!(parts("bytes=0-499"), Asked::Parts(vec![0..500]));
        assert_eq!(parts("bytes=9500-"), Asked::Parts(vec![9500..10_000]));
        assert_eq!(parts("bytes=-500"), Asked::Parts(vec![9500..10_000]));
        assert_eq!(parts("bytes=-99999"), Asked::Parts(vec![0..10_000]));
        assert_eq!(parts("bytes=0-99999999999999999999999"), Asked::Parts(vec![0..10_000]));
        assert_eq!(parts("bytes=10000-"), Asked::Unsatisfiable);
        assert_eq!(parts("bytes=-0"), Asked::Unsatisfiable);
        assert_eq!(parse("bytes=0-", 0), Asked::Unsatisfiable);
    }

    #[test]
    fn a_field_that_is_wrong_is_ignored() {
        for field in [
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-1",
            "bytes=1-2-3",
            "bytes=+1-2",
            "lines=0-1",
            "bytes=0-1,x",
        ] {
            assert_eq!(parse(field, 100), Asked::Whole, "{field}");
        }
        let many = format!("bytes={}", vec!["0-0"; MOST_RANGES + 1].join(","));
        assert_eq!(parse(&many, 100), Asked::Whole);
    }

    #[test]
    fn overlapping_ranges_become_one() {
        assert_eq!(parse("bytes=0-9,5-19, 30-39", 100), Asked::Parts(vec![0..20, 30..40]));
        assert_eq!(parse("bytes=50-59,0-9,10-49", 100), Asked::Parts(vec![0..60]));
        assert_eq!(parse("bytes=90-99,0-9", 100), Asked::Parts(vec![90..100, 0..10]));
    }

    proptest! {
        #[test]
        fn no_byte_is_sent_twice(
            length in 0u64..200,
            specs in proptest::collection::vec((0u64..220, 0u64..220), 1..16),
        ) {
            let list: Vec<String> = specs.iter().map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))).collect();
            let wanted = |byte: u64| specs.iter().any(|(a, b)| (*a.min(b)..=*a.max(b)).contains(&byte));
            match parse(&format!("bytes={}", list.join(",")), length) {
                Asked::Whole => prop_assert!(false),
                Asked::Unsatisfiable => prop_assert!((0..length).all(|byte| !wanted(byte))),
                Asked::Parts(parts) => {
                    for byte in 0..length {
                        let times = parts.iter().filter(|part| part.contains(&byte)).count();
                        prop_assert_eq!(times, usize::from(wanted(byte)));
                    }
                    prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= length));
                }
            }
        }

        #[test]
        fn any_text_is_read(field in ".{0,60}", length: u64) {
            if let Asked::Parts(parts) = parse(&field, length) {
                prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= length));
            }
        }
    }
}
