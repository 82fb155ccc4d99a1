//! Label sets: sorted, unique names, one allocation.

#![allow(unsafe_code)] // one `from_utf8_unchecked`, see `Iter::next`

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The label that holds a metric's name.
pub const METRIC_NAME: &str = "__name__";
/// The label that separates a classic histogram's buckets.
pub const BUCKET_LABEL: &str = "le";
/// The label that separates a summary's quantiles.
pub const QUANTILE_LABEL: &str = "quantile";

/// A set of labels, sorted by name (bytewise), each name once, no empty values.
///
/// Layout: name and value in turn, each behind its length as a LEB128 varint, in one shared slice;
/// cloning is a reference count. Equal sets have equal bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Labels(Arc<[u8]>);

impl Default for Labels {
    fn default() -> Self {
        Labels(Arc::from([]))
    }
}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl Labels {
    /// The empty set.
    pub fn empty() -> Labels {
        Labels::default()
    }

    /// Builds a set from pairs in any order; of equal names the last wins, empty values are left out.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Labels {
        let mut builder = LabelsBuilder::default();
        for (name, value) in pairs {
            builder.set(name.as_ref(), value.as_ref());
        }
        builder.build()
    }

    /// Builds a set from pairs already sorted by name, unique, without empty values.
    ///
    /// The order is asserted in debug builds only: for decoders that have just checked it.
    pub fn from_sorted<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Labels {
        Labels::from_sorted_in(&mut Vec::with_capacity(256), pairs)
    }

    /// As [`Labels::from_sorted`], with room to work in: for the makers of many sets.
    pub fn from_sorted_in<'a>(room: &mut Vec<u8>, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Labels {
        room.clear();
        let mut last: Option<&str> = None;
        for (name, value) in pairs {
            debug_assert!(last.is_none_or(|l| l < name), "labels out of order at {name}");
            debug_assert!(!value.is_empty(), "empty value of {name}");
            push_str(room, name);
            push_str(room, value);
            last = Some(name);
        }
        Labels(room.as_slice().into())
    }

    /// The set whose [`Labels::as_bytes`] are `bytes`; `None` when no set has these.
    pub fn from_bytes(bytes: &[u8]) -> Option<Labels> {
        LabelsRef::from_bytes(bytes).map(LabelsRef::to_labels)
    }

    /// The pairs, sorted by name.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.0 }
    }

    /// The value of `name`, if the set has it.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// The metric name, or an empty string.
    pub fn metric_name(&self) -> &str {
        self.get(METRIC_NAME).unwrap_or_default()
    }

    /// How many labels.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The canonical bytes: equal exactly when the sets are equal.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A 128-bit hash of the set, the same in every process and version.
    pub fn hash128(&self) -> u128 {
        xxhash_rust::xxh3::xxh3_128(&self.0)
    }

    /// The set without the labels that `drop` accepts.
    pub fn without(&self, mut drop: impl FnMut(&str) -> bool) -> Labels {
        Labels::from_sorted(self.iter().filter(|(name, _)| !drop(name)))
    }

    /// The set with only the labels that `keep` accepts.
    pub fn only(&self, mut keep: impl FnMut(&str) -> bool) -> Labels {
        Labels::from_sorted(self.iter().filter(|(name, _)| keep(name)))
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a str, &'a str);
    type IntoIter = Iter<'a>;
    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// A label set that stands in somebody else's bytes: [`Labels`] without a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelsRef<'a>(&'a [u8]);

impl<'a> LabelsRef<'a> {
    /// The set whose [`Labels::as_bytes`] are `bytes`; `None` when no set has these.
    pub fn from_bytes(bytes: &'a [u8]) -> Option<LabelsRef<'a>> {
        // Nearly all labels are ASCII, and that is quickly told of all of them at once.
        let is_text = |text: &[u8], all: bool| all || std::str::from_utf8(text).is_ok();
        let all = bytes.is_ascii();
        let (mut rest, mut last): (&[u8], Option<&[u8]>) = (bytes, None);
        while !rest.is_empty() {
            let (name, value) = (take_text(&mut rest)?, take_text(&mut rest)?);
            let sorted = last.is_none_or(|last| last < name);
            if value.is_empty() || !sorted || !is_text(name, all) || !is_text(value, all) {
                return None;
            }
            last = Some(name);
        }
        Some(LabelsRef(bytes))
    }

    /// The pairs, sorted by name.
    pub fn pairs(self) -> Pairs<'a> {
        Pairs(Iter { rest: self.0 })
    }

    /// [`Labels::as_bytes`] of the set.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// A set of its own.
    pub fn to_labels(self) -> Labels {
        Labels(self.0.into())
    }
}

/// Orders by the pairs in turn, then the shorter first (Prometheus `labels.Compare`).
impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        let (mine, theirs) = (&*self.0, &*other.0);
        let shared = shared_bytes(mine, theirs);
        // The text in which the sets part starts at the same place in both: all before are equal.
        let mut at = 0;
        while at < shared {
            let (len, head) = read_len(&mine[at..]);
            if at + head + len > shared {
                break;
            }
            at += head + len;
        }
        let (mut mine, mut theirs) = (Iter { rest: &mine[at..] }, Iter { rest: &theirs[at..] });
        match (mine.rest.is_empty(), theirs.rest.is_empty()) {
            (false, false) => mine.text().cmp(theirs.text()),
            // The shorter comes first.
            (mine_ended, theirs_ended) => theirs_ended.cmp(&mine_ended),
        }
    }
}

