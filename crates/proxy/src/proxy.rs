//! The proxy as a whole: which requests are its own, who sends them, and where they go.

use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, PROXY_AUTHORIZATION};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::bodies::Held;
use crate::directory::Directory;
use crate::fleet::{Caller, Fleet, ReaderError, Readers};
use crate::forward::Scrape;
use crate::headers::scrape_timeout;
use crate::limits::Places;
use crate::metrics::ProxyMetrics;
use crate::pushprox::{Door, PushProx, PushProxOptions};
use crate::refusal::Refusal;
use crate::sd::{self, Naming};
use crate::{Body, BoxFuture, forward, names};

/// Settings; they hold for the life of the program.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// What host names of targets end in; in lower case, without a dot at either end.
    pub host_suffix: String,
    /// The label that holds the cluster's name.
    pub cluster_label: String,
    /// Requests for targets that one caller may have under way; more wait.
    pub requests_per_caller: usize,
    /// How long a caller waits that does not say so.
    pub default_timeout: Duration,
    /// The longest a caller may wait.
    pub max_timeout: Duration,
    /// PushProx clients.
    pub pushprox: PushProxOptions,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            host_suffix: "marigraph.internal".to_owned(),
            cluster_label: "cluster".to_owned(),
            requests_per_caller: 512,
            default_timeout: Duration::from_secs(15),
            max_timeout: Duration::from_secs(300),
            pushprox: PushProxOptions::default(),
        }
    }
}

