//! Plain HTTP that comes to a port of HTTPS gets an answer that a person can read, instead of an alert.

use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::date::HttpDate;
use crate::h1::respond;

/// What is read and thrown away of such a client, so that it sees the answer before the end.
const DISCARD_BYTES: usize = 64 * 1024;

/// Waits for the first byte. A method begins with a capital letter; a record of TLS does not.
pub(super) async fn is_http(stream: &TcpStream) -> bool {
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1)) && first[0].is_ascii_uppercase()
}

/// Answers 400 and closes.
pub(super) async fn refuse(mut stream: TcpStream, date: &HttpDate) {
    let mut answer = Vec::new();
    let why = "This port speaks HTTPS, and plain HTTP came: use https:// in the address.";
    respond::put_refusal(&mut answer, StatusCode::BAD_REQUEST, why, date);
    if stream.write_all(&answer).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    let (mut buffer, mut left) = ([0; 1024], DISCARD_BYTES);
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        left = left.saturating_sub(count);
        if left == 0 {
            return;
        }
    }
}
