//! `mainstay logs`.

use std::process::ExitCode;
use std::time::Duration;

use mainstay_lab::SiteState;
use mainstay_lab::logs::{Filter, Reader};

use super::{Done, Failure};
use crate::output;

/// Between two looks with `--follow`.
const PAUSE: Duration = Duration::from_millis(200);

/// What was asked for.
pub(super) struct Options {
    pub(super) host: Option<String>,
    pub(super) role: Option<String>,
    pub(super) follow: bool,
    pub(super) since: Option<String>,
    pub(super) json: bool,
}

pub(super) fn run(site: &SiteState, options: &Options) -> Done {
    let since =
        options.since.as_deref().map(|text| point_in_time(text, jiff::Timestamp::now())).transpose()?;
    let filter = Filter { host: options.host.clone(), role: options.role.clone(), since };
    let mut reader = Reader::new(site, filter);
    loop {
        for line in reader.read() {
            output::line(&if options.json { line.json().to_string() } else { line.readable() });
        }
        if !options.follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(PAUSE);
    }
}

/// `10m` before now, or a time as it stands, as RFC 3339 text.
fn point_in_time(text: &str, now: jiff::Timestamp) -> Result<String, Failure> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.to_string());
    }
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let seconds = units.iter().find_map(|(unit, seconds)| {
        let number: i64 = text.strip_suffix(*unit)?.parse().ok()?;
        number.checked_mul(*seconds)
    });
    let time = seconds.and_then(|seconds| now.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok());
    time.map(|time| time.to_string()).ok_or_else(|| {
        Failure::Usage(format!(
            "`{text}` is no time; write 30s, 10m, 2h, 1d, or a time such as 2026-11-23T20:00:00Z"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_distance_from_now_or_itself() {
        let now: jiff::Timestamp = "2026-11-23T20:00:00Z".parse().unwrap();
        assert_eq!(point_in_time("10m", now).unwrap(), "2026-11-23T19:50:00Z");
        assert_eq!(point_in_time("2026-11-23T08:00:00Z", now).unwrap(), "2026-11-23T08:00:00Z");
        assert!(point_in_time("yesterday", now).is_err());
    }
}
