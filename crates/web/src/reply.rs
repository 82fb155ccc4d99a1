//! The envelope of every API answer: `{"status":"success","data":...}` or
//! `{"status":"error","errorType":...,"error":...}`.
//!
//! Source: Prometheus `web/api/v1/api.go`, `Response`, `getDefaultErrorCode`.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use promql::answer::{EvalError, capped};
use storage::{QueryError, StoreError};

use crate::json;

/// Stands on answers to queries whose data has gaps, and says how large they are.
const COMPLETENESS: HeaderName = HeaderName::from_static("x-marigraph-completeness");

/// A request whose client has gone. Nobody reads the status; it shows in logs and metrics.
pub(crate) const CLIENT_CLOSED_REQUEST: u16 = 499;

/// A successful answer under construction; `data` is written straight into the body.
#[derive(Debug)]
pub(crate) struct Reply {
    body: Vec<u8>,
    warnings: Vec<String>,
    infos: Vec<String>,
    /// What the header says of gaps in the data.
    incomplete: Option<String>,
}

impl Reply {
    /// An answer whose data `write` writes.
    pub(crate) fn new(write: impl FnOnce(&mut Vec<u8>)) -> Reply {
        let mut body = b"{\"status\":\"success\",\"data\":".to_vec();
        write(&mut body);
        Reply { body, warnings: Vec::new(), infos: Vec::new(), incomplete: None }
    }

    /// Marks an answer of data with gaps.
    pub(crate) fn incomplete(mut self, header: Option<String>) -> Reply {
        self.incomplete = header;
        self
    }

    /// Adds what the user should know.
    pub(crate) fn annotated(mut self, warnings: Vec<String>, infos: Vec<String>) -> Reply {
        self.warnings = warnings;
        self.infos = infos;
        self
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut body = self.body;
        for (name, kind, texts) in [("warnings", "warning", &self.warnings), ("infos", "info", &self.infos)] {
            if !texts.is_empty() {
                body.extend_from_slice(format!(",\"{name}\":").as_bytes());
                json::texts(&mut body, capped(texts, kind));
            }
        }
        body.push(b'}');
        let mut response = json_response(StatusCode::OK, body);
        if let Some(value) = self.incomplete.and_then(|text| HeaderValue::from_str(&text).ok()) {
            response.headers_mut().insert(COMPLETENESS, value);
        }
        response
    }
}

/// The kinds of errors, which clients tell apart by `errorType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    Timeout,
    Canceled,
    Execution,
    BadData,
    Internal,
    Unavailable,
    NotFound,
    MethodNotAllowed,
    Forbidden,
    /// Too much at once; later may be better.
    Busy,
}

impl ErrorKind {
    fn name(self) -> &'static str {
        match self {
            ErrorKind::Timeout => "timeout",
            ErrorKind::Canceled => "canceled",
            ErrorKind::Execution => "execution",
            ErrorKind::BadData => "bad_data",
            ErrorKind::Internal => "internal",
            ErrorKind::Unavailable | ErrorKind::Busy => "unavailable",
            ErrorKind::NotFound => "not_found",
            ErrorKind::MethodNotAllowed => "method_not_allowed",
            ErrorKind::Forbidden => "forbidden",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            ErrorKind::BadData => StatusCode::BAD_REQUEST,
            ErrorKind::Execution => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Timeout | ErrorKind::Busy => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Canceled => {
                StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
            // Prometheus answers a disabled or unready part with 500 here, too.
            ErrorKind::Internal | ErrorKind::Unavailable => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        }
    }
}

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
}

/// What a handler gives.
pub(crate) type ApiResult = Result<Reply, ApiError>;

impl ApiError {
    pub(crate) fn new(kind: ErrorKind, message: impl ToString) -> ApiError {
        ApiError { kind, message: message.to_string() }
    }

    pub(crate) fn bad_data(message: impl ToString) -> ApiError {
        ApiError::new(ErrorKind::BadData, message)
    }

