//! `/api/v1/read`: the samples of series for another system to compute with, all at once or as a stream
//! of chunks.
//!
//! Source: Prometheus `storage/remote/read_handler.go`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use blocks::chunk::{Encoder, Encoding};
use http::header;
use model::{Labels, LabelsBuilder, MatchOp, Matcher};
use storage::{Column, Missing, Queryable, Select, SeriesSet};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use wire::remote_read::{
    CHUNKS_TYPE, ChunkRead, ReadQuery, ReadRequest, ResponseType, SAMPLES_TYPE, SamplesEncoder, SeriesRead,
    labels_size, write_chunk_frame, write_starts, write_warnings_frame,
};
use wire::remote_write::{snappy_decode, snappy_encode};

use crate::App;
use crate::auth::Caller;
use crate::form::{Form, read_body};
use crate::reply::ApiError;
use crate::stream::{self, Piece};
use crate::work::{Patience, Work};

/// Most bytes a request may have, packed and unpacked. Source: Prometheus `decodeReadLimit`.
const REQUEST_BYTES_MAX: usize = 32 << 20;
/// Series whose samples are read at once.
const BATCH: usize = 256;
/// A stream is handed to the connection in pieces of about this size,
const PIECE_BYTES: usize = 64 << 10;
/// of which so many may wait there,
const PIECES_WAITING: usize = 4;
/// for at most so long.
const CLIENT_PATIENCE: Duration = Duration::from_secs(60);

/// What a reader may not pass.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Samples of an answer that is not a stream; 0 for any number.
    samples: u64,
    /// Bytes of a frame, about.
    frame_bytes: usize,
}

/// What is asked, of whom, by whom.
struct Asked {
    request: ReadRequest,
    store: Arc<dyn Queryable>,
    caller: Caller,
    missing: Missing,
    external: Labels,
    limits: Limits,
}

/// `/api/v1/read`
pub(crate) async fn read(State(app): State<App>, caller: Caller, request: Request) -> Response {
    match answer(app, caller, request).await {
        Ok(response) => response,
        Err(error) => error.into_plain_response(),
    }
}

async fn answer(app: App, caller: Caller, request: Request) -> Result<Response, ApiError> {
    let missing = Form::of_query(request.uri().query()).missing()?;
    let (packed, memory) =
        read_body(&app.work, request.into_body(), REQUEST_BYTES_MAX, "error reading the request").await?;
    let options = &app.state.options;
    let limits = Limits { samples: options.read_sample_limit, frame_bytes: options.read_frame_bytes_max };
    let external = app.state.external_labels.clone();
    let decode = move |_: &Patience| {
        let mut message = Vec::new();
        snappy_decode(&packed, REQUEST_BYTES_MAX, &mut message).map_err(ApiError::bad_data)?;
        ReadRequest::decode(&message).map_err(ApiError::bad_data)
    };
    let request = app.work.search(decode).await?;
    drop(memory);
    let form = request.response_type().map_err(ApiError::bad_data)?;
    let asked = Asked { request, store: Arc::clone(&app.state.store), caller, missing, external, limits };
    match form {
        ResponseType::Samples => {
            let body = app.work.read(move |patience| samples(&asked, patience)).await?;
            let headers = [(header::CONTENT_TYPE, SAMPLES_TYPE), (header::CONTENT_ENCODING, "snappy")];
            Ok((headers, body).into_response())
        }
        ResponseType::StreamedXorChunks => streamed(app.work, asked).await,
    }
}

impl Asked {
    /// The store as the caller may see it.
    fn store(&self, patience: &Patience) -> Arc<dyn Queryable> {
        self.caller.view_for(&self.store, &patience.request(self.missing))
    }

