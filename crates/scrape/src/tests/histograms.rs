//! Protobuf, native histograms, and what the scrape options make of them.

use std::io::Write as _;

use super::*;
use crate::config::Resolution;

const PROTO: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// A field of length-delimited content.
fn message(field: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("a short message");
    assert!(length < 0x80, "a short message");
    [&[field << 3 | 2, length], content].concat()
}

/// A family with one metric without labels.
fn family(name: &str, kind: u8, value: &[u8], timestamp_ms: u8) -> Vec<u8> {
    let mut metric = value.to_vec();
    if timestamp_ms > 0 {
        metric.extend([6 << 3, timestamp_ms]);
    }
    let family = [message(1, name.as_bytes()), vec![3 << 3, kind], message(4, &metric)].concat();
    [&[u8::try_from(family.len()).expect("a short family")], family.as_slice()].concat()
}

/// Three native buckets of schema 3 with one observation each, and a classic one.
fn histogram() -> Vec<u8> {
    let classic = message(3, &[1 << 3, 2, 2 << 3 | 1, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
    let native = [vec![5 << 3, 6], message(12, &[1 << 3, 2, 2 << 3, 3]), message(13, &[2, 0, 0])].concat();
    message(7, &[vec![1 << 3, 3], classic, native].concat())
}

fn gauge(value: f64) -> Vec<u8> {
    message(2, &[&[1 << 3 | 1], value.to_le_bytes().as_slice()].concat())
}

fn protobuf(parts: &[Vec<u8>]) -> Answer {
    Answer { body: parts.concat(), ..Answer::text("") }.with("content-type", PROTO)
}

/// Every histogram of the store: name, schema, buckets, at its second from the first sample of `up`.
fn histograms(bench: &Bench) -> String {
    let select =
        Select { tenant: TenantId::default(), start_ms: i64::MIN, end_ms: i64::MAX, matchers: Vec::new() };
    let set = bench.store.select(&select).expect("a selection");
    let mut columns = Vec::new();
    set.load(0..set.len(), &mut columns).expect("columns");
    let up = (0..set.len()).find(|at| set.labels(*at).metric_name() == "up").expect("a series `up`");
    let begin = columns[up].times[0];
    let mut out = String::new();
    for (at, column) in columns.iter().enumerate() {
        for (time, histogram) in column.histograms.iter() {
            let name = set.labels(at).metric_name();
            let at = if *time < 1_000 { *time as f64 } else { (time - begin) as f64 / 1000.0 };
            writeln!(out, "{name} {} {:?}@{at}", histogram.schema, histogram.buckets).expect("a string");
        }
    }
    out
}

async fn scraped(config: ScrapeConfig, answers: &[Answer]) -> Bench {
    let bench = Bench::new();
    bench.apply(vec![config]);
    bench.targets("j", &["a:1"]);
    for answer in answers {
        bench.network.set("a:1", answer.clone());
        bench.pass(10).await;
    }
    bench
}

fn native(change: impl FnOnce(&mut ScrapeConfigText)) -> ScrapeConfig {
    job(|job, _| {
        job.scrape_native_histograms = Some(true);
        change(job);
    })
}

#[tokio::test(start_paused = true)]
async fn native_histograms_are_asked_for_and_stored() {
    let both = protobuf(&[family("h", 4, &histogram(), 0), family("g", 1, &gauge(1.5), 0)]);
    let alone = protobuf(&[family("g", 1, &gauge(2.5), 0)]);
    let bench = scraped(native(|_| {}), &[both.clone(), both.clone(), alone, both]).await;
    expect![[r#"
        h 3 Int { count: 3, zero_count: 0, positive: [1, 0, 0], negative: [] }@0
        h 3 Int { count: 3, zero_count: 0, positive: [1, 0, 0], negative: [] }@10
        h 3 Int { count: 3, zero_count: 0, positive: [1, 0, 0], negative: [] }@30
    "#]]
    .assert_eq(&histograms(&bench));
    expect![[r#"
        {__name__="g", instance="a:1", job="j"} 1.5@0 1.5@10 2.5@20 1.5@30
        {__name__="h", instance="a:1", job="j"} stale@20
        {__name__="scrape_samples_post_metric_relabeling", instance="a:1", job="j"} 2@0 2@10 1@20 2@30
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 2@0 2@10 1@20 2@30
        {__name__="scrape_series_added", instance="a:1", job="j"} 2@0 0@10 0@20 1@30
        {__name__="up", instance="a:1", job="j"} 1@0 1@10 1@20 1@30
    "#]]
    .assert_eq(&bench.samples());
    let request = bench.network.requests.lock()[0].clone();
    let wanted = "accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1;";
    assert!(request.contains(wanted), "{request}");
}

#[tokio::test(start_paused = true)]
async fn options_decide_what_becomes_of_histograms() {
    let answer = protobuf(&[family("h", 4, &histogram(), 0)]);
    let check = async |config: ScrapeConfig, floats: usize, schemas: &[&str]| {
        let bench = scraped(config, std::slice::from_ref(&answer)).await;
        let all = histograms(&bench);
        let found: Vec<&str> = all.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        assert_eq!(found, schemas, "{}", bench.last_error());
        assert_eq!(bench.samples_of(&["h_"]).lines().count(), floats);
    };
    check(plain(), 4, &[]).await;
    check(native(|_| {}), 0, &["3"]).await;
    check(native(|job| job.always_scrape_classic_histograms = Some(true)), 4, &["3"]).await;
    check(native(|job| job.scrape_classic_histograms = Some(true)), 4, &["3"]).await;
    check(job(|job, _| job.convert_classic_histograms_to_nhcb = Some(true)), 0, &["-53"]).await;
    check(native(|job| job.convert_classic_histograms_to_nhcb = Some(true)), 0, &["3"]).await;
    let labelled = |label: &str, word: &str| RelabelText {
        target_label: Some(label.to_owned()),
        replacement: Some(word.to_owned()),
        ..RelabelText::default()
    };
    check(
        native(|job| job.relabel_configs = Some(vec![labelled("__scrape_native_histograms__", "false")])),
        4,
        &[],
    )
    .await;
    let rules = vec![
        labelled("__scrape_native_histograms__", "T"),
        labelled("__always_scrape_classic_histograms__", "1"),
        labelled("__convert_classic_histograms_to_nhcb__", "what"),
    ];
    check(job(|job, _| job.relabel_configs = Some(rules)), 4, &["3"]).await;
}

#[tokio::test(start_paused = true)]
async fn text_histograms_become_native_ones() {
    let text = "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 3\nh_sum 2\nh_count 3\nx 1\n";
    let config = job(|job, _| job.convert_classic_histograms_to_nhcb = Some(true));
    let bench = scraped(config, &[Answer::text(text), Answer::text(text), Answer::text("x 1\n")]).await;
    expect![[r#"
        h -53 Int { count: 3, zero_count: 0, positive: [1, 1], negative: [] }@0
        h -53 Int { count: 3, zero_count: 0, positive: [1, 1], negative: [] }@10
    "#]]
    .assert_eq(&histograms(&bench));
    expect![[r#"
        {__name__="h", instance="a:1", job="j"} stale@20
        {__name__="scrape_samples_scraped", instance="a:1", job="j"} 2@0 2@10 1@20
    "#]]
    .assert_eq(&bench.samples_of(&["h", "scrape_samples_scraped"]));
}

#[tokio::test(start_paused = true)]
async fn too_fine_histograms_are_merged_or_refused() {
    let answer = protobuf(&[family("h", 4, &histogram(), 0)]);
    let merged =
        scraped(native(|job| job.native_histogram_bucket_limit = Some(2)), std::slice::from_ref(&answer))
            .await;
    expect![[r#"
        h 2 Int { count: 3, zero_count: 0, positive: [2, -1], negative: [] }@0
    "#]]
    .assert_eq(&histograms(&merged));
    let coarse = scraped(
        native(|job| job.native_histogram_min_bucket_factor = Some(2.0)),
        std::slice::from_ref(&answer),
    )
    .await;
    assert!(histograms(&coarse).starts_with("h 0 Int { count: 3, zero_count: 0, positive: [3]"));
    let config = native(|job| {
        job.convert_classic_histograms_to_nhcb = Some(true);
        job.scrape_native_histograms = Some(false);
        job.native_histogram_bucket_limit = Some(1);
    });
    let refused = scraped(config, &[answer]).await;
    assert_eq!(refused.last_error(), "histogram bucket limit exceeded");
    assert_eq!(histograms(&refused), "");
    assert_eq!(Resolution::default().schema_max, 8);
}

#[tokio::test(start_paused = true)]
async fn histograms_may_have_timestamps_of_their_own() {
    let answer = protobuf(&[family("h", 4, &histogram(), 77), family("g", 1, &gauge(1.0), 77)]);
    let bench = scraped(native(|_| {}), &[answer.clone(), answer.clone()]).await;
    expect![[r#"
        h 3 Int { count: 3, zero_count: 0, positive: [1, 0, 0], negative: [] }@77
    "#]]
    .assert_eq(&histograms(&bench));
    let dishonored = scraped(native(|job| job.honor_timestamps = Some(false)), &[answer]).await;
    assert!(histograms(&dishonored).ends_with("@0\n"));
}

#[tokio::test(start_paused = true)]
async fn zstd_is_unpacked_within_bounds() {
    let packed = |body: &[u8], window: u32| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
        encoder.window_log(window).expect("a window");
        encoder.write_all(body).expect("bytes to pack");
        let body = encoder.finish().expect("packed bytes");
        Answer { body, ..Answer::text("") }.with("content-encoding", "zstd")
    };
    let (bench, samples) = once(plain(), packed(b"x 1\n", 20), &["x"]).await;
    assert_eq!((samples.lines().count(), bench.last_error()), (1, String::new()));
    let limited = |bytes: u64| job(move |job, _| job.body_size_limit = Some(ByteSize(bytes)));
    let long = [b"# ".as_slice(), &[b'x'; 1 << 20], b"\nx 1\n"].concat();
    let (bench, _) = once(limited(1 << 19), packed(&long, 20), &["x"]).await;
    assert_eq!(bench.last_error(), "body size limit exceeded");
    let mut cut = packed(&long, 20);
    cut.body.truncate(cut.body.len() / 2);
    let (bench, _) = once(plain(), cut, &["x"]).await;
    assert!(bench.last_error().ends_with("zstd: incomplete frame"), "{}", bench.last_error());
    let wide = [long.as_slice(), &[b'\n'; 40 << 20]].concat();
    let (bench, _) = once(plain(), packed(&wide, 25), &["x"]).await;
    assert!(bench.last_error().contains("zstd: Frame requires too much memory"), "{}", bench.last_error());
}

#[tokio::test(start_paused = true)]
async fn failures_are_logged_to_a_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("failures.log");
    let config = job(|job, _| job.scrape_failure_log_file = Some(path.display().to_string()));
    let bad = Answer { status: 503, ..Answer::text("") };
    let bench = scraped(config, &[bad, Answer::text("x 1\n"), Answer::text("x y\n")]).await;
    let log = std::fs::read_to_string(&path).expect("a log");
    let after_time =
        |line: &str| line.split_once(",\"level\"").map(|(_, rest)| format!("{rest}\n")).unwrap_or_default();
    expect![[r#"
        :"ERROR","msg":"server returned HTTP status 503 Service Unavailable","job_name":"j","target":"http://a:1/metrics"}
        :"ERROR","msg":"line 1: expected a value, got \"y\"","job_name":"j","target":"http://a:1/metrics"}
    "#]]
    .assert_eq(&log.lines().map(after_time).collect::<String>());
    assert!(log.starts_with("{\"time\":\"2001-09-09T01:46:"), "{log}");
    let missing = job(|job, _| job.scrape_failure_log_file = Some("/no/such/directory/log".to_owned()));
    let refused = bench.manager.apply(&[Arc::new(missing)]).expect_err("no such directory").to_string();
    assert!(refused.starts_with("job j: open scrape failure log /no/such/directory/log: "), "{refused}");
}