    /// For nobody to read.
    pub(crate) fn gone() -> ApiError {
        ApiError::new(ErrorKind::Canceled, "the client has gone")
    }

    /// The answer of doors that speak no JSON.
    pub(crate) fn into_plain_response(self) -> Response {
        (self.kind.status(), self.message + "\n").into_response()
    }

    /// `invalid parameter "name": why`
    pub(crate) fn parameter(name: &str, why: impl std::fmt::Display) -> ApiError {
        ApiError::bad_data(format_args!("invalid parameter \"{name}\": {why}"))
    }
}

impl From<EvalError> for ApiError {
    fn from(error: EvalError) -> ApiError {
        let kind = match &error {
            EvalError::Parse(_) => return ApiError::parameter("query", error),
            EvalError::BadRequest(_) => return ApiError::parameter("query", error),
            EvalError::Exec(_) | EvalError::TooManySamples => ErrorKind::Execution,
            EvalError::Timeout => ErrorKind::Timeout,
            EvalError::Cancelled => ErrorKind::Canceled,
            EvalError::Storage(QueryError::Limit(_)) => ErrorKind::Execution,
            EvalError::Storage(QueryError::Incomplete(_)) => ErrorKind::Busy,
            EvalError::Storage(QueryError::Cancelled) => ErrorKind::Canceled,
            EvalError::Storage(_) | EvalError::Internal(_) => ErrorKind::Internal,
        };
        ApiError::new(kind, error)
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> ApiError {
        let kind = match &error {
            QueryError::Corrupt(_) => ErrorKind::Internal,
            QueryError::Limit(_) => ErrorKind::Execution,
            QueryError::Incomplete(_) => ErrorKind::Busy,
            QueryError::Cancelled => ErrorKind::Canceled,
        };
        ApiError::new(kind, error)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        ApiError::new(ErrorKind::Internal, error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(128);
        let mut envelope = json::Object::new(&mut body);
        envelope.text("status", "error");
        envelope.text("errorType", self.kind.name());
        envelope.text("error", &self.message);
        envelope.end();
        json_response(self.kind.status(), body)
    }
}

fn json_response(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        String::from_utf8(bytes.to_vec()).expect("JSON is UTF-8")
    }

    #[tokio::test]
    async fn annotations_stand_behind_the_data_and_end_with_a_count() {
        let warnings: Vec<String> = (0..12).map(|n| format!("w{n:02}")).collect();
        let reply = Reply::new(|out| out.extend_from_slice(b"1")).annotated(warnings, vec!["<i>".into()]);
        let expected = concat!(
            r#"{"status":"success","data":1,"warnings":["w00","w01","w02","w03","w04","w05","w06","w07","w08","w09","#,
            r#""2 more warning annotations omitted"],"infos":["\u003ci\u003e"]}"#
        );
        assert_eq!(body(reply.into_response()).await, expected);
    }

    #[test]
    fn every_failure_of_a_query_has_its_status() {
        let cases = [
            (EvalError::BadRequest("x".into()), 400, "bad_data"),
            (EvalError::Exec("x".into()), 422, "execution"),
            (EvalError::TooManySamples, 422, "execution"),
            (EvalError::Timeout, 503, "timeout"),
            (EvalError::Cancelled, 499, "canceled"),
            (EvalError::Storage(QueryError::Corrupt("x".into())), 500, "internal"),
            (EvalError::Storage(QueryError::Incomplete("x".into())), 503, "unavailable"),
            (EvalError::Storage(QueryError::Cancelled), 499, "canceled"),
            (EvalError::Internal("x".into()), 500, "internal"),
        ];
        for (error, status, name) in cases {
            let shown = error.to_string();
            let kind = ApiError::from(error).kind;
            assert_eq!((kind.status().as_u16(), kind.name()), (status, name), "{shown}");
        }
    }
}
