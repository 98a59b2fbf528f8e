//! An app's environment: what the plan gives, what comes out of secrets, and how to reach the database. Nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use mainstay_site::paths;
use mainstay_site::plan::{AppDatabase, AppPlan};

use crate::{Context, Error};

/// The secrets of a server: files of mode 0600.
#[derive(Debug)]
pub struct Secrets {
    folder: PathBuf,
}

impl Default for Secrets {
    fn default() -> Self {
        Self { folder: paths::secrets() }
    }
}

impl Secrets {
    /// Secrets in another folder, for tests.
    pub fn in_folder(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The secret's text, without a final newline.
    ///
    /// # Errors
    /// [`Error::Secret`] if its file cannot be read.
    pub fn read(&self, name: &str) -> Result<String, Error> {
        let path = self.folder.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim_end_matches('\n').to_owned()),
            Err(source) => Err(Error::Secret { name: name.to_owned(), path, source }),
        }
    }
}

pub(crate) fn of(plan: &AppPlan, context: &Context<'_>) -> Result<BTreeMap<String, String>, Error> {
    let mut env: BTreeMap<String, String> = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
        ("HOME", paths::app_data(&plan.name).display().to_string()),
        ("TMPDIR", crate::temporary(&plan.name).display().to_string()),
        ("APP_DATA", paths::app_data(&plan.name).display().to_string()),
        ("MAINSTAY_SITE", context.site.to_string()),
        ("MAINSTAY_SERVER", context.server.to_string()),
        ("MAINSTAY_APP", plan.name.to_string()),
        ("MAINSTAY_RELEASE", plan.release.clone()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    env.extend(plan.environment.clone());
    for (variable, secret) in &plan.secret_environment {
        env.insert(variable.clone(), context.secrets.read(secret)?);
    }
    if let Some(database) = &plan.database {
        let password = context.secrets.read(&database.password_secret)?;
        env.insert("DATABASE_URL".to_owned(), database_url(database, &password));
        env.insert("DATABASE_HOST".to_owned(), database.host.to_string());
        env.insert("DATABASE_PORT".to_owned(), database.port.to_string());
        env.insert("DATABASE_NAME".to_owned(), database.name.clone());
        env.insert("DATABASE_USER".to_owned(), database.user.clone());
        env.insert("DATABASE_PASSWORD".to_owned(), password);
        if let Some(socket) = &database.socket {
            env.insert("DATABASE_SOCKET".to_owned(), socket.display().to_string());
        }
    }
    Ok(env)
}

fn database_url(database: &AppDatabase, password: &str) -> String {
    let (user, password, name) = (encoded(&database.user), encoded(password), encoded(&database.name));
    let mut url = format!("mysql://{user}:{password}@{}:{}/{name}", database.host, database.port);
    if let Some(socket) = &database.socket {
        url.push_str("?unix_socket=");
        url.push_str(&encoded(&socket.display().to_string()));
    }
    url
}

/// Everything but RFC 3986's unreserved characters as %XX.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_with_odd_characters_survives_the_url() {
        let database = AppDatabase {
            host: [127, 0, 0, 1].into(),
            port: 3306,
            socket: Some("/run/mainstay/database/mysqld.sock".into()),
            name: "guestbook".to_owned(),
            user: "guestbook".to_owned(),
            password_secret: "database-guestbook".to_owned(),
        };
        assert_eq!(
            database_url(&database, "a/b@c:d"),
            "mysql://guestbook:a%2Fb%40c%3Ad@127.0.0.1:3306/guestbook\
             ?unix_socket=%2Frun%2Fmainstay%2Fdatabase%2Fmysqld.sock"
        );
    }

    #[test]
    fn a_missing_secret_says_which_and_where() {
        let folder = tempfile::tempdir().unwrap();
        let error = Secrets::in_folder(folder.path().to_owned()).read("database-x").unwrap_err().to_string();
        assert!(error.contains("database-x") && error.contains("cannot be read"), "{error}");
    }
}
