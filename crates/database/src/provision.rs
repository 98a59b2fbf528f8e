//! Databases, accounts and rights as the plan says. Doing it again changes nothing.

use std::fmt::Write as _;

use mainstay_site::plan::{DatabaseOfApp, DatabasePlan, Engine};
use sha2::{Digest, Sha256};

use crate::client::{named, named_in_grant, quoted};
use crate::{Client, Error, schema};

/// Mainstay's own database: which schema files were applied, and which passwords are set (as digests).
const OWN_TABLES: &str = "CREATE DATABASE IF NOT EXISTS mainstay;\n\
    CREATE TABLE IF NOT EXISTS mainstay.schema_files (\n\
      app VARCHAR(64) NOT NULL, file VARCHAR(190) NOT NULL, sha256 CHAR(64) NOT NULL,\n\
      state ENUM('started', 'applied') NOT NULL, changed_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)\n\
        ON UPDATE CURRENT_TIMESTAMP(6), PRIMARY KEY (app, file)) ENGINE=InnoDB;\n\
    CREATE TABLE IF NOT EXISTS mainstay.accounts (\n\
      user VARCHAR(80) NOT NULL, host VARCHAR(190) NOT NULL, secret CHAR(64) NOT NULL,\n\
      PRIMARY KEY (user, host)) ENGINE=InnoDB;\n";

/// Lets every database of the plan be there, with its account (allowed from the plan's hosts and nowhere else), its rights (on
/// that database and nothing else) and its schema. `secret` gives the text of a secret by name.
///
/// # Errors
/// [`Error`] if the server refuses a statement, or a schema file cannot be applied.
pub fn provision<E: std::fmt::Display>(
    plan: &DatabasePlan,
    client: &Client,
    mut secret: impl FnMut(&str) -> Result<String, E>,
) -> Result<(), Error> {
    client.run("Mainstay's own tables", OWN_TABLES)?;
    // An account that someone removed by hand is made again, so only those that are there count.
    let known = client.run(
        "the list of accounts",
        "SELECT known.user, known.host, known.secret FROM mainstay.accounts AS known \
         JOIN mysql.user AS there ON BINARY there.user = known.user AND BINARY there.host = known.host",
    )?;
    for database in &plan.databases {
        let password = secret(&database.password_secret).map_err(|error| Error::Statement {
            what: format!("the account of {}", database.app),
            reason: error.to_string(),
        })?;
        let statements = accounts(plan, database, &password, &known);
        client.run(&format!("the account of {}", database.app), &statements)?;
        if let Some(folder) = &database.schema {
            schema::apply(client, database, folder)?;
        }
    }
    Ok(())
}

fn accounts(plan: &DatabasePlan, database: &DatabaseOfApp, password: &str, known: &[String]) -> String {
    let name = named(&database.name);
    // Of all that the account depends on, so that it is looked at again when any of it changes.
    let digest = hex(&Sha256::digest(format!("{}\n{password}", database.name)));
    let mut sql = format!("CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4;\n");
    let plugin = match plan.engine {
        Engine::Mariadb => "IDENTIFIED BY",
        Engine::Mysql => "IDENTIFIED WITH caching_sha2_password BY",
    };
    for host in &plan.allowed_hosts {
        let account = format!("{}@{}", quoted(&database.user), quoted(host));
        if known.contains(&format!("{}\t{host}\t{digest}", database.user)) {
            continue;
        }
        let _ = write!(
            sql,
            // A new account is locked until it has its password.
            "CREATE USER IF NOT EXISTS {account} ACCOUNT LOCK;\n\
             ALTER USER {account} {plugin} {password} ACCOUNT UNLOCK;\n\
             GRANT ALL PRIVILEGES ON {granted}.* TO {account};\n\
             REPLACE INTO mainstay.accounts VALUES ({user}, {host}, '{digest}');\n",
            password = quoted(password),
            granted = named_in_grant(&database.name),
            user = quoted(&database.user),
            host = quoted(host),
        );
    }
    for account in known {
        let mut fields = account.split('\t');
        let (Some(user), Some(host)) = (fields.next(), fields.next()) else { continue };
        if user == database.user && !plan.allowed_hosts.iter().any(|allowed| allowed == host) {
            let _ = write!(
                sql,
                "DROP USER IF EXISTS {user}@{host};\n\
                 DELETE FROM mainstay.accounts WHERE user={user} AND host={host};\n",
                user = quoted(user),
                host = quoted(host),
            );
        }
    }
    sql
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
