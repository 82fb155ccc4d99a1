//! What certificates of a user's own authority may say, and what they may not.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use stdx::clock::FakeClock;
use stdx::disk::FakeDisk;
use time::OffsetDateTime;

use super::*;
use crate::identity::{Authority, AuthorityOptions, HubTls, Standing};

const NOW: i64 = 1_790_000_000;

/// An authority as a user has one.
struct UserCa {
    params: CertificateParams,
    key: KeyPair,
    roots: Bundle,
}

impl UserCa {
    fn new() -> UserCa {
        UserCa::named("Corp agents")
    }

    fn named(name: &str) -> UserCa {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        dated(&mut params, NOW - 100, NOW + 1_000_000);
        let root = params.self_signed(&key).expect("signed");
        let roots = Bundle::new(vec![root.der().clone()]).expect("a bundle");
        UserCa { params, key, roots }
    }

    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        dated(&mut params, NOW - 50, NOW + 1000);
        change(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(&key, &issuer).expect("signed").der().clone()
    }

    fn believed(&self, tenants: &[&str], names: Vec<NameRule>) -> ClientAuthorities {
        let tenants = tenants.iter().map(|name| TenantId::new(name).expect("a tenant")).collect();
        let authority = ClientAuthority {
            name: "ca.crt".into(),
            roots: self.roots.clone(),
            revoked: String::new(),
            tenants,
            names,
        };
        ClientAuthorities::new(vec![authority]).expect("usable")
    }
}

fn dated(params: &mut CertificateParams, from: i64, to: i64) {
    params.not_before = OffsetDateTime::from_unix_timestamp(from).expect("a date");
    params.not_after = OffsetDateTime::from_unix_timestamp(to).expect("a date");
}

fn common(name: &str) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.distinguished_name.push(DnType::CommonName, name)
}

fn uris(all: &[&str]) -> impl FnOnce(&mut CertificateParams) {
    move |params| {
        params.subject_alt_names =
            all.iter().map(|uri| SanType::URI((*uri).try_into().expect("a URI"))).collect();
    }
}

fn rule(place: NamePlace, pattern: &str, cluster: Option<&str>) -> NameRule {
    NameRule::new(place, pattern, cluster.map(str::to_owned), None, BTreeMap::new()).expect("a rule")
}

fn rules() -> Vec<NameRule> {
    vec![
        rule(NamePlace::Uri, "spiffe://corp/marigraph/{cluster}/{agent}", None),
        rule(NamePlace::Dns, "Old.agents.corp", Some("legacy")),
        rule(NamePlace::CommonName, "agent.{cluster}.corp", None),
    ]
}

fn at(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.unsigned_abs()))
}

