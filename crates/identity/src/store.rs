//! An authority and what it issued, in a folder.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mainstay_site::SiteName;
use serde::{Deserialize, Serialize};

use crate::{Authority, Error, Issued, Subject, VALID};

/// What can go wrong with the folder.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A certificate cannot be made.
    #[error(transparent)]
    Certificate(#[from] Error),
    /// A file cannot be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// One of the authority's two files is gone. Making another authority would make every server a stranger to the others.
    #[error("{} is missing, and only both files together are the site's authority: bring it back from a backup, or remove {} too, and every server gets a new certificate", missing.display(), other.display())]
    Half {
        /// What is not there.
        missing: PathBuf,
        /// What is there.
        other: PathBuf,
    },
}

fn file<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + 'a {
    move |source| StoreError::File { doing, path: path.to_owned(), source }
}

/// What an issued certificate was made of, kept beside it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    subject: Subject,
    /// When it was issued, in seconds since 1970.
    at_secs: u64,
    /// Whose it is: the authority's certificate.
    authority: String,
}

/// The folder of a site's identity: `authority.pem` and `authority.key`, and per server `NAME.pem`, `NAME.key` and `NAME.json`.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    authority: Authority,
}

impl Store {
    /// Opens the folder; makes it, and an authority, where there is none. All files in it have mode 0600.
    ///
    /// # Errors
    /// If files cannot be read or written, or half of an authority is missing.
    pub fn open(folder: &Path, site: &SiteName, now: SystemTime) -> Result<Self, StoreError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(file("make", folder))?;
        let (certificate, key) = (folder.join("authority.pem"), folder.join("authority.key"));
        let authority = match (certificate.exists(), key.exists()) {
            (true, true) => {
                let read = |path: &Path| fs::read_to_string(path).map_err(file("read", path));
                Authority::load(site, read(&certificate)?, &read(&key)?)?
            }
            (false, false) => {
                let authority = Authority::create(site, now)?;
                write(&key, &authority.key())?;
                write(&certificate, authority.certificate())?;
                authority
            }
            (true, false) => return Err(StoreError::Half { missing: key, other: certificate }),
            (false, true) => return Err(StoreError::Half { missing: certificate, other: key }),
        };
        Ok(Self { folder: folder.to_owned(), authority })
    }

    /// What peers are to trust, in PEM.
    pub fn trusted(&self) -> &str {
        self.authority.certificate()
    }

    /// The server's certificate: the one that was issued before, while it fits and two thirds of its time are not over, else a new one.
    ///
    /// # Errors
    /// If it cannot be made, read or written.
    pub fn server(&self, subject: &Subject, now: SystemTime) -> Result<Issued, StoreError> {
        let path = |ending: &str| self.folder.join(format!("{}.{ending}", subject.server));
        let (certificate, key, record) = (path("pem"), path("key"), path("json"));
        let seconds = |time: Duration| time.as_secs();
        let at_secs = now.duration_since(UNIX_EPOCH).map_or(0, seconds);
        let known = fs::read(&record).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let is_good = known.is_some_and(|known| {
            known.subject == *subject
                && known.authority == self.authority.certificate()
                && at_secs.saturating_sub(known.at_secs) < seconds(VALID) / 3 * 2
        });
        if is_good
            && let (Ok(certificate), Ok(key)) = (fs::read_to_string(&certificate), fs::read_to_string(&key))
        {
            return Ok(Issued { certificate, key });
        }
        let issued = self.authority.issue(subject, now)?;
        // The record goes first and comes last: a certificate beside another's key is never taken for good.
        match fs::remove_file(&record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(file("remove", &record)(error));
            }
            _ => {}
        }
        write(&key, &issued.key)?;
        write(&certificate, &issued.certificate)?;
        let authority = self.authority.certificate().to_owned();
        let text = serde_json::to_string(&Record { subject: subject.clone(), at_secs, authority });
        write(&record, &text.map_err(|error| file("write", &record)(error.into()))?)?;
        Ok(issued)
    }
}

/// Writes a file of mode 0600, in whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), StoreError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut options = OpenOptions::new();
    let mut open = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(file("make", &beside))?;
    open.write_all(text.as_bytes()).and_then(|()| open.sync_all()).map_err(file("write", &beside))?;
    fs::rename(&beside, path).map_err(file("rename", &beside))
}