    /// What of the store is meant: no series has our external labels there.
    fn select(&self, query: &ReadQuery) -> Result<Select, ApiError> {
        let ours = |matcher: &Matcher| {
            matcher.op == MatchOp::Equal
                && self.external.get(&matcher.name).unwrap_or_default() == matcher.value
        };
        let mut matchers = Vec::with_capacity(query.matchers.len());
        for matcher in &query.matchers {
            matchers.push(if ours(matcher) {
                Matcher::new(MatchOp::Equal, matcher.name.clone(), "").map_err(ApiError::bad_data)?
            } else {
                matcher.clone()
            });
        }
        let (start_ms, end_ms) = (query.start_ms, query.end_ms);
        Ok(Select { tenant: self.caller.tenant.clone(), start_ms, end_ms, matchers })
    }

    /// `labels` as the reader shall see them.
    fn shown(&self, labels: &Labels) -> Labels {
        if self.external.is_empty() {
            return labels.clone();
        }
        let mut shown = LabelsBuilder::from_labels(labels);
        for (name, value) in self.external.iter().filter(|(name, _)| labels.get(name).is_none()) {
            shown.set(name, value);
        }
        shown.build()
    }
}

/// Loads the series of `set` batch by batch; `each` gets the number of a series, and its samples. Gives what is
/// to be said of it.
fn each_series(
    set: &dyn SeriesSet,
    patience: &Patience,
    mut each: impl FnMut(usize, &Column) -> Result<(), ApiError>,
) -> Result<Vec<String>, ApiError> {
    let mut columns = Vec::with_capacity(BATCH.min(set.len()));
    for from in (0..set.len()).step_by(BATCH) {
        patience.check()?;
        columns.clear();
        set.load(from..set.len().min(from + BATCH), &mut columns)?;
        for (at, column) in columns.iter().enumerate().filter(|(_, column)| !column.is_empty()) {
            each(from + at, column)?;
        }
    }
    Ok(set.warnings())
}

/// The whole answer, packed.
fn samples(asked: &Asked, patience: &Patience) -> Result<Vec<u8>, ApiError> {
    let store = asked.store(patience);
    let mut encoder = SamplesEncoder::default();
    let (mut count, limit) = (0u64, asked.limits.samples);
    for query in &asked.request.queries {
        let set = store.select(&asked.select(query)?)?;
        let said = each_series(&*set, patience, |at, column| {
            count += (column.times.len() + column.histograms.len()) as u64;
            if limit > 0 && count > limit {
                return Err(ApiError::bad_data(format_args!("exceeded sample limit ({limit})")));
            }
            encoder.series(&SeriesRead {
                labels: &asked.shown(set.labels(at)),
                times: &column.times,
                values: &column.values,
                histograms: &column.histograms,
            });
            Ok(())
        })?;
        logged(&said);
        encoder.end_query();
    }
    snappy_encode(&encoder.finish()).map_err(ApiError::bad_data)
}

/// Starts the stream; an error before its first piece is an answer of its own.
async fn streamed(work: Work, asked: Asked) -> Result<Response, ApiError> {
    let (sender, mut pieces) = mpsc::channel(PIECES_WAITING);
    tokio::spawn(async move {
        let failing = sender.clone();
        let run = move |patience: &Patience| {
            let mut stream = Stream { sender, waiting: Handle::current(), piece: Vec::new() };
            chunks(&asked, patience, &mut stream)?;
            stream.flush()
        };
        if let Err(error) = work.read(run).await {
            // a client that has gone, or no longer listens, is told nothing
            let _ = failing.send_timeout(Err(error), CLIENT_PATIENCE).await;
        }
    });
    let first = match pieces.recv().await {
        Some(Err(error)) => return Err(error),
        Some(Ok(first)) => first,
        None => Bytes::new(),
    };
    Ok(([(header::CONTENT_TYPE, CHUNKS_TYPE)], stream::body(first, pieces)).into_response())
}

/// Where frames go.
struct Stream {
    sender: mpsc::Sender<Piece>,
    /// Waits where threads may not.
    waiting: Handle,
    piece: Vec<u8>,
}

