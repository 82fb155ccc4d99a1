//! What both roles' own endpoints have in common: who may ask, and the envelope of Prometheus' API around answers.

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use web::{Caller, Role};

/// The parameters of a request, if they can be read.
pub(crate) type Form<T> = Result<Query<T>, QueryRejection>;

/// What is asked, if the caller may read and it can be read.
pub(crate) fn may_ask<T>(caller: &Caller, asked: Form<T>) -> Result<T, Box<Response>> {
    if !caller.role.allows(Role::Read) {
        let why = "the credential does not have the role this needs";
        return Err(Box::new(refused(StatusCode::FORBIDDEN, "forbidden", why)));
    }
    let wrong = |why: QueryRejection| refused(StatusCode::BAD_REQUEST, "bad_data", &why.body_text());
    asked.map(|Query(asked)| asked).map_err(|why| Box::new(wrong(why)))
}

pub(crate) fn refused(status: StatusCode, kind: &str, why: &str) -> Response {
    (status, Json(json!({ "status": "error", "errorType": kind, "error": why }))).into_response()
}

/// The envelope of an answer.
pub(crate) fn success(data: &Value, warnings: &[String]) -> Response {
    if warnings.is_empty() {
        return Json(json!({ "status": "success", "data": data })).into_response();
    }
    Json(json!({ "status": "success", "data": data, "warnings": warnings })).into_response()
}

/// RFC 3339; `null` for none.
pub(crate) fn shown(at_ms: Option<i64>) -> Value {
    let time = at_ms.and_then(|at_ms| Timestamp::from_millisecond(at_ms).ok());
    time.map_or(Value::Null, |time| time.to_string().into())
}
