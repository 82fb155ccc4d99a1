//! Tokens, from a server in memory; time stands still.

use std::convert::Infallible;
use std::path::Path;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::super::{BoxedStream, Connecting, Fetch, Slot};
use super::*;
use crate::config::{HttpClientText, OAuth2Text};

/// A token server at `auth` and a target at any other host, which takes all tokens but `revoked`.
#[derive(Clone, Default)]
struct Servers(Arc<parking_lot::Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// What was asked of the token server: `Authorization` and form.
    asked: Vec<String>,
    /// What the target was shown.
    shown: Vec<String>,
    /// The answers of the token server, the last one again and again.
    answers: Vec<(u16, String)>,
    wants_params: bool,
    delay: Duration,
}

impl Servers {
    fn answering(answers: &[(u16, &str)]) -> Servers {
        let servers = Servers::default();
        let answers = answers.iter().map(|(status, text)| (*status, (*text).to_owned()));
        servers.0.lock().answers = answers.collect();
        servers
    }

    async fn answer(
        self,
        at: String,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let (parts, body) = request.into_parts();
        let header = parts.headers.get(header::AUTHORIZATION);
        let authorization = header.and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let body = body.collect().await.expect("a whole request").to_bytes();
        let answer = |status: u16, text: String| {
            Ok(Response::builder().status(status).body(Full::new(Bytes::from(text))).expect("an answer"))
        };
        if at != "auth" {
            let status = if authorization == "Bearer revoked" { 401 } else { 200 };
            self.0.lock().shown.push(authorization);
            return answer(status, "a 1\n".to_owned());
        }
        let delay = self.0.lock().delay;
        tokio::time::sleep(delay).await;
        let mut inner = self.0.lock();
        let form = String::from_utf8_lossy(&body);
        inner.asked.push(format!("{} {} {authorization} {form}", parts.method, parts.uri));
        if inner.wants_params && authorization != "-" {
            return answer(401, "no header, please".to_owned());
        }
        let (status, text) =
            if inner.answers.len() > 1 { inner.answers.remove(0) } else { inner.answers[0].clone() };
        answer(status, text)
    }
}

impl Connector for Servers {
    fn connect<'a>(&'a self, host: &'a str, _port: u16, _reach: Reach) -> Connecting<'a> {
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let (servers, at) = (self.clone(), host.to_owned());
            let service = service_fn(move |request| servers.clone().answer(at.clone(), request));
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service),
            );
            Ok(Box::new(ours) as BoxedStream)
        })
    }
}

fn client(servers: &Servers, change: impl FnOnce(&mut OAuth2Text)) -> HttpClient {
    let mut oauth2 = OAuth2Text {
        client_id: Some("me:too".to_owned()),
        client_secret: Some(Secret::new("hush")),
        token_url: Some("http://auth/token?tenant=1".to_owned()),
        ..OAuth2Text::default()
    };
    change(&mut oauth2);
    let written = HttpClientText { oauth2: Some(oauth2), ..HttpClientText::default() };
    let config = written.validate(Path::new("/")).expect("good options");
    HttpClient::new(&config, Arc::new(servers.clone()), Arc::default()).expect("a client")
}

async fn get(client: &HttpClient) -> Result<(), String> {
    let url = Url::parse("http://target/metrics").expect("a URL");
    let fetch = Fetch {
        url: &url,
        accept: "*/*",
        gzip: false,
        timeout: Duration::from_secs(5),
        announce_timeout: false,
        headers: &[],
        body_bytes_max: 0,
        keep_alive: false,
    };
    Slot::default().fetch(client, &fetch, &mut Vec::new()).await.map(drop).map_err(|e| e.to_string())
}

const ASKED: &str = "POST /token?tenant=1 Basic bWUlM0F0b286aHVzaA== grant_type=client_credentials";

