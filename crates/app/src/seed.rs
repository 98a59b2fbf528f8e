//! What an app's writable folders begin with: the content that they have in the code base, put there once.
//!
//! From then on they are the app's own. A later release changes nothing in them, and what the app removes stays removed.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, fchown, lchown};
use std::path::{Path, PathBuf};

use mainstay_process::account::{self, Account};
use mainstay_process::make_folder;
use mainstay_site::paths;
use mainstay_site::plan::AppPlan;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::error::file;
use crate::release::{copy_tree, remove_tree};
use crate::{Error, WEB_USER, folders, release_folder, user};

/// Where a release keeps what its writable folders begin with. Hidden, so it is never served.
pub(crate) const FOLDER: &str = ".mainstay-seed";
/// Folders of an app: its own user writes, the web server's group reads, and what is made in them belongs to that group too.
const FOLDER_MODE: u32 = 0o2750;
const FILE_MODE: u32 = 0o640;

/// Makes an app's folders, and gives those that are new the content that the release has for them. Doing it again
/// changes nothing. It has to be done before the app starts.
///
/// # Errors
/// [`Error::File`] if something cannot be made or copied.
pub fn seed(plan: &AppPlan) -> Result<(), Error> {
    for folder in folders(plan) {
        make_folder(&folder).map_err(io::Error::other).map_err(file("make", &folder.path))?;
    }
    let release = release_folder(plan);
    let place = Place {
        data: paths::app_data(&plan.name),
        done: PathBuf::from(paths::LIB).join("seeded").join(plan.name.as_str()),
    };
    for writable in &plan.writable {
        let content = release.join(FOLDER).join(writable);
        if content.is_dir() {
            let owner = || -> Result<(u32, u32), Error> {
                let failed = |error| file("find the owner of", &content)(io::Error::other(error));
                let user = Account::of(&user(&plan.name)).map_err(failed)?;
                Ok((user.uid, account::group(WEB_USER).map_err(failed)?))
            };
            place.seed(&content, writable, owner)?;
        }
    }
    Ok(())
}

/// Where an app's data lies, and where it is noted which of its folders had their beginning. Only root writes the notes.
struct Place {
    data: PathBuf,
    done: PathBuf,
}

impl Place {
    fn seed(
        &self,
        content: &Path,
        writable: &str,
        owner: impl FnOnce() -> Result<(u32, u32), Error>,
    ) -> Result<(), Error> {
        let note = self.done.join(writable.replace('/', "|"));
        if note.exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.done).map_err(file("make", &self.done))?;
        let new = self.done.join(".new");
        remove_tree(&new)?;
        copy_tree(content, &new)?;
        give(&new, owner()?)?;
        self.put(&new, writable)?;
        fs::write(&note, "").map_err(file("write", &note))
    }

    /// Puts a folder in its place if nothing is in it there. The way to it belongs to the app, so no symbolic link is followed.
    fn put(&self, new: &Path, writable: &str) -> Result<(), Error> {
        let path = Path::new(writable);
        let (parent, Some(name)) = (path.parent().unwrap_or(Path::new("")), path.file_name()) else {
            return remove_tree(new);
        };
        let place = self.data.join(writable);
        let open = |at: &Path| -> io::Result<_> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let data = rustix::fs::open(&self.data, flags, Mode::empty())?;
            let way = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            Ok(rustix::fs::openat2(data, Path::new(".").join(at), flags, Mode::empty(), way)?)
        };
        let parent = open(parent).map_err(file("open", &place))?;
        match rustix::fs::renameat(CWD, new, parent, name) {
            // The app has something there already, and keeps it.
            Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::EXIST) => remove_tree(new),
            result => result.map_err(io::Error::from).map_err(file("fill", &place)),
        }
    }
}

fn give(path: &Path, owner: (u32, u32)) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(path).map_err(file("read", path))?;
    if metadata.is_symlink() {
        return lchown(path, Some(owner.0), Some(owner.1)).map_err(file("give away", path));
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path).map_err(file("read", path))? {
            give(&entry.map_err(file("read", path))?.path(), owner)?;
        }
    }
    // The owner first: changing it takes special mode bits away.
    let open = fs::File::open(path).map_err(file("open", path))?;
    fchown(&open, Some(owner.0), Some(owner.1)).map_err(file("give away", path))?;
    let mode = if metadata.is_dir() { FOLDER_MODE } else { FILE_MODE };
    open.set_permissions(fs::Permissions::from_mode(mode)).map_err(file("change", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn stage() -> (tempfile::TempDir, Place, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { data: folder.path().join("data"), done: folder.path().join("seeded") };
        let content = folder.path().join("release/uploads");
        fs::create_dir_all(content.join("2026")).unwrap();
        fs::write(content.join("2026/first.png"), "picture").unwrap();
        fs::create_dir_all(place.data.join("public/uploads")).unwrap();
        (folder, place, content)
    }

    fn owner(place: &Place) -> (u32, u32) {
        let metadata = fs::metadata(&place.data).unwrap();
        (metadata.uid(), metadata.gid())
    }

    #[test]
    fn a_new_folder_gets_its_content_once_and_what_the_app_removes_stays_removed() {
        let (_folder, place, content) = stage();
        place.seed(&content, "public/uploads", || Ok(owner(&place))).unwrap();
        let picture = place.data.join("public/uploads/2026/first.png");
        assert_eq!(fs::read_to_string(&picture).unwrap(), "picture");
        assert_eq!(fs::metadata(&picture).unwrap().mode() & 0o7777, FILE_MODE);
        assert_eq!(fs::metadata(picture.parent().unwrap()).unwrap().mode() & 0o7777, FOLDER_MODE);
        fs::remove_file(&picture).unwrap();
        place.seed(&content, "public/uploads", || Ok(owner(&place))).unwrap();
        assert!(!picture.exists());
    }

    #[test]
    fn a_folder_in_which_the_app_has_something_is_left_alone() {
        let (_folder, place, content) = stage();
        let own = place.data.join("public/uploads/own.png");
        fs::write(&own, "own").unwrap();
        place.seed(&content, "public/uploads", || Ok(owner(&place))).unwrap();
        assert_eq!(fs::read_to_string(&own).unwrap(), "own");
        assert!(!place.data.join("public/uploads/2026").exists());
    }

    #[test]
    fn a_link_that_the_app_planted_leads_nowhere() {
        let (folder, place, content) = stage();
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir_all(&elsewhere).unwrap();
        fs::remove_dir_all(place.data.join("public")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, place.data.join("public")).unwrap();
        place.seed(&content, "public/uploads", || Ok(owner(&place))).unwrap_err();
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }
}
