//! Tokens, their uses, and what a crash leaves of them.

use stdx::clock::FakeClock;
use stdx::disk::{FakeDisk, Survivors};

use super::*;
use crate::HubRecord;

const NOW_MS: i64 = 1_790_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);

fn disk() -> FakeDisk {
    FakeDisk::new(Path::new("/d"))
}

fn registry(disk: &FakeDisk, clock: &Arc<FakeClock>) -> Registry {
    Registry::open(disk.shared(), Path::new("/d/fleet"), clock.clone()).expect("opened")
}

fn enrol(uses: u32) -> TokenSpec {
    TokenSpec {
        kind: TokenKind::Enrol,
        tenant: TenantId::new("acme").expect("a tenant"),
        clusters: vec!["eu".into()],
        labels: [("env".to_owned(), "prod".to_owned())].into(),
        role: None,
        uses,
        ttl: Some(HOUR),
        pin: Some([9; 32]),
        hub: String::new(),
        author: "ann".into(),
    }
}

fn api(role: Role, clusters: &[&str]) -> TokenSpec {
    TokenSpec {
        kind: TokenKind::Api,
        clusters: clusters.iter().map(ToString::to_string).collect(),
        labels: BTreeMap::new(),
        role: Some(role),
        uses: 0,
        ttl: None,
        pin: None,
        ..enrol(1)
    }
}

fn agent(key: &[u8; 32]) -> Redeemer<'_> {
    Redeemer { kind: TokenKind::Enrol, key }
}

