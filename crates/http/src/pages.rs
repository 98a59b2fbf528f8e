//! What people see when something is wrong.

use crate::{Body, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};

/// A page for an error, with a sentence for whoever meets it.
pub fn error(status: StatusCode, id: &[u8]) -> Response {
    let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or("Error"));
    let id = String::from_utf8_lossy(id);
    let mut response = page(status, &title, sentence(status), &format!("<p><small>Request {id}</small></p>\n"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// A page with a message of the site's owner, who may write anything: it is text, not markup.
pub fn notice(status: StatusCode, title: &str, message: &str) -> Response {
    let escaped = message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    page(status, title, &escaped, "")
}

/// What an error means, for whoever meets it.
pub fn sentence(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "The address or the request is malformed.",
        StatusCode::FORBIDDEN => "This may not be seen.",
        StatusCode::NOT_FOUND => "There is nothing at this address.",
        StatusCode::METHOD_NOT_ALLOWED => "This cannot be done here.",
        StatusCode::REQUEST_TIMEOUT => "The request took too long to arrive.",
        StatusCode::PAYLOAD_TOO_LARGE => "What was sent is too large.",
        StatusCode::MISDIRECTED_REQUEST => "No site of this name is served here.",
        StatusCode::TOO_MANY_REQUESTS => "Too many requests came from here. Please try again in a moment.",
        StatusCode::BAD_GATEWAY => "The application did not answer properly. Please try again in a moment.",
        StatusCode::SERVICE_UNAVAILABLE => {
            "The application is busy or starting. Please try again in a moment."
        }
        StatusCode::GATEWAY_TIMEOUT => {
            "The application took too long to answer. Please try again in a moment."
        }
        _ if status.is_server_error() => "Something went wrong. Please try again in a moment.",
        _ => "The request cannot be answered.",
    }
}

fn page(status: StatusCode, title: &str, sentence: &str, after: &str) -> Response {
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n\
         <style>body{{font:1.1rem/1.6 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem;color:#223}}\
         h1{{font-size:1.5rem}}small{{color:#667}}</style>\n\
         <h1>{title}</h1>\n<p>{sentence}</p>\n{after}</html>\n"
    );
    let mut response = text(status, "text/html; charset=utf-8", page);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A response with a short text.
pub fn text(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::Full(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
