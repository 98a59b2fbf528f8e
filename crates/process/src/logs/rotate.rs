//! A log file that never grows past its bound: when full it becomes `NAME.1`, and `NAME.1` becomes `NAME.2`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How much of a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Files, the one being written included.
    pub files: u32,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { file_bytes: 16 << 20, files: 5 }
    }
}

/// A log file with its older parts.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    rotation: Rotation,
    open: Option<(File, u64)>,
}

impl RotatingFile {
    /// A log at `path`; it is opened by the first write.
    pub fn new(path: &Path, rotation: Rotation) -> Self {
        Self { path: path.to_owned(), rotation, open: None }
    }

    /// Appends whole lines.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let result = self.append(lines);
        if result.is_err() {
            // Opened anew next time: the folder may be back by then.
            self.open = None;
        }
        result
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let (mut file, mut size) = match self.open.take() {
            Some(open) => open,
            None => self.open_file()?,
        };
        if size > 0 && size + lines.len() as u64 > self.rotation.file_bytes {
            self.shift()?;
            (file, size) = self.open_file()?;
        }
        file.write_all(lines)?;
        self.open = Some((file, size + lines.len() as u64));
        Ok(())
    }

    fn open_file(&self) -> io::Result<(File, u64)> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?;
        let size = file.metadata()?.size();
        Ok((file, size))
    }

    fn shift(&self) -> io::Result<()> {
        for number in (1..self.rotation.files).rev() {
            let younger = if number == 1 { self.path.clone() } else { self.part(number - 1) };
            match std::fs::rename(younger, self.part(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.rotation.files <= 1 {
            std::fs::remove_file(&self.path)?;
        }
        Ok(())
    }

    fn part(&self, number: u32) -> PathBuf {
        let mut path = self.path.as_os_str().to_owned();
        path.push(format!(".{number}"));
        path.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_moves_on_and_the_oldest_part_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.log");
        let mut log = RotatingFile::new(&path, Rotation { file_bytes: 10, files: 3 });
        for line in ["first line\n", "second\n", "x\n", "third line\n", "fourth line\n"] {
            log.write(line.as_bytes()).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("web.log"), "fourth line\n");
        assert_eq!(read("web.log.1"), "third line\n");
        assert_eq!(read("web.log.2"), "second\nx\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_new_agent_counts_what_the_log_already_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.log");
        let rotation = Rotation { file_bytes: 10, files: 2 };
        RotatingFile::new(&path, rotation).write(b"eight 8\n").unwrap();
        RotatingFile::new(&path, rotation).write(b"more\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "more\n");
    }
}
