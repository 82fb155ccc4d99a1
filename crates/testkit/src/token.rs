//! An OAuth 2.0 token server: client credentials in, one and the same token out.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A token server on loopback. Ends when dropped.
#[derive(Debug)]
pub struct FakeTokenServer {
    /// Where it listens; any path gives tokens.
    pub addr: SocketAddr,
    asked: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl FakeTokenServer {
    /// Starts a server that gives `token` for an hour to whoever posts with this `Authorization` header,
    /// and answers 401 to everybody else.
    ///
    /// # Errors
    /// No port could be had.
    pub async fn start(authorization: &str, token: &str) -> Result<FakeTokenServer> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let answer = serde_json::json!({ "access_token": token, "token_type": "bearer", "expires_in": 3600 });
        let (wanted, answer) = (authorization.to_owned(), answer.to_string());
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counted, wanted, answer) = (Arc::clone(&counted), wanted.clone(), answer.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    counted.fetch_add(1, Ordering::SeqCst);
                    let given = request.headers().get("authorization").map(|value| value.as_bytes());
                    let known = request.method() == Method::POST && given == Some(wanted.as_bytes());
                    let mut response = Response::new(Full::new(Bytes::from(if known {
                        answer.clone()
                    } else {
                        "who are you?".to_owned()
                    })));
                    *response.status_mut() = if known { 200 } else { 401 }.try_into().unwrap_or_default();
                    async move { Ok::<_, Infallible>(response) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Ok(FakeTokenServer { addr, asked, server })
    }

    /// How many requests have come.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for FakeTokenServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}
