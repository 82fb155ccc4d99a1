//! The files of version 1, byte for byte.

use std::path::PathBuf;

use super::*;

/// Every kind of entry, as log and as snapshot.
fn files() -> (FakeDisk, [(PathBuf, &'static str); 2]) {
    let bench = Bench::new();
    let tenant = TenantId::default();
    let source = bench.source("eu1", "node");
    bench.state(&[begin(source, 0), whole(source, 0), whole(source, 1)]);
    bench.clock.advance_ms(INTERVAL_MS);
    bench.state(&[
        told(source, 2, Outcome::Scraped { samples: 7, exposed: 10 }),
        told(source, 3, Outcome::Failed(Failure::Status)),
        told(source, 4, Outcome::Skipped),
        end(source, 5, EndReason::Reconfigured),
    ]);
    bench.ledger.pause(&tenant, "eu1", tick(6), tick(8)).unwrap();
    bench.ledger.retire(&tenant, "us1", tick(9)).unwrap();
    let loss = LossReport {
        cluster: "eu1".to_owned(),
        source: Some(desc("eu1", "node").id),
        from_ms: tick(10),
        to_ms: tick(12),
        rows: 3,
        reason: Loss::TooOld,
    };
    bench.ledger.lost(&tenant, loss).unwrap();
    bench.appender.commit().unwrap();
    let dir = Path::new(DIR).join("default");
    // The second start finds the log, and makes a snapshot of it.
    let next = bench.restarted(bench.disk.after_kill(), "boot");
    assert_eq!(shown(&next.tally(0, 20)), "5 expected, 3 stored, 1 partial, 1 target_status, 1 skipped");
    let disk = FakeDisk::new(Path::new("/data"));
    for (name, from) in [("00000001.log", &bench.disk), ("00000002.snapshot", &next.disk)] {
        disk.create_dir_all(&dir).unwrap();
        let bytes = from.read(&dir.join(name)).unwrap();
        std::io::Write::write_all(&mut disk.create(&dir.join(name)).unwrap(), &bytes).unwrap();
    }
    (disk, [(dir.join("00000001.log"), "ledger-1.log"), (dir.join("00000002.snapshot"), "ledger-1.snapshot")])
}

#[test]
fn files_of_version_1_stay_what_they_are() {
    let (disk, files) = files();
    for (path, name) in files {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
        let written = disk.read(&path).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &written).unwrap();
        }
        assert_eq!(written, std::fs::read(&golden).unwrap(), "{name}");
        assert!(crate::entries_in(&written).is_some_and(|entries| entries >= 10), "{name}");
    }
}

#[test]
fn nothing_panics_on_any_bytes() {
    for (path, _) in files().1 {
        let bytes = files().0.read(&path).unwrap();
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let _ = crate::entries_in(&damaged);
                let _ = crate::entries_in(&damaged[..at]);
            }
        }
    }
}
