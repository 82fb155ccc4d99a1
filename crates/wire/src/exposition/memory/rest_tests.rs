//! Memories that rest answer as those that do not.

use super::*;

const PLAIN: &str = "# HELP a About a.\n# TYPE a counter\na{x=\"1\"} 1\na{x=\"2\"} 2\n\
    # TYPE b gauge\nb 3\nb{y=\"1\"} 4\nc 5\nd 6\ne 7\nf 8\ng 9\nh 10\ni 11\nj 12\nk 13\n";

/// A value that is none.
const REFUSED: &str = "e x";

fn read(memory: &mut RowMemory, body: &str) -> String {
    let mut row = ScrapedRow::default();
    let outcome = memory.read(body.as_bytes(), Protocol::PrometheusText0_0_4, &mut row);
    if body.contains(REFUSED) {
        // A memory that does not rest tells its metadata once more after a refusal.
        let again = memory.read(PLAIN.as_bytes(), Protocol::PrometheusText0_0_4, &mut row);
        row.metadata.clear();
        return format!("{outcome:?} {again:?} {row:?}");
    }
    format!("{outcome:?} {row:?}")
}

#[test]
fn what_comes_after_a_rest_is_read_as_ever() {
    let check = |name: &str, bodies: &[String]| {
        let shared = SharedText::default();
        let mut rested = [(); 2].map(|()| RowMemory::default().sharing(shared.clone()));
        let mut awake = RowMemory::default();
        for scrape in 0..6 {
            let rows = rested.each_mut().map(|memory| read(memory, PLAIN));
            assert_eq!(rows[0], rows[1], "{name}");
            if scrape < 2 {
                assert_eq!(rows[0], read(&mut awake, PLAIN), "{name}");
            }
        }
        assert_eq!(shared.entries.len(), 1, "{name}");
        let [first, second] = &mut rested;
        for (nth, body) in bodies.iter().enumerate() {
            assert_eq!(read(first, body), read(&mut awake, body), "{name}, scrape {nth}");
        }
        let quiet = read(second, PLAIN);
        assert!(quiet.contains("same_columns: true"), "{name}: the other one still rests: {quiet}");
    };
    let swapped = PLAIN.replace("c 5\nd 6\n", "d 6\nc 5\n");
    let with_new = PLAIN.replace("d 6\n", "d 6\nnew{z=\"1\"} 1\n");
    let again = PLAIN.to_owned();
    for (name, bodies) in [
        ("the same", vec![again.clone()]),
        ("a line moves", vec![swapped.clone(), again.clone(), swapped.clone()]),
        ("a line is new", vec![with_new.clone(), again.clone(), with_new.clone()]),
        ("a line goes, and comes back", vec![PLAIN.replace("c 5\n", ""), again.clone(), again.clone()]),
        ("the end is missing", vec![PLAIN.replace("j 12\nk 13\n", ""), again.clone()]),
        ("most lines go for good", vec!["a{x=\"1\"} 1\n".to_owned(); 3]),
        ("metadata changes", vec![PLAIN.replace("About a.", "Of a."), again.clone()]),
        ("a type changes", vec![PLAIN.replace("a counter", "a gauge"), again.clone()]),
        ("a series twice", vec![PLAIN.replace("b 3\n", "b 3\nb 4\n"), again.clone()]),
        ("a scrape is refused", vec![PLAIN.replace("e 7", REFUSED), again.clone(), with_new.clone()]),
        (
            "a scrape with a new line is refused",
            vec![with_new.replace("e 7", REFUSED), with_new, again.clone()],
        ),
        ("nothing", vec![String::new(), again]),
    ] {
        check(name, &bodies);
    }
}

#[test]
fn a_rest_lasts_while_counts_of_scrapes_begin_anew() {
    let mut memory = RowMemory::default();
    read(&mut memory, PLAIN);
    for scrape in 0..600 {
        let row = read(&mut memory, PLAIN);
        assert!(row.contains("same_columns: true"), "scrape {scrape}: {row}");
    }
    let row = read(&mut memory, &PLAIN.replace("c 5\n", ""));
    assert!(row.contains("new_columns: []") && row.contains("metadata: []"), "{row}");
}
