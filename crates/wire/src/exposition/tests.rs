use expect_test::{Expect, expect};
use std::fmt::Write;

use super::*;

/// What a row says, one line a fact.
fn shown(row: &ScrapedRow) -> String {
    let mut out = String::new();
    for (column, labels) in &row.new_columns {
        writeln!(out, "new {column} {labels}").unwrap();
    }
    for (cell, (column, value)) in row.columns.iter().zip(&row.values).enumerate() {
        write!(out, "{column}: {value}").unwrap();
        if let Some((_, ms)) = row.timestamps.iter().find(|(at, _)| *at as usize == cell) {
            write!(out, " @{ms}").unwrap();
        }
        if let Some((_, e)) = row.exemplars.iter().find(|(at, _)| *at as usize == cell) {
            write!(out, " exemplar {} {} {:?}", e.labels, e.value, e.timestamp_ms).unwrap();
        }
        out.push('\n');
    }
    for (column, ms) in &row.start_timestamps {
        writeln!(out, "start of {column}: {ms}").unwrap();
    }
    for column in &row.retired_columns {
        writeln!(out, "retired {column}").unwrap();
    }
    for (family, m) in &row.metadata {
        writeln!(out, "family {family} {} {:?} {:?}", m.metric_type, m.unit, m.help).unwrap();
    }
    if row.duplicates > 0 {
        writeln!(out, "duplicates {}", row.duplicates).unwrap();
    }
    if row.same_columns {
        out.push_str("same columns\n");
    }
    out
}

fn check(protocol: Protocol, body: &str, expected: Expect) {
    let mut memory = RowMemory::default();
    let mut row = ScrapedRow::default();
    let text = match memory.read(body.as_bytes(), protocol, &mut row) {
        Ok(()) => shown(&row),
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&text);
}

fn text(body: &str, expected: Expect) {
    check(Protocol::PrometheusText0_0_4, body, expected);
}

fn open_metrics(body: &str, expected: Expect) {
    check(Protocol::OpenMetricsText1_0_0, body, expected);
}

