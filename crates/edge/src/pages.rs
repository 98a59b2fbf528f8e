//! What people and programs see when something is wrong.

use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use mainstay_http::{Body, Response, pages};

/// Whether a client takes JSON and no pages.
pub(crate) fn wants_json(headers: &HeaderMap) -> bool {
    let mut json = false;
    for value in headers.get_all(ACCEPT) {
        for element in value.as_bytes().split(|byte| *byte == b',') {
            let kind = element.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            if kind.eq_ignore_ascii_case(b"text/html") || kind.eq_ignore_ascii_case(b"application/xhtml+xml") {
                return false;
            }
            let suffix = kind.len().checked_sub(5).map(|start| &kind[start..]).unwrap_or_default();
            json |= kind.eq_ignore_ascii_case(b"application/json") || suffix.eq_ignore_ascii_case(b"+json");
        }
    }
    json
}

/// An error, with a sentence for whoever meets it.
pub(crate) fn error(status: StatusCode, id: &[u8], json: bool, retry_after_secs: Option<u32>) -> Response {
    let mut response = if json {
        let body = serde_json::json!({
            "status": status.as_u16(),
            "error": status.canonical_reason().unwrap_or("Error"),
            "message": pages::sentence(status),
            "request_id": String::from_utf8_lossy(id),
        });
        as_json(status, &body)
    } else {
        pages::error(status, id)
    };
    if let Some(seconds) = retry_after_secs {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The page of maintenance.
pub(crate) fn maintenance(message: &str, retry_after_secs: u32, json: bool) -> Response {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let mut response = if json {
        as_json(
            status,
            &serde_json::json!({ "status": 503, "error": "Service Unavailable", "message": message }),
        )
    } else {
        pages::notice(status, "Maintenance", message)
    };
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after_secs));
    response
}

fn as_json(status: StatusCode, body: &serde_json::Value) -> Response {
    let mut response = Response::new(Body::Full(format!("{body}\n").into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::wants_json;
    use http::HeaderMap;

    #[test]
    fn programs_get_json_and_people_get_pages() {
        let wants = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("accept", accept.parse().unwrap());
            wants_json(&headers)
        };
        assert!(wants("application/json") && wants("Application/JSON;q=1, text/plain, */*"));
        assert!(wants("application/problem+json"));
        assert!(!wants("text/html, application/json") && !wants("*/*") && !wants(""));
        assert!(!wants_json(&HeaderMap::new()));
    }
}
