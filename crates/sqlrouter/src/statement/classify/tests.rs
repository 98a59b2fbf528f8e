use proptest::prelude::*;

use super::*;
use crate::statement::Hint;

fn of(text: &str) -> Statement {
    classify(text.as_bytes(), Mode::default())
}

#[test]
fn plain_reads_are_reads() {
    for text in [
        "SELECT * FROM t WHERE a IN (1, 2) AND b = 'it''s; FOR UPDATE'",
        "  /* hello */ select count(*), max(a) from t group by b having count(*) > 1 -- FOR UPDATE",
        "(SELECT 1) UNION (SELECT 2)",
        "WITH x AS (SELECT 1 AS a) SELECT * FROM x",
        "SELECT CAST(a AS DECIMAL(10,2)), IF(a, 'b', \"c\") FROM t # INTO OUTFILE 'x'",
        "SELECT a FROM `GET_LOCK` WHERE `for` = 'update' LIMIT 3;",
        "SELECT @@sql_mode, @@session.tx_isolation",
        "SELECT /*+ NO_ICP(t) */ a FROM t",
        "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.a = t.a) ORDER BY FIELD(a, 3, 1)",
        "SELECT DATE_FORMAT(a, '%Y'), JSON_EXTRACT(b, '$.c'), ROW_NUMBER() OVER (PARTITION BY c) FROM t",
    ] {
        assert_eq!(of(text).kind, Kind::Read, "{text}: {}", of(text).why);
    }
}

#[test]
fn what_is_no_plain_read_goes_to_the_primary() {
    for text in [
        "INSERT INTO t VALUES (1)",
        "SELECT my_function(1)",
        "SELECT app.now()",
        "SELECT `sleep`(1)",
        "SELECT GET_LOCK('a', 1)",
        "SELECT LAST_INSERT_ID()",
        "SELECT @a := 1",
        "SELECT 1 INTO @a",
        "SELECT * FROM t INTO OUTFILE '/tmp/x'",
        "SELECT NEXT VALUE FOR s",
        "SELECT NEXTVAL(s)",
        "SELECT * FROM information_schema.processlist",
        "SELECT @@hostname",
        "SELECT @@global.read_only",
        "SELECT 1; DELETE FROM t",
        "SELECT 1 /*! INTO OUTFILE 'x' */",
        "/*!999999 SELECT */ DELETE FROM t",
        "SELECT 'never ends",
        "SELECT 1 /* never ends",
        "WITH x AS (SELECT 1) DELETE FROM t",
        "SELECT SQL_CALC_FOUND_ROWS * FROM t",
        "no such statement",
        "",
    ] {
        assert_ne!(of(text).kind, Kind::Read, "{text}");
    }
    assert_eq!(of("SELECT * FROM t FOR UPDATE").kind, Kind::LockingRead);
    assert_eq!(of("SELECT * FROM t LOCK IN SHARE MODE").kind, Kind::LockingRead);
    assert_eq!(of("SELECT * FROM t FOR /* x */ SHARE SKIP LOCKED").kind, Kind::LockingRead);
}

#[test]
fn quotes_are_read_as_the_mode_says() {
    let text = br#"SELECT "a\" , sneaky(1) , "b""#;
    assert_eq!(classify(text, Mode::default()).kind, Kind::Write);
    let plain = Mode { no_backslash_escapes: true, ..Mode::default() };
    assert_eq!(classify(text, plain).why, "a stored function may do anything");
    let ansi = Mode { ansi_quotes: true, ..Mode::default() };
    assert_eq!(classify(br#"SELECT "x"(1)"#, ansi).kind, Kind::Write);
}

#[test]
fn what_binds_a_session_is_found() {
    let binds = |text: &str| matches!(of(text).bind, Bind::Connection(_));
    for text in [
        "CREATE TEMPORARY TABLE t (a int)",
        "create or replace temporary table t (a int)",
        "SET @a = 1",
        "SET sql_mode = '', @a = 1",
        "SELECT 1 INTO @a",
        "SELECT @a := a FROM t",
        "UPDATE t SET a = (@b := a)",
        "LOCK TABLES t READ",
        "SELECT GET_LOCK('a', 1)",
        "INSERT INTO t VALUES (GET_LOCK('a', 1))",
        "PREPARE s FROM 'SELECT 1'",
        "CALL p()",
        "SELECT 1; SET @a = 1",
    ] {
        assert!(binds(text), "{text}");
    }
    for text in [
        "SET NAMES utf8mb4",
        "SET SESSION sql_mode = CONCAT(@@sql_mode, ',ANSI')",
        "INSERT INTO t VALUES (1)",
    ] {
        assert!(!binds(text), "{text}");
    }
    assert_eq!(of("SET NAMES utf8mb4").kind, Kind::SetNames);
    assert_eq!(of("set session time_zone = '+00:00'").kind, Kind::Set);
    assert_eq!(of("SET TRANSACTION ISOLATION LEVEL READ COMMITTED").bind, Bind::NextTransaction);
    assert_eq!(of("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").bind, Bind::Nothing);
    assert_eq!(of("SET GLOBAL max_connections = 5").kind, Kind::Write);
}

#[test]
fn hints_and_questions_to_the_router_are_understood() {
    assert_eq!(of("/* mainstay: primary */ SELECT 1").hint, Some(Hint::Primary));
    assert_eq!(of("SELECT /* mainstay: eventual */ 1").hint, Some(Hint::Eventual));
    assert_eq!(of("SELECT /* mainstay: nonsense */ 1").hint, None);
    assert_eq!(of("SELECT '/* mainstay: primary */'").hint, None);
    let text = "show mainstay route for SELECT 1";
    let Kind::Explain { begin } = of(text).kind else { panic!("{:?}", of(text)) };
    assert_eq!(text[begin..].trim(), "SELECT 1");
    assert_eq!(of("KILL QUERY 7").kind, Kind::Kill { connection: 7, query: true });
    assert_eq!(of("kill 12").kind, Kind::Kill { connection: 12, query: false });
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..200), ansi_quotes: bool, no_backslash_escapes: bool) {
        classify(&text, Mode { ansi_quotes, no_backslash_escapes });
    }

    /// Whatever is in a string, and wherever spaces and comments stand, a write stays a write and a read a read.
    #[test]
    fn strings_and_comments_change_nothing(inside in "[a-zA-Z ;*/#@:()-]{0,30}", space in "( |\t|\n|/\\* x \\*/|-- x\n|#\n){1,3}") {
        prop_assert_eq!(of(&format!("SELECT{space}'{inside}'{space}FROM{space}t")).kind, Kind::Read);
        let locking = format!("SELECT '{inside}' FROM t{space}FOR{space}UPDATE");
        prop_assert_eq!(of(&locking).kind, Kind::LockingRead);
        let write = format!("{space}INSERT{space}INTO t SELECT '{inside}'");
        prop_assert_eq!(of(&write).kind, Kind::Write);
    }
}
