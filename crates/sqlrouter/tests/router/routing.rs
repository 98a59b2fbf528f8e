//! Where statements go, and what reads see, on a real primary with a real replica.

use std::time::{Duration, Instant};

use mainstay_sqlrouter::wire::command;

use crate::fixture::mariadb::{MariaDb, is_here};
use crate::fixture::router::{Router, topology};

struct Pair {
    one: MariaDb,
    two: MariaDb,
    router: Router,
}

impl Pair {
    fn start() -> Self {
        let (one, two) = (MariaDb::start(1, &[]), MariaDb::start(2, &[]));
        one.root().query("CREATE TABLE app.t (id int auto_increment primary key, a varchar(100))").unwrap();
        two.follow(&one);
        two.wait_for(&one);
        let router = Router::start(topology(1, Some(("one", one.address)), &[("two", two.address)]));
        Self { one, two, router }
    }
}

#[test]
fn reads_and_writes_go_where_they_should_and_sessions_keep_what_they_set() {
    if !is_here() {
        return;
    }
    let pair = Pair::start();
    plain_reads_are_answered_by_the_replica(&pair);
    a_read_after_a_write_of_the_same_session_sees_it(&pair);
    a_replica_that_stands_still_is_not_waited_for_longer_than_the_limit(&pair);
    settings_follow_the_session_from_server_to_server(&pair);
    prepared_statements_follow_the_session_from_server_to_server(&pair);
    with_transaction_pooling_clients_share_connections_and_not_their_state(&pair);
    the_router_says_why_a_statement_goes_where_it_goes(&pair);
    a_session_that_ends_leaves_nothing_behind(&pair);
    a_reset_connection_begins_anew_but_keeps_its_schema(&pair);
    a_statement_of_the_same_account_can_be_ended(&pair);
    a_failover_in_the_middle_is_a_pause(pair);
}

fn plain_reads_are_answered_by_the_replica(pair: &Pair) {
    let mut client = pair.router.client("app", Some("app"));
    client.query("INSERT INTO t (a) VALUES ('x')").unwrap();
    // A table that only the replica has tells who answers.
    let mut root = pair.two.root();
    root.query("SET sql_log_bin = 0").unwrap();
    root.query("CREATE TABLE app.only_here (a int)").unwrap();
    assert_eq!(client.value("SELECT COUNT(*) FROM only_here").unwrap(), "0");
    assert_eq!(client.query("SELECT COUNT(*) FROM only_here FOR UPDATE").unwrap_err().0, 1146);
    let mut strong = pair.router.client("strong", Some("app"));
    assert_eq!(strong.query("SELECT COUNT(*) FROM only_here").unwrap_err().0, 1146);
    assert_eq!(strong.value("SELECT /* mainstay: eventual */ COUNT(*) FROM only_here").unwrap(), "0");
    root.query("DROP TABLE app.only_here").unwrap();
}

fn a_read_after_a_write_of_the_same_session_sees_it(pair: &Pair) {
    for old in [false, true] {
        let mut client = if old {
            crate::fixture::client::Client::old(pair.router.address, "app", "geheim", Some("app")).unwrap()
        } else {
            pair.router.client("app", Some("app"))
        };
        for number in 0..100 {
            // INSERT ... RETURNING ends with rows, which tell older clients' connections nothing of positions.
            let returning = if number % 2 == 0 { "" } else { " RETURNING id" };
            client.query(&format!("INSERT INTO t (a) VALUES ('own {old} {number}'){returning}")).unwrap();
            let seen = client.value(&format!("SELECT a FROM t WHERE a = 'own {old} {number}'")).unwrap();
            assert_eq!(seen, format!("own {old} {number}"));
        }
    }
    assert!(pair.router.metric("sqlrouter_position_waits_total") > 0);
}

fn a_replica_that_stands_still_is_not_waited_for_longer_than_the_limit(pair: &Pair) {
    let mut client = pair.router.client("app", Some("app"));
    pair.two.root().query("STOP SLAVE SQL_THREAD").unwrap();
    client.query("INSERT INTO t (a) VALUES ('late')").unwrap();
    let begin = Instant::now();
    assert_eq!(client.value("SELECT a FROM t WHERE a = 'late'").unwrap(), "late");
    assert!(begin.elapsed() < Duration::from_secs(10));
    // What may be a moment old does not wait, and does not see it.
    assert_eq!(client.value("/* mainstay: eventual */ SELECT a FROM t WHERE a = 'late'").unwrap(), "");
    pair.two.root().query("START SLAVE SQL_THREAD").unwrap();
    pair.two.wait_for(&pair.one);
}

