//! `marigraph agent check`: why there is no connection to a hub, in sentences that say what to do.
//!
//! It walks the way an agent goes, step by step, and stops at the first one that fails: name, TCP (or the proxy),
//! TLS with whatever certificate is shown, that certificate, the hub's answer, the agent's own certificate.
//! The token is read, not redeemed: that would use it up.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use stdx::clock::Clock;
use tenancy::{Token, TokenKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use self::own::{believed_by_user, own_certificate, said, strange_to_user};
use super::agent::AgentIdentity;
use super::bundle::RootPin;
use super::exchange::WHO_PATH;
use super::peer::{PeerIdentity, PeerKind};
use super::server_trust::{HubVerifier, ServerTrust};
use super::tls::{AgentTls, Alpn, FLEET_PROTOCOL, provider};
use crate::connect::{BoxedStream, ConnectError, Connector, HubUrl};

mod own;

pub use own::explained;

/// Difference of clocks from which on it is told.
const SKEW_MS: i64 = 30_000;

/// What a step found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It works.
    Good,
    /// It works, and somebody should look at it.
    Doubtful,
    /// It does not work; no further step was made.
    Bad,
}

/// A step of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it went.
    pub outcome: Outcome,
    /// Which step: `name`, `TCP`, `TLS`, ...
    pub step: &'static str,
    /// What was found.
    pub found: String,
    /// What to do about it; empty when nothing.
    pub advice: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.outcome {
            Outcome::Good => "ok   ",
            Outcome::Doubtful => "look ",
            Outcome::Bad => "FAIL ",
        };
        write!(f, "{mark} {}: {}", self.step, self.found)?;
        if !self.advice.is_empty() {
            write!(f, "\n      -> {}", self.advice)?;
        }
        Ok(())
    }
}

/// What an agent would connect with.
#[derive(Debug)]
pub struct Check<'a> {
    /// The hub, as given to the agent.
    pub hub: &'a str,
    /// The way to it.
    pub connector: &'a Connector,
    /// The token, when there is one.
    pub token: Option<&'a str>,
    /// The agent's identity, when there is one.
    pub identity: Option<&'a AgentIdentity>,
    /// Longest a step may take.
    pub patience: Duration,
    /// This machine's clock.
    pub clock: Arc<dyn Clock>,
}

