//! The HTTP side of the program: Prometheus' API below `/api/v1`, the pages of the embedded UI,
//! `/-/` for probes and operators, and `/metrics` about ourselves.
//!
//! [`router`] builds it from a [`WebState`], whose traits the wiring implements. The doors for pushes
//! are somebody else's router, merged under the same [`auth::authenticate`].
//!
//! The way of a request: [`auth`] finds the caller; [`api`] reads the form, asks the engine or the
//! store on a blocking thread ([`work`]: bounded, and stopped when the client has gone), and writes
//! JSON straight into the body ([`json`]).

mod api;
pub mod auth;
mod form;
mod health;
mod json;
pub mod metrics;
mod pages;
mod process;
mod reply;
pub mod state;
mod work;

use axum::Router;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;

pub use auth::{Auth, Caller, Credential, Role};
pub use metrics::WebMetrics;
pub use state::{
    BuildInfo, Lifecycle, Options, Readiness, RuntimeInfo, SeriesMaker, SeriesUsage, StoreAdmin,
    TargetStatus, TsdbStatus, WebState,
};

use reply::{ApiError, ErrorKind};
use work::Work;

/// What handlers share.
#[derive(Clone)]
struct App {
    state: WebState,
    work: Work,
}

/// All routes, with authentication, gzip and panic guard around them.
pub fn router(state: WebState) -> Router {
    router_with(state, Router::new())
}

/// As [`router`], with the routes of other doors (remote write, OTLP) under the same authentication.
/// Their handlers find the [`Caller`] in the request's extensions, and check its role themselves.
pub fn router_with(state: WebState, doors: Router) -> Router {
    let auth = state.auth.clone();
    let metrics = state.metrics.clone();
    let work = Work::new(state.options.query_concurrency_max);
    let app = App { state, work };
    let own = Router::new()
        .merge(api::routes(&app))
        .route("/api/{*path}", axum::routing::any(api::not_found))
        .merge(health::routes())
        .route("/metrics", get(metrics::expose))
        .merge(pages::routes())
        .with_state(app)
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest));
    own.merge(doors)
        .layer(middleware::from_fn_with_state(auth, auth::authenticate))
        .layer(middleware::from_fn_with_state(metrics, metrics::count))
        .layer(CatchPanicLayer::custom(panicked))
}

fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str).or(cause.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("unknown"), "a request panicked");
    ApiError::new(ErrorKind::Internal, "unexpected error: the request panicked; the log has more")
        .into_response()
}
