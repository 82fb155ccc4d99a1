//! Remote read: what a reader asks (`prometheus.ReadRequest`), and the two forms of the answer: all
//! samples in one message, or chunks in frames as they come.
//!
//! Nothing here panics on any bytes, and memory grows only with the request's own size.
//!
//! Source: Prometheus `prompb/remote.proto`, `prompb/types.proto`, `storage/remote/codec.go`,
//! `storage/remote/chunked.go`.

use std::sync::Arc;

use model::{Histogram, Labels, MatchOp, Matcher};

use crate::proto::{Fields, Writer};
pub use crate::remote_write::DecodeError;
use crate::remote_write::{write_histogram, write_label_bytes};

/// Content type of an answer of samples; it is packed with snappy.
pub const SAMPLES_TYPE: &str = "application/x-protobuf";
/// Content type of an answer of chunks.
pub const CHUNKS_TYPE: &str = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";

/// Among the forms of an answer: the reader understands [`write_warnings_frame`]. Ours; others skip it.
pub const WARNINGS: u64 = 1000;

/// Among the forms of an answer: the reader understands [`ChunkRead::starts`]. Ours; others skip it.
pub const START_TIMES: u64 = 1001;

/// In place of a function: only the labels of the series are wanted.
pub const LABELS_ONLY: &str = "series";

/// Most queries a request may have.
const QUERIES_MAX: usize = 1000;
/// Most matchers a query may have.
const MATCHERS_MAX: usize = 1000;
/// Most forms of an answer a request may name; there are two.
const ACCEPTED_MAX: usize = 1000;

/// The forms of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseType {
    /// One message with all samples.
    Samples,
    /// A stream of frames with chunks.
    StreamedXorChunks,
}

/// A request.
#[derive(Debug, Clone, Default)]
pub struct ReadRequest {
    /// What is asked, answered in this order.
    pub queries: Vec<ReadQuery>,
    /// The numbers of the forms of an answer that the reader understands, the best first.
    pub accepted: Vec<u64>,
}

/// One query.
#[derive(Debug, Clone, Default)]
pub struct ReadQuery {
    /// First time wanted, inclusive, milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// Last time wanted, inclusive.
    pub end_ms: i64,
    /// Conditions; all must hold.
    pub matchers: Vec<Matcher>,
    /// What the samples are wanted for. A help, never a restriction.
    pub hints: Option<ReadHints>,
}

/// What samples are wanted for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadHints {
    /// Milliseconds between the steps of the query; 0 for an instant query.
    pub step_ms: i64,
    /// The function or aggregation around the selector; may be empty.
    pub func: String,
    /// First time, milliseconds.
    pub start_ms: i64,
    /// Last time, milliseconds.
    pub end_ms: i64,
    /// Labels of an aggregation.
    pub grouping: Vec<String>,
    /// Whether the aggregation is `by` these labels, not `without` them.
    pub by: bool,
    /// The range of a range selector, milliseconds.
    pub range_ms: i64,
}

/// A request that cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It is not protobuf, or has too much of something.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// A text is not UTF-8.
    #[error("{0} is not valid UTF-8")]
    NotUtf8(&'static str),
    /// A matcher of a kind that does not exist.
    #[error("invalid matcher type")]
    MatcherType,
    /// The pattern of a matcher.
    #[error("{0}")]
    Regex(String),
    /// None of the forms of an answer is known here.
    #[error(
        "server does not support any of the requested response types: {0:?}; supported: SAMPLES (0), \
         STREAMED_XOR_CHUNKS (1)"
    )]
    ResponseType(Vec<u64>),
}

impl ReadQuery {
    /// Whether the reader has no use for samples.
    ///
    /// Source: Prometheus `web/api/v1/api.go`, the hints of `/series`.
    pub fn wants_labels_only(&self) -> bool {
        self.hints.as_ref().is_some_and(|hints| hints.func == LABELS_ONLY)
    }
}

