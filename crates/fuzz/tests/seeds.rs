//! Each target with its seeds, with mutations of them, and with what fuzzing has once found
//! (`testdata/<target>`): quick, and the same every time.
//! `FUZZ_MUTATIONS` sets how many of each seed.

use std::path::Path;

use fuzz::{Chaos, TARGETS};

fn mutations() -> usize {
    std::env::var("FUZZ_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(150)
}

fn findings(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a finding")).collect()
}

fn check(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for finding in findings(name) {
        (target.run)(&finding);
    }
    for (number, seed) in seeds.iter().enumerate() {
        (target.run)(seed);
        let mut chaos = Chaos::new(0x9E37_79B9_7F4A_7C15 ^ number as u64);
        let mut input = seed.clone();
        for round in 0..mutations() {
            // Some mutations build on each other.
            if round % 4 == 0 {
                input.clone_from(seed);
            }
            chaos.mutate(&mut input);
            (target.run)(&input);
        }
    }
}

/// A test for each target, so that they run in parallel and a failure has a name.
macro_rules! targets {
    ($($test:ident = $name:literal),+ $(,)?) => {
        $(#[test] fn $test() { check($name); })+

        #[test]
        fn every_target_is_here() {
            let here = [$($name),+];
            let missing: Vec<&str> =
                TARGETS.iter().map(|target| target.name).filter(|name| !here.contains(name)).collect();
            assert!(missing.is_empty(), "no test for {missing:?}");
        }
    };
}

targets! {
    hosts_of_targets = "proxy-hosts",
    pushes_of_pushprox = "pushprox-push",
    rows_block = "rows-block",
    exposition = "exposition",
    exposition_protobuf = "exposition-protobuf",
    remote_read = "remote-read",
    remote_read_frames = "remote-read-frames",
    accept = "accept",
    content_type = "content-type",
    remote_write_1 = "remote-write-1",
    remote_write_2 = "remote-write-2",
    snappy = "snappy",
    promql_parse = "promql-parse",
    promql_evaluate = "promql-evaluate",
    leases_of_pairs = "lease",
    regex = "regex",
    numbers = "numbers",
    config = "config",
    catalogs_of_backups = "backup-catalog",
    answers_to_queries = "query-answer",
    discovery = "discovery",
    relabel = "relabel",
    tsdb_codec = "tsdb-codec",
    tsdb_record = "tsdb-record",
    tsdb_segment = "tsdb-segment",
    tsdb_manifest = "tsdb-manifest",
    tsdb_part = "tsdb-part",
    block_chunk = "block-chunk",
    block_index = "block-index",
    ship = "ship",
    queue_files = "queue-files",
    queue_names = "queue-names",
    ledgers = "ledger",
    registries = "registry",
    tokens = "token",
    certificates = "certificates",
}
