//! `marigraph check metrics`: whether an exposition can be read, and whether its metrics are named and
//! described as people expect.
//!
//! Each family is judged by [`problems`]; a family is what `# TYPE` names, or a metric without one.
//!
//! Source: <https://prometheus.io/docs/practices/naming/>; Prometheus `client_golang`,
//! `prometheus/testutil/promlint` (which rules there are; the words are ours).

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use model::{Labels, MetricType};
use wire::exposition::{CreatedLines, Protocol, RowMemory, ScrapedRow};

use crate::verbs::terminal::print;

/// Most bytes of an exposition.
const BYTES_MAX: u64 = 1 << 30;
/// Units and the base units that stand for them.
const UNITS: [(&str, &str); 31] = [
    ("nanoseconds", "seconds"),
    ("microseconds", "seconds"),
    ("milliseconds", "seconds"),
    ("minutes", "seconds"),
    ("hours", "seconds"),
    ("days", "seconds"),
    ("weeks", "seconds"),
    ("kilobytes", "bytes"),
    ("megabytes", "bytes"),
    ("gigabytes", "bytes"),
    ("terabytes", "bytes"),
    ("kibibytes", "bytes"),
    ("mebibytes", "bytes"),
    ("gibibytes", "bytes"),
    ("bits", "bytes"),
    ("kilometers", "meters"),
    ("centimeters", "meters"),
    ("millimeters", "meters"),
    ("micrometers", "meters"),
    ("miles", "meters"),
    ("kilograms", "grams"),
    ("milligrams", "grams"),
    ("micrograms", "grams"),
    ("kilojoules", "joules"),
    ("millijoules", "joules"),
    ("millivolts", "volts"),
    ("kilovolts", "volts"),
    ("milliamperes", "amperes"),
    ("fahrenheit", "celsius"),
    ("percent", "ratio"),
    ("percents", "ratio"),
];
/// Short forms of units.
const ABBREVIATIONS: [(&str, &str); 16] = [
    ("s", "seconds"),
    ("sec", "seconds"),
    ("secs", "seconds"),
    ("ms", "seconds"),
    ("us", "seconds"),
    ("ns", "seconds"),
    ("b", "bytes"),
    ("kb", "bytes"),
    ("mb", "bytes"),
    ("gb", "bytes"),
    ("tb", "bytes"),
    ("kib", "bytes"),
    ("mib", "bytes"),
    ("gib", "bytes"),
    ("m", "meters"),
    ("h", "seconds"),
];
/// Words that name a type.
const TYPE_WORDS: [&str; 4] = ["counter", "gauge", "histogram", "summary"];

/// Flags of `marigraph check metrics`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Reads an exposition from the standard input:\n  \
        curl -s http://127.0.0.1:9100/metrics | marigraph check metrics\n\n\
        Ends with 1 when it cannot be read, and with 3 when something could be better.")]
pub struct MetricsArgs {
    /// Which rules apply
    #[arg(long, default_value = "all")]
    pub lint: Lint,
    /// Also tell how many series each metric has
    #[arg(long)]
    pub extended: bool,
    /// The text is OpenMetrics (it is also taken for that when it ends with # EOF)
    #[arg(long)]
    pub open_metrics: bool,
}

/// Which rules apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lint {
    /// All of them
    All,
    /// Only whether it can be read
    None,
}

/// A metric family and its series.
#[derive(Debug, Default)]
struct Family {
    kind: MetricType,
    help: String,
    /// Labels of its series.
    series: Vec<Labels>,
}

/// Reads the standard input and tells what could be better; gives how many problems there are.
///
/// # Errors
/// It cannot be read as an exposition.
pub fn run(args: &MetricsArgs) -> Result<usize> {
    let mut body = Vec::new();
    let read = std::io::stdin().lock().take(BYTES_MAX + 1).read_to_end(&mut body);
    read.context("read the standard input")?;
    if body.len() as u64 > BYTES_MAX {
        bail!("the exposition has more than {BYTES_MAX} bytes");
    }
    let families = families(&body, args.open_metrics)?;
    let found = match args.lint {
        Lint::All => families.iter().flat_map(|(name, family)| problems(name, family)).collect(),
        Lint::None => Vec::new(),
    };
    found.iter().for_each(|problem| eprintln!("{problem}"));
    if args.extended {
        print(&cardinality(&families))?;
    }
    Ok(found.len())
}