impl Stream {
    /// Hands over what there is, as soon as the client makes room for it.
    fn flush(&mut self) -> Result<(), ApiError> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        let sent = self.waiting.block_on(self.sender.send_timeout(Ok(piece), CLIENT_PATIENCE));
        sent.map_err(|_| ApiError::gone())
    }
}

/// Writes a frame without chunks for each series of a query.
fn labels(
    store: &dyn Queryable,
    asked: &Asked,
    number: usize,
    query: &ReadQuery,
    stream: &mut Stream,
) -> Result<Vec<String>, ApiError> {
    let set = store.series(&asked.select(query)?)?;
    for at in 0..set.len() {
        write_chunk_frame(&mut stream.piece, number, &asked.shown(set.labels(at)), &[]);
        if stream.piece.len() >= PIECE_BYTES {
            stream.flush()?;
        }
    }
    Ok(set.warnings())
}

/// For the log, where the form of the answer has no place for it.
fn logged(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!(warning, "remote read");
    }
}

/// The start timestamps of a column's samples, for one chunk after the other.
struct Starts<'a> {
    floats: &'a [i64],
    histograms: &'a [i64],
}

impl<'a> Starts<'a> {
    fn of(column: &'a Column, wanted: bool) -> Starts<'a> {
        let known = |starts: &'a Option<Arc<[i64]>>| starts.as_deref().filter(|_| wanted).unwrap_or_default();
        Starts { floats: known(&column.start_times), histograms: known(&column.histogram_starts) }
    }

    /// Those of the next chunk, which has so many samples; empty when they are unknown.
    fn next(&mut self, encoding: Encoding, samples: usize) -> Vec<u8> {
        let left = if encoding == Encoding::Xor { &mut self.floats } else { &mut self.histograms };
        let (of_chunk, rest) = left.split_at(samples.min(left.len()));
        *left = rest;
        let mut out = Vec::new();
        write_starts(of_chunk, &mut out);
        out
    }
}

/// Writes the frames of all queries: one series in a frame, several frames for a large one.
fn chunks(asked: &Asked, patience: &Patience, stream: &mut Stream) -> Result<(), ApiError> {
    let store = asked.store(patience);
    let (mut encoder, with_starts) = (Encoder::default(), asked.request.wants_start_times());
    let mut said = Vec::new();
    for (number, query) in asked.request.queries.iter().enumerate() {
        if query.wants_labels_only() {
            said.extend(labels(&*store, asked, number, query, stream)?);
            continue;
        }
        let set = store.select(&asked.select(query)?)?;
        said.extend(each_series(&*set, patience, |at, column| {
            let labels = asked.shown(set.labels(at));
            let room = asked.limits.frame_bytes.saturating_sub(labels_size(&labels));
            let (mut frame, mut used) = (Vec::new(), 0);
            let mut starts = Starts::of(column, with_starts);
            encoder.encode(&column.times, &column.values, &column.histograms, |chunk| {
                let (min_ms, max_ms) = (chunk.min_ms, chunk.max_ms);
                let (encoding, data) = (chunk.encoding as u8, chunk.data.to_vec());
                let starts = starts.next(chunk.encoding, chunk.samples);
                frame.push(ChunkRead { min_ms, max_ms, encoding, data, starts });
                used += frame.last().map_or(0, ChunkRead::size);
                if used >= room {
                    write_chunk_frame(&mut stream.piece, number, &labels, &frame);
                    frame.clear();
                    used = 0;
                }
                if stream.piece.len() >= PIECE_BYTES { stream.flush() } else { Ok(()) }
            })?;
            if !frame.is_empty() {
                write_chunk_frame(&mut stream.piece, number, &labels, &frame);
            }
            Ok(())
        })?);
    }
    match asked.request.wants_warnings() {
        true if said.is_empty() => {}
        true => write_warnings_frame(&mut stream.piece, &said),
        false => logged(&said),
    }
    Ok(())
}
