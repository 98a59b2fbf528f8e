//! `[dns]`: the zone's settings and its further records.

use crate::DomainName;
use crate::model::{DnsSettings, Role, Server};
use crate::plan::RecordData;
use crate::section::{At, Section};

#[derive(Clone, Copy)]
enum Kind {
    A,
    Aaaa,
    Ns,
    Cname,
    Txt,
    Mx,
    Caa,
}

const KINDS: [(&str, Kind); 7] = [
    ("A", Kind::A),
    ("AAAA", Kind::Aaaa),
    ("NS", Kind::Ns),
    ("CNAME", Kind::Cname),
    ("TXT", Kind::Txt),
    ("MX", Kind::Mx),
    ("CAA", Kind::Caa),
];

pub(super) fn read(
    root: &Section<'_>,
    domain: Option<&At<DomainName>>,
    servers: &[At<Server>],
) -> DnsSettings {
    let mut settings =
        DnsSettings { ttl_secs: 60, responses_per_second: 50, mailbox: None, records: Vec::new() };
    let Some(section) = root.section("dns") else { return settings };
    if let Some(ttl) = super::later::duration(&section, "ttl") {
        settings.ttl_secs = ttl.as_secs().clamp(1, 604_800) as u32;
    }
    if let Some(rate) = section.integer("responses_per_second", 1..=1_000_000) {
        settings.responses_per_second = rate.value as u32;
    }
    settings.mailbox = section.parsed("mailbox", "a mailbox as a domain name").map(|mailbox| mailbox.value);
    let mut owners: Vec<(String, bool, std::ops::Range<usize>)> = Vec::new();
    for record in section.list("records") {
        let Some((name, ttl, data)) = read_record(&record, domain) else {
            record.finish();
            continue;
        };
        let alias = matches!(data, RecordData::Cname { .. });
        if alias && domain.is_some_and(|domain| domain.value.as_str() == name) {
            record.problems.help(
                &record.at,
                "the domain itself cannot be an alias (CNAME): it has SOA and NS records",
                "use A and AAAA records, or an alias below it such as www",
            );
        }
        if let Some(domain) = domain {
            refuse_made_names(&record, &name, &data, &domain.value, servers);
        }
        if owners.iter().any(|(other, other_alias, _)| *other == name && (alias || *other_alias)) {
            record
                .problems
                .note(&record.at, format!("`{name}` is an alias (CNAME) and has another record beside it"));
        }
        owners.push((name.clone(), alias, record.at.clone()));
        record.finish();
        settings.records.push((name, ttl, data));
    }
    section.finish();
    settings
}

/// The names of servers and of the zone's name servers lead to the servers' addresses: nothing else may lead them elsewhere.
/// (A name of `hosts` may be given other addresses: then those take the place of the web servers'.)
fn refuse_made_names(
    record: &Section<'_>,
    name: &str,
    data: &RecordData,
    domain: &DomainName,
    servers: &[At<Server>],
) {
    use RecordData::{A, Aaaa, Cname, Ns};
    let Some(label) = name.strip_suffix(domain.as_str()).and_then(|front| front.strip_suffix('.')) else {
        return;
    };
    if !matches!(data, A { .. } | Aaaa { .. } | Cname { .. } | Ns { .. }) {
        return;
    }
    if servers.iter().any(|server| server.value.name.as_str() == label) {
        record.problems.help(
            &record.at,
            format!(
                "`{name}` is the name of the server `{label}`, and the zone gives it that server's addresses"
            ),
            "give the record another name, or the server",
        );
        return;
    }
    let name_servers = servers.iter().filter(|server| server.value.has(Role::Dns)).count();
    let number = label.strip_prefix("ns").and_then(|number| number.parse::<usize>().ok());
    if let Some(number) =
        number.filter(|number| (1..=name_servers).contains(number) && *label == format!("ns{number}"))
    {
        record.problems.help(
            &record.at,
            format!(
                "`{name}` is the zone's name server {number}, and the zone gives it that server's addresses"
            ),
            format!(
                "give the record another name, such as `ns{}` for a name server of your own",
                name_servers + 1
            ),
        );
    }
}

