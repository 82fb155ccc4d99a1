//! What the endpoints of administrators have in common: who may change something, how it is carried out, and what a refusal
//! looks like (`{error}`).

use axum::Json;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use serde::Serialize;
use serde_json::json;
use web::{Caller, Role};

/// An administrator who changes something, and not through a page of somebody else.
pub(super) struct Administrator(pub(super) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Administrator {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Administrator, Response> {
        let caller = Caller::from_request_parts(parts, state).await?;
        if web::auth::is_cross_site(&parts.headers) {
            let what = "not for pages of other sites".to_owned();
            return Err(Failure(StatusCode::FORBIDDEN, what).into_response());
        }
        administrator(&caller).map_err(Failure::into_response)?;
        Ok(Administrator(caller))
    }
}

/// A refusal.
pub(super) struct Failure(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

pub(super) fn wrong(error: impl std::fmt::Display) -> Failure {
    Failure(StatusCode::BAD_REQUEST, error.to_string())
}

pub(super) fn administrator(caller: &Caller) -> Result<(), Failure> {
    if caller.role == Role::Admin {
        return Ok(());
    }
    Err(Failure(StatusCode::FORBIDDEN, "this needs the role admin".into()))
}

/// Carries out a change, which writes to the disk, where that may block; answers with what it gives.
pub(super) async fn changed<T: Serialize + Send + 'static>(
    change: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<Response, Failure> {
    let done = tokio::task::spawn_blocking(change).await;
    let done = done
        .unwrap_or_else(|_| Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, "the request panicked".into())));
    Ok(Json(done?).into_response())
}
