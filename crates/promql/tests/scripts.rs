//! Runs test scripts: our own always, Prometheus' where they are at hand.
//!
//! `PROMQL_SCRIPTS=name` runs only files whose name contains `name`; `PROMQL_SCRIPTS_REPORT=file`
//! writes every failure with its reason to a file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use model::TenantId;
use promql::answer::{EvalError, Value};
use promql::depth::LEVELS_MAX;
use promql::engine::{Engine, EngineOptions, QueryOptions};
use promql::function::FUNCTIONS;
use promql::parser::ParseOptions;
use promql::script::Script;
use promql::script::run::{Outcome, run};
use storage::memory::MemoryStore;

/// Evaluations in Prometheus 3.14's own scripts.
const UPSTREAM_EVALUATIONS: usize = 2195;

fn engine() -> Engine {
    Engine::new(EngineOptions {
        features: ParseOptions::all(),
        delayed_name_removal: true,
        use_start_timestamps: true,
        ..EngineOptions::default()
    })
}

/// The outcomes by file, in order.
fn run_all(folder: &Path) -> BTreeMap<String, Vec<Outcome>> {
    let wanted = std::env::var("PROMQL_SCRIPTS").unwrap_or_default();
    let engine = engine();
    let mut outcomes = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("list scripts") {
        let path = entry.expect("list scripts").path();
        let name = path.file_name().expect("a file's name").to_string_lossy().into_owned();
        if !name.ends_with(".test") || !name.contains(&wanted) {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("read script");
        let script = Script::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let of_file = run(&script, &engine, &mut || Box::new(MemoryStore::new()))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        outcomes.insert(name, of_file);
    }
    outcomes
}

fn crate_path(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

#[test]
fn own_scripts_pass() {
    let mut failures = String::new();
    let mut evaluations = 0;
    for (file, outcomes) in run_all(&crate_path("testdata/scripts")) {
        evaluations += outcomes.len();
        for Outcome { line, query, result } in outcomes {
            if let Err(reason) = result {
                let _ = writeln!(failures, "{file}:{line}: {query}\n    {reason}");
            }
        }
    }
    assert!(failures.is_empty(), "of {evaluations} evaluations these fail:\n{failures}");
}

#[test]
fn own_scripts_use_every_stable_function_and_operator() {
    let mut words = BTreeSet::new();
    for entry in std::fs::read_dir(crate_path("testdata/scripts")).expect("list scripts") {
        let text = std::fs::read_to_string(entry.expect("list scripts").path()).expect("read script");
        let script = Script::parse(&text).expect("parse script");
        for eval in script.evals() {
            let of_word = |c: char| c == '_' || c.is_ascii_alphanumeric();
            words.extend(eval.query.split(|c| !of_word(c)).map(str::to_owned));
            words.extend(eval.query.split_whitespace().map(str::to_owned));
        }
    }
    let functions = FUNCTIONS.iter().filter(|function| !function.experimental).map(|function| function.name);
    let aggregations = "sum avg min max count group stddev stdvar topk bottomk quantile count_values";
    let operators =
        "+ - * / % ^ atan2 == != < <= > >= and or unless bool by without on ignoring group_left group_right";
    let wanted = functions.chain(aggregations.split(' ')).chain(operators.split(' '));
    let missing: Vec<&str> = wanted.filter(|word| !words.contains(*word)).collect();
    assert!(missing.is_empty(), "no script of ours uses {missing:?}");
}

/// The highest trees that parse, and the longest chains, must be evaluated on the stack that a thread of
/// the server has.
#[test]
fn deep_and_long_expressions_are_evaluated() {
    let run = || {
        let (engine, store) = (engine(), MemoryStore::new());
        let levels = LEVELS_MAX - 10;
        let around = |open: &str, middle: &str, close: &str, levels: usize| {
            format!("scalar({}{middle}{})", open.repeat(levels), close.repeat(levels))
        };
        let chain = |of: &str, operator: &str, operands: usize| {
            format!("scalar({})", vec![of; operands].join(operator))
        };
        for (query, value) in [
            (format!("{}1{}", "(".repeat(levels), ")".repeat(levels)), 1.0),
            (around("abs(", "vector(4)", ")", levels), 4.0),
            (around("sum(", "vector(4)", ")", levels), 4.0),
            (
                around("-(", "vector(4)", ")", levels / 2),
                if (levels / 2).is_multiple_of(2) { 4.0 } else { -4.0 },
            ),
            (around("(vector(1) + on () ", "vector(1)", ")", levels / 2), (levels / 2 + 1) as f64),
            (around("(1 + ", "vector(1)", ")", levels / 2), (levels / 2 + 1) as f64),
            (around("last_over_time(", "vector(time())", "[1m:1m])", levels / 2), 0.0),
            (vec!["1"; 20_000].join(" + "), 20_000.0),
            (vec!["1"; 20_000].join(" ^ "), 1.0),
            (format!("{}1", "-".repeat(100_001)), -1.0),
            (format!("scalar({}vector(1))", "-".repeat(100_001)), -1.0),
            (format!("scalar(vector(0){})", " + 1".repeat(20_000)), 20_000.0),
            (format!("scalar(vector(0){})", " + scalar(vector(1))".repeat(1000)), 1000.0),
            (format!("scalar(sum(vector(0){}))", " + 1".repeat(20_000)), 20_000.0),
            (chain("vector(1)", " + ", 5000), 5000.0),
            (chain("vector(1)", " or ", 5000), 1.0),
            (chain("vector(1)", " and ", 5000), 1.0),
            (format!("scalar(vector(2){} or vector(3))", " unless vector(1)".repeat(5000)), 3.0),
        ] {
            let (tenant, options) = (TenantId::default(), QueryOptions::default());
            let named = |error: EvalError| panic!("{}: {error}", &query[..query.len().min(60)]);
            let answer = engine.instant(&store, &tenant, &query, 0, &options).unwrap_or_else(named);
            assert_eq!(
                answer.value,
                Value::Scalar { t_ms: 0, value },
                "for {}",
                &query[..query.len().min(60)]
            );
            let over =
                engine.range(&store, &tenant, &query, 0, 60_000, 30_000, &options).unwrap_or_else(named);
            let Value::Matrix(series) = over.value else { panic!("{query}: not a matrix") };
            assert_eq!(series[0].floats[0], (0, value), "for {}", &query[..query.len().min(60)]);
        }
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(run).expect("spawn");
    thread.join().expect("no overflow");
}

/// `file:line` of the evaluations that are known to fail, with the reason.
fn known_gaps() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(crate_path("testdata/known_gaps.txt")).expect("read known gaps");
    let mut gaps = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (place, reason) = line.split_once(' ').unwrap_or_else(|| panic!("a gap without reason: {line}"));
        let known = ["native histogram", "experimental", "strings are UTF-8"];
        assert!(known.contains(&reason), "not a reason: {line}");
        gaps.insert(place.to_owned(), reason.to_owned());
    }
    gaps
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn upstream_scripts_pass_but_for_known_gaps() {
    let folder = crate_path("../../../shared/data/promqltest");
    if !folder.is_dir() {
        eprintln!("SKIPPED: Prometheus' test scripts are not at {}", folder.display());
        return;
    }
    let gaps = known_gaps();
    let (mut evaluations, mut passed) = (0, 0);
    let (mut surprises, mut report) = (String::new(), String::new());
    for (file, outcomes) in run_all(&folder) {
        for Outcome { line, query, result } in outcomes {
            evaluations += 1;
            let place = format!("{file}:{line}");
            match (result, gaps.get(&place)) {
                (Ok(()), None) => passed += 1,
                (Ok(()), Some(_)) => {
                    passed += 1;
                    let _ = writeln!(surprises, "{place}: passes; take it off the list of known gaps");
                }
                (Err(reason), gap) => {
                    let _ = writeln!(report, "{place}: {query}\n    {reason}");
                    if gap.is_none() {
                        let _ = writeln!(surprises, "{place}: {query}\n    {reason}");
                    }
                }
            }
        }
    }
    eprintln!("{passed} of {evaluations} evaluations pass, {} known gaps", gaps.len());
    if let Ok(path) = std::env::var("PROMQL_SCRIPTS_REPORT") {
        std::fs::write(path, report).expect("write the report");
    }
    assert!(surprises.is_empty(), "{surprises}");
    if std::env::var_os("PROMQL_SCRIPTS").is_none() {
        assert_eq!(evaluations, UPSTREAM_EVALUATIONS);
    }
}
