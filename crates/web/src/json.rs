//! Writes JSON as Prometheus does, byte for byte, straight into the body: no tree in between.
//!
//! Two kinds of strings exist because Prometheus has two: label sets are written as they are, all
//! other text with `<`, `>` and `&` escaped for HTML.
//!
//! Source: Prometheus `util/jsonutil`, `web/api/v1/json_codec.go`; json-iterator's
//! `stream_str.go` for the escapes.

use jiff::Timestamp;
use model::{Labels, number};

pub(crate) mod value;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// An object being written.
pub(crate) struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Object<'a> {
        out.push(b'{');
        Object { out, first: true }
    }

    /// An object that already has fields, and whose maker wrote on past it.
    pub(crate) fn resumed(out: &'a mut Vec<u8>) -> Object<'a> {
        Object { out, first: false }
    }

    /// Starts a field; the caller writes its value into what it gets.
    pub(crate) fn field(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        text(self.out, name);
        self.out.push(b':');
        self.out
    }

    /// As [`Object::field`], with a name that is not made safe inside HTML.
    pub(crate) fn plain_field(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        label_text(self.out, name);
        self.out.push(b':');
        self.out
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) {
        text(self.field(name), value);
    }

    pub(crate) fn integer(&mut self, name: &str, value: impl itoa::Integer) {
        integer(self.field(name), value);
    }

    /// A number without quotes.
    pub(crate) fn number(&mut self, name: &str, value: f64) {
        let value = if value.is_finite() { value } else { 0.0 }; // JSON has no others
        number::append_json(self.field(name), value);
    }

    pub(crate) fn boolean(&mut self, name: &str, value: bool) {
        self.field(name).extend_from_slice(if value { b"true" } else { b"false" });
    }

    pub(crate) fn null(&mut self, name: &str) {
        self.field(name).extend_from_slice(b"null");
    }

    pub(crate) fn labels(&mut self, name: &str, value: &Labels) {
        labels(self.field(name), value);
    }

    pub(crate) fn time(&mut self, name: &str, ms: Option<i64>) {
        time(self.field(name), ms);
    }

    pub(crate) fn array<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        write: impl FnMut(&mut Vec<u8>, T),
    ) {
        array(self.field(name), items, write);
    }

    pub(crate) fn end(self) {
        self.out.push(b'}');
    }
}

/// `[a,b,...]`
pub(crate) fn array<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// `["a","b",...]`
pub(crate) fn texts<S: AsRef<str>>(out: &mut Vec<u8>, items: impl IntoIterator<Item = S>) {
    array(out, items, |out, item| text(out, item.as_ref()));
}

/// A string, safe inside HTML.
pub(crate) fn text(out: &mut Vec<u8>, value: &str) {
    quoted(out, value, true);
}

/// A string as label sets have it.
pub(crate) fn label_text(out: &mut Vec<u8>, value: &str) {
    quoted(out, value, false);
}

/// Whether one of eight bytes is a quotation mark, a backslash or a control character.
fn has_special(bytes: [u8; 8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    let word = u64::from_ne_bytes(bytes);
    // The top bit of a byte that is below `limit`, for limits up to 128.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, 0x20) | is(b'"') | is(b'\\')) & TOPS != 0
}

/// Whether a text stands in JSON as it is.
fn is_plain(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks();
    !words.iter().any(|word| has_special(*word))
        && !rest.iter().any(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\'))
}

fn quoted(out: &mut Vec<u8>, value: &str, html: bool) {
    let bytes = value.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    if !html && is_plain(bytes) {
        out.extend_from_slice(bytes);
        out.push(b'"');
        return;
    }
    let mut clean_from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let needs_escape = match byte {
            b'"' | b'\\' => true,
            b'<' | b'>' | b'&' => html,
            0xe2 => {
                html && (bytes[at..].starts_with("\u{2028}".as_bytes())
                    || bytes[at..].starts_with("\u{2029}".as_bytes()))
            }
            byte => byte < 0x20,
        };
        if !needs_escape {
            continue;
        }
        out.extend_from_slice(&bytes[clean_from..at]);
        clean_from = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0xe2 => {
                // line and paragraph separator: three bytes, e2 80 a8 and e2 80 a9
                out.extend_from_slice(b"\\u202");
                out.push(HEX[usize::from(bytes[at + 2] & 0xf)]);
                clean_from = at + 3;
            }
            byte => out.extend_from_slice(&[
                b'\\',
                b'u',
                b'0',
                b'0',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 0xf)],
            ]),
        }
    }
    out.extend_from_slice(&bytes[clean_from..]);
    out.push(b'"');
}

/// `{"name":"value",...}`, sorted by name.
pub(crate) fn labels(out: &mut Vec<u8>, labels: &Labels) {
    out.push(b'{');
    for (i, (name, value)) in labels.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        label_text(out, name);
        out.push(b':');
        label_text(out, value);
    }
    out.push(b'}');
}

pub(crate) fn integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds as seconds without trailing zeros, as scalars and strings have them: `1435781430.78`.
pub(crate) fn short_timestamp(out: &mut Vec<u8>, ms: i64) {
    number::append_timestamp(out, ms);
    if ms % 1000 != 0 {
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

/// RFC 3339 in UTC, as short as possible; the zero time of Go for `None`.
pub(crate) fn time(out: &mut Vec<u8>, ms: Option<i64>) {
    match ms.and_then(|ms| Timestamp::from_millisecond(ms).ok()) {
        Some(time) => text(out, &time.to_string()),
        None => text(out, "0001-01-01T00:00:00Z"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn scalars_have_timestamps_without_trailing_zeros() {
        let cases = [
            (0, "0"),
            (1_435_781_430_781, "1435781430.781"),
            (1_010, "1.01"),
            (-1_500, "-1.5"),
            (60_000, "60"),
        ];
        for (ms, expected) in cases {
            assert_eq!(written(|out| short_timestamp(out, ms)), expected);
        }
    }

    #[test]
    fn only_plain_text_is_escaped_for_html() {
        let odd = "a\"b\\c\n\r\t\u{1}\u{8}<&>\u{2028}\u{e9}\u{7f}";
        assert_eq!(
            written(|out| text(out, odd)),
            "\"a\\\"b\\\\c\\n\\r\\t\\u0001\\u0008\\u003c\\u0026\\u003e\\u2028\u{e9}\u{7f}\""
        );
        assert_eq!(
            written(|out| label_text(out, odd)),
            "\"a\\\"b\\\\c\\n\\r\\t\\u0001\\u0008<&>\u{2028}\u{e9}\u{7f}\""
        );
    }

    #[test]
    fn plain_text_is_told_wherever_a_special_byte_stands() {
        for byte in 0..=u8::MAX {
            for (len, at) in (1..20).flat_map(|len| (0..len).map(move |at| (len, at))) {
                for others in [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xff] {
                    let mut bytes = vec![others; len];
                    bytes[at] = byte;
                    let expected = byte >= 0x20 && byte != b'"' && byte != b'\\';
                    assert_eq!(is_plain(&bytes), expected, "{byte:#x} at {at} of {len} beside {others:#x}");
                }
            }
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        let cases = [
            (None, "\"0001-01-01T00:00:00Z\""),
            (Some(0), "\"1970-01-01T00:00:00Z\""),
            (Some(1_435_781_430_780), "\"2015-07-01T20:10:30.78Z\""),
        ];
        for (ms, expected) in cases {
            assert_eq!(written(|out| time(out, ms)), expected);
        }
    }
}
