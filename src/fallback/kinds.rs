//! What a file is, by its name: the media types of what sites are made of.

/// What names end with, and the media type of what is called so; of several endings of one type the first is the usual one.
const KINDS: [(&str, &str); 40] = [
    ("html", "text/html; charset=utf-8"),
    ("htm", "text/html; charset=utf-8"),
    ("xhtml", "application/xhtml+xml"),
    ("css", "text/css; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("map", "application/json"),
    ("webmanifest", "application/manifest+json"),
    ("xml", "application/xml"),
    ("rss", "application/rss+xml"),
    ("atom", "application/atom+xml"),
    ("txt", "text/plain; charset=utf-8"),
    ("md", "text/markdown; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("ics", "text/calendar; charset=utf-8"),
    ("svg", "image/svg+xml"),
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("webp", "image/webp"),
    ("avif", "image/avif"),
    ("ico", "image/x-icon"),
    ("woff2", "font/woff2"),
    ("woff", "font/woff"),
    ("ttf", "font/ttf"),
    ("otf", "font/otf"),
    ("pdf", "application/pdf"),
    ("wasm", "application/wasm"),
    ("mp4", "video/mp4"),
    ("webm", "video/webm"),
    ("mp3", "audio/mpeg"),
    ("ogg", "audio/ogg"),
    ("m4a", "audio/mp4"),
    ("wav", "audio/wav"),
    ("vtt", "text/vtt; charset=utf-8"),
    ("zip", "application/zip"),
    ("gz", "application/gzip"),
    ("bin", "application/octet-stream"),
];

/// The Content-Type of a file whose name ends with `kind` and which begins so. One whose name says nothing is a page if it looks like
/// one.
pub fn content_type(kind: Option<&str>, begins: &[u8]) -> &'static str {
    let known = kind.and_then(|kind| KINDS.iter().find(|(name, _)| *name == kind));
    match known {
        Some((_, media_type)) => media_type,
        None if kind.is_none() && begins.trim_ascii_start().starts_with(b"<") => KINDS[0].1,
        None => "application/octet-stream",
    }
}

/// What the name of a file with this Content-Type ends with.
pub fn ending(content_type: &str) -> Option<&'static str> {
    let essence = |text: &str| {
        let essence = text.split(';').next().unwrap_or_default();
        essence.trim().to_ascii_lowercase()
    };
    let wanted = essence(content_type);
    let found = KINDS
        .iter()
        .find(|(_, media_type)| essence(media_type) == wanted);
    match (found, &wanted[..]) {
        (Some((kind, _)), _) => Some(kind),
        (None, "application/javascript" | "application/x-javascript") => Some("js"),
        (None, "text/xml") => Some("xml"),
        (None, other) if other.ends_with("+json") => Some("json"),
        (None, other) if other.ends_with("+xml") => Some("xml"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_type_and_back() {
        assert_eq!(content_type(Some("css"), b"<"), "text/css; charset=utf-8");
        assert_eq!(
            content_type(Some("exe"), b"<html>"),
            "application/octet-stream"
        );
        assert_eq!(
            content_type(None, b"\n<!doctype"),
            "text/html; charset=utf-8"
        );
        assert_eq!(content_type(None, b"GIF8"), "application/octet-stream");
        assert_eq!(ending("Text/HTML;charset=latin1"), Some("html"));
        assert_eq!(ending("application/feed+json"), Some("json"));
        assert_eq!(ending("application/x-odd"), None);
        for (kind, media_type) in KINDS {
            let back = ending(media_type).unwrap();
            assert_eq!(content_type(Some(back), b""), media_type, "{kind}");
        }
    }
}
