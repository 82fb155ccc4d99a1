//! Durations as Prometheus writes them: `1h30m`, `15s`, `500ms`.
//!
//! Here a duration is a number of milliseconds in an `i64`. The grammar allows at most about 292
//! years, because Prometheus counts nanoseconds in 63 bits, and so do we when judging the range.
//!
//! Source: `prometheus/common`, `model/time.go`, `ParseDuration` and `Duration.String`.

use std::fmt::{self, Write as _};

use crate::labels::write_quoted;

/// Milliseconds in a second.
pub const SECOND_MS: i64 = 1_000;
/// Milliseconds in a minute.
pub const MINUTE_MS: i64 = 60 * SECOND_MS;
/// Milliseconds in an hour.
pub const HOUR_MS: i64 = 60 * MINUTE_MS;
/// Milliseconds in a day of 24 hours.
pub const DAY_MS: i64 = 24 * HOUR_MS;
/// Milliseconds in a week of 7 days.
pub const WEEK_MS: i64 = 7 * DAY_MS;
/// Milliseconds in a year of 365 days.
pub const YEAR_MS: i64 = 365 * DAY_MS;

/// Units from the largest to the smallest: the order in which they may appear.
const UNITS: [(&str, i64); 7] = [
    ("y", YEAR_MS),
    ("w", WEEK_MS),
    ("d", DAY_MS),
    ("h", HOUR_MS),
    ("m", MINUTE_MS),
    ("s", SECOND_MS),
    ("ms", 1),
];

/// The longest duration there is: 2^63 - 1 nanoseconds, in whole milliseconds.
const MAX_MS: i64 = i64::MAX / 1_000_000;

/// A text that is not a duration, in Prometheus' words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DurationError {
    /// There is no text at all.
    Empty,
    /// The text, which does not follow the grammar or has units out of order.
    Invalid(String),
    /// A unit that does not exist.
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
    /// Longer than 2^63 - 1 nanoseconds.
    OutOfRange,
}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DurationError::Empty => f.write_str("empty duration string"),
            DurationError::Invalid(text) => {
                f.write_str("not a valid duration string: ")?;
                write_quoted(f, text)
            }
            DurationError::UnknownUnit { unit, text } => {
                f.write_str("unknown unit ")?;
                write_quoted(f, unit)?;
                f.write_str(" in duration ")?;
                write_quoted(f, text)
            }
            DurationError::OutOfRange => f.write_str("duration out of range"),
        }
    }
}

impl std::error::Error for DurationError {}

/// Parses a duration: `0`, or numbers with units (`y w d h m s ms`) from large to small, each unit
/// at most once. Gives milliseconds, never negative.
///
/// # Errors
/// See [`DurationError`].
pub fn parse(text: &str) -> Result<i64, DurationError> {
    match text {
        "0" => return Ok(0),
        "" => return Err(DurationError::Empty),
        _ => {}
    }
    let invalid = || DurationError::Invalid(text.to_owned());
    let mut rest = text;
    let mut total_ms = 0i64;
    let mut next_unit = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let count: u64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit_len = rest.bytes().take_while(|b| !b.is_ascii_digit()).count();
        let (unit, after) = rest.split_at(unit_len);
        rest = after;
        if unit.is_empty() {
            return Err(invalid());
        }
        let Some(at) = UNITS.iter().position(|(name, _)| *name == unit) else {
            return Err(DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() });
        };
        if at < next_unit {
            return Err(invalid());
        }
        next_unit = at + 1;
        total_ms = i64::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(UNITS[at].1))
            .and_then(|ms| ms.checked_add(total_ms))
            .filter(|ms| *ms <= MAX_MS)
            .ok_or(DurationError::OutOfRange)?;
    }
    Ok(total_ms)
}

/// [`parse`], with an optional minus before it.
///
/// # Errors
/// See [`DurationError`].
pub fn parse_signed(text: &str) -> Result<i64, DurationError> {
    match text.strip_prefix('-') {
        Some(positive) => parse(positive).map(|ms| -ms),
        None => parse(text),
    }
}

/// Writes a duration of `ms` milliseconds the shortest way that keeps it readable: `1h30m`, `0s`,
/// `90d` (years and weeks appear only when they leave no remainder).
pub fn format(ms: i64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    if ms < 0 {
        out.push('-');
    }
    let mut rest = ms.unsigned_abs();
    for (unit, unit_ms) in UNITS {
        let unit_ms = unit_ms.unsigned_abs();
        let whole_only = matches!(unit, "y" | "w");
        if rest < unit_ms || (whole_only && !rest.is_multiple_of(unit_ms)) {
            continue;
        }
        let _ = write!(out, "{}{unit}", rest / unit_ms);
        rest %= unit_ms;
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_parse() {
        for (text, want) in [
            ("0", 0),
            ("0s", 0),
            ("15s", 15_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1d", DAY_MS),
            ("2w", 2 * WEEK_MS),
            ("1y", YEAR_MS),
            ("324ms", 324),
            ("3s1ms", 3_001),
            ("4d1h", 4 * DAY_MS + HOUR_MS),
            ("1y2w3d4h5m6s7ms", YEAR_MS + 2 * WEEK_MS + 3 * DAY_MS + 4 * HOUR_MS + 5 * MINUTE_MS + 6_007),
            ("292y", 292 * YEAR_MS),
        ] {
            assert_eq!(parse(text), Ok(want), "{text}");
        }
        assert_eq!(parse_signed("-5m"), Ok(-300_000));
        assert_eq!(parse_signed("5m"), Ok(300_000));
    }

    #[test]
    fn bad_durations_say_why() {
        for (text, want) in [
            ("", "empty duration string"),
            ("1", r#"not a valid duration string: "1""#),
            ("x", r#"not a valid duration string: "x""#),
            ("-1w", r#"not a valid duration string: "-1w""#),
            ("1m1h", r#"not a valid duration string: "1m1h""#),
            ("1m1m", r#"not a valid duration string: "1m1m""#),
            ("1m30", r#"not a valid duration string: "1m30""#),
            (" 5m ", r#"not a valid duration string: " 5m ""#),
            ("1.5d", r#"unknown unit "." in duration "1.5d""#),
            ("1us", r#"unknown unit "us" in duration "1us""#),
            ("5ü", r#"unknown unit "ü" in duration "5ü""#),
            ("99999999999999999999s", r#"not a valid duration string: "99999999999999999999s""#),
            ("294y", "duration out of range"),
            ("200y10400w", "duration out of range"),
            ("18446744073709551615ms", "duration out of range"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), want, "{text}");
        }
    }

    #[test]
    fn durations_print() {
        for (ms, want) in [
            (0, "0s"),
            (1, "1ms"),
            (15_000, "15s"),
            (5_400_000, "1h30m"),
            (WEEK_MS, "1w"),
            (WEEK_MS + DAY_MS, "8d"),
            (90 * DAY_MS, "90d"),
            (YEAR_MS, "1y"),
            (-300_000, "-5m"),
            (DAY_MS + 1, "1d1ms"),
        ] {
            assert_eq!(format(ms), want);
        }
        assert!(format(i64::MIN).starts_with('-'));
    }

    proptest! {
        #[test]
        fn printed_durations_parse_back(ms in 0..=MAX_MS) {
            prop_assert_eq!(parse(&format(ms)), Ok(ms));
        }

        #[test]
        fn no_text_panics(text in "[0-9ywdhms.ü-]{0,12}") {
            let _ = parse_signed(&text);
        }
    }
}
