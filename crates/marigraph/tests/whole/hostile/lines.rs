//! The listener itself, and the doors to the program's life.

use std::net::SocketAddr;
use std::time::Duration;

use ::http::Request;
use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use testkit::http;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{NO_SCRAPES, Table, others_are_served, start};

/// How long a test watches a connection that should be closed at once.
const SOON: Duration = Duration::from_secs(5);

/// Whom to ask, method, path, headers, and the status and text expected.
type Case<'a> = (SocketAddr, &'a str, &'a str, &'a [(&'a str, &'a str)], u16, &'a str);

async fn ask(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<http::Answer> {
    let mut request = Request::builder().method(method).uri(path).header("host", "hub");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    http::send(addr, request.body(Full::<Bytes>::default())?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_the_program_is_not_in_everybodys_hands() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start(directory.path(), NO_SCRAPES, &[]).await?;
    let quiet = tempfile::tempdir()?;
    let quiet = start(quiet.path(), NO_SCRAPES, &["--web.enable-lifecycle=false"]).await?;
    const POST_ONLY: &str = "Only POST or PUT requests allowed";
    const DISABLED: &str = "unavailable: admin APIs disabled";
    const ELSEWHERE: &[(&str, &str)] = &[("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")];
    let delete = "/api/v1/admin/tsdb/delete_series?match[]=up";
    let here = hub.addr();
    let cases: &[Case<'_>] = &[
        (here, "GET", "/-/reload", &[], 405, POST_ONLY),
        (here, "GET", "/-/quit", &[], 405, POST_ONLY),
        (here, "HEAD", "/-/quit", &[], 405, ""),
        (here, "DELETE", "/-/quit", &[], 405, ""),
        (here, "POST", "/-/reload", ELSEWHERE, 403, "not for pages of other sites"),
        (here, "POST", "/-/quit", ELSEWHERE, 403, "not for pages of other sites"),
        (quiet.addr(), "POST", "/-/reload", &[], 403, "Lifecycle API is not enabled."),
        (quiet.addr(), "POST", "/-/quit", &[], 403, "Lifecycle API is not enabled."),
        (here, "POST", delete, &[], 500, DISABLED),
        (here, "PUT", "/api/v1/admin/tsdb/clean_tombstones", &[], 500, DISABLED),
        (here, "POST", delete, ELSEWHERE, 403, "forbidden: not for pages of other sites"),
        (
            here,
            "GET",
            "/api/v1/admin/tsdb/delete_series",
            &[],
            405,
            "method_not_allowed: GET is not allowed for /api/v1/admin/tsdb/delete_series",
        ),
        (here, "GET", "/api/v1/write", &[], 405, ""),
        (
            here,
            "POST",
            "/api/v1/../../etc/passwd",
            &[],
            404,
            "not_found: no such endpoint: /api/v1/../../etc/passwd",
        ),
        (here, "GET", "/%2e%2e/%2e%2e/etc/passwd", &[], 404, ""),
    ];
    let mut table = Table::default();
    for (addr, method, path, headers, status, text) in cases {
        let answer = ask(*addr, method, path, headers).await?;
        table.check(&format!("{method} {path} {headers:?}"), &answer, *status, text);
    }
    let quit = tokio::time::timeout(Duration::from_millis(50), hub.quit_requested()).await;
    assert!(quit.is_err(), "somebody could end the program");
    others_are_served(here).await?;
    table.finish();
    quiet.stop().await?;
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_slow_connections_do_not_hold_up_others() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start(directory.path(), NO_SCRAPES, &[]).await?;
    let addr = hub.addr();
    let openings: [&[u8]; 6] = [
        b"",
        b"P",
        b"PRI * HTTP/2.0\r\n",
        b"GET /api/v1/query?query=1 HTTP/1.1\r\nhost: hub\r\nx: ",
        b"POST /api/v1/write HTTP/1.1\r\nhost: hub\r\ncontent-length: 1000000\r\n\r\nx",
        b"POST /api/v1/query HTTP/1.1\r\nhost: hub\r\ncontent-type: application/x-www-form-urlencoded\r\n\
          transfer-encoding: chunked\r\n\r\n5\r\nquery",
    ];
    let mut held = Vec::new();
    for opening in openings {
        for _ in 0..50 {
            let mut stream = TcpStream::connect(addr).await?;
            stream.write_all(opening).await?;
            held.push(stream);
        }
        others_are_served(addr).await.with_context(|| String::from_utf8_lossy(opening).into_owned())?;
    }
    assert_eq!(held.len(), 300);
    for _ in 0..20 {
        others_are_served(addr).await?;
    }
    drop(held);
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_answered_or_closed_at_once() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start(directory.path(), NO_SCRAPES, &[]).await?;
    let addr = hub.addr();
    let long = format!("GET / HTTP/1.1\r\nhost: hub\r\nx: {}", "y".repeat(1 << 20));
    let line = format!("GET /{} HTTP/1.1\r\nhost: hub\r\n\r\n", "y".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\nhost: hub\r\n{}\r\n", "x: y\r\n".repeat(1000));
    let cases: &[(&str, &[u8], &str)] = &[
        // The port speaks TLS, too: a whole record that is none ends the connection.
        ("no TLS behind its first byte", b"\x16\x03\x01\x00\x05hello", ""),
        ("a mail client", b"EHLO example\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ""),
        ("a long line", line.as_bytes(), "HTTP/1.1 414 URI Too Long"),
        ("a long head", long.as_bytes(), "HTTP/1.1 431 Request Header Fields Too Large"),
        ("many headers", many.as_bytes(), "HTTP/1.1 431 Request Header Fields Too Large"),
        (
            "two lengths",
            b"POST /-/reload HTTP/1.1\r\nhost: hub\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
            "HTTP/1.1 400 Bad Request",
        ),
        (
            "a chunk without end",
            b"POST /api/v1/query HTTP/1.1\r\nhost: hub\r\ncontent-type: application/x-www-form-urlencoded\r\n\
              transfer-encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 400 Bad Request",
        ),
    ];
    let mut differ = Vec::new();
    for (name, bytes, expected) in cases {
        let mut stream = TcpStream::connect(addr).await?;
        // What is closed in the middle of sending may break the pipe.
        _ = stream.write_all(bytes).await;
        let mut line = [0; 256];
        let read = tokio::time::timeout(SOON, stream.read(&mut line)).await.context(*name)?.unwrap_or(0);
        let said = String::from_utf8_lossy(&line[..read]);
        if said.lines().next().unwrap_or_default() != *expected {
            differ.push(format!("{name}: expected {expected:?}, found {said:?}"));
        }
        others_are_served(addr).await?;
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    hub.stop().await
}
