//! The files of version 1.0 as they stand in `testdata`: today's code writes them byte for byte, and reads them.
//!
//! `UPDATE_GOLDEN=1` writes them anew, for a new version under a new name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use queue::{BlockMeta, Ids, Lane, Lost, LostReason, Opened, Options, Start, open};
use stdx::clock::FakeClock;
use stdx::disk::{Disk, FakeDisk};

const DIR: &str = "/data/queue";
const FILES: [(&str, &str); 3] = [
    ("id", "id-1.0"),
    ("segments/000000000001.mgq", "segment-1.0.mgq"),
    ("readers/hub-a.cursor", "reader-1.0.cursor"),
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn options() -> Options {
    let counter = Arc::new(AtomicU64::new(1));
    let ids = Ids(Arc::new(move || u128::from(counter.fetch_add(1, Ordering::SeqCst)) << 96 | 0xfeed));
    Options { ids, bytes_max: 2_000, ..Options::default() }
}

fn meta(block: u64) -> BlockMeta {
    BlockMeta {
        floor: block.saturating_sub(1),
        oldest_ms: 1_700_000_000_000 + block as i64,
        newest_ms: 1_700_000_015_000 + block as i64,
        rows: 2,
        samples: 300,
        origin: 0,
        tenant: 0,
        flags: block as u32,
    }
}

/// A queue of one segment with three blocks; its reader has acknowledged one and lost another segment.
fn write() -> FakeDisk {
    let disk = FakeDisk::new(Path::new("/data"));
    let clock = FakeClock::at(1_700_000_000_000);
    let Opened { queue, mut writer, .. } =
        open(disk.shared(), Path::new(DIR), clock.clone(), options()).expect("opens");
    let reader = queue.reader("hub-a", Start::Oldest).expect("a reader");
    for block in 0..3 {
        clock.advance_ms(1_000);
        writer.write(&meta(block), format!("payload {block}").as_bytes()).expect("written");
    }
    writer.rotate();
    reader.acknowledge(queue.incarnation(), 1, 1);
    queue.upkeep().expect("the cursor is written");
    disk
}

#[test]
fn files_are_written_and_read_as_they_were() {
    let disk = write();
    for (path, name) in FILES {
        let bytes = disk.read(&Path::new(DIR).join(path)).expect("it is there");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden(name), &bytes).expect("testdata can be written");
        }
        assert!(bytes == std::fs::read(golden(name)).expect("a golden file"), "{name} has changed");
    }

    let disk = FakeDisk::new(Path::new("/data"));
    for (path, name) in FILES {
        let path = Path::new(DIR).join(path);
        disk.create_dir_all(path.parent().expect("a directory")).expect("made");
        let bytes = std::fs::read(golden(name)).expect("a golden file");
        std::io::Write::write_all(&mut disk.create(&path).expect("made"), &bytes).expect("written");
    }
    let clock = FakeClock::at(1_700_000_100_000);
    let Opened { queue, findings, mut writer } =
        open(disk.shared(), Path::new(DIR), clock, options()).expect("opens");
    assert_eq!((findings, queue.id()), (Vec::new(), 1 << 96 | 0xfeed));
    let reader = queue.reader("hub-a", Start::Now).expect("it is known");
    for block in [0, 2] {
        let found = reader.next(Lane::Live).expect("readable").expect("a block");
        assert_eq!(
            (found.key.incarnation, found.key.block, found.segment_first),
            (2 << 96 | 0xfeed, block, 0)
        );
        assert_eq!((found.meta, found.payload), (meta(block), format!("payload {block}").into_bytes()));
    }
    assert_eq!(reader.next(Lane::Live).expect("readable"), None);

    // Past the bound of bytes the old segment goes, and the reader is told what it cost.
    writer.write(&BlockMeta::default(), &[7; 1_500]).expect("written");
    let lost = |block: u64| Lost {
        incarnation: 2 << 96 | 0xfeed,
        first: block,
        last: block,
        blocks: 1,
        rows: 2,
        samples: 300,
        oldest_ms: meta(block).oldest_ms,
        newest_ms: meta(block).newest_ms,
        unreadable: 0,
        reason: LostReason::Bytes,
    };
    assert_eq!(reader.lost(), [lost(0), lost(2)]);
}

/// One changed byte anywhere costs at most one block, and that is booked.
#[test]
fn a_damaged_byte_costs_one_block() {
    let whole = write();
    let segment = Path::new(DIR).join(FILES[1].0);
    let len = whole.read(&segment).expect("it is there").len();
    for at in 0..len {
        let disk = whole.after_kill();
        assert!(disk.flip_byte(&segment, at as u64));
        let clock = FakeClock::at(1_700_000_100_000);
        let opened = open(disk.shared(), Path::new(DIR), clock, options()).expect("opens");
        let reader = opened.queue.reader("other", Start::Oldest).expect("a reader");
        let mut blocks = Vec::new();
        while let Some(block) = reader.next(Lane::Live).expect("readable") {
            assert_eq!(block.payload, format!("payload {}", block.key.block).into_bytes());
            blocks.push(block.key.block);
        }
        let lost: Vec<u64> = reader.lost().iter().flat_map(|lost| lost.first..=lost.last).collect();
        assert!(lost.len() <= 1 && reader.lost().iter().all(|lost| lost.reason == LostReason::Damaged));
        blocks.extend(lost);
        blocks.sort_unstable();
        assert_eq!(blocks, [0, 1, 2], "byte {at}: {:?}", opened.findings);
    }
}
