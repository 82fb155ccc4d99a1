//! Many targets in one process: each serves the recording from another row on, gzipped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::Result;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use testkit::recorded::Recorded;
use tokio::net::TcpListener;

use crate::data::ROW_STRIDE;

/// The targets.
#[derive(Debug)]
pub(crate) struct Simulator {
    /// Where they listen; target `n` is at `/metrics/n`.
    pub(crate) addr: SocketAddr,
    served: Arc<AtomicU64>,
}

struct State {
    plain: Vec<Bytes>,
    gzipped: Vec<Bytes>,
    next_row: Vec<AtomicUsize>,
    served: Arc<AtomicU64>,
}

impl Simulator {
    /// Starts `targets` targets; renders and compresses every row of the recording first.
    pub(crate) async fn start(recorded: &Recorded, targets: usize) -> Result<Simulator> {
        let plain: Vec<Bytes> = (0..recorded.rows.len()).map(|row| recorded.text(row).into()).collect();
        let gzipped = plain.iter().map(gzip).collect::<Result<Vec<Bytes>>>()?;
        let served = Arc::new(AtomicU64::new(0));
        let next_row = (0..targets).map(|n| AtomicUsize::new(n * ROW_STRIDE)).collect();
        let state = Arc::new(State { plain, gzipped, next_row, served: Arc::clone(&served) });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&state);
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = state.answer(&request);
                    async move { answer }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Simulator { addr, served })
    }

    /// Rows served since the start, all targets.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// The scrape configuration of all targets, in Prometheus' language.
    pub(crate) fn config(&self, targets: usize, interval: &str) -> String {
        let mut out = format!(
            "global:\n  scrape_interval: {interval}\n  scrape_timeout: {interval}\n\
             scrape_configs:\n  - job_name: bench\n    static_configs:\n"
        );
        for n in 0..targets {
            out.push_str(&format!(
                "      - targets: ['{}']\n        labels: {{__metrics_path__: /metrics/{n}, \
                 instance: '10.0.{}.{}:9100', cluster: c{}}}\n",
                self.addr,
                n / 250,
                n % 250,
                n % 4
            ));
        }
        out
    }
}

impl State {
    fn answer(&self, request: &Request<Incoming>) -> http::Result<Response<Full<Bytes>>> {
        let target = request.uri().path().rsplit('/').next().and_then(|n| n.parse::<usize>().ok());
        let Some(row) = target.and_then(|n| self.next_row.get(n)) else {
            return Response::builder().status(StatusCode::NOT_FOUND).body(Full::default());
        };
        let row = row.fetch_add(1, Ordering::Relaxed) % self.plain.len();
        self.served.fetch_add(1, Ordering::Relaxed);
        let takes_gzip = request
            .headers()
            .get(header::ACCEPT_ENCODING)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains("gzip"));
        let response = Response::builder().header(header::CONTENT_TYPE, testkit::target::TEXT);
        if takes_gzip {
            response.header(header::CONTENT_ENCODING, "gzip").body(Full::new(self.gzipped[row].clone()))
        } else {
            response.body(Full::new(self.plain[row].clone()))
        }
    }
}

fn gzip(text: &Bytes) -> Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    std::io::Write::write_all(&mut encoder, text)?;
    Ok(encoder.finish()?.into())
}