impl Check<'_> {
    /// Goes the way. The last finding is the bad one, if there is any.
    pub async fn run(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Err(finding) = self.walk(&mut findings).await {
            findings.push(finding);
        }
        findings
    }

    async fn walk(&self, findings: &mut Vec<Finding>) -> Result<(), Finding> {
        let hub =
            HubUrl::parse(self.hub).map_err(|error| bad("address", error, "write https://HOST:PORT"))?;
        let pin = self.token(findings)?;
        if let Some(identity) = self.identity {
            own_certificate(identity, self.clock.now_ms(), findings)?;
        }
        let stream = self.reach(&hub, findings).await?;
        let shown = self.handshake(&hub, stream, pin, findings).await?;
        self.judge(&hub, &shown, pin, findings)?;
        self.ask(&hub, pin, findings).await
    }

    /// The token's own soundness; the root it pins.
    fn token(&self, findings: &mut Vec<Finding>) -> Result<Option<RootPin>, Finding> {
        let Some(text) = self.token else { return Ok(None) };
        let token: Token = text.parse().map_err(|error| {
            bad("token", error, "copy it again, or make a new one: marigraph token create")
        })?;
        if token.kind != TokenKind::Enrol {
            let found = format!("it is for {}, agents need one for enrol", token.kind.name());
            return Err(bad("token", found, "make one with: marigraph token create --cluster NAME"));
        }
        let found = format!("{} can be read; it is not redeemed by this check", token.id());
        findings.push(good("token", found));
        if !token.hub.is_empty() && token.hub.trim_end_matches('/') != self.hub.trim_end_matches('/') {
            let found = format!("was made at a hub that calls itself {}", token.hub);
            findings.push(doubtful(
                "token",
                found,
                "any hub of the fleet takes its certificates, only that one the token",
            ));
        }
        Ok(token.pin.map(RootPin))
    }

    async fn reach(&self, hub: &HubUrl, findings: &mut Vec<Finding>) -> Result<BoxedStream, Finding> {
        let proxy = self.connector.proxy_of(hub);
        match &proxy {
            Some(proxy) => findings.push(good("proxy", format!("{proxy} is in between"))),
            None => self.resolve(hub, findings).await?,
        }
        let step = if proxy.is_some() { "proxy" } else { "TCP" };
        let stream = self.in_time(step, self.connector.stream(hub)).await?;
        let stream = stream.map_err(|error| unreached(&error))?;
        findings.push(good(step, format!("{} can be reached", hub.authority())));
        Ok(stream)
    }

    async fn resolve(&self, hub: &HubUrl, findings: &mut Vec<Finding>) -> Result<(), Finding> {
        let advice = "check the name, and whether this machine's DNS (in a pod: the cluster's) knows it";
        let found = self.in_time("name", tokio::net::lookup_host((hub.host(), hub.port()))).await?;
        let found =
            found.map_err(|error| bad("name", format!("{} is not known: {error}", hub.host()), advice))?;
        let mut found: Vec<String> = found.map(|address| address.ip().to_string()).collect();
        found.dedup();
        if found.is_empty() {
            return Err(bad("name", format!("{} has no address", hub.host()), advice));
        }
        if found != [hub.host()] {
            findings.push(good("name", format!("{} is {}", hub.host(), found.join(", "))));
        }
        Ok(())
    }

    /// TLS with whoever answers: the certificates shown.
    async fn handshake(
        &self,
        hub: &HubUrl,
        stream: BoxedStream,
        pin: Option<RootPin>,
        findings: &mut Vec<Finding>,
    ) -> Result<Vec<CertificateDer<'static>>, Finding> {
        let seen = Arc::new(Witness(Mutex::default()));
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("TLS", error, ""))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&seen) as _)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if !self.trust(pin).is_some_and(|trust| trust.believes_users()) {
            config.alpn_protocols.push(FLEET_PROTOCOL.to_vec());
        }
        let name = ServerName::try_from(hub.host().to_owned())
            .map_err(|_| bad("TLS", "the host is neither a DNS name nor an address", "check the address"))?;
        let shaken = self.in_time("TLS", TlsConnector::from(Arc::new(config)).connect(name, stream)).await?;
        let stream = shaken.map_err(|error| no_tls(&error))?;
        let certificates = seen.0.lock().clone();
        if stream.get_ref().1.alpn_protocol().is_none() {
            findings.push(doubtful(
                "TLS",
                "the other end does not answer which protocol it speaks (ALPN)".to_owned(),
                "something between may end TLS: see the next line",
            ));
        }
        Ok(certificates)
    }

    /// Whose certificate is shown, and whether the agent would believe it.
    fn judge(
        &self,
        hub: &HubUrl,
        shown: &[CertificateDer<'static>],
        pin: Option<RootPin>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Finding> {
        let Some((first, rest)) = shown.split_first() else {
            return Err(bad("TLS", "no certificate is shown", "this is no hub"));
        };
        let trust = self.trust(pin);
        let is_hub = PeerIdentity::of_certificate(first).is_ok_and(|hub| hub.kind == PeerKind::Hub);
        let of_user = trust.as_ref().is_some_and(ServerTrust::believes_users);
        if !is_hub && !of_user {
            return Err(intercepted(first));
        }
        let Some(trust) = trust else {
            let found = "a hub answers; without a token or a certificate nobody can say whether it is yours";
            findings.push(doubtful("certificate", found.to_owned(), "give the token: --token"));
            return Ok(());
        };
        let verifier = HubVerifier::new(provider(), trust).map_err(|error| bad("certificate", error, ""))?;
        let name =
            ServerName::try_from(hub.host().to_owned()).map_err(|error| bad("certificate", error, ""))?;
        let now_ms = self.clock.now_ms();
        let now = Duration::from_millis(u64::try_from(now_ms).unwrap_or(0));
        let verified = verifier.verify_server_cert(first, rest, &name, &[], UnixTime::since_unix_epoch(now));
        match verified {
            Ok(_) if !is_hub => findings.push(believed_by_user()),
            Err(error) if !is_hub => return Err(strange_to_user(&error, first, hub.host())),
            Ok(_) => findings.push(good(
                "certificate",
                "the hub is of this agent's fleet; TLS ends at the hub itself".to_owned(),
            )),
            Err(error) => return Err(disbelieved(&error, shown, now_ms)),
        }
        Ok(())
    }

    fn trust(&self, pin: Option<RootPin>) -> Option<ServerTrust> {
        let users = self.identity.and_then(AgentIdentity::roots);
        let enrolled = self.identity.and_then(AgentIdentity::bundle);
        let fleet = enrolled.map(ServerTrust::Fleet).or_else(|| pin.map(ServerTrust::Pinned));
        match fleet {
            Some(fleet) => Some(fleet.with_users(users)),
            None => users.map(ServerTrust::Roots),
        }
    }

    /// A request as the agent makes it.
    async fn ask(
        &self,
        hub: &HubUrl,
        pin: Option<RootPin>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), Finding> {
        let current = self.identity.and_then(AgentIdentity::current);
        let brought = self.identity.is_some_and(AgentIdentity::is_brought);
        let enrolled = self.identity.filter(|_| current.is_some() || brought);
        let tls = match (enrolled, self.trust(pin)) {
            (Some(identity), _) => identity.tls().client_config(Alpn::Http1),
            (None, Some(trust)) => AgentTls::new(trust, None, Arc::clone(&self.clock))
                .map_err(|error| bad("TLS", error, ""))?
                .client_config(Alpn::Http1),
            (None, None) => return Ok(()),
        };
        let what = if brought { format!("POST {WHO_PATH}") } else { "GET /-/healthy".to_owned() };
        let talk = async {
            let mut stream = self
                .connector
                .connect(hub, tls)
                .await
                .map_err(|error| io::Error::other(error.to_string()))?;
            let request = format!(
                "{what} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                hub.authority()
            );
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            // A hub that closes without a word over TLS has said all it will.
            let read = (&mut stream).take(16 << 10).read_to_end(&mut answer).await;
            if answer.is_empty() {
                read?;
            }
            Ok::<_, io::Error>(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = self.in_time("hub", talk).await?.map_err(|error| refused(&error, brought))?;
        if brought {
            findings.push(said(&answer)?);
            self.compare_clocks(&answer, findings);
            return Ok(());
        }
        if !answer.starts_with("HTTP/1.1 200") {
            let line = answer.lines().next().unwrap_or("nothing");
            return Err(bad(
                "hub",
                format!("it answers {line:?}"),
                "look into the hub's log; is it starting?",
            ));
        }
        findings.push(good("hub", "it answers".to_owned()));
        self.compare_clocks(&answer, findings);
        Ok(())
    }

    fn compare_clocks(&self, answer: &str, findings: &mut Vec<Finding>) {
        let date = answer.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("date").then(|| value.trim())
        });
        let Some(hub_ms) = date.and_then(http_date_ms) else { return };
        let skew_ms = self.clock.now_ms() - hub_ms;
        if skew_ms.abs() > SKEW_MS {
            let (seconds, way) = (skew_ms.abs() / 1000, if skew_ms > 0 { "ahead of" } else { "behind" });
            let found = format!("this machine's is {seconds} s {way} the hub's");
            findings.push(doubtful("clock", found, "synchronise both (NTP): timestamps are this machine's"));
        }
    }

    async fn in_time<T>(&self, step: &'static str, doing: impl Future<Output = T>) -> Result<T, Finding> {
        tokio::time::timeout(self.patience, doing).await.map_err(|_| {
            let advice = "a firewall that drops packets in silence looks like this; allow this machine to go out to \
                          the hub's port, or give the proxy with --proxy";
            bad(step, format!("no answer in {:?}", self.patience), advice)
        })
    }
}

fn good(step: &'static str, found: String) -> Finding {
    Finding { outcome: Outcome::Good, step, found, advice: String::new() }
}

fn doubtful(step: &'static str, found: String, advice: &str) -> Finding {
    Finding { outcome: Outcome::Doubtful, step, found, advice: advice.to_owned() }
}

fn bad(step: &'static str, found: impl fmt::Display, advice: &str) -> Finding {
    Finding { outcome: Outcome::Bad, step, found: found.to_string(), advice: advice.to_owned() }
}

fn unreached(error: &ConnectError) -> Finding {
    match error {
        ConnectError::Proxy { .. } => bad(
            "proxy",
            error,
            "the proxy must allow CONNECT to the hub's port, and know this agent if it wants a password \
             (http://USER:PASSWORD@PROXY:PORT)",
        ),
        ConnectError::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
            bad("TCP", error, "nobody listens there: is the hub running, and is the port right?")
        }
        _ => bad("TCP", error, "is there a route, and does a firewall let this machine out to that port?"),
    }
}

