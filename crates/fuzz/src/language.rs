//! What people type: expressions and patterns.

use std::sync::OnceLock;
use std::time::Duration;

use model::{Labels, SourceId, TenantId};
use promql::answer::EvalError;
use promql::engine::{Engine, EngineOptions, QueryOptions};
use promql::parser::{self, ParseOptions};
use promql::printer;
use storage::{Appender, Batch, MemoryStore, Policy, Row, SourceDesc};

/// An expression that parses prints as one that parses, and printing that again changes nothing.
pub(crate) fn parse(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = parser::parse_matchers(text);
    let Ok(expr) = parser::parse(text, &ParseOptions::all()) else { return };
    for printed in [expr.to_string(), printer::pretty(&expr)] {
        match parser::parse(&printed, &ParseOptions::all()) {
            Ok(again) => assert_eq!(again.to_string(), expr.to_string(), "{text:?} prints as {printed:?}"),
            // Spelling out can pass the limit of length.
            Err(_) if printed.len() > parser::TEXT_BYTES_MAX => {}
            Err(error) => panic!("{text:?} prints as {printed:?}: {error}"),
        }
    }
}

const EXPRESSIONS: &[&str] = &[
    "sum by (cluster, mode) (rate(node_cpu_seconds_total{mode!=\"idle\", x=~\"a|b.*\"}[5m] offset -1m @ end()))",
    "(1 - a / b) * on (instance) group_left (release, machine) c or vector(1) unless d and ignoring (x) e",
    "histogram_quantile(0.99, sum by (le) (rate(h_bucket[5m])))",
    "max_over_time(rate(a[1m])[10m:30s]) > bool -1_000.5e-3 ^ 2 ^ -3 % 0x1F",
    "topk(3, {\"a.b\", \"l.x\"=\"y\"}) + fill(0) absent(a{x!~\"\"})",
    "label_replace(a, \"dst\", \"$1-${2}\", \"src\", \"(.*)-(.*)\") # comment",
    "count_values without (a) (\"v\", a) == atan2 Inf",
    "a[5m*2] smoothed",
    "rate(a[5m] anchored)",
    "quantile_over_time(scalar(b), a[step()+1m])",
    "sum(h) </ 3 or info(a, {x=\"y\"})",
    "limitk(2, a) or limit_ratio(-0.5, a)",
];

pub(crate) fn parse_seeds() -> Vec<Vec<u8>> {
    EXPRESSIONS.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Any expression ends within its limits, over a few series of everything: floats, histograms,
/// staleness markers.
pub(crate) fn evaluate(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    static WORLD: OnceLock<(Engine, MemoryStore)> = OnceLock::new();
    let (engine, store) = WORLD.get_or_init(world);
    let (tenant, options) = (TenantId::default(), QueryOptions::default());
    let instant = engine.instant(store, &tenant, text, 600_000, &options);
    let range = engine.range(store, &tenant, text, 0, 900_000, 45_000, &options);
    for answer in [instant, range] {
        match answer {
            Err(EvalError::Internal(message)) => panic!("{text:?}: {message}"),
            Err(EvalError::Storage(error)) => panic!("{text:?}: {error}"),
            _ => {}
        }
    }
}

fn world() -> (Engine, MemoryStore) {
    let engine = Engine::new(EngineOptions {
        timeout: Duration::from_secs(2),
        max_samples: 200_000,
        threads: 1,
        features: ParseOptions::all(),
        ..EngineOptions::default()
    });
    let store = MemoryStore::new();
    if let Err(error) = fill(&store) {
        panic!("fill the store: {error}");
    }
    (engine, store)
}

fn fill(store: &MemoryStore) -> Result<(), storage::StoreError> {
    let source = store.open_source(&SourceDesc {
        tenant: TenantId::default(),
        id: SourceId(1),
        labels: Labels::empty(),
    })?;
    let names = ["a", "a_total", "b", "c", "d", "e", "node_cpu_seconds_total", "target_info"];
    let mut labels: Vec<Labels> = Vec::new();
    for name in names {
        for (instance, mode) in [("one", "idle"), ("two", "user")] {
            let pairs = [("__name__", name), ("instance", instance), ("mode", mode), ("x", "y")];
            labels.push(Labels::from_pairs(pairs));
        }
    }
    for le in ["0.1", "1", "+Inf"] {
        labels.push(Labels::from_pairs([("__name__", "h_bucket"), ("instance", "one"), ("le", le)]));
    }
    let histogram = Labels::from_pairs([("__name__", "h"), ("instance", "one")]);
    let series: Vec<_> = store.resolve(source, &labels)?.into_iter().flatten().collect();
    let native = store.resolve(source, &[histogram])?.into_iter().flatten().next();
    for at in 0..60_i64 {
        let value = |column: usize| match (at + column as i64) % 17 {
            16 => f64::NAN,
            15 => model::stale_nan(),
            n => n as f64 * 1.5,
        };
        let values: Vec<f64> = (0..series.len()).map(value).collect();
        let histograms: Vec<_> = native.iter().map(|series| (*series, native_histogram(at))).collect();
        let mut row = Row::floats(source, at * 15_000, &series, &values);
        row.histograms = &histograms;
        store.append(&Batch::rows(&[row], Policy::REMOTE_WRITE))?;
    }
    Ok(())
}

fn native_histogram(at: i64) -> model::Histogram {
    use model::histogram::{Buckets, CounterResetHint, Span};
    let n = at as u64 % 20;
    model::Histogram {
        counter_reset_hint: CounterResetHint::Unknown,
        schema: 2,
        zero_threshold: 0.001,
        sum: 3.0 * n as f64,
        positive_spans: vec![Span { offset: -1, length: 2 }, Span { offset: 3, length: 1 }],
        negative_spans: Vec::new(),
        custom_values: Vec::new(),
        buckets: Buckets::Int {
            count: 4 * n,
            zero_count: n,
            positive: vec![n as i64, 0, 0],
            negative: Vec::new(),
        },
    }
}

pub(crate) fn evaluate_seeds() -> Vec<Vec<u8>> {
    parse_seeds()
}

/// The first line is a pattern, the rest a text, or a template: whatever the shortcuts say about a
/// pattern must be what the engine says.
pub(crate) fn regex(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (pattern, text) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(regex) = re2::Regex::anchored(pattern) {
        if let Some(literals) = regex.literals() {
            for literal in literals {
                assert!(regex.is_match(literal), "{pattern:?} names the literal {literal:?}");
            }
            let listed = literals.iter().any(|literal| literal == text);
            assert_eq!(regex.is_match(text), listed, "{pattern:?} on {text:?}");
        }
        if regex.is_match(text) {
            assert!(text.starts_with(regex.prefix()), "{pattern:?} has a prefix that {text:?} has not");
        }
    }
    if let Ok(regex) = re2::Regex::wrapped(pattern) {
        let _ = regex.expand(text, text);
    }
    if let Ok(regex) = re2::Regex::unanchored(pattern) {
        let _ = (regex.is_match(text), regex.replace_all(text, "$1${name}$$"));
    }
}

pub(crate) fn regex_seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "a|b|cde\ncde",
        "svc-1.*\nsvc-12",
        ".*/cri-containerd-ab.*\nx/cri-containerd-abc",
        "(?i)lo|veth[0-9]{1,3}\nVETH12",
        "(?P<name>a+)(b*?)[[:alpha:]\\d\\x{100}-\\x{200}]\\Q.*\\E\nab$1",
        "((a{0,100}){0,10})\naaaa",
        "\\pL\\PN^$\\b\\A\\z[^\\s]\nx",
    ];
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}
