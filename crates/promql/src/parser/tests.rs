mod shape;

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::ast::{At, DurationKind, RangeMode, ValueType};
use crate::printer::{pretty, pretty_within};

#[track_caller]
fn parsed(text: &str) -> Expr {
    parse(text, &ParseOptions::all()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// `cases` are texts and the whole error each must give.
#[track_caller]
fn check_refused(options: &ParseOptions, cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let found = match parse(text, options) {
            Ok(expr) => format!("parsed as {expr}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, *expected, "for {text}");
    }
}

/// `cases` are texts and how they print; what prints must print the same again.
#[track_caller]
fn check_printed(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let printed = parsed(text).to_string();
        assert_eq!(printed, *expected, "for {text}");
        assert_eq!(parsed(&printed).to_string(), printed, "{text}, printed twice");
    }
}

#[test]
fn unexpected_tokens_are_named_with_their_context() {
    check_refused(
        &ParseOptions::all(),
        &[
            ("", "unknown position: parse error: no expression found in input"),
            ("  # nothing", "1:1: parse error: no expression found in input"),
            ("up down", "1:4: parse error: unexpected identifier \"down\""),
            ("up\n  down", "2:3: parse error: unexpected identifier \"down\""),
            ("1 +", "1:4: parse error: unexpected end of input"),
            ("* 2", "1:1: parse error: unexpected <op:*>"),
            ("sum(up up)", "1:8: parse error: unexpected identifier \"up\" in aggregation"),
            (
                "sum(rate(up[1m]) \"a longer text\")",
                "1:18: parse error: unexpected string \"\\\"a longer \"... in aggregation",
            ),
            ("sum by up", "1:8: parse error: unexpected identifier \"up\" in grouping opts, expected \"(\""),
            ("sum by (1) (up)", "1:9: parse error: unexpected number \"1\" in grouping opts, expected label"),
            (
                "sum by (a b) (up)",
                "1:11: parse error: unexpected identifier \"b\" in grouping opts, expected \",\" or \")\"",
            ),
            (
                "sum by (without) (up)",
                "1:9: parse error: unexpected <without> in grouping opts, expected label",
            ),
            ("sum by (\"\") (up)", "1:9: parse error: invalid label name for grouping: \"\""),
            ("a / on b", "1:8: parse error: unexpected identifier \"b\" in grouping opts, expected \"(\""),
            ("a / group_left b", "1:5: parse error: unexpected <group_left>"),
            (
                "up{a}",
                "1:5: parse error: unexpected \"}\" in label matching, expected label matching operator",
            ),
            ("up{a=b}", "1:6: parse error: unexpected identifier \"b\" in label matching, expected string"),
            (
                "up{a=\"b\" c=\"d\"}",
                "1:10: parse error: unexpected identifier \"c\" in label matching, expected \",\" or \"}\"",
            ),
            ("up{,}", "1:4: parse error: unexpected \",\" in label matching, expected identifier or \"}\""),
            ("up[5m", "1:6: parse error: unclosed left bracket"),
            ("up[a]", "1:4: parse error: unexpected character in duration expression: 'a'"),
            (
                "up[5m 5m]",
                "1:7: parse error: unexpected duration \"5m\" in subquery or range, expected \":\" or \"]\"",
            ),
            (
                "up[5m:1m 1]",
                "1:10: parse error: unexpected number \"1\" in subquery selector, expected \"]\"",
            ),
            ("up[\"5m\"]", "1:4: parse error: unexpected character in duration expression: '\"'"),
            (
                "up offset up",
                "1:11: parse error: unexpected identifier \"up\" in offset, expected number, duration, step(), or range()",
            ),
            ("up @ up", "1:6: parse error: unexpected identifier \"up\" in @, expected timestamp"),
            ("up @ step()", "1:6: parse error: unexpected \"step\" in @, expected timestamp"),
            ("rate(up[1m],)", "1:12: parse error: trailing commas not allowed in function call args"),
            ("(1 + (2)", "1:9: parse error: unclosed left parenthesis"),
            ("1)", "1:3: parse error: unexpected right parenthesis ')'"),
            ("up]", "1:3: parse error: unexpected right bracket ']'"),
            ("up}", "1:3: parse error: unexpected character: '}'"),
            ("up ; down", "1:4: parse error: unexpected character: ';'"),
            ("up ! 1", "1:4: parse error: unexpected character after '!': ' '"),
            ("up =~ 1", "1:4: parse error: unexpected character after '=': '~'"),
            ("up{a!b}", "1:5: parse error: unexpected character after '!' inside braces: 'b'"),
            ("up{", "1:4: parse error: unexpected end of input inside braces"),
        ],
    );
}

#[test]
fn literals_are_refused_where_they_stand() {
    check_refused(
        &ParseOptions::all(),
        &[
            (
                "1e999",
                "1:1: parse error: error parsing number: strconv.ParseFloat: parsing \"1e999\": value out of range",
            ),
            ("1__0", "1:1: parse error: bad number or duration syntax: \"1__\""),
            ("0b1", "1:1: parse error: bad number or duration syntax: \"0\""),
            ("1m1y", "1:1: parse error: bad number or duration syntax: \"1m1\""),
            ("5m1h", "1:1: parse error: not a valid duration string: \"5m1h\""),
            ("up[400y]", "1:4: parse error: duration out of range"),
            ("up offset 1e10", "1:11: parse error: duration out of range"),
            ("up[0]", "1:4: parse error: duration must be greater than 0"),
            ("up[5m:0s]", "1:7: parse error: duration must be greater than 0"),
            ("up[5m / 0]", "1:7: parse error: division by zero"),
            ("up offset (1 % 0)", "1:14: parse error: modulo by zero"),
            (
                "up @ 1e30",
                "1:1: parse error: timestamp out of bounds for @ modifier: 1000000000000000019884624838656.000000",
            ),
            ("up @ NaN", "1:1: parse error: timestamp out of bounds for @ modifier: NaN"),
            ("\"text", "1:1: parse error: unterminated quoted string"),
            ("`text", "1:1: parse error: unterminated raw string"),
            (r#""\q""#, "1:1: parse error: unknown escape sequence U+0071 'q'"),
            (r#""\x4""#, "1:1: parse error: illegal character U+0022 '\"' in escape sequence"),
            (r#""\400""#, "1:1: parse error: escape sequence is an invalid Unicode code point"),
            (r#""\ud800""#, "1:1: parse error: escape sequence is an invalid Unicode code point"),
            (r#""\xff""#, r#"1:1: parse error: error unquoting string "\"\\xff\"": invalid UTF-8"#),
        ],
    );
}

#[test]
fn types_are_checked_after_the_syntax() {
    check_refused(
        &ParseOptions::all(),
        &[
            (
                "rate(up)",
                "1:6: parse error: expected type range vector in call to function \"rate\", got instant vector",
            ),
            (
                "abs(1)",
                "1:5: parse error: expected type instant vector in call to function \"abs\", got scalar",
            ),
            (
                "vector(\"x\")",
                "1:8: parse error: expected type scalar in call to function \"vector\", got string",
            ),
            (
                "label_join(up, \"a\", \"b\", up)",
                "1:26: parse error: expected type string in call to function \"label_join\", got instant vector",
            ),
            ("rate()", "1:1: parse error: expected 1 argument(s) in call to \"rate\", got 0"),
            ("round()", "1:1: parse error: expected at least 1 argument(s) in call to \"round\", got 0"),
            ("hour(up, up)", "1:1: parse error: expected at most 1 argument(s) in call to \"hour\", got 2"),
            ("no_such(up)", "1:1: parse error: unknown function with name \"no_such\""),
            ("sum()", "1:1: parse error: no arguments for aggregate expression provided"),
            (
                "sum(1)",
                "1:5: parse error: expected type instant vector in aggregation expression, got scalar",
            ),
            (
                "topk(up)",
                "1:1: parse error: wrong number of arguments for aggregate expression provided, expected 2, got 1",
            ),
            (
                "topk(up, up)",
                "1:6: parse error: expected type scalar in aggregation parameter, got instant vector",
            ),
            (
                "count_values(1, up)",
                "1:14: parse error: expected type string in aggregation parameter, got scalar",
            ),
            (
                "-\"a\"",
                "1:1: parse error: unary expression only allowed on expressions of type scalar or instant vector, got \"string\"",
            ),
            (
                "up + up[5m]",
                "1:6: parse error: binary expression must contain only scalar and instant vector types",
            ),
            ("1 == 1", "1:3: parse error: comparisons between scalars must use BOOL modifier"),
            ("1 + bool up", "1:3: parse error: bool modifier can only be used on comparison operators"),
            ("1 and up", "1:1: parse error: set operator \"and\" not allowed in binary scalar expression"),
            ("1 + on (a) up", "1:1: parse error: vector matching only allowed between instant vectors"),
            (
                "a + on (b) group_left (b) c",
                "1:3: parse error: label \"b\" must not occur in ON and GROUP clause at once",
            ),
            ("a and on (b) group_left (c) d", "1:1: parse error: no grouping allowed for \"and\" operation"),
            ("a or fill (1) b", "1:1: parse error: filling in missing series not allowed for set operators"),
            (
                "1 + fill (1) a",
                "1:1: parse error: filling in missing series only allowed between instant vectors",
            ),
            ("{}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
            ("{a=~\".*\"}", "1:1: parse error: vector selector must contain at least one non-empty matcher"),
            (
                "up{__name__=\"down\"}",
                "1:1: parse error: metric name must not be set twice: \"up\" or \"down\"",
            ),
            ("1[5m]", "1:2: parse error: ranges only allowed for vector selectors"),
            ("up[5m][5m]", "1:7: parse error: ranges only allowed for vector selectors"),
            ("(up offset 1m)[5m]", "1:15: parse error: ranges only allowed for vector selectors"),
            ("up offset 1m[5m]", "1:13: parse error: no offset modifiers allowed before range"),
            ("up @ 1 [5m]", "1:8: parse error: no @ modifiers allowed before range"),
            (
                "1 offset 1m",
                "1:1: parse error: offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
            ),
            ("up offset 1m offset 1m", "1:1: parse error: offset may not be set multiple times"),
            ("up @ 1 @ start()", "1:1: parse error: @ <timestamp> may not be set multiple times"),
            (
                "up[5m][1h:]",
                "1:1: parse error: subquery is only allowed on instant vector, got matrix instead",
            ),
            (
                "info(up, down)",
                "1:10: parse error: expected label selectors only, got vector selector instead",
            ),
            ("up[5m:] anchored", "1:1: parse error: anchored modifier is not supported for subqueries"),
            (
                "up anchored smoothed",
                "1:1: parse error: anchored and smoothed modifiers cannot be used together",
            ),
        ],
    );
}

#[test]
fn regular_expressions_are_refused_at_their_matcher() {
    let error = parse("up{a=\"b\", c=~\"(\"}", &ParseOptions::default()).expect_err("an open parenthesis");
    assert_eq!((error.line, error.column), (1, 11));
    assert!(error.message.starts_with("error parsing regexp: "), "{error}");
}

#[test]
fn experimental_parts_name_what_they_need() {
    check_refused(
        &ParseOptions::default(),
        &[
            ("info(up)", "1:1: parse error: function \"info\" is not enabled"),
            ("start()", "1:1: parse error: function \"start\" is not enabled"),
            (
                "limitk(1, up)",
                "1:1: parse error: limitk() is experimental and must be enabled with --enable-feature=promql-experimental-functions",
            ),
            ("a + fill (1) b", "1:1: parse error: binop fill modifiers are experimental and not enabled"),
            ("rate(up[1m] anchored)", "1:6: parse error: anchored modifier is experimental and not enabled"),
            ("up smoothed", "1:1: parse error: smoothed modifier is experimental and not enabled"),
        ],
    );
}

#[test]
fn operators_bind_as_in_prometheus() {
    for (text, expected) in [
        ("a + b - c", "((a + b) - c)"),
        ("a + b * c - d", "((a + (b * c)) - d)"),
        ("a * b + c", "((a * b) + c)"),
        ("a - (b - c)", "(a - (b - c))"),
        ("(a ^ b) ^ c", "((a ^ b) ^ c)"),
        ("a ^ b * c ^ d ^ e", "((a ^ b) * (c ^ (d ^ e)))"),
        ("a ^ -b ^ c * d", "((a ^ -(b ^ c)) * d)"),
        ("--+a - -b", "(--+a - -b)"),
        ("a or b and c unless d or e", "((a or ((b and c) unless d)) or e)"),
        ("a or b and c unless d", "(a or ((b and c) unless d))"),
        ("a + b * c ^ d ^ e", "(a + (b * (c ^ (d ^ e))))"),
        ("a == b + c > d", "((a == (b + c)) > d)"),
        ("-a ^ b", "-(a ^ b)"),
        ("-a * b", "(-a * b)"),
        ("a ^ -b * c", "((a ^ -b) * c)"),
        ("a atan2 b % c", "((a atan2 b) % c)"),
        ("a </ b >/ c", "((a </ b) >/ c)"),
        ("a offset 1m * 2", "(a offset 1m * 2)"),
        ("a offset -2 ^ 2", "(a offset -2s ^ 2)"),
        ("a offset (2 ^ 2)", "a offset (2 ^ 2)"),
        ("a offset (1m) * 2", "a offset (1m) * 2"),
        ("a offset -(1m) * 2", "(a offset -(1m) * 2)"),
        ("- a[5m:] offset 1m", "-a[5m:] offset 1m"),
    ] {
        let found = match parse(text, &ParseOptions::all()) {
            Ok(_) => shape::grouped(&parsed(text)),
            // The sign of a subquery is a mistake of type; how it binds shows in the message.
            Err(error) => error.message,
        };
        if text.contains("[5m:]") {
            assert!(found.contains("range vector"), "for {text}: {found}");
        } else {
            assert_eq!(found, expected, "for {text}");
        }
    }
}

#[test]
fn numbers_and_durations_are_one_thing() {
    for (text, expected) in [
        ("1_000.5", 1000.5),
        ("0x1F", 31.0),
        ("0755", 493.0),
        ("089", 89.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-Inf", f64::NEG_INFINITY),
        ("--1", 1.0),
        ("5m", 300.0),
        ("1d12h", 129_600.0),
        ("-1ms", -0.001),
    ] {
        let ExprKind::Number(number) = parsed(text).kind else { panic!("{text} is no number") };
        assert_eq!(number.value, expected, "for {text}");
    }
}

#[test]
fn strings_are_unquoted_as_go_does() {
    for (text, expected) in [
        (r#""a\tb\\""#, "a\tb\\"),
        (r"'it\'s'", "it's"),
        (r#"`a\tb`"#, r"a\tb"),
        (r#""\x41\101\u00e9\U0001F600""#, "AA\u{e9}\u{1f600}"),
        (r#""\xc3\xa9""#, "\u{e9}"),
    ] {
        let ExprKind::String(found) = parsed(text).kind else { panic!("{text} is no string") };
        assert_eq!(found, expected, "for {text}");
    }
}

#[test]
fn words_are_names_where_no_keyword_can_stand() {
    for text in [
        "sum",
        "by + by",
        "offset offset 1m",
        "and and and",
        "sum{by=\"x\"}",
        "fill + fill",
        "step * range",
        "sum by (sum, on, bool, end) (max)",
        "bool{}",
        "start @ start()",
        "MAX",
        "anchored",
        "a:b:c",
        "without",
    ] {
        if text == "bool{}" {
            assert!(parse(text, &ParseOptions::all()).is_err(), "bool names no metric");
        } else {
            parsed(text);
        }
    }
    let ExprKind::Vector(selector) = parsed(r#"{"my metric", "my label"="x", on!~"y|z"}"#).kind else {
        panic!("a selector");
    };
    assert_eq!(selector.name, None);
    let matchers: Vec<String> = selector.matchers.iter().map(ToString::to_string).collect();
    assert_eq!(matchers, [r#"__name__="my metric""#, r#""my label"="x""#, r#"on!~"y|z""#]);
}

#[test]
fn trees_hold_what_was_written() {
    let expr = parsed("rate(up{job=\"x\"}[5m] smoothed @ 1.5 offset -1m) # end");
    let ExprKind::Call(call) = &expr.kind else { panic!("a call") };
    let ExprKind::Matrix(matrix) = &call.args[0].kind else { panic!("a range") };
    assert_eq!(matrix.selector.mode, RangeMode::Smoothed);
    assert_eq!(matrix.selector.shift.at, Some(At::Timestamp(1500)));
    let offset = matrix.selector.shift.offset.as_ref().expect("an offset");
    assert!(matches!(&offset.kind, DurationKind::Literal(number) if number.value == -60.0));
    assert_eq!(expr.value_type(), ValueType::Vector);
    let text = "rate(up{job=\"x\"}[5m] smoothed @ 1.5 offset -1m) # end";
    let part = |span: Span| &text[span.start as usize..span.end as usize];
    assert_eq!(part(matrix.selector_span), "up{job=\"x\"}");
    assert_eq!(part(call.args[0].span), "up{job=\"x\"}[5m] smoothed @ 1.5 offset -1m");
    assert_eq!(part(expr.span), "rate(up{job=\"x\"}[5m] smoothed @ 1.5 offset -1m)");
}

#[test]
fn matching_is_kept_between_vectors_only() {
    let matching = |text: &str| match parsed(text).kind {
        ExprKind::Chain(mut chain) => chain.links.pop().and_then(|link| link.matching),
        _ => None,
    };
    assert_eq!(matching("a + 1"), None);
    let on = matching("a * on (b) group_right (c) fill_left (-1) d").expect("matching");
    assert_eq!((on.card, on.on), (Cardinality::OneToMany, true));
    assert_eq!((on.labels, on.include), (vec!["b".to_owned()], vec!["c".to_owned()]));
    assert_eq!((on.fill_left, on.fill_right), (Some(-1.0), None));
    assert_eq!(matching("a and b").expect("matching").card, Cardinality::ManyToMany);
}

#[test]
fn trees_print_in_one_form() {
    check_printed(&[
        ("sum(x)by(a,b)", "sum by (a, b) (x)"),
        ("sum by () (x)", "sum(x)"),
        ("sum without () (x)", "sum without () (x)"),
        ("quantile without (\"a b\") (0.5,x)", "quantile without (\"a b\") (0.5, x)"),
        ("a>bool on(x)group_left()b", "a > bool on (x) group_left () b"),
        ("a - ignoring() b", "a - b"),
        ("a + fill(1e6) b", "a + fill (1e+06) b"),
        ("a + fill_right(2) fill_left(1) b", "a + fill_left (1) fill_right (2) b"),
        ("m{z='1',a!=\"2\"}", "m{a!=\"2\",z=\"1\"}"),
        ("{\"a.b\"}", "{__name__=\"a.b\"}"),
        ("m[300]", "m[5m]"),
        ("m[0.0005]", "m[0.0005]"),
        ("m[5m*2+step()]", "m[5m * 2 + step()]"),
        (
            "m[max_of(step(),1m):-(-1m)] @ end() offset 1h30m",
            "m[max_of(step(), 1m):-(-1m)] @ end() offset 1h30m",
        ),
        ("m offset 1m @ 1", "m @ 1.000 offset 1m"),
        ("m offset 0s", "m"),
        ("m @ -0.5", "m @ -0.500"),
        ("1e3 + Inf - NaN", "1000 + +Inf - NaN"),
        ("- -m", "--m"),
        ("'\\n\"'", "\"\\n\\\"\""),
        ("info(m, {})", "info(m, {})"),
        ("m[5m]anchored offset 1m", "m[5m] anchored offset 1m"),
        ("90d", "90d"),
    ]);
}

#[test]
fn long_expressions_are_laid_out() {
    let text = "topk(3, sum by (job) (rate(requests_total{code=~\"5..\"}[5m])) / on (job) sum by (job) \
                (rate(requests_total[5m]))) > 0.1";
    expect_test::expect![[r#"
          topk(
            3,
              sum by (job) (rate(requests_total{code=~"5.."}[5m]))
            / on (job)
              sum by (job) (rate(requests_total[5m]))
          )
        >
          0.1"#]]
    .assert_eq(&pretty(&parsed(text)));
    expect_test::expect![[r#"
        -(
            a
          +
            b
        )"#]]
    .assert_eq(&pretty_within(&parsed("-(a + b)"), 4));
}

#[test]
fn selectors_for_the_api_are_parsed_alone() {
    let matchers = parse_matchers("up{a!=\"b\"}").expect("a selector");
    assert_eq!(matchers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["__name__=\"up\"", "a!=\"b\""]);
    assert!(parse_matchers("{}").expect("judged by the caller").is_empty());
    for (text, expected) in [
        ("up[5m]", "1:3: parse error: unexpected \"[\""),
        ("", "unknown position: parse error: unexpected end of input"),
        ("up + up", "1:4: parse error: unexpected <op:+>"),
    ] {
        assert_eq!(parse_matchers(text).expect_err(text).to_string(), expected);
    }
}

#[test]
fn long_lists_take_linear_time() {
    let started = std::time::Instant::now();
    let text = format!("label_join(m, \"a\", \",\"{})", ", \"x\"".repeat(100_000));
    parsed(&text);
    assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
    let error = parse(&"a".repeat(TEXT_BYTES_MAX + 1), &ParseOptions::all()).expect_err("too long");
    assert_eq!(error.to_string(), "1:1: parse error: query is longer than 1048576 bytes");
}

/// Texts that look like the language, legal or not.
fn fragments() -> impl Strategy<Value = String> {
    let words = vec![
        "m",
        "sum",
        "by",
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        "5m",
        "1",
        "-",
        "+",
        "*",
        "^",
        "==",
        "and",
        "on",
        "offset",
        "@",
        ":",
        ",",
        "\"x\"",
        "=",
        "=~",
        "bool",
        "group_left",
        "rate",
        "step()",
        "start()",
        "fill",
        "anchored",
        "#",
        "\n",
        " ",
        "é",
        "0x",
        "1e",
        "'",
        "`",
        "\\",
        "topk",
        "min_of",
        "a:b",
        "{\"q\"}",
        ">/",
        "!",
    ];
    prop::collection::vec(prop::sample::select(words), 0..24).prop_map(|words| words.join(" "))
}

/// Legal expressions.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("m".to_owned()),
        Just("-1.5".to_owned()),
        Just("5m".to_owned()),
        Just("m{a=\"x\\n\",b=~\"y.*\"}".to_owned()),
        Just("{\"q q\"} @ 1.5 offset -1m30s".to_owned()),
        Just("rate(m[5m * 2 - step()])".to_owned()),
        Just("rate(m[1h] smoothed @ start() offset (1m))".to_owned()),
        Just("vector(0x1f)".to_owned()),
    ];
    leaf.prop_recursive(5, 40, 3, |inner| {
        let op = prop::sample::select(
            &[
                "+",
                "-",
                "*",
                "/",
                "%",
                "^",
                "== bool",
                "> bool",
                "atan2",
                "* on (a) group_left (b)",
                "+ fill (1)",
            ][..],
        );
        prop_oneof![
            (inner.clone(), op, inner.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            inner.clone().prop_map(|a| format!("({a})")),
            inner.clone().prop_map(|a| format!("-{a}")),
            inner.clone().prop_map(|a| format!("sum without (a, \"b c\") ({a})")),
            inner.clone().prop_map(|a| format!("topk by (z) (3, {a})")),
            inner.clone().prop_map(|a| format!("max_over_time(({a})[1h:step() + 1m] offset 1d)")),
            inner.prop_map(|a| format!("label_replace({a}, \"x\", \"$1\", \"y\", \"(.*)\")")),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = parse(&text, &ParseOptions::all());
        let _ = parse_matchers(&text);
        let _ = crate::series::parse_series(&text);
        let _ = crate::script::Script::parse(&text);
    }

    #[test]
    fn errors_point_into_the_text(text in fragments()) {
        match parse(&text, &ParseOptions::all()) {
            Ok(expr) => {
                let printed = expr.to_string();
                prop_assert_eq!(parsed(&printed).to_string(), printed);
            }
            Err(error) => prop_assert!(error.span.start as usize <= text.len(), "{}", error),
        }
    }

    #[test]
    fn what_prints_parses_to_the_same(text in expressions()) {
        // Some of these are mistakes of type.
        if let Ok(expr) = parse(&text, &ParseOptions::all()) {
            let printed = expr.to_string();
            prop_assert_eq!(&parsed(&printed).to_string(), &printed);
            prop_assert_eq!(&parsed(&pretty(&expr)).to_string(), &printed);
            prop_assert_eq!(&parsed(&pretty_within(&expr, 10)).to_string(), &printed);
        }
    }
}

#[test]
fn regular_expressions_are_counted() {
    let selector = |patterns: usize| format!("x{{{}}}", "a=~\"b|c\",".repeat(patterns));
    assert!(parse(&selector(PATTERNS_MAX), &ParseOptions::all()).is_ok());
    for many in [selector(PATTERNS_MAX + 1), format!("{} + y{{a!~\"b\"}}", selector(PATTERNS_MAX))] {
        let error = parse(&many, &ParseOptions::all()).expect_err("too many");
        assert_eq!(error.message, "more than 1000 regular expressions");
    }
}
