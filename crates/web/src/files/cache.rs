//! Files of one worker that were asked for a moment ago: small ones with their content, larger ones open.
//!
//! An entry is believed for [`BELIEVED`]; then its file is looked up anew, and read anew if anything about it changed.
//! So a change is seen within that time, and nothing that is not there is remembered at all.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use mainstay_http::date;
use rustix::fs::Stat;
use sha2::{Digest as _, Sha256};

use super::root::{Opened, Root};
use crate::metrics::FileMetrics;
use mainstay_http::encoding::Coding;
use mainstay_http::mime::{self, MediaType};

/// How long an entry is used without a look at its file.
pub(crate) const BELIEVED: Duration = Duration::from_secs(1);
/// Files up to this size are kept in memory.
const SMALL_BYTES: u64 = 64 * 1024;
/// Memory for content.
const MOST_BYTES: usize = 32 << 20;
/// Entries; those without content hold a descriptor each.
const MOST_ENTRIES: usize = 1024;
/// A file changed more recently than this may change again without its time telling.
const SETTLED: Duration = Duration::from_secs(2);

/// One of a cache's roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RootId(usize);

/// What lies at a path.
pub(crate) enum Found {
    /// A regular file.
    File(Rc<Entry>),
    /// A folder.
    Folder,
    /// Nothing that is served.
    Nothing,
}

/// A file as it was when last looked at.
pub(crate) struct Entry {
    /// The file itself and its precompressed forms.
    pub(crate) plain: Representation,
    pub(crate) coded: Vec<(Coding, Representation)>,
    /// Seconds since 1970.
    pub(crate) modified: u64,
    pub(crate) media_type: MediaType,
    /// The content compressed here, for small files, by the coding's number; `None` if that does not pay.
    pub(crate) compressed: [OnceCell<Option<Representation>>; Coding::ALL.len()],
    identity: Identity,
    checked: Cell<Instant>,
    used: Cell<bool>,
}

/// One form of a file.
pub(crate) struct Representation {
    pub(crate) content: Content,
    pub(crate) length: u64,
    /// The entity tag, as text; also in `headers`.
    pub(crate) etag: String,
    /// All header fields of a 200 response but the length.
    pub(crate) headers: HeaderMap,
}

/// Where a representation's bytes are.
pub(crate) enum Content {
    Memory(Bytes),
    Open(Rc<File>),
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    number: u64,
    size: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            number: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

type Entries = HashMap<Rc<[u8]>, Rc<Entry>>;

/// One worker's files.
pub(crate) struct Cache {
    roots: Vec<(Root, RefCell<Entries>)>,
    order: RefCell<VecDeque<(RootId, Rc<[u8]>)>>,
    bytes: Cell<usize>,
    metrics: FileMetrics,
}

impl Cache {
    pub(crate) fn new(metrics: FileMetrics) -> Self {
        Self { roots: Vec::new(), order: RefCell::default(), bytes: Cell::default(), metrics }
    }

    /// Adds a folder.
    pub(crate) fn add(&mut self, root: Root) -> RootId {
        self.roots.push((root, RefCell::default()));
        RootId(self.roots.len() - 1)
    }

    pub(crate) fn root(&self, id: RootId) -> &Root {
        &self.roots[id.0].0
    }

    /// What lies at a path of a root.
    pub(crate) fn find(&self, id: RootId, path: &[u8], now: Instant) -> io::Result<Found> {
        let (root, entries) = &self.roots[id.0];
        let entry = entries.borrow().get(path).cloned();
        if let Some(entry) = &entry
            && now.saturating_duration_since(entry.checked.get()) < BELIEVED
        {
            entry.used.set(true);
            self.metrics.hits.inc();
            return Ok(Found::File(Rc::clone(entry)));
        }
        let (file, stat) = match root.open(path, now)? {
            // Without the final slash a file is a file; with it, there is nothing.
            Opened::File(file, stat) if !path.ends_with(b"/") => (file, stat),
            opened => {
                if entry.is_some() {
                    self.forget(id, path);
                }
                return Ok(if matches!(opened, Opened::Folder) { Found::Folder } else { Found::Nothing });
            }
        };
        let identity = Identity::of(&stat);
        if let Some(entry) = entry {
            if entry.identity == identity && coded_unchanged(root, path, &entry, now) {
                entry.checked.set(now);
                entry.used.set(true);
                self.metrics.revalidated.inc();
                return Ok(Found::File(entry));
            }
            self.forget(id, path);
        }
        self.metrics.misses.inc();
        let entry = Rc::new(read(root, path, file, &stat, now)?);
        self.insert(id, path, &entry);
        Ok(Found::File(entry))
    }

