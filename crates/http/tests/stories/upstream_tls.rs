//! TLS to upstreams.

use mainstay_http::pool::{ConnectOptions, Pool, PoolSettings, Upstream};
use mainstay_http::tls::{ClientCertificates, ClientOptions, ClientTls, ServerOptions};

use super::authority::Authority;
use super::pool::{get, run};
use super::support::{FILE_BYTES, Running, collect};
use super::tls::serving;

fn pool(options: &ClientOptions) -> Pool {
    let tls = Some(ClientTls::new(options).unwrap());
    let options = ConnectOptions { tls, proxy_protocol: None };
    Pool::new(PoolSettings { options, ..PoolSettings::default() })
}

fn trusting(authority: &Authority, name: Option<&str>) -> ClientOptions {
    ClientOptions {
        server_name: name.map(str::to_owned),
        authorities: Some(authority.ca()),
        ..ClientOptions::default()
    }
}

async fn ask(pool: &Pool, server: &Running, path: &str) -> Result<Vec<u8>, String> {
    let answer = pool.send(&Upstream::Tcp(server.address), get(path)).await;
    let answer = answer.map_err(|error| error.to_string())?;
    collect(answer.into_body()).await.map_err(|error| error.to_string())
}

#[test]
fn an_upstream_is_verified_by_name_or_by_address_and_its_connection_kept() {
    let authority = Authority::new("a");
    let server = serving(&[authority.issue(&["a.test", "127.0.0.1"])], ServerOptions::default());
    run(async {
        for name in [Some("a.test"), None] {
            let pool = pool(&trusting(&authority, name));
            for _ in 0..3 {
                let answer = ask(&pool, &server, "/tls").await.unwrap();
                assert!(String::from_utf8_lossy(&answer).contains("version=TLSv1.3"));
            }
            assert_eq!(ask(&pool, &server, "/file").await.unwrap().len(), FILE_BYTES);
        }
    });
    assert_eq!(server.metric("http_connections_accepted_total"), "2");
}

#[test]
fn an_upstream_that_is_not_who_it_must_be_gets_no_request_and_the_reason_is_told() {
    let (authority, other) = (Authority::new("a"), Authority::new("b"));
    let server = serving(&[authority.issue(&["a.test"])], ServerOptions::default());
    let expired = authority.issue_with(&["a.test"], &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let old = serving(&[expired], ServerOptions::default());
    let plain = Running::new();
    run(async {
        for (options, server, why) in [
            (trusting(&other, Some("a.test")), &server, "give the authority that did"),
            (trusting(&authority, Some("b.test")), &server, "for other names"),
            (trusting(&authority, None), &server, "verify 127.0.0.1: its certificate is for other names"),
            (trusting(&authority, Some("a.test")), &old, "has expired"),
            (trusting(&authority, Some("a.test")), &plain, "does not speak TLS"),
        ] {
            let error = ask(&pool(&options), server, "/").await.unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    });
    assert_eq!(server.metric("http_engine_requests_total"), "0");
}

#[test]
fn an_upstream_may_ask_who_we_are() {
    let (authority, clients) = (Authority::new("a"), Authority::new("clients"));
    let options = ServerOptions {
        client_certificates: ClientCertificates::Required(clients.ca()),
        ..ServerOptions::default()
    };
    let server = serving(&[authority.issue(&["a.test"])], options);
    run(async {
        let mut ours = trusting(&authority, Some("a.test"));
        assert!(ask(&pool(&ours), &server, "/tls").await.is_err());
        ours.certificate = Some(clients.issue(&["edge"]));
        let answer = ask(&pool(&ours), &server, "/tls").await.unwrap();
        assert!(String::from_utf8_lossy(&answer).contains("CN=edge"));
    });
}

#[test]
fn a_new_connection_continues_the_session() {
    let authority = Authority::new("a");
    let server = serving(&[authority.issue(&["a.test"])], ServerOptions::default());
    let tls = ClientTls::new(&trusting(&authority, Some("a.test"))).unwrap();
    run(async {
        for resumed in [false, true] {
            let options = ConnectOptions { tls: Some(tls.clone()), proxy_protocol: None };
            let pool = Pool::new(PoolSettings { options, ..PoolSettings::default() });
            let answer = ask(&pool, &server, "/tls").await.unwrap();
            assert!(String::from_utf8_lossy(&answer).contains(&format!("resumed={resumed}")));
        }
    });
}
