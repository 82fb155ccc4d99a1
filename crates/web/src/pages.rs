//! The embedded UI: one page that finds its way by the path, and its files.

use axum::extract::Path;
use axum::response::{Html, IntoResponse, Response};
use http::{StatusCode, header};

use crate::table::Table;

// `FILES`: path below `ui/dist` and contents, sorted by path. Written by `build.rs`.
include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// What stands in for the page where the UI has not been built.
const UNBUILT: &str = include_str!("pages/unbuilt.html");

/// Scripts and styles of our own only; styles also inline, which the graph needs.
const POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     frame-ancestors 'self'; base-uri 'none'; form-action 'self'";

pub(crate) fn table() -> Table {
    Table::new()
        .get("/", page)
        .get("/query", page)
        .get("/graph", page) // where old links to Prometheus point
        .get("/targets", page)
        .get("/assets/{*path}", asset)
        .get("/favicon.svg", async || named("favicon.svg", "public, max-age=86400"))
}

async fn page() -> Response {
    match find("index.html") {
        Some(html) => {
            let headers = [
                (header::CONTENT_TYPE, "text/html; charset=utf-8"),
                (header::CACHE_CONTROL, "no-cache"),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (headers, html).into_response()
        }
        None => Html(UNBUILT).into_response(),
    }
}

/// Names in `assets/` hold a hash of the contents, so they may be kept for ever.
async fn asset(Path(path): Path<String>) -> Response {
    named(&format!("assets/{path}"), "public, max-age=31536000, immutable")
}

fn named(path: &str, cache: &'static str) -> Response {
    match find(path) {
        Some(bytes) => ([(header::CONTENT_TYPE, content_type(path)), (header::CACHE_CONTROL, cache)], bytes)
            .into_response(),
        None => (StatusCode::NOT_FOUND, "no such file\n").into_response(),
    }
}

fn find(path: &str) -> Option<&'static [u8]> {
    FILES.binary_search_by(|(name, _)| (*name).cmp(path)).ok().map(|at| FILES[at].1)
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("html") => "text/html; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_can_be_found_by_bisection() {
        assert!(FILES.is_sorted_by_key(|(name, _)| *name));
        assert_eq!(find("assets/../index.htm"), None);
    }
}