fn no_tls(error: &io::Error) -> Finding {
    let text = error.to_string();
    let advice = if text.contains("corrupt message") || text.contains("InvalidContentType") {
        "what answers speaks no TLS: is this the hub's port, or does something before it end TLS and speak \
         plaintext? Hubs need TLS passed through (layer 4)"
    } else if error.kind() == io::ErrorKind::UnexpectedEof || error.kind() == io::ErrorKind::ConnectionReset {
        "the connection is cut when TLS begins: a firewall that looks into it, or a load balancer without a \
         route for this name"
    } else {
        "what answers does not speak TLS as a hub does"
    };
    bad("TLS", text, advice)
}

fn intercepted(certificate: &CertificateDer<'_>) -> Finding {
    let found = match X509Certificate::from_der(certificate) {
        Ok((_, shown)) => {
            format!(
                "the certificate shown is no hub's: for {:?}, by {:?}",
                shown.subject().to_string(),
                shown.issuer().to_string()
            )
        }
        Err(_) => "the certificate shown cannot be read".to_owned(),
    };
    bad(
        "certificate",
        found,
        "something between ends TLS: a proxy that inspects it (except the hub's name from inspection), or a load \
         balancer or ingress at layer 7 (switch it to TLS passthrough, layer 4)",
    )
}