fn settings_follow_the_session_from_server_to_server(pair: &Pair) {
    let mut client = pair.router.client("app", Some("app"));
    client.query("SET SESSION time_zone = '+05:00', sql_mode = CONCAT(@@sql_mode, ',PIPES_AS_CONCAT'), group_concat_max_len = 77")
        .unwrap();
    client.query("SET NAMES latin1 COLLATE latin1_german2_ci").unwrap();
    let settings = "SELECT CONCAT_WS('|', @@time_zone, 'a' || 'b', @@collation_connection, @@character_set_client) FROM t LIMIT 1";
    let on_primary = client.value(&format!("/* mainstay: primary */ {settings}")).unwrap();
    let on_replica = client.value(&format!("/* mainstay: eventual */ {settings}")).unwrap();
    assert_eq!(on_primary, "+05:00|ab|latin1_german2_ci|latin1");
    assert_eq!(on_replica, on_primary);
    client.query("USE mysql").unwrap();
    assert_eq!(
        client.value("/* mainstay: eventual */ SELECT DATABASE() FROM app.t LIMIT 1").unwrap(),
        "mysql"
    );
}

fn prepared_statements_follow_the_session_from_server_to_server(pair: &Pair) {
    let mut client = pair.router.client("app", Some("app"));
    let write = client.prepare("INSERT INTO t (a) VALUES (?)").unwrap();
    let read = client.prepare("SELECT a FROM t WHERE a = ?").unwrap();
    client.execute(write, Some("prepared"), true).unwrap();
    let row = vec![vec![Some("prepared".to_owned())]];
    assert_eq!(client.execute(read, Some("prepared"), true).unwrap(), row);
    // In a transaction the same statement runs on the primary, which was never told the types of its parameter.
    client.query("BEGIN").unwrap();
    client.execute(write, Some("in it"), false).unwrap();
    assert_eq!(client.execute(read, Some("in it"), false).unwrap().len(), 1);
    client.query("ROLLBACK").unwrap();
    assert_eq!(client.execute(read, Some("in it"), false).unwrap().len(), 0);
    assert_eq!(client.execute(read, Some("prepared"), false).unwrap(), row);
}

fn with_transaction_pooling_clients_share_connections_and_not_their_state(pair: &Pair) {
    let mut clients: Vec<_> = (0..8).map(|_| pair.router.client("tx", Some("app"))).collect();
    let before = pair.router.metric("sqlrouter_backend_logins_total");
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            if round == 0 {
                client.query(&format!("SET time_zone = '+0{number}:00'")).unwrap();
            }
            client.query(&format!("INSERT INTO t (a) VALUES ('tx {number}')")).unwrap();
            let id = client.value("SELECT LAST_INSERT_ID()").unwrap();
            let zone = client.value(&format!(
                "SELECT @@time_zone FROM t WHERE id = {id} AND a = 'tx {number}' FOR UPDATE"
            ));
            assert_eq!(zone.unwrap(), format!("+0{number}:00"));
        }
    }
    let made = pair.router.metric("sqlrouter_backend_logins_total") - before;
    assert!(made <= 4, "{made} connections for 8 clients that never work at once");
    // What cannot be carried binds.
    clients[0].query("CREATE TEMPORARY TABLE mine (a int)").unwrap();
    assert_eq!(clients[0].value("SELECT COUNT(*) FROM mine").unwrap(), "0");
    assert_eq!(clients[1].query("SELECT COUNT(*) FROM mine").unwrap_err().0, 1146);
}

fn the_router_says_why_a_statement_goes_where_it_goes(pair: &Pair) {
    let mut client = pair.router.client("app", Some("app"));
    let mut explain = |text: &str| {
        let rows = client.query(&format!("SHOW MAINSTAY ROUTE FOR {text}")).unwrap();
        rows[0].iter().map(|value| value.clone().unwrap()).collect::<Vec<_>>().join(" | ")
    };
    assert_eq!(explain("SELECT a FROM t"), "replica | two | a plain read that sees the session's own writes");
    assert_eq!(explain("SELECT a FROM t FOR UPDATE"), "primary | one | it locks what it reads");
    assert_eq!(
        explain("SET @a = 1"),
        "primary | one | it changes the session's settings; afterwards the session stays there"
    );
}

