//! The messages of shipping: golden bytes of version 1.0, and whatever a stranger may send.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use queue::{Intervals, Lane, Lost, LostReason};
use remote::ship::message::{Answer, Batch, Hello, HelloAnswer, MessageError};
use remote::ship::{Refusal, SegmentKey, SentBlock, Verdict};

fn lost() -> Lost {
    Lost {
        incarnation: 5,
        first: 10,
        last: 12,
        blocks: 3,
        rows: 40,
        samples: 5_000,
        oldest_ms: -1,
        newest_ms: 1_700_000_000_000,
        unreadable: 1,
        reason: LostReason::Age,
    }
}

fn hello() -> Hello {
    let segments = vec![(7, 0, 130), (7, 130, 131), (8, 0, 0)];
    Hello { queue_id: 1 << 100, incarnation: 8, segments, lost: vec![lost()] }
}

fn hello_answer() -> HelloAnswer {
    let stored = Intervals::from_iter([(0, 99), (110, 110), (128, 1 << 40)]);
    HelloAnswer { stored: vec![(7, stored)], positions: vec![(7, 130, (130, 131))], lost_booked: 1 }
}

fn batch() -> Batch<'static> {
    let block = |block, floor, context| SentBlock {
        block,
        floor,
        origin: 0,
        tenant: 0,
        flags: 0,
        context,
        payload: b"payload",
    };
    let theirs = SentBlock { origin: 3, tenant: 4, flags: 5, payload: b"", ..block(300, 131, false) };
    Batch {
        segment: SegmentKey { queue_id: 1 << 100, incarnation: 7, first: 130 },
        lane: Lane::Backlog,
        blocks: vec![block(131, 131, true), block(132, 131, false), theirs],
        lost: vec![lost()],
    }
}

fn answer() -> Answer {
    let mut answer = Answer { lost_booked: 1, ..Answer::default() };
    answer.push(131, Verdict::Context);
    answer.push(132, Verdict::Stored);
    answer.push(133, Verdict::Stored);
    answer.push(134, Verdict::Known);
    for (block, refusal) in (135..).zip(Refusal::ALL) {
        answer.push(block, Verdict::Refused(refusal));
    }
    answer.push(300, Verdict::NeedContext { from: 131 });
    answer.push(301, Verdict::Later { after_ms: 5_000 });
    answer
}

#[test]
fn messages_stand_as_they_were() {
    let golden = |name: &str| -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format!("ship-1.0-{name}"))
    };
    let check = |name: &str, bytes: Vec<u8>| {
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden(name), &bytes).expect("testdata can be written");
        }
        let stored = std::fs::read(golden(name)).expect("a golden file");
        assert!(bytes == stored, "{name} has changed");
        stored
    };
    assert_eq!(Hello::decode(&check("hello", hello().encode())), Ok(hello()));
    assert_eq!(HelloAnswer::decode(&check("hello-answer", hello_answer().encode())), Ok(hello_answer()));
    assert_eq!(Batch::decode(&check("batch", batch().encode())), Ok(batch()));
    assert_eq!(Answer::decode(&check("answer", answer().encode())), Ok(answer()));
}

#[test]
fn damage_and_later_versions_are_refused() {
    let bytes = batch().encode();
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 4;
        assert!(Batch::decode(&bytes).is_err(), "byte {at}");
        assert!(Batch::decode(&bytes[..at]).is_err(), "{at} bytes");
    }
    let mut later = bytes[..bytes.len() - 4].to_vec();
    later[5] = 2;
    later.extend_from_slice(&crc32c::crc32c(&later).to_le_bytes());
    assert_eq!(Batch::decode(&later), Err(MessageError::Version { major: 2, minor: 0 }));
    assert_eq!(Hello::decode(&bytes), Err(MessageError::Malformed("it is of another kind")));
}

#[test]
fn a_batch_costs_little_besides_its_blocks() {
    let payload = vec![1; 2_000];
    let block = |block: u64| SentBlock {
        block,
        floor: block - block % 20,
        origin: 0,
        tenant: 0,
        flags: 0,
        context: false,
        payload: &payload,
    };
    let batch = Batch { blocks: (5_000..5_500).map(block).collect(), lost: Vec::new(), ..batch() };
    let batch = Batch { segment: SegmentKey { first: 5_000, ..batch.segment }, ..batch };
    let blocks = 500 * payload.len();
    assert!(batch.encode().len() - blocks < blocks / 100, "{}", batch.encode().len());
}

proptest! {
    /// With a right checksum around them, whatever the bytes are: an answer or an error, within bounds.
    #[test]
    fn any_body_is_read_or_refused(kind in 1u8..5, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = b"MGRS".to_vec();
        bytes.extend_from_slice(&[kind, 1, 0]);
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let _ = Hello::decode(&bytes);
        let _ = HelloAnswer::decode(&bytes);
        let _ = Answer::decode(&bytes);
        if let Ok(batch) = Batch::decode(&bytes) {
            let again = batch.encode();
            prop_assert_eq!(Batch::decode(&again).expect("our own"), batch);
        }
    }
}
