//! A fleet in memory, readers with tokens, and a server in front of the proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use model::status::ActiveTarget;
use model::{Labels, TenantId};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use proxy::{
    Body, BoxFuture, Caller, ClusterState, Clusters, FetchRequest, Fleet, FleetError, FleetTarget, Options,
    Proxy, ProxyMetrics, ReaderError, Readers,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What a fake agent does when it is asked for a target.
pub(crate) type Fetching =
    Box<dyn Fn(&FetchRequest) -> BoxFuture<'static, Result<Response<Body>, FleetError>> + Send + Sync>;

/// A cluster of the fake fleet.
#[derive(Clone, Default)]
pub(crate) struct Cluster {
    pub(crate) connected: bool,
    pub(crate) targets: Vec<FleetTarget>,
}

/// A fleet in memory.
pub(crate) struct FakeFleet {
    pub(crate) clusters: parking_lot::Mutex<BTreeMap<(TenantId, String), Cluster>>,
    pub(crate) fetching: parking_lot::Mutex<Fetching>,
    pub(crate) asked: AtomicUsize,
}

impl FakeFleet {
    pub(crate) fn set(&self, tenant: &str, cluster: &str, connected: bool, targets: Vec<FleetTarget>) {
        let key = (TenantId::new(tenant).expect("a tenant"), cluster.to_owned());
        self.clusters.lock().insert(key, Cluster { connected, targets });
    }

    pub(crate) fn fetch_by<F, A>(&self, fetch: F)
    where
        F: Fn(&FetchRequest) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response<Body>, FleetError>> + Send + 'static,
    {
        *self.fetching.lock() = Box::new(move |request| Box::pin(fetch(request)));
    }
}

impl Fleet for FakeFleet {
    fn clusters(&self, tenant: &TenantId) -> Vec<ClusterState> {
        let clusters = self.clusters.lock();
        let own = clusters.iter().filter(|((owner, _), _)| owner == tenant);
        own.map(|((_, name), state)| ClusterState { name: name.clone(), connected: state.connected })
            .collect()
    }

    fn targets<'a>(
        &'a self,
        tenant: &'a TenantId,
        cluster: &'a str,
    ) -> BoxFuture<'a, Result<Vec<FleetTarget>, FleetError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let found = self.clusters.lock().get(&(tenant.clone(), cluster.to_owned())).cloned();
        Box::pin(async move {
            let found = found.ok_or(FleetError::UnknownCluster)?;
            if found.connected { Ok(found.targets) } else { Err(FleetError::NotConnected) }
        })
    }

    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Response<Body>, FleetError>> {
        let key = (request.tenant.clone(), request.cluster.clone());
        match self.clusters.lock().get(&key) {
            None => Box::pin(async { Err(FleetError::UnknownCluster) }),
            Some(found) if !found.connected => Box::pin(async { Err(FleetError::NotConnected) }),
            Some(_) => (self.fetching.lock())(&request),
        }
    }
}

/// `t-all` reads all of tenant `default`, `t-north` its cluster `north`, `t-other` tenant `other`;
/// `t-write` may only write.
pub(crate) struct Tokens;

impl Readers for Tokens {
    fn reader(&self, headers: &HeaderMap) -> Result<Caller, ReaderError> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let token = header.strip_prefix("Bearer ").unwrap_or_default();
        let (tenant, clusters) = match token {
            "t-all" => ("default", Clusters::All),
            "t-north" => ("default", Clusters::Only(BTreeSet::from(["north".to_owned()]))),
            "t-other" => ("other", Clusters::All),
            "t-write" => return Err(ReaderError::NotAllowed("this needs the role read".to_owned())),
            _ => return Err(ReaderError::Unknown),
        };
        let tenant = TenantId::new(tenant).map_err(|_| ReaderError::Unknown)?;
        Ok(Caller { tenant, clusters, key: token.into() })
    }
}

/// A proxy and what lies behind it.
pub(crate) struct Setup {
    pub(crate) fleet: Arc<FakeFleet>,
    pub(crate) proxy: Arc<Proxy>,
    registry: Registry,
}

pub(crate) fn setup(options: Options) -> Setup {
    let fleet = Arc::new(FakeFleet {
        clusters: parking_lot::Mutex::default(),
        fetching: parking_lot::Mutex::new(Box::new(|request| {
            let text = format!("scraped{{target=\"{}\"}} 1\n", request.target);
            Box::pin(async move { Ok(page(text)) })
        })),
        asked: AtomicUsize::new(0),
    });
    let mut registry = Registry::default();
    let metrics = ProxyMetrics::register(&mut registry);
    let proxy = Proxy::new(options, Arc::clone(&fleet) as Arc<dyn Fleet>, Arc::new(Tokens), metrics);
    Setup { fleet, proxy: Arc::new(proxy), registry }
}

impl Setup {
    /// Sends `GET uri` with headers straight to the proxy.
    pub(crate) async fn ask(&self, uri: &str, headers: &[(&str, &str)]) -> Response<Body> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(empty()).expect("a request");
        assert!(self.proxy.claims(&request), "{uri}");
        self.proxy.answer(request).await
    }

    /// As [`Setup::ask`], by one who may read everything; status and text.
    pub(crate) async fn get(&self, uri: &str) -> (u16, String) {
        text(self.ask(uri, &[("proxy-authorization", "Bearer t-all")]).await).await
    }

    /// All metrics.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("metrics");
        text
    }

    /// Serves the proxy and its lists at a free port.
    pub(crate) async fn serve(&self) -> Result<Server> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let proxy = Arc::clone(&self.proxy);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let proxy = Arc::clone(&proxy);
                let service = service_fn(move |request| {
                    let proxy = Arc::clone(&proxy);
                    async move { Ok::<_, Infallible>(answer(&proxy, request).await) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Ok(Server { addr, task })
    }
}

async fn answer(proxy: &Proxy, request: Request<hyper::body::Incoming>) -> Response<Body> {
    let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
    if proxy.claims(&request) {
        return proxy.answer(request).await;
    }
    let query = request.uri().query().unwrap_or_default();
    match (Tokens.reader(request.headers()), request.uri().path()) {
        (Ok(caller), "/sd/v1/targets") => proxy.targets(&caller, query).await,
        (Ok(caller), "/sd/v1/pushprox") => proxy.pushprox_clients(&caller, query),
        _ => {
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            response
        }
    }
}

/// A server; ends when dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn all() -> Caller {
    Caller { tenant: TenantId::default(), clusters: Clusters::All, key: "t-all".into() }
}

pub(crate) fn empty() -> Body {
    body("")
}

pub(crate) fn body(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// An exposition page.
pub(crate) fn page(text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(body(text));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static(testkit::target::TEXT));
    response
}

pub(crate) async fn text(response: Response<Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// A target as an agent tells it.
pub(crate) fn target(id: &str, url: &str, labels: &[(&str, &str)]) -> FleetTarget {
    let discovered = [("__address__", "10.0.0.1:9100"), ("__meta_kubernetes_pod_name", "api-0")];
    FleetTarget {
        id: id.to_owned(),
        state: ActiveTarget {
            scrape_pool: "pool".to_owned(),
            discovered_labels: Labels::from_pairs(discovered),
            labels: Labels::from_pairs(labels.iter().copied()),
            scrape_url: url.to_owned(),
            scrape_interval_ms: Duration::from_secs(15).as_millis() as i64,
            scrape_timeout_ms: Duration::from_secs(10).as_millis() as i64,
            ..ActiveTarget::default()
        },
    }
}
