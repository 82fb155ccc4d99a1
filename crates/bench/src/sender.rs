//! Connections to the systems that stay open.

use std::net::SocketAddr;
use std::ops::Range;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::data::{BODY_SAMPLES, Series, Timeline};

/// A connection that stays open.
pub(crate) struct Sender {
    addr: SocketAddr,
    connection: SendRequest<Full<Bytes>>,
}

impl Sender {
    pub(crate) async fn connect(addr: SocketAddr) -> Result<Sender> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(Sender { addr, connection })
    }

    /// Sends a remote-write body.
    ///
    /// # Errors
    /// The connection failed, or the answer is no success.
    pub(crate) async fn write(&mut self, path: &str, body: Bytes) -> Result<()> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, self.addr.to_string())
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::CONTENT_ENCODING, "snappy")
            .header("x-prometheus-remote-write-version", "0.1.0")
            .body(Full::new(body))?;
        self.send(request).await.map(|_| ())
    }

    /// `GET path`: the whole body.
    ///
    /// # Errors
    /// The connection failed, or the answer is no success.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Bytes> {
        let request =
            Request::builder().uri(path).header(header::HOST, self.addr.to_string()).body(Full::default())?;
        self.send(request).await
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Bytes> {
        if self.connection.ready().await.is_err() {
            // VictoriaMetrics closes connections that are two minutes old.
            *self = Sender::connect(self.addr).await?;
        }
        let response = self.connection.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// Sends `rows` of `series`, [`BODY_SAMPLES`] samples a body.
    pub(crate) async fn write_rows(
        &mut self,
        path: &str,
        data: &Series,
        series: Range<usize>,
        rows: Range<usize>,
        timeline: &Timeline,
    ) -> Result<()> {
        let a_body = (BODY_SAMPLES / rows.len()).max(1);
        for first in series.clone().step_by(a_body) {
            let body = data.body(first..(first + a_body).min(series.end), rows.clone(), timeline)?;
            self.write(path, body).await?;
        }
        Ok(())
    }
}

/// Sends `rows` of all series over two connections, `at_once` rows of a series in a body.
pub(crate) async fn load(
    addr: SocketAddr,
    data: &Series,
    rows: Range<usize>,
    at_once: usize,
    timeline: &Timeline,
) -> Result<()> {
    let mut senders = [Sender::connect(addr).await?, Sender::connect(addr).await?];
    let half = data.len() / BODY_SAMPLES / 2 * BODY_SAMPLES;
    for first in rows.clone().step_by(at_once) {
        let rows = first..(first + at_once).min(rows.end);
        let [left, right] = &mut senders;
        tokio::try_join!(
            left.write_rows(WRITE_PATH, data, 0..half, rows.clone(), timeline),
            right.write_rows(WRITE_PATH, data, half..data.len(), rows, timeline)
        )?;
    }
    Ok(())
}

/// The remote-write door of every system.
pub(crate) const WRITE_PATH: &str = "/api/v1/write";
