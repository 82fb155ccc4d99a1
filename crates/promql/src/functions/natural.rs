//! Natural order: runs of digits compare as numbers, so that `a2` comes before `a10`.

use std::cmp::Ordering;

/// Compares in natural order; equal numbers with different leading zeros by length.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (x, a_rest) = chunk(a);
        let (y, b_rest) = chunk(b);
        if x.is_empty() || y.is_empty() {
            return x.len().cmp(&y.len());
        }
        let order = if is_number(x) && is_number(y) { compare_numbers(x, y) } else { x.cmp(y) };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (a_rest, b_rest);
    }
}

fn is_number(chunk: &str) -> bool {
    chunk.starts_with(|c: char| c.is_ascii_digit())
}

/// The leading run of digits or of anything else.
fn chunk(text: &str) -> (&str, &str) {
    let digits = is_number(text);
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    text.split_at(end)
}

fn compare_numbers(a: &str, b: &str) -> Ordering {
    let (x, y) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    x.len().cmp(&y.len()).then_with(|| x.cmp(y)).then_with(|| a.len().cmp(&b.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_as_numbers() {
        let mut all = ["a10", "a2", "b", "a", "a2x10", "a2x9", "10", "9", "4444b", "4444"];
        all.sort_by(|a, b| compare(a, b));
        assert_eq!(all, ["9", "10", "4444", "4444b", "a", "a2", "a2x9", "a2x10", "a10", "b"]);
    }
}