#[test]
fn a_certificate_is_an_agent_of_the_cluster_its_rules_give_and_of_no_other_tenant() {
    let (ours, other, anew) = (UserCa::new(), UserCa::named("Others"), UserCa::new());
    let believed = ours.believed(&["acme", "ship"], rules());
    let check = |what: &str, certificate: CertificateDer<'static>, want: Result<(&str, &str), &str>| match (
        believed.who(&certificate, &[], at(NOW)),
        want,
    ) {
        (Ok(who), Ok((tenant, cluster))) => {
            assert_eq!((who.tenant.as_str(), who.cluster.as_str()), (tenant, cluster), "{what}");
            assert_eq!(who.kind, PeerKind::Agent, "{what}");
            assert!(who.agent_id.starts_with("own-") && who.brought.is_some(), "{what}: {who:?}");
        }
        (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{what}: {error}"),
        (found, want) => panic!("{what}: {found:?}, not {want:?}"),
    };
    let denied = Err("ApplicationVerificationFailure");
    check(
        "by a rule of the URI",
        ours.issue(uris(&["spiffe://corp/marigraph/eu.1/pod-7"])),
        Ok(("acme", "eu.1")),
    );
    check("by the common name", ours.issue(common("agent.us-2.corp")), Ok(("acme", "us-2")));
    check(
        "by the table",
        ours.issue(|it| {
            it.subject_alt_names = vec![SanType::DnsName("OLD.agents.corp".try_into().expect("a name"))];
        }),
        Ok(("acme", "legacy")),
    );
    check("by our own URI", ours.issue(uris(&["marigraph://agent/ship/eu/a1?env=prod"])), Ok(("ship", "eu")));
    check(
        "a tenant that the authority is not for",
        ours.issue(uris(&["marigraph://agent/bank/eu/a1"])),
        denied,
    );
    check("a hub", ours.issue(uris(&["marigraph://hub/0123456789abcdef"])), denied);
    check(
        "two of our URIs",
        ours.issue(uris(&["marigraph://agent/ship/eu/a", "marigraph://agent/ship/us/a"])),
        denied,
    );
    check(
        "two names that fit",
        ours.issue(uris(&["spiffe://corp/marigraph/a/1", "spiffe://corp/marigraph/b/1"])),
        denied,
    );
    check("no name that fits", ours.issue(common("www.corp")), denied);
    check("a cluster that is no name", ours.issue(common("agent.eu/1.corp")), denied);
    check("an agent that is no name", ours.issue(uris(&["spiffe://corp/marigraph/eu/a/b"])), denied);
    check("nothing between", ours.issue(common("agent..corp")), denied);
    check("another authority", other.issue(common("agent.us-2.corp")), Err("UnknownIssuer"));
    check("an authority made anew", anew.issue(common("agent.us-2.corp")), Err("BadSignature"));
    check(
        "expired",
        ours.issue(|it| {
            common("agent.us-2.corp")(it);
            dated(it, NOW - 50, NOW - 10);
        }),
        Err("expired"),
    );
    check(
        "for servers",
        ours.issue(|it| {
            common("agent.us-2.corp")(it);
            it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
        Err("for client authentication"),
    );
}

#[test]
fn an_id_is_the_names_own_and_nothing_is_renewed() {
    let ca = UserCa::new();
    let who = |believed: &ClientAuthorities, name: &str| {
        believed.who(&ca.issue(common(name)), &[], at(NOW)).expect("an agent")
    };
    let (acme, ship) = (ca.believed(&["acme"], rules()), ca.believed(&["ship"], rules()));
    let first = who(&acme, "agent.eu.corp");
    assert_eq!(
        first.agent_id,
        who(&acme, "agent.eu.corp").agent_id,
        "also with another key and serial number"
    );
    assert_ne!(first.agent_id, who(&acme, "agent.us.corp").agent_id);
    assert_ne!(first.agent_id, who(&ship, "agent.eu.corp").agent_id, "tenants do not share ids");
    assert_eq!(first.standing(NOW * 1000), Standing::Current);
    assert_eq!(first.standing((NOW + 2000) * 1000), Standing::Useless, "no time of grace");
}

#[test]
fn what_an_authority_has_revoked_is_refused_and_changes_that_matter_are_told() {
    let ca = UserCa::new();
    let certificate = ca.issue(|it| {
        common("agent.eu.corp")(it);
        it.serial_number = Some(rcgen::SerialNumber::from(77));
    });
    let list = rcgen::CertificateRevocationListParams {
        this_update: OffsetDateTime::from_unix_timestamp(NOW - 60).expect("a date"),
        next_update: OffsetDateTime::from_unix_timestamp(NOW + 60).expect("a date"),
        crl_number: rcgen::SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![rcgen::RevokedCertParams {
            serial_number: rcgen::SerialNumber::from(77),
            revocation_time: OffsetDateTime::from_unix_timestamp(NOW - 70).expect("a date"),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let issuer = Issuer::from_params(&ca.params, &ca.key);
    let revoked = list.signed_by(&issuer).and_then(|list| list.pem()).expect("a list");
    let authority = |revoked: &str, roots: &Bundle| ClientAuthority {
        name: "ca.crt".into(),
        roots: roots.clone(),
        revoked: revoked.to_owned(),
        tenants: vec![TenantId::default()],
        names: rules(),
    };
    let set = |all: Vec<ClientAuthority>| ClientAuthorities::new(all).expect("usable");
    let before = set(vec![authority("", &ca.roots)]);
    assert!(before.who(&certificate, &[], at(NOW)).is_ok());
    let after = set(vec![authority(&revoked, &ca.roots)]);
    let error = after.who(&certificate, &[], at(NOW)).expect_err("revoked").to_string();
    assert!(error.contains("Revoked"), "{error}");
    let more = ca.roots.with(&UserCa::new().roots).expect("a bundle");
    let next = set(vec![authority("", &more), authority("", &UserCa::new().roots)]);
    assert!(next.takes_all_of(&before) && before.takes_all_of(&ClientAuthorities::default()));
    assert!(!after.takes_all_of(&before) && !before.takes_all_of(&next));
}

#[test]
fn the_hub_sees_whose_authority_it_is_and_believes_the_fleets_beside_it() {
    let clock = FakeClock::at(NOW * 1000);
    let disk = FakeDisk::new(std::path::Path::new("/hub"));
    let directory = std::path::Path::new("/hub/fleet");
    let options = AuthorityOptions::default();
    let fleet = Authority::open_or_create(disk.shared(), directory, clock.clone(), options).expect("made");
    let tls = HubTls::new(
        fleet.issue_server(&[]).expect("issued"),
        &fleet.bundle().expect("a bundle"),
        Arc::new(|_| false),
        clock.clone(),
    )
    .expect("TLS");
    let ca = UserCa::new();
    let forged = ca.issue(uris(&["marigraph://agent/bank/eu/a1"]));
    let good = ca.issue(common("agent.eu.corp"));
    assert!(
        tls.peer(Some(std::slice::from_ref(&good))).is_err(),
        "nobody has said that it is to be believed"
    );
    tls.replace_client_authorities(Arc::new(ca.believed(&["acme"], rules())));
    assert_eq!(tls.peer(Some(&[good])).expect("believed").expect("an agent").cluster, "eu");
    assert!(tls.peer(Some(&[forged])).is_err(), "a claim that the fleet's authority did not sign");
    let key = crate::identity::LocalKey::generate().expect("a key");
    let subject = crate::identity::Subject {
        tenant: TenantId::new("bank").expect("a tenant"),
        cluster: "eu".into(),
        agent_id: "0123456789abcdef".into(),
        labels: BTreeMap::new(),
    };
    let issued = fleet.issue_agent(&subject, &key.request().expect("a request")).expect("issued");
    let own = crate::identity::OwnCertificate::from_pem(&issued.chain_pem, &key.to_pem()).expect("a pair");
    let peer = tls.peer(Some(own.chain())).expect("believed").expect("an agent");
    assert_eq!((peer.tenant.as_str(), peer.brought), ("bank", None));
    assert_eq!(tls.peer(None).expect("no certificate"), None);
}