fn a_session_that_ends_leaves_nothing_behind(pair: &Pair) {
    let mut client = pair.router.client("app", Some("app"));
    client.query("SET @a = 5").unwrap();
    client.query("CREATE TEMPORARY TABLE left_behind (a int)").unwrap();
    client.query("BEGIN").unwrap();
    client.query("INSERT INTO t (a) VALUES ('never')").unwrap();
    drop(client);
    for _ in 0..20 {
        let mut next = pair.router.client("app", Some("app"));
        assert_eq!(next.value("SELECT @a").unwrap(), "");
        assert_eq!(next.query("SELECT * FROM left_behind").unwrap_err().0, 1146);
        assert_eq!(
            next.value("/* mainstay: primary */ SELECT COUNT(*) FROM t WHERE a = 'never'").unwrap(),
            "0"
        );
    }
}

fn a_reset_connection_begins_anew_but_keeps_its_schema(pair: &Pair) {
    let mut client = pair.router.client("app", Some("app"));
    client.query("SET @a = 5, time_zone = '+03:00'").unwrap();
    client.query("BEGIN").unwrap();
    client.query("INSERT INTO t (a) VALUES ('reset away')").unwrap();
    client.command(command::RESET_CONNECTION, b"").unwrap();
    client.end().unwrap();
    let state = client.value("SELECT CONCAT_WS('|', IFNULL(@a, 'none'), @@time_zone, DATABASE())").unwrap();
    assert_eq!(state, "none|SYSTEM|app");
    assert_eq!(client.value("SELECT COUNT(*) FROM t WHERE a = 'reset away' FOR UPDATE").unwrap(), "0");
}

fn a_statement_of_the_same_account_can_be_ended(pair: &Pair) {
    let mut sleeper = pair.router.client("app", Some("app"));
    let number = sleeper.number;
    sleeper.begin("SELECT SLEEP(60) FROM t LIMIT 1 FOR UPDATE").unwrap();
    let mut other = pair.router.client("strong", Some("app"));
    assert_eq!(other.query(&format!("KILL QUERY {number}")).unwrap_err().0, 1095);
    let mut same = pair.router.client("app", Some("app"));
    let begin = Instant::now();
    // Until it runs there is nothing to end.
    let ended = std::thread::spawn(move || (sleeper.end(), sleeper));
    while !ended.is_finished() {
        assert!(begin.elapsed() < Duration::from_secs(20));
        same.query(&format!("KILL QUERY {number}")).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    let (_, mut sleeper) = ended.join().unwrap();
    assert_eq!(sleeper.value("SELECT 1").unwrap(), "1");
    same.query(&format!("KILL {number}")).unwrap();
    assert_eq!(sleeper.query("SELECT 1").unwrap_err().0, 0);
    // The number is nobody's now; no server is asked to end a connection of that number.
    while same.query(&format!("KILL {number}")).is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
    assert_eq!(same.query(&format!("KILL {number}")).unwrap_err().0, 1094);
}

fn a_failover_in_the_middle_is_a_pause(mut pair: Pair) {
    let address = pair.router.address;
    let writer = std::thread::spawn(move || {
        let mut client =
            crate::fixture::client::Client::connect(address, "app", "geheim", Some("app")).unwrap();
        let (mut written, mut unknown) = (Vec::new(), 0);
        for number in 0..400 {
            match client.query(&format!("INSERT INTO t (a) VALUES ('failover {number}')")) {
                Ok(_) => written.push(number),
                Err(error) => {
                    assert_eq!(error.0, 2013, "{error:?}");
                    unknown += 1;
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        (written, unknown)
    });
    let mut idle = pair.router.client("app", Some("app"));
    idle.query("INSERT INTO t (a) VALUES ('idle')").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    // What was acknowledged is on the replica before the primary dies, as lossless replication has it.
    pair.one.root().query("SET GLOBAL read_only = 1").unwrap();
    pair.two.wait_for(&pair.one);
    pair.one.kill();
    pair.router.teller.tell(topology(2, None, &[("two", pair.two.address)]));
    pair.two.promote();
    pair.router.teller.tell(topology(2, Some(("two", pair.two.address)), &[]));
    let (written, unknown) = writer.join().unwrap();
    assert!(unknown <= 1, "{unknown}");
    let mut root = pair.two.root();
    for number in written {
        let count = root.value(&format!("SELECT COUNT(*) FROM app.t WHERE a = 'failover {number}'")).unwrap();
        assert_eq!(count, "1", "{number}");
    }
    idle.query("INSERT INTO t (a) VALUES ('idle still')").unwrap();
    assert_eq!(idle.value("SELECT COUNT(*) FROM t WHERE a LIKE 'idle%'").unwrap(), "2");
}
