//! Secrets do not belong into the site file: it is read by many, copied, and kept in version control.

use crate::section::{At, Problems, Section};

const TELLING_NAMES: [&str; 9] =
    ["password", "passwd", "secret", "token", "api_key", "apikey", "private_key", "access_key", "credential"];

/// How well-known secrets begin: private keys, and the tokens of common services.
const TELLING_STARTS: [&str; 8] =
    ["-----BEGIN", "ghp_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "sk_live_", "AKIA"];

const HELP: &str = "put it into a file of mode 0600 and name that:  secrets = { NAME = \"file:PATH\" }, or let one be made:  secrets = { NAME = \"some-name\" }";

/// Complains if a value looks like a secret.
pub(super) fn refuse(problems: &Problems, name: &str, value: &At<String>, place: &str) {
    let lower = name.to_ascii_lowercase();
    let by_name = TELLING_NAMES.iter().any(|telling| lower.contains(telling)) && !value.value.is_empty();
    let by_value = TELLING_STARTS.iter().any(|start| value.value.trim_start().starts_with(start));
    let in_address = value.value.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split('/').next().unwrap_or_default();
        authority.split_once('@').is_some_and(|(user, _)| user.contains(':'))
    });
    if by_name || by_value || in_address {
        problems.help(
            &value.at,
            format!("`{name}` in `{place}` looks like a secret written into the file"),
            HELP,
        );
    }
}

/// Looks through the parts of the file that hold free text for keys that should never be there.
pub(super) fn refuse_in(root: &Section<'_>) {
    for key in ["database", "tls", "monitor", "backup"] {
        let Some(section) = root.peek(key) else { continue };
        for (name, value) in section {
            refuse(root.problems, &name, &value, key);
        }
    }
}