/// Other people's tools on their way to targets.
pub struct Proxy {
    options: Options,
    naming: Naming,
    directory: Arc<Directory>,
    readers: RwLock<Arc<dyn Readers>>,
    places: Places,
    pushprox: PushProx,
    metrics: ProxyMetrics,
    started: Instant,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Proxy {
    /// A proxy to the targets of `fleet` for those whom `readers` knows.
    pub fn new(
        options: Options,
        fleet: Arc<dyn Fleet>,
        readers: Arc<dyn Readers>,
        metrics: ProxyMetrics,
    ) -> Proxy {
        let naming = Naming {
            suffix: options.host_suffix.as_str().into(),
            cluster_label: options.cluster_label.as_str().into(),
        };
        Proxy {
            directory: Arc::new(Directory::new(fleet)),
            readers: RwLock::new(readers),
            places: Places::new(options.requests_per_caller),
            pushprox: PushProx::new(options.pushprox.clone(), naming.clone(), metrics.clone()),
            metrics,
            naming,
            started: Instant::now(),
            options,
        }
    }

    /// Puts other readers and PushProx doors in force; clients of doors that stay go on polling.
    pub fn install(&self, readers: Arc<dyn Readers>, doors: Vec<Door>) {
        *self.readers.write() = readers;
        self.pushprox.install(doors);
    }

    /// Whether [`Proxy::answer`] is for this request: one in absolute form, `CONNECT`, or one below a
    /// PushProx door. A request over HTTP/2 always names an authority; it is a proxy's when that is below
    /// the suffix, or when it carries a proxy's credential.
    pub fn claims<B>(&self, request: &Request<B>) -> bool {
        self.is_for_elsewhere(request)
            || request.method() == Method::CONNECT
            || self.pushprox.claims(request.uri().path())
    }

    fn is_for_elsewhere<B>(&self, request: &Request<B>) -> bool {
        let Some(host) = request.uri().host() else { return false };
        request.version() < Version::HTTP_2
            || names::below(host, &self.options.host_suffix).is_some()
            || request.headers().contains_key(PROXY_AUTHORIZATION)
    }

    /// Answers a request that [`Proxy::claims`]; callers prove who they are in it.
    pub fn answer(&self, request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        Box::pin(self.answer_counted(request))
    }

    async fn answer_counted(&self, request: Request<Body>) -> Response<Body> {
        if request.method() != Method::CONNECT && !self.is_for_elsewhere(&request) {
            return self.pushprox.answer(request).await;
        }
        let begin = StdInstant::now();
        let (door, answer) = self.pass_on(request).await;
        match answer {
            Ok(response) => {
                self.metrics.requested(door, "passed", begin);
                response
            }
            Err(refusal) => {
                self.metrics.requested(door, refusal.outcome, begin);
                tracing::debug!(door, status = %refusal.status, why = refusal.message, "not passed on");
                refusal.response()
            }
        }
    }

    /// `/sd/v1/targets`: the targets that `caller` may see, for HTTP service discovery.
    pub async fn targets(&self, caller: &Caller, query: &str) -> Response<Body> {
        let begin = StdInstant::now();
        let answer = sd::targets(&self.directory, &self.naming, caller, query, self.started).await;
        self.listed("targets", answer, begin)
    }

    /// `/sd/v1/pushprox`: the PushProx clients that `caller` may see, with their cluster.
    pub fn pushprox_clients(&self, caller: &Caller, query: &str) -> Response<Body> {
        let begin = StdInstant::now();
        self.listed("pushprox_clients", self.pushprox.list(caller, query), begin)
    }

    /// Lets PushProx clients go, which would otherwise hold their connections to the end.
    pub fn stop(&self) {
        self.pushprox.stop();
    }

    fn listed(
        &self,
        door: &'static str,
        answer: Result<Response<Body>, Refusal>,
        begin: StdInstant,
    ) -> Response<Body> {
        let outcome = answer.as_ref().map_or_else(|refusal| refusal.outcome, |_| "passed");
        self.metrics.requested(door, outcome, begin);
        answer.unwrap_or_else(|refusal| refusal.response())
    }

    async fn pass_on(&self, request: Request<Body>) -> (&'static str, Result<Response<Body>, Refusal>) {
        const FORWARD: &str = "forward";
        if request.method() == Method::CONNECT {
            let message = format!(
                "CONNECT is not offered: ask for targets as http://TARGET.CLUSTER.{}/PATH, TLS is the agent's part",
                self.options.host_suffix
            );
            return (FORWARD, Err(Refusal::new("method", StatusCode::METHOD_NOT_ALLOWED, message)));
        }
        let (parts, _) = request.into_parts();
        let caller = match self.caller(&parts.headers) {
            Ok(caller) => caller,
            Err(refusal) => return (FORWARD, Err(refusal)),
        };
        let host = parts.uri.host().unwrap_or_default().to_owned();
        let target = names::parse_target_host(&host, &self.options.host_suffix);
        if target.is_none() && self.pushprox.is_open() {
            let door = "pushprox";
            return (door, self.through_pushprox(&caller, &host, parts).await);
        }
        let Some(target) = target else {
            let message = format!(
                "{host} is not a target behind this hub: those are TARGET.CLUSTER.{}, as /sd/v1/targets lists them",
                self.options.host_suffix
            );
            return (FORWARD, Err(Refusal::new("unknown_host", StatusCode::NOT_FOUND, message)));
        };
        (FORWARD, self.through_tunnel(&caller, target, parts).await)
    }

    async fn through_tunnel(
        &self,
        caller: &Caller,
        target: (String, String),
        parts: Parts,
    ) -> Result<Response<Body>, Refusal> {
        let scrape = self.admit(caller, parts).await?;
        forward::fetch(&self.directory, &self.metrics, caller, target, scrape).await
    }

    async fn through_pushprox(
        &self,
        caller: &Caller,
        host: &str,
        mut parts: Parts,
    ) -> Result<Response<Body>, Refusal> {
        // Beside a credential for us, another one is for the target.
        if !parts.headers.contains_key(PROXY_AUTHORIZATION) {
            parts.headers.remove(AUTHORIZATION);
        }
        let scrape = self.admit(caller, parts).await?;
        self.pushprox.scrape(caller, host, scrape).await
    }

    /// Waits until the caller may have one more request under way.
    async fn admit(&self, caller: &Caller, request: Parts) -> Result<Scrape, Refusal> {
        let deadline = self.deadline(&request.headers);
        let place = self.places.take(&caller.key, deadline).await;
        let place = place.ok_or_else(|| {
            let message = format!("{} requests of this credential are under way already", self.places.each());
            Refusal::new("busy", StatusCode::SERVICE_UNAVAILABLE, message)
        })?;
        Ok(Scrape { request, deadline, held: Held::new(self.metrics.in_flight.clone(), place) })
    }

    /// When an answer has to be on its way: a little before the caller gives up, so that it learns why.
    fn deadline(&self, headers: &HeaderMap) -> Instant {
        let timeout = scrape_timeout(headers, self.options.default_timeout, self.options.max_timeout);
        Instant::now() + timeout - (timeout / 10).min(Duration::from_millis(250))
    }

    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let readers = Arc::clone(&self.readers.read());
        let mut why = ReaderError::Unknown;
        for presented in credentials(headers) {
            match readers.reader(&presented) {
                Ok(caller) => return Ok(caller),
                Err(ReaderError::Unknown) => {}
                Err(other) => why = other,
            }
        }
        Err(match why {
            ReaderError::Unknown => Refusal::new(
                "unauthorized",
                StatusCode::PROXY_AUTHENTICATION_REQUIRED,
                "this proxy wants a credential: proxy_url http://x:TOKEN@HUB, or authorization on the job",
            ),
            ReaderError::NotAllowed(why) => Refusal::new("forbidden", StatusCode::FORBIDDEN, why),
        })
    }
}

/// The ways to read what a request presents, as headers with one `authorization`: the proxy's own field
/// first, of basic credentials also the password as a token, and without any the empty set.
fn credentials(headers: &HeaderMap) -> Vec<HeaderMap> {
    let presented = headers.get(PROXY_AUTHORIZATION).or_else(|| headers.get(AUTHORIZATION));
    let Some(presented) = presented else { return vec![HeaderMap::new()] };
    let one = |value: HeaderValue| HeaderMap::from_iter([(AUTHORIZATION, value)]);
    let mut ways = vec![one(presented.clone())];
    let basic = presented.to_str().ok().and_then(|text| text.split_once(' '));
    let basic = basic.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"));
    let password = basic.and_then(|(_, rest)| STANDARD.decode(rest.trim()).ok());
    let password = password.and_then(|pair| pair.splitn(2, |b| *b == b':').nth(1).map(<[u8]>::to_vec));
    let bearer =
        password.filter(|token| !token.is_empty()).map(|token| [b"Bearer ", token.as_slice()].concat());
    if let Some(Ok(mut bearer)) = bearer.map(|value| HeaderValue::from_bytes(&value)) {
        bearer.set_sensitive(true);
        ways.push(one(bearer));
    }
    ways
}