/// The families of an exposition, by name.
fn families(body: &[u8], open_metrics: bool) -> Result<BTreeMap<String, Family>> {
    let is_open = open_metrics || body.trim_ascii_end().ends_with(b"# EOF");
    let protocol = if is_open { Protocol::OpenMetricsText1_0_0 } else { Protocol::PrometheusText1_0_0 };
    let mut memory = RowMemory::new(CreatedLines::Series);
    memory.read(body, protocol, &mut ScrapedRow::default()).context("the exposition cannot be read")?;
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for (name, metadata) in memory.metadata() {
        let family = families.entry(name).or_default();
        (family.kind, family.help) = (metadata.metric_type, metadata.help);
    }
    memory.each_series(|_, labels| {
        let name = labels.metric_name().to_owned();
        let family = family_of(&families, &name);
        families.entry(family).or_default().series.push(labels);
    });
    Ok(families)
}

/// The family that a series of this name belongs to.
fn family_of(families: &BTreeMap<String, Family>, name: &str) -> String {
    let stated = |family: &str| families.get(family).map(|family| family.kind);
    if stated(name).is_some() {
        return name.to_owned();
    }
    let of_suffix = |suffix: &&str| {
        let family = name.strip_suffix(suffix)?;
        let kind = stated(family)?;
        let fits = match *suffix {
            "_bucket" => matches!(kind, MetricType::Histogram | MetricType::GaugeHistogram),
            "_total" => kind == MetricType::Counter,
            "_info" => kind == MetricType::Info,
            "_gsum" | "_gcount" => kind == MetricType::GaugeHistogram,
            "_created" => {
                matches!(kind, MetricType::Counter | MetricType::Histogram | MetricType::Summary)
            }
            _ => matches!(kind, MetricType::Histogram | MetricType::Summary),
        };
        fits.then(|| family.to_owned())
    };
    let suffixes = ["_bucket", "_sum", "_count", "_total", "_info", "_gsum", "_gcount", "_created"];
    suffixes.iter().find_map(of_suffix).unwrap_or_else(|| name.to_owned())
}

/// What could be better about a family, a line each.
fn problems(name: &str, family: &Family) -> Vec<String> {
    let mut found = Vec::new();
    if family.help.trim().is_empty() {
        found.push("has no help text; say in a line what it is".to_owned());
    }
    of_type(name, family, &mut found);
    of_name(name, &mut found);
    of_labels(family, &mut found);
    found.iter_mut().for_each(|problem| *problem = format!("{name}: {problem}"));
    found
}

fn of_type(name: &str, family: &Family, found: &mut Vec<String>) {
    use MetricType::{Counter, GaugeHistogram, Histogram, Info, StateSet, Summary, Unknown};
    let kind = family.kind;
    // OpenMetrics has the suffix at the samples, and not in the family's name.
    let has_total = name.ends_with("_total")
        || (!family.series.is_empty()
            && family.series.iter().all(|labels| {
                labels.metric_name().ends_with("_total") || labels.metric_name().ends_with("_created")
            }));
    if kind == Counter && !has_total {
        found.push("is a counter; end its name with _total".to_owned());
    }
    if !matches!(kind, Counter | Unknown) && name.ends_with("_total") {
        found.push(format!("ends with _total and is no counter but a {}", kind.as_str()));
    }
    if matches!(kind, Unknown | Info | StateSet) {
        return;
    }
    let histogram = matches!(kind, Histogram | GaugeHistogram);
    for (suffix, allowed, whose) in [
        ("_bucket", histogram, "histograms"),
        ("_count", histogram || kind == Summary, "histograms and summaries"),
        ("_sum", histogram || kind == Summary, "histograms and summaries"),
    ] {
        if !allowed && name.ends_with(suffix) {
            found.push(format!("ends with {suffix}, which only parts of {whose} should"));
        }
    }
    for (label, allowed, whose) in
        [("le", histogram, "histograms"), ("quantile", kind == Summary, "summaries")]
    {
        if !allowed && family.series.iter().any(|labels| labels.get(label).is_some()) {
            found.push(format!("has the label {label}, which means something for {whose} only"));
        }
    }
}

fn of_name(name: &str, found: &mut Vec<String>) {
    if name.contains(':') {
        found.push("has a colon in its name; these are for recording rules".to_owned());
    }
    if is_camel(name) {
        found.push("mixes cases; write words_with_underscores".to_owned());
    }
    let words: Vec<String> = name.split('_').map(str::to_ascii_lowercase).collect();
    for (at, word) in words.iter().enumerate() {
        if let Some((_, base)) = UNITS.iter().find(|(unit, _)| unit == word) {
            found.push(format!("is in {word}; use the base unit {base}"));
        } else if let Some((_, unit)) = ABBREVIATIONS.iter().find(|(short, _)| short == word && at > 0) {
            found.push(format!("abbreviates a unit ({word}); write {unit}, and count in it"));
        } else if TYPE_WORDS.contains(&word.as_str()) {
            found.push(format!("says {word} in its name; the type is told by # TYPE"));
        }
    }
}

