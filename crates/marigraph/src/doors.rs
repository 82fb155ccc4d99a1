//! The routes that are not `web`'s: push doors, and the machine collector's page.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use prometheus_client::registry::Registry;
use receive::{ReceiveConfig, ReceiveMetrics, ReceiveState};
use stdx::clock::Clock;
use storage::Appender;
use web::{Caller, Role};
use wire::exposition::{Protocol, TextWriter};

const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What answers while the store is being opened.
pub(crate) fn starting() -> Router {
    const MESSAGE: &str = "starting: the store is being opened and its log replayed\n";
    Router::new()
        .route("/-/healthy", get(|| async { "Marigraph is healthy.\n" }))
        .fallback(|| async { (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], MESSAGE) })
}

/// What the push doors work with: what they take goes to `appender`.
pub(crate) fn receive(
    appender: Arc<dyn Appender>,
    clock: &Arc<dyn Clock>,
    registry: &mut Registry,
) -> ReceiveState {
    let metrics = ReceiveMetrics::default();
    metrics.register(registry);
    ReceiveState { appender, clock: Arc::clone(clock), config: ReceiveConfig::default(), metrics }
}

/// Push doors, and the machine's figures at `machine` where that is configured.
pub(crate) fn router(receive: ReceiveState, machine: Option<&str>) -> Router {
    let mut router = receive::router(receive).layer(middleware::from_fn(writers));
    if let Some(path) = machine {
        router =
            router.merge(Router::new().route(path, get(machine_page)).layer(middleware::from_fn(readers)));
    }
    router
}

/// Lets writers in, and tells the doors whose data it is.
async fn writers(caller: Caller, request: Request, next: Next) -> Response {
    with_role(caller, Role::Write, request, next).await
}

async fn readers(caller: Caller, request: Request, next: Next) -> Response {
    with_role(caller, Role::Read, request, next).await
}

async fn with_role(caller: Caller, needed: Role, mut request: Request, next: Next) -> Response {
    if !caller.role.allows(needed) {
        return (StatusCode::FORBIDDEN, "the credential does not have the role this needs\n").into_response();
    }
    request.extensions_mut().insert(caller.tenant);
    next.run(request).await
}

async fn machine_page() -> Response {
    let Ok(families) = tokio::task::spawn_blocking(machine::collect).await else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "the collector panicked; the log has more\n")
            .into_response();
    };
    let mut page = TextWriter::new(Protocol::PrometheusText0_0_4);
    for family in &families {
        page.family(&family.name, family.metric_type, &family.help);
        for sample in &family.samples {
            let labels = sample.labels.iter().map(|(name, value)| (*name, value.as_str()));
            page.sample(&family.name, labels, sample.value, None);
        }
    }
    ([(header::CONTENT_TYPE, EXPOSITION)], page.finish()).into_response()
}
