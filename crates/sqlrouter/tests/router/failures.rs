//! What becomes of statements when servers fail, with servers that do on demand what real ones do seldom.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::fixture::client::{Client, Failed};
use crate::fixture::fake::{Does, Fake};
use crate::fixture::mariadb::PASSWORD;
use crate::fixture::router::{Router, topology};

const IN_TRANSACTION: u16 = 3;

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn code(result: Result<crate::fixture::client::Rows, Failed>) -> u16 {
    result.unwrap_err().0
}

#[test]
fn a_statement_whose_answer_was_lost_is_not_sent_again() {
    let one = Fake::start(|text| if text.starts_with("INSERT") { Does::Vanish } else { Does::Ok(2) });
    let router = Router::start(topology(1, Some(("one", one.address)), &[]));
    let mut client = router.client("app", None);
    let Failed(code, message) = client.query("INSERT INTO t VALUES (1)").unwrap_err();
    assert_eq!(code, 2013);
    assert!(message.contains("whether it took effect is unknown"), "{message}");
    assert_eq!(one.asked(), ["INSERT INTO t VALUES (1)"]);
    // The client goes on with another connection.
    client.query("UPDATE t SET a = 1").unwrap();
    assert_eq!(router.metric("sqlrouter_unknown_outcome_total"), 1);
}

#[test]
fn a_plain_read_whose_answer_was_lost_is_read_elsewhere() {
    let replica = Fake::start(|_| Does::Vanish);
    let primary = Fake::start(|_| Does::Row("from the primary".into()));
    let router = Router::start(topology(1, Some(("one", primary.address)), &[("two", replica.address)]));
    let mut client = router.client("app", None);
    assert_eq!(client.value("SELECT a FROM t").unwrap(), "from the primary");
    assert_eq!(replica.asked().len(), 1);
}

#[test]
fn a_read_that_a_replica_refuses_is_read_on_the_primary() {
    let replica = Fake::start(|_| Does::Err(1146, "no such table yet".into()));
    let primary = Fake::start(|_| Does::Row("from the primary".into()));
    let router = Router::start(topology(1, Some(("one", primary.address)), &[("two", replica.address)]));
    assert_eq!(router.client("app", None).value("SELECT a FROM t").unwrap(), "from the primary");
}

#[test]
fn a_statement_waits_for_the_next_primary_instead_of_failing() {
    let two = Fake::start(|_| Does::Ok(2));
    let router = Router::start(topology(1, None, &[]));
    let mut client = router.client("app", None);
    client.begin("INSERT INTO t VALUES (1)").unwrap();
    wait_until("it is held", || router.metric("sqlrouter_held") == 1);
    router.teller.tell(topology(2, Some(("two", two.address)), &[]));
    client.end().unwrap();
    assert_eq!(two.asked(), ["INSERT INTO t VALUES (1)"]);
    assert_eq!(router.metric("sqlrouter_held"), 0);
}

#[test]
fn a_statement_that_finds_no_primary_in_time_is_told_that_it_did_not_run() {
    let router = Router::with(topology(1, None, &[]), |config| config.limits.hold_ms = 50);
    let Failed(code, message) = router.client("app", None).query("DELETE FROM t").unwrap_err();
    assert_eq!(code, 1290);
    assert!(message.contains("did not run"), "{message}");
}

#[test]
fn no_more_statements_wait_than_the_limit_says() {
    let router = Router::with(topology(1, None, &[]), |config| config.limits.held = 1);
    let (mut one, mut two) = (router.client("app", None), router.client("app", None));
    one.begin("DELETE FROM t").unwrap();
    wait_until("it is held", || router.metric("sqlrouter_held") == 1);
    assert_eq!(code(two.query("DELETE FROM t")), 1203);
}

#[test]
fn an_idle_connection_survives_a_failover() {
    let one = Fake::start(|_| Does::Row("one".into()));
    let two = Fake::start(|_| Does::Row("two".into()));
    let router = Router::start(topology(1, Some(("one", one.address)), &[]));
    let mut client = router.client("app", None);
    assert_eq!(client.value("SELECT a FROM t FOR UPDATE").unwrap(), "one");
    one.drop_connections();
    router.teller.tell(topology(2, Some(("two", two.address)), &[]));
    wait_until("it is told", || client_sees(&mut client, "two"));
}

fn client_sees(client: &mut Client, expected: &str) -> bool {
    client.value("SELECT a FROM t FOR UPDATE").unwrap() == expected
}

