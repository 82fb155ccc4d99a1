//! What a receiver's answer means.
//!
//! Source: remote write 1.0, "Retries & Backoff"; remote write 2.0, "Response", "Partial write",
//! "Required written response headers"; RFC 9110 for `Retry-After`.

use std::time::Duration;

use super::config::Protocol;

/// Longest wait that a receiver may ask for: a mistyped date should not stop sending for a year.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// How long `Retry-After` asks to wait.
    pub retry_after: Option<Duration>,
    /// What the receiver says that it has written (2.0).
    pub written: Option<Written>,
    /// The beginning of the body, as text.
    pub text: String,
}

/// The headers `X-Prometheus-Remote-Write-{Samples,Histograms,Exemplars}-Written`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Float samples.
    pub samples: u64,
    /// Histograms.
    pub histograms: u64,
    /// Exemplars.
    pub exemplars: u64,
}

impl Answer {
    /// An answer from its status, headers (`name` is asked for in lower case) and the beginning of its body;
    /// `now_ms`, milliseconds since the epoch, is for a `Retry-After` that gives a date.
    pub fn new<'h>(
        status: u16,
        header: impl Fn(&'static str) -> Option<&'h str>,
        body: &[u8],
        now_ms: i64,
    ) -> Answer {
        let number = |name| header(name).and_then(|text: &str| text.trim().parse().ok());
        let samples = number("x-prometheus-remote-write-samples-written");
        let histograms = number("x-prometheus-remote-write-histograms-written");
        let exemplars = number("x-prometheus-remote-write-exemplars-written");
        let written = [samples, histograms, exemplars].iter().any(Option::is_some).then(|| Written {
            samples: samples.unwrap_or(0),
            histograms: histograms.unwrap_or(0),
            exemplars: exemplars.unwrap_or(0),
        });
        let retry_after = header("retry-after").and_then(|text| retry_after(text.trim(), now_ms));
        let line = String::from_utf8_lossy(&body[..body.len().min(1024)]);
        let text = line.trim().replace(['\n', '\r'], " ");
        Answer { status, retry_after, written, text }
    }
}

fn retry_after(text: &str, now_ms: i64) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until_ms = http_date_ms(text)?;
    u64::try_from(until_ms - now_ms).ok().map(Duration::from_millis)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as milliseconds since the epoch.
fn http_date_ms(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let number = |words: &mut dyn Iterator<Item = &str>| words.next()?.parse::<i64>().ok();
    let day = number(&mut words)?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as i64 + 1;
    let year = number(&mut words).filter(|year| (1970..10_000).contains(year))?;
    let mut time = words.next()?.split(':');
    let (hour, minute, second) = (number(&mut time)?, number(&mut time)?, number(&mut time)?);
    // Days from the civil calendar, years beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some((days * 86_400 + hour * 3600 + minute * 60 + second) * 1000)
}

/// What to do about an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All of it is stored.
    Taken,
    /// What [`Answer::written`] says is stored, and the rest never will be.
    Partly,
    /// The receiver does not speak this message: send the same as 1.0.
    OlderMessage,
    /// Send the same again later, and not before so long.
    Retry(Option<Duration>),
    /// As [`Verdict::Retry`], and somebody should look at the configuration.
    Misconfigured,
    /// Too large: send it in parts.
    TooLarge,
    /// Something in it will never be taken: find out what.
    Refused,
    /// Give it up whole.
    Drop,
}

/// What is known when an answer is judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) protocol: Protocol,
    /// Whether the receiver has shown before that it speaks 2.0.
    pub(super) speaks_v2: bool,
    /// Samples and histograms in the request.
    pub(super) points: usize,
    pub(super) retry_on_http_429: bool,
}

