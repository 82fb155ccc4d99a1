//! `marigraph query` beside the real promtool, on the real Prometheus and on us: the same bytes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::Result;
use model::Labels;
use testkit::peers::{self, Peer};
use testkit::push::Push;

use crate::{start_hub, start_hub_at};

const START_MS: i64 = 1_700_000_000_000;

/// What is hard to print: quotes, control characters, other alphabets, HTML, odd numbers.
async fn push(addr: SocketAddr) -> Result<()> {
    let values = [0.1, -0.0, 1e300, 1e-300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 123_456_789.125];
    let kinds =
        ["plain", "with \"quotes\"", "tab\tand\nline", "<b>&amp;</b>", "Pegel Köln", "\u{7f}\u{2028}"];
    let mut request = Push::default();
    for (at, kind) in kinds.iter().enumerate() {
        let series = Labels::from_pairs([("__name__", "tide"), ("kind", kind), ("job", "sea")]);
        let samples: Vec<(i64, f64)> = (0..20)
            .map(|row| (START_MS + row * 15_000 + at as i64, values[(at + row as usize) % values.len()]))
            .collect();
        request.floats(&series, &samples);
    }
    request.floats(&Labels::from_pairs([("__name__", "up"), ("job", "sea")]), &[(START_MS + 250, 1.0)]);
    let answer = request.send(addr).await?;
    anyhow::ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text());
    Ok(())
}

fn marigraph(args: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_marigraph")).args(args).env_remove("RUST_BACKTRACE").output()?)
}

/// Questions; `SERVER` stands for the server. None for a string: promtool 2.42 cannot read those.
const QUESTIONS: &[&[&str]] = &[
    &["instant", "--time=1700000285", "SERVER", "tide"],
    &["instant", "--time=2023-11-14T22:18:05.250Z", "-o", "json", "SERVER", "tide"],
    &["instant", "--time=1700000000.25", "SERVER", "up"],
    &["instant", "--time=1700000285", "SERVER", "tide[1m]"],
    &["instant", "--time=1700000285", "--format=json", "SERVER", "tide[1m]"],
    &["instant", "--time=7", "SERVER", "1e25"],
    &["instant", "--time=7", "-o", "json", "SERVER", "-1/0"],
    &["instant", "--time=7", "SERVER", "nothing"],
    &["instant", "--time=7", "-o", "json", "SERVER", "nothing"],
    &["instant", "--time=1700000285", "SERVER", "sum without (kind, job) (count_over_time(tide[10m]))"],
    &["instant", "--time=1700000285", "SERVER", "count by (job) (tide)"],
    &["range", "--start=1700000000", "--end=1700000300", "--step=30s", "SERVER", "tide"],
    &["range", "--start=1700000000", "--end=1700000300", "--step=1m30s", "-o", "json", "SERVER", "tide"],
    &["range", "--start=1700000000", "--end=1700000300", "SERVER", "up"],
    &["range", "--end=2023-11-14T22:18:00Z", "--step=45s", "SERVER", "count(tide) or up"],
    &["range", "--start=1700000000", "--end=1700000001", "--step=1s", "SERVER", "nothing"],
    &["range", "--start=1700000000.5", "--end=1700000001.5", "--step=250ms", "SERVER", "up"],
    &["series", "--match=tide", "SERVER"],
    &["series", "--match=up", "--match={job=\"sea\"}", "-o", "json", "SERVER"],
    &["series", "--match=up", "--start=1600000000", "--end=1600000300", "SERVER"],
    &["series", "--match=up", "--start=1600000000", "--end=1600000300", "-o", "json", "SERVER"],
    &["labels", "SERVER", "kind"],
    &["labels", "--match=up", "-o", "json", "SERVER", "__name__"],
    &["labels", "--start=1700000000", "--end=1700000300", "SERVER", "job"],
    &["labels", "SERVER", "nothing"],
    // These fail.
    &["instant", "--time=7", "SERVER", "sum("],
    &["instant", "--time=7", "SERVER", "up @"],
    &["instant", "--time=x", "SERVER", "up"],
    &["range", "--start=5", "--end=5", "SERVER", "up"],
    &["range", "--start=0", "--end=1700000000", "--step=1s", "SERVER", "up"],
    &["series", "--match=up{", "SERVER"],
    &["series", "SERVER"],
    &["instant", "--time=7", "http://127.0.0.1:1", "up"],
];