#[test]
fn an_old_primary_that_still_answers_gets_nothing_any_more() {
    let one = Fake::start(|_| Does::Row("one".into()));
    let two = Fake::start(|_| Does::Row("two".into()));
    let router = Router::start(topology(1, Some(("one", one.address)), &[]));
    let mut client = router.client("app", None);
    client.value("SELECT a FROM t FOR UPDATE").unwrap();
    router.teller.tell(topology(2, Some(("two", two.address)), &[]));
    wait_until("the new primary answers", || client_sees(&mut client, "two"));
    let asked = one.asked().len();
    for _ in 0..10 {
        assert!(client_sees(&mut client, "two"));
    }
    assert_eq!(one.asked().len(), asked);
}

#[test]
fn a_transaction_that_is_lost_between_statements_is_told_and_can_be_tried_again() {
    let status = |text: &str| {
        if text == "COMMIT" || text == "ROLLBACK" { Does::Ok(2) } else { Does::Ok(IN_TRANSACTION) }
    };
    let (one, two) = (Fake::start(status), Fake::start(status));
    let router = Router::start(topology(1, Some(("one", one.address)), &[]));
    let mut client = router.client("app", None);
    client.query("BEGIN").unwrap();
    client.query("INSERT INTO t VALUES (1)").unwrap();
    one.drop_connections();
    router.teller.tell(topology(2, Some(("two", two.address)), &[]));
    // 1213 is what databases say when a transaction has to be tried again.
    assert_eq!(code(client.query("INSERT INTO t VALUES (2)")), 1213);
    client.query("BEGIN").unwrap();
    client.query("INSERT INTO t VALUES (1)").unwrap();
    client.query("COMMIT").unwrap();
    assert_eq!(two.asked(), ["BEGIN", "INSERT INTO t VALUES (1)", "COMMIT"]);
}

#[test]
fn nobody_knows_what_became_of_a_commit_whose_answer_was_lost() {
    let one = Fake::start(|text| if text == "COMMIT" { Does::Vanish } else { Does::Ok(IN_TRANSACTION) });
    let router = Router::start(topology(1, Some(("one", one.address)), &[]));
    let mut client = router.client("app", None);
    client.query("BEGIN").unwrap();
    client.query("INSERT INTO t VALUES (1)").unwrap();
    let Failed(code, message) = client.query("COMMIT").unwrap_err();
    assert_eq!(code, 2013);
    assert!(message.contains("unknown"), "{message}");
}

#[test]
fn a_statement_that_an_old_primary_hangs_on_is_cut_when_another_took_over() {
    let one = Fake::start(|text| if text.starts_with("INSERT") { Does::Hang } else { Does::Ok(2) });
    let two = Fake::start(|_| Does::Ok(2));
    let router = Router::start(topology(1, Some(("one", one.address)), &[]));
    let mut client = router.client("app", None);
    client.begin("INSERT INTO t VALUES (1)").unwrap();
    wait_until("it was sent", || one.asked().len() == 1);
    router.teller.tell(topology(2, Some(("two", two.address)), &[]));
    assert_eq!(code(client.end()), 2013);
    assert!(two.asked().is_empty());
}

#[test]
fn a_primary_that_became_read_only_did_nothing_and_the_next_one_is_waited_for() {
    let one = Fake::start(|_| Does::Err(1290, "The server is running with the --read-only option".into()));
    let two = Fake::start(|_| Does::Ok(2));
    let router = Router::start(topology(1, Some(("one", one.address)), &[]));
    let mut client = router.client("app", None);
    client.begin("INSERT INTO t VALUES (1)").unwrap();
    wait_until("it was refused", || !one.asked().is_empty());
    router.teller.tell(topology(2, Some(("two", two.address)), &[]));
    client.end().unwrap();
    assert_eq!(two.asked(), ["INSERT INTO t VALUES (1)"]);
}

#[test]
fn while_a_switchover_is_prepared_transactions_end_and_none_begins() {
    let status = |text: &str| if text == "COMMIT" { Does::Ok(2) } else { Does::Ok(IN_TRANSACTION) };
    let (one, two) = (Fake::start(status), Fake::start(|_| Does::Ok(2)));
    let first = topology(1, Some(("one", one.address)), &[]);
    let router = Router::start(first.clone());
    let (mut running, mut new) = (router.client("app", None), router.client("app", None));
    running.query("BEGIN").unwrap();
    router.teller.tell(mainstay_sqlrouter::Topology { paused: true, ..first });
    wait_until("the router knows", || {
        let row = &new.query("SHOW MAINSTAY ROUTE FOR DELETE FROM t").unwrap()[0];
        row[2].as_deref().unwrap().contains("a switchover is on its way")
    });
    new.begin("INSERT INTO t VALUES (2)").unwrap();
    wait_until("it is held", || router.metric("sqlrouter_held") == 1);
    running.query("INSERT INTO t VALUES (1)").unwrap();
    running.query("COMMIT").unwrap();
    router.teller.tell(topology(2, Some(("two", two.address)), &[]));
    new.end().unwrap();
    assert_eq!(one.asked(), ["BEGIN", "INSERT INTO t VALUES (1)", "COMMIT"]);
    assert_eq!(two.asked(), ["INSERT INTO t VALUES (2)"]);
}

