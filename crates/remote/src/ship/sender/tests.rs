//! When a sender asks to be woken: the simulations turn it by the clock and would not see one that never rests.

use std::path::Path;

use queue::{BlockMeta, Opened, Options, Start};
use stdx::clock::FakeClock;
use stdx::disk::FakeDisk;

use super::super::message::Answer;
use super::*;

const NOW_MS: i64 = 1_000;

fn agent() -> (Opened, Sender) {
    let disk = FakeDisk::new(Path::new("/q"));
    let opened = queue::open(disk.shared(), Path::new("/q"), FakeClock::at(NOW_MS), Options::default());
    let opened = opened.expect("an empty queue opens");
    let reader = opened.queue.reader("hub", Start::Oldest).expect("a reader");
    let sender = Sender::new(reader, SenderOptions::default(), NOW_MS);
    (opened, sender)
}

/// Everything it wants to send now.
fn drain(sender: &mut Sender, now_ms: i64) -> Vec<Outgoing> {
    std::iter::from_fn(|| sender.poll(now_ms).expect("a queue that can be read")).collect()
}

fn write(opened: &mut Opened) -> u64 {
    let block = opened.writer.next_block();
    let meta = BlockMeta {
        floor: block,
        oldest_ms: NOW_MS,
        newest_ms: NOW_MS,
        rows: 1,
        samples: 1,
        origin: 0,
        tenant: 0,
        flags: 0,
    };
    opened.writer.write(&meta, b"payload").expect("a block is written");
    block
}

#[test]
fn it_rests_until_there_is_something_to_do() {
    let (mut opened, mut sender) = agent();
    let hello = drain(&mut sender, NOW_MS);
    assert_eq!(hello.len(), 1);
    assert_eq!(sender.wakes_at_ms(), None, "the answer wakes it");
    sender.answered(hello[0].id, &HelloAnswer::default().encode(), NOW_MS).expect("an answer");

    assert_eq!(drain(&mut sender, NOW_MS), []);
    assert_eq!(sender.wakes_at_ms(), Some(NOW_MS + 100), "the backlog's allowance fills");
    let now_ms = NOW_MS + 100;
    assert_eq!(drain(&mut sender, now_ms), []);
    assert_eq!(sender.wakes_at_ms(), None, "online with nothing to send: news wake it");

    let block = write(&mut opened);
    let sent = drain(&mut sender, now_ms + 10);
    assert_eq!(sent.len(), 1);
    let later = Answer { verdicts: vec![(block, block, Verdict::Later { after_ms: 700 })], lost_booked: 0 };
    sender.answered(sent[0].id, &later.encode(), now_ms + 20).expect("an answer");
    assert_eq!(drain(&mut sender, now_ms + 20), []);
    assert_eq!(sender.wakes_at_ms(), Some(now_ms + 720), "the hub said when");

    let again = drain(&mut sender, now_ms + 720);
    assert_eq!(again.len(), 1);
    let stored = Answer { verdicts: vec![(block, block, Verdict::Stored)], lost_booked: 0 };
    sender.answered(again[0].id, &stored.encode(), now_ms + 730).expect("an answer");
    assert_eq!(drain(&mut sender, now_ms + 730), []);
    assert_eq!(sender.wakes_at_ms(), None, "a wait that is over wakes nobody");

    write(&mut opened);
    let lost = drain(&mut sender, now_ms + 740);
    sender.failed(lost[0].id, now_ms + 750);
    assert_eq!(drain(&mut sender, now_ms + 750), []);
    let retry_ms = sender.wakes_at_ms().expect("a time to try again");
    assert!((now_ms + 751..=now_ms + 750 + 250).contains(&retry_ms), "{retry_ms}");
}
