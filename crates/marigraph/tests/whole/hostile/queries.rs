//! The query doors.

use std::time::{Duration, Instant};

use ::http::{Method, Request};
use anyhow::{Context, Result};
use http_body_util::Full;
use model::Labels;
use testkit::http::{self, escape};
use testkit::push::Push;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{FORM, NO_SCRAPES, PROMPT, Table, others_are_served, start};

const DATA_MS: i64 = 1_700_000_000_000;

/// Three hundred series of ten samples, and one that regular expressions like to stumble over.
async fn fill(addr: std::net::SocketAddr) -> Result<()> {
    let mut push = Push::default();
    let samples: Vec<(i64, f64)> = (0..10).map(|at| (DATA_MS + at * 1000, at as f64)).collect();
    for buoy in 0..300 {
        let labels = Labels::from_pairs([("__name__", "tide"), ("buoy", &format!("b{buoy}"))]);
        push.floats(&labels, &samples);
    }
    let trap = "a".repeat(5000) + "!";
    push.floats(&Labels::from_pairs([("__name__", "trap"), ("text", &trap)]), &samples);
    let answer = push.send(addr).await?;
    anyhow::ensure!(answer.status == 204, "{}", answer.text());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_that_ask_too_much_are_told_so() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start(directory.path(), NO_SCRAPES, &["--query.max-samples=2500"]).await?;
    let addr = hub.addr();
    fill(addr).await?;

    const DEEP: &str = "expression is nested more than 2000 levels deep";
    const MANY: &str =
        "execution: query processing would load too many samples into memory in query execution";
    const POINTS: &str = "bad_data: exceeded maximum resolution of 11,000 points per timeseries. Try decreasing \
                          the query resolution (?step=XX)";
    const STEP: &str = "bad_data: invalid parameter \"step\": zero or negative query resolution step widths are \
                        not accepted. Try a positive integer";
    let at = "&time=1700000009";
    let instant = |text: &str| ("/api/v1/query", format!("query={}{at}", escape(text)));
    let range = |text: &str, rest: &str| ("/api/v1/query_range", format!("query={}&{rest}", escape(text)));
    let regex = |pattern: &str| instant(&format!("count({{text=~\"{pattern}\"}})"));
    let empty = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
    let scalar = |value: &str| {
        format!(r#"{{"status":"success","data":{{"resultType":"scalar","result":[1700000009,"{value}"]}}}}"#)
    };
    let mut cases: Vec<(&str, (&str, String), u16, String)> = vec![
        (
            "parentheses",
            instant(&("(".repeat(100_000) + "1" + &")".repeat(100_000))),
            400,
            format!("bad_data: invalid parameter \"query\": 1:2001: parse error: {DEEP}"),
        ),
        (
            "signs and parentheses",
            instant(&("-(".repeat(100_000) + "1" + &")".repeat(100_000))),
            400,
            format!("bad_data: invalid parameter \"query\": 1:2001: parse error: {DEEP}"),
        ),
        ("signs", instant(&("-".repeat(100_000) + "1")), 200, scalar("1")),
        ("sums", instant(&vec!["1"; 100_000].join("+")), 200, scalar("100000")),
        ("powers", instant(&vec!["1"; 100_000].join("^")), 200, scalar("1")),
        (
            "alternatives",
            instant(&format!("count({})", vec!["tide{buoy=\"b1\"}"; 2000].join(" or "))),
            200,
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1700000009,"1"]}]}}"#
                .to_owned(),
        ),
        (
            "open braces",
            instant(&"{".repeat(100_000)),
            400,
            "bad_data: invalid parameter \"query\": 1:2: parse error: unexpected left brace '{'"
                .to_owned(),
        ),
        ("everything", instant("{__name__=~\".+\"}[1h]"), 422, MANY.to_owned()),
        (
            "a subquery of a year by the millisecond",
            instant("count_over_time(vector(1)[1y:1ms])"),
            422,
            MANY.to_owned(),
        ),
        (
            "subqueries in subqueries",
            instant("max_over_time(max_over_time(vector(1)[1d:1s])[1d:1s])"),
            422,
            MANY.to_owned(),
        ),
        ("11,001 steps", range("1", "start=0&end=11001&step=1"), 400, POINTS.to_owned()),
        ("all of time", range("1", "start=-9e15&end=9e15&step=1s"), 400, POINTS.to_owned()),
        ("no step", range("1", "start=0&end=1&step=0"), 400, STEP.to_owned()),
        ("a step back", range("1", "start=0&end=1&step=-1"), 400, STEP.to_owned()),
        ("the smallest step", range("1", "start=0&end=1&step=0.000000001"), 400, POINTS.to_owned()),
        (
            "a step beyond numbers",
            range("1", "start=0&end=1&step=1e300"),
            400,
            "bad_data: invalid parameter \"step\": cannot parse \"1e300\" to a valid duration. It overflows int64"
                .to_owned(),
        ),
        (
            "a step that is no number",
            range("1", "start=0&end=1&step=NaN"),
            400,
            "bad_data: invalid parameter \"step\": cannot parse \"NaN\" to a valid duration. It overflows int64".to_owned(),
        ),
        (
            "backwards",
            range("1", "start=2&end=1&step=1"),
            400,
            "bad_data: invalid parameter \"end\": end timestamp must not be before start time".to_owned(),
        ),
        (
            "at no time",
            ("/api/v1/query", "query=1&time=NaN".to_owned()),
            400,
            "bad_data: invalid parameter \"time\": invalid time value for 'time': cannot parse \"NaN\" to a valid \
             timestamp"
                .to_owned(),
        ),
        (
            "a limit below nothing",
            ("/api/v1/query", "query=1&limit=-1".to_owned()),
            400,
            "bad_data: invalid parameter \"limit\": limit must be non-negative".to_owned(),
        ),
        ("nested repetition that does not match", regex("(a+)+$"), 200, empty.to_owned()),
        ("alternatives that overlap", regex("(a|a|aa)+$"), 200, empty.to_owned()),
        ("a name that is not UTF-8", ("/api/v1/query", format!("query=%ff%fe{at}")), 400, "bad_data: invalid parameter \"query\": 1:1: parse error: unexpected character: '\u{fffd}'".to_owned()),
        (
            "an escape cut off",
            ("/api/v1/series", "match[]=%f".to_owned()),
            400,
            "bad_data: error parsing form values: invalid URL escape \"%f\"".to_owned(),
        ),
        (
            "no condition at all",
            ("/api/v1/series", "match[]={a=~\".*\"}".to_owned()),
            400,
            "bad_data: invalid parameter \"match[]\": match[] must contain at least one non-empty matcher".to_owned(),
        ),
    ];
    const NESTED: &str = "invalid nested repetition operator";
    const COUNT: &str = "invalid repeat count";
    for (pattern, what, part) in [
        ("x{1000}{1000}", NESTED, "{1000}{1000}"),
        ("(x{1000}){1000}", COUNT, "{1000}"),
        ("((x{100}){100}){100}", COUNT, "{100}"),
        ("x{1001}", COUNT, "{1001}"),
    ] {
        let text = format!(
            "bad_data: invalid parameter \"query\": 1:8: parse error: error parsing regexp: {what}: `{part}`"
        );
        cases.push((pattern, regex(pattern), 400, text));
    }
    let mut table = Table::default();
    for (name, (path, form), status, text) in cases {
        let answer = http::post(addr, path, FORM, form).await?;
        table.check(name, &answer, status, &text);
        others_are_served(addr).await?;
    }
    let answer = http::post(addr, "/api/v1/query", FORM, vec![b'q'; (10 << 20) + 1]).await?;
    table.check(
        "a long form",
        &answer,
        400,
        "bad_data: error parsing form values: http: request body too large",
    );
    let whole = http::post(addr, "/api/v1/query_range", FORM, "query=1&start=0&end=1100&step=0.1").await?;
    assert_eq!(whole.status, 422, "11,001 samples of 2,500: {}", whole.text());
    let steps = "query=tide{buoy=\"b7\"}&start=1699999000&end=1700001000&step=1";
    let some = http::post(addr, "/api/v1/query_range", FORM, steps).await?.json()?;
    assert_eq!(some["data"]["result"][0]["values"].as_array().map(Vec::len), Some(309), "{some}");
    table.finish();
    hub.stop().await
}