fn disbelieved(error: &Error, shown: &[CertificateDer<'_>], now_ms: i64) -> Finding {
    let Error::InvalidCertificate(why) = error else { return bad("certificate", error, "") };
    let clock =
        "set this machine's clock (NTP); if it is right, the hub's was wrong when it made its certificate";
    match why {
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => bad(
            "clock",
            format!("the hub's certificate is not valid yet by this machine's clock ({now_ms} ms)"),
            clock,
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => bad(
            "clock",
            format!("the hub's certificate has expired by this machine's clock ({now_ms} ms)"),
            clock,
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            let root = shown.last().and_then(|root| RootPin::of(root).ok());
            let root = root.map_or("an unknown root".to_owned(), |root| format!("the root {root}"));
            bad(
                "certificate",
                format!("this is a hub of another fleet: it shows {root}"),
                "is the address right? If the hub was set up anew or its root replaced while the agent was away, \
                 enrol with a new token",
            )
        }
        other => bad("certificate", format!("the hub's certificate is not believed: {other:?}"), ""),
    }
}

fn refused(error: &io::Error, brought: bool) -> Finding {
    let text = error.to_string();
    match explained(&text, brought) {
        Some((found, advice)) => bad("hub", found, advice),
        None => bad("hub", text, "look into the hub's log: it says whom it refused and why"),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, milliseconds since the epoch. Source: RFC 9110, section 5.6.7.
fn http_date_ms(text: &str) -> Option<i64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut parts = text.split_once(", ")?.1.split(' ');
    let day: u8 = parts.next()?.parse().ok()?;
    let month = u8::try_from(MONTHS.find(parts.next()?)? / 3 + 1).ok()?;
    let year: i32 = parts.next()?.parse().ok()?;
    let mut clock = parts.next()?.split(':').map(|part| part.parse::<u8>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let date = time::Date::from_calendar_date(year, time::Month::try_from(month).ok()?, day).ok()?;
    let time = date.with_hms(hour, minute, second).ok()?;
    Some(time.assume_utc().unix_timestamp() * 1000)
}

/// Believes everything, and remembers it.
#[derive(Debug)]
struct Witness(Mutex<Vec<CertificateDer<'static>>>);

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let all = std::iter::once(certificate).chain(intermediates);
        *self.0.lock() = all.map(|certificate| certificate.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
