//! Test scripts: data, queries and what they must give, in the language of Prometheus' own tests.
//!
//! ```text
//! load 1m
//!   requests{path="/"} 0+10x5
//!
//! eval instant at 5m rate(requests[5m])
//!   expect no_warn
//!   {path="/"} 0.16666666666666666
//! ```
//!
//! [`Script::parse`] reads one, [`run::run`] executes it on any store.
//!
//! Source: Prometheus `promql/promqltest/README.md`.

pub mod compare;
pub mod nhcb;
pub mod run;

use model::{Labels, duration};

use crate::parser::literal;
use crate::series::{SequenceValue, StartTimestamps, parse_series, parse_start_timestamps};

/// A parsed script.
#[derive(Debug, Clone)]
pub struct Script {
    /// What to do, in order.
    pub commands: Vec<Command>,
}

/// One command.
#[derive(Debug, Clone)]
pub enum Command {
    /// Forget all data.
    Clear,
    /// Add data.
    Load(Load),
    /// Ask and compare.
    Eval(Box<Eval>),
}

/// `load` with its series.
#[derive(Debug, Clone)]
pub struct Load {
    /// Time between values, milliseconds; the first is at 0.
    pub interval_ms: i64,
    /// `load_with_nhcb`: classic histograms are added as native ones too.
    pub with_nhcb: bool,
    /// The series.
    pub series: Vec<LoadSeries>,
}

/// One series of a `load`.
#[derive(Debug, Clone)]
pub struct LoadSeries {
    /// The series.
    pub labels: Labels,
    /// Its values.
    pub values: Vec<SequenceValue>,
    /// Start timestamps, milliseconds relative to the values' times; empty or as many as values.
    pub starts: Vec<Option<i64>>,
}

/// When a query is asked, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// `eval instant at`
    Instant {
        /// The time.
        at_ms: i64,
    },
    /// `eval range from ... to ... step`
    Range(Steps),
}

/// Evenly spaced times, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// First.
    pub start_ms: i64,
    /// Last that may be.
    pub end_ms: i64,
    /// Distance.
    pub step_ms: i64,
}

/// `eval` with its expectations.
#[derive(Debug, Clone)]
pub struct Eval {
    /// Line of the command, from 1.
    pub line: usize,
    /// The query.
    pub query: String,
    /// When it is asked.
    pub when: When,
    /// What it must give.
    pub expected: Expected,
}

/// What a query must give.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Fail, with a text if one is given.
    pub fail: Option<Text>,
    /// Series in the order written.
    pub ordered: bool,
    /// Each of these, and no other, when there are any.
    pub warnings: Vec<Text>,
    /// Each of these, and no other, when there are any.
    pub infos: Vec<Text>,
    /// No warnings.
    pub no_warnings: bool,
    /// No infos.
    pub no_infos: bool,
    /// `expect range vector`: an instant query gives samples at these times.
    pub range_vector: Option<Steps>,
    /// `expect string`
    pub string: Option<String>,
    /// A number alone on its line.
    pub scalar: Option<f64>,
    /// Series with a value for each step.
    pub series: Vec<(Labels, Vec<SequenceValue>)>,
}

/// How a message must read.
#[derive(Debug, Clone)]
pub enum Text {
    /// In any way.
    Any,
    /// Exactly so.
    Exact(String),
    /// Somewhere like so.
    Pattern(re2::Regex, String),
}

impl Text {
    /// Whether `message` reads so.
    pub fn matches(&self, message: &str) -> bool {
        match self {
            Text::Any => true,
            Text::Exact(text) => text == message,
            Text::Pattern(regex, _) => regex.is_match(message),
        }
    }

    /// Whether an annotation reads so, with its position (`(1:5)` at its end) or without: scripts up to
    /// Prometheus 3.14 leave the position out, later ones write it.
    pub fn matches_annotation(&self, annotation: &str) -> bool {
        self.matches(annotation) || self.matches(without_position(annotation))
    }
}

/// An annotation without its position and the details that only come with one.
fn without_position(annotation: &str) -> &str {
    let Some((text, position)) = annotation.strip_suffix(')').and_then(|a| a.rsplit_once(" (")) else {
        return annotation;
    };
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match position.split_once(':') {
        Some((line, column)) if number(line) && number(column) => {
            let text = text.find(", from buckets ").map_or(text, |details| &text[..details]);
            match text.strip_suffix(" occurrences)").and_then(|t| t.rsplit_once(" (")) {
                Some((once, _)) => once,
                None => text,
            }
        }
        _ => annotation,
    }
}

