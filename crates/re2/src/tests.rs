use proptest::prelude::*;

use super::*;

/// What Go answers. Checked against the regexp package of Go 1.19, by way of Prometheus 2.42's
/// `label_replace`; only the dot, which now matches newlines, was different there.
#[test]
fn patterns_mean_what_they_mean_in_go() {
    for (pattern, text, template, want) in [
        (r"\d+", "123", "yes", Some("yes")),
        (r"\d+", "١٢٣", "yes", None),
        (r"\w+", "é", "yes", None),
        (r"\w+", "aZ_9", "yes", Some("yes")),
        (r"\s", "\u{a0}", "yes", None),
        (r"\s", "\u{b}", "yes", None),
        ("[[:space:]]", "\u{b}", "yes", Some("yes")),
        (r"\Qa.b\E", "a.b", "yes", Some("yes")),
        (r"\Qa.b\E", "axb", "yes", None),
        (r"\Qa+\E+", "a+++", "yes", Some("yes")),
        ("[[]", "[", "yes", Some("yes")),
        ("a{", "a{", "yes", Some("yes")),
        ("a{,2}", "a{,2}", "yes", Some("yes")),
        ("a{2", "a{2", "yes", Some("yes")),
        ("{", "{", "yes", Some("yes")),
        (r"\123", "S", "yes", Some("yes")),
        (r"\0", "\u{0}", "yes", Some("yes")),
        (r"\08", "\u{0}8", "yes", Some("yes")),
        (r"\400", "Ā", "yes", Some("yes")),
        (r"\<a\>", "<a>", "yes", Some("yes")),
        ("[a&&b]", "&", "yes", Some("yes")),
        ("[a&&b]+", "a&b", "yes", Some("yes")),
        ("[a~~b]", "~", "yes", Some("yes")),
        ("[a-]", "-", "yes", Some("yes")),
        ("[]a]", "]", "yes", Some("yes")),
        ("[^]a]", "b", "yes", Some("yes")),
        (r"[\d-z]", "-", "yes", Some("yes")),
        ("[[:word:]]+", "a_1", "yes", Some("yes")),
        ("[[:^alpha:]]", "1", "yes", Some("yes")),
        (r"[^\n]", "\n", "yes", None),
        ("[^a]", "\n", "yes", Some("yes")),
        (".*", "a\nb", "yes", Some("yes")),
        ("(?-s).*", "a\nb", "yes", None),
        ("(?-s:a.b)", "a\nb", "yes", None),
        ("a$", "a\n", "yes", None),
        (r"(?m)a$\nb", "a\nb", "yes", Some("yes")),
        (r"a\nb", "a\nb", "yes", Some("yes")),
        ("(?i)straSSe", "STRASSE", "yes", Some("yes")),
        ("(?i)k", "\u{212a}", "yes", Some("yes")),
        ("(?i)\u{17f}", "S", "yes", Some("yes")),
        ("(?i)[a-z]", "\u{17f}", "yes", Some("yes")),
        (r"(?i)\w", "\u{17f}", "yes", Some("yes")),
        (r"(?i)[^\W]", "\u{212a}", "yes", Some("yes")),
        (r"(?i)\p{Lu}", "a", "yes", Some("yes")),
        ("(?i)ǆ", "ǅ", "yes", Some("yes")),
        (r"\p{Greek}+", "αβγ", "yes", Some("yes")),
        (r"\p{Greek}+", "abc", "yes", None),
        (r"\pN+", "1²", "yes", Some("yes")),
        (r"\PL", "1", "yes", Some("yes")),
        (r"\p{^Greek}", "a", "yes", Some("yes")),
        (r"\P{^Greek}", "α", "yes", Some("yes")),
        (r"\p{Lu}\p{Ll}", "Éé", "yes", Some("yes")),
        (r"[\p{Lu}\d]+", "A1", "yes", Some("yes")),
        (r"[^\p{Lu}]", "a", "yes", Some("yes")),
        (r"\x41\x{42}", "AB", "yes", Some("yes")),
        (r"\a\f\t\n\r\v", "\u{7}\u{c}\u{9}\n\u{d}\u{b}", "yes", Some("yes")),
        (r"\xff", "ÿ", "yes", Some("yes")),
        ("\\_\\-\\/\\\"", "_-/\"", "yes", Some("yes")),
        (r"\Aab\z", "ab", "yes", Some("yes")),
        ("^ab$", "ab", "yes", Some("yes")),
        (r"\bfoo\b.*", "foo bar", "yes", Some("yes")),
        (r"foo\b.*", "fooé", "yes", Some("yes")),
        (r"foo\B.*", "fooé", "yes", None),
        (r"foo\B.*", "foob", "yes", Some("yes")),
        ("(?U)(a+)(a*)", "aaa", "$1,$2", Some("a,aa")),
        ("(a+?)(a*)", "aaa", "$1,$2", Some("a,aa")),
        ("(?U)(a+?)(a*)", "aaa", "$1,$2", Some("aaa,")),
        ("(?U:a+)(a*)", "aaa", "$1", Some("aa")),
        ("(?i:a)b", "Ab", "yes", Some("yes")),
        ("(?i:a)b", "AB", "yes", None),
        ("(?i)a(?-i)b", "Ab", "yes", Some("yes")),
        ("(?i)a(?-i)b", "AB", "yes", None),
        ("(a(?i)b)c", "aBc", "yes", Some("yes")),
        ("(a(?i)b)c", "aBC", "yes", None),
        ("a|b", "ab", "yes", None),
        ("(a|ab)(c|bcd)(d*)", "abcd", "$1,$2,$3", Some("a,bcd,")),
        ("(a|b)*", "abab", "[$1]", Some("[b]")),
        ("(a*)*", "b", "yes", None),
        ("(a*)+", "aa", "[$1]", Some("[aa]")),
        ("(|a)*", "aa", "[$1]", Some("[a]")),
        ("(a|b|)+", "ab", "[$1]", Some("[b]")),
        ("(?P<x>a)(?P<y>b)", "ab", "${y}${x}$z", Some("ba")),
        ("(?P<x>a)|(?P<x>b)", "b", "$x", Some("b")),
        (r"(.*):(\d+)", "host:9100", "$1", Some("host")),
        (r"(.*):(\d+)", "host:9100", "$2", Some("9100")),
        ("(.*)", "x", "$1_$2_", Some("")),
        ("(.*)", "x", "${1}_a", Some("x_a")),
        ("(.*)", "x", "$1_a", Some("")),
        ("(.*)", "x", "$0", Some("x")),
        ("(a)?b", "b", "[$1]", Some("[]")),
        ("a*(?i)*", "aA", "yes", None),
        ("a(?i)*", "aaa", "yes", Some("yes")),
        ("^*", "x", "yes", None),
        ("^*x", "x", "yes", Some("yes")),
        ("(?:)", "x", "yes", None),
        ("a{0}", "a", "yes", None),
        ("a{2}", "aa", "yes", Some("yes")),
        ("a{2,}", "aaaa", "yes", Some("yes")),
        ("a{2,3}", "aaaa", "yes", None),
        ("(ab){2}", "abab", "$1", Some("ab")),
        ("x{1000}", "x", "yes", None),
        ("[[.a.]]", "[]", "yes", Some("yes")),
        ("[[.a.]]", "a]", "yes", Some("yes")),
        ("[[=a=]]", "=]", "yes", Some("yes")),
        (r"[a-\x{D800}]", "b", "yes", Some("yes")),
        (r"\x{D800}", "b", "yes", None),
        ("é+", "éé", "yes", Some("yes")),
        ("[é-ü]", "ö", "yes", Some("yes")),
        (".", "é", "yes", Some("yes")),
        ("..", "é", "yes", None),
        ("(?s).", "\n", "yes", Some("yes")),
        (r"\pZ", " ", "yes", Some("yes")),
        (r"\p{Cs}", "a", "yes", None),
        ("[[:ascii:]]", "\u{7f}", "yes", Some("yes")),
        ("[[:punct:]]+", "!~^", "yes", Some("yes")),
        ("[[:xdigit:]]+", "aF0", "yes", Some("yes")),
        ("[[:blank:]]", "\u{9}", "yes", Some("yes")),
        ("[[:cntrl:]]", "\u{0}", "yes", Some("yes")),
        ("[[:graph:]]", "!", "yes", Some("yes")),
        ("[[:print:]]", " ", "yes", Some("yes")),
        ("[^[:^alpha:]]", "a", "yes", Some("yes")),
        ("(?i)[[:upper:]]", "a", "yes", Some("yes")),
        ("(?i)[^a]", "A", "yes", None),
        ("(?m)^a", "a", "yes", Some("yes")),
        (r"\d\D\s\S\w\W", "1a a_-", "yes", Some("yes")),
        ("a", "", "yes", None),
        ("", "", "yes", Some("yes")),
        ("a?", "", "yes", Some("yes")),
        ("()", "", "yes", Some("yes")),
        ("foo", "foo", "yes", Some("yes")),
        ("foo.*", "foo", "yes", Some("yes")),
        ("foo.+", "foo", "yes", None),
        ("foo.+", "foox", "yes", Some("yes")),
        (".*foo", "xfoo", "yes", Some("yes")),
        (".+foo", "foo", "yes", None),
        (".*foo.*", "xfooy", "yes", Some("yes")),
        (".+foo.+", "xfooy", "yes", Some("yes")),
        (".+foo.+", "foofoo", "yes", None),
        (".+foo.+", "xfoofoo", "yes", Some("yes")),
        ("foo.*|bar.*", "bar1", "yes", Some("yes")),
        ("foo[12](a|b)", "foo2b", "yes", Some("yes")),
    ] {
        for regex in [Regex::anchored(pattern).unwrap(), Regex::wrapped(pattern).unwrap()] {
            let place = format!("{pattern:?} on {text:?}");
            assert_eq!(regex.expand(text, template).as_deref(), want, "{place}");
            assert_eq!(regex.is_match(text), want.is_some(), "{place}: {:?}", regex.0.plan);
        }
    }
}