fn of_labels(family: &Family, found: &mut Vec<String>) {
    let names: BTreeSet<&str> =
        family.series.iter().flat_map(|labels| labels.iter().map(|(name, _)| name)).collect();
    for name in names.into_iter().filter(|name| is_camel(name)) {
        found.push(format!("mixes cases in its label {name}; write words_with_underscores"));
    }
}

/// Whether a small letter is followed by a capital.
fn is_camel(name: &str) -> bool {
    name.as_bytes().windows(2).any(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase())
}

/// A table of how many series each family has, the largest first.
fn cardinality(families: &BTreeMap<String, Family>) -> String {
    let mut counts: Vec<(&str, usize)> =
        families.iter().map(|(name, family)| (name.as_str(), family.series.len())).collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let total: usize = counts.iter().map(|(_, count)| count).sum();
    let width = counts.iter().map(|(name, _)| name.len()).max().unwrap_or_default().max(6);
    let mut table = format!("{:<width$} {:>11} {:>8}\n", "metric", "series", "share");
    for (name, count) in counts {
        let share = count as f64 / total.max(1) as f64 * 100.0;
        table.push_str(&format!("{name:<width$} {count:>11} {share:>7.2}%\n"));
    }
    table.push_str(&format!("{:<width$} {total:>11} {:>7.2}%\n", "total", 100.0));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: &[&str]) {
        let families = families(text.as_bytes(), false).expect(text);
        let found: Vec<String> = families.iter().flat_map(|(name, family)| problems(name, family)).collect();
        assert_eq!(found, want, "{text}");
    }

    #[test]
    fn what_is_as_people_expect_it_is_let_alone() {
        check("# HELP a_total A.\n# TYPE a_total counter\na_total{job=\"x\"} 1\n", &[]);
        check("# HELP t_seconds T.\n# TYPE t_seconds gauge\nt_seconds 1\n", &[]);
        check(
            "# HELP h_seconds H.\n# TYPE h_seconds histogram\nh_seconds_bucket{le=\"1\"} 1\n\
             h_seconds_bucket{le=\"+Inf\"} 1\nh_seconds_sum 1\nh_seconds_count 1\n",
            &[],
        );
        check(
            "# HELP q_bytes Q.\n# TYPE q_bytes summary\nq_bytes{quantile=\"0.5\"} 1\nq_bytes_sum 1\nq_bytes_count 1\n",
            &[],
        );
        check("# HELP a A.\n# TYPE a counter\na_total 1\na_created 1\n# EOF\n", &[]);
    }

    #[test]
    fn each_rule_has_its_line() {
        check("a 1\n", &["a: has no help text; say in a line what it is"]);
        check("# HELP a A.\n# TYPE a counter\na 1\n", &["a: is a counter; end its name with _total"]);
        check(
            "# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n",
            &["a_total: ends with _total and is no counter but a gauge"],
        );
        check(
            "# HELP a_count A.\n# TYPE a_count gauge\na_count{le=\"1\",quantile=\"1\"} 1\n",
            &[
                "a_count: ends with _count, which only parts of histograms and summaries should",
                "a_count: has the label le, which means something for histograms only",
                "a_count: has the label quantile, which means something for summaries only",
            ],
        );
        check(
            "# HELP job:aB_ms A.\n# TYPE job:aB_ms gauge\njob:aB_ms{podName=\"x\"} 1\n",
            &[
                "job:aB_ms: has a colon in its name; these are for recording rules",
                "job:aB_ms: mixes cases; write words_with_underscores",
                "job:aB_ms: abbreviates a unit (ms); write seconds, and count in it",
                "job:aB_ms: mixes cases in its label podName; write words_with_underscores",
            ],
        );
        check(
            "# HELP x_gauge_milliseconds A.\n# TYPE x_gauge_milliseconds gauge\nx_gauge_milliseconds 1\n",
            &[
                "x_gauge_milliseconds: says gauge in its name; the type is told by # TYPE",
                "x_gauge_milliseconds: is in milliseconds; use the base unit seconds",
            ],
        );
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        let error = families(b"a 1\nb{ 2\n", false).expect_err("no exposition");
        assert!(format!("{error:#}").starts_with("the exposition cannot be read: line 2: "), "{error:#}");
    }

    #[test]
    fn series_are_counted_by_family() {
        let text =
            "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\nup 1\n";
        let families = families(text.as_bytes(), false).expect("an exposition");
        assert_eq!(
            cardinality(&families),
            "metric      series    share\nh                4   80.00%\nup               1   20.00%\ntotal            5  100.00%\n"
        );
    }
}
