//! One line at a time, in full: what a line is made of, and where it is wrong.
//!
//! The two dialects differ in little. The Prometheus text format takes any blanks between words,
//! missing commas between labels and unknown comments; OpenMetrics wants exactly one space, knows
//! `UNIT`, exemplars and timestamps in seconds, and ends with `# EOF`.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use model::labels::{BUCKET_LABEL, METRIC_NAME, QUANTILE_LABEL};
use model::{Labels, MetricType};

use super::value::{open_metrics_float, parse_float, short_decimal};

/// Why a scrape was refused. Nothing of it was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ExpositionError {
    /// Where.
    pub place: Place,
    /// What was expected there, and what stood there.
    pub problem: String,
}

/// A place in an exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A line of text, counted from 1.
    Line(usize),
    /// A byte of a protobuf body, counted from 0.
    Byte(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(line) => write!(f, "line {line}"),
            Place::Byte(byte) => write!(f, "byte {byte}"),
        }
    }
}

/// A problem at a byte of the body; its line is counted only when it is reported.
#[derive(Debug)]
pub(super) struct Problem {
    at: usize,
    text: String,
}

impl Problem {
    pub(super) fn new(at: usize, text: impl Into<String>) -> Problem {
        Problem { at, text: text.into() }
    }

    pub(super) fn locate(self, body: &[u8]) -> ExpositionError {
        let before = &body[..self.at.min(body.len())];
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        ExpositionError { place: Place::Line(line), problem: self.text }
    }

    /// The same problem at another byte.
    pub(super) fn moved_to(self, at: usize) -> Problem {
        Problem { at, ..self }
    }

    pub(super) fn locate_byte(self) -> ExpositionError {
        ExpositionError { place: Place::Byte(self.at), problem: self.text }
    }
}

/// The two families of formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Dialect {
    #[default]
    Prometheus,
    OpenMetrics,
}

/// A series as it stands in the body, still escaped: ranges of bytes.
#[derive(Debug, Default)]
pub(super) struct RawSeries {
    /// The metric name.
    pub(super) name: Range<usize>,
    /// Names and values of the labels, in the order of the line.
    pub(super) labels: Vec<(Range<usize>, Range<usize>)>,
}

/// What stands behind the value's start.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) value: f64,
    /// Milliseconds.
    pub(super) timestamp: Option<i64>,
    pub(super) exemplar: Option<RawExemplar>,
    /// Where the next line begins.
    pub(super) next: usize,
}

/// An exemplar with its labels made.
#[derive(Debug)]
pub(super) struct RawExemplar {
    pub(super) labels: Labels,
    pub(super) value: f64,
    /// Milliseconds.
    pub(super) timestamp: Option<i64>,
}

/// What a line beginning with `#` says.
#[derive(Debug)]
pub(super) enum MetaLine {
    /// Nothing.
    Comment,
    /// The end of an OpenMetrics exposition.
    Eof,
    /// Type, unit or help of a family.
    Meta { kind: MetaKind, family: Range<usize>, text: Range<usize> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetaKind {
    Help,
    Type,
    Unit,
}

impl fmt::Display for MetaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MetaKind::Help => "HELP",
            MetaKind::Type => "TYPE",
            MetaKind::Unit => "UNIT",
        })
    }
}

/// Reads words from a body.
#[derive(Debug)]
pub(super) struct LineReader<'a> {
    pub(super) body: &'a [u8],
    pub(super) pos: usize,
    pub(super) dialect: Dialect,
}

impl<'a> LineReader<'a> {
    pub(super) fn at(body: &'a [u8], pos: usize, dialect: Dialect) -> LineReader<'a> {
        LineReader { body, pos, dialect }
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.pos).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.pos += usize::from(found);
        found
    }

    /// Skips blanks where the dialect allows any number of them.
    pub(super) fn skip_blanks(&mut self) {
        if self.dialect == Dialect::Prometheus {
            while matches!(self.peek(), Some(b' ' | b'\t')) {
                self.pos += 1;
            }
        }
    }

