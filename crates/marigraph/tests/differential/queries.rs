//! The queries of the differential test: templates, and what their `{{...}}` stand for.

/// Functions of a range vector, any metric.
const OVER_TIME: &[&str] = &[
    "sum_over_time",
    "avg_over_time",
    "min_over_time",
    "max_over_time",
    "count_over_time",
    "stddev_over_time",
    "stdvar_over_time",
    "last_over_time",
    "present_over_time",
    "absent_over_time",
    "changes",
    "resets",
    "delta",
    "idelta",
    "irate",
    "deriv",
];

/// Only of counters far from zero: Prometheus 3 extrapolates to zero less far than 2.42.
const OF_COUNTERS: &[&str] = &["rate", "increase"];

/// Functions of an instant vector without further arguments.
const SIMPLE: &[&str] = &[
    "abs",
    "absent",
    "ceil",
    "exp",
    "floor",
    "ln",
    "log10",
    "log2",
    "round",
    "scalar",
    "sgn",
    "sort",
    "sort_desc",
    "sqrt",
    "timestamp",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "deg",
    "rad",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "hour",
    "minute",
    "month",
    "year",
];

const AGGREGATES: &[&str] = &["sum", "avg", "min", "max", "count", "stddev", "stdvar", "group"];

/// Without `atan2`, which kept the metric name before Prometheus 3.
const ARITHMETIC: &[&str] = &["+", "-", "*", "/", "%", "^"];

const COMPARISONS: &[&str] = &["==", "!=", "<", "<=", ">", ">="];

const RANGES: &[&str] = &["1m", "5m", "20m", "1h"];