/// A script that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ScriptError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl Script {
    /// Reads a script. Queries are not parsed: one that is no PromQL fails when it is asked.
    ///
    /// # Errors
    /// [`ScriptError`] for the first line that is neither command nor part of one.
    pub fn parse(text: &str) -> Result<Script, ScriptError> {
        let mut lines = Lines::new(text);
        let mut commands = Vec::new();
        while let Some(line) = lines.next() {
            if line.is_empty() {
                continue;
            }
            let (word, rest) = split_word(line);
            let number = lines.number;
            let command = match word.to_ascii_lowercase().as_str() {
                "clear" => Ok(Command::Clear),
                "load" => lines.load(rest, false).map(Command::Load),
                "load_with_nhcb" => lines.load(rest, true).map(Command::Load),
                word => match word.strip_prefix("eval") {
                    Some(kind) => lines.eval(kind, rest).map(|eval| Command::Eval(Box::new(eval))),
                    None => Err(format!("invalid command {line:?}")),
                },
            };
            let at = lines.number.max(number);
            commands.push(command.map_err(|message| ScriptError { line: at, message })?);
        }
        Ok(Script { commands })
    }

    /// The evaluations.
    pub fn evals(&self) -> impl Iterator<Item = &Eval> {
        self.commands.iter().filter_map(|command| match command {
            Command::Eval(eval) => Some(eval.as_ref()),
            _ => None,
        })
    }
}

fn split_word(line: &str) -> (&str, &str) {
    match line.split_once([' ', '\t']) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (line, ""),
    }
}

/// `text` must start with `word`; gives the next word and what follows.
fn word_after<'a>(text: &'a str, word: &str) -> Result<(&'a str, &'a str), String> {
    match split_word(text) {
        (found, rest) if found == word => Ok(split_word(rest)),
        (found, _) => Err(format!("expected {word:?}, got {found:?}")),
    }
}

fn time(text: &str) -> Result<i64, String> {
    duration::parse(text).map_err(|error| format!("invalid time {text:?}: {error}"))
}

/// `from 0 to 1m step 10s`, and what follows.
fn steps(text: &str) -> Result<(Steps, &str), String> {
    let (start, rest) = word_after(text, "from")?;
    let (end, rest) = word_after(rest, "to")?;
    let (step, rest) = word_after(rest, "step")?;
    let steps = Steps { start_ms: time(start)?, end_ms: time(end)?, step_ms: time(step)? };
    if steps.end_ms < steps.start_ms {
        return Err(format!("the end {end} is before the start {start}"));
    }
    Ok((steps, rest))
}

/// The lines of a script, trimmed; comments read as empty.
struct Lines<'a> {
    lines: std::iter::Peekable<std::str::Lines<'a>>,
    /// Of the line last given, from 1.
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Lines<'a> {
        Lines { lines: text.lines().peekable(), number: 0 }
    }

    fn next(&mut self) -> Option<&'a str> {
        self.number += 1;
        let line = self.lines.next()?.trim();
        Some(if line.starts_with('#') { "" } else { line })
    }

    /// The next line of a command; an empty one ends it.
    fn detail(&mut self) -> Option<&'a str> {
        let next = self.lines.peek()?.trim();
        if next.is_empty() || next.starts_with('#') { None } else { self.next() }
    }

    fn load(&mut self, interval: &str, with_nhcb: bool) -> Result<Load, String> {
        let mut load = Load { interval_ms: time(interval)?, with_nhcb, series: Vec::new() };
        let mut pending: Option<StartTimestamps> = None;
        while let Some(line) = self.detail() {
            if pending.is_none() {
                pending = parse_start_timestamps(line)?;
                if pending.is_some() {
                    continue;
                }
            }
            let series = parse_series(line)?;
            let starts = match pending.take() {
                Some(starts) if starts.labels != series.labels => {
                    return Err("@st metric does not match the following sample line metric".to_owned());
                }
                Some(starts) if starts.offsets_ms.len() != series.values.len() => {
                    let (starts, values) = (starts.offsets_ms.len(), series.values.len());
                    return Err(format!("@st line has {starts} values but sample line has {values}"));
                }
                starts => starts.map(|starts| starts.offsets_ms).unwrap_or_default(),
            };
            load.series.push(LoadSeries { labels: series.labels, values: series.values, starts });
        }
        match pending {
            Some(_) => Err("@st line has no following sample line".to_owned()),
            None => Ok(load),
        }
    }

    /// `kind` is what stands behind `eval` in the command: `_fail`, `_warn`, ... or nothing.
    fn eval(&mut self, kind: &str, rest: &str) -> Result<Eval, String> {
        let line = self.number;
        let mut expected = Expected::default();
        match kind {
            "" => {}
            "_fail" => expected.fail = Some(Text::Any),
            "_ordered" => expected.ordered = true,
            "_warn" => expected.warnings.push(Text::Any),
            "_info" => expected.infos.push(Text::Any),
            _ => return Err(format!("invalid command \"eval{kind}\"")),
        }
        let (when, query) = match split_word(rest) {
            ("instant", rest) => {
                let (at, query) = word_after(rest, "at")?;
                (When::Instant { at_ms: time(at)? }, query)
            }
            ("range", rest) => {
                let (steps, query) = steps(rest)?;
                (When::Range(steps), query)
            }
            (other, _) => return Err(format!("expected \"instant\" or \"range\", got {other:?}")),
        };
        while let Some(line) = self.detail() {
            expected.add(line)?;
        }
        let single = matches!(when, When::Instant { .. }) && expected.range_vector.is_none();
        if single && expected.series.iter().any(|(_, values)| values.len() > 1) {
            return Err("several values for an instant query, without \"expect range vector\"".to_owned());
        }
        Ok(Eval { line, query: query.to_owned(), when, expected })
    }
}