    /// Skips what separates two words; false when there is nothing.
    fn separator(&mut self) -> bool {
        let before = self.pos;
        match self.dialect {
            Dialect::Prometheus => self.skip_blanks(),
            Dialect::OpenMetrics => self.pos += usize::from(self.peek() == Some(b' ')),
        }
        self.pos > before
    }

    /// `expected <what>, got <the next bytes>`.
    pub(super) fn expected(&self, what: &str) -> Problem {
        const SHOWN: usize = 24;
        let rest = self.body.get(self.pos..).unwrap_or_default();
        let text = match rest.first() {
            None => format!("expected {what}, got the end of the data"),
            Some(b'\n') => format!("expected {what}, got the end of the line"),
            Some(_) => {
                let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len()).min(SHOWN);
                format!("expected {what}, got {:?}", String::from_utf8_lossy(&rest[..end]))
            }
        };
        Problem::new(self.pos, text)
    }

    /// A bare name; empty when none stands here.
    fn bare_name(&mut self, colons: bool) -> Range<usize> {
        let start = self.pos;
        while let Some(byte) = self.peek() {
            let fits = byte.is_ascii_alphabetic()
                || byte == b'_'
                || (colons && byte == b':')
                || (self.pos > start && byte.is_ascii_digit());
            if !fits {
                break;
            }
            self.pos += 1;
        }
        start..self.pos
    }

    /// The inside of a quoted string that starts here.
    fn quoted(&mut self, what: &str) -> Result<Range<usize>, Problem> {
        let open = self.pos;
        if !self.take(b'"') {
            return Err(self.expected(what));
        }
        let start = self.pos;
        loop {
            let rest = self.body.get(self.pos..).unwrap_or_default();
            let Some(found) = memchr::memchr3(b'"', b'\\', b'\n', rest) else {
                return Err(Problem::new(
                    open,
                    format!("expected {what}, got a string without closing quote"),
                ));
            };
            self.pos += found;
            match self.body[self.pos] {
                b'"' => {
                    self.pos += 1;
                    return Ok(start..self.pos - 1);
                }
                b'\\' if !matches!(self.body.get(self.pos + 1), None | Some(b'\n')) => self.pos += 2,
                // The Prometheus text format allows line breaks in strings.
                b'\n' if self.dialect == Dialect::Prometheus => self.pos += 1,
                _ => {
                    return Err(Problem::new(
                        open,
                        format!("expected {what}, got a string without closing quote"),
                    ));
                }
            }
        }
    }

    /// Reads name and labels of a series up to where its value starts.
    pub(super) fn series(&mut self, series: &mut RawSeries) -> Result<(), Problem> {
        let start = self.pos;
        series.labels.clear();
        series.name = self.bare_name(true);
        let mut named = !series.name.is_empty();
        if self.dialect == Dialect::Prometheus && named {
            self.skip_blanks();
        }
        let braces = self.peek() == Some(b'{');
        if braces {
            self.pos += 1;
            let mut name = named.then(|| series.name.clone());
            self.labels(&mut series.labels, Some(&mut name))?;
            named = name.is_some();
            series.name = name.unwrap_or_default();
        } else if !named {
            return Err(self.expected("a metric name, '{' or '#'"));
        }
        if !named || series.name.is_empty() {
            return Err(Problem::new(start, "expected a metric name, got none"));
        }
        let separated = match self.dialect {
            // Blanks before '{' have been skipped above already; `}1` needs none.
            Dialect::Prometheus => {
                self.skip_blanks();
                braces || matches!(self.body[self.pos - 1], b' ' | b'\t')
            }
            Dialect::OpenMetrics => self.take(b' '),
        };
        if !separated || matches!(self.peek(), None | Some(b'\n' | b' ')) {
            return Err(self.expected("a value after the series"));
        }
        if std::str::from_utf8(&self.body[start..self.pos]).is_err() {
            return Err(Problem::new(start, "the series is not valid UTF-8"));
        }
        Ok(())
    }

    /// Reads labels behind `{` up to and with `}`. A quoted string alone is the metric name, where
    /// one may stand (`metric_name` is given) and none has stood yet.
    fn labels(
        &mut self,
        labels: &mut Vec<(Range<usize>, Range<usize>)>,
        mut metric_name: Option<&mut Option<Range<usize>>>,
    ) -> Result<(), Problem> {
        loop {
            self.skip_blanks();
            if self.take(b'}') {
                return Ok(());
            }
            let start = self.pos;
            let is_quoted = self.peek() == Some(b'"');
            let name = if is_quoted { self.quoted("a label name")? } else { self.bare_name(false) };
            if name.is_empty() {
                self.pos = start;
                return Err(self.expected("a label name"));
            }
            self.skip_blanks();
            if is_quoted && matches!(self.peek(), Some(b',' | b'}')) {
                match metric_name.as_deref_mut() {
                    Some(slot @ None) => *slot = Some(name),
                    Some(Some(_)) => return Err(Problem::new(start, "the metric name is given twice")),
                    None => return Err(self.expected("'=' after the label name")),
                }
                self.take(b',');
                continue;
            }
            if !self.take(b'=') {
                return Err(self.expected("'=' after the label name"));
            }
            self.skip_blanks();
            let value = self.quoted("a quoted label value")?;
            labels.push((name, value));
            self.skip_blanks();
            let comma = self.take(b',');
            if !comma && self.dialect == Dialect::OpenMetrics && self.peek() != Some(b'}') {
                return Err(self.expected("',' or '}' after the label value"));
            }
        }
    }

    /// Reads the value and what follows it.
    #[inline]
    pub(super) fn tail(&mut self) -> Result<Tail, Problem> {
        if let Some((value, end)) = short_decimal(self.body, self.pos)
            && self.body.get(end) == Some(&b'\n')
        {
            self.pos = end + 1;
            return Ok(Tail { value, timestamp: None, exemplar: None, next: end + 1 });
        }
        self.long_tail()
    }

    fn long_tail(&mut self) -> Result<Tail, Problem> {
        let value = self.number("a value")?;
        let mut tail = Tail { value, timestamp: None, exemplar: None, next: 0 };
        match self.dialect {
            Dialect::Prometheus => {
                self.skip_blanks();
                if !matches!(self.peek(), None | Some(b'\n')) {
                    tail.timestamp = Some(self.milliseconds()?);
                    self.skip_blanks();
                }
                if !matches!(self.peek(), None | Some(b'\n')) {
                    return Err(self.expected("the end of the line"));
                }
                self.pos = (self.pos + 1).min(self.body.len());
            }
            Dialect::OpenMetrics => {
                if self.peek() == Some(b' ') && !self.body[self.pos..].starts_with(b" # {") {
                    self.pos += 1;
                    tail.timestamp = Some(self.seconds("a timestamp")?);
                }
                if self.body[self.pos..].starts_with(b" # {") {
                    self.pos += 4;
                    tail.exemplar = Some(self.exemplar()?);
                }
                if !self.take(b'\n') {
                    return Err(self.expected("the end of the line"));
                }
            }
        }
        tail.next = self.pos;
        Ok(tail)
    }

    /// A word up to the next blank or the end of the line.
    fn word(&mut self) -> &'a [u8] {
        let rest = self.body.get(self.pos..).unwrap_or_default();
        let tabs = self.dialect == Dialect::Prometheus;
        let len =
            rest.iter().position(|&b| b == b' ' || b == b'\n' || (tabs && b == b'\t')).unwrap_or(rest.len());
        self.pos += len;
        &rest[..len]
    }

    fn number(&mut self, what: &str) -> Result<f64, Problem> {
        let start = self.pos;
        if let Some((value, end)) = short_decimal(self.body, start)
            && matches!(self.body.get(end), None | Some(b' ' | b'\n'))
        {
            self.pos = end;
            return Ok(value);
        }
        let word = self.word();
        parse_float(word).ok_or_else(|| LineReader { pos: start, ..*self }.expected(what))
    }

    /// A timestamp of the Prometheus text format: digits, milliseconds.
    fn milliseconds(&mut self) -> Result<i64, Problem> {
        let start = self.pos;
        let word = self.word();
        let digits = std::str::from_utf8(word).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        let parsed = digits.and_then(|digits| digits.parse().ok());
        parsed.ok_or_else(|| LineReader { pos: start, ..*self }.expected("a timestamp in milliseconds"))
    }

    /// A timestamp of OpenMetrics: seconds, as milliseconds cut off below.
    fn seconds(&mut self, what: &str) -> Result<i64, Problem> {
        let start = self.pos;
        let seconds = self.number(what)?;
        if !seconds.is_finite() {
            return Err(LineReader { pos: start, ..*self }.expected(what));
        }
        Ok((seconds * 1000.0) as i64)
    }

    /// An exemplar behind its `{`.
    fn exemplar(&mut self) -> Result<RawExemplar, Problem> {
        let start = self.pos;
        let mut raw = Vec::new();
        self.labels(&mut raw, None)?;
        if std::str::from_utf8(&self.body[start..self.pos]).is_err() {
            return Err(Problem::new(start, "the exemplar is not valid UTF-8"));
        }
        let labels = make_labels(self.body, start, None, &raw, MetricType::Unknown)?;
        if !self.take(b' ') {
            return Err(self.expected("a space and a value after the exemplar's labels"));
        }
        let value = self.number("the exemplar's value")?;
        let timestamp = if self.take(b' ') { Some(self.seconds("the exemplar's timestamp")?) } else { None };
        Ok(RawExemplar { labels, value, timestamp })
    }

    /// Reads a line that starts with `#`, up to its line break (which is left).
    pub(super) fn meta(&mut self) -> Result<MetaLine, Problem> {
        let start = self.pos;
        let end = self.line_end();
        self.pos += 1;
        let spaced = self.separator();
        let word_at = self.pos;
        let word = self.word();
        let kind = match word {
            b"HELP" => Some(MetaKind::Help),
            b"TYPE" => Some(MetaKind::Type),
            b"UNIT" if self.dialect == Dialect::OpenMetrics => Some(MetaKind::Unit),
            _ => None,
        };
        let kind = match (kind, self.dialect) {
            (Some(kind), _) if spaced && self.separator() => kind,
            (_, Dialect::Prometheus) => {
                self.pos = end;
                return Ok(MetaLine::Comment);
            }
            (_, Dialect::OpenMetrics) if spaced && word == b"EOF" && self.pos == end => {
                return Ok(MetaLine::Eof);
            }
            (_, Dialect::OpenMetrics) => {
                self.pos = word_at;
                return Err(self.expected("HELP, TYPE, UNIT or EOF after '# '"));
            }
        };
        let family = self.family_name(kind)?;
        // A name in quotes may have held line breaks.
        let end = self.line_end();
        let text = match (self.dialect, self.peek()) {
            (_, Some(b' ')) | (Dialect::Prometheus, Some(b'\t')) => self.pos + 1..end,
            (Dialect::Prometheus, None | Some(b'\n')) => end..end,
            _ => return Err(self.expected(&format!("a space and a text in {kind}"))),
        };
        self.pos = end;
        if std::str::from_utf8(&self.body[start..end]).is_err() {
            return Err(Problem::new(start, format!("{kind} is not valid UTF-8")));
        }
        if self.dialect == Dialect::OpenMetrics && end == self.body.len() {
            return Err(Problem::new(end, "expected \"# EOF\", got the end of the data"));
        }
        self.check_meta(kind, &family, &text)?;
        Ok(MetaLine::Meta { kind, family, text })
    }

    /// Where the next line break is, or the end.
    fn line_end(&self) -> usize {
        let rest = self.body.get(self.pos..).unwrap_or_default();
        memchr::memchr(b'\n', rest).map_or(self.body.len(), |at| self.pos + at)
    }

    fn family_name(&mut self, kind: MetaKind) -> Result<Range<usize>, Problem> {
        let start = self.pos;
        let what = format!("a metric name after {kind}");
        let family = if self.peek() == Some(b'"') { self.quoted(&what)? } else { self.bare_name(true) };
        if family.is_empty() {
            self.pos = start;
            return Err(self.expected(&what));
        }
        Ok(family)
    }

    fn check_meta(&self, kind: MetaKind, family: &Range<usize>, text: &Range<usize>) -> Result<(), Problem> {
        let shown = String::from_utf8_lossy(&self.body[text.clone()]);
        match kind {
            MetaKind::Help => Ok(()),
            MetaKind::Type => match metric_type(&shown, self.dialect) {
                Some(_) => Ok(()),
                None => Err(Problem::new(text.start, format!("invalid metric type {shown:?}"))),
            },
            MetaKind::Unit => {
                let name = String::from_utf8_lossy(&self.body[family.clone()]);
                let is_suffix = name.strip_suffix(&*shown).is_some_and(|rest| rest.ends_with('_'));
                if shown.is_empty() || is_suffix {
                    return Ok(());
                }
                Err(Problem::new(text.start, format!("unit {shown:?} is not a suffix of metric {name:?}")))
            }
        }
    }
}

