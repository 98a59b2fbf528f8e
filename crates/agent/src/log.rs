//! The agent's own log: JSON lines in `LOG/agent.log`, in the same shape and under the same bound as the roles' logs.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use mainstay_process::logs::{Lines, RotatingFile, Rotation, Source, entry};
use mainstay_site::paths;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Begins to log. A second call in one process changes nothing.
pub(crate) fn begin(server: &str) {
    let path = std::path::Path::new(paths::LOG).join("agent.log");
    let inner = Inner {
        lines: Lines::default(),
        file: RotatingFile::new(&path, Rotation::default()),
        source: Source { server: server.to_owned(), role: "agent".to_owned() },
    };
    let filter = EnvFilter::try_from_env("MAINSTAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(AgentLog { inner: Arc::new(Mutex::new(inner)) })
        .finish();
    // Someone who embeds the agent may have set up a log already; then it goes there.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

#[derive(Clone)]
struct AgentLog {
    /// Guards the file while one line is written.
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    lines: Lines,
    file: RotatingFile,
    source: Source,
}

impl Write for AgentLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { lines, file, source } = &mut *inner;
        for line in lines.push(bytes) {
            let (entry, _) = entry(&line, source, jiff::Timestamp::now());
            file.write(format!("{entry}\n").as_bytes())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for AgentLog {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
