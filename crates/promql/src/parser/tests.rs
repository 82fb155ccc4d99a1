use super::*;

#[track_caller]
fn refused(text: &str, expected: &str) {
    let error = parse(text, &ParseOptions::default()).expect_err(text);
    assert_eq!(error.to_string(), expected, "for {text}");
}

#[test]
fn errors_say_what_was_read_and_what_was_expected() {
    refused("", "unknown position: parse error: no expression found in input");
    refused("foo bar", "1:5: parse error: unexpected identifier \"bar\"");
    refused("sum(foo bar)", "1:9: parse error: unexpected identifier \"bar\" in aggregation");
}
