//! Why a target could not be fetched.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::StatusCode;

/// The longest reason in a status line that is kept.
const REASON_CHARS_MAX: usize = 200;

/// A fetch that failed. Messages stand in `last_error`, behind `Get "<url>": ` where the transport
/// is at fault.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The time was up.
    #[error("context deadline exceeded (no whole answer within {0:?})")]
    Deadline(Duration),
    /// No connection.
    #[error("connect to {to}: {cause}")]
    Connect {
        /// Host and port, those of a proxy where there is one.
        to: String,
        /// Why.
        cause: io::Error,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("{0}")]
    Transfer(String),
    /// More headers than fit the buffer.
    #[error("the headers of the answer are too large")]
    HeadTooLarge,
    /// Another status than 200.
    #[error("server returned HTTP status {} {reason}", code.as_u16())]
    Status {
        /// Its number.
        code: StatusCode,
        /// What stood behind the number, or usually stands there.
        reason: String,
    },
    /// The unpacked body passes the limit.
    #[error("body size limit exceeded")]
    BodySize,
    /// The body is not what its headers say.
    #[error("{0}")]
    Encoding(String),
    /// Too many redirects.
    #[error("stopped after {0} redirects")]
    Redirects(usize),
    /// A URL that cannot be requested.
    #[error("{0}")]
    Url(String),
    /// A file with credentials or certificates cannot be used, or a header cannot be sent.
    #[error("{0}")]
    Setup(String),
}

impl FetchError {
    pub(super) fn connect(host: &str, port: u16, cause: io::Error) -> FetchError {
        let to = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        FetchError::Connect { to, cause }
    }

    pub(super) fn transfer(error: hyper::Error) -> FetchError {
        if error.is_parse_too_large() {
            return FetchError::HeadTooLarge;
        }
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        FetchError::Transfer(text)
    }

    /// The answer's status. Source: Prometheus, which shows the status line as it came.
    pub(crate) fn status<B>(answer: &http::Response<B>) -> FetchError {
        let code = answer.status();
        let reason = match answer.extensions().get::<hyper::ext::ReasonPhrase>() {
            Some(said) => String::from_utf8_lossy(said.as_bytes()).chars().take(REASON_CHARS_MAX).collect(),
            None => code.canonical_reason().unwrap_or("<unknown status code>").to_owned(),
        };
        FetchError::Status { code, reason }
    }

    /// Whether the message reads well behind `Get "<url>": `.
    pub fn is_transport(&self) -> bool {
        !matches!(self, FetchError::Status { .. } | FetchError::BodySize)
    }
}