#[test]
fn tokens_are_redeemed_as_often_as_they_may_be() {
    let (disk, clock) = (disk(), FakeClock::at(NOW_MS));
    let first = registry(&disk, &clock);
    let (token, record) = first.create_token(enrol(2)).expect("made");
    assert_eq!((record.digest.as_str(), record.uses_max), ("", 2));
    let text = token.to_string();
    let other = registry(&self::disk(), &clock);
    let (foreign, _) = other.create_token(enrol(1)).expect("made");
    let (a, b, c) = ([1; 32], [2; 32], [3; 32]);
    let got = first.redeem(&text, agent(&a)).expect("the first use");
    assert_eq!((got.tenant.as_str(), got.cluster.as_str()), ("acme", "eu"));
    assert_eq!(got.labels.get("env").map(String::as_str), Some("prod"));
    drop(first);

    // A restart forgets nothing.
    let again = registry(&disk, &clock);
    assert_eq!(
        again.redeem(&text, agent(&a)),
        Ok(got.clone()),
        "the answer was lost, the same key comes again"
    );
    let second = again.redeem(&text, agent(&b)).expect("the second use");
    assert_ne!(second.agent_id, got.agent_id);
    let joins = Redeemer { kind: TokenKind::Join, key: &c };
    let cases: [(&str, &str, Redeemer<'_>, Refusal); 4] = [
        ("used up", &text, agent(&c), Refusal::Used),
        ("another hub's", &foreign.to_string(), agent(&c), Refusal::Unknown),
        ("an agent's, for a hub", &text, joins, Refusal::Kind(TokenKind::Enrol, TokenKind::Join)),
        ("no token", "hunter2", agent(&c), Refusal::Bad(BadToken::Foreign)),
    ];
    for (what, text, redeemer, refusal) in cases {
        assert_eq!(again.redeem(text, redeemer), Err(refusal), "{what}");
    }
    assert_eq!(again.principal(&text), None, "an enrolment token opens no API");
    assert_eq!(again.tokens()[0].uses, 2);
    clock.advance_ms(3_600_000);
    assert_eq!(again.redeem(&text, agent(&a)), Err(Refusal::Expired));
    again.revoke_token(&token.id(), "ann").expect("revoked");
    assert_eq!(again.redeem(&text, agent(&a)), Err(Refusal::Revoked));
    assert!(again.revoke_token("nothing", "ann").is_err());
}

#[test]
fn a_wrong_secret_under_a_known_id_is_unknown() {
    let (disk, clock) = (disk(), FakeClock::at(NOW_MS));
    let registry = registry(&disk, &clock);
    let (one, _) = registry.create_token(api(Role::Admin, &[])).expect("made");
    let (other, _) = registry.create_token(api(Role::Read, &[])).expect("made");
    let mixed = Token { id: one.id, ..other.clone() };
    for (token, known) in [(&one, true), (&other, true), (&mixed, false)] {
        assert_eq!(registry.principal(&token.to_string()).is_some(), known, "{token:?}");
    }
    let file = disk.read(Path::new("/d/fleet/registry.jsonl")).expect("there");
    let file = String::from_utf8(file).expect("text");
    assert!(!file.contains(&one.to_string()[20..60]), "the secret is on the disk");
}

#[test]
fn callers_have_role_tenant_and_clusters() {
    let (disk, clock) = (disk(), FakeClock::at(NOW_MS));
    let registry = registry(&disk, &clock);
    let spec = TokenSpec { ttl: Some(HOUR), ..api(Role::Read, &["us", "eu", "us"]) };
    let (token, _) = registry.create_token(spec).expect("made");
    let principal = registry.principal(&token.to_string()).expect("known");
    assert_eq!(principal.clusters, ["eu", "us"]);
    assert_eq!((principal.role, principal.tenant.as_str()), (Role::Read, "acme"));
    clock.advance_ms(3_600_000);
    assert_eq!(registry.principal(&token.to_string()), None);
    for (what, spec) in [
        ("a writer with clusters", api(Role::Write, &["eu"])),
        ("no role", TokenSpec { role: None, ..api(Role::Read, &[]) }),
        ("an agent with a role", TokenSpec { role: Some(Role::Read), ..enrol(1) }),
        ("an agent of two clusters", TokenSpec { clusters: vec!["a".into(), "b".into()], ..enrol(1) }),
        ("no use", enrol(0)),
        ("no root", TokenSpec { pin: None, ..enrol(1) }),
    ] {
        assert!(registry.create_token(spec).is_err(), "{what}");
    }
}

#[test]
fn revocations_are_a_union_and_are_told() {
    let (disk, clock) = (disk(), FakeClock::at(NOW_MS));
    let here = registry(&disk, &clock);
    let mut told = here.revocations_changed();
    assert!(!here.is_revoked("a", "01"));
    here.revoke_agent("a", Some("0A"), "ann").expect("revoked");
    assert!(told.has_changed().expect("open"));
    told.mark_unchanged();
    assert!(here.is_revoked("a", "0a") && !here.is_revoked("a", "0b") && !here.is_revoked("b", "0a"));
    let there = registry(&self::disk(), &clock);
    there.revoke_agent("b", None, "ben").expect("revoked");
    for _ in 0..2 {
        here.merge_revocations(there.revocations()).expect("merged");
        there.merge_revocations(here.revocations()).expect("merged");
    }
    assert!(told.has_changed().expect("open"));
    assert_eq!(here.revocations(), there.revocations());
    assert_eq!(here.revocations().len(), 2);
    let again = registry(&disk, &clock);
    assert!(again.is_revoked("b", "anything") && again.is_revoked("a", "0a"));
}

#[test]
fn whatever_was_answered_survives_a_power_cut() {
    let clock = FakeClock::at(NOW_MS);
    for dies_at in 0..24 {
        for survivors in [Survivors::Nothing, Survivors::Some(dies_at), Survivors::All] {
            let disk = disk();
            disk.die_at(disk.operations() + dies_at);
            let mut promised = Vec::new();
            let mut spent = None;
            if let Ok(registry) = Registry::open(disk.shared(), Path::new("/d/fleet"), clock.clone()) {
                for key in 0..4u8 {
                    if let Ok((token, _)) = registry.create_token(enrol(1)) {
                        promised.push(token.id());
                        let redeemed = registry.redeem(&token.to_string(), agent(&[key; 32]));
                        spent = redeemed.ok().map(|_| token.to_string()).or(spent);
                    }
                }
            }
            let again = registry(&disk.after_power_cut(survivors), &clock);
            let known: Vec<String> = again.tokens().into_iter().map(|token| token.id).collect();
            assert!(promised.iter().all(|id| known.contains(id)), "{dies_at} {survivors:?}");
            if let Some(spent) = spent {
                assert_eq!(again.redeem(&spent, agent(&[77; 32])), Err(Refusal::Used), "{dies_at}");
            }
        }
    }
}

#[test]
fn damage_is_told_and_a_cut_line_is_not() {
    let clock = FakeClock::at(NOW_MS);
    let path = Path::new("/d/fleet/registry.jsonl");
    let disk = disk();
    let registry = registry(&disk, &clock);
    let (first, second) = (registry.create_token(enrol(1)), registry.create_token(enrol(1)));
    assert!(first.is_ok() && second.is_ok());
    drop(registry);
    let length = disk.files().iter().find(|(file, _)| file == path).expect("there").1;
    disk.truncate(path, length - 3).expect("cut");
    assert_eq!(self::registry(&disk, &clock).tokens().len(), 1);
    let broken = self::registry(&disk, &clock);
    broken.create_token(enrol(1)).expect("after the cut line");
    assert!(disk.flip_byte(path, 20));
    let error = Registry::open(disk.shared(), Path::new("/d/fleet"), clock.clone()).expect_err("damaged");
    assert_eq!(error.to_string(), "/d/fleet/registry.jsonl, line 1: checksum mismatch");
}

#[test]
fn a_long_journal_is_written_anew_with_what_counts() {
    let (disk, clock) = (disk(), FakeClock::at(NOW_MS));
    let first = registry(&disk, &clock);
    let (token, _) = first.create_token(enrol(5)).expect("made");
    first.redeem(&token.to_string(), agent(&[1; 32])).expect("redeemed");
    first.revoke_agent("gone", None, "ann").expect("revoked");
    for renewed_ms in 0..1100 {
        let record = AgentRecord {
            agent_id: "a".into(),
            tenant: "acme".into(),
            cluster: "eu".into(),
            labels: BTreeMap::new(),
            serial: "01".into(),
            not_after_ms: 0,
            enrolled_ms: renewed_ms,
            renewed_ms,
            token: format!("{renewed_ms}"),
            roots: Vec::new(),
            brought: String::new(),
            elsewhere: false,
        };
        first.remember_agent(record).expect("remembered");
    }
    let size = |disk: &FakeDisk| disk.files().iter().map(|(_, size)| size).sum::<u64>();
    let before = size(&disk);
    let again = registry(&disk, &clock);
    assert!(size(&disk) < before / 100, "{} of {before} bytes", size(&disk));
    let agents = again.agents();
    assert_eq!((agents.len(), agents[0].enrolled_ms, agents[0].renewed_ms), (1, 0, 1099));
    assert_eq!((agents[0].token.as_str(), again.tokens()[0].uses), ("0", 1));
    assert!(registry(&disk, &clock).is_revoked("gone", "01"));
    for (serial, not_after_ms, known) in [("01", 5, true), ("02", 0, true), ("02", 1, false)] {
        assert_eq!(again.has_certificate("a", serial, not_after_ms), known, "{serial} {not_after_ms}");
    }
    assert!(!again.has_certificate("b", "01", 0));
}

#[test]
fn the_sample_of_version_1_is_read() {
    let clock = FakeClock::at(NOW_MS);
    let disk = disk();
    if std::env::var_os("SAMPLE").is_some() {
        let made = registry(&disk, &clock);
        let (token, _) = made.create_token(enrol(2)).expect("made");
        let (other, _) = made.create_token(api(Role::Read, &["eu"])).expect("made");
        made.redeem(&token.to_string(), agent(&[1; 32])).expect("redeemed");
        made.revoke_token(&other.id(), "ann").expect("revoked");
        made.revoke_agent("0123456789abcdef", None, "ann").expect("revoked");
        let hub_id = "00112233445566ff".to_owned();
        let (address, roots) = ("https://hub.example:9443".to_owned(), vec!["ab".repeat(32)]);
        made.remember_hub(HubRecord { hub_id, address, roots, at_ms: NOW_MS }).expect("remembered");
        let bytes = disk.read(Path::new("/d/fleet/registry.jsonl")).expect("there");
        std::fs::write("testdata/registry-v1.jsonl", bytes).expect("written");
    }
    let sample = std::fs::read("testdata/registry-v1.jsonl").expect("the sample");
    let disk = self::disk();
    disk.create_dir_all(Path::new("/d/fleet")).expect("made");
    stdx::disk::replace_private(&disk, Path::new("/d/fleet/registry.jsonl"), &sample).expect("written");
    let read = registry(&disk, &clock);
    let tokens = read.tokens();
    let shown: Vec<_> = tokens.iter().map(|it| (it.kind.name(), it.uses, it.revoked_ms.is_some())).collect();
    assert!(shown.contains(&("enrol", 1, false)) && shown.contains(&("api", 0, true)), "{shown:?}");
    assert!(read.is_revoked("0123456789abcdef", "01"));
    assert_eq!(read.hubs()[0].address, "https://hub.example:9443");
}
