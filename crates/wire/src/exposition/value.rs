//! Numbers as Go writes and reads them.

/// Powers of ten that a double holds exactly.
const POWERS_OF_TEN: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// The NaN that Prometheus stores for any NaN in an exposition.
///
/// Source: Prometheus `model/value`, `NormalNaN`.
const NORMAL_NAN_BITS: u64 = 0x7ff8_0000_0000_0001;

/// Reads a decimal number that starts at `at` when that is cheap and exact: at most 2^53 as digits
/// and a power of ten within 22, so that one multiplication or division rounds correctly. Gives
/// the value and the position behind it; the caller looks whether the number ends there.
#[inline]
pub(super) fn short_decimal(body: &[u8], at: usize) -> Option<(f64, usize)> {
    let mut pos = at;
    let negative = match body.get(pos)? {
        b'-' => {
            pos += 1;
            true
        }
        _ => false,
    };
    let first = pos;
    let mut mantissa: u64 = 0;
    let mut point = None;
    while let Some(&byte) = body.get(pos) {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
        } else if byte == b'.' && point.is_none() {
            point = Some(pos);
        } else {
            break;
        }
        pos += 1;
    }
    let digits = pos - first - usize::from(point.is_some());
    // 19 digits cannot overflow a u64.
    if digits == 0 || digits > 19 || mantissa > 1 << 53 {
        return None;
    }
    let mut power = point.map_or(0, |point| -((pos - point - 1) as i32));
    if matches!(body.get(pos), Some(b'e' | b'E')) {
        let (exponent, after) = short_exponent(body, pos + 1)?;
        power += exponent;
        pos = after;
    }
    let scale = *POWERS_OF_TEN.get(power.unsigned_abs() as usize)?;
    let value = if power < 0 { mantissa as f64 / scale } else { mantissa as f64 * scale };
    Some((if negative { -value } else { value }, pos))
}

/// An exponent of at most three digits, and the position behind it.
#[inline]
fn short_exponent(body: &[u8], at: usize) -> Option<(i32, usize)> {
    let mut pos = at;
    let negative = match body.get(pos)? {
        b'-' => {
            pos += 1;
            true
        }
        b'+' => {
            pos += 1;
            false
        }
        _ => false,
    };
    let first = pos;
    let mut exponent = 0;
    while let Some(byte) = body.get(pos).filter(|b| b.is_ascii_digit()) {
        if pos - first == 3 {
            return None;
        }
        exponent = exponent * 10 + i32::from(byte - b'0');
        pos += 1;
    }
    (pos > first).then_some((if negative { -exponent } else { exponent }, pos))
}

