//! PushProx' hub side: existing clients poll us, existing Prometheus servers scrape through us.
//!
//! Each tenant and cluster that has such clients has a door: `<prefix>/<cluster>/<secret>/`, below which
//! `poll`, `push` and `clients` are PushProx' own paths (a client's `--proxy-url` is the door). A scrape
//! names the client as PushProx has it, by host name alone; where two clusters have a client of the same
//! name, the answer lists the names that tell them apart, `<name>.<cluster>.pushprox.<suffix>`.
//!
//! Beyond PushProx: doors keep clusters and tenants apart, an answer is taken only from the door its
//! scrape went to, bodies stream, whatever a client can make us remember is bounded, `clients` lists
//! whoever holds a poll however old, a name nobody has is refused at once, and polls that are held for
//! long are ended so that dead ones are noticed.
//!
//! Source: PushProx `cmd/proxy/{main,coordinator}.go`, `cmd/client/main.go`.

pub(crate) mod message;
mod registry;

use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use model::{LabelsBuilder, TenantId};
use parking_lot::RwLock;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use crate::bodies::{Handed, Passing, Piece};
use crate::fleet::Caller;
use crate::forward::Scrape;
use crate::headers::{SCRAPE_TIMEOUT, strip_hop_by_hop};
use crate::metrics::ProxyMetrics;
use crate::refusal::{Refusal, plain, whole};
use crate::sd::{self, Filter, Naming};
use crate::{Body, names};

use message::{Framing, PushedHead, UnreadableMessage};
use registry::{Job, NotHanded, Poll, Registry};

/// Names a scrape in requests and pushes.
const ID: HeaderName = HeaderName::from_static("id");
/// What clients call the remaining time in a push; the proxy's name for it is another.
const PUSHED_TIMEOUT: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout");
/// Longest name of a client, bytes.
const NAME_BYTES_MAX: usize = 253;
/// Pieces of a pushed body between its sender and its reader.
const PIECES: usize = 4;
/// The label before the suffix in qualified names.
const OF_SUFFIX: &str = "pushprox";

/// Settings; they hold for the life of the program.
#[derive(Debug, Clone, PartialEq)]
pub struct PushProxOptions {
    /// Where the doors are, `/pushprox` for instance.
    pub prefix: String,
    /// How long a client is listed after its last poll, and the longest that a poll is held.
    pub registration_timeout: Duration,
    /// Most clients of all doors together: each holds a connection.
    pub clients_max: usize,
}

impl Default for PushProxOptions {
    fn default() -> PushProxOptions {
        PushProxOptions {
            prefix: "/pushprox".to_owned(),
            registration_timeout: Duration::from_secs(300),
            clients_max: 2048,
        }
    }
}

/// Where clients of one tenant and cluster come in.
#[derive(Clone)]
pub struct Door {
    /// Whose clients.
    pub tenant: TenantId,
    /// Of which cluster.
    pub cluster: String,
    /// The last part of the path; whoever knows it may poll and push.
    pub secret: String,
}

/// Prints no secret.
impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Door({}, {}, <secret>)", self.tenant, self.cluster)
    }
}

/// What a door is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DoorId {
    pub(crate) cluster: String,
    pub(crate) tenant: TenantId,
}

struct OpenDoor {
    id: Arc<DoorId>,
    /// The cluster's name as it stands in the path.
    name: String,
    secret: Vec<u8>,
}

/// All doors.
pub(crate) struct PushProx {
    options: PushProxOptions,
    naming: Naming,
    doors: RwLock<Arc<Vec<OpenDoor>>>,
    registry: Arc<Registry>,
    metrics: ProxyMetrics,
    stopped: Notify,
}

impl PushProx {
    pub(crate) fn new(options: PushProxOptions, naming: Naming, metrics: ProxyMetrics) -> PushProx {
        let registry = Arc::new(Registry::new(options.registration_timeout, options.clients_max));
        PushProx { options, naming, doors: RwLock::default(), registry, metrics, stopped: Notify::new() }
    }

