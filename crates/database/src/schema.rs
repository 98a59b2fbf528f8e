//! An app's schema files: each applied once, in the order of their names, and remembered with its content.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mainstay_site::plan::DatabaseOfApp;
use sha2::{Digest, Sha256};

use crate::client::quoted;
use crate::error::file;
use crate::provision::hex;
use crate::{Client, Error};

pub(crate) fn apply(client: &Client, database: &DatabaseOfApp, folder: &Path) -> Result<(), Error> {
    let app = database.app.as_str();
    let query = format!("SELECT file, sha256, state FROM mainstay.schema_files WHERE app={}", quoted(app));
    let applied: BTreeMap<String, (String, String)> = client
        .run("the list of schema files", &query)?
        .iter()
        .filter_map(|row| {
            let mut fields = row.split('\t').map(str::to_owned);
            Some((fields.next()?, (fields.next()?, fields.next()?)))
        })
        .collect();
    for (name, path) in files(folder)? {
        let content = fs::read(&path).map_err(file("read", &path))?;
        let digest = hex(&Sha256::digest(&content));
        match applied.get(&name) {
            Some((_, state)) if state != "applied" => {
                let socket = client.socket().to_owned();
                return Err(Error::SchemaInterrupted { app: app.to_owned(), file: name, socket });
            }
            Some((known, _)) if *known == digest => {}
            Some(_) => return Err(Error::SchemaChanged { app: app.to_owned(), file: name }),
            None => apply_one(client, database, &name, &path, &digest)?,
        }
    }
    Ok(())
}

/// Definitions commit by themselves, so a file is no transaction: it is marked before and after, and one that was
/// interrupted is never run again by itself.
fn apply_one(
    client: &Client,
    database: &DatabaseOfApp,
    name: &str,
    path: &Path,
    digest: &str,
) -> Result<(), Error> {
    let (app, quoted_name) = (quoted(database.app.as_str()), quoted(name));
    let what = format!("the note on schema file {name}");
    let begin = format!(
        "INSERT INTO mainstay.schema_files (app, file, sha256, state) VALUES ({app}, {quoted_name}, '{digest}', 'started')"
    );
    client.run(&what, &begin)?;
    client.run_file(&database.name, path)?;
    let end =
        format!("UPDATE mainstay.schema_files SET state='applied' WHERE app={app} AND file={quoted_name}");
    client.run(&what, &end).map(drop)
}

fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(file("read", folder))? {
        let path = entry.map_err(file("read", folder))?.path();
        let is_schema = path.extension().is_some_and(|extension| extension == "sql") && path.is_file();
        if let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|_| is_schema) {
            found.push((name.to_owned(), path.clone()));
        }
    }
    found.sort();
    Ok(found)
}