#[test]
fn a_session_that_lost_what_only_its_connection_had_is_ended() {
    let one = Fake::start(|_| Does::Ok(2));
    let router = Router::start(topology(1, Some(("one", one.address)), &[]));
    let mut client = router.client("app", None);
    client.query("CREATE TEMPORARY TABLE t (a int)").unwrap();
    one.drop_connections();
    let mut result = client.query("INSERT INTO t VALUES (1)");
    // Whether the router already knows that the connection is gone or finds out by using it: it is told, and over.
    assert_eq!(code(std::mem::replace(&mut result, Ok(Vec::new()))), 2013);
    assert_eq!(code(client.query("SELECT 1")), 0);
}

#[test]
fn a_wrong_password_and_an_unknown_account_look_the_same() {
    let router = Router::start(topology(1, None, &[]));
    let refused = |account: &str, password: &str| {
        Client::connect(router.address, account, password, None).err().unwrap()
    };
    let (wrong, unknown) = (refused("app", "x"), refused("nobody", PASSWORD));
    assert_eq!((wrong.0, unknown.0), (1045, 1045));
    assert_eq!(wrong.1.replace("'app'", ""), unknown.1.replace("'nobody'", ""));
}

#[test]
fn an_account_has_as_many_clients_as_it_may() {
    let router = Router::with(topology(1, None, &[]), |config| config.accounts[0].connections = 2);
    let clients = [router.client("app", None), router.client("app", None)];
    assert_eq!(Client::connect(router.address, "app", PASSWORD, None).err().unwrap().0, 1226);
    drop(clients);
    wait_until("there is room again", || Client::connect(router.address, "app", PASSWORD, None).is_ok());
}

#[test]
fn clients_that_wait_for_a_connection_get_one_when_another_gives_it_back() {
    let busy = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&busy);
    let one = Fake::start(move |text| {
        if text == "BEGIN" {
            seen.store(true, Ordering::SeqCst);
            return Does::Ok(IN_TRANSACTION);
        }
        Does::Ok(2)
    });
    let router =
        Router::with(topology(1, Some(("one", one.address)), &[]), |config| config.accounts[1].backends = 1);
    let (mut first, mut second) = (router.client("tx", None), router.client("tx", None));
    first.query("BEGIN").unwrap();
    second.begin("DELETE FROM t").unwrap();
    wait_until("the second waits", || router.metric("sqlrouter_queued_total") == 1);
    first.query("COMMIT").unwrap();
    second.end().unwrap();
    assert!(busy.load(Ordering::SeqCst));
}

#[test]
fn a_primary_that_says_nothing_is_not_waited_for_when_another_takes_over() {
    // It listens, and never greets.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let two = Fake::start(|_| Does::Ok(2));
    let first = topology(1, Some(("one", silent.local_addr().unwrap())), &[]);
    let router = Router::with(first, |config| {
        config.limits.connect_ms = 600_000;
        config.limits.hold_ms = 600_000;
    });
    let mut client = router.client("app", None);
    client.begin("INSERT INTO t VALUES (1)").unwrap();
    // One connection asks what the server is, the other is the client's.
    let _waiting = [silent.accept().unwrap(), silent.accept().unwrap()];
    router.teller.tell(topology(2, Some(("two", two.address)), &[]));
    client.end().unwrap();
    assert_eq!(two.asked(), ["INSERT INTO t VALUES (1)"]);
}

#[test]
fn a_statement_that_waits_is_not_run_once_its_client_has_left() {
    let two = Fake::start(|_| Does::Ok(2));
    let router = Router::start(topology(1, None, &[]));
    let mut client = router.client("app", None);
    client.begin("INSERT INTO t VALUES (1)").unwrap();
    wait_until("it is held", || router.metric("sqlrouter_held") == 1);
    drop(client);
    wait_until("it is let go", || router.metric("sqlrouter_held") == 0);
    router.teller.tell(topology(2, Some(("two", two.address)), &[]));
    router.client("app", None).query("DELETE FROM t").unwrap();
    assert_eq!(two.asked(), ["DELETE FROM t"]);
}
