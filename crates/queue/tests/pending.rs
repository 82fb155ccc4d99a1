//! What waits for each reader, in figures.

use std::path::Path;
use std::time::Duration;

use queue::{BlockMeta, Options, Pending, Start};
use stdx::clock::{Clock, FakeClock};
use stdx::disk::FakeDisk;

const START_MS: i64 = 1_700_000_000_000;

/// Ten blocks a second apart, of ten rows each.
#[test]
fn what_waits_is_told_for_each_reader() -> Result<(), Box<dyn std::error::Error>> {
    let disk = FakeDisk::new(Path::new("/d"));
    let clock = FakeClock::at(START_MS);
    let mut opened = queue::open(disk.shared(), Path::new("/d/queue"), clock, Options::default())?;
    let queue = opened.queue.clone();
    let readers = [queue.reader("a", Start::Oldest)?, queue.reader("b", Start::Oldest)?];
    assert_eq!(queue.pending(), [("a".to_owned(), Pending::default()), ("b".to_owned(), Pending::default())]);
    for block in 0..10 {
        let at_ms = START_MS + block * 1000;
        let meta = BlockMeta { oldest_ms: at_ms, newest_ms: at_ms + 1000, rows: 10, ..BlockMeta::default() };
        opened.writer.write(&meta, &[7; 100])?;
    }
    let check = |acknowledged: Option<(u64, u64)>, blocks: u64, oldest_s: Option<i64>| {
        if let Some((first, last)) = acknowledged {
            readers[0].acknowledge(queue.incarnation(), first, last);
        }
        let pending = queue.pending();
        let (_, of_a) = &pending[0];
        let oldest_ms = oldest_s.map(|seconds| START_MS + seconds * 1000);
        let shown = (of_a.blocks, of_a.rows, of_a.oldest_ms);
        assert_eq!(shown, (blocks, blocks * 10, oldest_ms), "{acknowledged:?}");
        assert_eq!(pending[1].1.blocks, 10, "the other reader's");
    };
    check(None, 10, Some(0));
    check(Some((0, 3)), 6, Some(4));
    // What comes home before it counts when that does.
    check(Some((8, 9)), 4, Some(4));
    check(Some((4, 6)), 1, Some(7));
    check(Some((7, 7)), 0, None);
    Ok(())
}

/// Bounds can be narrowed while the queue is open, and widened again up to those it was opened with.
#[test]
fn narrower_bounds_hold_at_once() -> Result<(), Box<dyn std::error::Error>> {
    let disk = FakeDisk::new(Path::new("/d"));
    let clock = FakeClock::at(START_MS);
    let options = Options { bytes_max: 40_000, segment_bytes_max: 1_000, ..Options::default() };
    let mut opened = queue::open(disk.shared(), Path::new("/d/queue"), clock.clone(), options)?;
    let queue = opened.queue.clone();
    let _reader = queue.reader("a", Start::Oldest)?;
    let mut fill = |blocks: usize| -> Result<(), Box<dyn std::error::Error>> {
        for _ in 0..blocks {
            if opened.writer.due() {
                opened.writer.rotate();
            }
            let now_ms = clock.now_ms();
            let floor = opened.writer.segment_first();
            let meta =
                BlockMeta { oldest_ms: now_ms, newest_ms: now_ms, rows: 1, floor, ..BlockMeta::default() };
            opened.writer.write(&meta, &[7; 500])?;
        }
        Ok(())
    };
    let hour = Duration::from_secs(3600);
    fill(30)?;
    queue.upkeep()?;
    let all = queue.stats().bytes;
    assert!(all > 15_000, "{all}");
    for (bytes_max, age_max, least, most) in [
        (Some(1 << 40), Some(24 * 365 * hour), all, all),
        (Some(5_000), None, 2_000, 5_000),
        (None, Some(hour), 2_000, 5_000),
    ] {
        queue.narrow(bytes_max, age_max);
        queue.upkeep()?;
        let bytes = queue.stats().bytes;
        assert!((least..=most).contains(&bytes), "{bytes} with {bytes_max:?} {age_max:?}");
    }
    // Old ones go by age, and without a bound of their own they stay for the options' seven days.
    for (bound, left) in [(Some(hour), false), (None, true)] {
        queue.narrow(None, bound);
        fill(10)?;
        queue.request_rotation();
        fill(1)?;
        let before = queue.stats().bytes;
        clock.advance_ms(2 * 3_600_000);
        queue.upkeep()?;
        assert_eq!(queue.stats().bytes == before, left, "{bound:?}");
    }
    fill(200)?;
    let bytes = queue.stats().bytes;
    assert!((30_000..=40_000).contains(&bytes), "as it was opened: {bytes}");
    Ok(())
}
