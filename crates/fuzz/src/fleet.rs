//! What travels from agents to hubs, and what waits on disk for it.

use std::io::Write;
use std::path::Path;

use queue::{Lane, Options, Start};
use remote::ship::message::{Answer, Batch, Hello, HelloAnswer};
use stdx::clock::FakeClock;
use stdx::disk::{Disk, FakeDisk};

/// The messages of shipping: what can be read is written and read again.
pub(crate) fn ship(bytes: &[u8]) {
    let bytes = with_checksum(bytes);
    if let Ok(hello) = Hello::decode(&bytes) {
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }
    if let Ok(answer) = HelloAnswer::decode(&bytes) {
        let again = HelloAnswer::decode(&answer.encode()).expect("our own");
        assert_eq!(again.stored, answer.stored);
    }
    if let Ok(batch) = Batch::decode(&bytes) {
        let again = batch.encode();
        assert_eq!(Batch::decode(&again).as_ref(), Ok(&batch));
    }
    if let Ok(answer) = Answer::decode(&bytes) {
        assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
    }
}

pub(crate) fn ship_seeds() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../../remote/testdata/ship-1.0-hello").to_vec(),
        include_bytes!("../../remote/testdata/ship-1.0-hello-answer").to_vec(),
        include_bytes!("../../remote/testdata/ship-1.0-batch").to_vec(),
        include_bytes!("../../remote/testdata/ship-1.0-answer").to_vec(),
    ]
}

const FILES: [(&str, &[u8]); 3] = [
    ("/q/segments/000000000001.mgq", include_bytes!("../../queue/testdata/segment-1.0.mgq")),
    ("/q/readers/hub-a.cursor", include_bytes!("../../queue/testdata/reader-1.0.cursor")),
    ("/q/id", include_bytes!("../../queue/testdata/id-1.0")),
];

/// The first byte says which file of a queue the rest is; the others are whole. What opens can be read to
/// the end, and written to.
pub(crate) fn queue_files(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else { return };
    let which = usize::from(*which) % FILES.len();
    let disk = FakeDisk::new(Path::new("/q"));
    for (at, (path, whole)) in FILES.iter().enumerate() {
        let path = Path::new(path);
        if let Some(parent) = path.parent() {
            disk.create_dir_all(parent).expect("a disk in memory");
        }
        let mut file = disk.create(path).expect("a disk in memory");
        file.write_all(if at == which { rest } else { whole }).expect("a disk in memory");
    }
    let clock = FakeClock::at(1_700_000_100_000);
    let Ok(mut opened) = queue::open(disk.shared(), Path::new("/q"), clock, Options::default()) else {
        return;
    };
    for name in ["hub-a", "new"] {
        let reader = opened.queue.reader(name, Start::Oldest).expect("a reader");
        while let Some(block) = reader.next(Lane::Live).expect("readable") {
            reader.acknowledge(block.key.incarnation, block.key.block, block.key.block);
        }
        assert_eq!(reader.pending(Lane::Live).blocks, 0);
    }
    opened.writer.write(&queue::BlockMeta::default(), b"more").expect("there is room");
    opened.queue.upkeep().expect("a disk in memory");
}

pub(crate) fn queue_seeds() -> Vec<Vec<u8>> {
    let seed = |(at, (_, whole)): (usize, &(&str, &[u8]))| [&[at as u8], *whole].concat();
    FILES.iter().enumerate().map(seed).collect()
}

/// What a hub keeps of whose queues are.
pub(crate) fn queue_names(bytes: &[u8]) {
    remote::intake::fuzz_names(&with_checksum(bytes));
}

pub(crate) fn queue_names_seeds() -> Vec<Vec<u8>> {
    vec![include_bytes!("../../remote/testdata/queue-names-1.0").to_vec()]
}

/// The checksum at the end is made to fit, so that mutations get behind it.
fn with_checksum(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes[..bytes.len().saturating_sub(4)].to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}