fn read_record(
    section: &Section<'_>,
    domain: Option<&At<DomainName>>,
) -> Option<(String, Option<u32>, RecordData)> {
    let name = section.string("name");
    if name.is_none() && !section.has("name") {
        section
            .missing("name", "name = \"@\" for the domain itself, or such as \"mail\" for a name below it");
    }
    let ttl = super::later::duration(section, "ttl").map(|ttl| ttl.as_secs().clamp(1, 604_800) as u32);
    let kind = section.choice("type", &KINDS);
    if kind.is_none() && !section.has("type") {
        section.missing("type", "type = \"A\", \"AAAA\", \"CNAME\", \"TXT\", \"MX\", \"NS\" or \"CAA\"");
    }
    let value = section.string("value");
    if value.is_none() && !section.has("value") {
        section.missing("value", "value = \"...\": the address, the target or the text");
    }
    let preference = section.integer("preference", 0..=65535);
    let tag = section.string("tag");
    let critical = section.boolean("critical");
    let (name, value, kind) = (name?, value?, kind?);
    let owner = owner(section, &name, domain?)?;
    let target = || match target_name(&value.value, &domain?.value) {
        Ok(target) => Some(target),
        Err(error) => {
            section.problems.note(&value.at, format!("`{}` is not a domain name: {error}", value.value));
            None
        }
    };
    let wrong = |what: &str| {
        section.problems.note(&value.at, format!("`{}` is not {what}", value.value));
        None
    };
    let data = match kind.value {
        Kind::A => match value.value.parse() {
            Ok(address) => RecordData::A { address },
            Err(_) => return wrong("an IPv4 address"),
        },
        Kind::Aaaa => match value.value.parse() {
            Ok(address) => RecordData::Aaaa { address },
            Err(_) => return wrong("an IPv6 address"),
        },
        Kind::Ns => RecordData::Ns { target: target()? },
        Kind::Cname => RecordData::Cname { target: target()? },
        Kind::Txt if value.value.len() > 4096 => return wrong("a text of at most 4096 bytes"),
        Kind::Txt => RecordData::Txt { text: value.value.clone() },
        Kind::Mx => RecordData::Mx {
            preference: preference.map_or(10, |preference| preference.value as u16),
            target: target()?,
        },
        Kind::Caa => RecordData::Caa {
            critical: critical.unwrap_or(false),
            tag: caa_tag(section, tag)?,
            value: value.value.clone(),
        },
    };
    Some((owner, ttl, data))
}

fn caa_tag(section: &Section<'_>, tag: Option<At<String>>) -> Option<String> {
    let tag = tag.unwrap_or(At { value: "issue".to_owned(), at: section.at.clone() });
    let tags = [("issue", ()), ("issuewild", ()), ("iodef", ())];
    section.choose(&tag, "CAA tag", &tags).map(|_| tag.value.clone())
}

/// `@` is the domain; a name without a final dot and outside the zone is taken as below it.
fn owner(section: &Section<'_>, name: &At<String>, domain: &At<DomainName>) -> Option<String> {
    let zone = domain.value.as_str();
    let lower = name.value.to_ascii_lowercase();
    if lower == "@" || lower == zone {
        return Some(zone.to_owned());
    }
    let full = match lower.strip_suffix('.') {
        Some(full) => full.to_owned(),
        None if lower.ends_with(&format!(".{zone}")) => lower,
        None => format!("{lower}.{zone}"),
    };
    let bare = full.strip_prefix("*.").unwrap_or(&full);
    // Names such as _dmarc carry an underscore, which is no host name but a fine owner (RFC 8552).
    match bare.replace('_', "x").parse::<DomainName>() {
        Ok(_) if bare == zone || bare.ends_with(&format!(".{zone}")) => Some(full),
        Ok(_) => {
            section.problems.note(&name.at, format!("`{}` is not in the zone {zone}", name.value));
            None
        }
        Err(error) => {
            section.problems.note(&name.at, format!("`{}` is not a name: {error}", name.value));
            None
        }
    }
}

/// A target: with a dot inside it is complete, otherwise it is a name of the zone.
fn target_name(text: &str, zone: &DomainName) -> Result<String, crate::NameError> {
    if text == "@" {
        return Ok(zone.as_str().to_owned());
    }
    let full = if text.contains('.') { text.to_owned() } else { format!("{text}.{zone}") };
    full.parse::<DomainName>().map(String::from)
}
