//! Questions over FastCGI (its specification, sections 3 and 8).

use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::NotReady;

/// The most that is read of an answer: two of the longest records.
const ANSWER_BYTES: u64 = 128 << 10;
const FCGI_BEGIN_REQUEST: u8 = 1;
const FCGI_END_REQUEST: u8 = 3;
const FCGI_PARAMS: u8 = 4;
const FCGI_STDIN: u8 = 5;
const FCGI_STDOUT: u8 = 6;

/// Asks php-fpm itself, on its `ping.path`.
pub(super) async fn ping(socket: &Path, path: &str) -> Result<(), NotReady> {
    let params =
        [("REQUEST_METHOD", "GET"), ("SCRIPT_NAME", path), ("SCRIPT_FILENAME", path), ("REQUEST_URI", path)];
    let answer = ask(socket, &params, |_| false).await?;
    if answer.contains("\r\n\r\npong") {
        return Ok(());
    }
    Err(NotReady::Answer(format!("{:?} instead of pong", answer.lines().next().unwrap_or_default())))
}

/// Asks an app for a path, as the web server beside it does.
pub(super) async fn get(socket: &Path, public: &Path, script: &str, path: &str) -> Result<(), NotReady> {
    let root = public.display().to_string();
    let file = format!("{root}{script}");
    let (plain, query) = path.split_once('?').unwrap_or((path, ""));
    let mut params = vec![
        ("SCRIPT_FILENAME", file.as_str()),
        ("DOCUMENT_ROOT", &root),
        ("SCRIPT_NAME", script),
        ("REQUEST_URI", path),
        ("QUERY_STRING", query),
        ("REQUEST_METHOD", "GET"),
        ("REQUEST_SCHEME", "http"),
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_SOFTWARE", "mainstay"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_NAME", "localhost"),
        ("SERVER_PORT", "80"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("REDIRECT_STATUS", "200"),
        ("HTTP_HOST", "localhost"),
        ("HTTP_USER_AGENT", "mainstay"),
    ];
    // With cgi.fix_pathinfo=0 php-fpm takes a PATH_INFO that is there, even an empty one, as the script's own path.
    params.extend(plain.strip_prefix(script).filter(|rest| !rest.is_empty()).map(|rest| ("PATH_INFO", rest)));
    let answer = ask(socket, &params, |answer| answer.contains("\r\n\r\n")).await?;
    match status(&answer) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(NotReady::Answer(format!("{path} with status {status}"))),
        None => {
            let first = answer.lines().next().unwrap_or_default().to_owned();
            Err(NotReady::Answer(format!("{path} with {first:?} instead of a header")))
        }
    }
}

/// The status of a CGI response (RFC 3875, 6.3.3): 200 if it has none.
fn status(answer: &str) -> Option<u16> {
    let (head, _) = answer.split_once("\r\n\r\n")?;
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut statuses = fields.filter(|(name, _)| name.eq_ignore_ascii_case("status"));
    match statuses.next() {
        None => Some(200),
        Some((_, value)) => value.split_ascii_whitespace().next()?.parse().ok(),
    }
}

/// Sends a request and reads its answer: to the end, or until enough is known.
async fn ask(
    socket: &Path,
    params: &[(&str, &str)],
    is_enough: impl Fn(&str) -> bool,
) -> Result<String, NotReady> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(&request(params)).await?;
    let mut stream = stream.take(ANSWER_BYTES);
    let mut answer = Vec::new();
    loop {
        let mut header = [0; 8];
        stream.read_exact(&mut header).await?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let mut content = vec![0; length + usize::from(header[6])];
        stream.read_exact(&mut content).await?;
        match header[1] {
            FCGI_STDOUT => answer.extend_from_slice(&content[..length]),
            FCGI_END_REQUEST => break,
            _ => {}
        }
        if is_enough(&String::from_utf8_lossy(&answer)) {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// `BEGIN_REQUEST` (responder, connection closed after it), `PARAMS`, an empty `PARAMS`, an empty `STDIN`.
fn request(params: &[(&str, &str)]) -> Vec<u8> {
    let mut pairs = Vec::new();
    for (name, value) in params {
        for text in [name, value] {
            pairs.extend_from_slice(&(0x8000_0000_u32 | text.len() as u32).to_be_bytes());
        }
        pairs.extend_from_slice(name.as_bytes());
        pairs.extend_from_slice(value.as_bytes());
    }
    let record = |kind: u8, content: &[u8]| {
        let [high, low] = (content.len() as u16).to_be_bytes();
        [&[1, kind, 0, 1, high, low, 0, 0], content].concat()
    };
    let mut request = record(FCGI_BEGIN_REQUEST, &[0, 1, 0, 0, 0, 0, 0, 0]);
    for part in pairs.chunks(usize::from(u16::MAX)) {
        request.extend(record(FCGI_PARAMS, part));
    }
    request.extend([record(FCGI_PARAMS, &[]), record(FCGI_STDIN, &[])].concat());
    request
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::super::ask;
    use super::*;
    use crate::Probe;

    /// Answers each connection with one body, and tells nothing of what it was asked.
    fn php_fpm(folder: &Path, bodies: &'static [&'static str]) -> std::path::PathBuf {
        let socket = folder.join("fpm.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            for body in bodies {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
                let [high, low] = (body.len() as u16).to_be_bytes();
                stream.write_all(&[1, 6, 0, 1, high, low, 0, 0]).await.unwrap();
                stream.write_all(body.as_bytes()).await.unwrap();
                let _ = stream.write_all(&[1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await;
            }
        });
        socket
    }

    #[tokio::test]
    async fn an_app_behind_php_fpm_is_ready_when_its_path_is_answered_well() {
        let folder = tempfile::tempdir().unwrap();
        let bodies = [
            "Content-Type: text/html\r\n\r\nfine",
            "Status: 302 Found\r\nLocation: /\r\n\r\n",
            "Status: 503 Service Unavailable\r\n\r\nno database",
            "no header at all",
        ];
        let socket = php_fpm(folder.path(), Box::leak(Box::new(bodies)));
        let probe = Probe::FastCgiGet {
            socket,
            public: "/srv/public".into(),
            script: "/index.php".to_owned(),
            path: "/health".to_owned(),
        };
        ask(&probe, 0).await.unwrap();
        ask(&probe, 0).await.unwrap();
        let error = ask(&probe, 0).await.unwrap_err();
        assert_eq!(error.to_string(), "it answers /health with status 503");
        let error = ask(&probe, 0).await.unwrap_err();
        assert_eq!(error.to_string(), "it answers /health with \"no header at all\" instead of a header");
    }

    #[tokio::test]
    async fn php_fpm_is_ready_when_it_answers_its_ping() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("fpm.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).await.unwrap();
            assert!(String::from_utf8_lossy(&request[..count]).contains("SCRIPT_NAME/ping"));
            let body = b"Content-Type: text/plain\r\n\r\npong";
            stream.write_all(&[1, 6, 0, 1, 0, body.len() as u8, 0, 0]).await.unwrap();
            stream.write_all(body).await.unwrap();
            stream.write_all(&[1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
        });
        ask(&Probe::FastCgiPing { socket, path: "/ping".into() }, 0).await.unwrap();
    }
}