/// Reads a whole token as Go's `strconv.ParseFloat` does, without the hexadecimal and underscore
/// forms: decimals, `Inf` and `Infinity` with or without sign, `NaN`, in any case. Every NaN is
/// the one Prometheus stores.
///
/// `None` for anything else, and for decimals beyond the range of a double.
pub fn parse_float(token: &[u8]) -> Option<f64> {
    let (negative, unsigned) = match token {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, token),
    };
    if unsigned.eq_ignore_ascii_case(b"inf") || unsigned.eq_ignore_ascii_case(b"infinity") {
        return Some(if negative { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    if token.eq_ignore_ascii_case(b"nan") {
        return Some(f64::from_bits(NORMAL_NAN_BITS));
    }
    if !is_decimal(unsigned) {
        return None;
    }
    let value: f64 = fast_float2::parse(unsigned).ok()?;
    value.is_finite().then_some(if negative { -value } else { value })
}

/// `digits[.digits][e[+-]digits]` with a digit before or after the point.
fn is_decimal(unsigned: &[u8]) -> bool {
    let digits_at = |from: usize| unsigned[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let whole = digits_at(0);
    let mut pos = whole;
    let mut fraction = 0;
    if unsigned.get(pos) == Some(&b'.') {
        fraction = digits_at(pos + 1);
        pos += 1 + fraction;
    }
    if whole + fraction == 0 {
        return false;
    }
    if matches!(unsigned.get(pos), Some(b'e' | b'E')) {
        pos += 1;
        if matches!(unsigned.get(pos), Some(b'+' | b'-')) {
            pos += 1;
        }
        let exponent = digits_at(pos);
        if exponent == 0 {
            return false;
        }
        pos += exponent;
    }
    pos == unsigned.len()
}

/// Writes `value` as Go's `strconv.FormatFloat(value, 'g', -1, 64)`: the shortest digits that read
/// back the same, an exponent below 1e-4 and from 1e6 on (`1e+06`), `+Inf`, `NaN`.
pub fn write_float(out: &mut String, value: f64) {
    if value.is_nan() {
        return out.push_str("NaN");
    }
    if value.is_infinite() {
        return out.push_str(if value < 0.0 { "-Inf" } else { "+Inf" });
    }
    if value.is_sign_negative() {
        out.push('-');
    }
    // Rust's `{:e}` has the same shortest digits: `d.ddde<exponent>`.
    let text = format!("{:e}", value.abs());
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        out.push_str(&plain(digits, exponent));
    } else {
        out.push_str(digits);
        out.push('e');
        out.push(if exponent < 0 { '-' } else { '+' });
        out.push_str(&format!("{:02}", exponent.abs()));
    }
}

/// `digits` (`d.ddd`) times ten to the `exponent`, without exponent.
fn plain(digits: &str, exponent: i32) -> String {
    let bare: String = digits.chars().filter(|c| *c != '.').collect();
    let point = exponent + 1;
    if point <= 0 {
        return format!("0.{}{bare}", "0".repeat(point.unsigned_abs() as usize));
    }
    let point = point as usize;
    if bare.len() <= point {
        return format!("{bare}{}", "0".repeat(point - bare.len()));
    }
    format!("{}.{}", &bare[..point], &bare[point..])
}

/// A number as OpenMetrics wants it in `le` and `quantile`: as [`write_float`], and `.0` behind a
/// whole number.
///
/// Source: Prometheus `labels.FormatOpenMetricsFloat`.
pub(super) fn open_metrics_float(value: f64) -> String {
    if value == 0.0 {
        return "0.0".to_owned(); // also for -0
    }
    let mut text = String::new();
    write_float(&mut text, value);
    if value.is_finite() && !text.contains(['.', 'e']) {
        text.push_str(".0");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_read_as_go_reads_them() {
        let check = |text: &str, expected: Option<f64>| {
            let read = parse_float(text.as_bytes());
            assert_eq!(read.map(f64::to_bits), expected.map(f64::to_bits), "{text}");
            if let Some((value, end)) =
                short_decimal(text.as_bytes(), 0).filter(|(_, end)| *end == text.len())
            {
                assert_eq!(Some(value.to_bits()), expected.map(f64::to_bits), "short {text} ends at {end}");
            }
        };
        check("1", Some(1.0));
        check("-0", Some(-0.0));
        check("+3.5", Some(3.5));
        check(".5", Some(0.5));
        check("5.", Some(5.0));
        check("1.7e+09", Some(1.7e9));
        check("1e-05", Some(1e-5));
        check("0.1", Some(0.1));
        check("123456789012345678", Some(123456789012345680.0));
        check("9007199254740993", Some(9007199254740992.0));
        check("1.7976931348623157e+308", Some(f64::MAX));
        check("1e-400", Some(0.0));
        check("1e400", None);
        check("+Inf", Some(f64::INFINITY));
        check("inf", Some(f64::INFINITY));
        check("-INFINITY", Some(f64::NEG_INFINITY));
        check("NaN", Some(f64::from_bits(NORMAL_NAN_BITS)));
        for bad in ["", "-", ".", "+NaN", "1_000", "0x1p4", "1e", "1e+", "--1", "1.2.3", "1 ", "infinit", "١"]
        {
            check(bad, None);
        }
    }

    #[test]
    fn floats_are_written_as_go_writes_them() {
        let check = |value: f64, g: &str, om: &str| {
            let mut text = String::new();
            write_float(&mut text, value);
            assert_eq!(text, g);
            assert_eq!(open_metrics_float(value), om);
        };
        check(0.0, "0", "0.0");
        check(-0.0, "-0", "0.0");
        check(1.0, "1", "1.0");
        check(2.5, "2.5", "2.5");
        check(100_000.0, "100000", "100000.0");
        check(1_000_000.0, "1e+06", "1e+06");
        check(1_234_567.0, "1.234567e+06", "1.234567e+06");
        check(0.0001, "0.0001", "0.0001");
        check(0.00001, "1e-05", "1e-05");
        check(1.5e300, "1.5e+300", "1.5e+300");
        check(f64::INFINITY, "+Inf", "+Inf");
        check(f64::NAN, "NaN", "NaN");
    }

    proptest::proptest! {
        #[test]
        fn short_decimals_are_exact(text in "-?[0-9]{0,20}(\\.[0-9]{0,12})?([eE][+-]?[0-9]{1,3})?") {
            if let Some((value, end)) = short_decimal(text.as_bytes(), 0)
                && end == text.len()
            {
                proptest::prop_assert_eq!(Some(value.to_bits()), parse_float(text.as_bytes()).map(f64::to_bits));
            }
        }

        #[test]
        fn written_floats_read_back(bits in proptest::num::u64::ANY) {
            let value = f64::from_bits(bits);
            let mut text = String::new();
            write_float(&mut text, value);
            let read = parse_float(text.as_bytes());
            proptest::prop_assert!(value.is_nan() || read.map(f64::to_bits) == Some(bits), "{} {:?}", text, read);
        }
    }
}
