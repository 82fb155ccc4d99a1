//! Handshakes between hubs and agents of every standing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::{ClientConfig, ClientConnection, ServerConnection};
use rustls_pki_types::ServerName;
use stdx::clock::FakeClock;
use stdx::disk::FakeDisk;

use super::*;

const NOW_MS: i64 = 1_790_000_000_000;
const DAY_MS: i64 = 24 * 3600 * 1000;

fn authority(clock: &Arc<FakeClock>) -> Authority {
    let disk = FakeDisk::new(Path::new("/data"));
    let options = AuthorityOptions::default();
    Authority::open_or_create(disk.shared(), Path::new("/data/fleet"), clock.clone(), options)
        .expect("an authority")
}

fn subject() -> Subject {
    Subject {
        tenant: tenancy::TenantId::new("acme").expect("a tenant"),
        cluster: "eu-1.prod".into(),
        agent_id: "0123456789abcdef".into(),
        labels: [("env".to_owned(), "prod & größer=ja".to_owned())].into(),
    }
}

fn certificate(authority: &Authority) -> OwnCertificate {
    let key = LocalKey::generate().expect("a key");
    let issued = authority.issue_agent(&subject(), &key.request().expect("a request")).expect("issued");
    OwnCertificate::from_pem(&issued.chain_pem, &key.to_pem()).expect("a pair")
}

fn hub(authority: &Authority, clock: &Arc<FakeClock>, revoked: IsRevoked) -> HubTls {
    let server = authority.issue_server(&["hub.example".into(), "10.0.0.1".into()]).expect("issued");
    HubTls::new(server, &authority.bundle().expect("a bundle"), revoked, clock.clone()).expect("TLS")
}

fn nobody() -> IsRevoked {
    Arc::new(|_| false)
}

/// What came of a handshake: who the hub saw, or who refused.
fn shake(hub: &HubTls, agent: &AgentTls, host: &'static str) -> Result<Option<PeerIdentity>, String> {
    let name = ServerName::try_from(host).expect("a name");
    let mut client = ClientConnection::new(agent.client_config(Alpn::Http1), name).expect("a client");
    let mut server = ServerConnection::new(hub.server_config()).expect("a server");
    let mut bytes = Vec::new();
    for _ in 0..8 {
        bytes.clear();
        client.write_tls(&mut bytes).expect("memory");
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("memory");
            server.process_new_packets().map_err(|error| format!("hub: {error}"))?;
        }
        bytes.clear();
        server.write_tls(&mut bytes).expect("memory");
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("memory");
            client.process_new_packets().map_err(|error| format!("agent: {error}"))?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    assert_eq!(client.alpn_protocol(), Some(&b"http/1.1"[..]));
    hub.peer(server.peer_certificates()).map_err(|error| error.to_string())
}

#[test]
fn who_gets_in() {
    let clock = FakeClock::at(NOW_MS);
    let (ours, other) = (authority(&clock), authority(&clock));
    let fleet = || ServerTrust::Fleet(ours.bundle().expect("a bundle"));
    let pin = |authority: &Authority| ServerTrust::Pinned(authority.pin().expect("a pin"));
    let days = |days: i64| NOW_MS + days * DAY_MS;
    let own = || Some(certificate(&ours));
    let seen = |standing: &'static str| Ok(standing);
    // (what, agent's trust, agent's certificate, hub's time, revoked, outcome)
    let cases = [
        ("enrolled", fleet(), own(), days(1), false, seen("Current")),
        ("clock of the hub an hour late", fleet(), own(), NOW_MS - 3_600_000, false, seen("Current")),
        ("without a certificate", fleet(), None, days(1), false, seen("nobody")),
        ("enrolling by the pin", pin(&ours), None, days(1), false, seen("nobody")),
        (
            "the pin of another root",
            pin(&other),
            None,
            days(1),
            false,
            Err("agent: invalid peer certificate: UnknownIssuer"),
        ),
        (
            "the roots of another fleet",
            ServerTrust::Fleet(other.bundle().expect("a bundle")),
            own(),
            days(1),
            false,
            Err("agent: invalid peer certificate: UnknownIssuer"),
        ),
        (
            "certificate of another fleet",
            fleet(),
            Some(certificate(&other)),
            days(1),
            false,
            Err("hub: invalid peer certificate: UnknownIssuer"),
        ),
        ("expired yesterday", fleet(), own(), days(31), false, seen("RenewalOnly")),
        ("expired 89 days ago", fleet(), own(), days(119), false, seen("RenewalOnly")),
        (
            "expired 91 days ago",
            fleet(),
            own(),
            days(121),
            false,
            Err("hub: invalid peer certificate: certificate expired"),
        ),
        (
            "not yet valid",
            fleet(),
            own(),
            days(-2),
            false,
            Err("hub: invalid peer certificate: certificate not valid yet"),
        ),
        ("revoked", fleet(), own(), days(1), true, Err("hub: invalid peer certificate: Revoked")),
        (
            "revoked and expired",
            fleet(),
            own(),
            days(40),
            true,
            Err("hub: invalid peer certificate: Revoked"),
        ),
    ];
    for (what, trust, certificate, hub_ms, revoked, expected) in cases {
        clock.set_ms(NOW_MS);
        let agent = AgentTls::new(trust, certificate, clock.clone()).expect("TLS");
        let server_clock = FakeClock::at(hub_ms);
        // The agent's clock is right; the hub's certificate is made by it.
        clock.set_ms(hub_ms.max(NOW_MS));
        let hub = hub(&ours, &server_clock, Arc::new(move |_| revoked));
        let outcome = shake(&hub, &agent, "somewhere.else").map(|peer| match peer {
            None => "nobody".to_owned(),
            Some(peer) => {
                assert_eq!((peer.uri(), peer.kind), (expected_uri(), PeerKind::Agent), "{what}");
                assert_eq!(peer.labels, subject().labels, "{what}");
                format!("{:?}", peer.standing(hub_ms))
            }
        });
        match (outcome, expected) {
            (Err(error), Err(begins)) => assert!(error.starts_with(begins), "{what}: {error}"),
            (outcome, expected) => {
                assert_eq!(outcome.as_deref(), Ok(expected.unwrap_or("refused")), "{what}")
            }
        }
    }
}