/// The type a `TYPE` line names; `untyped` and `unknown` each belong to one dialect.
pub(super) fn metric_type(text: &str, dialect: Dialect) -> Option<MetricType> {
    match (dialect, text) {
        (Dialect::Prometheus, "counter" | "gauge" | "histogram" | "summary" | "untyped") => {
            MetricType::parse(text)
        }
        (Dialect::OpenMetrics, "untyped") | (Dialect::Prometheus, _) => None,
        (Dialect::OpenMetrics, _) => MetricType::parse(text),
    }
}

/// The text of a range, unescaped: `\\`, `\n` and (with `quotes`) `\"`; other backslashes stay.
///
/// The range must have been checked to be UTF-8; if it was not, replacement characters show.
pub(super) fn unescaped(body: &[u8], range: Range<usize>, quotes: bool) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(&body[range]);
    if memchr::memchr(b'\\', text.as_bytes()).is_none() {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let replaced = match (c, chars.peek()) {
            ('\\', Some('\\')) => '\\',
            ('\\', Some('"')) if quotes => '"',
            ('\\', Some('n')) => '\n',
            _ => {
                out.push(c);
                continue;
            }
        };
        out.push(replaced);
        chars.next();
    }
    Cow::Owned(out)
}

/// A number in `le` or `quantile` as OpenMetrics writes it, where that differs from `value`.
pub(super) fn normalised(value: &[u8]) -> Option<String> {
    let number = open_metrics_float(parse_float(value)?);
    (number.as_bytes() != value).then_some(number)
}

