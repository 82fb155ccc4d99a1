//! Which headers go on, and how long a caller waits.

use std::time::Duration;

use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// How long Prometheus waits for a scrape, in seconds with a fraction. Source: Prometheus `scrape/scrape.go`.
pub(crate) const SCRAPE_TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";

/// Headers between neighbours. Source: RFC 9110 section 7.6.1, and what older senders add.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Takes out what is meant for us alone: hop-by-hop headers, those that `Connection` names, and
/// `Proxy-Authorization`.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove(PROXY_AUTHORIZATION);
}

/// As [`strip_hop_by_hop`], and whatever would tell the target who calls the hub, or the agent which
/// credentials to use: those are its own.
pub(crate) fn for_agent(mut headers: HeaderMap) -> HeaderMap {
    strip_hop_by_hop(&mut headers);
    for name in [AUTHORIZATION, HOST, http::header::COOKIE, http::header::CONTENT_LENGTH] {
        headers.remove(name);
    }
    headers
}

/// How long the caller waits as it says itself; `default` when it does not, and never longer than `max`.
pub(crate) fn scrape_timeout(headers: &HeaderMap, default: Duration, max: Duration) -> Duration {
    let stated = headers.get(SCRAPE_TIMEOUT).and_then(|value| value.to_str().ok());
    let seconds = stated.and_then(|text| text.trim().parse::<f64>().ok());
    let stated = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    stated.filter(|timeout| !timeout.is_zero()).unwrap_or(default).min(max)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_end_to_end_headers_go_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("accept", "text/plain"),
            ("accept-encoding", "gzip"),
            ("authorization", "Bearer x"),
            ("connection", "close, X-Mine"),
            ("cookie", "a=b"),
            ("host", "x"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("x-mine", "1"),
            ("x-prometheus-scrape-timeout-seconds", "10"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let mut left: Vec<String> = for_agent(headers.clone()).keys().map(ToString::to_string).collect();
        left.sort();
        assert_eq!(left, ["accept", "accept-encoding", "x-prometheus-scrape-timeout-seconds"]);
        strip_hop_by_hop(&mut headers);
        assert!(headers.contains_key("authorization") && !headers.contains_key("proxy-authorization"));
    }

    #[test]
    fn timeouts_as_stated_within_bounds() {
        for (stated, seconds) in [
            (Some("10"), 10.0),
            (Some("0.25"), 0.25),
            (Some("1e9"), 300.0),
            (Some("0"), 15.0),
            (Some("-3"), 15.0),
            (Some("NaN"), 15.0),
            (Some("inf"), 15.0),
            (Some("soon"), 15.0),
            (None, 15.0),
        ] {
            let mut headers = HeaderMap::new();
            stated.map(|text| headers.insert(SCRAPE_TIMEOUT, HeaderValue::from_static(text)));
            let timeout = scrape_timeout(&headers, Duration::from_secs(15), Duration::from_secs(300));
            assert_eq!(timeout.as_secs_f64(), seconds, "{stated:?}");
        }
    }
}
