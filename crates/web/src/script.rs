//! Which PHP script answers a path.

use std::io;
use std::time::Instant;

use crate::files::{Cache, Found, RootId};
use mainstay_http::mime::is_script;

/// A script and what follows it in the path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Script {
    /// Path below the public folder, such as `/index.php`.
    pub(crate) path: Vec<u8>,
    /// Empty, or beginning with a slash.
    pub(crate) path_info: Vec<u8>,
}

/// The script that a path names: the first of its beginnings that ends with `.php` and is a regular file in the public
/// folder. So `/upload.jpg/x.php` is no script unless such a folder and file are there.
pub(crate) fn named(files: &Cache, public: RootId, path: &[u8], now: Instant) -> io::Result<Option<Script>> {
    for (end, _) in path.iter().enumerate().filter(|(place, byte)| **byte == b'/' && *place > 0) {
        if let Some(script) = at(files, public, path, end, now)? {
            return Ok(Some(script));
        }
    }
    at(files, public, path, path.len(), now)
}

fn at(files: &Cache, public: RootId, path: &[u8], end: usize, now: Instant) -> io::Result<Option<Script>> {
    let (script, path_info) = path.split_at(end);
    if !script.ends_with(b".php") || !matches!(files.find(public, script, now)?, Found::File(_)) {
        return Ok(None);
    }
    Ok(Some(Script { path: script.to_vec(), path_info: path_info.to_vec() }))
}

/// Whether any segment of a path looks like a script. Such a path is never answered with a file's content.
pub(crate) fn mentions_script(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(is_script)
}