impl ReadRequest {
    /// Decodes a request, snappy already undone.
    ///
    /// # Errors
    /// [`ReadError`], the first thing found.
    pub fn decode(message: &[u8]) -> Result<ReadRequest, ReadError> {
        let mut request = ReadRequest::default();
        let mut fields = Fields::of(message, "ReadRequest");
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => {
                    let query = decode_query(value.bytes(&fields)?)?;
                    push(&mut request.queries, query, "queries", QUERIES_MAX)?;
                }
                2 => value.repeated_varint(&fields, |number| {
                    push(&mut request.accepted, number, "response types", ACCEPTED_MAX)
                })?,
                _ => {}
            }
        }
        Ok(request)
    }

    /// The first form of an answer that is known here; samples where none is named.
    ///
    /// # Errors
    /// [`ReadError::ResponseType`].
    pub fn response_type(&self) -> Result<ResponseType, ReadError> {
        let known = |number: &u64| match number {
            0 => Some(ResponseType::Samples),
            1 => Some(ResponseType::StreamedXorChunks),
            _ => None,
        };
        if self.accepted.is_empty() {
            return Ok(ResponseType::Samples);
        }
        self.accepted.iter().find_map(known).ok_or_else(|| ReadError::ResponseType(self.accepted.clone()))
    }

    /// Whether the reader wants to know what the answer lacks.
    pub fn wants_warnings(&self) -> bool {
        self.accepted.contains(&WARNINGS)
    }

    /// Whether the reader wants start timestamps.
    pub fn wants_start_times(&self) -> bool {
        self.accepted.contains(&START_TIMES)
    }

    /// Encodes the request, as a reader would, snappy not yet applied.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        for query in &self.queries {
            out.message(1, |out| encode_query(query, out));
        }
        out.packed(2, self.accepted.iter().copied());
        out.out
    }
}

fn push<T>(list: &mut Vec<T>, item: T, what: &'static str, max: usize) -> Result<(), DecodeError> {
    if list.len() == max {
        return Err(DecodeError::TooMany { message: "ReadRequest", what, max });
    }
    list.push(item);
    Ok(())
}

fn decode_query(message: &[u8]) -> Result<ReadQuery, ReadError> {
    let mut query = ReadQuery::default();
    let mut fields = Fields::of(message, "Query");
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => query.start_ms = value.int64(&fields)?,
            2 => query.end_ms = value.int64(&fields)?,
            3 => {
                let matcher = decode_matcher(value.bytes(&fields)?)?;
                push(&mut query.matchers, matcher, "matchers", MATCHERS_MAX)?;
            }
            4 => query.hints = Some(decode_hints(value.bytes(&fields)?)?),
            _ => {}
        }
    }
    Ok(query)
}

fn decode_matcher(message: &[u8]) -> Result<Matcher, ReadError> {
    let (mut op, mut name, mut pattern) = (MatchOp::Equal, "", "");
    let mut fields = Fields::of(message, "LabelMatcher");
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => {
                op = match value.uint64(&fields)? {
                    0 => MatchOp::Equal,
                    1 => MatchOp::NotEqual,
                    2 => MatchOp::Regex,
                    3 => MatchOp::NotRegex,
                    _ => return Err(ReadError::MatcherType),
                }
            }
            2 => name = utf8(value.bytes(&fields)?, "a label name")?,
            3 => pattern = utf8(value.bytes(&fields)?, "a label value")?,
            _ => {}
        }
    }
    Matcher::new(op, name, pattern).map_err(|error| ReadError::Regex(error.to_string()))
}

fn decode_hints(message: &[u8]) -> Result<ReadHints, ReadError> {
    let mut hints = ReadHints::default();
    let mut fields = Fields::of(message, "ReadHints");
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => hints.step_ms = value.int64(&fields)?,
            2 => hints.func = utf8(value.bytes(&fields)?, "a function's name")?.to_owned(),
            3 => hints.start_ms = value.int64(&fields)?,
            4 => hints.end_ms = value.int64(&fields)?,
            5 => {
                let label = utf8(value.bytes(&fields)?, "a label name")?.to_owned();
                push(&mut hints.grouping, label, "labels of a grouping", MATCHERS_MAX)?;
            }
            6 => hints.by = value.uint64(&fields)? != 0,
            7 => hints.range_ms = value.int64(&fields)?,
            _ => {}
        }
    }
    Ok(hints)
}

fn utf8<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, ReadError> {
    std::str::from_utf8(bytes).map_err(|_| ReadError::NotUtf8(what))
}

fn encode_query(query: &ReadQuery, out: &mut Writer) {
    out.int(1, query.start_ms);
    out.int(2, query.end_ms);
    for matcher in &query.matchers {
        out.message(3, |out| {
            let op = match matcher.op {
                MatchOp::Equal => 0,
                MatchOp::NotEqual => 1,
                MatchOp::Regex => 2,
                MatchOp::NotRegex => 3,
            };
            out.uint(1, op);
            out.text(2, &matcher.name);
            out.text(3, &matcher.value);
        });
    }
    if let Some(hints) = &query.hints {
        out.message(4, |out| {
            out.int(1, hints.step_ms);
            out.text(2, &hints.func);
            out.int(3, hints.start_ms);
            out.int(4, hints.end_ms);
            hints.grouping.iter().for_each(|label| out.text(5, label));
            out.uint(6, u64::from(hints.by));
            out.int(7, hints.range_ms);
        });
    }
}

