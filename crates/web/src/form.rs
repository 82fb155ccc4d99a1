//! Request parameters: the form in the body and the query string, and how their values are read.
//!
//! Source: Go `net/http`, `Request.ParseForm` (body first, then query string); Prometheus
//! `web/api/v1/api.go`, `parseTime`, `parseDuration`, `parseLimitParam`, whose words the errors use.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use http::{Method, header};
use http_body_util::BodyExt;
use jiff::Timestamp;
use model::labels::write_quoted;
use model::{duration, number};
use storage::Missing;
use tokio::sync::OwnedSemaphorePermit;

use crate::App;
use crate::reply::ApiError;
use crate::work::Work;

/// Most bytes a form may have, as in Go.
const FORM_BYTES_MAX: usize = 10 << 20;

/// The start of time in the API, milliseconds. Source: Prometheus `MinTime`.
pub(crate) const TIME_MIN_MS: i64 = -9_223_309_901_257_974_000;
/// The end of time in the API, milliseconds. Source: Prometheus `MaxTime`.
pub(crate) const TIME_MAX_MS: i64 = 9_223_309_901_257_974_999;
/// How clients write the two; years beyond 9999 have no other spelling.
const TIME_MIN_TEXT: &str = "-292273086-05-16T16:47:06Z";
const TIME_MAX_TEXT: &str = "292277025-08-18T07:12:54.999999999Z";

/// The parameters of a request, body before query string.
#[derive(Debug, Clone, Default)]
pub(crate) struct Form {
    pairs: Vec<(String, String)>,
    /// What was wrong with the encoding; the parameters that could be read are there all the same.
    error: Option<String>,
    /// What it takes of the memory for all forms.
    _memory: Option<Arc<OwnedSemaphorePermit>>,
}

impl Form {
    /// The first value of `name`, or an empty string.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.pairs.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    /// Every value of `name`.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The form, if its encoding was without fault.
    pub(crate) fn strict(&self) -> Result<&Form, ApiError> {
        match &self.error {
            Some(error) => Err(ApiError::bad_data(format_args!("error parsing form values: {error}"))),
            None => Ok(self),
        }
    }

    /// `limit`: 0 for none.
    pub(crate) fn limit(&self) -> Result<usize, ApiError> {
        let text = self.get("limit");
        if text.is_empty() {
            return Ok(0);
        }
        let limit = parse_integer(text).map_err(|why| ApiError::parameter("limit", why))?;
        usize::try_from(limit).map_err(|_| ApiError::parameter("limit", "limit must be non-negative"))
    }

    /// `partial_response`: what to do where part of the data cannot be had; it is there to be seen when not
    /// said otherwise.
    ///
    /// Source: Thanos `pkg/api/query/v1.go`, `parsePartialResponseParam`; Go `strconv.ParseBool`.
    pub(crate) fn missing(&self) -> Result<Missing, ApiError> {
        match self.get("partial_response") {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Missing::Warn),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Missing::Fail),
            other => {
                let why = format_args!("{} is neither true nor false", go_quoted(other)).to_string();
                Err(ApiError::parameter("partial_response", why))
            }
        }
    }

    /// The parameters of a query string.
    pub(crate) fn of_query(query: Option<&str>) -> Form {
        let mut form = Form::default();
        form.parse(query.unwrap_or_default());
        form
    }

    /// An optional time, milliseconds.
    pub(crate) fn time_or(&self, name: &str, default_ms: i64) -> Result<i64, ApiError> {
        match self.get(name) {
            "" => Ok(default_ms),
            text => parse_time(text).map_err(|why| {
                ApiError::parameter(name, format_args!("invalid time value for '{name}': {why}"))
            }),
        }
    }

    /// A required time, milliseconds.
    pub(crate) fn time(&self, name: &str) -> Result<i64, ApiError> {
        parse_time(self.get(name)).map_err(|why| ApiError::parameter(name, why))
    }

    /// A required duration, nanoseconds; may be negative.
    pub(crate) fn duration_ns(&self, name: &str) -> Result<i64, ApiError> {
        parse_duration_ns(self.get(name)).map_err(|why| ApiError::parameter(name, why))
    }

    /// `timeout`, when given. A negative one has run out already.
    pub(crate) fn timeout(&self) -> Result<Option<Duration>, ApiError> {
        if self.get("timeout").is_empty() {
            return Ok(None);
        }
        let ns = self.duration_ns("timeout")?;
        Ok(Some(Duration::from_nanos(u64::try_from(ns).unwrap_or(0))))
    }

    fn parse(&mut self, encoded: &str) {
        for piece in encoded.split('&').filter(|piece| !piece.is_empty()) {
            if piece.contains(';') {
                self.error.get_or_insert_with(|| "invalid semicolon separator in query".into());
                continue;
            }
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            match (unescape(name), unescape(value)) {
                (Ok(name), Ok(value)) => self.pairs.push((name, value)),
                (Err(error), _) | (_, Err(error)) => {
                    self.error.get_or_insert(error);
                }
            }
        }
    }
}

