//! HTTP dates (RFC 9110, 5.6.7): written, for the `Date` header field, and read.

use std::time::{SystemTime, UNIX_EPOCH};

const WEEKDAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

/// An HTTP date: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub type HttpDate = [u8; 29];

/// Seconds since 1970 by the wall clock, which is for people only.
pub fn wall_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Formats seconds since 1970.
pub fn format(seconds: u64) -> HttpDate {
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let mut out = *b"---, 00 --- 0000 00:00:00 GMT";
    out[0..3].copy_from_slice(WEEKDAYS[(days % 7) as usize]);
    two_digits(&mut out[5..7], day);
    out[8..11].copy_from_slice(MONTHS[(month - 1) as usize]);
    two_digits(&mut out[12..14], year / 100 % 100);
    two_digits(&mut out[14..16], year % 100);
    two_digits(&mut out[17..19], seconds / 3600 % 24);
    two_digits(&mut out[20..22], seconds / 60 % 60);
    two_digits(&mut out[23..25], seconds % 60);
    out
}

fn two_digits(out: &mut [u8], value: u64) {
    out[0] = b'0' + (value / 10) as u8;
    out[1] = b'0' + (value % 10) as u8;
}

/// Year, month and day of a count of days since 1970 in the Gregorian calendar, by 400-year eras.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Reads a date in any of its three forms (RFC 9110, 5.6.7): seconds since 1970; `None` for what is no date, and for dates before 1970.
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
    let month = MONTHS.iter().position(|name| name.as_slice() == month.as_bytes())? as u64 + 1;
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
    use super::{format, parse};
    use proptest::prelude::*;

    #[test]
    fn dates_are_those_of_the_rfc() {
        assert_eq!(&format(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&format(0), b"Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(&format(951_782_400), b"Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(&format(4_102_444_799), b"Thu, 31 Dec 2099 23:59:59 GMT");
    }

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
            let text = format(seconds);
            prop_assert_eq!(parse(std::str::from_utf8(&text).unwrap()), Some(seconds));
        }
    }
}
