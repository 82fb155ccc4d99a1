//! Who belongs to the fleet, and the account of rows: tokens, certificates, registries, ledgers.

use std::path::Path;

use stdx::clock::FakeClock;
use stdx::disk::{Disk, FakeDisk, replace_private};
use tenancy::{Page, Registry, Token};
use tunnel::identity::{AuthorityExport, Bundle, OwnCertificate, PeerIdentity, requested_key_hash};

const NOW_MS: i64 = 1_790_000_000_000;

/// A log or snapshot of the ledger. Checksums are made to fit, so that mutations get behind them.
pub(crate) fn ledger(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if bytes.starts_with(b"MGLLOG\0") {
        let mut at = 8;
        while let Some(head) = bytes.get(at..at + 8) {
            let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let Some(payload) = bytes.get(at + 8..).and_then(|rest| rest.get(..length)) else { break };
            let crc = crc32c::crc32c(payload).to_le_bytes();
            bytes[at + 4..at + 8].copy_from_slice(&crc);
            at += 8 + length;
        }
    } else if let Some(content) = bytes.len().checked_sub(4) {
        let crc = crc32c::crc32c(&bytes[..content]).to_le_bytes();
        bytes[content..].copy_from_slice(&crc);
    }
    let _ = ledger::entries_in(&bytes);
}

pub(crate) fn ledger_seeds() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../../ledger/testdata/ledger-1.log").to_vec(),
        include_bytes!("../../ledger/testdata/ledger-1.snapshot").to_vec(),
    ]
}

const JOURNAL: &[u8] = include_bytes!("../../tenancy/testdata/registry-v1.jsonl");

fn registry(journal: &[u8]) -> Option<Registry> {
    let (disk, directory) = (FakeDisk::new(Path::new("/d")), Path::new("/d/fleet"));
    disk.create_dir_all(directory).expect("a disk in memory");
    replace_private(&disk, &directory.join("registry.jsonl"), journal).expect("a disk in memory");
    Registry::open(disk.shared(), directory, FakeClock::at(NOW_MS)).ok()
}

/// A journal of a registry (its checksums made to fit), or what another hub tells: what is taken in is told on, and
/// says nothing new to whoever has it.
pub(crate) fn registry_records(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let one = if let Ok(page) = serde_json::from_str::<Page>(&text) {
        let Some(one) = registry(JOURNAL) else { return };
        if one.merge(page.records).is_err() {
            return;
        }
        one
    } else {
        let lines = text.lines().map(|line| {
            let json = line.split_once(' ').map_or(line, |(_, json)| json);
            format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes()))
        });
        let Some(one) = registry(lines.collect::<String>().as_bytes()) else { return };
        one
    };
    let all = one.since(0, 0, usize::MAX);
    let Some(other) = registry(b"") else { return };
    if other.merge(all.records.clone()).is_ok() {
        let again = other.merge(all.records).expect("it was taken once");
        assert_eq!(again.news, 0, "what is known says nothing new");
    }
}

pub(crate) fn registry_seeds() -> Vec<Vec<u8>> {
    let page = registry(JOURNAL).map(|known| known.since(0, 0, usize::MAX));
    vec![JOURNAL.to_vec(), serde_json::to_vec(&page.unwrap_or_default()).unwrap_or_default()]
}

/// A token as somebody pastes it.
pub(crate) fn token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
    let _ = Token::looks_like_one(&text);
}

pub(crate) fn token_seeds() -> Vec<Vec<u8>> {
    let seed = "marigraph_api_AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJyg";
    vec![seed.into(), b"marigraph_enrol_".to_vec(), b"marigraph_join_AQ".to_vec()]
}

/// A certificate, a request, keys and roots, as peers and files have them.
pub(crate) fn certificates(bytes: &[u8]) {
    let _ = PeerIdentity::of_certificate(&bytes.into());
    let text = String::from_utf8_lossy(bytes);
    if let Ok(bundle) = Bundle::from_pem(&text) {
        assert_eq!(Bundle::from_pem(&bundle.to_pem()).expect("our own"), bundle);
    }
    let _ = OwnCertificate::from_pem(&text, &text);
    let _ = requested_key_hash(&text);
    let _ = serde_json::from_slice::<AuthorityExport>(bytes);
}

pub(crate) fn certificate_seeds() -> Vec<Vec<u8>> {
    let authority = include_str!("../../tunnel/testdata/authority-v1.json");
    let json: serde_json::Value = serde_json::from_str(authority).unwrap_or_default();
    let pem = json["intermediate"].as_str().unwrap_or_default();
    let der: Vec<u8> = {
        use base64::Engine as _;
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        base64::engine::general_purpose::STANDARD.decode(body).unwrap_or_default()
    };
    vec![authority.as_bytes().to_vec(), pem.as_bytes().to_vec(), der]
}
