//! URL patterns of an allow list.

use std::fmt;
use std::str::FromStr;

use url::Url;

/// URLs that are allowed: `scheme://host[:port]/path[?query]`, with `*` for any run of characters in host,
/// path and query. The host's `*` stays within the host, the port is the scheme's unless written, and a
/// query is allowed only where the pattern has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlPattern {
    written: String,
    scheme: String,
    host: String,
    port: u16,
    path: String,
    query: Option<String>,
}

/// A pattern that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("URL pattern `{written}`: {what}")]
pub struct BadPattern {
    written: String,
    what: &'static str,
}

impl fmt::Display for UrlPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl FromStr for UrlPattern {
    type Err = BadPattern;

    fn from_str(written: &str) -> Result<UrlPattern, BadPattern> {
        let bad = |what| BadPattern { written: written.to_owned(), what };
        let (scheme, rest) = written.split_once("://").ok_or_else(|| bad("has no scheme"))?;
        let scheme_port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return Err(bad("its scheme is neither http nor https")),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => return Err(bad("has no path; `/*` is any path")),
        };
        if authority.contains('@') {
            return Err(bad("has a user"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| bad("its port is not a number"))?)
            }
            _ => (authority, scheme_port),
        };
        if host.is_empty() {
            return Err(bad("has no host"));
        }
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (path, None),
        };
        Ok(UrlPattern {
            written: written.to_owned(),
            scheme: scheme.to_owned(),
            host: host.to_ascii_lowercase(),
            port,
            path: path.to_owned(),
            query,
        })
    }
}

impl UrlPattern {
    /// Whether `url` is allowed.
    pub fn matches(&self, url: &Url) -> bool {
        let query = match (&self.query, url.query()) {
            (_, None | Some("")) => true,
            (None, Some(_)) => false,
            (Some(pattern), Some(query)) => glob(pattern, query),
        };
        query
            && url.scheme() == self.scheme
            && url.port_or_known_default() == Some(self.port)
            && url.host_str().is_some_and(|host| glob(&self.host, host))
            && glob(&self.path, url.path())
    }
}

/// Whether `text` is `pattern` with something for each `*`. Time is the product of both lengths at most.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stood, and up to where it has eaten.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && pattern[p] == text[t] {
            (p, t) = (p + 1, t + 1);
        } else if let Some((star_p, eaten)) = star {
            star = Some((star_p, eaten + 1));
            (p, t) = (star_p + 1, eaten + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}