#[tokio::test(flavor = "multi_thread")]
async fn the_same_bytes_as_promtool() -> Result<()> {
    let (Some(promtool), Some(prometheus)) = (peers::program("promtool"), peers::program("prometheus"))
    else {
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let theirs = directory.path().join("prometheus");
    std::fs::create_dir_all(&theirs)?;
    // Prometheus takes late samples only where it is told to.
    let config = "global: {}\nstorage: {tsdb: {out_of_order_time_window: 100y}}\n";
    let prometheus = Peer::prometheus(&prometheus, &theirs, config).await?;
    let hub = start_hub(directory.path(), Some("global: {}\n")).await?;
    let mut differing = Vec::new();
    for addr in [prometheus.addr, hub.addr()] {
        push(addr).await?;
        let server = format!("http://{addr}");
        for question in QUESTIONS {
            let words: Vec<&str> = std::iter::once("query")
                .chain(question.iter().map(|word| if *word == "SERVER" { &server } else { *word }))
                .collect();
            let theirs = Command::new(&promtool).args(&words).output()?;
            let ours = marigraph(&words)?;
            if (theirs.status.success(), &theirs.stdout) != (ours.status.success(), &ours.stdout) {
                let shown = |output: &Output| {
                    let (out, error) = (&output.stdout, &output.stderr);
                    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(error))
                };
                differing.push(format!("{words:?}\n-- theirs\n{}-- ours\n{}", shown(&theirs), shown(&ours)));
            }
        }
    }
    assert!(differing.is_empty(), "{} differ\n{}", differing.len(), differing.join("\n"));
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_and_where() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start_hub(directory.path(), Some("global: {}\n")).await?;
    let server = format!("http://{}", hub.addr());
    let nowhere = format!("{server}/nowhere");
    let mut wrong = Vec::new();
    let mut check = |words: &[&str], want: &str| -> Result<()> {
        let output = marigraph(words)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() || !said.contains(want) {
            wrong.push(format!("{words:?}\n  wanted {want}\n  said   {said}"));
        }
        Ok(())
    };
    check(
        &["query", "instant", &server, "sum(up))"],
        "marigraph: query error: bad_data: invalid parameter \"query\": 1:9: parse error: unexpected right parenthesis ')'\n  \
         sum(up))\n          ^\n",
    )?;
    check(&["query", "series", &server, "--match", "up{job=}"], "\n  up{job=}\n         ^\n")?;
    check(
        &["query", "instant", "http://127.0.0.1:1", "up"],
        "marigraph: cannot reach http://127.0.0.1:1: Connection refused (os error 111); nobody listens there",
    )?;
    check(
        &["query", "instant", &nowhere, "up"],
        "/nowhere/api/v1/query answered 404 Not Found, which is no answer of a Prometheus API",
    )?;
    check(&["query", "instant", "ftp://x", "up"], "is not the URL of a server; write http://HOST:PORT")?;
    check(
        &["query", "instant", &server, "up", "--time", "soon"],
        "cannot parse \"soon\" to a valid timestamp",
    )?;
    check(&["query", "range", &server, "up", "--step", "0s"], "a step is longer than nothing")?;
    check(&["query", "instant", &server, "up", "--header", "x"], "write NAME=VALUE")?;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    hub.stop().await
}

/// A file with this content.
fn file(directory: &Path, name: &str, content: &str) -> Result<String> {
    let path = directory.join(name);
    std::fs::write(&path, content)?;
    Ok(path.display().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_every_kind_are_shown() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let dir = directory.path();
    let config =
        "web: {auth: {bearer_tokens: [harbour-secret], basic_auth_users: {pilot: {password: 'ti:de'}}}}\n";
    let hub = start_hub_at(dir, Some(config), "127.0.0.1:0").await?;
    let (server, addr) = (format!("http://{}", hub.addr()), hub.addr());
    let token = file(dir, "token", "harbour-secret\n")?;
    let password = file(dir, "password", "ti:de\n")?;
    let options = file(dir, "http.yml", "basic_auth: {username: pilot, password_file: password}\n")?;
    let broken = file(dir, "broken.yml", "basic_auth: {username: pilot}\nbearer: x\n")?;
    let in_url = format!("http://pilot:ti%3Ade@{addr}");
    let check = |server: &str, flags: &[&str], want: Result<(), &str>| -> Result<()> {
        let mut words = vec!["query", "instant", server, "vector(7)", "--time=1"];
        words.extend(flags);
        let output = marigraph(&words)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match want {
            Ok(()) => {
                assert_eq!(String::from_utf8_lossy(&output.stdout), "{} => 7 @[1]\n", "{flags:?}: {said}")
            }
            Err(want) => assert!(!output.status.success() && said.contains(want), "{flags:?}: {said}"),
        }
        assert!(!said.contains("harbour-secret") && !said.contains("ti:de"), "{flags:?}: {said}");
        Ok(())
    };
    check(&server, &["--bearer-token-file", &token], Ok(()))?;
    check(&server, &["--basic-auth.user=pilot", "--basic-auth.password-file", &password], Ok(()))?;
    check(&server, &["--header=Authorization=Bearer harbour-secret"], Ok(()))?;
    check(&server, &["--http.config.file", &options], Ok(()))?;
    check(&in_url, &[], Ok(()))?;
    check(&server, &[], Err("wants a credential, or another one: --bearer-token-file or --basic-auth.user"))?;
    check(&server, &["--bearer-token-file", &password], Err("wants a credential"))?;
    check(&server, &["--bearer-token-file", "/nowhere"], Err("/nowhere"))?;
    check(&server, &["--http.config.file", &broken], Err("broken.yml:2:1: unknown field `bearer`"))?;
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_trusts_whom_it_is_told_to_trust() -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let certified = rcgen::generate_simple_self_signed(vec!["harbour.test".to_owned()])?;
    let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der())
        .map_err(anyhow::Error::msg)?;
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let body = r#"{"status":"success","data":["sea"]}"#;
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + body).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let directory = tempfile::tempdir()?;
    let ca = file(directory.path(), "ca.pem", &certified.cert.pem())?;
    let url = format!("https://{addr}");
    let ask = |flags: &[&str]| marigraph(&[&["query", "labels", &url, "job"], flags].concat());
    for flags in
        [&["--tls.ca-file", &ca, "--tls.server-name", "harbour.test"][..], &["--tls.insecure-skip-verify"]]
    {
        let output = ask(flags)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "sea\n", "{flags:?}: {said}");
    }
    for flags in [&[][..], &["--tls.ca-file", &ca]] {
        let output = ask(flags)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("speak TLS with https://"), "{flags:?}: {said}");
        assert!(said.contains("certificate"), "{flags:?}: {said}");
    }
    server.abort();
    Ok(())
}