fn expected_uri() -> String {
    "marigraph://agent/acme/eu-1.prod/0123456789abcdef?env=prod+%26+gr%C3%B6%C3%9Fer%3Dja".into()
}

#[test]
fn a_users_own_authority_needs_the_name_and_agents_still_get_the_fleets_certificate() {
    let clock = FakeClock::at(NOW_MS);
    let (ours, users) = (authority(&clock), authority(&clock));
    let hub = hub(&ours, &clock, nobody());
    let theirs = users.issue_server(&["hub.example".into()]).expect("issued");
    let users_roots = users.bundle().expect("a bundle").store().expect("roots");
    hub.set_own_certificate(Some(theirs.try_into().expect("a pair")));
    let fleet = AgentTls::new(ServerTrust::Fleet(ours.bundle().expect("a bundle")), None, clock.clone());
    assert_eq!(shake(&hub, &fleet.expect("TLS"), "hub.example"), Ok(None));

    // Whoever does not ask for the fleet's gets the user's.
    let mut config = ClientConfig::clone(
        &AgentTls::new(ServerTrust::Roots(users_roots), None, clock.clone())
            .expect("TLS")
            .client_config(Alpn::Http2),
    );
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    for (host, good) in [("hub.example", true), ("other.example", false)] {
        let outcome = shake_with(&hub, config.clone(), host);
        assert_eq!(outcome.is_ok(), good, "{host}: {outcome:?}");
    }
}

fn shake_with(hub: &HubTls, config: ClientConfig, host: &'static str) -> Result<(), String> {
    let name = ServerName::try_from(host).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut server = ServerConnection::new(hub.server_config()).expect("a server");
    for _ in 0..4 {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("memory");
        server.read_tls(&mut bytes.as_slice()).expect("memory");
        server.process_new_packets().map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).expect("memory");
        client.read_tls(&mut bytes.as_slice()).expect("memory");
        client.process_new_packets().map_err(|error| error.to_string())?;
    }
    Ok(())
}

#[test]
fn what_is_exchanged_counts_from_the_next_handshake_on() {
    let clock = FakeClock::at(NOW_MS);
    let (ours, next) = (authority(&clock), authority(&clock));
    let hub = hub(&ours, &clock, nobody());
    let trust = ServerTrust::Fleet(ours.bundle().expect("a bundle"));
    let agent = AgentTls::new(trust, None, clock.clone()).expect("TLS");
    assert_eq!(shake(&hub, &agent, "a.b"), Ok(None));
    agent.replace_certificate(certificate(&ours));
    let first = shake(&hub, &agent, "a.b").expect("let in").expect("an identity");
    agent.replace_certificate(certificate(&ours));
    let second = shake(&hub, &agent, "a.b").expect("let in").expect("an identity");
    assert_ne!(first.serial, second.serial);

    // Another root: first everybody trusts both, then the hub shows the new one.
    let both = ours.bundle().and_then(|bundle| bundle.with(&next.bundle()?)).expect("a bundle");
    hub.replace_trusted(&both).expect("replaced");
    agent.replace_certificate(certificate(&next));
    assert!(shake(&hub, &agent, "a.b").is_ok());
    hub.replace_certificate(next.issue_server(&[]).expect("issued")).expect("replaced");
    assert!(shake(&hub, &agent, "a.b").is_err(), "the agent does not know the new root yet");
    agent
        .replace_trust(ServerTrust::Fleet(Bundle::from_pem(&both.to_pem()).expect("PEM")))
        .expect("replaced");
    assert!(shake(&hub, &agent, "a.b").is_ok());
}