/// Builds the label set of a series that starts at `at`: sorted, `le` and `quantile` normalised,
/// duplicate names refused, empty values left out.
pub(super) fn make_labels(
    body: &[u8],
    at: usize,
    name: Option<&Range<usize>>,
    raw: &[(Range<usize>, Range<usize>)],
    metric_type: MetricType,
) -> Result<Labels, Problem> {
    let mut pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = Vec::with_capacity(raw.len() + 1);
    if let Some(name) = name {
        pairs.push((Cow::Borrowed(METRIC_NAME), unescaped(body, name.clone(), true)));
    }
    for (name, value) in raw {
        let name = unescaped(body, name.clone(), true);
        let mut value = unescaped(body, value.clone(), true);
        let is_number = match metric_type {
            MetricType::Histogram => name == BUCKET_LABEL,
            MetricType::Summary => name == QUANTILE_LABEL,
            _ => false,
        };
        if is_number && let Some(number) = normalised(value.as_bytes()) {
            value = Cow::Owned(number);
        }
        pairs.push((name, value));
    }
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(twice) = pairs.windows(2).find(|two| two[0].0 == two[1].0) {
        return Err(Problem::new(at, format!("label {:?} is given twice", twice[0].0)));
    }
    Ok(Labels::from_sorted(pairs.iter().filter(|(_, v)| !v.is_empty()).map(|(n, v)| (&**n, &**v))))
}
