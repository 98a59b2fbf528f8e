//! The folders and files that a child needs before it starts.
//!
//! Many of them lie in folders that belong to the child's own user, so nothing here follows a symbolic link that
//! such a user could have put there.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use crate::account::{self, Account, AccountError};
use crate::{FileSpec, FolderSpec};

/// Why a folder or file is not as it is to be.
#[derive(Debug, Error)]
pub enum FilesError {
    /// The machine says no.
    #[error("{path} cannot be made: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its owner does not exist.
    #[error("{path} cannot be made: {source}")]
    Owner {
        /// Which.
        path: PathBuf,
        /// Why.
        source: AccountError,
    },
}

/// Makes a folder, or gives one that is there its owner and mode.
pub fn make_folder(spec: &FolderSpec) -> Result<(), FilesError> {
    let (uid, gid) = owner(&spec.path, &spec.user, &spec.group)?;
    let make = || {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&spec.path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder: OwnedFd = rustix::fs::open(&spec.path, flags, Mode::empty())?;
        std::os::unix::fs::fchown(&folder, Some(uid), Some(gid))?;
        std::fs::File::from(folder).set_permissions(std::fs::Permissions::from_mode(spec.mode))
    };
    make().map_err(|source| FilesError::Io { path: spec.path.clone(), source })
}

/// Writes a file, whole or not at all.
pub fn write_file(spec: &FileSpec) -> Result<(), FilesError> {
    let (uid, gid) = owner(&spec.path, &spec.user, &spec.group)?;
    let fresh = beside(&spec.path);
    let write = || {
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // `create_new` fails where anything is, a symbolic link included.
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(spec.content.as_bytes())?;
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        file.set_permissions(std::fs::Permissions::from_mode(spec.mode))?;
        std::fs::rename(&fresh, &spec.path)
    };
    write().map_err(|source| FilesError::Io { path: spec.path.clone(), source })
}

fn beside(path: &Path) -> PathBuf {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    fresh.into()
}

fn owner(path: &Path, user: &str, group: &str) -> Result<(u32, u32), FilesError> {
    let failed = |source| FilesError::Owner { path: path.to_owned(), source };
    Ok((Account::of(user).map_err(failed)?.uid, account::group(group).map_err(failed)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_names() -> (String, String) {
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap();
        let group = nix::unistd::Group::from_gid(nix::unistd::getgid()).unwrap().unwrap();
        (user.name, group.name)
    }

    #[test]
    fn a_file_is_replaced_with_its_mode_and_a_planted_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (user, group) = own_names();
        let victim = folder.path().join("victim");
        std::fs::write(&victim, "untouched").unwrap();
        let path = folder.path().join("web.json");
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        std::os::unix::fs::symlink(&victim, beside(&path)).unwrap();
        let spec = FileSpec { path: path.clone(), content: "new".into(), user, group, mode: 0o640 };
        write_file(&spec).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_link_in_place_of_a_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (user, group) = own_names();
        let path = folder.path().join("run");
        std::os::unix::fs::symlink("/tmp", &path).unwrap();
        assert!(make_folder(&FolderSpec { path, user, group, mode: 0o700 }).is_err());
    }
}