#[test]
fn requests_are_judged() {
    let clock = FakeClock::at(NOW_MS);
    let authority = authority(&clock);
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["hub.example".to_owned()]).expect("names");
    params.distinguished_name.push(DnType::CommonName, "marigraph://agent/other/other/other");
    let greedy = params.serialize_request(&key).and_then(|request| request.pem()).expect("a request");
    let good = LocalKey::generate().and_then(|key| key.request()).expect("a request");
    let broken = good.replace("CERTIFICATE REQUEST", "CERTIFICATE");
    let mut forged = good.clone().into_bytes();
    let at = forged.len() - 60;
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).expect("text");
    let long = "x".repeat(20_000);
    for (what, request, accepted) in [
        ("ours", &good, true),
        ("one that asks for names", &greedy, true),
        ("not a request", &broken, false),
        ("changed on the way", &forged, false),
        ("too long", &long, false),
        ("nothing", &String::new(), false),
    ] {
        match authority.issue_agent(&subject(), request) {
            Ok(issued) => {
                assert!(accepted, "{what}");
                assert_eq!(issued.identity.uri(), expected_uri(), "{what}");
                assert!(!issued.chain_pem.is_empty());
            }
            Err(error) => assert!(!accepted, "{what}: {error}"),
        }
    }
    let mut wrong = subject();
    wrong.cluster = "a/b".into();
    assert!(authority.issue_agent(&wrong, &good).is_err(), "a name that would break the URI");
}

#[test]
fn an_authority_is_found_again_and_never_made_anew() {
    let clock = FakeClock::at(NOW_MS);
    let options = AuthorityOptions { agent_lifetime: Duration::from_secs(60), ..Default::default() };
    let directory = Path::new("/data/fleet");
    let path = directory.join(AUTHORITY_FILE);
    for dies_at in 0..8 {
        let disk = FakeDisk::new(Path::new("/data"));
        disk.die_at(disk.operations() + dies_at);
        let open =
            |disk: &FakeDisk| Authority::open_or_create(disk.shared(), directory, clock.clone(), options);
        let pin = open(&disk).ok().map(|authority| authority.pin().expect("a pin"));
        let disk = disk.after_power_cut(stdx::disk::Survivors::Nothing);
        let again = open(&disk).expect("opened").pin().expect("a pin");
        assert!(pin.is_none_or(|pin| pin == again), "{dies_at}: a root that was used is lost");
    }
    let disk = FakeDisk::new(directory);
    stdx::disk::replace_private(&disk, &path, b"{}").expect("written");
    let error = Authority::open_or_create(disk.shared(), directory, clock, options).expect_err("broken");
    assert!(error.to_string().starts_with("/data/fleet/authority.json: missing field"), "{error}");
}

#[test]
fn the_sample_of_version_1_is_read() {
    let disk = FakeDisk::new(Path::new("/data"));
    let sample = include_bytes!("../../testdata/authority-v1.json");
    let directory = Path::new("/data/fleet");
    stdx::disk::Disk::create_dir_all(&disk, directory).expect("made");
    stdx::disk::replace_private(&disk, &directory.join(AUTHORITY_FILE), sample).expect("written");
    let clock = FakeClock::at(NOW_MS);
    let options = AuthorityOptions::default();
    let authority = Authority::open_or_create(disk.shared(), directory, clock, options).expect("opened");
    assert_eq!(authority.hub_id().len(), 16);
    let roots = authority.roots();
    assert_eq!(roots.iter().map(|root| root.role.as_str()).collect::<Vec<_>>(), ["signing", "next"]);
    assert_eq!(authority.bundle().expect("a bundle").pins().len(), 2);
}

/// Writes the sample anew: `SAMPLE=1 cargo test -p tunnel sample`.
#[test]
fn a_sample_can_be_made() {
    let clock = FakeClock::at(NOW_MS);
    let disk = FakeDisk::new(Path::new("/data"));
    let directory = Path::new("/data/fleet");
    let authority = Authority::open_or_create(disk.shared(), directory, clock, AuthorityOptions::default());
    authority.expect("opened").add_root().expect("a next root");
    let bytes = stdx::disk::Disk::read(&disk, &directory.join(AUTHORITY_FILE)).expect("there");
    if std::env::var_os("SAMPLE").is_some() {
        std::fs::write("testdata/authority-v1.json", &bytes).expect("written");
    }
    assert!(bytes.starts_with(b"{\n  \"version\": 1,"));
}
