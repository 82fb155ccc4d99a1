//! Bytes that every later version must read.

use super::*;

fn path() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/block-1.0.mgrb")
}

/// A little of everything.
fn steps() -> Vec<Step> {
    let row = |mask: u16, values: [f64; 3], extras: bool| AnyRow {
        mask,
        values: (0..COLUMNS as usize).map(|at| values[at % 3].to_bits()).collect(),
        markers: false,
        histogram: extras.then_some((2, 17)),
        starts: if extras { vec![(1, 5), (3, 9)] } else { Vec::new() },
        exemplar: extras.then_some(4),
    };
    let step = |source, policy, row| Step::Row { source, late_by: 3, policy, row };
    let stale = AnyRow { markers: true, ..row(0x000f, [0.0; 3], false) };
    vec![
        step(0, Policy::SCRAPE, row(0x0fff, [1.0, 0.25, 1e9], true)),
        step(1, Policy::SCRAPE, row(0x0ff0, [f64::NAN, -0.0, 0.1 + 0.2], false)),
        step(3, Policy::SCRAPE, row(0x0fff, [5.0, 6.0, 7.0], false)),
        step(3, Policy::SCRAPE, row(0x0fff, [5.0, 8.0, 7.0], true)),
        step(3, Policy::SCRAPE, stale),
        step(3, Policy::LINE_PROTOCOL, row(0x00f3, [12.75, 8.0, -7.0], false)),
        step(3, Policy::LINE_PROTOCOL, row(0x0fff, [5.0, 8.5, 7.0], false)),
    ]
}

#[test]
fn the_golden_block_of_version_1_0_reads_as_it_was_written() {
    let bytes = std::fs::read(path()).expect("the golden block");
    let block = Block::parse(&bytes).expect("a block");
    assert_eq!(block.cluster(), Some("harbour"));
    let mut heard = Heard::default();
    Decoder::new().read(&block, &mut heard).expect("readable");
    let segment = written(&steps());
    assert_eq!(rows_of(heard), segment.wanted_of_blocks[0]);
}

/// Makes the golden block of a new version: `cargo test -p remote write_the_golden -- --ignored`.
#[test]
#[ignore = "writes the golden block of this version"]
fn write_the_golden_block() {
    std::fs::write(path(), &written(&steps()).blocks[0]).expect("written");
}
