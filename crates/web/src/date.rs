//! Reads HTTP dates (RFC 9110, 5.6.7) in their three forms.

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Seconds since 1970; `None` for what is no date, and for dates before 1970.
pub fn parse(text: &str) -> Option<u64> {
    let (weekday, rest) = text.split_once(' ')?;
    if let Some(weekday) = weekday.strip_suffix(',') {
        // `Sun, 06 Nov 1994 08:49:37 GMT`, or `Sunday, 06-Nov-94 08:49:37 GMT`.
        let rest = rest.strip_suffix(" GMT")?;
        if weekday.len() > 3 {
            let (date, time) = rest.split_once(' ')?;
            let mut date = date.split('-');
            let (day, month, year) = (date.next()?, date.next()?, date.next()?);
            let year = digits(year, 2)?;
            return seconds(if year < 70 { year + 2000 } else { year + 1900 }, month, digits(day, 2)?, time);
        }
        let mut parts = rest.split(' ');
        let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        return parts.next().is_none().then(|| seconds(digits(year, 4)?, month, digits(day, 2)?, time))?;
    }
    // `Sun Nov  6 08:49:37 1994`.
    let mut parts = rest.split(' ').filter(|part| !part.is_empty());
    let (month, day, time, year) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    seconds(digits(year, 4)?, month, day.parse().ok()?, time)
}

fn digits(text: &str, count: usize) -> Option<u64> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

fn seconds(year: u64, month: &str, day: u64, time: &str) -> Option<u64> {
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let mut time = time.split(':');
    let (hour, minute, second) =
        (digits(time.next()?, 2)?, digits(time.next()?, 2)?, digits(time.next()?, 2)?);
    let in_range = year >= 1970 && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !in_range || time.next().is_some() {
        return None;
    }
    // Days since 1970, counted in years that begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_era = year % 400 * 365 + year % 400 / 4 - year % 400 / 100 + of_year;
    let days = (year / 400 * 146_097 + of_era).checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::parse;
    use proptest::prelude::*;

    #[test]
    fn all_three_forms_are_read() {
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(parse(text), Some(784_111_777), "{text}");
        }
        for text in [
            "",
            "Sun",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "0",
            "Thu, 01 Jan 1969 00:00:00 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in 0u64..8_000_000_000) {
            let text = mainstay_http::date::format(seconds);
            prop_assert_eq!(parse(std::str::from_utf8(&text).unwrap()), Some(seconds));
        }
    }
}
