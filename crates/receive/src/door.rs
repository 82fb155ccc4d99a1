//! The HTTP side: what is asked, and what is answered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use model::TenantId;
use parking_lot::Mutex;
use stdx::clock::Clock;
use storage::{Appender, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::remote_write::{SnappyError, snappy_decode, v1};

use crate::admission::Admission;
use crate::config::{ReceiveConfig, SyncPolicy};
use crate::intake::{Bounds, GatherError, Intake};
use crate::metrics::{Answer as AnswerLabels, FoundBy, ReceiveMetrics};
use crate::tally::Refusal;
use crate::tenant::{Taken, TenantDoor};

/// Unpacked bodies whose memory is kept for the next request, and how much of it each.
const BUFFERS_MAX: usize = 8;
const BUFFER_BYTES_MAX: usize = 8 << 20;

/// How many times its unpacked size the labels of a 2.0 request may have when spelled out.
const SPELLED_OUT_MAX: usize = 8;

/// What the doors work on.
#[derive(Clone)]
pub struct ReceiveState {
    /// Where rows go.
    pub appender: Arc<dyn Appender>,
    /// Tells what lies too far ahead.
    pub clock: Arc<dyn Clock>,
    /// Limits.
    pub config: ReceiveConfig,
    /// Our own figures, registered by [`ReceiveMetrics::register`].
    pub metrics: ReceiveMetrics,
}

/// The door at `POST /api/v1/write`, remote write 1.0 and 2.0.
///
/// The tenant is taken from a [`TenantId`] in the request's extensions, put there by whoever
/// authenticates; without one it is the default tenant. Who may write is not decided here.
///
/// Answers: 204 when everything was taken; 400 when something was not (the rest was), or when the
/// request cannot be read (nothing was); 413 for bodies over a limit; 415 for another content type
/// or encoding; 503 with `Retry-After` when the store takes nothing at the moment; 500 when it
/// failed, after which sending again makes sense.
pub fn router(state: ReceiveState) -> Router {
    let permits = Arc::new(Semaphore::new(state.config.concurrency_max.max(1)));
    let arriving_kib_max = u32::try_from(state.config.arriving_bytes_max >> 10).unwrap_or(u32::MAX).max(1);
    let arriving = Semaphore::new(arriving_kib_max as usize);
    let (tenants, buffers) = (Mutex::default(), Mutex::default());
    let door = Door { state, tenants, buffers, permits, arriving, arriving_kib_max };
    Router::new().route("/api/v1/write", post(write)).with_state(Arc::new(door))
}

struct Door {
    state: ReceiveState,
    tenants: Mutex<HashMap<TenantId, Arc<TenantDoor>>>,
    buffers: Mutex<Vec<Vec<u8>>>,
    permits: Arc<Semaphore>,
    /// KiB of bodies that may arrive.
    arriving: Semaphore,
    arriving_kib_max: u32,
}

/// The two messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// What a request is answered.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    /// Without final line break; empty for none.
    text: String,
    taken: Taken,
    retry_after: bool,
}

impl Answer {
    fn of(status: StatusCode, text: impl Into<String>) -> Answer {
        Answer { status, text: text.into(), taken: Taken::default(), retry_after: false }
    }
}

async fn write(State(door): State<Arc<Door>>, request: Request<Body>) -> Response {
    let (version, answer) = match negotiate(request.headers()) {
        Ok(version) => (Some(version), door.receive(version, request).await),
        Err(text) => (None, Answer::of(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)),
    };
    let version_label = match version {
        Some(Version::V1) => "1.0",
        Some(Version::V2) => "2.0",
        None => "unknown",
    };
    let labels = AnswerLabels { version: version_label, code: answer.status.as_u16() };
    door.state.metrics.requests.get_or_create(&labels).inc();
    door.respond(version, answer)
}