    fn insert(&self, id: RootId, path: &[u8], entry: &Rc<Entry>) {
        let key: Rc<[u8]> = path.into();
        let mut order = self.order.borrow_mut();
        self.bytes.set(self.bytes.get() + entry.bytes());
        self.roots[id.0].1.borrow_mut().insert(Rc::clone(&key), Rc::clone(entry));
        order.push_back((id, key));
        // Second chance: what was used since it was last looked at goes to the end of the line.
        let mut looks = 2 * order.len();
        while looks > 0 && (self.bytes.get() > MOST_BYTES || order.len() > MOST_ENTRIES) {
            looks -= 1;
            let Some((id, key)) = order.pop_front() else { break };
            let mut entries = self.roots[id.0].1.borrow_mut();
            match entries.get(&key) {
                Some(entry) if entry.used.replace(false) => order.push_back((id, key)),
                Some(entry) => {
                    self.bytes.set(self.bytes.get() - entry.bytes());
                    entries.remove(&key);
                }
                None => {}
            }
        }
    }

    fn forget(&self, id: RootId, path: &[u8]) {
        if let Some(entry) = self.roots[id.0].1.borrow_mut().remove(path) {
            self.bytes.set(self.bytes.get() - entry.bytes());
            self.order.borrow_mut().retain(|(root, key)| *root != id || **key != *path);
        }
    }
}

impl Entry {
    /// Memory for content. What is compressed later counts from the start, as each form is smaller than
    /// the plain one.
    fn bytes(&self) -> usize {
        let of = |form: &Representation| match &form.content {
            Content::Memory(bytes) => bytes.len(),
            Content::Open(_) => 0,
        };
        let forms = if self.media_type.compressible { 1 + Coding::ALL.len() } else { 1 };
        forms * of(&self.plain) + self.coded.iter().map(|(_, form)| of(form)).sum::<usize>()
    }
}

/// Whether the precompressed forms are still those that were found. Told by their number alone: whoever makes them
/// anew makes the file anew too.
fn coded_unchanged(root: &Root, path: &[u8], entry: &Entry, now: Instant) -> bool {
    if !entry.media_type.compressible {
        return true;
    }
    let there = Coding::ALL
        .into_iter()
        .filter(|coding| matches!(root.open(&with_suffix(path, *coding), now), Ok(Opened::File(..))));
    there.eq(entry.coded.iter().map(|(coding, _)| *coding))
}

fn with_suffix(path: &[u8], coding: Coding) -> Vec<u8> {
    [path, coding.suffix().as_bytes()].concat()
}

fn read(root: &Root, path: &[u8], file: File, stat: &Stat, now: Instant) -> io::Result<Entry> {
    let media_type = mime::of(path);
    let modified = u64::try_from(stat.st_mtime).unwrap_or(0);
    let mut coded = Vec::new();
    if media_type.compressible {
        for coding in Coding::ALL {
            if let Opened::File(file, stat) = root.open(&with_suffix(path, coding), now)? {
                coded.push((coding, represent(file, &stat, media_type, modified, Some(coding))?));
            }
        }
    }
    Ok(Entry {
        plain: represent(file, stat, media_type, modified, None)?,
        coded,
        modified,
        media_type,
        compressed: Default::default(),
        identity: Identity::of(stat),
        checked: Cell::new(now),
        used: Cell::new(true),
    })
}

fn represent(
    file: File,
    stat: &Stat,
    media_type: MediaType,
    modified: u64,
    coding: Option<Coding>,
) -> io::Result<Representation> {
    let size = stat.st_size as u64;
    if size <= SMALL_BYTES {
        let mut content = vec![0; size as usize];
        // A file that is being written may be shorter by now; what there is is sent, and looked at again soon.
        let mut length = 0;
        while length < content.len() {
            match file.read_at(&mut content[length..], length as u64)? {
                0 => break,
                count => length += count,
            }
        }
        content.truncate(length);
        let content = Bytes::from(content);
        return Ok(in_memory(content, media_type, modified, coding));
    }
    let age = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH + Duration::from_secs(modified))
        .unwrap_or_default();
    let weak = if age < SETTLED { "W/" } else { "" };
    let etag = format!("{weak}\"{size:x}-{:x}-{:x}\"", stat.st_mtime, stat.st_mtime_nsec);
    let headers = headers(media_type, modified, &etag, coding);
    Ok(Representation { content: Content::Open(Rc::new(file)), length: size, etag, headers })
}

/// A representation whose tag is made of its content, so that it is the same on every server.
pub(crate) fn in_memory(
    content: Bytes,
    media_type: MediaType,
    modified: u64,
    coding: Option<Coding>,
) -> Representation {
    let etag = digest_tag(&content);
    let headers = headers(media_type, modified, &etag, coding);
    Representation { length: content.len() as u64, content: Content::Memory(content), etag, headers }
}

fn digest_tag(content: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut tag = String::with_capacity(34);
    tag.push('"');
    for byte in &Sha256::digest(content)[..16] {
        // Writing to a String cannot fail.
        let _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    tag
}

fn headers(media_type: MediaType, modified: u64, etag: &str, coding: Option<Coding>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(12);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type.value));
    if let Ok(modified) = HeaderValue::from_bytes(&date::format(modified)) {
        headers.insert(header::LAST_MODIFIED, modified);
    }
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if media_type.compressible {
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    if let Some(coding) = coding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    }
    headers
}