/// Sends the head and body of a query and does not wait for the answer.
async fn ask_and_hold(addr: std::net::SocketAddr, path: &str, form: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(addr).await?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: hub\r\ncontent-type: {FORM}\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

/// Queries under way, as the hub's own figures tell.
async fn answered(addr: std::net::SocketAddr, code: &str) -> Result<u64> {
    let page = http::get(addr, "/metrics").await?.text();
    let wanted = |line: &&str| {
        line.starts_with("marigraph_web_requests_total{")
            && line.contains("query_range")
            && line.contains(code)
    };
    let count = |line: &str| line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
    Ok(page.lines().filter(wanted).filter_map(count).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_query_along() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start(directory.path(), NO_SCRAPES, &["--query.max-concurrency=1"]).await?;
    let addr = hub.addr();
    let mut push = Push::default();
    let samples: Vec<(i64, f64)> =
        (0..50_000).map(|at| (DATA_MS + at * 10, (at * 7919 % 1013) as f64)).collect();
    push.floats(&Labels::from_pairs([("__name__", "waves")]), &samples);
    assert_eq!(push.send(addr).await?.status, 204);

    // Each would run for minutes. Only the first has a place; the others wait for theirs.
    let heavy = [
        "quantile_over_time(0.9, waves[1h])",
        "sum(quantile_over_time(0.5, waves[1h:1s]))",
        "label_replace(stddev_over_time(waves[1h]), \"a\", \"$1\", \"b\", \"(.*)\")",
        "predict_linear(waves[1h], 60)",
        "max_over_time(quantile_over_time(0.9, waves[30m])[1d:1s])",
    ];
    let mut late = Vec::new();
    for text in heavy {
        let form = format!("query={}&start=1700000500&end=1700001599&step=0.1", escape(text));
        let stream = ask_and_hold(addr, "/api/v1/query_range", &form).await?;
        let waiting = ask_and_hold(addr, "/api/v1/query_range", &form).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let busy = http::get(addr, "/api/v1/query?query=1&timeout=50ms").await?;
        let begin = Instant::now();
        drop((waiting, stream));
        let next = others_are_served(addr).await;
        if busy.status != 503 {
            late.push(format!("{text}: was over too soon for this test: {}", busy.text()));
        }
        if let Err(error) = next {
            late.push(format!("{text}: {error:#}"));
        } else if begin.elapsed() > PROMPT {
            late.push(format!("{text}: held its place for {:?}", begin.elapsed()));
        }
    }
    assert!(late.is_empty(), "{}", late.join("\n"));
    assert_eq!(answered(addr, "499").await?, 2 * heavy.len() as u64);

    let begin = Instant::now();
    let form = format!("query={}&start=1700000500&end=1700001599&step=0.1&timeout=100ms", escape(heavy[0]));
    let answer = http::post(addr, "/api/v1/query_range", FORM, form).await?;
    let mut table = Table::default();
    table.check("100 ms", &answer, 503, "timeout: query timed out in expression evaluation");
    table.finish();
    assert!(begin.elapsed() < PROMPT, "100 ms took {:?}", begin.elapsed());
    hub.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_selectors_at_once_do_not_hold_up_others() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hub = start(directory.path(), NO_SCRAPES, &[]).await?;
    let addr = hub.addr();
    fill(addr).await?;
    // A form of the largest size, of conditions each of which is a small program to compile.
    let selector =
        |at: usize| format!("match[]={}&", escape(&format!("{{text=~\"x{{{}}}y*(a|b)+{at}\"}}", 900)));
    let form: String = (0..20_000).map(selector).collect();
    let one = (0..20_000).map(|at| format!("text=~\"x{{900}}y*(a|b)+{at}\"")).collect::<Vec<_>>().join(",");
    let one = format!("query={}", escape(&format!("count({{{one}}})")));
    let doors =
        ["/api/v1/series", "/api/v1/labels", "/api/v1/format_query", "/api/v1/parse_query", "/api/v1/query"];
    let mut held = Vec::new();
    for door in doors {
        let form = if door.contains("query") { &one } else { &form };
        held.push(ask_and_hold(addr, door, form).await.context(door)?);
        held.push(ask_and_hold(addr, door, form).await.context(door)?);
        tokio::time::sleep(Duration::from_millis(200)).await;
        others_are_served(addr).await.context(door)?;
    }
    drop(held);
    let begin = Instant::now();
    let request = Request::builder().method(Method::GET).uri("/api/v1/labels").header("host", "hub");
    let answer = http::send(addr, request.body(Full::default())?).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(begin.elapsed() < PROMPT, "labels took {:?}", begin.elapsed());
    hub.stop().await
}
