//! Releases: a code base copied to a folder that is named by its content and never changes again.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use mainstay_site::{AppName, paths};
use sha2::{Digest, Sha256};

use crate::error::file;
use crate::{Error, seed};

/// The most files of a code base.
const MOST_FILES: u64 = 200_000;
/// The most bytes of a code base.
const MOST_BYTES: u64 = 4 << 30;
/// Folders that are no part of what runs: version control, and caches that are made anew.
const LEFT_OUT: [&str; 6] = [".git", ".hg", ".svn", "__pycache__", ".venv", "node_modules/.cache"];
/// Releases that are kept besides the live one, so that one can go back.
const KEPT: usize = 5;

/// A release that is still unfinished after this long was left behind by a process that ended early.
const LEFT_BEHIND_AFTER: std::time::Duration = std::time::Duration::from_hours(1);

/// What a release is made of.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The app.
    pub app: &'a AppName,
    /// The code base.
    pub code: &'a Path,
    /// Whether links that lead out of the code base are followed.
    pub follow_links: bool,
    /// Folders that the app may write; they become links to where they are kept from release to release.
    pub writable: &'a [String],
}

/// One entry of a code base.
enum Entry {
    Folder,
    File { source: PathBuf, executable: bool },
    Link(PathBuf),
}

/// Makes the release of a code base below `releases` (one folder per release) and returns its id: the first 12
/// hexadecimal digits of the SHA-256 of names, modes and contents. One that is there already is left as it is.
///
/// # Errors
/// [`Error`] if the code base cannot be read, is too large, or holds something that is neither file, folder nor link.
pub fn build(source: &Source<'_>, releases: &Path) -> Result<String, Error> {
    let entries = list(source)?;
    let id = identity(source, &entries)?;
    let release = releases.join(&id);
    if release.is_dir() {
        return Ok(id);
    }
    let new = unfinished(releases, &id);
    remove_tree(&new)?;
    fs::create_dir_all(&new).map_err(file("make", &new))?;
    for (name, entry) in &entries {
        let path = new.join(name);
        match entry {
            Entry::Folder => fs::create_dir_all(&path).map_err(file("make", &path))?,
            Entry::Link(target) => symlink(target, &path).map_err(file("link", &path))?,
            Entry::File { source, executable } => {
                fs::copy(source, &path).map_err(file("copy", source))?;
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                    .map_err(file("change", &path))?;
            }
        }
    }
    for folder in source.writable {
        let path = new.join(folder);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(file("make", parent))?;
        }
        symlink(paths::app_data(source.app).join(folder), &path).map_err(file("link", &path))?;
    }
    for (name, entry) in entries.iter().rev() {
        if matches!(entry, Entry::Folder) {
            let path = new.join(name);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(file("change", &path))?;
        }
    }
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).map_err(file("change", &new))?;
    publish(&new, &release)?;
    Ok(id)
}

/// Copies a release that was built elsewhere, whole or not at all. One that is there already is left as it is.
///
/// # Errors
/// [`Error::File`] if it cannot be copied.
pub fn copy(built: &Path, releases: &Path, id: &str) -> Result<(), Error> {
    let release = releases.join(id);
    if release.is_dir() {
        return Ok(());
    }
    let new = unfinished(releases, id);
    remove_tree(&new)?;
    copy_tree(built, &new)?;
    publish(&new, &release)
}

/// The folder in which one process makes a release.
fn unfinished(releases: &Path, id: &str) -> PathBuf {
    releases.join(format!(".{id}.{}.new", std::process::id()))
}

/// Gives a finished folder its name, once all of it is on disk: a name stands for its content also after a power cut.
/// If another was quicker, its folder has the same content and stays.
pub(crate) fn publish(new: &Path, name: &Path) -> Result<(), Error> {
    let folder = fs::File::open(new).map_err(file("open", new))?;
    rustix::fs::syncfs(&folder).map_err(io::Error::from).map_err(file("sync", new))?;
    match fs::rename(new, name) {
        Err(_) if name.is_dir() => remove_tree(new),
        result => result.map_err(file("name", name)),
    }
}