/// Since Go 1.25 names of Unicode classes are compared loosely, and long category names are known.
#[test]
fn unicode_class_names_are_compared_loosely() {
    for (pattern, text) in [
        (r"\p{greek}", "α"),
        (r"\p{Old Italic}", "\u{10300}"),
        (r"\p{old-italic}", "\u{10300}"),
        (r"\p{Uppercase_Letter}", "A"),
        (r"\p{lc}", "a"),
        (r"\p{Any}", "\u{10ffff}"),
        (r"\p{ASCII}", "~"),
        (r"\p{Assigned}", "a"),
        (r"\p{Cn}", "\u{10ffff}"),
    ] {
        assert!(Regex::anchored(pattern).unwrap().is_match(text), "{pattern}");
    }
}

#[test]
fn errors_are_worded_as_in_go() {
    for (pattern, want) in [
        ("(", "missing closing ): `(`"),
        (")", "unexpected ): `)`"),
        ("a)(b", "unexpected ): `a)(b`"),
        ("(?:a", "missing closing ): `(?:a`"),
        ("(?P<n>", "missing closing ): `(?P<n>`"),
        ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
        ("(?x)", "invalid or unsupported Perl syntax: `(?x`"),
        ("(?P=n)", "invalid or unsupported Perl syntax: `(?P`"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?U-)", "invalid or unsupported Perl syntax: `(?U-)`"),
        ("(?-)", "invalid or unsupported Perl syntax: `(?-)`"),
        ("(?i-s-m:a)", "invalid or unsupported Perl syntax: `(?i-s-`"),
        ("(?s--i)", "invalid or unsupported Perl syntax: `(?s--`"),
        ("(?i\\", "invalid or unsupported Perl syntax: `(?i\\`"),
        ("(?P<n", "invalid named capture: `(?P<n`"),
        ("(?P<a.b>x)", "invalid named capture: `(?P<a.b>`"),
        ("(?P<>x)", "invalid named capture: `(?P<>`"),
        ("(?P<é>a)", "invalid named capture: `(?P<é>`"),
        ("(?<a-b>a)", "invalid named capture: `(?<a-b>`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a**b", "invalid nested repetition operator: `**`"),
        ("a++", "invalid nested repetition operator: `++`"),
        ("a???", "invalid nested repetition operator: `???`"),
        ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
        ("a{2}*", "invalid nested repetition operator: `{2}*`"),
        ("x{2}{3}?", "invalid nested repetition operator: `{2}{3}?`"),
        ("*", "missing argument to repetition operator: `*`"),
        ("+?a", "missing argument to repetition operator: `+?`"),
        ("(*", "missing argument to repetition operator: `*`"),
        ("a|*", "missing argument to repetition operator: `*`"),
        ("(?i)*", "missing argument to repetition operator: `*`"),
        ("{2}", "missing argument to repetition operator: `{2}`"),
        ("x{1001}", "invalid repeat count: `{1001}`"),
        ("x{2147483648}", "invalid repeat count: `{2147483648}`"),
        ("x{1,99999999999999999999999}", "invalid repeat count: `{1,99999999999999999999999}`"),
        ("a{2,1}", "invalid repeat count: `{2,1}`"),
        ("((a{100}){100})", "invalid repeat count: `{100}`"),
        ("(x{1000}){2}", "invalid repeat count: `{2}`"),
        ("((a{2,}){501}|b)", "invalid repeat count: `{501}`"),
        ("[", "missing closing ]: `[`"),
        ("[a", "missing closing ]: `[a`"),
        ("[]", "missing closing ]: `[]`"),
        ("x[[:alpha", "missing closing ]: `[[:alpha`"),
        ("[z-a]", "invalid character class range: `z-a`"),
        ("[a--b]", "invalid character class range: `a--`"),
        ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
        (r"\p{Foo}", r"invalid character class range: `\p{Foo}`"),
        (r"\p{Alphabetic}", r"invalid character class range: `\p{Alphabetic}`"),
        (r"\p{IsGreek}", r"invalid character class range: `\p{IsGreek}`"),
        (r"\p{Grek}", r"invalid character class range: `\p{Grek}`"),
        (r"\p{sc=Greek}", r"invalid character class range: `\p{sc=Greek}`"),
        (r"\p{}", r"invalid character class range: `\p{}`"),
        (r"\pX", r"invalid character class range: `\pX`"),
        (r"\p", r"invalid character class range: `\p`"),
        (r"\p{L", r"invalid character class range: `\p{L`"),
        (r"[a-\d]", r"invalid escape sequence: `\d`"),
        (r"[\Qab\E]", r"invalid escape sequence: `\Q`"),
        (r"[\b]", r"invalid escape sequence: `\b`"),
        (r"\C", r"invalid escape sequence: `\C`"),
        (r"\8", r"invalid escape sequence: `\8`"),
        (r"\1", r"invalid escape sequence: `\1`"),
        (r"\E", r"invalid escape sequence: `\E`"),
        (r"\Z", r"invalid escape sequence: `\Z`"),
        (r"\y", r"invalid escape sequence: `\y`"),
        (r"\é", r"invalid escape sequence: `\é`"),
        (r"\xZ0", r"invalid escape sequence: `\xZ0`"),
        (r"\x4", r"invalid escape sequence: `\x4`"),
        (r"\x{110000}", r"invalid escape sequence: `\x{110000`"),
        (r"\x{12", r"invalid escape sequence: `\x{12`"),
        (r"\x{}", r"invalid escape sequence: `\x{}`"),
        ("a\\", "trailing backslash at end of expression: ``"),
        ("[\\", "trailing backslash at end of expression: ``"),
    ] {
        let error = Regex::anchored(pattern).unwrap_err();
        assert_eq!(error.to_string(), format!("error parsing regexp: {want}"), "{pattern}");
    }
}

