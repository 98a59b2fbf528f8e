//! The parts of the file that belong to the rungs above the single server, so that a file written for them is
//! read and held to its rules by every version.

use std::time::Duration;

use crate::model::{
    BackupSettings, CertificateFiles, Certificates, CoordinatorSettings, FirewallSettings, MonitorSettings,
    TlsSettings,
};
use crate::section::{At, Section};

/// A time such as `500ms`, `30s`, `10m`, `12h` or `30d`.
pub(super) fn duration(section: &Section<'_>, key: &'static str) -> Option<Duration> {
    duration_at(section, key).map(|time| time.value)
}

/// Likewise, with its place.
pub(super) fn duration_at(section: &Section<'_>, key: &'static str) -> Option<At<Duration>> {
    let text = section.string(key)?;
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let parsed = units.iter().find_map(|(unit, milliseconds)| {
        let number: u64 = text.value.trim().strip_suffix(unit)?.trim().parse().ok()?;
        number.checked_mul(*milliseconds).map(Duration::from_millis)
    });
    if parsed.is_none() {
        section.problems.help(
            &text.at,
            format!("`{}` is not a time", text.value),
            "write a whole number and a unit: 500ms, 30s, 10m, 12h or 30d",
        );
    }
    parsed.map(|value| At { value, at: text.at })
}

fn texts(section: &Section<'_>, key: &'static str) -> Vec<String> {
    section.strings(key).map_or_else(Vec::new, |list| list.value.into_iter().map(|text| text.value).collect())
}

pub(super) fn tls(root: &Section<'_>) -> Option<TlsSettings> {
    let section = root.section("tls")?;
    let email = section.string("acme_email");
    let directory = section.string("acme_directory").map(|directory| directory.value);
    let files = read_certificates(&section);
    let redirect = section.boolean("redirect").unwrap_or(true);
    let certificates = match (email, files) {
        (Some(email), None) => Certificates::Acme { email: email.value, directory },
        (None, Some(files)) => Certificates::Files(files),
        (None, None) => Certificates::Own,
        (Some(_), Some(_)) => {
            tls_sources(&section);
            Certificates::Own
        }
    };
    let words = [("required", true), ("optional", false)];
    let required = section.choice("client_certificates", &words);
    let clients = section.string("client_authorities");
    if let (Some(required), None) = (&required, &clients) {
        section.problems.help(
            &required.at,
            "[tls] asks for certificates of clients, but does not say who issues them",
            "name the file of those authorities, in PEM:  client_authorities = \"clients.pem\"",
        );
    }
    if let (Some(clients), false) = (&clients, matches!(certificates, Certificates::Files(_))) {
        let help = "give both  certificate  and  key";
        section.problems.help(&clients.at, "clients show certificates only where the edges have one", help);
    }
    let required = required.is_none_or(|word| word.value);
    let clients = clients.map(|file| (file.value.into(), required));
    section.finish();
    Some(TlsSettings { certificates, redirect, clients })
}

fn tls_sources(section: &Section<'_>) {
    section.problems.help(
        &section.at,
        "[tls] names more than one source of certificates, or half of one",
        "give either  acme_email, or both  certificate  and  key, or neither for the site's own authority",
    );
}

/// `certificate` and `key`, or a list of such pairs: `[[tls.certificate]]`.
fn read_certificates(section: &Section<'_>) -> Option<Vec<CertificateFiles>> {
    if section.is_list("certificate") {
        let mut files = Vec::new();
        for entry in section.list("certificate") {
            let (certificate, key) = (entry.string("certificate"), entry.string("key"));
            match (certificate, key) {
                (Some(certificate), Some(key)) => files
                    .push(CertificateFiles { certificate: certificate.value.into(), key: key.value.into() }),
                _ => entry.missing(
                    "certificate` and `key",
                    "name both files, in PEM:  certificate = \"site.pem\"  and  key = \"site.key\"",
                ),
            }
            entry.finish();
        }
        if let Some(key) = section.string("key") {
            let help = "write a `key` beside each `certificate` of the list";
            section.problems.help(&key.at, "[tls] has a list of certificates and one key", help);
        }
        return Some(files);
    }
    match (section.string("certificate"), section.string("key")) {
        (None, None) => None,
        (Some(certificate), Some(key)) => {
            Some(vec![CertificateFiles { certificate: certificate.value.into(), key: key.value.into() }])
        }
        _ => {
            tls_sources(section);
            None
        }
    }
}

pub(super) fn firewall(root: &Section<'_>) -> Option<FirewallSettings> {
    let section = root.section("firewall")?;
    let settings = FirewallSettings {
        admin_networks: texts(&section, "admin_networks"),
        outgoing: texts(&section, "outgoing"),
    };
    section.finish();
    Some(settings)
}

pub(super) fn monitor(root: &Section<'_>) -> Option<MonitorSettings> {
    let section = root.section("monitor")?;
    let settings = MonitorSettings {
        retention: duration(&section, "retention").unwrap_or(Duration::from_hours(720)),
        alert_emails: texts(&section, "alert_emails"),
        alert_webhooks: texts(&section, "alert_webhooks"),
    };
    section.finish();
    Some(settings)
}

pub(super) fn coordinator(root: &Section<'_>) -> Option<CoordinatorSettings> {
    let section = root.section("coordinator")?;
    let kind =
        section.choice("kind", &[("embedded", false), ("etcd", true)]).is_some_and(|found| found.value);
    let endpoints = section.strings("endpoints");
    if let Some(endpoints) = endpoints.as_ref().filter(|_| !kind) {
        let help = "set  kind = \"etcd\"  to use existing etcd servers";
        section.problems.help(&endpoints.at, "`endpoints` belong to etcd", help);
    }
    let endpoints =
        endpoints.map_or_else(Vec::new, |list| list.value.into_iter().map(|text| text.value).collect());
    section.finish();
    Some(if kind { CoordinatorSettings::Etcd { endpoints } } else { CoordinatorSettings::Embedded })
}

pub(super) fn backup(root: &Section<'_>) -> Option<BackupSettings> {
    let section = root.section("backup")?;
    let target = section.string("target");
    if target.is_none() && !section.has("target") {
        section.missing("target", "say where backups go:  target = \"/srv/backup\"");
    }
    let every = duration(&section, "every").unwrap_or(Duration::from_hours(24));
    let keep = duration(&section, "keep").unwrap_or(Duration::from_hours(336));
    section.finish();
    Some(BackupSettings { target: target?.value, every, keep })
}
