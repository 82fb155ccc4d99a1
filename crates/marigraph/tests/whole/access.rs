//! Off loopback nothing answers without a credential.

use anyhow::Result;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testkit::http as client;

use crate::{start_hub, start_hub_at};

const WITH_TOKEN: &str =
    "web: {auth: {bearer_tokens: [harbour-secret], basic_auth_users: {pilot: {password: tide}}}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn off_loopback_a_credential_is_needed_to_start() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let Err(error) = start_hub_at(directory.path(), Some("global: {}\n"), "0.0.0.0:0").await else {
        panic!("it started without a credential");
    };
    let message = format!("{error:#}");
    let suggested = message.split('`').nth(1).expect("a suggestion");
    let suggested = marigraph::config::Config::parse(suggested, "the suggestion")?;
    assert!(message.contains("0.0.0.0") && !suggested.web_auth.is_empty(), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_but_health_wants_the_credential() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), Some(WITH_TOKEN)).await?;
    let ask = |path: &str, credential: Option<&str>| {
        let mut request = Request::builder().uri(path).header("host", "hub");
        if let Some(credential) = credential {
            request = request.header("authorization", credential);
        }
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        client::send(hub.addr(), request)
    };
    let paths = [
        "/",
        "/metrics",
        "/api/v1/query?query=1",
        "/api/v1/labels",
        "/api/v1/series?match[]=up",
        "/api/v1/targets",
        "/api/v1/status/config",
        "/api/v1/status/tsdb",
        "/api/v1/status/series",
        "/api/v1/completeness",
        "/api/v1/metadata",
        "/api/v1/write",
        "/api/v1/nothing",
        "/metrics/machine",
    ];
    for path in paths {
        for credential in
            [None, Some("Bearer wrong"), Some("Basic cGlsb3Q6d3Jvbmc="), Some("Bearer"), Some("x")]
        {
            let answer = ask(path, credential).await?;
            assert_eq!(answer.status, 401, "{path} with {credential:?}: {}", answer.text());
            assert!(answer.headers.contains_key("www-authenticate"), "{path}");
        }
    }
    for credential in ["Bearer harbour-secret", "Basic cGlsb3Q6dGlkZQ=="] {
        assert_eq!(ask("/api/v1/query?query=1", Some(credential)).await?.status, 200, "{credential}");
    }
    assert_eq!(ask("/-/healthy", None).await?.status, 200);
    let shown = ask("/api/v1/status/config", Some("Bearer harbour-secret")).await?.json()?;
    let shown = shown["data"]["yaml"].as_str().unwrap_or_default();
    assert!(shown.contains("<secret>") && !shown.contains("harbour-secret"), "{shown}");
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_of_the_document_wants_the_credential() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), Some(WITH_TOKEN)).await?;
    let send = |method: &str, path: &str, token: Option<&str>| {
        let mut request = Request::builder().method(method).uri(path).header("host", "hub");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        client::send(hub.addr(), request)
    };
    let document = send("GET", "/api/v1/openapi.yaml", Some("harbour-secret")).await?.text();
    let (mut path, mut asked) = (String::new(), 0);
    for line in document.lines() {
        let Some(word) = line.strip_suffix(':') else { continue };
        if let Some(found) = word.strip_prefix("  /") {
            path = format!("/api/v1/{}", found.replace("{name}", "job"));
        } else if let Some(method) = word.strip_prefix("    ").filter(|m| ["get", "post", "put"].contains(m))
        {
            let answer = send(&method.to_uppercase(), &path, None).await?;
            assert_eq!(answer.status, 401, "{method} {path}: {}", answer.text());
            asked += 1;
        }
    }
    assert!(asked > 40, "{asked} endpoints in {document}");
    assert!(document.contains("\n  /write:\n") && document.contains("\n  /read:\n"), "{document}");
    hub.stop().await
}