#[test]
fn wrapped_errors_show_the_wrapping() {
    for (pattern, want) in [
        ("(", "missing closing ): `^(?s:()$`"),
        ("[a", "missing closing ]: `[a)$`"),
        ("a\\", "missing closing ): `^(?s:a\\)$`"),
        ("a**", "invalid nested repetition operator: `**`"),
    ] {
        let error = Regex::wrapped(pattern).unwrap_err();
        assert_eq!(error.to_string(), format!("error parsing regexp: {want}"), "{pattern}");
    }
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
    let deep = Regex::anchored(&nested(999)).unwrap();
    assert!(deep.is_match("a"));
    assert_eq!(deep.expand("a", "$999").as_deref(), Some("a"));
    let deeper =
        Regex::anchored(&format!("{}a.b{}", "(".repeat(990), ")*".repeat(4) + &")".repeat(986))).unwrap();
    assert!(deeper.is_match("axb"));
    let error = Regex::anchored(&nested(1000)).unwrap_err();
    assert_eq!(error.message, "expression nests too deeply");
    assert!(Regex::anchored(&"(?:".repeat(100_000)).is_err());
    assert!(
        Regex::anchored(&format!("{}a{}", "(?:".repeat(20_000), ")".repeat(20_000))).unwrap().is_match("a")
    );
}