impl Expected {
    /// Adds what a line below `eval` says.
    fn add(&mut self, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("expect ") {
            return self.add_expect(rest.trim());
        }
        if let Some(message) = line.strip_prefix("expected_fail_message") {
            self.fail = Some(Text::Exact(message.trim().to_owned()));
            return Ok(());
        }
        if let Some(pattern) = line.strip_prefix("expected_fail_regexp") {
            self.fail = Some(pattern_text(pattern.trim())?);
            return Ok(());
        }
        let (negative, number) = match line.strip_prefix('-') {
            Some(number) => (true, number),
            None => (false, line.strip_prefix('+').unwrap_or(line)),
        };
        if let Ok(value) = literal::number(number) {
            self.scalar = Some(if negative { -value } else { value });
            return Ok(());
        }
        let series = parse_series(line)?;
        if series.values.is_empty() {
            return Err(format!("a series without values: {line:?}"));
        }
        self.series.retain(|(labels, _)| *labels != series.labels);
        self.series.push((series.labels, series.values));
        Ok(())
    }

    fn add_expect(&mut self, rest: &str) -> Result<(), String> {
        if let Some(range) = rest.strip_prefix("range vector") {
            self.range_vector = Some(steps(range.trim_start())?.0);
            return Ok(());
        }
        if let Some(text) = rest.strip_prefix("string") {
            let quoted = text.trim();
            if quoted.len() < 2 || !quoted.starts_with(['"', '`']) {
                return Err("expected a quoted string".to_owned());
            }
            self.string = Some(literal::unquote(quoted)?);
            return Ok(());
        }
        let (what, how) = split_word(rest);
        let text = match how {
            "" => Text::Any,
            how => match how.split_once(':') {
                Some(("msg", message)) => Text::Exact(message.trim().to_owned()),
                Some(("regex", pattern)) => pattern_text(pattern.trim())?,
                _ => return Err(format!("invalid expectation {rest:?}")),
            },
        };
        match what {
            "fail" => self.fail = Some(text),
            "ordered" => self.ordered = true,
            "warn" => self.warnings.push(text),
            "info" => self.infos.push(text),
            "no_warn" => self.no_warnings = true,
            "no_info" => self.no_infos = true,
            _ => return Err(format!("invalid expectation {rest:?}")),
        }
        if (self.no_warnings && !self.warnings.is_empty()) || (self.no_infos && !self.infos.is_empty()) {
            return Err("the same annotations are both expected and excluded".to_owned());
        }
        Ok(())
    }
}

/// Upstream's patterns may match anywhere in a message; ours are anchored.
fn pattern_text(pattern: &str) -> Result<Text, String> {
    let regex = re2::Regex::anchored(&format!(".*(?:{pattern}).*")).map_err(|error| error.to_string())?;
    Ok(Text::Pattern(regex, pattern.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_whole() {
        let script = Script::parse(
            "# comment\nload 1m\n  m{a=\"b\"}@st -1m _\n  m{a=\"b\"} 1 2\n\nclear\n\
             eval instant at 5m sum by (a) (m)\n  expect ordered\n  expect warn msg: oh\n  {a=\"b\"} 1\n\n\
             eval range from 0 to 1m step 30s m\n{} 2 2 2\n\neval_fail instant at 0 x\n",
        )
        .expect("script");
        let [Command::Load(load), Command::Clear, Command::Eval(first), ..] = &script.commands[..] else {
            panic!("{script:?}");
        };
        assert_eq!((load.interval_ms, load.series[0].starts.len()), (60_000, 2));
        assert_eq!((first.line, first.query.as_str()), (7, "sum by (a) (m)"));
        assert!(first.expected.ordered && first.expected.warnings[0].matches("oh"));
        assert_eq!(script.evals().count(), 3);
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, expected) in [
            ("\nlod 1m", "line 2: invalid command \"lod 1m\""),
            ("load x", "line 1: invalid time \"x\": not a valid duration string: \"x\""),
            (
                "eval instant at 1m m\n  {} 1 2",
                "line 2: several values for an instant query, without \"expect range vector\"",
            ),
            ("eval instant at 1m m\n  expect wrong", "line 2: invalid expectation \"wrong\""),
            ("load 1m\n  m@st 1m", "line 2: @st line has no following sample line"),
            ("eval range from 5m to 1m step 1m m", "line 1: the end 1m is before the start 5m"),
        ] {
            assert_eq!(Script::parse(text).expect_err(text).to_string(), expected);
        }
    }
}
