//! Start timestamps beside a chunk: runs of equal ones.
//!
//! ```text
//! { count: varint, at least 1 · start minus the start before: zigzag varint } until all samples have one
//! ```
//!
//! The first is told as the distance from 0; 0 itself is "unknown". Counters begin seldom, so a chunk takes some
//! ten bytes.

use crate::proto::Writer;

/// Appends the start timestamps of a chunk's samples, milliseconds, 0 where unknown; nothing when all are
/// unknown.
pub fn write_starts(starts: &[i64], out: &mut Vec<u8>) {
    if starts.iter().all(|start| *start == 0) {
        return;
    }
    let mut writer = Writer { out: std::mem::take(out) };
    let mut before = 0i64;
    for run in starts.chunk_by(|a, b| a == b) {
        let delta = run[0].wrapping_sub(before);
        writer.varint(run.len() as u64);
        writer.varint(((delta << 1) ^ (delta >> 63)) as u64);
        before = run[0];
    }
    *out = writer.out;
}

/// The start timestamps of `samples` samples; none when the bytes do not say exactly so many.
pub fn read_starts(mut bytes: &[u8], samples: usize) -> Option<Vec<i64>> {
    let mut starts = Vec::new();
    let mut before = 0i64;
    while !bytes.is_empty() {
        let count = usize::try_from(varint(&mut bytes)?).ok()?;
        let delta = varint(&mut bytes)?;
        before = before.wrapping_add((delta >> 1) as i64 ^ -((delta & 1) as i64));
        if count == 0 || count > samples - starts.len() {
            return None;
        }
        starts.resize(starts.len() + count, before);
    }
    (starts.len() == samples).then_some(starts)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn starts_come_back(runs in prop::collection::vec((any::<i64>(), 1usize..40), 1..10)) {
            let starts: Vec<i64> = runs.iter().flat_map(|(start, count)| vec![*start; *count]).collect();
            let mut bytes = Vec::new();
            write_starts(&starts, &mut bytes);
            let unknown = starts.iter().all(|start| *start == 0);
            prop_assert_eq!(bytes.is_empty(), unknown);
            if !unknown {
                prop_assert_eq!(read_starts(&bytes, starts.len()), Some(starts.clone()));
                prop_assert_eq!(read_starts(&bytes, starts.len() + 1), None);
                prop_assert_eq!(read_starts(&bytes, starts.len() - 1), None);
            }
        }

        #[test]
        fn foreign_bytes_are_refused_or_within_bounds(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some(starts) = read_starts(&bytes, 120) {
                prop_assert_eq!(starts.len(), 120);
            }
        }
    }

    #[test]
    fn a_chunk_of_one_process_takes_few_bytes() {
        let mut bytes = Vec::new();
        write_starts(&[1_700_000_000_000; 120], &mut bytes);
        assert_eq!(bytes.len(), 7, "{bytes:?}");
        assert_eq!(read_starts(&[0, 2], 0), None, "a run of none");
    }
}
