//! What follows from right site files, and that no text whatsoever brings the reader down.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::path::Path;

use mainstay_site::plan::{Direction, Peer};
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
fn a_tier_of_databases_has_a_coordinator_replicas_and_a_router_beside_every_app() {
    let plans = example("4-tiered").with_replicas().plans(&Inputs { serial: 1, ..Inputs::default() });
    let of = |name: &str| plans.iter().find(|plan| plan.server.as_str() == name).unwrap();
    let parts: Vec<_> = plans.iter().map(|plan| (&plan.coordinator, &plan.database, &plan.router)).collect();
    insta::assert_json_snapshot!("parts_of_replicas", parts);
    insta::assert_json_snapshot!("flows_of_database1", of("database1").flows);
    for plan in plans.iter().filter(|plan| !plan.apps.is_empty()) {
        let database = plan.apps[0].database.as_ref().unwrap();
        assert_eq!(database.host.to_string(), "127.0.0.1", "the router of {}", plan.server);
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

#[test]
fn only_servers_that_speak_to_others_about_the_database_get_a_certificate() {
    let site = example("4-tiered").with_replicas();
    for server in &site.servers {
        let is_one = [Role::App, Role::Database, Role::Coordinator].iter().any(|role| server.has(*role));
        for name in ["site-authority", "server-certificate", "server-key"] {
            assert_eq!(site.secrets_of(server).contains_key(name), is_one, "{name} of {}", server.name);
        }
    }
    let alone = example("1-single");
    assert!(
        !alone.secrets_of(&alone.servers[0]).contains_key("server-key"),
        "a single server speaks to nobody"
    );
}

#[test]
fn every_flow_between_two_servers_is_let_out_of_the_one_and_into_the_other() {
    for name in ["2-distributed", "3-secured", "4-tiered"] {
        let plans = example(name).with_replicas().plans(&Inputs::default());
        for plan in &plans {
            for flow in &plan.flows {
                let Peer::Server(peer) = &flow.peer else { continue };
                let other = plans.iter().find(|other| other.server == *peer).expect("a server of the site");
                let is_met = other.flows.iter().any(|met| {
                    met.direction != flow.direction
                        && met.port == flow.port
                        && met.peer == Peer::Server(plan.server.clone())
                });
                assert!(is_met, "{name}: {} has {flow:?}, {peer} does not", plan.server);
            }
        }
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

fn right(name: &str) -> Site {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/right").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    Site::parse(&text, name).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn every_key_of_the_load_balancer_has_its_place_in_the_plan() {
    let plans = right("edge.toml").plans(&Inputs::default());
    insta::assert_json_snapshot!("edge_full", plans[0].edge);
}

#[test]
fn a_web_server_takes_requests_from_the_edges_only_and_believes_what_they_say_of_clients() {
    let plans = right("edge.toml").plans(&Inputs::default());
    let server1 = plans.iter().find(|plan| plan.server.as_str() == "server1").unwrap();
    let web = server1.web.as_ref().unwrap();
    assert_eq!(
        web.trusted_proxies,
        ["10.10.0.5/32", "fd00::5/128", "10.10.0.6/32", "192.0.2.0/24", "2001:db8::7/128"]
    );
    let inwards: Vec<_> = server1.flows.iter().filter(|flow| flow.direction == Direction::In).collect();
    assert!(inwards.iter().all(|flow| matches!(flow.peer, Peer::Server(_))), "{inwards:#?}");
    // Each way out has its way in at the other end.
    for plan in &plans {
        for flow in plan.flows.iter().filter(|flow| flow.direction == Direction::Out) {
            let Peer::Server(name) = &flow.peer else { panic!("{flow:?}") };
            let other = plans.iter().find(|plan| plan.server == *name).unwrap();
            let back = Peer::Server(plan.server.clone());
            let meets = |flow_in: &&mainstay_site::plan::Flow| {
                flow_in.direction == Direction::In && flow_in.port == flow.port && flow_in.peer == back
            };
            assert!(other.flows.iter().any(|flow| meets(&flow)), "{}: {flow:?}", plan.server);
        }
    }
}

#[test]
fn a_web_server_beside_an_edge_makes_room_for_it() {
    let plans = right("edge.toml").plans(&Inputs::default());
    let both = plans.iter().find(|plan| plan.server.as_str() == "all").unwrap();
    assert_eq!(both.web.as_ref().unwrap().listen, ["10.10.0.6:8080".parse().unwrap()]);
    let group = both.edge.as_ref().unwrap().groups.iter().find(|group| group.name == "web").unwrap();
    assert_eq!(group.upstreams[0].address, "10.10.0.6:8080".parse().unwrap());
}

#[test]
fn the_role_edge_alone_is_enough_and_names_lead_to_it() {
    let site = example("2-distributed");
    assert_eq!(site.not_yet(), Vec::<String>::new());
    let plans = site.plans(&Inputs::default());
    let zone = &plans[0].dns.as_ref().unwrap().zones[0];
    for name in ["www.foobar.com", "foobar.com"] {
        let address = std::net::Ipv4Addr::new(10, 10, 0, 5);
        let data = mainstay_site::plan::RecordData::A { address };
        let found: Vec<_> = zone
            .records
            .iter()
            .filter(|record| {
                record.name == name && matches!(record.data, mainstay_site::plan::RecordData::A { .. })
            })
            .collect();
        assert_eq!(found.iter().map(|record| &record.data).collect::<Vec<_>>(), [&data]);
    }
    let losses = site.survival();
    assert_eq!(losses[0].reason, "no other server runs dns and edge");
    assert!(!losses[1].survives && losses[1].reason == "no other server runs database");
    assert!(losses[2].survives && losses[3].survives);
}

#[test]
fn edges_share_one_cookie_secret_and_keys_go_to_edges_only() {
    let site = right("edge.toml");
    let names = |name: &str| {
        let server = site.servers.iter().find(|server| server.name.as_str() == name).unwrap();
        site.secrets_of(server).into_keys().collect::<Vec<_>>()
    };
    let keys = [
        "edge-cookie",
        "tls-certificate-1",
        "tls-certificate-2",
        "tls-client-authorities",
        "tls-key-1",
        "tls-key-2",
    ];
    assert_eq!(names("edge1"), keys);
    assert_eq!(names("all"), keys);
    assert_eq!(names("server1"), Vec::<String>::new());
}
