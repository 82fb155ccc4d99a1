use proptest::prelude::*;

use super::*;

/// An arena with `lines`, and where each is; those that begin with `#` are metadata.
fn filled(shared: &SharedText, lines: &[Vec<u8>]) -> (Arena, Vec<u32>) {
    let mut arena = Arena::new(shared.clone());
    let mut starts: Vec<u32> = lines.iter().map(|line| arena.push(line)).collect();
    seal(&mut arena, &mut starts, lines);
    (arena, starts)
}

fn seal(arena: &mut Arena, starts: &mut [u32], lines: &[Vec<u8>]) {
    let all = starts.iter_mut().zip(lines);
    arena.seal(all.map(|(start, line)| Line { start, len: line.len(), is_meta: line.starts_with(b"#") }));
}

fn check(arena: &Arena, starts: &[u32], lines: &[Vec<u8>]) {
    for (start, line) in starts.iter().zip(lines) {
        assert_eq!(arena.get(*start, line.len()), line);
    }
}

/// An exposition: families of a few lines.
fn exposition(families: usize) -> Vec<Vec<u8>> {
    let family = |n: usize| {
        let meta = [format!("# HELP metric_{n} of {n} things"), format!("# TYPE metric_{n} counter")];
        meta.into_iter().chain((0..n % 17).map(move |m| format!("metric_{n}{{number=\"{m}\"}} ")))
    };
    (0..families).flat_map(family).map(String::into_bytes).collect()
}

#[test]
fn targets_that_say_the_same_share_it() {
    let (shared, lines) = (SharedText::default(), exposition(300));
    let (first, _) = filled(&shared, &lines);
    let alone = first.heap_bytes();
    let others: Vec<Arena> = (0..9).map(|_| filled(&shared, &lines).0).collect();
    let together = first.heap_bytes() + others.iter().map(Arena::heap_bytes).sum::<usize>();
    assert!(together < alone * 3 / 2, "{alone} alone, {together} the ten of them");
}

#[test]
fn a_line_more_changes_few_chunks() {
    let (shared, mut lines) = (SharedText::default(), exposition(300));
    let _first = filled(&shared, &lines);
    let before = shared.chunks.len();
    lines.insert(40, b"metric_3{number=\"more\"} ".to_vec());
    let _second = filled(&shared, &lines);
    assert!(before > 20, "{before} chunks");
    assert!(shared.chunks.len() - before <= 3, "{} new of {before}", shared.chunks.len() - before);
}

proptest! {
    #[test]
    fn every_line_is_found_again(
        batches in prop::collection::vec(
            prop::collection::vec((any::<bool>(), 0usize..9000, any::<u8>()), 0..60), 1..5),
    ) {
        let mut arena = Arena::default();
        let (mut starts, mut lines) = (Vec::new(), Vec::new());
        for batch in batches {
            let sealed = lines.len();
            for (is_meta, len, byte) in batch {
                let mut line = vec![byte; len];
                if is_meta {
                    line.insert(0, b'#');
                }
                starts.push(arena.push(&line));
                lines.push(line);
            }
            check(&arena, &starts, &lines);
            let tail = arena.tail_len();
            let room = (arena.slots.len() + tail / CHUNK_MIN + 2).max(2);
            seal(&mut arena, &mut starts[sealed..], &lines[sealed..]);
            prop_assert!(arena.slots.len() <= room, "{} slots, promised {room}", arena.slots.len());
            check(&arena, &starts, &lines);
        }
    }
}