#[test]
fn programs_are_limited() {
    let error = Regex::anchored(r"(\pL{100}|\pN{100}){10}").unwrap_err();
    assert_eq!(error.to_string(), r"error parsing regexp: expression too large: `(\pL{100}|\pN{100}){10}`");
    assert!(Regex::anchored("(a{10}|[b-z]){100}").is_ok());
}

#[test]
fn small_sets_are_listed() {
    for (pattern, want) in [
        ("foo", Some(&["foo"][..])),
        ("", Some(&[""])),
        ("b|a|b", Some(&["a", "b"])),
        ("x[12]", Some(&["x1", "x2"])),
        ("^foo$", Some(&["foo"])),
        ("(^(foo|bar)$)", Some(&["bar", "foo"])),
        ("foo(bar|baz)?", Some(&["foo", "foobar", "foobaz"])),
        ("(a|b){2}", Some(&["aa", "ab", "ba", "bb"])),
        ("a{0,2}", Some(&["", "a", "aa"])),
        ("(?i)ab", Some(&["AB", "Ab", "aB", "ab"])),
        (r"\Qa.b\E|\.", Some(&[".", "a.b"])),
        ("dev|", Some(&["", "dev"])),
        (r"\x{D800}", Some(&[])),
        ("[a-z]{2}", None),
        ("a*", None),
        ("a.b", None),
        (r"a\b", None),
    ] {
        let regex = Regex::anchored(pattern).unwrap();
        let got = regex.literals().map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(got.as_deref(), want, "{pattern}");
        let wrapped = Regex::wrapped(pattern).unwrap();
        assert_eq!(wrapped.literals(), regex.literals(), "{pattern}");
    }
    let long: Vec<String> = (0..257).map(|i| format!("w{i}")).collect();
    assert!(Regex::anchored(&long.join("|")).unwrap().literals().is_none());
    assert_eq!(Regex::anchored(&long[1..].join("|")).unwrap().literals().map(<[String]>::len), Some(256));
    assert!(Regex::unanchored("foo").unwrap().literals().is_none());
}