/// How many bytes two slices have in common at the start.
fn shared_bytes(a: &[u8], b: &[u8]) -> usize {
    const WORD: usize = 8;
    let whole = a.chunks_exact(WORD).zip(b.chunks_exact(WORD)).take_while(|(a, b)| a == b).count() * WORD;
    whole + a[whole..].iter().zip(&b[whole..]).take_while(|(a, b)| a == b).count()
}

/// The length of the text at the start of `bytes`, and how many bytes say so. A length cut off by the
/// end of `bytes` is that of what is there.
fn read_len(bytes: &[u8]) -> (usize, usize) {
    let (mut len, mut shift) = (0, 0);
    for (at, byte) in bytes.iter().enumerate() {
        len |= usize::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return (len, at + 1);
        }
        shift += 7;
    }
    (len, bytes.len())
}

/// Takes the text at the start of `rest`, its length in as few bytes as [`push_str`] takes.
fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (mut len, mut head) = (0, 0);
    loop {
        let byte = *rest.get(head).filter(|_| head < 5)?;
        len |= usize::from(byte & 0x7f) << (7 * head);
        head += 1;
        if byte < 0x80 {
            if byte == 0 && head > 1 {
                return None;
            }
            break;
        }
    }
    let (text, after) = rest[head..].split_at_checked(len)?;
    *rest = after;
    Some(text)
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `{a="1", b="2"}`, values quoted as Go does for plain text; names that are not legacy names too.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (name, value)) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            if is_legacy_label_name(name) {
                f.write_str(name)?;
            } else {
                write_quoted(f, name)?;
            }
            f.write_str("=")?;
            write_quoted(f, value)?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Writes `text` between double quotes, escaped as Go's `strconv.Quote` does.
pub fn write_quoted(out: &mut dyn fmt::Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\t' => out.write_str("\\t")?,
            '\r' => out.write_str("\\r")?,
            '\x07' => out.write_str("\\a")?,
            '\x08' => out.write_str("\\b")?,
            '\x0b' => out.write_str("\\v")?,
            '\x0c' => out.write_str("\\f")?,
            c if (c as u32) < 0x20 || c as u32 == 0x7f => write!(out, "\\x{:02x}", c as u32)?,
            c if is_printable(c) => out.write_char(c)?,
            c if (c as u32) < 0x1_0000 => write!(out, "\\u{:04x}", c as u32)?,
            c => write!(out, "\\U{:08x}", c as u32)?,
        }
    }
    out.write_char('"')
}

/// Whether Go shows a character as it is: no control or format character, no space but the usual one,
/// nothing for private use. (Characters that Unicode has not assigned are shown here.)
///
/// Source: Go `strconv.IsPrint`; Unicode 15, categories Cc, Cf, Co, Zs, Zl, Zp.
fn is_printable(c: char) -> bool {
    let hidden = matches!(c,
        '\u{80}'..='\u{a0}' | '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
        | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{1680}' | '\u{180e}' | '\u{2000}'..='\u{200f}'
        | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{2064}' | '\u{2066}'..='\u{206f}' | '\u{3000}'
        | '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}'..='\u{ffff}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}' | '\u{e0020}'..='\u{e007f}' | '\u{f0000}'..);
    !hidden
}