/// A series of an answer of samples. Start timestamps have no place there.
#[derive(Debug, Clone, Copy)]
pub struct SeriesRead<'a> {
    /// The whole set, metric name included.
    pub labels: &'a Labels,
    /// Times of the floats, ascending, milliseconds.
    pub times: &'a [i64],
    /// The floats, as many.
    pub values: &'a [f64],
    /// Histograms, ascending by time.
    pub histograms: &'a [(i64, Arc<Histogram>)],
}

/// Builds an answer of samples (`prometheus.ReadResponse`), query by query.
#[derive(Debug, Default)]
pub struct SamplesEncoder {
    out: Writer,
    result: Writer,
}

impl SamplesEncoder {
    /// Appends a series to the answer to the present query.
    pub fn series(&mut self, series: &SeriesRead<'_>) {
        self.result.message(1, |out| {
            write_label_bytes(series.labels, &mut out.out);
            for (time, value) in series.times.iter().zip(series.values) {
                write_sample(out, *time, *value);
            }
            for (time, histogram) in series.histograms {
                out.message(4, |out| write_histogram(out, histogram, *time, 0));
            }
        });
    }

    /// Ends the answer to the present query; it may be empty.
    pub fn end_query(&mut self) {
        self.out.bytes_always(1, &self.result.out);
        self.result.out.clear();
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.out.out.len() + self.result.out.len()
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message; snappy is the caller's.
    pub fn finish(self) -> Vec<u8> {
        self.out.out
    }
}

/// Writes a sample whose length is known beforehand: there are many of them.
fn write_sample(out: &mut Writer, time: i64, value: f64) {
    let varint_len = (time as u64).max(1).ilog2() / 7 + 1;
    let value_len = if value.to_bits() == 0 { 0 } else { 9 };
    let time_len = if time == 0 { 0 } else { 1 + u64::from(varint_len) };
    out.message_head(2, value_len + time_len);
    out.double(1, value);
    out.int(2, time);
}

/// A chunk of an answer of chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRead {
    /// Time of the first sample, milliseconds.
    pub min_ms: i64,
    /// Time of the last sample.
    pub max_ms: i64,
    /// 1 for floats, 2 for histograms, 3 for float histograms, as in a block.
    pub encoding: u8,
    /// The chunk, without frame and checksum.
    pub data: Vec<u8>,
    /// The start timestamps of its samples, as [`write_starts`] has them; empty when all are unknown.
    pub starts: Vec<u8>,
}

impl ChunkRead {
    /// Bytes it takes in a frame, about.
    pub fn size(&self) -> usize {
        self.data.len() + self.starts.len() + 24
    }
}

/// Bytes that `labels` take in a frame.
pub fn labels_size(labels: &Labels) -> usize {
    labels.iter().map(|(name, value)| name.len() + value.len() + 6).sum()
}

/// Appends a frame with chunks of one series: length, CRC-32C (big-endian) of what follows, and a
/// `prometheus.ChunkedReadResponse`.
pub fn write_chunk_frame(out: &mut Vec<u8>, query: usize, labels: &Labels, chunks: &[ChunkRead]) {
    let mut message = Writer::default();
    message.message(1, |series| {
        write_label_bytes(labels, &mut series.out);
        for chunk in chunks {
            series.message(2, |out| {
                out.int(1, chunk.min_ms);
                out.int(2, chunk.max_ms);
                out.uint(3, u64::from(chunk.encoding));
                out.bytes_always(4, &chunk.data);
                if !chunk.starts.is_empty() {
                    out.bytes_always(START_TIMES as u32, &chunk.starts);
                }
            });
        }
    });
    message.uint(2, query as u64);
    frame(out, &message.out);
}

/// Appends a frame without series that tells what the answer lacks: field [`WARNINGS`], once for each. For readers
/// who ask for it.
pub fn write_warnings_frame(out: &mut Vec<u8>, warnings: &[String]) {
    let mut message = Writer::default();
    for warning in warnings {
        message.bytes_always(WARNINGS as u32, warning.as_bytes());
    }
    frame(out, &message.out);
}

fn frame(out: &mut Vec<u8>, message: &[u8]) {
    let mut frame = Writer { out: std::mem::take(out) };
    frame.varint(message.len() as u64);
    frame.out.extend_from_slice(&crc32c::crc32c(message).to_be_bytes());
    frame.out.extend_from_slice(message);
    *out = frame.out;
}

mod frames;
mod starts;

pub use frames::{ChunkFrame, FrameError, FrameReader};
pub use starts::{read_starts, write_starts};

#[cfg(test)]
mod tests;