#[test]
fn prometheus_text_is_read() {
    text(
        "# HELP go_info About \\\\ Go.\\nLine two\n# TYPE go_info gauge\n# a comment\n\n  go_info { version = \"go\\\"1\\n\" , } 1 1395066363000\nplain\t+Inf\nnocommas{a=\"1\" b=\"2\"}3\nlast{x=\"\"} NaN",
        expect![[r#"
            new 0 {__name__="go_info", version="go\"1\n"}
            new 1 {__name__="plain"}
            new 2 {__name__="nocommas", a="1", b="2"}
            new 3 {__name__="last"}
            0: 1 @1395066363000
            1: inf
            2: 3
            3: NaN
            family go_info gauge "" "About \\ Go.\nLine two"
        "#]],
    );
}

#[test]
fn bounds_and_quantiles_are_normalised() {
    text(
        "# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_bucket{le=\"1000000\"} 3\n# TYPE s summary\ns{quantile=\"0\"} 1\ns{quantile=\"0.5\",le=\"1\"} 1\n# TYPE g gauge\ng{le=\"1\"} 1\n",
        expect![[r#"
            new 0 {__name__="h_bucket", le="1.0"}
            new 1 {__name__="h_bucket", le="+Inf"}
            new 2 {__name__="h_bucket", le="1e+06"}
            new 3 {__name__="s", quantile="0.0"}
            new 4 {__name__="s", le="1", quantile="0.5"}
            new 5 {__name__="g", le="1"}
            0: 2
            1: 3
            2: 3
            3: 1
            4: 1
            5: 1
            family g gauge "" ""
            family h histogram "" ""
            family s summary "" ""
        "#]],
    );
}

#[test]
fn quoted_names_are_read() {
    text(
        "# HELP \"my.metric\" dotted\n{\"my.metric\", \"a.b\"=\"c\"} 1\n{a=\"b\",\"my.metric\"} 2\n",
        expect![[r#"
            new 0 {__name__="my.metric", "a.b"="c"}
            new 1 {__name__="my.metric", a="b"}
            0: 1
            1: 2
            family my.metric unknown "" "dotted"
        "#]],
    );
    // Strings of this format may hold line breaks, also where a line tells of a family.
    text(
        "# TYPE \"a\nb\" counter\n{\"a\nb\"} 1\n",
        expect![[r#"
            new 0 {__name__="a\nb"}
            0: 1
            family a
            b counter "" ""
        "#]],
    );
}

#[test]
fn open_metrics_is_read() {
    open_metrics(
        "# TYPE foo counter\n# UNIT foo_seconds seconds\n# HELP foo Say \\\"hi\\\"\nfoo_total{a=\"b\"} 17.0 1520879607.789 # {trace_id=\"x\"} 0.5 1520879606.5\nfoo_created{a=\"b\"} 1520430000.123\nfoo_total{a=\"c\"} 1 # {} 2\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_count 2\nh_sum 3\nh_created 1.5\n# TYPE st stateset\nst{st=\"a\"} 1\n# TYPE i info\ni_info{v=\"1\"} 1\n# EOF\n",
        expect![[r#"
            new 0 {__name__="foo_total", a="b"}
            new 1 {__name__="foo_total", a="c"}
            new 2 {__name__="h_bucket", le="1.0"}
            new 3 {__name__="h_bucket", le="+Inf"}
            new 4 {__name__="h_count"}
            new 5 {__name__="h_sum"}
            new 6 {__name__="st", st="a"}
            new 7 {__name__="i_info", v="1"}
            0: 17 @1520879607789 exemplar {trace_id="x"} 0.5 Some(1520879606500)
            1: 1 exemplar {} 2 None
            2: 1
            3: 2
            4: 2
            5: 3
            6: 1
            7: 1
            start of 0: 1520430000123
            start of 2: 1500
            start of 3: 1500
            start of 4: 1500
            start of 5: 1500
            family foo counter "" "Say \"hi\""
            family foo_seconds unknown "seconds" ""
            family h histogram "" ""
            family i info "" ""
            family st stateset "" ""
        "#]],
    );
}

#[test]
fn malformed_lines_are_refused_by_line() {
    let refusal = |protocol: Protocol, body: &[u8]| {
        let mut row = ScrapedRow::default();
        RowMemory::default()
            .read(body, protocol, &mut row)
            .expect_err(&String::from_utf8_lossy(body))
            .to_string()
    };
    let prometheus: &[&[u8]] = &[
        b"a 1\n1b 2\n",
        b"a\n",
        b"a 1 2 3\n",
        b"a 1 -5\n",
        b"a 1 12.5\n",
        b"a 1 99999999999999999999\n",
        b"a 0x1p3\n",
        b"a 1_000\n",
        b"a{b} 1\n",
        b"a{b=c} 1\n",
        b"a{b=\"c} 1\n",
        b"a{=\"c\"} 1\n",
        b"a{,} 1\n",
        b"a{b=\"1\",b=\"2\"} 1\n",
        b"a{__name__=\"b\"} 1\n",
        b"a{b=\"\xff\"} 1\n",
        b"{a=\"b\"} 1\n",
        b"{\"a\",\"b\"} 1\n",
        b"{\"\"} 1\n",
        b"a 1\r\n",
        b"# TYPE a unknown\n",
        b"# TYPE a\n",
        b"# HELP \n",
        b"# HELP a \xff\n",
    ];
    let mut out = String::new();
    for body in prometheus {
        writeln!(
            out,
            "{:?}: {}",
            String::from_utf8_lossy(body),
            refusal(Protocol::PrometheusText0_0_4, body)
        )
        .unwrap();
    }
    expect![[r##"
        "a 1\n1b 2\n": line 2: expected a metric name, '{' or '#', got "1b 2"
        "a\n": line 1: expected a value after the series, got the end of the line
        "a 1 2 3\n": line 1: expected the end of the line, got "3"
        "a 1 -5\n": line 1: expected a timestamp in milliseconds, got "-5"
        "a 1 12.5\n": line 1: expected a timestamp in milliseconds, got "12.5"
        "a 1 99999999999999999999\n": line 1: expected a timestamp in milliseconds, got "99999999999999999999"
        "a 0x1p3\n": line 1: expected a value, got "0x1p3"
        "a 1_000\n": line 1: expected a value, got "1_000"
        "a{b} 1\n": line 1: expected '=' after the label name, got "} 1"
        "a{b=c} 1\n": line 1: expected a quoted label value, got "c} 1"
        "a{b=\"c} 1\n": line 1: expected a quoted label value, got a string without closing quote
        "a{=\"c\"} 1\n": line 1: expected a label name, got "=\"c\"} 1"
        "a{,} 1\n": line 1: expected a label name, got ",} 1"
        "a{b=\"1\",b=\"2\"} 1\n": line 1: label "b" is given twice
        "a{__name__=\"b\"} 1\n": line 1: label "__name__" is given twice
        "a{b=\"�\"} 1\n": line 1: the series is not valid UTF-8
        "{a=\"b\"} 1\n": line 1: expected a metric name, got none
        "{\"a\",\"b\"} 1\n": line 1: the metric name is given twice
        "{\"\"} 1\n": line 1: expected a label name, got "\"\"} 1"
        "a 1\r\n": line 1: expected a value, got "1\r"
        "# TYPE a unknown\n": line 1: invalid metric type "unknown"
        "# TYPE a\n": line 1: invalid metric type ""
        "# HELP \n": line 1: expected a metric name after HELP, got the end of the line
        "# HELP a �\n": line 1: HELP is not valid UTF-8
    "##]]
    .assert_eq(&out);
    let open: &[&[u8]] = &[
        b"a 1\n",
        b"a 1",
        b"",
        b"\n# EOF\n",
        b"a  1\n# EOF\n",
        b"a{b=\"c\", d=\"e\"} 1\n# EOF\n",
        b"a{b=\"c\" d=\"e\"} 1\n# EOF\n",
        b"a{b=\"c\nd\"} 1\n# EOF\n",
        b"# a comment\n# EOF\n",
        b"#HELP a b\n# EOF\n",
        b"# HELP a\n# EOF\n",
        b"# TYPE a untyped\n# EOF\n",
        b"# UNIT a_seconds minutes\n# EOF\n",
        b"# UNIT seconds seconds\n# EOF\n",
        b"a 1 NaN\n# EOF\n",
        b"a 1 # {b=\"c\"}\n# EOF\n",
        b"a 1 # {b=\"c\"} x\n# EOF\n",
        b"a 1 # {\"b\"} 1\n# EOF\n",
        b"a 1 # {b=\"c\",b=\"d\"} 1\n# EOF\n",
        b"a 1 # {b=\"c\"} 1 +Inf\n# EOF\n",
        b"a 1\n# EOF\na 2\n",
    ];
    let mut out = String::new();
    for body in open {
        writeln!(
            out,
            "{:?}: {}",
            String::from_utf8_lossy(body),
            refusal(Protocol::OpenMetricsText1_0_0, body)
        )
        .unwrap();
    }
    expect![[r##"
        "a 1\n": line 2: expected "# EOF", got the end of the data
        "a 1": line 1: expected the end of the line, got the end of the data
        "": line 1: expected "# EOF", got the end of the data
        "\n# EOF\n": line 1: expected a metric name, '{' or '#', got the end of the line
        "a  1\n# EOF\n": line 1: expected a value after the series, got " 1"
        "a{b=\"c\", d=\"e\"} 1\n# EOF\n": line 1: expected a label name, got " d=\"e\"} 1"
        "a{b=\"c\" d=\"e\"} 1\n# EOF\n": line 1: expected ',' or '}' after the label value, got " d=\"e\"} 1"
        "a{b=\"c\nd\"} 1\n# EOF\n": line 1: expected a quoted label value, got a string without closing quote
        "# a comment\n# EOF\n": line 1: expected HELP, TYPE, UNIT or EOF after '# ', got "a comment"
        "#HELP a b\n# EOF\n": line 1: expected HELP, TYPE, UNIT or EOF after '# ', got "HELP a b"
        "# HELP a\n# EOF\n": line 1: expected a space and a text in HELP, got the end of the line
        "# TYPE a untyped\n# EOF\n": line 1: invalid metric type "untyped"
        "# UNIT a_seconds minutes\n# EOF\n": line 1: unit "minutes" is not a suffix of metric "a_seconds"
        "# UNIT seconds seconds\n# EOF\n": line 1: unit "seconds" is not a suffix of metric "seconds"
        "a 1 NaN\n# EOF\n": line 1: expected a timestamp, got "NaN"
        "a 1 # {b=\"c\"}\n# EOF\n": line 1: expected a space and a value after the exemplar's labels, got the end of the line
        "a 1 # {b=\"c\"} x\n# EOF\n": line 1: expected the exemplar's value, got "x"
        "a 1 # {\"b\"} 1\n# EOF\n": line 1: expected '=' after the label name, got "} 1"
        "a 1 # {b=\"c\",b=\"d\"} 1\n# EOF\n": line 1: label "b" is given twice
        "a 1 # {b=\"c\"} 1 +Inf\n# EOF\n": line 1: expected the exemplar's timestamp, got "+Inf"
        "a 1\n# EOF\na 2\n": line 3: unexpected data after # EOF
    "##]].assert_eq(&out);
}

/// Reads one body after another into one memory.
fn check_scrapes(protocol: Protocol, bodies: &[&str], expected: Expect) {
    let mut memory = RowMemory::default();
    let mut row = ScrapedRow::default();
    let mut out = String::new();
    for body in bodies {
        match memory.read(body.as_bytes(), protocol, &mut row) {
            Ok(()) => out.push_str(&shown(&row)),
            Err(error) => writeln!(out, "{error}").unwrap(),
        }
        out.push_str("--\n");
    }
    expected.assert_eq(&out);
}

#[test]
fn the_memory_follows_a_changing_target() {
    check_scrapes(
        Protocol::PrometheusText0_0_4,
        &[
            "# TYPE a gauge\na 1\nb 2\nc 3\n",
            "# TYPE a gauge\na 1.5\nb 2\nc -4\n",
            "# TYPE a gauge\na 1\nc 3\n",                      // b goes
            "# TYPE a gauge\na 1\nb 2\nc 3\nd{x=\"y\"} 4\n",   // and comes back, d is new
            "d{x=\"y\"} 4\nc 3\nb 2\n# TYPE a counter\na 1\n", // all turned round
            "d{x=\"y\"} 4\nc 3\nb broken\n",                   // refused
            "d{x=\"y\"} 5\nc 3\nnew 1\nbroken\n",              // refused
            "d{x=\"y\"} 5\nc 3\nb 2\n# TYPE a counter\na 1\nnewer 1\n",
            "d{x=\"y\"} 5\nc 3\nc 4\nb 2\nb 9 1000\nb 9 2000\n# TYPE a counter\na 1\nnewer 1\n", // duplicates
        ],
        expect![[r#"
            new 0 {__name__="a"}
            new 1 {__name__="b"}
            new 2 {__name__="c"}
            0: 1
            1: 2
            2: 3
            family a gauge "" ""
            --
            0: 1.5
            1: 2
            2: -4
            same columns
            --
            0: 1
            2: 3
            --
            new 3 {__name__="d", x="y"}
            0: 1
            1: 2
            2: 3
            3: 4
            --
            3: 4
            2: 3
            1: 2
            0: 1
            family a counter "" ""
            --
            line 3: expected a value, got "broken"
            --
            line 4: expected a value after the series, got the end of the line
            --
            new 4 {__name__="newer"}
            3: 5
            2: 3
            1: 2
            0: 1
            4: 1
            --
            3: 5
            2: 3
            1: 2
            1: 9 @1000
            1: 9 @2000
            0: 1
            4: 1
            duplicates 1
            --
        "#]],
    );
}

#[test]
fn labels_behind_a_blank_are_those_of_another_series() {
    check_scrapes(
        Protocol::PrometheusText0_0_4,
        &["b 1\n", "b {x=\"1\"} 2\n", "b{x=\"1\"} 3\nb 4\n"],
        expect![[r#"
            new 0 {__name__="b"}
            0: 1
            --
            new 1 {__name__="b", x="1"}
            1: 2
            --
            new 2 {__name__="b", x="1"}
            2: 3
            0: 4
            --
        "#]],
    );
}

#[test]
fn a_series_becomes_part_of_a_histogram_when_its_type_is_told() {
    let options = RowOptions { convert_classic: true, ..RowOptions::default() };
    let mut memory = RowMemory::with_options(options);
    let mut row = ScrapedRow::default();
    let bare = "h_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n";
    let quoted = "{\"h_bucket\",le=\"+Inf\"} 2\n{\"h_sum\"} 3\n{\"h_count\"} 2\n";
    for series in [bare, quoted] {
        for (type_line, histograms) in [
            ("", 0),
            ("# TYPE h histogram\n", 1),
            ("# TYPE i histogram\n", 0),
            ("# TYPE h histogram\n# TYPE i histogram\n", 0),
            ("# TYPE i histogram\n# TYPE h histogram\n", 1),
            ("# TYPE h gauge\n", 0),
            ("# TYPE h histogram\n", 1),
            ("", 0),
        ] {
            let body = format!("{type_line}{series}");
            memory.read(body.as_bytes(), Protocol::PrometheusText1_0_0, &mut row).unwrap();
            assert_eq!((row.histograms.len(), row.columns.len()), (histograms, 3 - 3 * histograms), "{body}");
        }
    }
}

#[test]
fn a_type_that_changes_makes_new_columns_of_its_bounds() {
    check_scrapes(
        Protocol::PrometheusText0_0_4,
        &["# TYPE h gauge\nh{le=\"1\"} 1\n", "# TYPE h histogram\nh{le=\"1\"} 1\n"],
        expect![[r#"
            new 0 {__name__="h", le="1"}
            0: 1
            family h gauge "" ""
            --
            new 1 {__name__="h", le="1.0"}
            1: 1
            family h histogram "" ""
            --
        "#]],
    );
}

#[test]
fn start_timestamps_follow_a_growing_metric() {
    check_scrapes(
        Protocol::OpenMetricsText1_0_0,
        &[
            "# TYPE h histogram\nh_bucket{le=\"1.0\"} 1\nh_count 2\nh_created 1\n# EOF\n",
            "# TYPE h histogram\nh_bucket{le=\"1.0\"} 1\nh_bucket{le=\"2.0\"} 1\nh_count 2\nh_created 1\n# EOF",
            "# TYPE h histogram\nh_bucket{le=\"1.0\"} 1\nh_bucket{le=\"2.0\"} 1\nh_count 2\nh_created 2\n# EOF\n",
            "# TYPE h histogram\nh_bucket{le=\"1.0\"} 1\nh_bucket{le=\"2.0\"} 1\nh_count 2\nh_created 2\n",
        ],
        expect![[r##"
            new 0 {__name__="h_bucket", le="1.0"}
            new 1 {__name__="h_count"}
            0: 1
            1: 2
            start of 0: 1000
            start of 1: 1000
            family h histogram "" ""
            --
            new 2 {__name__="h_bucket", le="2.0"}
            0: 1
            2: 1
            1: 2
            start of 0: 1000
            start of 2: 1000
            start of 1: 1000
            --
            0: 1
            2: 1
            1: 2
            start of 0: 2000
            start of 2: 2000
            start of 1: 2000
            same columns
            --
            line 6: expected "# EOF", got the end of the data
            --
        "##]],
    );
}

#[test]
fn dead_columns_are_given_back() {
    let mut memory = RowMemory::default();
    let mut row = ScrapedRow::default();
    let body =
        |from: u32, to: u32| -> String { (from..to).map(|i| format!("m{{i=\"{i}\"}} {i}\n")).collect() };
    let protocol = Protocol::PrometheusText0_0_4;
    memory.read(body(0, 200).as_bytes(), protocol, &mut row).unwrap();
    assert_eq!(row.new_columns.len(), 200);
    memory.read(body(150, 210).as_bytes(), protocol, &mut row).unwrap();
    assert_eq!(row.new_columns.len(), 10);
    assert_eq!(row.retired_columns, (0..150).collect::<Vec<_>>());
    memory.read(body(0, 210).as_bytes(), protocol, &mut row).unwrap();
    let mut columns = row.columns.clone();
    columns.sort_unstable();
    assert_eq!(columns, (0..210).collect::<Vec<_>>(), "columns are used again, each once");
    assert_eq!(memory.column_bound(), 210);
}

#[test]
fn a_switch_of_format_starts_anew() {
    let mut memory = RowMemory::default();
    let mut row = ScrapedRow::default();
    memory.read(b"a 1\nb 2\n", Protocol::PrometheusText0_0_4, &mut row).unwrap();
    memory.read(b"a 1\n", Protocol::OpenMetricsText1_0_0, &mut row).unwrap_err();
    memory.read(b"a 1\nb 2\n", Protocol::PrometheusText1_0_0, &mut row).unwrap();
    assert!(row.same_columns, "the refused scrape left nothing behind");
    memory.read(b"a 1\n# EOF\n", Protocol::OpenMetricsText1_0_0, &mut row).unwrap();
    assert_eq!((row.columns.as_slice(), row.retired_columns.as_slice()), ([2].as_slice(), [0, 1].as_slice()));
}

#[test]
fn series_can_be_listed_again() {
    let mut memory = RowMemory::default();
    let body = "# TYPE h histogram\nh_bucket{le=\"1\"}3\n{\"a.b\"} 1\n";
    memory.read(body.as_bytes(), Protocol::PrometheusText1_0_0, &mut ScrapedRow::default()).unwrap();
    let mut listed = Vec::new();
    memory.each_series(|column, labels| listed.push(format!("{column} {labels}")));
    assert_eq!(listed, ["0 {__name__=\"h_bucket\", le=\"1.0\"}", "1 {__name__=\"a.b\"}"]);
}

#[test]
fn accept_asks_as_prometheus_does() {
    expect!["application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"]
        .assert_eq(&accept_header(&Protocol::DEFAULTS, EscapingScheme::AllowUtf8));
    expect!["text/plain;version=0.0.4;q=0.6,*/*;q=0.5"]
        .assert_eq(&accept_header(&[Protocol::PrometheusText0_0_4], EscapingScheme::AllowUtf8));
}

#[test]
fn content_types_are_told_apart() {
    let check = |content_type: Option<&str>, fallback: Option<Protocol>, expected: Result<Protocol, &str>| {
        let got = Protocol::of_content_type(content_type, fallback);
        let got = got.map(|negotiated| negotiated.protocol).map_err(|error| error.to_string());
        assert_eq!(got, expected.map_err(str::to_owned), "{content_type:?}");
    };
    let (om1, om0) = (Protocol::OpenMetricsText1_0_0, Protocol::OpenMetricsText0_0_1);
    let (text1, text0) = (Protocol::PrometheusText1_0_0, Protocol::PrometheusText0_0_4);
    check(Some("text/plain; version=0.0.4; charset=utf-8"), None, Ok(text0));
    check(Some("Text/Plain"), None, Ok(text0));
    check(Some("text/plain;version=1.0.0;escaping=allow-utf-8"), None, Ok(text1));
    check(Some("application/openmetrics-text; version=1.0.0; charset=utf-8"), Some(text0), Ok(om1));
    check(Some("application/openmetrics-text; version=\"0.0.1\""), None, Ok(om0));
    check(Some("application/json"), Some(text0), Ok(text0));
    check(None, Some(om1), Ok(om1));
    let none = "no fallback_scrape_protocol is set for the target";
    check(None, None, Err(&format!("the answer has no Content-Type and {none}")));
    check(Some(" "), None, Err(&format!("the answer has no Content-Type and {none}")));
    check(Some("text"), None, Err(&format!("cannot parse Content-Type \"text\" and {none}")));
    check(Some("text/html"), None, Err(&format!("unsupported Content-Type \"text/html\" and {none}")));
    for protocol in Protocol::DEFAULTS {
        assert_eq!(Protocol::parse(protocol.as_str()), Ok(protocol));
    }
}

#[test]
fn what_is_written_is_read() {
    for protocol in [Protocol::PrometheusText1_0_0, Protocol::OpenMetricsText1_0_0] {
        let mut writer = TextWriter::new(protocol);
        writer.family("requests_total", model::MetricType::Counter, "Say \"hi\"\\\nthere");
        writer.sample("requests_total", [("path", "a\"b\\c\nd"), ("__name__", "ignored")], 17.0, None);
        let labels = model::Labels::from_pairs([("trace_id", "abc")]);
        let exemplar = model::Exemplar { labels, value: 1.5, timestamp_ms: 1_500 };
        writer.sample_with_exemplar("requests_total", [("path", "x")], 2e9, &exemplar);
        writer.family_with_unit("dotted.name_seconds", model::MetricType::Gauge, "seconds", "");
        writer.sample("dotted.name_seconds", [("a.b", "c")], f64::NEG_INFINITY, Some(-1_500));
        writer.sample("dotted.name_seconds", [], 1.0, None);
        let written = writer.finish().replace("} -Inf -1500\n", "} -Inf 1500\n"); // the old format has no negative times
        check(
            protocol,
            &written,
            if protocol.is_open_metrics() {
                expect![[r#"
                new 0 {__name__="requests_total", path="a\"b\\c\nd"}
                new 1 {__name__="requests_total", path="x"}
                new 2 {__name__="dotted.name_seconds", "a.b"="c"}
                new 3 {__name__="dotted.name_seconds"}
                0: 17
                1: 2000000000 exemplar {trace_id="abc"} 1.5 Some(1500)
                2: -inf @-1500
                3: 1
                family dotted.name_seconds gauge "seconds" ""
                family requests counter "" "Say \"hi\"\\\nthere"
            "#]]
            } else {
                expect![[r#"
                new 0 {__name__="requests_total", path="a\"b\\c\nd"}
                new 1 {__name__="requests_total", path="x"}
                new 2 {__name__="dotted.name_seconds", "a.b"="c"}
                new 3 {__name__="dotted.name_seconds"}
                0: 17
                1: 2000000000
                2: -inf @1500
                3: 1
                family dotted.name_seconds gauge "" ""
                family requests_total counter "" "Say \"hi\"\\\nthere"
            "#]]
            },
        );
    }
}

mod never_panics {
    use proptest::prelude::*;

    use super::*;

    /// Lines that are nearly right, in any order and with anything between.
    fn line() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => "[a-c]\\{?([xy]=\"[a-z\\\\\"]{0,3}\",?){0,3}\\}? [0-9.eE+-]{1,8}( [0-9]{1,4})?\n",
            4 => "[a-c]_(total|created|bucket)(\\{le=\"[0-9]\"\\})? [0-9]{1,3}\n",
            2 => "# (HELP|TYPE|UNIT|EOF) [a-c] (counter|gauge|histogram|summary|seconds)\n",
            1 => "# EOF\n",
            1 => "\\PC{0,12}\n?",
        ]
    }

    fn exposition() -> impl Strategy<Value = String> {
        prop::collection::vec(line(), 0..12).prop_map(|lines| lines.concat())
    }

    /// Well-formed lines only, so that scrapes succeed and differ.
    fn good_line() -> impl Strategy<Value = String> {
        prop_oneof![
            6 => "[a-e]\\{x=\"[a-c]\"\\} [0-9]{1,3}\n",
            2 => "# TYPE [a-e] (counter|gauge|histogram)\n",
            1 => "[a-e] [0-9] [0-9]{1,2}\n",
        ]
    }

    fn cells(
        memory: &RowMemory,
        row: &ScrapedRow,
        known: &mut std::collections::BTreeMap<u32, String>,
    ) -> Vec<String> {
        for column in &row.retired_columns {
            assert!(known.remove(column).is_some(), "retired a column that was not there");
        }
        for (column, labels) in &row.new_columns {
            assert!(*column < memory.column_bound());
            assert_eq!(known.insert(*column, labels.to_string()), None, "column {column} was in use");
        }
        row.columns
            .iter()
            .zip(&row.values)
            .map(|(column, value)| format!("{} {value}", known[column]))
            .collect()
    }

    proptest! {
        #[test]
        fn on_anything(bodies in prop::collection::vec(exposition(), 1..4), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            for protocol in [Protocol::PrometheusText0_0_4, Protocol::OpenMetricsText1_0_0] {
                let mut memory = RowMemory::default();
                let mut row = ScrapedRow::default();
                for body in bodies.iter().map(|b| b.as_bytes()).chain([bytes.as_slice()]) {
                    if memory.read(body, protocol, &mut row).is_err() {
                        prop_assert_eq!(row.samples_scraped() + row.new_columns.len(), 0);
                    }
                }
            }
        }

        /// A memory full of other scrapes reads as an empty one does.
        #[test]
        fn and_remembers_nothing_wrong(scrapes in prop::collection::vec(prop::collection::vec(good_line(), 0..30), 1..12)) {
            let mut memory = RowMemory::default();
            let mut known = std::collections::BTreeMap::new();
            for lines in scrapes {
                let body = lines.concat();
                let mut row = ScrapedRow::default();
                memory.read(body.as_bytes(), Protocol::PrometheusText0_0_4, &mut row).unwrap();
                let mut fresh = RowMemory::default();
                let mut fresh_row = ScrapedRow::default();
                fresh.read(body.as_bytes(), Protocol::PrometheusText0_0_4, &mut fresh_row).unwrap();
                let got = cells(&memory, &row, &mut known);
                prop_assert_eq!(got, cells(&fresh, &fresh_row, &mut Default::default()));
                prop_assert_eq!(&row.timestamps, &fresh_row.timestamps);
                prop_assert_eq!(row.duplicates, fresh_row.duplicates);
                prop_assert_eq!(memory.metadata(), fresh.metadata());
            }
        }
    }
}