/// Whether `name` is `[a-zA-Z_][a-zA-Z0-9_]*`, the label names that need no quotes.
pub fn is_legacy_label_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether `name` is `[a-zA-Z_:][a-zA-Z0-9_:]*`, the metric names that need no quotes.
pub fn is_legacy_metric_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_' || b == b':')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}

/// The pairs of a [`Labels`], sorted by name.
#[derive(Debug, Clone)]
pub struct Iter<'a> {
    rest: &'a [u8],
}

impl<'a> Iter<'a> {
    fn text(&mut self) -> &'a str {
        let (len, head) = read_len(self.rest);
        let (text, rest) = self.rest[head..].split_at(len);
        self.rest = rest;
        // SAFETY: these bytes are of `push_str`, which writes them from a `&str` of this very length, or of
        // `LabelsRef::from_bytes`, which has found text in them at these very places.
        unsafe { std::str::from_utf8_unchecked(text) }
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        Some((self.text(), self.text()))
    }
}

/// A pair of a [`LabelsRef`].
#[derive(Debug, Clone, Copy)]
pub struct PairRef<'a> {
    /// The label's name.
    pub name: &'a str,
    /// Its value.
    pub value: &'a str,
    /// Name and value as they stand in the set's bytes: equal exactly when both are.
    pub bytes: &'a [u8],
}

/// The pairs of a [`LabelsRef`], sorted by name.
#[derive(Debug, Clone)]
pub struct Pairs<'a>(Iter<'a>);

impl<'a> Iterator for Pairs<'a> {
    type Item = PairRef<'a>;
    fn next(&mut self) -> Option<PairRef<'a>> {
        let before = self.0.rest;
        let (name, value) = self.0.next()?;
        Some(PairRef { name, value, bytes: &before[..before.len() - self.0.rest.len()] })
    }
}

fn push_str(bytes: &mut Vec<u8>, text: &str) {
    let mut len = text.len();
    while len >= 0x80 {
        bytes.push((len as u8 & 0x7f) | 0x80);
        len >>= 7;
    }
    bytes.push(len as u8);
    bytes.extend_from_slice(text.as_bytes());
}

/// Builds [`Labels`]; names may come in any order, and a later value replaces an earlier one.
#[derive(Debug, Clone, Default)]
pub struct LabelsBuilder {
    /// Sorted by name; empty values stay until `build`, which leaves them out.
    pairs: Vec<(String, String)>,
}

impl LabelsBuilder {
    /// Starts from an existing set.
    pub fn from_labels(labels: &Labels) -> LabelsBuilder {
        LabelsBuilder { pairs: labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect() }
    }