/// Which message the body holds.
///
/// Source: remote write 2.0, "Content Negotiation"; without `proto` it is a 1.0 message, without
/// `Content-Type` too, and without `Content-Encoding` it is snappy.
fn negotiate(headers: &HeaderMap) -> Result<Version, String> {
    let shown = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).trim().to_owned();
    let encoding = headers.get(CONTENT_ENCODING).map(shown).unwrap_or_default();
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("snappy") {
        return Err(format!("content encoding {encoding:?} is not accepted, only \"snappy\" is"));
    }
    let content_type = headers.get(CONTENT_TYPE).map(shown).unwrap_or_default();
    if content_type.is_empty() {
        return Ok(Version::V1);
    }
    let mut parts = content_type.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default();
    if !media_type.eq_ignore_ascii_case("application/x-protobuf") {
        return Err(format!(
            "content type {content_type:?} is not accepted, only \"application/x-protobuf\" is"
        ));
    }
    for part in parts.filter(|part| !part.is_empty()) {
        let Some((name, value)) = part.split_once('=') else {
            return Err(format!("content type {content_type:?} has a parameter without value"));
        };
        if name.trim().eq_ignore_ascii_case("proto") {
            return match value.trim().trim_matches('"') {
                "prometheus.WriteRequest" => Ok(Version::V1),
                "io.prometheus.write.v2.Request" => Ok(Version::V2),
                other => Err(format!(
                    "protobuf message {other:?} is not accepted, only \"prometheus.WriteRequest\" and \
                     \"io.prometheus.write.v2.Request\" are"
                )),
            };
        }
    }
    Ok(Version::V1)
}

