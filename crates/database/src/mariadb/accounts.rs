//! The accounts that members use towards each other: none without a certificate of the site's authority.
//!
//! Each member replicates with an account of its own, named after its number: so a primary tells by the account who
//! receives, and can end exactly one member's stream.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::error::ActionError;
use super::session::Session;
use super::settings::server_id;
use crate::client::{named, quoted};

/// Before a member's number.
const REPLICA_PREFIX: &str = "mainstay-replica-";
/// The account that copies data and logs.
pub const BACKUP: &str = "mainstay-backup";
/// The account that only looks.
pub const MONITOR: &str = "mainstay-monitor";

/// The account that a member replicates with.
pub fn replica_of(server: Ipv4Addr) -> String {
    format!("{REPLICA_PREFIX}{}", server_id(server))
}

/// The member that an account belongs to.
pub(crate) fn server_of(account: &str) -> Option<u32> {
    account.strip_prefix(REPLICA_PREFIX)?.parse().ok()
}

/// Whether replicas' accounts can be used from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doors {
    /// They can.
    Open,
    /// New ones are locked, and others stay as they are: a keeper unlocks those that it admits ([`admit`]), on its own server alone.
    AsTheyAre,
}

/// The statements that let the accounts be as they should, to be run on the open primary alone: replicas receive them.
/// `members` are all servers of the cluster; `from` are the addresses that they come from, as accounts' hosts.
pub fn statements(members: &[Ipv4Addr], from: &[String], password: &str, doors: Doors) -> Vec<String> {
    let mut accounts: Vec<(String, &str)> =
        members.iter().map(|member| (replica_of(*member), "REPLICATION SLAVE")).collect();
    let copies = "RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, REPLICA MONITOR, REPLICATION SLAVE";
    accounts.push((BACKUP.to_owned(), copies));
    accounts.push((MONITOR.to_owned(), "PROCESS, BINLOG MONITOR, REPLICA MONITOR"));
    let mut statements = Vec::new();
    for (user, rights) in accounts {
        for host in from {
            let account = format!("{}@{}", quoted(&user), quoted(host));
            let password = quoted(password);
            statements.push(format!("CREATE USER IF NOT EXISTS {account} ACCOUNT LOCK"));
            let is_replica = user.starts_with(REPLICA_PREFIX);
            let lock = if is_replica && doors == Doors::AsTheyAre { "" } else { " ACCOUNT UNLOCK" };
            statements.push(format!("ALTER USER {account} IDENTIFIED BY {password} REQUIRE X509{lock}"));
            statements.push(format!("GRANT {rights} ON *.* TO {account}"));
        }
    }
    statements
}

/// The row that [`super::primary::push`] writes.
const HEARTBEAT: [&str; 2] = [
    "CREATE DATABASE IF NOT EXISTS mainstay",
    "CREATE TABLE IF NOT EXISTS mainstay.heartbeat (id TINYINT UNSIGNED PRIMARY KEY, at TIMESTAMP(6) NOT NULL) ENGINE=InnoDB",
];

/// Likewise for the first data of all, with the one table that members need.
pub fn first_statements(members: &[Ipv4Addr], from: &[String], password: &str) -> Vec<String> {
    let table = HEARTBEAT.into_iter().map(str::to_owned);
    table.chain(statements(members, from, password, Doors::AsTheyAre)).collect()
}

/// Makes or mends the accounts on the open primary, and the one table that members need.
///
/// # Errors
/// [`ActionError::Sql`].
pub async fn provide(
    session: &mut Session,
    members: &[Ipv4Addr],
    from: &[String],
    password: &str,
    doors: Doors,
    within: Duration,
) -> Result<(), ActionError> {
    let deadline = tokio::time::Instant::now() + within;
    let statements = statements(members, from, password, doors);
    for statement in HEARTBEAT.into_iter().chain(statements.iter().map(String::as_str)) {
        session.query(statement, deadline.saturating_duration_since(tokio::time::Instant::now())).await?;
    }
    Ok(())
}

/// Lets exactly these members receive this server's binary log: their accounts are unlocked, those of all others locked and
/// their connections ended. This server's own doing, so it is not in the binary log.
///
/// # Errors
/// [`ActionError::Sql`].
pub async fn admit(
    session: &mut Session,
    members: &[Ipv4Addr],
    from: &[String],
    admitted: &[Ipv4Addr],
    within: Duration,
) -> Result<(), ActionError> {
    let mut statements = vec!["SET SESSION sql_log_bin = 0".to_owned()];
    for member in members {
        let user = quoted(&replica_of(*member));
        let is_admitted = admitted.contains(member);
        let lock = if is_admitted { "UNLOCK" } else { "LOCK" };
        for host in from {
            statements.push(format!("ALTER USER IF EXISTS {user}@{} ACCOUNT {lock}", quoted(host)));
        }
        if !is_admitted {
            // No connection of a replica waits for an acknowledgement, so nothing commits by that.
            statements.push(format!("KILL HARD CONNECTION USER {user}"));
        }
    }
    statements.push("SET SESSION sql_log_bin = 1".to_owned());
    session.query_all(&statements.join(";"), within).await?;
    Ok(())
}

/// Lets scheduled events run here. On a replica they are `SLAVESIDE_DISABLED`, and a promotion does not change that. Each is a
/// write that waits for an acknowledgement, so this is for a primary that has a replica attached.
///
/// # Errors
/// [`ActionError::Sql`].
pub async fn enable_events(session: &mut Session, within: Duration) -> Result<usize, ActionError> {
    const QUESTION: &str = "SELECT EVENT_SCHEMA AS place, EVENT_NAME AS name, DEFINER AS definer FROM information_schema.EVENTS \
        WHERE STATUS = 'SLAVESIDE_DISABLED'";
    let deadline = tokio::time::Instant::now() + within;
    let left = || deadline.saturating_duration_since(tokio::time::Instant::now());
    let events = session.query(QUESTION, left()).await?;
    for row in 0..events.len() {
        let value = |column| events.value(row, column).unwrap_or_default();
        // Without its definer, an event would be given to whoever alters it.
        let (user, host) = value("definer").rsplit_once('@').unwrap_or((value("definer"), "%"));
        let statement = format!(
            "ALTER DEFINER = {}@{} EVENT {}.{} ENABLE",
            quoted(user),
            quoted(host),
            named(value("place")),
            named(value("name"))
        );
        session.query(&statement, left()).await?;
    }
    Ok(events.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_account_goes_without_a_certificate_and_each_is_locked_until_it_has_its_password() {
        let member = Ipv4Addr::new(10, 10, 0, 11);
        let sql = statements(&[member], &["10.10.0.11".to_owned()], "it's", Doors::Open);
        let with = |end: &str| sql.iter().filter(|statement| statement.ends_with(end)).count();
        assert_eq!(with(" ACCOUNT LOCK"), 3);
        assert_eq!(with("IDENTIFIED BY 'it''s' REQUIRE X509 ACCOUNT UNLOCK"), 3);
        assert_eq!(server_of(&replica_of(member)), Some(server_id(member)));
        assert_eq!(server_of("app"), None);
    }
}