impl FromRequest<App> for Form {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> Result<Form, ApiError> {
        let (head, body) = request.into_parts();
        let mut form = Form::default();
        let has_form = matches!(head.method, Method::POST | Method::PUT | Method::PATCH)
            && head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).is_some_and(|kind| {
                let essence = kind.split(';').next().unwrap_or_default().trim();
                essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
            });
        if has_form {
            let (body, memory) =
                read_body(&app.work, body, FORM_BYTES_MAX, "error parsing form values").await?;
            form.parse(&String::from_utf8_lossy(&body));
            form._memory = memory.map(Arc::new);
        }
        form.parse(head.uri.query().unwrap_or_default());
        Ok(form)
    }
}

/// Reads a body of at most `max` bytes; its memory counts as taken until the permit is dropped.
///
/// # Errors
/// The body is too large or breaks off (the message begins with `attempt`), or there are too many at
/// once.
pub(crate) async fn read_body(
    work: &Work,
    mut body: Body,
    max: usize,
    attempt: &str,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), ApiError> {
    let (mut bytes, mut memory) = (Vec::new(), None::<OwnedSemaphorePermit>);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::bad_data(format_args!("{attempt}: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > max {
            return Err(ApiError::bad_data(format_args!("{attempt}: http: request body too large")));
        }
        let more = work.form_memory(data.len())?;
        match &mut memory {
            Some(memory) => memory.merge(more),
            None => memory = Some(more),
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, memory))
}

/// Undoes `%xx` and `+`.
fn unescape(text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let hex = bytes.get(at + 1..at + 3).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
                let Some(byte) = hex
                    .and_then(|hex| std::str::from_utf8(hex).ok())
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok())
                else {
                    let end = bytes.len().min(at + 3);
                    return Err(format!(
                        "invalid URL escape {}",
                        go_quoted(&String::from_utf8_lossy(&bytes[at..end]))
                    ));
                };
                out.push(byte);
                at += 3;
            }
            b'+' => {
                out.push(b' ');
                at += 1;
            }
            byte => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// `text` between double quotes, as Go's `%q` does.
pub(crate) fn go_quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    // writing to a String cannot fail
    let _ = write_quoted(&mut out, text);
    out
}

/// A whole number, with the errors of Go's `strconv.Atoi`.
pub(crate) fn parse_integer(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let why = if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        "invalid syntax"
    } else if let Ok(number) = text.parse() {
        return Ok(number);
    } else {
        "value out of range"
    };
    let mut message = String::from("strconv.Atoi: parsing ");
    let _ = write!(message, "{}: {why}", go_quoted(text));
    Err(message)
}

/// Seconds since the epoch with a fraction, or RFC 3339; in milliseconds.
fn parse_time(text: &str) -> Result<i64, String> {
    let bad = || format!("cannot parse {} to a valid timestamp", go_quoted(text));
    if let Ok(seconds) = number::parse_float(text) {
        if !seconds.is_finite() {
            return Err(bad());
        }
        let ms = seconds.trunc() * 1000.0 + (seconds.fract() * 1000.0).round();
        return Ok((ms as i64).clamp(TIME_MIN_MS, TIME_MAX_MS));
    }
    match text {
        TIME_MIN_TEXT => Ok(TIME_MIN_MS),
        TIME_MAX_TEXT => Ok(TIME_MAX_MS),
        _ => parse_rfc3339(text).ok_or_else(bad),
    }
}

/// `2015-07-01T20:10:30.781Z`, `2015-07-01T20:10:30+02:00`; milliseconds, rounded down.
fn parse_rfc3339(text: &str) -> Option<i64> {
    // jiff takes more than RFC 3339 (blanks, lower case, names of zones), so the shape comes first
    let bytes = text.as_bytes();
    let shape = |at: usize, pattern: &[u8]| {
        let part = bytes.get(at..at + pattern.len())?;
        part.iter()
            .zip(pattern)
            .all(|(b, p)| if *p == b'0' { b.is_ascii_digit() } else { b == p })
            .then_some(at + pattern.len())
    };
    let mut at = shape(0, b"0000-00-00T00:00:00")?;
    if &bytes[17..19] == b"60" {
        return None; // Go knows no leap seconds
    }
    if bytes.get(at) == Some(&b'.') {
        let digits = bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if !(1..=9).contains(&digits) {
            return None;
        }
        at += 1 + digits;
    }
    let end = match bytes.get(at)? {
        b'Z' => at + 1,
        b'+' => shape(at, b"+00:00")?,
        _ => shape(at, b"-00:00")?,
    };
    if end != bytes.len() {
        return None;
    }
    let time: Timestamp = text.parse().ok()?;
    i64::try_from(time.as_nanosecond().div_euclid(1_000_000)).ok()
}

