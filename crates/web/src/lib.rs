//! The HTTP side of the program: Prometheus' API below `/api/v1`, the pages of the embedded UI,
//! `/-/` for probes and operators, and `/metrics` about ourselves.
//!
//! [`router`] builds it from a [`WebState`], whose traits the wiring implements. The doors for pushes
//! are somebody else's router, merged under the same [`auth::authenticate`].
//!
//! The way of a request: [`auth`] finds the caller; [`api`] reads the form, asks the engine or the
//! store on a blocking thread ([`work`]: bounded, and stopped when the client has gone), and writes
//! JSON straight into the body ([`json`]). Other systems have doors of their own: [`federate`], [`read`].

mod active;
mod api;
pub mod auth;
mod completeness;
mod federate;
mod form;
mod health;
mod json;
pub mod metrics;
mod notifications;
mod pages;
mod process;
mod query_log;
mod read;
mod reply;
mod scope;
pub mod state;
mod stream;
mod table;
mod work;

use axum::Router;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;

pub use active::ActiveQueries;
pub use auth::{Auth, Caller, Credential, Role, Tokens};
pub use completeness::{
    Completeness, CompletenessAsk, CompletenessBy, CompletenessReport, FleetAgent, IncompleteTime,
    PushedTally, RowGap, RowTally, TallyOf,
};
pub use metrics::WebMetrics;
pub use notifications::{Notice, Notification, Notifications};
pub use query_log::{ClientAddress, QueryLog};
pub use state::{
    BlockInfo, BuildInfo, Lifecycle, Options, PoolConfig, Readiness, RuntimeInfo, SeriesMaker, SeriesUsage,
    StoreAdmin, TargetStatus, TsdbStatus, WebState,
};
pub use table::Endpoint;
pub use work::Work;

use reply::{ApiError, ErrorKind};
use table::Table;

/// What handlers share.
#[derive(Clone)]
struct App {
    state: WebState,
    work: Work,
}

impl App {
    fn new(state: WebState) -> App {
        App { work: state.work.clone(), state }
    }
}

/// All routes, with authentication, compression and panic guard around them.
pub fn router(state: WebState) -> Router {
    router_with(state, Router::new())
}

/// As [`router`], with the routes of other doors (remote write, OTLP) under the same authentication.
/// Their handlers find the [`Caller`] in the request's extensions, and check its role themselves.
pub fn router_with(state: WebState, doors: Router) -> Router {
    let auth = state.auth.clone();
    let metrics = state.metrics.clone();
    let app = App::new(state);
    let (packed, _) = packed(&app).into_parts();
    let (bare, _) = bare(&app).into_parts();
    let own = packed
        .route("/api/{*path}", axum::routing::any(api::not_found))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
        .merge(bare)
        .with_state(app);
    own.merge(doors)
        .layer(middleware::from_fn_with_state(auth, auth::authenticate))
        .layer(middleware::from_fn_with_state(metrics, metrics::count))
        .layer(CatchPanicLayer::custom(panicked))
}

/// What [`router`] answers to, without the doors of others.
pub fn endpoints(state: WebState) -> Vec<Endpoint> {
    table(&App::new(state)).into_parts().1
}

/// All routes.
fn table(app: &App) -> Table {
    packed(app).merge(bare(app))
}

/// What is compressed for those who ask.
fn packed(app: &App) -> Table {
    let federation = Table::new().get("/federate", federate::federate);
    api::table(app)
        .merge(health::table())
        .merge(Table::new().get("/metrics", metrics::expose))
        .merge(federation.around(|routes| api::for_readers(app, routes)))
        .merge(pages::table())
}

/// What has a compression of its own.
fn bare(app: &App) -> Table {
    let read = Table::new().post("/api/v1/read", read::read);
    read.around(|routes| api::in_json(api::for_readers(app, routes)))
}

fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str).or(cause.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("unknown"), "a request panicked");
    ApiError::new(ErrorKind::Internal, "unexpected error: the request panicked; the log has more")
        .into_response()
}
