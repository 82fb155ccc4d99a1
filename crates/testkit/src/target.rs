//! A scrape target whose body tests change as they go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// Content type of the text exposition.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Content type of the protobuf exposition.
pub const PROTOBUF: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// An HTTP server, on loopback unless told otherwise, that answers every request with one body. Ends when dropped.
#[derive(Debug)]
pub struct FakeTarget {
    /// Where it listens.
    pub addr: SocketAddr,
    page: watch::Sender<Page>,
    scrapes: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

#[derive(Debug, Clone)]
struct Page {
    status: u16,
    content_type: &'static str,
    body: Bytes,
    /// The `Authorization` header without which the answer is 401.
    authorization: Option<String>,
}

impl FakeTarget {
    /// Starts a target that serves `body` as text exposition.
    ///
    /// # Errors
    /// No port could be had.
    pub async fn start(body: impl Into<Bytes>) -> Result<FakeTarget> {
        FakeTarget::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), body).await
    }

    /// As [`FakeTarget::start`], at an address of choice.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn start_at(listen: SocketAddr, body: impl Into<Bytes>) -> Result<FakeTarget> {
        let listener = TcpListener::bind(listen).await?;
        let addr = listener.local_addr()?;
        let (page, current) =
            watch::channel(Page { status: 200, content_type: TEXT, body: body.into(), authorization: None });
        let scrapes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&scrapes);
        let server = tokio::spawn(async move {
            // They end with the server.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let (current, counted) = (current.clone(), Arc::clone(&counted));
                let service = service_fn(move |request: Request<Incoming>| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let mut page = current.borrow().clone();
                    let given = request.headers().get("authorization").map(|value| value.as_bytes());
                    if page.authorization.as_ref().is_some_and(|wanted| given != Some(wanted.as_bytes())) {
                        page.status = 401;
                    }
                    async move {
                        Response::builder()
                            .status(page.status)
                            .header("content-type", page.content_type)
                            .body(Full::new(page.body))
                    }
                });
                connections.spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Ok(FakeTarget { addr, page, scrapes, server })
    }

    /// Serves another body from now on.
    pub fn set_body(&self, body: impl Into<Bytes>) {
        self.page.send_modify(|page| page.body = body.into());
    }

    /// Serves protobuf from now on.
    pub fn set_protobuf(&self, body: impl Into<Bytes>) {
        self.page.send_modify(|page| (page.body, page.content_type) = (body.into(), PROTOBUF));
    }

    /// Answers only to requests with this `Authorization` header from now on.
    pub fn require(&self, authorization: &str) {
        self.page.send_modify(|page| page.authorization = Some(authorization.to_owned()));
    }

    /// Answers with another status from now on.
    pub fn set_status(&self, status: u16) {
        self.page.send_modify(|page| page.status = status);
    }

    /// How many requests have come.
    pub fn scrapes(&self) -> usize {
        self.scrapes.load(Ordering::SeqCst)
    }
}

impl Drop for FakeTarget {
    fn drop(&mut self) {
        self.server.abort();
    }
}