#[test]
fn prefixes_are_known() {
    for (pattern, want) in [
        ("foo.*", "foo"),
        ("foo|fob", "fo"),
        ("foo.*|fob.+", "fo"),
        ("foo[0-9]+x", "foo"),
        ("(foo)+x", "foo"),
        ("(foo|fox)[a-z]*", "fo"),
        ("(foo)?x*", ""),
        ("(?:fé|fè).*z*y", "f"),
        (".*foo", ""),
        ("(?i)foo.*z*", ""),
    ] {
        assert_eq!(Regex::anchored(pattern).unwrap().prefix(), want, "{pattern}");
    }
}

#[test]
fn matches_are_replaced() {
    for (pattern, text, template, want) in [
        ("a(x*)b", "-ab-axxb-", "$1W", "---"),
        ("a(x*)b", "-ab-axxb-", "${1}W", "-W-xxW-"),
        ("o", "foo.com", "0", "f00.c0m"),
        ("", "ab", "-", "-a-b-"),
        ("b*", "abc", "-", "-a-c-"),
        ("x", "abc", "-", "abc"),
        (r"(?P<first>\w+)\.(\w+)", "a.b c.d", "$2.$first", "b.a d.c"),
    ] {
        assert_eq!(Regex::unanchored(pattern).unwrap().replace_all(text, template), want, "{pattern}");
    }
}