pub(super) fn judge(answer: &Answer, sent: Sent) -> Verdict {
    let retry = || Verdict::Retry(answer.retry_after.map(|after| after.min(RETRY_AFTER_MAX)));
    let is_v2 = sent.protocol == Protocol::V2;
    match answer.status {
        200..=299 => match answer.written {
            _ if !is_v2 || sent.points == 0 => Verdict::Taken,
            // A receiver of 1.0 finds no series in a message of 2.0, and says that all is well.
            None => Verdict::OlderMessage,
            Some(written) if (written.samples + written.histograms) as usize >= sent.points => Verdict::Taken,
            Some(_) => Verdict::Partly,
        },
        415 if is_v2 => Verdict::OlderMessage,
        400 | 406 | 422 if is_v2 && answer.written.is_none() && !sent.speaks_v2 => Verdict::OlderMessage,
        413 => Verdict::TooLarge,
        429 if !sent.retry_on_http_429 => Verdict::Drop,
        408 | 425 | 429 | 500..=599 => retry(),
        // Nothing is wrong with the samples: whoever runs the receiver, or wrote our configuration, can help.
        300..=399 | 401 | 403 | 404 | 405 | 407 | 410 | 415 | 421 => Verdict::Misconfigured,
        400..=499 => match answer.written {
            Some(_) if is_v2 => Verdict::Partly,
            _ => Verdict::Refused,
        },
        _ => retry(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)]) -> Answer {
        let header = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
        Answer::new(status, header, b"line\nline\n", 784_111_777_000 - 5000)
    }

    #[test]
    fn each_status_has_its_consequence() {
        let written = ("x-prometheus-remote-write-samples-written", "3");
        let check = |status: u16, headers: &[(&str, &str)], v1: Verdict, v2: Verdict, v2_known: Verdict| {
            let sent = Sent { protocol: Protocol::V1, speaks_v2: false, points: 4, retry_on_http_429: true };
            let answer = answer(status, headers);
            assert_eq!(judge(&answer, sent), v1, "{status} for 1.0");
            let sent = Sent { protocol: Protocol::V2, ..sent };
            assert_eq!(judge(&answer, sent), v2, "{status} for 2.0");
            let sent = Sent { speaks_v2: true, ..sent };
            assert_eq!(judge(&answer, sent), v2_known, "{status} for 2.0, which it speaks");
        };
        use Verdict::{Misconfigured, OlderMessage, Partly, Refused, Retry, Taken, TooLarge};
        check(204, &[], Taken, OlderMessage, OlderMessage);
        check(204, &[written], Taken, Partly, Partly);
        check(200, &[("x-prometheus-remote-write-samples-written", "4")], Taken, Taken, Taken);
        check(200, &[("x-prometheus-remote-write-histograms-written", "4")], Taken, Taken, Taken);
        check(400, &[], Refused, OlderMessage, Refused);
        check(400, &[written], Refused, Partly, Partly);
        check(415, &[], Misconfigured, OlderMessage, OlderMessage);
        check(413, &[], TooLarge, TooLarge, TooLarge);
        for status in [401, 403, 404, 301] {
            check(status, &[], Misconfigured, Misconfigured, Misconfigured);
        }
        for status in [429, 500, 503, 599, 408] {
            check(status, &[], Retry(None), Retry(None), Retry(None));
            let after = Retry(Some(Duration::from_secs(7)));
            check(status, &[("retry-after", " 7 ")], after.clone(), after.clone(), after);
        }
        let date = [("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")];
        let after = Retry(Some(Duration::from_secs(5)));
        check(503, &date, after.clone(), after.clone(), after);
        let year = [("retry-after", "31536000")];
        let capped = Retry(Some(RETRY_AFTER_MAX));
        check(503, &year, capped.clone(), capped.clone(), capped);
        for odd in ["soon", "-1", "Sun, 06 Nov", "Sun, 99 Foo 1994 aa:bb:cc GMT", ""] {
            check(503, &[("retry-after", odd)], Retry(None), Retry(None), Retry(None));
        }
    }

    #[test]
    fn a_429_may_be_given_up() {
        let sent = Sent { protocol: Protocol::V1, speaks_v2: false, points: 1, retry_on_http_429: false };
        assert_eq!(judge(&answer(429, &[]), sent), Verdict::Drop);
        assert_eq!(answer(400, &[]).text, "line line");
    }
}
