//! Media types by a file name's ending.

/// What a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaType {
    /// The value of `Content-Type`.
    pub value: &'static str,
    /// Whether compressing it pays.
    pub compressible: bool,
}

/// What is known of nothing: the browser saves it instead of showing it.
pub const UNKNOWN: MediaType = binary("application/octet-stream");

const fn text(value: &'static str) -> MediaType {
    MediaType { value, compressible: true }
}

const fn binary(value: &'static str) -> MediaType {
    MediaType { value, compressible: false }
}

/// Sorted by ending.
const TYPES: &[(&str, MediaType)] = &[
    ("7z", binary("application/x-7z-compressed")),
    ("aac", binary("audio/aac")),
    ("apk", binary("application/vnd.android.package-archive")),
    ("apng", binary("image/apng")),
    ("atom", text("application/atom+xml")),
    ("avi", binary("video/x-msvideo")),
    ("avif", binary("image/avif")),
    ("bmp", text("image/bmp")),
    ("br", binary("application/octet-stream")),
    ("bz2", binary("application/x-bzip2")),
    ("css", text("text/css; charset=utf-8")),
    ("csv", text("text/csv; charset=utf-8")),
    ("deb", binary("application/vnd.debian.binary-package")),
    ("doc", binary("application/msword")),
    ("docx", binary("application/vnd.openxmlformats-officedocument.wordprocessingml.document")),
    ("eot", text("application/vnd.ms-fontobject")),
    ("epub", binary("application/epub+zip")),
    ("flac", binary("audio/flac")),
    ("geojson", text("application/geo+json")),
    ("gif", binary("image/gif")),
    ("gz", binary("application/gzip")),
    ("htm", text("text/html; charset=utf-8")),
    ("html", text("text/html; charset=utf-8")),
    ("ico", text("image/x-icon")),
    ("ics", text("text/calendar; charset=utf-8")),
    ("jpeg", binary("image/jpeg")),
    ("jpg", binary("image/jpeg")),
    ("js", text("text/javascript; charset=utf-8")),
    ("json", text("application/json")),
    ("jsonld", text("application/ld+json")),
    ("jxl", binary("image/jxl")),
    ("m3u8", text("application/vnd.apple.mpegurl")),
    ("m4a", binary("audio/mp4")),
    ("m4v", binary("video/mp4")),
    ("map", text("application/json")),
    ("md", text("text/markdown; charset=utf-8")),
    ("mjs", text("text/javascript; charset=utf-8")),
    ("mkv", binary("video/x-matroska")),
    ("mov", binary("video/quicktime")),
    ("mp3", binary("audio/mpeg")),
    ("mp4", binary("video/mp4")),
    ("mpeg", binary("video/mpeg")),
    ("mpg", binary("video/mpeg")),
    ("odp", binary("application/vnd.oasis.opendocument.presentation")),
    ("ods", binary("application/vnd.oasis.opendocument.spreadsheet")),
    ("odt", binary("application/vnd.oasis.opendocument.text")),
    ("oga", binary("audio/ogg")),
    ("ogg", binary("audio/ogg")),
    ("ogv", binary("video/ogg")),
    ("opus", binary("audio/ogg")),
    ("otf", text("font/otf")),
    ("pdf", binary("application/pdf")),
    ("png", binary("image/png")),
    ("ppt", binary("application/vnd.ms-powerpoint")),
    ("pptx", binary("application/vnd.openxmlformats-officedocument.presentationml.presentation")),
    ("rss", text("application/rss+xml")),
    ("rtf", text("application/rtf")),
    ("svg", text("image/svg+xml")),
    ("svgz", binary("image/svg+xml")),
    ("tar", text("application/x-tar")),
    ("tif", binary("image/tiff")),
    ("tiff", binary("image/tiff")),
    ("ts", binary("video/mp2t")),
    ("ttf", text("font/ttf")),
    ("txt", text("text/plain; charset=utf-8")),
    ("vtt", text("text/vtt; charset=utf-8")),
    ("wasm", text("application/wasm")),
    ("wav", binary("audio/wav")),
    ("weba", binary("audio/webm")),
    ("webm", binary("video/webm")),
    ("webmanifest", text("application/manifest+json")),
    ("webp", binary("image/webp")),
    ("woff", binary("font/woff")),
    ("woff2", binary("font/woff2")),
    ("xhtml", text("application/xhtml+xml")),
    ("xls", binary("application/vnd.ms-excel")),
    ("xlsx", binary("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet")),
    ("xml", text("text/xml; charset=utf-8")),
    ("xz", binary("application/x-xz")),
    ("yaml", text("application/yaml")),
    ("yml", text("application/yaml")),
    ("zip", binary("application/zip")),
    ("zst", binary("application/zstd")),
];

/// The type of the file with this path or name.
pub fn of(path: &[u8]) -> MediaType {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let Some(dot) = name.iter().rposition(|byte| *byte == b'.') else { return UNKNOWN };
    let ending = name[dot + 1..].to_ascii_lowercase();
    TYPES
        .binary_search_by(|(candidate, _)| candidate.as_bytes().cmp(&ending))
        .map_or(UNKNOWN, |index| TYPES[index].1)
}

/// Whether compressing a response of this `Content-Type` pays.
pub fn is_compressible(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // A stream of events must not wait in a compressor, and gains little.
    if essence == "text/event-stream" {
        return false;
    }
    essence.starts_with("text/")
        || essence.ends_with("+xml")
        || essence.ends_with("+json")
        || matches!(
            essence.as_str(),
            "application/json" | "application/javascript" | "application/xml" | "application/wasm"
        )
}

/// Whether a path names a source that PHP would run. Such a file is run, or not there; it is never sent as text.
pub fn is_script(segment: &[u8]) -> bool {
    // A name such as `x.php.txt` or `x.php~` is no script to php-fpm, but is one by mistake: its source must not be seen.
    let name = segment.to_ascii_lowercase();
    name.split(|byte| *byte == b'.').skip(1).any(|ending| {
        let ending = ending.strip_suffix(b"~").unwrap_or(ending);
        matches!(ending, b"phtml" | b"phar" | b"pht" | b"phps")
            || ending.strip_prefix(b"php").is_some_and(|version| version.iter().all(u8::is_ascii_digit))
    })
}

#[cfg(test)]
mod tests {
    use super::{TYPES, UNKNOWN, is_compressible, is_script, of};

    #[test]
    fn the_table_can_be_searched() {
        assert!(TYPES.is_sorted_by(|one, next| one.0 < next.0));
    }

    #[test]
    fn types_are_known_whatever_the_case() {
        assert_eq!(of(b"/a.b/INDEX.HTML").value, "text/html; charset=utf-8");
        assert_eq!(of(b"/app.js.map").value, "application/json");
        assert_eq!(of(b"/a.b/noending"), UNKNOWN);
        assert_eq!(of(b"/x.unknown"), UNKNOWN);
    }

    #[test]
    fn scripts_are_known_whatever_they_pretend() {
        for name in
            ["x.php", "X.PHP", "x.php7", "x.phtml", "x.phar", "x.php~", "x.php.jpg", "x.php.bak", "x.phps"]
        {
            assert!(is_script(name.as_bytes()), "{name}");
        }
        for name in ["php", "x.phpx", "x.html", "phar", "x.graphp"] {
            assert!(!is_script(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn events_are_not_held_back() {
        assert!(is_compressible("text/html; charset=utf-8"));
        assert!(is_compressible("application/problem+json"));
        assert!(!is_compressible("text/event-stream"));
        assert!(!is_compressible("image/png"));
    }
}