/// Template and what it expands over.
const TEMPLATES: &[(&str, &[&[&str]])] = &[
    ("{{}}(demo_cpu_usage_seconds_total[{{}}])", &[OF_COUNTERS, RANGES]),
    ("{{}}(nonexistent_metric[{{}}])", &[OF_COUNTERS, &["5m"]]),
    ("{{}}(demo_cpu_usage_seconds_total[{{}}])", &[OVER_TIME, RANGES]),
    ("{{}}(demo_intermittent_metric[{{}}])", &[OVER_TIME, RANGES]),
    ("{{}}(nonexistent_metric[{{}}])", &[OVER_TIME, &["5m"]]),
    (
        "quantile_over_time({{}}, demo_memory_usage_bytes[{{}}])",
        &[&["-0.5", "0.1", "0.5", "0.95", "1", "2"], RANGES],
    ),
    ("predict_linear(demo_disk_usage_bytes[{{}}], {{}})", &[RANGES, &["60", "3600"]]),
    ("{{}}(demo_memory_usage_bytes)", &[SIMPLE]),
    ("{{}}(-demo_temperature_celsius)", &[SIMPLE]),
    ("{{}}(demo_memory_usage_bytes)", &[AGGREGATES]),
    ("{{}} by (instance) (demo_memory_usage_bytes)", &[AGGREGATES]),
    ("{{}} without (instance, type) (demo_memory_usage_bytes)", &[AGGREGATES]),
    ("{{}} by (nonexistent) (demo_temperature_celsius)", &[AGGREGATES]),
    ("{{}} by (type) (rate(demo_cpu_usage_seconds_total[5m]))", &[AGGREGATES]),
    ("{{}}(2, demo_memory_usage_bytes)", &[&["topk", "bottomk"]]),
    ("{{}}(1, demo_cpu_usage_seconds_total) by (mode)", &[&["topk", "bottomk"]]),
    ("quantile({{}}, demo_memory_usage_bytes)", &[&["-1", "0.1", "0.5", "0.99", "1", "3"]]),
    ("count_values(\"value\", demo_num_cpus)", &[]),
    ("count_values(\"instance\", demo_num_cpus)", &[]),
    ("demo_memory_usage_bytes {{}} 1.2345", &[ARITHMETIC]),
    ("0.12345 {{}} demo_memory_usage_bytes", &[ARITHMETIC]),
    ("demo_memory_usage_bytes {{}} 1.5e9", &[COMPARISONS]),
    ("demo_memory_usage_bytes {{}} bool 1.5e9", &[COMPARISONS]),
    ("1 {{}} bool 2", &[COMPARISONS]),
    (
        "demo_cpu_usage_seconds_total {{}} on (instance, job, mode) demo_cpu_usage_seconds_total",
        &[ARITHMETIC],
    ),
    ("demo_cpu_usage_seconds_total {{}} on (instance, job) group_left demo_num_cpus", &[ARITHMETIC]),
    ("demo_num_cpus {{}} ignoring (mode) group_right demo_cpu_usage_seconds_total", &[COMPARISONS]),
    ("demo_memory_usage_bytes {{}} bool on (instance, type, job) demo_memory_usage_bytes", &[COMPARISONS]),
    ("sum(demo_cpu_usage_seconds_total) {{}} sum(demo_memory_usage_bytes)", &[ARITHMETIC]),
    (
        "demo_cpu_usage_seconds_total{mode=\"idle\"} {{}} demo_cpu_usage_seconds_total{instance=~\"a.*\"}",
        &[&["and", "or", "unless"]],
    ),
    ("demo_num_cpus {{}} on (instance) demo_memory_usage_bytes", &[&["and", "or", "unless"]]),
    (
        "histogram_quantile({{}}, rate(demo_api_request_duration_seconds_bucket[5m]))",
        &[&["-0.5", "0.5", "0.9", "1", "1.5"]],
    ),
    (
        "histogram_quantile(0.9, sum by (le, path) (rate(demo_api_request_duration_seconds_bucket[{{}}])))",
        &[RANGES],
    ),
    ("histogram_quantile(0.9, demo_memory_usage_bytes)", &[]),
    ("demo_memory_usage_bytes offset {{}}", &[&["1m", "10m", "-5m", "2h"]]),
    ("rate(demo_cpu_usage_seconds_total[5m] offset {{}})", &[&["1m", "-2m"]]),
    ("demo_memory_usage_bytes @ {{}}", &[&["1700001000", "1700000000.5", "start()", "end()", "0"]]),
    ("sum_over_time(demo_num_cpus[10m] @ end())", &[]),
    (
        "max_over_time(rate(demo_cpu_usage_seconds_total[2m])[{{}}:{{}}])",
        &[&["10m", "33m"], &["18s", "1m", ""]],
    ),
    ("avg_over_time((demo_temperature_celsius > 20)[20m:45s] offset 1m)", &[]),
    (
        "label_replace(demo_num_cpus, \"{{}}\", \"$1-x\", \"instance\", \"{{}}\")",
        &[&["job", "new"], &["(.*):(.*)", "a.*", "z"]],
    ),
    ("label_join(demo_num_cpus, \"new\", \"-\", \"instance\", \"job\", \"missing\")", &[]),
    ("clamp(demo_temperature_celsius, 18, {{}})", &[&["22", "17"]]),
    ("clamp_min(demo_temperature_celsius, 20)", &[]),
    ("clamp_max(demo_temperature_celsius, 20)", &[]),
    ("round(demo_temperature_celsius, {{}})", &[&["0.5", "5", "0.1"]]),
    ("vector({{}})", &[&["1", "1.5e10", "NaN", "Inf", "-Inf"]]),
    (
        "{{}}",
        &[&["1", "time()", "pi()", "\"text\"", "-1.5", "1 / 0", "-(1 % 0)", "0x1f", "1e3", "vector(time())"]],
    ),
    (
        "{{}}{{{}}}",
        &[
            &["demo_cpu_usage_seconds_total", "demo_intermittent_metric"],
            &[
                "instance=~\"a.*\"",
                "instance!~\"a.*\"",
                "mode=\"\"",
                "mode!=\"idle\"",
                "instance=\"b:2\",job=\"demo\"",
                "",
            ],
        ],
    ),
    ("{__name__=~\"demo_.*_bytes\"}", &[]),
    ("sum by (__name__) ({__name__=~\"demo_.+\"})", &[]),
    ("demo_temperature_celsius > bool 20 == 1", &[]),
    ("sum(demo_temperature_celsius) atan2 sum(demo_num_cpus)", &[]),
    ("-demo_temperature_celsius ^ 2", &[]),
    ("2 ^ 3 ^ 2", &[]),
    ("absent(demo_num_cpus{job=\"none\"})", &[]),
    ("absent_over_time(demo_none{job=\"none\",x=\"y\"}[5m])", &[]),
    (
        "sum(demo_cpu_usage_seconds_total) by (mode) / on (mode) group_left sum by (mode) (demo_cpu_usage_seconds_total)",
        &[],
    ),
    ("timestamp(demo_intermittent_metric)", &[]),
    ("timestamp(timestamp(demo_num_cpus))", &[]),
    ("day_of_year()", &[]),
    ("demo_ended_metric", &[]),
    ("count_over_time(demo_ended_metric[1h])", &[]),
    ("rate(demo_cpu_usage_seconds_total[1m]) > 0.3 or vector(0)", &[]),
];

/// Queries that must fail alike: same status and `errorType`.
pub(crate) const FAILING: &[&str] = &[
    "",
    "sum(",
    "rate(demo_num_cpus)",
    "demo_num_cpus[5m",
    "1 + ",
    "foo{a=~\"(\"}",
    "{}",
    "{a=\"\"}",
    "topk(demo_num_cpus)",
    "demo_num_cpus + on (instance) demo_cpu_usage_seconds_total",
    "demo_cpu_usage_seconds_total + on (instance) group_left demo_cpu_usage_seconds_total",
    "label_replace(demo_num_cpus, \"~~\", \"\", \"\", \"\")x",
    "unknown_function(1)",
    "sum(1)",
    "\"a\" + 1",
    "1 and 1",
    "1 == 2",
    "demo_num_cpus offset",
    "demo_num_cpus[5m] offset 1m[5m]",
    "abs()",
    "demo_num_cpus bool 1",
    "rate(demo_num_cpus[0s])",
    "sum by (instance demo_num_cpus",
    "demo_num_cpus{instance}",
    "count_values(\"~\", demo_num_cpus) +",
];

/// All queries, templates expanded.
pub(crate) fn all() -> Vec<String> {
    TEMPLATES.iter().flat_map(|(template, choices)| expand(template, choices)).collect()
}

fn expand(template: &str, choices: &[&[&str]]) -> Vec<String> {
    let Some((first, rest)) = choices.split_first() else { return vec![template.to_owned()] };
    first.iter().flat_map(|choice| expand(&template.replacen("{{}}", choice, 1), rest)).collect()
}
