//! Records of running children, so that the next supervisor finds them.
//!
//! Each generation has two files in the records' folder: `NAME.NUMBER.child`, which the supervisor writes (what it runs, and how far
//! it has come), and `NAME.NUMBER.pid`, which the child itself writes before it becomes its program. A child thus runs
//! recorded from its first moment, whenever the supervisor dies.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ChildSpec;
use crate::procfs::Identity;
use crate::supervise::Adopted;

/// What is known of a running generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The generation's number.
    pub generation: u64,
    /// How far it has come.
    pub phase: Adopted,
    /// When it started, in seconds since 1970, for people.
    pub since: u64,
    /// What it runs.
    pub spec: ChildSpec,
}

/// A running generation of an earlier supervisor.
#[derive(Debug)]
pub struct Found {
    /// What was known of it.
    pub record: Record,
    /// Which process it is.
    pub identity: Identity,
    /// A handle to it; none if it ended meanwhile, perhaps leaving descendants.
    pub handle: Option<OwnedFd>,
}

/// The folder with the records.
#[derive(Debug, Clone)]
pub struct Records {
    folder: PathBuf,
}

impl Records {
    /// Opens or makes the folder. It is for root only: specs may hold configuration with passwords.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Where a generation's process writes down who it is.
    pub fn identity_file(&self, name: &str, generation: u64) -> PathBuf {
        self.folder.join(format!("{name}.{generation}.pid"))
    }

    /// Writes a record, whole or not at all.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let path = self.folder.join(format!("{}.{}.child", record.spec.name, record.generation));
        let fresh = path.with_extension("child.new");
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        std::fs::rename(&fresh, &path)
    }

    /// Removes what was recorded of a generation.
    pub fn remove(&self, name: &str, generation: u64) -> io::Result<()> {
        for path in
            [self.folder.join(format!("{name}.{generation}.child")), self.identity_file(name, generation)]
        {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// All recorded generations that have started, oldest first. Records of generations that never did are removed.
    pub fn find(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "child") {
                continue;
            }
            let Ok(record) = serde_json::from_slice::<Record>(&std::fs::read(&path)?) else {
                tracing::warn!(file = %path.display(), "this record of a child is of another version; it is not adopted");
                continue;
            };
            let mut identity = self.identity(&record);
            if identity.is_none() {
                // Its shim has not come that far. It looks for its record after writing who it is: either it misses
                // the record and ends, or it was quicker and is found here.
                std::fs::remove_file(&path)?;
                identity = self.identity(&record);
            }
            let Some(identity) = identity else { continue };
            self.write(&record)?;
            let handle = identity.open()?;
            found.push(Found { record, identity, handle });
        }
        found.sort_by_key(|found| found.record.generation);
        Ok(found)
    }

    fn identity(&self, record: &Record) -> Option<Identity> {
        let bytes = std::fs::read(self.identity_file(&record.spec.name, record.generation)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}
