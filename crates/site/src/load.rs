//! Reading a site file from disk, and the checks that need the disk: are the folders that it names there?

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::model::{AppKind, SecretSource, Site};
use crate::problem::{Problem, SiteErrors};

/// Why a site file gives no site.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the site file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is read and wrong.
    #[error(transparent)]
    Wrong(#[from] SiteErrors),
}

impl Site {
    /// Reads the file and checks that what it names is there.
    ///
    /// # Errors
    /// [`LoadError::Read`] if the file cannot be read, [`LoadError::Wrong`] with every problem otherwise.
    pub fn load(path: &Path) -> Result<Site, LoadError> {
        let shown = path.display().to_string();
        let read = |source| LoadError::Read { path: path.to_owned(), source };
        let bytes = std::fs::read(path).map_err(read)?;
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let place = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let message = "the file is not UTF-8 text".to_owned();
                let problem = Problem { at: place..place + 1, message, help: None };
                return Err(SiteErrors::new(&shown, &text, vec![problem]).into());
            }
        };
        let site = Site::parse(&text, &shown)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let problems = site.missing_on_disk(folder, &text);
        if problems.is_empty() { Ok(site) } else { Err(SiteErrors::new(&shown, &text, problems).into()) }
    }

    /// What the file names and the disk lacks.
    fn missing_on_disk(&self, folder: &Path, text: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut miss = |named: &str, what: String, help: &str| {
            let at = place_of(text, named);
            problems.push(Problem { at, message: what, help: Some(help.to_owned()) });
        };
        for app in &self.apps {
            let code = folder.join(&app.code);
            let shown = app.code.display().to_string();
            if !code.is_dir() {
                let what = format!("app `{}`: there is no folder `{shown}`", app.name);
                miss(&shown, what, "`code` is relative to the site file; name the folder of the code base");
                continue;
            }
            for (key, part) in [("public", &app.public), ("schema", &app.schema)] {
                let Some(part) = part.as_ref().filter(|part| !code.join(part).is_dir()) else { continue };
                let what =
                    format!("app `{}`: there is no folder `{part}` in its code base (`{key}`)", app.name);
                miss(part, what, "make the folder, or name another one inside the code base");
            }
            if let AppKind::Python { requirements, .. } = &app.kind
                && !code.join(requirements).is_file()
            {
                let what = format!("app `{}`: there is no `{requirements}` in its code base", app.name);
                miss(requirements, what, "add the file (it may be empty), or name it with `requirements`");
            }
            for source in app.secrets.values() {
                let SecretSource::File(path) = source else { continue };
                if !folder.join(path).is_file() {
                    let what =
                        format!("app `{}`: there is no file `{}` for its secret", app.name, path.display());
                    miss(&path.display().to_string(), what, "make the file, with mode 0600");
                }
            }
        }
        if let Some((path, _)) = self.client_authorities()
            && !folder.join(path).is_file()
        {
            let shown = path.display().to_string();
            let what = format!("[tls]: there is no file `{shown}` (`client_authorities`)");
            miss(&shown, what, "it is a PEM file, relative to the site file");
        }
        for files in self.certificate_files() {
            for (key, path) in [("certificate", &files.certificate), ("key", &files.key)] {
                if !folder.join(path).is_file() {
                    let shown = path.display().to_string();
                    let what = format!("[tls]: there is no file `{shown}` (`{key}`)");
                    miss(&shown, what, "`certificate` and `key` are PEM files, relative to the site file");
                }
            }
        }
        problems
    }
}

/// Where a text stands in the file as a quoted value; the beginning of the file if it is a default.
fn place_of(text: &str, named: &str) -> std::ops::Range<usize> {
    let needle = format!("{named}\"");
    text.find(&needle).map_or(0..0, |end| {
        let start = text[..end].rfind('"').unwrap_or(end);
        start..end + needle.len()
    })
}