    /// Sets `name`; an empty `value` removes it.
    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        match self.pairs.binary_search_by(|(n, _)| n.as_str().cmp(name)) {
            Ok(at) if value.is_empty() => {
                self.pairs.remove(at);
            }
            Ok(at) => value.clone_into(&mut self.pairs[at].1),
            Err(_) if value.is_empty() => {}
            Err(at) => self.pairs.insert(at, (name.to_owned(), value.to_owned())),
        }
        self
    }

    /// Removes `name`.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.set(name, "")
    }

    /// The value of `name`, if set.
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.pairs.binary_search_by(|(n, _)| n.as_str().cmp(name)).ok()?;
        Some(&self.pairs[at].1)
    }

    /// Makes `stamped` hold, whatever stands here: another value of such a label goes on as
    /// `exported_<name>` (with as many prefixes as it takes to be free).
    ///
    /// Identity is not the exporter's to state. Source: Prometheus' rule for conflicting labels.
    pub fn stamp(&mut self, stamped: &Labels) {
        for (name, value) in stamped {
            let exposed = self.get(name).filter(|exposed| *exposed != value).map(str::to_owned);
            self.set(name, value);
            let Some(exposed) = exposed.filter(|exposed| !exposed.is_empty()) else { continue };
            let mut renamed = format!("exported_{name}");
            while self.get(&renamed).is_some() {
                renamed.insert_str(0, "exported_");
            }
            self.set(&renamed, &exposed);
        }
    }

    /// Keeps only the pairs that `keep` accepts.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &str) -> bool) {
        self.pairs.retain(|(n, v)| keep(n, v));
    }

    /// The pairs, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    /// The set.
    pub fn build(&self) -> Labels {
        Labels::from_sorted(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_a_set_or_they_are_not() {
        let long = "v".repeat(300);
        for pairs in
            [vec![], vec![("__name__", "up"), ("job", "node")], vec![("a", long.as_str()), ("b", "Köln 潮")]]
        {
            let labels = Labels::from_pairs(pairs);
            assert_eq!(Labels::from_bytes(labels.as_bytes()).as_ref(), Some(&labels));
            let borrowed = LabelsRef::from_bytes(labels.as_bytes()).unwrap();
            assert!(borrowed.pairs().map(|pair| (pair.name, pair.value)).eq(labels.iter()));
            assert_eq!(
                borrowed.pairs().map(|pair| pair.bytes).collect::<Vec<_>>().concat(),
                labels.as_bytes()
            );
        }
        for bytes in [
            &b"\x01a"[..],                                             // no value
            b"\x01a\x00",                                              // an empty one
            b"\x01a\x02x",                                             // one cut off
            b"\x01b\x01x\x01a\x01x",                                   // out of order
            b"\x01a\x01x\x01a\x01y",                                   // a name twice
            b"\x81\x00a\x01x",                                         // a length in more bytes than it takes
            b"\x01a\x01\xff",                                          // no text
            b"\x01a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01x", // a length beyond everything
        ] {
            assert_eq!(Labels::from_bytes(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn quoting_shows_what_go_shows() {
        for (text, want) in [
            ("Pegel Köln 潮 \u{1f30a}", "\"Pegel Köln 潮 \u{1f30a}\""),
            ("\"\\\n\t\x07\x00\x7f", r#""\"\\\n\t\a\x00\x7f""#),
            ("\u{80}\u{a0}\u{ad}", r#""\u0080\u00a0\u00ad""#),
            ("\u{200b}\u{2028}\u{3000}\u{e000}\u{feff}", r#""\u200b\u2028\u3000\ue000\ufeff""#),
            ("\u{e0001}\u{10ffff}", r#""\U000e0001\U0010ffff""#),
        ] {
            let mut out = String::new();
            write_quoted(&mut out, text).expect("a string");
            assert_eq!(out, want);
        }
    }

    #[test]
    fn labels_are_sorted_unique_and_without_empty_values() {
        let labels = Labels::from_pairs([("b", "2"), ("a", "1"), ("c", ""), ("b", "3")]);
        assert_eq!(labels.to_string(), r#"{a="1", b="3"}"#);
        assert_eq!(labels.get("b"), Some("3"));
        assert_eq!(labels.get("c"), None);
        assert_eq!(labels.len(), 2);
    }

    #[test]
    fn long_values_survive() {
        let long = "x".repeat(20_000);
        let labels = Labels::from_pairs([("name", long.as_str())]);
        assert_eq!(labels.get("name"), Some(long.as_str()));
    }

    #[test]
    fn order_is_by_pairs_then_length() {
        let a = Labels::from_pairs([("a", "1")]);
        let ab = Labels::from_pairs([("a", "1"), ("b", "1")]);
        let b = Labels::from_pairs([("b", "1")]);
        assert!(a < ab && ab < b);
    }

    proptest::proptest! {
        #[test]
        fn order_is_that_of_the_pairs(
            pairs in proptest::collection::vec(("[a-c]{1,3}", "[a-c]{1,3}|x{126,130}"), 0..5),
            others in proptest::collection::vec(("[a-c]{1,3}", "[a-c]{1,3}|x{126,130}"), 0..5),
            shared in 0usize..5,
        ) {
            let mixed = pairs.iter().take(shared).chain(others.iter().skip(shared)).cloned();
            let (a, b) = (Labels::from_pairs(pairs.clone()), Labels::from_pairs(mixed));
            proptest::prop_assert_eq!(a.cmp(&b), a.iter().cmp(b.iter()));
            proptest::prop_assert_eq!(b.cmp(&a), b.iter().cmp(a.iter()));
        }
    }
}
