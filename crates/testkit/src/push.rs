//! What a remote-write sender sends.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use model::Labels;
use wire::remote_write::{EncoderV1, Sample, SeriesToWrite, snappy_encode};

use crate::http::{self, Answer};

/// Content type of remote write 1.0.
pub const CONTENT_TYPE: &str = "application/x-protobuf";

/// A remote-write 1.0 request in the making.
#[derive(Debug, Default)]
pub struct Push(EncoderV1);

impl Push {
    /// Appends float samples, (milliseconds, value), of one series.
    pub fn floats(&mut self, labels: &Labels, samples: &[(i64, f64)]) -> &mut Push {
        let sample =
            |&(timestamp_ms, value): &(i64, f64)| Sample { timestamp_ms, value, start_timestamp_ms: 0 };
        let samples: Vec<Sample> = samples.iter().map(sample).collect();
        self.0.series(&SeriesToWrite::floats(labels, &samples));
        self
    }

    /// The body: protobuf, packed with snappy.
    ///
    /// # Errors
    /// It is too large for snappy.
    pub fn body(self) -> Result<Bytes> {
        Ok(snappy_encode(&self.0.finish())?.into())
    }

    /// Sends the request to `addr`.
    ///
    /// # Errors
    /// See [`http::send`].
    pub async fn send(self, addr: SocketAddr) -> Result<Answer> {
        http::post(addr, "/api/v1/write", CONTENT_TYPE, self.body()?).await
    }

    /// As [`Push::send`], with a bearer token.
    ///
    /// # Errors
    /// See [`http::send`].
    pub async fn send_as(self, addr: SocketAddr, token: &str) -> Result<Answer> {
        let request = ::http::Request::post("/api/v1/write")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", CONTENT_TYPE)
            .body(http_body_util::Full::new(self.body()?))?;
        http::send(addr, request).await
    }
}
