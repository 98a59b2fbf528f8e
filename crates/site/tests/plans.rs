//! What follows from right site files, and that no text whatsoever brings the reader down.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::path::Path;

use mainstay_site::{Inputs, Role, Site, smallest};
use proptest::prelude::*;

fn example(rung: &str) -> Site {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(rung).join("site.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    Site::parse(&text, "site.toml").unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn the_examples_of_all_four_rungs_are_right() {
    for rung in ["1-single", "2-distributed", "3-secured", "4-tiered"] {
        let site = example(rung);
        let plans = site.plans(&Inputs { serial: 1, ..Inputs::default() });
        assert_eq!(plans.len(), site.servers.len());
        insta::assert_json_snapshot!(format!("plans_{rung}"), plans);
    }
}

#[test]
fn the_single_rung_needs_nothing_that_is_not_built() {
    assert_eq!(example("1-single").not_yet(), Vec::<String>::new());
    assert!(!example("3-secured").not_yet().is_empty());
}

#[test]
fn the_smallest_file_is_right_and_short() {
    let site = Site::parse(smallest::SITE_FILE, "site.toml").unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(site.with_role(Role::Database).count(), 1);
    assert!(smallest::SITE_FILE.lines().count() < 40);
}

#[test]
fn a_changed_setting_changes_the_revision_and_an_equal_file_does_not() {
    let revision =
        |text: &str| Site::parse(text, "site.toml").unwrap().plans(&Inputs::default())[0].revision.clone();
    let same = revision(smallest::SITE_FILE);
    assert_eq!(same, revision(smallest::SITE_FILE));
    assert_ne!(same, revision(&format!("{}\n[web]\nport = 8080\n", smallest::SITE_FILE)));
}

#[test]
fn a_record_that_leads_elsewhere_replaces_a_hosts_addresses_and_a_text_does_not() {
    let addresses = |kind: &str, value: &str| {
        let record = format!("\n[[dns.records]]\nname = \"www\"\ntype = \"{kind}\"\nvalue = \"{value}\"\n");
        let text = smallest::SITE_FILE.to_owned() + &record;
        let site = Site::parse(&text, "site.toml").unwrap_or_else(|errors| panic!("{errors}"));
        let dns = site.plans(&Inputs::default()).into_iter().find_map(|plan| plan.dns).unwrap();
        let records = serde_json::to_value(&dns.zones[0].records).unwrap();
        let www = format!("www.{}", site.domain);
        records.as_array().unwrap().iter().filter(|record| record["name"] == www.as_str()).count()
    };
    assert_eq!(addresses("TXT", "hello"), 2, "its address and the text");
    assert_eq!(addresses("A", "203.0.113.9"), 1, "the given address alone");
    assert_eq!(addresses("CNAME", "example.org"), 1, "the alias alone");
}

#[test]
fn a_single_server_says_what_its_loss_means() {
    let losses = example("1-single").survival();
    assert_eq!(losses.len(), 1);
    assert!(!losses[0].survives);
    assert_eq!(losses[0].reason, "no other server runs dns, web, app and database");
}

#[test]
fn a_database_password_goes_only_to_servers_that_need_it() {
    let site = example("4-tiered");
    for server in &site.servers {
        let secrets = site.secrets_of(server);
        let needs =
            server.has(Role::App) || server.has(Role::Database) && server.name.as_str() == "database1";
        assert_eq!(secrets.keys().any(|name| name.starts_with("database-")), needs, "{}", server.name);
    }
}

proptest! {
    #[test]
    fn no_text_brings_the_reader_down(text in "\\PC{0,300}") {
        let _ = Site::parse(&text, "site.toml").map_err(|errors| errors.to_string());
    }

    #[test]
    fn no_damage_to_a_right_file_brings_the_reader_down(at in 0usize..600, cut in 0usize..20, put in "[\\[\\]=\"a-z0-9.\n]{0,6}") {
        let mut text = smallest::SITE_FILE.to_owned();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.replace_range(at..end, &put);
        if let Err(errors) = Site::parse(&text, "site.toml") {
            for problem in errors.placed() {
                prop_assert!(problem.line >= 1 && problem.column >= 1);
            }
            let _ = errors.to_string();
        }
    }
}