    pub(crate) fn install(&self, doors: Vec<Door>) {
        let open = |door: Door| OpenDoor {
            name: names::encode(&door.cluster),
            id: Arc::new(DoorId { tenant: door.tenant, cluster: door.cluster }),
            secret: door.secret.into_bytes(),
        };
        let doors: Vec<OpenDoor> = doors.into_iter().map(open).collect();
        self.registry.keep_doors(|id| doors.iter().any(|door| *door.id == *id));
        *self.doors.write() = Arc::new(doors);
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.doors.read().is_empty()
    }

    pub(crate) fn claims(&self, path: &str) -> bool {
        self.is_open() && path.strip_prefix(&self.options.prefix).is_some_and(|rest| rest.starts_with('/'))
    }

    pub(crate) fn stop(&self) {
        self.registry.clear();
        self.stopped.notify_waiters();
    }

    /// A request below the prefix: from a client, or for the list of them.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let begin = StdInstant::now();
        let Some((door, verb)) = self.door(request.uri().path()) else {
            // One answer for a wrong cluster, secret and path alike.
            self.metrics.pushprox("other", 404, begin);
            return plain(StatusCode::NOT_FOUND, "no such PushProx door\n");
        };
        let (path, response) = match verb {
            Verb::Poll => ("/poll", self.poll(&door, request.into_body()).await),
            Verb::Push => ("/push", self.push(&door, request.into_body()).await),
            Verb::Clients => ("/clients", self.clients(&door)),
        };
        let clients = i64::try_from(self.registry.len()).unwrap_or(i64::MAX);
        self.metrics.pushprox_clients.set(clients);
        self.metrics.pushprox(path, response.status().as_u16(), begin);
        response
    }

    /// Has a client scrape `host`, which is its name or its qualified name.
    pub(crate) async fn scrape(
        &self,
        caller: &Caller,
        host: &str,
        scrape: Scrape,
    ) -> Result<Response<Body>, Refusal> {
        let outcome = self.scrape_by(caller, host, scrape).await;
        let code = outcome.as_ref().map_or_else(|refusal| refusal.status, Response::status);
        self.metrics.pushproxied(code.as_u16());
        outcome
    }

    /// `/sd/v1/pushprox`: a group for each client, with its cluster.
    pub(crate) fn list(&self, caller: &Caller, query: &str) -> Result<Response<Body>, Refusal> {
        let filter = Filter::read(query)?;
        let visible = |door: &DoorId| door.tenant == caller.tenant && caller.clusters.contains(&door.cluster);
        let known: Vec<String> =
            self.doors.read().iter().filter(|d| visible(&d.id)).map(|d| d.id.cluster.clone()).collect();
        if let Some(name) = filter.unknown(&known) {
            let message =
                format!("no PushProx door is open for cluster {name}, or the credential may not see it");
            return Err(Refusal::new("unknown_cluster", StatusCode::NOT_FOUND, message));
        }
        let mut out = vec![b'['];
        for (door, name) in self.registry.clients(visible) {
            let mut labels = LabelsBuilder::default();
            labels.set(&self.naming.cluster_label, &door.cluster);
            labels.set("__meta_pushprox_client", &name);
            if !filter.has_cluster(&door.cluster) || !filter.matches(&labels) {
                continue;
            }
            if out.len() > 1 {
                out.push(b',');
            }
            sd::group(&mut out, &self.qualified(&name, &door.cluster), &labels);
        }
        out.extend_from_slice(b"]\n");
        Ok(sd::json(whole(out)))
    }

    fn door(&self, path: &str) -> Option<(Arc<DoorId>, Verb)> {
        let mut parts = path.strip_prefix(&self.options.prefix)?.strip_prefix('/')?.splitn(3, '/');
        let (cluster, secret, verb) = (parts.next()?, parts.next()?, parts.next()?);
        // A client appends a slash to its `--proxy-url`, whatever that ends in.
        let verb = match verb.trim_start_matches('/') {
            "poll" => Verb::Poll,
            "push" => Verb::Push,
            "clients" => Verb::Clients,
            _ => return None,
        };
        let mut found = None;
        for door in self.doors.read().iter() {
            // All secrets are compared, so that the time tells nothing.
            let same = same(secret.as_bytes(), &door.secret);
            if same && door.name == cluster {
                found = Some(Arc::clone(&door.id));
            }
        }
        found.map(|door| (door, verb))
    }

    /// Holds a poll until there is a scrape for the client.
    async fn poll(&self, door: &Arc<DoorId>, body: Body) -> Response<Body> {
        let name = match read_name(body).await {
            Ok(name) => name,
            Err(why) => return plain(StatusCode::BAD_REQUEST, format!("Error reading the name: {why}\n")),
        };
        let key = (Arc::clone(door), name.to_ascii_lowercase());
        let Some(poll) = self.registry.poll(key, &name) else {
            let message =
                format!("this hub has {} PushProx clients and takes no more\n", self.options.clients_max);
            return plain(StatusCode::SERVICE_UNAVAILABLE, message);
        };
        let job = match poll {
            Poll::Job(job) => Some(job),
            Poll::Wait(mut waiting) => {
                let stopped = self.stopped.notified();
                tokio::select! {
                    job = timeout(self.hold(), waiting.job()) => job.ok().flatten(),
                    () = stopped => None,
                }
            }
        };
        match job {
            Some(job) => Response::new(whole(written(job, &name))),
            // What PushProx answers to a poll that another one has taken the place of. Clients poll again.
            None => {
                plain(StatusCode::REQUEST_TIMEOUT, "Error WaitForScrapeInstruction: request is expired\n")
            }
        }
    }

    /// How long a poll is held: not quite the same for all, so that clients do not come back together.
    fn hold(&self) -> Duration {
        self.options.registration_timeout.mul_f64(0.8 + 0.2 * rand::random::<f64>())
    }

    /// Takes an answer and hands it, while it comes, to whom it is for.
    async fn push(&self, door: &DoorId, mut body: Body) -> Response<Body> {
        match self.take_push(door, &mut body).await {
            Ok(()) => Response::new(whole(Bytes::new())),
            Err(why) => {
                tracing::debug!(tenant = %door.tenant, cluster = door.cluster, %why, "a PushProx push");
                plain(StatusCode::INTERNAL_SERVER_ERROR, format!("Error pushing: {why}\n"))
            }
        }
    }

    async fn take_push(&self, door: &DoorId, body: &mut Body) -> Result<(), PushError> {
        let mut bytes = BytesMut::new();
        let head = loop {
            if let Some(head) = PushedHead::read(&mut bytes)? {
                break head;
            }
            let more = next_data(body).await?.ok_or(UnreadableMessage::Short)?;
            bytes.extend_from_slice(&more);
        };
        let id = head.headers.get(ID).and_then(|id| id.to_str().ok()).ok_or(PushError::NoId)?;
        let answer = self.registry.take_pending(door, id).ok_or(PushError::Nobody)?;
        let mut framing = head.framing()?;
        let (sender, pieces) = mpsc::channel(PIECES);
        let mut response = Response::new(Handed::new(pieces).boxed_unsync());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        for name in [ID, PUSHED_TIMEOUT, HeaderName::from_static(SCRAPE_TIMEOUT)] {
            response.headers_mut().remove(name);
        }
        strip_hop_by_hop(response.headers_mut());
        if matches!(framing, Framing::Chunked(_)) {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        answer.send(response).map_err(|_| PushError::Nobody)?;
        pump(body, bytes, &mut framing, sender).await
    }

    /// PushProx' own list: names, no labels.
    fn clients(&self, door: &Arc<DoorId>) -> Response<Body> {
        let clients = self.registry.clients(|id| *id == **door);
        let groups = clients.iter().map(|(_, name)| serde_json::json!({"targets": [**name], "labels": null}));
        let mut text = serde_json::Value::from_iter(groups).to_string();
        text.push('\n');
        sd::json(whole(text))
    }

    async fn scrape_by(
        &self,
        caller: &Caller,
        host: &str,
        Scrape { request, deadline, held }: Scrape,
    ) -> Result<Response<Body>, Refusal> {
        if request.method != Method::GET {
            let message = format!("{} is not passed on to clients: they are scraped by GET", request.method);
            return Err(Refusal::new("method", StatusCode::METHOD_NOT_ALLOWED, message));
        }
        let (door, name) = self.client(caller, host)?;
        let job = job(request, deadline);
        let place = format!("PushProx client {name} of cluster {}", door.cluster);
        let mut answer =
            self.registry.hand(&(Arc::clone(&door), name.clone()), job).map_err(|why| match why {
                NotHanded::Unknown => unknown_client(host),
                NotHanded::Full => Refusal::new(
                    "busy",
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("{place} does not poll fast enough: too many scrapes wait for it"),
                ),
            })?;
        let response = match timeout_at(deadline, answer.wait()).await {
            Ok(Some(response)) => response,
            Ok(None) => {
                let message = format!("{place} was let go before it answered");
                return Err(Refusal::new("failed", StatusCode::BAD_GATEWAY, message));
            }
            Err(_) => {
                let why =
                    if answer.is_in_line() { "did not poll" } else { "took the scrape and did not answer" };
                let message = format!("{place} {why} in time");
                return Err(Refusal::new("timeout", StatusCode::GATEWAY_TIMEOUT, message));
            }
        };
        let bytes = self.metrics.body_bytes.clone();
        Ok(response.map(|body| Passing::new(body, deadline, bytes, held).boxed_unsync()))
    }

    /// The one client that `host` means.
    fn client(&self, caller: &Caller, host: &str) -> Result<(Arc<DoorId>, String), Refusal> {
        let doors: Vec<Arc<DoorId>> = {
            let all = Arc::clone(&self.doors.read());
            let visible = all
                .iter()
                .map(|door| &door.id)
                .filter(|id| id.tenant == caller.tenant && caller.clusters.contains(&id.cluster));
            visible.cloned().collect()
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if let Some((name, cluster)) = self.parse_qualified(host) {
            let door = doors.iter().find(|door| door.cluster == cluster);
            let known = door.map(|door| self.registry.doors_of(std::slice::from_ref(door), &name));
            let door =
                known.and_then(|known| known.into_iter().next()).ok_or_else(|| unknown_client(host))?;
            return Ok((door, name));
        }
        let name = host.to_ascii_lowercase();
        let mut known = self.registry.doors_of(&doors, &name);
        known.sort();
        match known.as_slice() {
            [] => Err(unknown_client(host)),
            [door] => Ok((Arc::clone(door), name)),
            several => {
                let names: Vec<String> =
                    several.iter().map(|door| self.qualified(&name, &door.cluster)).collect();
                let message =
                    format!("{host} is a client of several clusters; ask for {}", names.join(" or "));
                Err(Refusal::new("ambiguous", StatusCode::CONFLICT, message))
            }
        }
    }

    /// The name that tells a client from its namesakes: its own, cluster and suffix behind it.
    fn qualified(&self, name: &str, cluster: &str) -> String {
        let name = name.to_ascii_lowercase();
        let plain = name.split('.').all(|label| names::encode(label) == label);
        let name = if plain { name } else { names::encode(&name) };
        format!("{name}.{}.{OF_SUFFIX}.{}", names::encode(cluster), self.naming.suffix)
    }

    /// Name in lower case and cluster of a qualified name.
    fn parse_qualified(&self, host: &str) -> Option<(String, String)> {
        let below = names::below(host, &format!("{OF_SUFFIX}.{}", self.naming.suffix))?;
        let (name, cluster) = names::split_cluster(&below)?;
        Some((names::decode(name).unwrap_or_else(|| name.to_owned()), names::decode(cluster)?))
    }
}

/// Why a push is not taken, or not to its end.
#[derive(Debug, thiserror::Error)]
enum PushError {
    #[error("{0}")]
    Unreadable(#[from] UnreadableMessage),
    #[error("{0}")]
    Body(String),
    #[error("the answer has no Id")]
    NoId,
    #[error("nobody waits for this answer")]
    Nobody,
    #[error("the scraper has gone")]
    Gone,
}

enum Verb {
    Poll,
    Push,
    Clients,
}

fn unknown_client(host: &str) -> Refusal {
    let message = format!("no PushProx client polls as {host}, or the credential may not see it");
    Refusal::new("unknown_target", StatusCode::NOT_FOUND, message)
}

/// What a client is to fetch.
fn job(mut request: Parts, deadline: Instant) -> Job {
    strip_hop_by_hop(&mut request.headers);
    let id = random_id();
    if let Ok(value) = HeaderValue::from_str(&id) {
        request.headers.insert(ID, value);
    }
    Job { id, deadline, uri: request.uri, headers: request.headers }
}

/// The request for a client that goes by `name`, with what is left of its time: clients refuse one
/// without.
fn written(mut job: Job, name: &str) -> Bytes {
    let left = job.deadline.saturating_duration_since(Instant::now());
    if let Ok(left) = HeaderValue::from_str(&format!("{:.3}", left.as_secs_f64())) {
        job.headers.insert(SCRAPE_TIMEOUT, left);
    }
    message::write_request(name, &job.uri, &job.headers)
}

/// A random UUID. Source: RFC 9562 section 5.4.
fn random_id() -> String {
    let bits = (rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62)) | (4 << 76) | (2 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The name in the body of a poll.
async fn read_name(mut body: Body) -> Result<String, String> {
    let mut text = Vec::new();
    while let Some(more) = next_data(&mut body).await.map_err(|error| error.to_string())? {
        // Some room for what is trimmed.
        if text.len() + more.len() > 2 * NAME_BYTES_MAX {
            return Err(format!("it has more than {NAME_BYTES_MAX} characters"));
        }
        text.extend_from_slice(&more);
    }
    let name = std::str::from_utf8(text.trim_ascii()).map_err(|_| "it is not UTF-8")?;
    let graphic = name.bytes().all(|b| b.is_ascii_graphic() && !b"/?#@[]\\\"<>".contains(&b));
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !graphic {
        return Err(format!("1 to {NAME_BYTES_MAX} characters of a host name are wanted"));
    }
    Ok(name.to_owned())
}

/// Moves a body from its push to its reader.
async fn pump(
    body: &mut Body,
    mut bytes: BytesMut,
    framing: &mut Framing,
    to: mpsc::Sender<Piece>,
) -> Result<(), PushError> {
    loop {
        while let Some(piece) = framing.next(&mut bytes)? {
            to.send(Piece::Data(piece)).await.map_err(|_| PushError::Gone)?;
        }
        if framing.has_ended() {
            break;
        }
        let more = tokio::select! {
            more = next_data(body) => more?,
            () = to.closed() => return Err(PushError::Gone),
        };
        match more {
            Some(more) => bytes.extend_from_slice(&more),
            None if framing.may_end() => break,
            None => return Err(UnreadableMessage::Short.into()),
        }
    }
    to.send(Piece::End).await.map_err(|_| PushError::Gone)?;
    Ok(())
}

/// The next data of a body; `None` at its end.
async fn next_data(body: &mut Body) -> Result<Option<Bytes>, PushError> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| PushError::Body(error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Compares in a time that depends on the length of `given` only.
fn same(given: &[u8], secret: &[u8]) -> bool {
    if secret.is_empty() {
        return false;
    }
    let mut difference = u8::from(given.len() != secret.len());
    for (at, byte) in given.iter().enumerate() {
        difference |= std::hint::black_box(byte ^ secret[at % secret.len()]);
    }
    std::hint::black_box(difference) == 0
}