#[tokio::test(start_paused = true)]
async fn a_token_serves_all_until_shortly_before_its_end() {
    let servers = Servers::answering(&[
        (200, r#"{"access_token":"one","token_type":"bearer","expires_in":60}"#),
        (200, r#"{"access_token":"two","token_type":"MAC","expires_in":"60"}"#),
        (200, "access_token=three&expires_in=60"),
    ]);
    servers.0.lock().delay = Duration::from_secs(1);
    let client = Arc::new(client(&servers, |oauth2| {
        oauth2.scopes = Some(vec!["read".to_owned(), "all".to_owned()]);
        oauth2.endpoint_params = Some([("audience".to_owned(), "a b".to_owned())].into());
    }));
    let spawned = |_| {
        let client = client.clone();
        tokio::spawn(async move { get(&client).await })
    };
    for one in (0..50).map(spawned).collect::<Vec<_>>() {
        one.await.expect("a task that ends").expect("an answer");
    }
    tokio::time::advance(Duration::from_secs(49)).await;
    get(&client).await.expect("an answer");
    let asked = format!("{ASKED}&scope=read+all&audience=a+b");
    assert_eq!(servers.0.lock().asked, [asked.as_str()]);
    assert_eq!(servers.0.lock().shown, vec!["Bearer one"; 51]);
    for token in ["MAC two", "Bearer three"] {
        tokio::time::advance(Duration::from_secs(52)).await;
        get(&client).await.expect("an answer");
        assert_eq!(servers.0.lock().shown.last().map(String::as_str), Some(token));
    }
    assert_eq!(servers.0.lock().asked.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_server_decides_where_the_credentials_stand() {
    let servers = Servers::answering(&[(200, r#"{"access_token":"one","expires_in":20}"#)]);
    servers.0.lock().wants_params = true;
    let client = client(&servers, |_| {});
    get(&client).await.expect("an answer");
    tokio::time::advance(Duration::from_secs(11)).await;
    get(&client).await.expect("an answer");
    let params = "POST /token?tenant=1 - grant_type=client_credentials&client_id=me%3Atoo&client_secret=hush";
    assert_eq!(servers.0.lock().asked, [ASKED, params, params]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_and_remembered_for_a_moment() {
    for (status, answer, told) in [
        (500, "<p>\nbroken</p>", "server returned HTTP status 500 Internal Server Error: <p> broken</p>"),
        (200, r#"{"error":"invalid_scope","error_description":"no"}"#, "invalid_scope (no)"),
        (200, "{}", "the answer has no access_token"),
        (200, r#"{"access_token":"a\nb"}"#, "the access_token holds odd characters"),
    ] {
        let servers = Servers::answering(&[(status, answer), (200, r#"{"access_token":"one"}"#)]);
        let client = client(&servers, |_| {});
        let problem = get(&client).await.expect_err("no token");
        assert_eq!(problem, format!("oauth2: no token from http://auth/token: {told}"));
        assert_eq!(get(&client).await, Err(problem));
        assert_eq!(servers.0.lock().asked.len(), 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        get(&client).await.expect("an answer");
        assert_eq!(servers.0.lock().shown, ["Bearer one"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_the_target_refuses_is_replaced() {
    let servers =
        Servers::answering(&[(200, r#"{"access_token":"revoked"}"#), (200, r#"{"access_token":"good"}"#)]);
    let client = client(&servers, |_| {});
    assert_eq!(get(&client).await, Err("server returned HTTP status 401 Unauthorized".to_owned()));
    get(&client).await.expect("an answer");
    assert_eq!(servers.0.lock().shown, ["Bearer revoked", "Bearer good"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_does_not_hold_targets_beyond_their_time() {
    let servers = Servers::answering(&[(200, r#"{"access_token":"one"}"#)]);
    servers.0.lock().delay = Duration::from_secs(60);
    let client = client(&servers, |_| {});
    let problem = get(&client).await.expect_err("no token in time");
    assert!(problem.starts_with("context deadline exceeded"), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn the_secret_is_read_from_its_file_each_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("secret");
    let servers = Servers::answering(&[(200, r#"{"access_token":"one","expires_in":20}"#)]);
    let client = client(&servers, |oauth2| {
        oauth2.client_secret = None;
        oauth2.client_secret_file = Some(file.display().to_string());
        oauth2.client_id = Some("me".to_owned());
    });
    let problem = get(&client).await.expect_err("no file yet");
    assert!(
        problem.contains("no token from http://auth/token: read ") && problem.contains("secret: "),
        "{problem}"
    );
    for secret in ["a", "b"] {
        std::fs::write(&file, secret).expect("a file that can be written");
        tokio::time::advance(Duration::from_secs(11)).await;
        get(&client).await.expect("an answer");
    }
    let basic = |text: &str| {
        format!("POST /token?tenant=1 Basic {} grant_type=client_credentials", BASE64.encode(text))
    };
    assert_eq!(servers.0.lock().asked, [basic("me:a"), basic("me:b")]);
}

#[tokio::test(start_paused = true)]
async fn an_assertion_needs_no_secret() {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rsa::{KeyPair, KeySize};

    let key = KeyPair::generate(KeySize::Rsa2048).expect("a key");
    let der = BASE64.encode(key.as_der().expect("PKCS #8").as_ref());
    let servers = Servers::answering(&[(200, r#"{"access_token":"one"}"#)]);
    let client = client(&servers, |oauth2| {
        oauth2.client_secret = None;
        oauth2.grant_type = Some(JWT_BEARER.to_owned());
        oauth2.client_certificate_key =
            Some(Secret::new(format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----")));
        oauth2.scopes = Some(vec!["read".to_owned()]);
        oauth2.endpoint_params = Some([("tenant".to_owned(), "a b".to_owned())].into());
    });
    get(&client).await.expect("an answer");
    let asked = servers.0.lock().asked.clone();
    let request = "POST /token?tenant=1 - grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer\
                   &scope=read&tenant=a+b&assertion=";
    assert!(asked.len() == 1 && asked[0].starts_with(request), "{asked:?}");
    assert_eq!(asked[0][request.len()..].split('.').count(), 3);
    assert_eq!(servers.0.lock().shown, ["Bearer one"]);
}

#[test]
fn contradictions_are_named() {
    let jwt = || Some(JWT_BEARER.to_owned());
    let params = |name: &str| Some([(name.to_owned(), "x".to_owned())].into());
    let good = || OAuth2Text {
        client_id: Some("me".to_owned()),
        client_certificate_key_file: Some("key.pem".to_owned()),
        token_url: Some("http://auth/token".to_owned()),
        ..OAuth2Text::default()
    };
    for (written, told) in [
        (OAuth2Text { client_id: None, ..good() }, "oauth2.client_id: `client_id` is missing or empty"),
        (
            OAuth2Text { grant_type: Some("password".to_owned()), ..good() },
            "oauth2.grant_type: grant type `password`",
        ),
        (
            OAuth2Text { grant_type: jwt(), client_certificate_key_file: None, ..good() },
            "oauth2.client_certificate_key: `client_certificate_key` is missing or empty",
        ),
        (
            OAuth2Text { client_certificate_key: Some(Secret::new("a")), ..good() },
            "oauth2.client_certificate_key_file: `client_certificate_key` and",
        ),
        (
            OAuth2Text { grant_type: jwt(), signature_algorithm: Some("ES256".to_owned()), ..good() },
            "oauth2.signature_algorithm: `ES256` is not a signature algorithm: RS256, RS384 and RS512 are",
        ),
        (
            OAuth2Text { grant_type: jwt(), endpoint_params: params("assertion"), ..good() },
            "oauth2.endpoint_params.assertion: `assertion` stands in the request already",
        ),
        (
            OAuth2Text { scopes: Some(vec!["a".to_owned()]), endpoint_params: params("scope"), ..good() },
            "oauth2.endpoint_params.scope: `scope` stands in the request already",
        ),
    ] {
        let written = HttpClientText { oauth2: Some(written), ..HttpClientText::default() };
        let problem = written.validate(Path::new("/")).expect_err("a contradiction").to_string();
        assert!(problem.starts_with(told), "{problem}");
    }
    let several = OAuth2Text { grant_type: jwt(), endpoint_params: params("grant_type"), ..good() };
    let written = HttpClientText { oauth2: Some(several), ..HttpClientText::default() };
    written.validate(Path::new("/")).expect("some servers want another grant_type");
}