/// Pieces of patterns, valid and not, that make the parser's corners likely.
fn pattern() -> impl Strategy<Value = String> {
    let atoms = prop::sample::select(vec![
        "a",
        "b",
        "c",
        "é",
        "-",
        "]",
        "[",
        "{",
        "}",
        "(",
        ")",
        "|",
        "*",
        "+",
        "?",
        ".",
        "^",
        "$",
        "\\",
        "\\Q",
        "\\E",
        "\\d",
        "\\W",
        "\\b",
        "\\pL",
        "\\P{Greek}",
        "\\x41",
        "\\x{1F600}",
        "\\07",
        "[^",
        "[a-c]",
        "[[:alpha:]]",
        "(?i)",
        "(?P<n>",
        "(?:",
        "(?s-i:",
        "(?U)",
        "{2}",
        "{0,3}",
        "{1000}",
        ".*",
        ".+",
        "foo",
        "\\z",
    ]);
    prop::collection::vec(atoms, 0..12).prop_map(|atoms| atoms.concat())
}

/// Valid patterns of the kinds that the plan knows, and some that it does not.
fn plannable() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "a", "b", "ab", "é", "[ab]", "[^a]", ".*", ".+", ".", "a?", "b{0,2}", "^", "$", "",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| format!("(?:{})", parts.join("|"))),
            inner.prop_map(|part| format!("({part})")),
        ]
    })
}

proptest! {
    #[test]
    fn no_pattern_panics(pattern in prop_oneof![pattern(), any::<String>()], text in "[abcé\n-]{0,6}") {
        for regex in [Regex::anchored(&pattern), Regex::unanchored(&pattern)].into_iter().flatten() {
            regex.is_match(&text);
            regex.expand(&text, "$0${n}");
        }
    }

    #[test]
    fn plans_agree_with_the_engine(
        pattern in plannable(),
        texts in prop::collection::vec("[abé\n]{0,5}", 1..20),
    ) {
        let regex = Regex::anchored(&pattern).unwrap();
        let engine = regex.engine().unwrap();
        for text in texts.iter().chain(regex.literals().unwrap_or_default()) {
            let want = engine.is_match(text.as_str());
            prop_assert_eq!(regex.is_match(text), want, "{} on {:?}: {:?}", pattern, text, regex.0.plan);
            prop_assert!(!want || text.starts_with(regex.prefix()), "{} on {:?}", pattern, text);
        }
    }

    #[test]
    fn quoted_text_matches_itself(text in "[^\\\\]{0,20}") {
        let regex = Regex::anchored(&format!("\\Q{text}\\E")).unwrap();
        prop_assert!(regex.is_match(&text));
        prop_assert_eq!(regex.literals(), Some(&[text][..]));
    }
}