impl Door {
    async fn receive(self: &Arc<Self>, version: Version, request: Request<Body>) -> Answer {
        let tenant = request.extensions().get::<TenantId>().cloned().unwrap_or_default();
        let body_bytes_max = self.state.config.body_bytes_max;
        let declared = request.body().size_hint().upper().unwrap_or(u64::MAX).min(body_bytes_max as u64);
        let kib = u32::try_from(declared / 1024 + 1).unwrap_or(u32::MAX).min(self.arriving_kib_max);
        let Ok(_arriving) = self.arriving.acquire_many(kib).await else {
            return Answer::of(StatusCode::SERVICE_UNAVAILABLE, "the door is closed");
        };
        let body = match Limited::new(request.into_body(), body_bytes_max).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                let text = format!("the body is longer than {body_bytes_max} bytes");
                return Answer::of(StatusCode::PAYLOAD_TOO_LARGE, text);
            }
            Err(error) => return Answer::of(StatusCode::BAD_REQUEST, format!("read the body: {error}")),
        };
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return Answer::of(StatusCode::SERVICE_UNAVAILABLE, "the door is closed");
        };
        let door = Arc::clone(self);
        let work = tokio::task::spawn_blocking(move || door.work(version, &tenant, &body, permit));
        work.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a remote-write request could not be worked on");
            Answer::of(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be worked on")
        })
    }

    /// Unpacks, decodes and stores a body. Blocks. The permit goes along, so that work whose client
    /// has left still counts.
    fn work(
        &self,
        version: Version,
        tenant: &TenantId,
        body: &Bytes,
        permit: OwnedSemaphorePermit,
    ) -> Answer {
        let started = Instant::now();
        let metrics = &self.state.metrics;
        metrics.body_bytes.inc_by(body.len() as u64);
        let mut buffer = self.buffers.lock().pop().unwrap_or_default();
        let answer = match snappy_decode(body, self.state.config.decoded_bytes_max, &mut buffer) {
            Ok(()) => {
                metrics.decoded_bytes.inc_by(buffer.len() as u64);
                self.take(version, tenant, &buffer, permit)
            }
            Err(error @ SnappyError::TooLarge { .. }) => {
                Answer::of(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())
            }
            Err(error) => Answer::of(StatusCode::BAD_REQUEST, error.to_string()),
        };
        let mut buffers = self.buffers.lock();
        if buffers.len() < BUFFERS_MAX && buffer.capacity() <= BUFFER_BYTES_MAX {
            buffers.push(buffer);
        }
        metrics.seconds.observe(started.elapsed().as_secs_f64());
        answer
    }

    fn take(&self, version: Version, tenant: &TenantId, body: &[u8], permit: OwnedSemaphorePermit) -> Answer {
        let door = Arc::clone(
            self.tenants
                .lock()
                .entry(tenant.clone())
                .or_insert_with(|| Arc::new(TenantDoor::new(tenant.clone()))),
        );
        let now_ms = self.state.clock.now_ms();
        let in_order;
        let mut gathered = self.gather(version, body, &door, now_ms);
        if matches!(gathered, Err(GatherError::LateLabels)) {
            match v1::in_order(body) {
                Ok(body) => {
                    in_order = body;
                    gathered = self.gather(version, &in_order, &door, now_ms);
                }
                Err(error) => gathered = Err(GatherError::Malformed(error)),
            }
        }
        let mut intake = match gathered {
            Ok(intake) => intake,
            Err(GatherError::Malformed(error)) => {
                return Answer::of(StatusCode::BAD_REQUEST, format!("decode the request: {error}"));
            }
            Err(GatherError::TooLarge(text)) => return Answer::of(StatusCode::PAYLOAD_TOO_LARGE, text),
            Err(GatherError::LateLabels) => {
                return Answer::of(
                    StatusCode::BAD_REQUEST,
                    "decode the request: labels stand behind samples",
                );
            }
        };
        let latest_ms =
            now_ms.saturating_add(i64::try_from(self.state.config.ahead_max.as_millis()).unwrap_or(i64::MAX));
        let admission = Admission::new(latest_ms, self.state.config.days_max);
        let taken = door.store(&*self.state.appender, &mut intake, admission).and_then(|taken| {
            // Waiting for the disk is no work, and others may join the same sync.
            drop(permit);
            if self.state.config.sync == SyncPolicy::Always {
                self.state.appender.wait_durable(taken.position)?;
            }
            Ok(taken)
        });
        self.publish(&intake, &taken, &door);
        match taken {
            Ok(taken) => self.judge(version, &intake, taken),
            Err(error) => self.failed(&error),
        }
    }

    fn gather<'a>(
        &self,
        version: Version,
        body: &'a [u8],
        door: &TenantDoor,
        now_ms: i64,
    ) -> Result<Intake<'a>, GatherError> {
        let config = &self.state.config;
        let bounds = Bounds {
            entries_max: config.entries_max,
            text_bytes_max: config.decoded_bytes_max.saturating_mul(SPELLED_OUT_MAX),
        };
        let mut known = door.known.lock();
        match version {
            Version::V1 => Intake::gather_v1(body, &mut known, now_ms, bounds),
            Version::V2 => Intake::gather_v2(body, &mut known, now_ms, bounds),
        }
    }

    fn publish(&self, intake: &Intake<'_>, taken: &Result<Taken, StoreError>, door: &TenantDoor) {
        let metrics = &self.state.metrics;
        if let Ok(taken) = taken {
            metrics.samples.inc_by(taken.samples as u64);
            metrics.histograms.inc_by(taken.histograms as u64);
            metrics.exemplars.inc_by(taken.exemplars as u64);
        }
        for (by, count) in ["guess", "table", "labels"].into_iter().zip(intake.found) {
            metrics.series_found.get_or_create(&FoundBy { by }).inc_by(count);
        }
        intake.tally.publish(metrics);
        let known = door.known.lock().len() as i64;
        metrics.known_series.inc_by(known - door.published.swap(known, Ordering::Relaxed));
    }

    fn judge(&self, version: Version, intake: &Intake<'_>, taken: Taken) -> Answer {
        let Some(text) = intake.tally.answer(version == Version::V1) else {
            return Answer { taken, ..Answer::of(StatusCode::NO_CONTENT, "") };
        };
        if intake.tally.count(Refusal::UnknownSeries) > 0 {
            // Nothing is wrong with the samples; what was taken is not stored twice.
            return Answer { taken, ..Answer::of(StatusCode::INTERNAL_SERVER_ERROR, text) };
        }
        tracing::debug!(%text, "remote write: something was not taken");
        Answer { taken, ..Answer::of(StatusCode::BAD_REQUEST, text) }
    }

    fn failed(&self, error: &StoreError) -> Answer {
        match error {
            StoreError::ReadOnly { .. } | StoreError::Limit { .. } => {
                Answer { retry_after: true, ..Answer::of(StatusCode::SERVICE_UNAVAILABLE, error.to_string()) }
            }
            StoreError::Io { .. } | StoreError::UnknownSource(_) => {
                tracing::error!(%error, "remote write: the store failed");
                Answer::of(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
        }
    }

    fn respond(&self, version: Option<Version>, answer: Answer) -> Response {
        let mut text = answer.text;
        if !text.is_empty() {
            text.push('\n');
        }
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        if answer.status != StatusCode::NO_CONTENT {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        }
        if answer.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(self.state.config.retry_after.as_secs()));
        }
        if version == Some(Version::V2) {
            let taken = answer.taken;
            headers.insert("x-prometheus-remote-write-samples-written", HeaderValue::from(taken.samples));
            headers
                .insert("x-prometheus-remote-write-histograms-written", HeaderValue::from(taken.histograms));
            headers.insert("x-prometheus-remote-write-exemplars-written", HeaderValue::from(taken.exemplars));
        }
        response
    }
}