/// Removes all but the live release and the newest few.
///
/// # Errors
/// [`Error::File`] if a folder cannot be removed.
pub fn prune(releases: &Path, live: &str) -> Result<(), Error> {
    let entries = fs::read_dir(releases).map_err(file("read", releases))?;
    let mut old: Vec<(std::time::SystemTime, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let modified = entry.metadata().ok()?.modified().ok()?;
            // Another process may be about to finish one whose name begins with a dot; only old ones are leftovers.
            let unfinished = entry.file_name().as_encoded_bytes().starts_with(b".");
            let is_fresh = modified.elapsed().is_ok_and(|age| age < LEFT_BEHIND_AFTER);
            (entry.file_name() != live && !(unfinished && is_fresh)).then(|| (modified, entry.path()))
        })
        .collect();
    old.sort();
    let surplus = old.len().saturating_sub(KEPT);
    old.into_iter().take(surplus).try_for_each(|(_, path)| remove_tree(&path))
}

/// Copies a folder with everything in it, modes and links as they are.
///
/// # Errors
/// [`Error::File`] if something cannot be copied.
pub fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(from).map_err(file("read", from))?;
    if metadata.is_symlink() {
        let target = fs::read_link(from).map_err(file("read", from))?;
        return symlink(target, to).map_err(file("link", to));
    }
    if metadata.is_file() {
        return fs::copy(from, to).map(drop).map_err(file("copy", from));
    }
    fs::create_dir_all(to).map_err(file("make", to))?;
    for entry in fs::read_dir(from).map_err(file("read", from))? {
        let entry = entry.map_err(file("read", from))?;
        copy_tree(&entry.path(), &to.join(entry.file_name()))?;
    }
    fs::set_permissions(to, metadata.permissions()).map_err(file("change", to))
}

pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { doing: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Everything of a code base that is shipped, parents before children, in the order of names.
fn list(source: &Source<'_>) -> Result<Vec<(PathBuf, Entry)>, Error> {
    let root = source.code.canonicalize().map_err(file("read", source.code))?;
    let mut found = Vec::new();
    let mut bytes = 0;
    let mut open = vec![(PathBuf::new(), root.clone())];
    while let Some((name, folder)) = open.pop() {
        let entries = fs::read_dir(&folder).map_err(file("read", &folder))?;
        for entry in entries {
            let entry = entry.map_err(file("read", &folder))?;
            let name = name.join(entry.file_name());
            if is_left_out(&name) {
                continue;
            }
            // What a writable folder holds goes where the server finds it when the app starts for the first time.
            let name = if source.writable.iter().any(|writable| name == Path::new(writable)) {
                Path::new(seed::FOLDER).join(name)
            } else {
                name
            };
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path).map_err(file("read", &path))?;
            let (path, metadata) = if metadata.is_symlink() {
                match resolve(source, &root, &path)? {
                    Resolved::Link(target) => {
                        found.push((name, Entry::Link(target)));
                        continue;
                    }
                    Resolved::Followed(target) => {
                        let metadata = fs::metadata(&target).map_err(file("read", &path))?;
                        (target, metadata)
                    }
                }
            } else {
                (path, metadata)
            };
            if metadata.is_dir() {
                open.push((name.clone(), path));
                found.push((name, Entry::Folder));
            } else if metadata.is_file() {
                bytes += metadata.len();
                let executable = metadata.permissions().mode() & 0o111 != 0;
                found.push((name, Entry::File { source: path, executable }));
            } else {
                return Err(Error::OddFile { path });
            }
            if found.len() as u64 > MOST_FILES {
                return Err(Error::TooLarge { limit: MOST_FILES, unit: "files" });
            }
            if bytes > MOST_BYTES {
                return Err(Error::TooLarge { limit: MOST_BYTES, unit: "bytes" });
            }
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

fn is_left_out(name: &Path) -> bool {
    LEFT_OUT.iter().any(|left_out| name.ends_with(left_out))
}

enum Resolved {
    /// A link that stays inside the code base and is shipped as it is.
    Link(PathBuf),
    /// What the link leads to is shipped in its place.
    Followed(PathBuf),
}

fn resolve(source: &Source<'_>, root: &Path, link: &Path) -> Result<Resolved, Error> {
    let target = fs::read_link(link).map_err(file("read", link))?;
    let real = link.canonicalize().map_err(file("follow", link))?;
    // A relative link in a followed folder would lead elsewhere from where the folder is copied to.
    if target.is_relative() && real.starts_with(root) && link.starts_with(root) {
        return Ok(Resolved::Link(target));
    }
    // A link back to its own parents would be followed for ever.
    if source.follow_links && !link.starts_with(&real) {
        return Ok(Resolved::Followed(real));
    }
    Err(Error::LinkLeadsOut { path: link.to_owned(), target })
}

fn identity(source: &Source<'_>, entries: &[(PathBuf, Entry)]) -> Result<String, Error> {
    let mut digest = Sha256::new();
    let mut part = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    for folder in source.writable {
        part(folder.as_bytes());
    }
    for (name, entry) in entries {
        part(name.as_os_str().as_encoded_bytes());
        match entry {
            Entry::Folder => part(b"folder"),
            Entry::Link(target) => part(target.as_os_str().as_encoded_bytes()),
            Entry::File { source, executable } => {
                part(if *executable { b"program" } else { b"file" });
                part(&content_digest(source)?);
            }
        }
    }
    Ok(short(&digest.finalize()))
}

/// The name that a digest stands for: its first 12 hexadecimal digits.
pub(crate) fn short(digest: &[u8]) -> String {
    digest.iter().take(6).fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn content_digest(path: &Path) -> Result<Vec<u8>, Error> {
    let mut content = fs::File::open(path).map_err(file("open", path))?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = content.read(&mut buffer).map_err(file("read", path))?;
        if read == 0 {
            return Ok(digest.finalize().to_vec());
        }
        digest.update(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> AppName {
        "shop".parse().unwrap()
    }

    fn source<'a>(app: &'a AppName, code: &'a Path, writable: &'a [String]) -> Source<'a> {
        Source { app, code, follow_links: false, writable }
    }

    #[test]
    fn equal_content_is_the_same_release_and_any_change_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let (code, releases) = (folder.path().join("code"), folder.path().join("releases"));
        fs::create_dir_all(code.join("public")).unwrap();
        fs::write(code.join("public/index.php"), "one").unwrap();
        let app = app();
        let first = build(&source(&app, &code, &[]), &releases).unwrap();
        assert_eq!(first, build(&source(&app, &code, &[]), &releases).unwrap());
        fs::write(code.join("public/index.php"), "two").unwrap();
        let second = build(&source(&app, &code, &[]), &releases).unwrap();
        assert_ne!(first, second);
        assert_eq!(fs::read_to_string(releases.join(first).join("public/index.php")).unwrap(), "one");
    }

    #[test]
    fn writable_folders_become_links_that_outlive_the_release_and_version_control_stays_home() {
        let folder = tempfile::tempdir().unwrap();
        let (code, releases) = (folder.path().join("code"), folder.path().join("releases"));
        fs::create_dir_all(code.join("public/uploads")).unwrap();
        fs::create_dir_all(code.join(".git")).unwrap();
        fs::write(code.join("public/uploads/old.png"), "x").unwrap();
        let (app, writable) = (app(), ["public/uploads".to_owned()]);
        let id = build(&source(&app, &code, &writable), &releases).unwrap();
        let release = releases.join(id);
        assert_eq!(
            fs::read_link(release.join("public/uploads")).unwrap(),
            paths::app_data(&app).join("public/uploads")
        );
        assert!(!release.join(".git").exists());
        let seed = release.join(".mainstay-seed/public/uploads/old.png");
        assert_eq!(fs::read_to_string(seed).unwrap(), "x");
    }

    #[test]
    fn a_link_that_leads_out_is_refused_unless_it_is_to_be_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (code, releases) = (folder.path().join("code"), folder.path().join("releases"));
        fs::create_dir_all(&code).unwrap();
        fs::write(folder.path().join("outside"), "content").unwrap();
        symlink(folder.path().join("outside"), code.join("link")).unwrap();
        let app = app();
        let strict = source(&app, &code, &[]);
        assert!(matches!(build(&strict, &releases), Err(Error::LinkLeadsOut { .. })));
        let id = build(&Source { follow_links: true, ..strict }, &releases).unwrap();
        assert_eq!(fs::read_to_string(releases.join(id).join("link")).unwrap(), "content");
    }

    #[test]
    fn only_the_newest_releases_and_the_live_one_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..12 {
            fs::create_dir(folder.path().join(format!("release{number}"))).unwrap();
        }
        prune(folder.path(), "release0").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), KEPT + 1);
        assert!(folder.path().join("release0").is_dir());
    }
}
