//! Looks into the query of a target, which is forwarded as it is.

use std::borrow::Cow;

/// Whether a query has a parameter, with a certain value where one is given. Several of one name are all looked at.
pub(crate) fn has(query: &str, name: &str, value: Option<&str>) -> bool {
    query.split('&').any(|pair| {
        let (key, found) = pair.split_once('=').unwrap_or((pair, ""));
        !pair.is_empty()
            && *decoded(key) == *name.as_bytes()
            && value.is_none_or(|value| *decoded(found) == *value.as_bytes())
    })
}

/// Percent-encoding and `+` undone; what is no encoding stands for itself.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        let digit = |digit: u8| (digit as char).to_digit(16);
        match (*byte, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push((high * 16 + low) as u8);
                    rest = after;
                }
                _ => bytes.push(b'%'),
            },
            (byte, _) => bytes.push(byte),
        }
    }
    Cow::Owned(bytes)
}

#[cfg(test)]
mod tests {
    use super::has;

    #[test]
    fn parameters_are_found_however_they_are_written() {
        assert!(has("a=1&b=2", "b", Some("2")));
        assert!(has("%61=x+y", "a", Some("x y")));
        assert!(has("a=%zz%", "a", Some("%zz%")));
        assert!(has("a=1&a=2", "a", Some("2")));
        assert!(has("a", "a", None) && has("a=", "a", Some("")));
        assert!(!has("ab=1", "a", None) && !has("", "", None));
    }
}
