//! Where `proxy` sits in the hub: in front of everything for requests that are a proxy's, and beside the
//! other doors for its lists.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::get;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Uri};
use http_body_util::BodyExt;
use proxy::{Clusters, Proxy, ReaderError};
use tower::ServiceExt;
use web::{Auth, Role};

/// Lets `proxy` answer what is its own; everything else goes to `inner`.
pub(super) fn in_front(proxy: Arc<Proxy>, inner: Router) -> Router {
    let divert = move |request: Request| {
        let (proxy, inner) = (Arc::clone(&proxy), inner.clone());
        async move {
            if !proxy.claims(&request) {
                return inner.oneshot(request).await.unwrap_or_else(|never| match never {});
            }
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            proxy.answer(request).await.map(Body::new)
        }
    };
    Router::new().fallback(divert)
}

/// The lists for service discovery, to be mounted behind `web`'s authentication.
pub(super) fn lists(proxy: &Arc<Proxy>) -> Router {
    let (targets, clients) = (Arc::clone(proxy), Arc::clone(proxy));
    let list_targets = async move |caller: web::Caller, headers: HeaderMap, uri: Uri| -> Response {
        let query = uri.query().unwrap_or_default();
        match reader(&caller, &headers) {
            Ok(caller) => targets.targets(&caller, query).await.map(Body::new),
            Err(why) => forbidden(&why),
        }
    };
    let list_clients = async move |caller: web::Caller, headers: HeaderMap, uri: Uri| -> Response {
        match reader(&caller, &headers) {
            Ok(caller) => clients.pushprox_clients(&caller, uri.query().unwrap_or_default()).map(Body::new),
            Err(why) => forbidden(&why),
        }
    };
    Router::new().route("/sd/v1/targets", get(list_targets)).route("/sd/v1/pushprox", get(list_clients))
}

fn forbidden(why: &ReaderError) -> Response {
    let mut response = Response::new(Body::from(format!("{why}\n")));
    *response.status_mut() = http::StatusCode::FORBIDDEN;
    response
}

/// Those whom `web` knows, as far as they may read.
pub(super) struct Readers(pub(super) Arc<Auth>);

impl proxy::Readers for Readers {
    fn reader(&self, headers: &HeaderMap) -> Result<proxy::Caller, ReaderError> {
        reader(&self.0.caller(headers, None).ok_or(ReaderError::Unknown)?, headers)
    }
}

fn reader(caller: &web::Caller, headers: &HeaderMap) -> Result<proxy::Caller, ReaderError> {
    if !caller.role.allows(Role::Read) {
        return Err(ReaderError::NotAllowed("the credential does not have the role this needs".to_owned()));
    }
    // One credential is one caller; what it is must not be readable from the key.
    let mut hasher = DefaultHasher::new();
    headers.get(AUTHORIZATION).hash(&mut hasher);
    let key = format!("{}/{:016x}", caller.tenant, hasher.finish()).into();
    let clusters = match &*caller.clusters {
        [] => Clusters::All,
        some => Clusters::Only(some.iter().cloned().collect()),
    };
    Ok(proxy::Caller { tenant: caller.tenant.clone(), clusters, key })
}