/// Seconds, or a duration such as `1h30m`; in nanoseconds.
pub(crate) fn parse_duration_ns(text: &str) -> Result<i64, String> {
    const NS_PER_SECOND: f64 = 1e9;
    const LIMIT: f64 = 9_223_372_036_854_775_807.0;
    if let Ok(seconds) = number::parse_float(text) {
        let ns = seconds * NS_PER_SECOND;
        if !(-LIMIT..=LIMIT).contains(&ns) {
            return Err(format!("cannot parse {} to a valid duration. It overflows int64", go_quoted(text)));
        }
        return Ok(ns as i64);
    }
    match duration::parse(text) {
        // a duration is at most 2^63 - 1 nanoseconds
        Ok(ms) => Ok(ms.saturating_mul(1_000_000)),
        Err(_) => Err(format!("cannot parse {} to a valid duration", go_quoted(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let cases = [
            ("0", Ok(0)),
            ("1435781430.781", Ok(1_435_781_430_781)),
            ("1435781430.7819", Ok(1_435_781_430_782)),
            ("1.9999", Ok(2_000)),
            ("-1.5", Ok(-1_500)),
            ("1e3", Ok(1_000_000)),
            ("1e30", Ok(TIME_MAX_MS)),
            ("2015-07-01T20:10:30.781Z", Ok(1_435_781_430_781)),
            ("2015-07-01T20:10:30.7819Z", Ok(1_435_781_430_781)),
            ("2015-07-01T22:10:30+02:00", Ok(1_435_781_430_000)),
            ("1969-12-31T23:59:59.9999Z", Ok(-1)),
            (TIME_MIN_TEXT, Ok(TIME_MIN_MS)),
            (TIME_MAX_TEXT, Ok(TIME_MAX_MS)),
            ("", Err("cannot parse \"\" to a valid timestamp")),
            ("NaN", Err("cannot parse \"NaN\" to a valid timestamp")),
            ("1e999", Err("cannot parse \"1e999\" to a valid timestamp")),
            ("2015-07-01 20:10:30Z", Err("cannot parse \"2015-07-01 20:10:30Z\" to a valid timestamp")),
            ("2015-07-01T20:10:30", Err("cannot parse \"2015-07-01T20:10:30\" to a valid timestamp")),
            ("2015-02-30T20:10:30Z", Err("cannot parse \"2015-02-30T20:10:30Z\" to a valid timestamp")),
            ("2015-07-01T20:10:60Z", Err("cannot parse \"2015-07-01T20:10:60Z\" to a valid timestamp")),
            ("foo\"bar", Err("cannot parse \"foo\\\"bar\" to a valid timestamp")),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_time(text), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn durations() {
        let cases = [
            ("15", Ok(15_000_000_000)),
            ("0.5", Ok(500_000_000)),
            ("-3", Ok(-3_000_000_000)),
            ("5m", Ok(300_000_000_000)),
            ("1h30m", Ok(5_400_000_000_000)),
            ("1ms", Ok(1_000_000)),
            ("0", Ok(0)),
            ("", Err("cannot parse \"\" to a valid duration")),
            ("m", Err("cannot parse \"m\" to a valid duration")),
            ("5m1h", Err("cannot parse \"5m1h\" to a valid duration")),
            ("5m5m", Err("cannot parse \"5m5m\" to a valid duration")),
            ("5 m", Err("cannot parse \"5 m\" to a valid duration")),
            ("300y", Err("cannot parse \"300y\" to a valid duration")),
            ("1e10", Err("cannot parse \"1e10\" to a valid duration. It overflows int64")),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration_ns(text), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn integers() {
        let cases = [
            ("12", Ok(12)),
            ("-1", Ok(-1)),
            ("+7", Ok(7)),
            ("", Err("strconv.Atoi: parsing \"\": invalid syntax")),
            ("1.5", Err("strconv.Atoi: parsing \"1.5\": invalid syntax")),
            (
                "99999999999999999999",
                Err("strconv.Atoi: parsing \"99999999999999999999\": value out of range"),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_integer(text), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn forms_keep_what_can_be_read() {
        let mut form = Form::default();
        form.parse("query=a%2Bb+c&match[]=x&match%5B%5D=y&bad=%zz&half=%4&a;b=1&flag");
        assert_eq!(form.get("query"), "a+b c");
        assert_eq!(form.all("match[]").collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(form.get("bad"), "");
        assert_eq!(form.get("flag"), "");
        assert_eq!(form.error.as_deref(), Some("invalid URL escape \"%zz\""));
    }
}
