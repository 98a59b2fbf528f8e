//! Whether a running child has taken over what was written for it: it tells by the digest of the configuration that it runs.
//!
//! `GET /config` on its admin socket answers `{"sha256": "...", "refused": null}`; `refused` is the last configuration that
//! it did not take, with the reason: `{"sha256": "...", "why": "..."}`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::{ChildSpec, Probe};

/// One answer takes at most this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The most that is read of an answer.
const ANSWER_BYTES: u64 = 64 << 10;
/// The first questions follow each other this closely; then pauses grow.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// What is asked of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    socket: PathBuf,
    /// SHA-256 of the configuration that is to be taken, in hexadecimal.
    wanted: String,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Answer {
    sha256: String,
    refused: Option<Refused>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Refused {
    /// None if it could not even be read.
    sha256: Option<String>,
    why: String,
}

impl Question {
    /// The question for a child that runs as this spec says; none if nothing of it could answer.
    pub(crate) fn of(spec: &ChildSpec) -> Option<Self> {
        let Probe::OwnHttp { socket, .. } = &spec.ready else { return None };
        let config = spec.files.first()?;
        let digest = Sha256::digest(config.content.as_bytes());
        let wanted = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Self { socket: socket.clone(), wanted })
    }

    /// Asks the child with the main process `pid` until it has taken the configuration, or says why it does not. Abort
    /// the task to give up.
    pub(crate) async fn until_answered(&self, pid: i32) -> Result<(), String> {
        let mut pause = FIRST_PAUSE;
        loop {
            let answer = tokio::time::timeout(ANSWER_WITHIN, self.ask(pid)).await;
            if let Ok(Some(result)) = answer.map(|answer| self.judge(answer?)) {
                return result;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
    }

    /// What an answer says of the configuration that is wanted; nothing, if it does not know of it yet.
    fn judge(&self, answer: Answer) -> Option<Result<(), String>> {
        if answer.sha256 == self.wanted {
            return Some(Ok(()));
        }
        let refused = answer.refused.filter(|refused| refused.sha256.as_ref() == Some(&self.wanted))?;
        Some(Err(refused.why))
    }

    async fn ask(&self, pid: i32) -> Option<Answer> {
        let mut stream = UnixStream::connect(&self.socket).await.ok()?;
        // Of two generations that serve one path in turn, only this one is asked.
        if stream.peer_cred().ok()?.pid() != Some(pid) {
            return None;
        }
        let request =
            "GET /config HTTP/1.1\r\nHost: localhost\r\nUser-Agent: mainstay\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES).read_to_end(&mut answer).await.ok()?;
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
        serde_json::from_slice(&answer[head + 4..]).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        Question { socket: PathBuf::new(), wanted: "new".to_owned() }
    }

    fn judge(text: &str) -> Option<Result<(), String>> {
        question().judge(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn only_a_word_about_the_wanted_configuration_counts() {
        assert_eq!(judge(r#"{"sha256": "new", "refused": {"sha256": "old", "why": "x"}}"#), Some(Ok(())));
        assert_eq!(judge(r#"{"sha256": "old"}"#), None);
        assert_eq!(judge(r#"{"sha256": "old", "refused": {"sha256": "older", "why": "x"}}"#), None);
        let refused = judge(r#"{"sha256": "old", "refused": {"sha256": "new", "why": "no key"}}"#);
        assert_eq!(refused, Some(Err("no key".to_owned())));
    }

    #[tokio::test]
    async fn a_child_is_asked_until_it_has_taken_the_change() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            for digest in ["old", "old", "new"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                let body = format!("{{\"sha256\": \"{digest}\", \"refused\": null}}");
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all((head + &body).as_bytes()).await.unwrap();
            }
        });
        let this = std::process::id().cast_signed();
        Question { socket, ..question() }.until_answered(this).await.unwrap();
    }
}
